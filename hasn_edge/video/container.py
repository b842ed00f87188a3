"""Video files are opened, and refused with the reason where there is nothing to upscale in them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from statistics import median_low
from typing import Any, BinaryIO

from hasn_edge.errors import InputError, say
from hasn_edge.images.arrays import MAX_PIXELS
from hasn_edge.optional import require
from hasn_edge.video.formats import MUXERS, PIPE, Y4M

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


class PipeReader:
    """Standard input, which cannot be sought in, with a count of the bytes that were read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.count = 0
        """Bytes read so far."""

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer than asked for at the end only."""
        data = self._stream.read(size)
        self.count += len(data)
        return data


def open_pipe(reader: PipeReader) -> Any:
    """Open raw frames, as YUV4MPEG2, that come through a pipe.

    Raises:
        InputError: something else came, or nothing.
        MissingDependencyError: PyAV is not installed.
    """
    av: Any = require("av", extra="video", needed_for="Reading video")
    try:
        return av.open(reader, format=MUXERS[Y4M])
    except (OSError, ValueError, av.error.FFmpegError) as exc:
        came = "nothing came" if not reader.count else "what came is something else"
        raise InputError(
            f"standard input: expected raw frames as YUV4MPEG2, {came}",
            say("send it what 'ffmpeg -i IN -f yuv4mpegpipe -strict -1 -' writes"),
        ) from exc


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
    if path == PIPE:
        return to_fraction(stream.average_rate) or Fraction(25)
    stated = [stream.average_rate, stream.guessed_rate, stream.codec_context.framerate]
    rates = [rate for each in stated if (rate := to_fraction(each)) is not None and rate > 0]
    spacing = _usual_spacing(path, stream)
    if spacing is None:
        # Without times the average is FFmpeg's default; the decoder's is what the stream states.
        return next((rate for rate in rates[1:] or rates if rate <= _FASTEST), Fraction(25))
    seen = 1 / spacing
    nearest = min(rates, key=lambda rate: abs(math.log(rate / seen)), default=seen)
    agrees = seen / _ABOUT < nearest < seen * _ABOUT
    return nearest if agrees else seen.limit_denominator(1001) or seen


def _usual_spacing(path: Path, stream: Stream) -> Fraction | None:
    """Return the median of the seconds between a file's first images; ``None`` where they have no times."""
    av: Any = require("av", extra="video", needed_for="Reading video files")
    times: set[Fraction] = set()
    durations: list[Fraction] = []
    with suppress(av.error.FFmpegError, OSError, InputError), open_container(path) as container:
        for packet in islice(container.demux(), _SEARCHED):
            base = to_fraction(packet.time_base)
            if packet.stream.index == stream.index and packet.size and base is not None:
                at = time_of(packet)
                times |= set() if at is None else {at}
                durations += [packet.duration * base] if packet.duration else []
            if len(durations) > _TIMED or len(times) > _TIMED:
                break
    if len(times) > 1:
        return median_low(later - time for time, later in pairwise(sorted(times)))
    return median_low(durations) if durations else None


def time_of(timed: Packet | VideoFrame) -> Fraction | None:
    """Return when an image is shown, else decoded, in seconds; ``None`` where neither is stated."""
    base, pts = to_fraction(timed.time_base), timed.pts if timed.pts is not None else timed.dts
    return None if base is None or pts is None else pts * base


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


def find_start(
    container: Any, streams: Iterable[Stream], skipped_s: Fraction = Fraction(0)
) -> tuple[Fraction, Fraction]:
    """Return when an open file begins, 0 where that is near zero, and what to subtract from all its times.

    Otherwise a player of the new file would show nothing for that long. What is subtracted is a whole number
    of units of every stream's time base, so that each time stays exact beside the others; of the first one's
    only, where a part of the file is left out: together they can be coarser than images are apart.

    Args:
        container: PyAV's, open.
        streams: All that are taken over, the images first.
        skipped_s: How much of the file is left out at its beginning, in seconds.
    """
    streams = list(streams)
    bases = [base for stream in streams if (base := to_fraction(stream.time_base)) is not None]
    starts = [
        stream.start_time * to_fraction(stream.time_base)
        for stream in streams
        if stream.type in ("video", "audio") and stream.start_time is not None and stream.time_base
    ]
    first = min(starts, default=Fraction(0))
    # Of a broadcast that begins within a minute before its clock's wrap, FFmpeg gives negative times.
    anywhere = int(container.format.flags) & _ANYWHERE
    if abs(first) < _NEAR_S or (first < _LATE_S and not anywhere):
        first = Fraction(0)
    if not (first or skipped_s):
        return first, first
    bases = bases[:1] if skipped_s else bases
    unit = Fraction(
        math.lcm(*(base.numerator for base in bases)), math.gcd(*(base.denominator for base in bases))
    )
    return first, (first + skipped_s) // unit * unit


def move_packet(packet: Packet, start: Fraction) -> Packet:
    """Return the packet with its times counted from ``start``."""
    base = to_fraction(packet.time_base)
    if start and base:
        units = start / base
        finer, shift = units.denominator, units.numerator
        packet.pts = None if packet.pts is None else packet.pts * finer - shift
        packet.dts = None if packet.dts is None else packet.dts * finer - shift
        if finer > 1:
            packet.duration, packet.time_base = packet.duration * finer, base / finer
    return packet


def move_chapters(chapters: list[Any], start: Fraction, end: Fraction | None = None) -> list[Any]:
    """Return chapters, as PyAV gives and takes them, with their times counted from ``start``.

    What is before ``start`` and, where it is given, after ``end`` is cut off.
    """
    moved = []
    for chapter in chapters:
        base = to_fraction(chapter["time_base"]) or Fraction(1)
        first, last = (chapter[key] - round(start / base) for key in ("start", "end"))
        last = last if end is None else min(last, round((end - start) / base))
        if last > max(first, 0):
            moved.append({**chapter, "start": max(first, 0), "end": last})
    return moved


def move_timecode(text: str, images: int, rate: Fraction) -> str | None:
    """Return the timecode (SMPTE 12M) of a later image; ``None`` where it is none of such a rate.

    Args:
        text: ``HH:MM:SS:FF``, or ``HH:MM:SS;FF`` where the first numbers of each minute but every tenth are
            left out: two at 29.97 images a second, four at 59.94.
        images: How much later.
        rate: Images per second.
    """
    found = re.fullmatch(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)", text.strip())
    if found is None:
        return None
    hours, minutes, seconds, frames = (int(found[group]) for group in (1, 2, 3, 5))
    fps, drops = round(rate), found[4] != ":"
    if frames >= fps or (drops and fps % 30):
        return None
    left_out = fps // 15 if drops else 0
    minutes += 60 * hours
    number = (60 * minutes + seconds) * fps + frames - left_out * (minutes - minutes // 10) + images
    minute, ten = 60 * fps - left_out, 600 * fps - 9 * left_out
    tens, rest = divmod(number % (144 * ten), ten)
    number = 600 * fps * tens + rest + left_out * max(0, (rest - left_out) // minute)
    seconds, frames = divmod(number, fps)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{clock}{found[4]}{frames:02}"
