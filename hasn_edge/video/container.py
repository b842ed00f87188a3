"""Video files are opened, and refused with the reason where there is nothing to upscale in them."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from hasn_edge.errors import InputError
from hasn_edge.images.arrays import MAX_PIXELS
from hasn_edge.optional import require

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".mk3d", ".webm", ".avi", ".divx", ".ts", ".m2ts", ".mts"),
    *(".m2t", ".trp", ".tod", ".mpg", ".mpeg", ".mpe", ".mpv", ".m1v", ".m2v", ".vob", ".wmv", ".asf"),
    *(".wtv", ".flv", ".f4v", ".3gp", ".3gpp", ".3g2", ".ogv", ".ogm", ".rm", ".rmvb", ".gif", ".y4m"),
    *(".mxf", ".gxf", ".dv", ".nut", ".mjpeg", ".mjpg", ".mj2", ".h264", ".264", ".avc", ".hevc", ".h265"),
    *(".265", ".vvc", ".266", ".ivf", ".obu"),
)
"""File name endings, in lower case, of what is taken for a video."""

Packet = Any
Stream = Any
VideoFrame = Any
"""PyAV's. It is optional, and its annotations differ between versions."""

_SEARCHED = 1000  # packets: audio begins about where the images do
_ATTACHED_IMAGE = 1 << 10  # AV_DISPOSITION_ATTACHED_PIC
_OUTPUT_CORRUPT = 1 << 3  # AV_CODEC_FLAG_OUTPUT_CORRUPT: do not silently drop what has errors


def open_container(path: Path) -> Any:
    """Open a video file for reading, told by its content.

    Raises:
        InputError: missing, a folder, not readable, or nothing that FFmpeg can read.
        MissingDependencyError: PyAV is not installed.
    """
    av: Any = require("av", extra="video", needed_for="Reading video files")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a video file")
    if not path.exists():
        raise InputError(f"{path}: no such file; check the spelling and the current folder")
    # Titles are in any encoding; since PyAV 19 this needs no saying.
    tolerant = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    try:
        # The prefix keeps a name with a colon from being taken for a protocol; a playlist that calls itself
        # a video may not fetch anything from the network.
        return av.open(f"file:{path}", container_options={"protocol_whitelist": "file"}, **tolerant)
    except OSError as exc:
        raise InputError(f"{path}: cannot be read ({exc.strerror or exc}); check its permissions") from exc
    except av.error.FFmpegError as exc:
        raise InputError(
            f"{path}: not a video that FFmpeg can read ({exc.strerror or exc}); it may be cut off, damaged, "
            "or something else under this name: try to play it"
        ) from exc


def main_video(container: Any, path: Path) -> Any:
    """Return the largest video stream that is not a cover, ready to decode.

    Raises:
        InputError: none, no decoder for it, or larger than `hasn_edge.images.arrays.MAX_PIXELS`.
    """
    videos = [s for s in container.streams.video if not s.disposition & _ATTACHED_IMAGE]
    if not videos:
        kinds = sorted({"cover" if stream.type == "video" else stream.type for stream in container.streams})
        inside = f"only {' and '.join(kinds)}" if kinds else "nothing at all"
        raise InputError(f"{path}: no video in it, {inside}")
    decoded = [s for s in videos if s.codec_context is not None]
    if not decoded:
        raise InputError(
            f"{path}: this FFmpeg has no decoder for its video; convert it, for example to H.264"
        )
    stream = max(decoded, key=lambda s: s.codec_context.width * s.codec_context.height)
    check_size(path, stream.codec_context.height, stream.codec_context.width)
    stream.codec_context.flags |= _OUTPUT_CORRUPT
    return stream


def first_packets(path: Path, indexes: set[int]) -> dict[int, bytes]:
    """Return the first packet of each of these streams, read from the file anew.

    Not of those that do not come within the first `_SEARCHED` packets, or after damage.
    """
    av: Any = require("av", extra="video", needed_for="Reading video files")
    found: dict[int, bytes] = {}
    if not indexes:
        return found
    with suppress(av.error.FFmpegError, OSError), open_container(path) as container:
        for packet in islice(container.demux(), _SEARCHED):
            if packet.stream.index in indexes and packet.size:
                found.setdefault(packet.stream.index, bytes(packet))
                if len(found) == len(indexes):
                    break
    return found


def exact(value: Any) -> Fraction | None:
    """Return a rational number of PyAV's, whose type differs between versions; ``None`` for none or zero."""
    return Fraction(value.numerator, value.denominator) if value else None


def check_size(path: Path, height: int, width: int) -> None:
    """Refuse images that are too large before any is decoded.

    Raises:
        InputError: more than `hasn_edge.images.arrays.MAX_PIXELS`.
    """
    if height * width > MAX_PIXELS:
        raise InputError(
            f"{path}: it says that its images are {width} x {height}, more than the {MAX_PIXELS / 1e6:.0f} "
            "megapixels that are decoded; get it again if they are not that large"
        )
