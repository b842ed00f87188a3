"""Video files are opened, and refused with the reason where there is nothing to upscale in them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from statistics import median_low
from typing import Any

from hasn_edge.errors import InputError
from hasn_edge.images.arrays import MAX_PIXELS
from hasn_edge.optional import require

Packet = Any
Stream = Any
VideoFrame = Any
"""PyAV's. It is optional, and its annotations differ between versions."""

_ATTACHED_IMAGE = 1 << 10  # AV_DISPOSITION_ATTACHED_PIC
_OUTPUT_CORRUPT = 1 << 3  # AV_CODEC_FLAG_OUTPUT_CORRUPT: do not silently drop what has errors
_SEARCHED = 1000  # packets of all streams at most, for
_TIMED = 100  # images
_ABOUT = Fraction(3, 2)  # the factor by which a stated rate may differ from that of the first images
_FASTEST = 1000  # images a second; above that it is a clock
_ANYWHERE = 0x200  # AVFMT_TS_DISCONT: transport and program streams, Ogg
_NEAR_S = Fraction(1, 10)  # audio often begins a little before the images: not worth a word
_LATE_S = 60  # a file of another kind may say that nothing is shown in the first seconds, and mean it


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


def find_rate(path: Path, stream: Stream) -> Fraction:
    """Return how many images a second a video has, from its header where its times agree with that.

    Headers state the clock instead (60,000 in DV), a default (25 for raw H.264), or the rate of a moment.

    Args:
        path: The file, whose first packets are read anew.
        stream: The video in it, open.
    """
    av: Any = require("av", extra="video", needed_for="Reading video files")
    times, durations = set(), []
    with suppress(av.error.FFmpegError, OSError, InputError), open_container(path) as container:
        for packet in islice(container.demux(), _SEARCHED):
            if packet.stream.index == stream.index and packet.size and packet.time_base:
                time = packet.dts if packet.pts is None else packet.pts
                times |= set() if time is None else {time * to_fraction(packet.time_base)}
                durations += [packet.duration * to_fraction(packet.time_base)] if packet.duration else []
            if len(durations) > _TIMED or len(times) > _TIMED:
                break
    stated = [stream.average_rate, stream.guessed_rate, stream.codec_context.framerate]
    rates = [rate for each in stated if (rate := to_fraction(each)) is not None and rate > 0]
    if len(times) > 1:
        seen = 1 / median_low(later - time for time, later in pairwise(sorted(times)))
    elif durations:
        seen = 1 / Fraction(median_low(durations))
    else:
        # Without times the average is FFmpeg's default; the decoder's is what the stream states.
        return next((rate for rate in rates[1:] or rates if rate <= _FASTEST), Fraction(25))
    nearest = min(rates, key=lambda rate: abs(math.log(rate / seen)), default=seen)
    agrees = seen / _ABOUT < nearest < seen * _ABOUT
    return nearest if agrees else seen.limit_denominator(1001) or seen


def to_fraction(value: Any) -> Fraction | None:
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


def find_start(container: Any, streams: Iterable[Stream]) -> Fraction:
    """Return what to subtract from all times of an open file, in seconds; 0 where they begin near zero.

    Otherwise a player of the new file would show nothing for that long. It is a whole number of units of
    every stream's time base, so that each time stays exact beside the others.
    """
    bases = [base for stream in streams if (base := to_fraction(stream.time_base)) is not None]
    starts = [
        stream.start_time * to_fraction(stream.time_base)
        for stream in streams
        if stream.type in ("video", "audio") and stream.start_time is not None and stream.time_base
    ]
    first = min(starts, default=Fraction(0))
    if first < _NEAR_S or (first < _LATE_S and not int(container.format.flags) & _ANYWHERE):
        return Fraction(0)
    unit = Fraction(
        math.lcm(*(base.numerator for base in bases)), math.gcd(*(base.denominator for base in bases))
    )
    return first // unit * unit


def move_packet(packet: Packet, start: Fraction) -> Packet:
    """Return the packet with its times counted from ``start``."""
    base = to_fraction(packet.time_base)
    if start and base:
        shift = int(start / base)
        packet.pts = None if packet.pts is None else packet.pts - shift
        packet.dts = None if packet.dts is None else packet.dts - shift
    return packet


def move_chapters(chapters: list[Any], start: Fraction) -> list[Any]:
    """Return chapters, as PyAV gives and takes them, with their times counted from ``start``."""
    if not start:
        return chapters
    shifts = [round(start / (to_fraction(chapter["time_base"]) or Fraction(1))) for chapter in chapters]
    return [
        {**chapter, "start": chapter["start"] - shift, "end": chapter["end"] - shift}
        for chapter, shift in zip(chapters, shifts, strict=True)
    ]
