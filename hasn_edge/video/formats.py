"""Which video files are read and written: endings, containers, encoders, and how each takes the quality."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hasn_edge.errors import InputError, UnsupportedError, omit, use
from hasn_edge.optional import require

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".mk3d", ".webm", ".avi", ".divx", ".ts", ".m2ts", ".mts"),
    *(".m2t", ".trp", ".tod", ".mpg", ".mpeg", ".mpe", ".mpv", ".m1v", ".m2v", ".vob", ".wmv", ".asf"),
    *(".wtv", ".flv", ".f4v", ".3gp", ".3gpp", ".3g2", ".ogv", ".ogm", ".rm", ".rmvb", ".gif", ".y4m"),
    *(".mxf", ".gxf", ".dv", ".nut", ".mjpeg", ".mjpg", ".mj2", ".h264", ".264", ".avc", ".hevc", ".h265"),
    *(".265", ".vvc", ".266", ".ivf", ".obu"),
)
"""File name endings, in lower case, of what is taken for a video."""

CONTAINERS = {
    ".mp4": ("libx264", "libopenh264", "mpeg4"),
    ".mov": ("libx264", "libopenh264", "mpeg4"),
    ".mkv": ("libx264", "libopenh264", "mpeg4"),
    ".webm": ("libvpx-vp9", "libsvtav1", "libvpx"),
}
"""File name endings that can be written, all of which keep a time for every image, with the encoders that
are tried for each unless told otherwise."""

PIPE = Path("-")
"""Stands for standard input or output in the place of a file: raw frames as YUV4MPEG2."""

Y4M = ".y4m"
"""What `kind_of` gives for it."""

MUXERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", Y4M: "yuv4mpegpipe"}
"""FFmpeg's names of them, and of what goes through a pipe."""

EIGHT_BITS = ("yuv420p", "nv12", "yuv422p", "yuv444p")
"""Pixel formats of 8 bits, those first that every player knows."""
_TEN_BITS = ("yuv420p10le", "p010le", "yuv422p10le", "yuv444p10le")

MAX_OUTPUT_PIXELS = 1 << 27
"""Largest image that is written: 134 megapixels, 16384 x 8192."""


@dataclass(frozen=True, kw_only=True)
class QualityScale:
    """How an encoder takes the quality: its own scale, on which less is better."""

    default: float
    best: float = 0
    worst: float
    options: tuple[tuple[str, str], ...] = (("crf", "{}"),)
    """Its options; ``{}`` is the quality, ``{lambda}`` the same in FFmpeg's 118ths."""


QUALITY_SCALES = {
    "libx264": QualityScale(default=17, worst=51),
    "libx265": QualityScale(default=19, worst=51, options=(("crf", "{}"), ("x265-params", "log-level=none"))),
    "libsvtav1": QualityScale(default=25, worst=63),
    "libvpx-vp9": QualityScale(
        default=24, worst=63, options=(("crf", "{}"), ("row-mt", "1"), ("cpu-used", "3"))
    ),
    "libvpx": QualityScale(
        default=8, best=4, worst=63, options=(("crf", "{}"), ("b", "50M"), ("cpu-used", "3"))
    ),
    "mpeg4": QualityScale(
        default=2, best=1, worst=31, options=(("flags", "+qscale"), ("global_quality", "{lambda}"))
    ),
    **{
        name: QualityScale(default=18, best=1, worst=51, options=(("rc", "vbr"), ("cq", "{}"), ("b", "0")))
        for name in ("h264_nvenc", "hevc_nvenc", "av1_nvenc")
    },
}
"""Encoders whose quality can be set. Others, lossless ones among them, take their own default."""


def kind_of(path: Path) -> str:
    """Return what a file to be written is by its name: a key of `MUXERS`, or another ending."""
    return Y4M if path == PIPE else path.suffix.lower()


def check_container(path: Path) -> None:
    """Refuse a file whose ending is none of `CONTAINERS`; `PIPE` is none.

    Raises:
        InputError: another ending; names those that can be written.
    """
    if path != PIPE and path.suffix.lower() not in CONTAINERS:
        raise InputError(
            f"cannot write {path}: unknown ending {path.suffix!r} for a video; use one of "
            f"{', '.join(CONTAINERS)}, which keep the time of every image"
        )


def find_encoder(codec: str | None, path: Path) -> str:
    """Return FFmpeg's name of the encoder to use.

    Args:
        codec: An encoder (``libx265``) or a codec (``hevc``), whose first encoder is taken; ``None`` for the
            usual one of ``path``'s container.
        path: The file to be written.

    Raises:
        UnsupportedError: this FFmpeg has no such encoder, with those it has; or a codec for raw frames.
        MissingDependencyError: PyAV is not installed.
    """
    av: Any = require("av", extra="video", needed_for="Writing video files")
    if path == PIPE and codec is not None:
        raise UnsupportedError("raw frames are not encoded", omit("codec"))
    usual = ("wrapped_avframe",) if path == PIPE else CONTAINERS[path.suffix.lower()]
    candidates = usual if codec is None else (codec,)
    for name in candidates:
        try:
            found = av.Codec(name, "w")
        except ValueError:
            continue
        if found.type == "video":
            return str(found.name)
    here = [name for name in QUALITY_SCALES if name in av.codecs_available]
    raise UnsupportedError(
        f"this FFmpeg ({av.ffmpeg_version_info}) has no video encoder {' or '.join(candidates)!r}; of the "
        f"usual ones it has {', '.join(here)}",
        *(use(codec=name) for name in difflib.get_close_matches(codec or "", here, 1) or here[:1]),
    )


def quality_options(encoder: str, quality: float | None) -> dict[str, str]:
    """Return the options that tell ``encoder`` the quality.

    Args:
        encoder: FFmpeg's name.
        quality: On the encoder's own scale (CRF, CQ, quantizer), less is better; ``None`` for a good one.

    Raises:
        InputError: out of the encoder's range, or an encoder whose scale is not known here.
    """
    scale = QUALITY_SCALES.get(encoder)
    if scale is None:
        if quality is not None:
            raise InputError(
                f"the encoder {encoder} takes no quality (it is lossless, or not known here); known are "
                f"{', '.join(QUALITY_SCALES)}"
            )
        return {}
    value = scale.default if quality is None else quality
    if not math.isfinite(value) or not scale.best <= value <= scale.worst:
        raise InputError(
            f"quality is {value:g}; {encoder} takes {scale.best:g} (best) to {scale.worst:g}, and "
            f"{scale.default:g} where nothing is said"
        )
    texts = {"{}": f"{value:g}", "{lambda}": str(round(value * 118))}
    return {name: texts.get(text, text) for name, text in scale.options}


def pixel_format(path: Path, encoder: str, size: tuple[int, int], *, deep: bool) -> str:
    """Return 4:2:0 of the video's depth, or what an encoder has that comes nearest; 4:4:4 for a pipe.

    Args:
        path: The file to be written.
        encoder: FFmpeg's name.
        size: Height and width: odd ones have no 4:2:0.
        deep: Whether images have more than 8 bits.

    Raises:
        UnsupportedError: the encoder takes nothing that is made here.
    """
    av: Any = require("av", extra="video", needed_for="Writing video files")
    known = [f.name for f in av.Codec(encoder, "w").video_formats or []]
    formats: tuple[str, ...] = _TEN_BITS + EIGHT_BITS if deep else EIGHT_BITS + _TEN_BITS
    if path == PIPE or any(side % 2 for side in size):
        formats = tuple(name for name in formats if "444" in name)
    chosen = next((name for name in formats if name in known or not known), None)
    if chosen is None:
        raise UnsupportedError(
            f"cannot write {path}: the encoder {encoder} takes {', '.join(known)}, and what is made here is "
            f"{', '.join(formats)}; choose another codec"
        )
    return chosen


def check_output_size(path: Path, size: tuple[int, int]) -> None:
    """Refuse images that would be too large before anything is allocated for them.

    Raises:
        InputError: more than `MAX_OUTPUT_PIXELS`.
    """
    height, width = size
    if height * width > MAX_OUTPUT_PIXELS:
        raise InputError(
            f"cannot write {path}: its images would be {width} x {height}, more than the "
            f"{MAX_OUTPUT_PIXELS / 1e6:.0f} megapixels that are written; make the video smaller first"
        )
