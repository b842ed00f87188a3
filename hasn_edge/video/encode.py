"""Images are encoded into a video file that takes its name when it is whole, or never."""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hasn_edge.errors import OutputError, ShapeError, UnsupportedError
from hasn_edge.files import output_error, writing
from hasn_edge.images.arrays import Pixels
from hasn_edge.optional import require
from hasn_edge.video.colour import Colour, FrameFromRgb
from hasn_edge.video.container import Packet, Stream
from hasn_edge.video.formats import (
    EIGHT_BITS,
    MUXERS,
    PIPE,
    Y4M,
    check_container,
    check_output_size,
    find_encoder,
    kind_of,
    pixel_format,
    quality_options,
)
from hasn_edge.video.tracks import Track, add_track

_LONGEST_DELAY_S = 600  # between decoding an image and showing it: more is no time at all
_REORDERED = 16  # images at most that are shown before one that is decoded before them (H.264 and H.265)
_TRIED = (180, 320)  # small, and not too small for an encoder in hardware
_OF_A_FILE = ("major_brand", "minor_version", "compatible_brands", "encoder")
_OF_A_STREAM = ("language", "title", "handler_name", "creation_time")

_TASKS = Path("/proc/self/task")
"""Where Linux lists the threads of this process."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """What a video file shall be."""

    size: tuple[int, int]
    """Height and width of every image."""
    time_base: Fraction
    """What one unit of the images' times lasts, in seconds."""
    rate: Fraction
    """Images per second on average: for the encoder's control of its bit rate."""
    colour: Colour
    """Tags, range and depth."""
    aspect: Fraction | None = None
    """Width of a pixel by its height; ``None`` for square or not known."""
    sample_rates: tuple[int, ...] = ()
    """Of the audio that will be copied, so that it begins at its exact time."""
    codec: str | None = None
    """FFmpeg's name of an encoder or of a codec; ``None`` for the container's usual one."""
    quality: float | None = None
    """On the encoder's own scale, on which less is better; ``None`` for a good one."""


@contextmanager
def open_encoder(path: Path, wanted: Format) -> Iterator[Encoder]:
    """Yield an :class:`Encoder` for ``path``; the file takes its name when the block ends, or never.

    It is written under a temporary name beside it, which is removed on failure.

    Args:
        path: Ends in one of `hasn_edge.video.formats.CONTAINERS`, or is `hasn_edge.video.formats.PIPE`.
        wanted: What the file shall be.

    Raises:
        InputError: another ending, a quality out of range, or images too large to write.
        UnsupportedError: this FFmpeg has no such encoder, or the container cannot hold what it makes.
        OutputError: the encoder does not start, the folder cannot be written, or the disk is full.
        MissingDependencyError: PyAV is not installed.
    """
    check_container(path)
    check_output_size(path, wanted.size)
    try_encoder(path, wanted)
    place: AbstractContextManager[Path | BinaryIO] = writing(path)
    if path == PIPE:
        place = nullcontext(sys.stdout.buffer)
    with place as temporary:
        encoder = Encoder(temporary, path, wanted)
        try:
            yield encoder
            encoder.finish()
        except BaseException:
            encoder.abort()
            raise


def try_encoder(path: Path, wanted: Format) -> None:
    """Write a file of one small image to memory: header, packet and end. Nothing needs computing for that.

    Some containers refuse a codec only with its first packet or at the end, and an encoder in hardware may be
    in this FFmpeg and not in this machine.

    Args:
        path: The file that is to be written later.
        wanted: What it shall be; of the size only whether sides are odd.

    Raises:
        InputError: another ending, or a quality out of range.
        UnsupportedError: this FFmpeg has no such encoder, or the container cannot hold what it makes.
        OutputError: the encoder does not start.
        MissingDependencyError: PyAV is not installed.
    """
    check_container(path)
    height, width = (side + of % 2 for side, of in zip(_TRIED, wanted.size, strict=True))
    trial = Encoder(io.BytesIO(), path, replace(wanted, size=(height, width)))
    try:
        trial.write(np.full((height, width, 3), 128, np.uint8), pts=0)
        trial.finish()
    except OutputError as exc:
        trial.abort()
        raise _cannot_hold(path, trial.name) from exc


class Encoder:
    """One file being written: images that are encoded, and packets of other streams that are copied.

    Made by :func:`open_encoder`. Not thread-safe; it may be made in one thread and used in another.
    """

    def __init__(self, target: Path | BinaryIO, path: Path, wanted: Format) -> None:
        self._av: Any = require("av", extra="video", needed_for="Writing video files")
        self._path = path
        self._wanted = wanted
        self.name = find_encoder(wanted.codec, path)
        """FFmpeg's name of the encoder."""
        options = quality_options(self.name, wanted.quality)
        self.notes: list[str] = []
        """What a user should know of how the file is written."""
        self._last_dts: int | None = None
        self._durations: dict[int, int] = {}
        self._first: tuple[int, int] | None = None  # when the first image is shown, and when it is decoded
        self._end = 0
        self._tracks: dict[int, Track] = {}
        self.refused = 0
        """Packets of other streams that the container did not take."""
        base, suffix = wanted.time_base, kind_of(path)
        self._by_decoding = suffix not in (".mkv", ".webm", Y4M)  # how its durations are counted
        if suffix == Y4M:
            timescale = {"strict": "-1"}  # more than 8 bits are no part of the oldest definition
        elif not self._by_decoding:
            timescale = {}
            if 1000 * base % 1:
                self.notes.append(
                    f"{suffix} keeps times in milliseconds: they are rounded by up to half of one"
                )
        else:
            # Otherwise a coarse time base would be multiplied until it is fine enough, and tracks would begin
            # at whole milliseconds.
            movie = math.lcm(base.denominator, *wanted.sample_rates)
            timescale = {
                "video_track_timescale": str(base.denominator),
                "movie_timescale": str(movie if movie < 1 << 31 else base.denominator),
            }
        self._container = self._av.open(
            f"file:{target}" if isinstance(target, Path) else target,
            "w",
            format=MUXERS[suffix],
            container_options=timescale,
        )
        try:
            self._stream = self._container.add_stream(self.name, rate=wanted.rate)
        except (ValueError, self._av.error.FFmpegError) as exc:
            raise _cannot_hold(path, self.name) from exc
        if suffix in (".mp4", ".mov") and self._stream.codec_context.codec.canonical_name == "hevc":
            self._stream.codec_context.codec_tag = "hvc1"  # Apple's players know no other
        self._open(options)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every image."""
        return self._wanted.size

    def copy_stream(self, source: Stream, sample: bytes | None = None) -> bool:
        """Have a stream of another file copied; ``False`` where this container cannot hold it.

        Call before the first image.

        Args:
            source: The stream; subtitles of text are converted where the container holds another kind.
            sample: One of its packets, to see what is refused only when the end of the file is written.
        """
        track = add_track(self._container, source, sample)
        if track is None:
            return False
        self._tracks[source.index] = track
        if track.into is not None:
            self.notes.append(f"its subtitles (stream {source.index}) were converted to {track.into}")
        return True

    def describe(self, file: dict[str, str], stream: dict[str, str], chapters: list[Any]) -> None:
        """Take over what another file says of itself and of its video. Call before the first image."""
        self._container.metadata.update({k: v for k, v in file.items() if k.lower() not in _OF_A_FILE})
        self._stream.metadata.update({k: v for k, v in stream.items() if k.lower() in _OF_A_STREAM})
        if chapters and hasattr(self._container, "set_chapters"):
            self._container.set_chapters(chapters)

    def write(self, rgb_HWC: Pixels, pts: int, duration: int = 0) -> None:
        """Encode an image.

        Args:
            rgb_HWC: ``(H, W, 3)`` RGB of uint8 or uint16.
            pts: When it is shown, in units of the time base; later than the one before.
            duration: For how long; 0 if not known.

        Raises:
            ShapeError: another size.
            OutputError: the disk is full, or another failure to write.
        """
        if rgb_HWC.shape != (*self._wanted.size, 3):
            raise ShapeError(
                f"{self._path.name}: expected images of {(*self._wanted.size, 3)}, got {rgb_HWC.shape}"
            )
        frame = self._convert(rgb_HWC)
        frame.pts, frame.time_base = pts, self._wanted.time_base
        self._end = pts + duration
        if duration:
            self._durations[pts] = duration
        self._encode(frame)

    def copy(self, packet: Packet) -> None:
        """Write a packet of a stream that is copied; count it where the container refuses it.

        Packets of streams that are not copied are passed over. Times, bytes and side data stay as they are.

        Raises:
            OutputError: the disk is full, or another failure to write.
        """
        track = self._tracks.get(packet.stream.index)
        if track is None:
            return
        try:
            copy = track(packet)
            if copy is not None:
                self._container.mux_one(copy)
        except OSError as exc:
            raise self._failure(exc) from exc
        except (ValueError, self._av.error.FFmpegError):
            self.refused += 1

    def finish(self) -> None:
        """Write what the encoder still holds, and the end of the file.

        Raises:
            OutputError: the disk is full, or another failure to write.
        """
        self._encode(None)
        try:
            self._container.close()
        except OSError as exc:
            raise self._failure(exc) from exc
        except self._av.error.FFmpegError as exc:
            raise OutputError(
                f"cannot write {self._path}: FFmpeg could not end the file ({exc.strerror or exc}), which is "
                "most often for a track of audio or subtitles; another ending, such as .mkv, may hold it"
            ) from exc

    def abort(self) -> None:
        """Let go of a file that is not whole."""
        # PyAV writes an end all the same, which a full disk refuses; the error that counts came before.
        with suppress(ValueError, OSError, self._av.error.FFmpegError):
            self._container.close()

    def _open(self, options: dict[str, str]) -> None:
        wanted, context = self._wanted, self._stream.codec_context
        context.height, context.width = wanted.size
        context.pix_fmt = pixel_format(self._path, self.name, wanted.size, deep=wanted.colour.deep)
        if wanted.colour.deep and context.pix_fmt in EIGHT_BITS:
            self.notes.append(f"it has more than 8 bits, and the encoder {self.name} keeps 8")
        context.time_base = self._stream.time_base = wanted.time_base
        context.color_range, context.colorspace = wanted.colour.range, wanted.colour.matrix
        context.color_primaries, context.color_trc = wanted.colour.primaries, wanted.colour.transfer
        if wanted.aspect is not None:
            context.sample_aspect_ratio = wanted.aspect
        context.options = options
        if self.name == "libsvtav1":
            os.environ.setdefault(
                "SVT_LOG", "1"
            )  # it writes its settings to standard error, past FFmpeg's log
        logging = self._av.logging
        before = logging.get_level()
        logging.set_level(logging.ERROR)
        try:
            with logging.Capture() as messages, _same_scheduling():
                context.open()
        # Before OSError: without a GPU, NVENC's failure is FFmpeg's "operation not permitted".
        except self._av.error.FFmpegError as exc:
            said = "; ".join(dict.fromkeys(text.strip() for _, _, text in messages)) or exc.strerror
            height, width = wanted.size
            raise OutputError(
                f"cannot write {self._path}: the encoder {self.name} does not start for {width} x {height} "
                f"pixels ({context.pix_fmt}, times in {wanted.time_base} s): {said}; choose another codec"
            ) from exc
        finally:
            logging.set_level(before)
        self._convert = FrameFromRgb(wanted.colour, context.pix_fmt)

    def _encode(self, frame: Any) -> None:
        try:
            packets = self._stream.encode(frame)
            for packet in packets:
                packet.duration = self._durations.pop(packet.pts, packet.duration)
                self._last_dts = packet.dts = self._decoding_time(packet)
                self._first = self._first or (packet.pts, packet.dts)
                if self._by_decoding and frame is None and packet is packets[-1]:
                    # A track lasts from decoding the first to decoding the last, and for as long as that one
                    # says, which need not be the last one that is shown.
                    rest = self._end - self._first[0] - (packet.dts - self._first[1])
                    packet.duration = max(packet.duration, min(rest, self._end - packet.pts))
                self._container.mux_one(packet)
        except self._av.error.FFmpegError as exc:
            raise self._failure(exc) from exc

    def _decoding_time(self, packet: Packet) -> int:
        """Return a packet's decoding time; x265 leaves it uninitialised in clips shorter than its delay."""
        pts, dts, last = packet.pts, packet.dts, self._last_dts
        longest = _LONGEST_DELAY_S / self._wanted.time_base
        if dts is not None and pts - longest < dts <= pts and (last is None or last < dts):
            return int(dts)
        return int(pts) - _REORDERED if last is None else last + 1

    def _failure(self, exc: Any) -> OutputError:
        if isinstance(exc, OSError):
            return output_error(self._path, exc)
        return OutputError(f"cannot write {self._path}: FFmpeg refused an image ({exc.strerror or exc})")


def _cannot_hold(path: Path, encoder_name: str) -> UnsupportedError:
    suffix = path.suffix.lower()
    wider = "" if suffix == ".mkv" else ", or .mkv, which holds nearly everything"
    return UnsupportedError(
        f"cannot write {path}: a {suffix} file cannot hold what {encoder_name} makes; choose another "
        f"codec{wider}"
    )


@contextmanager
def _same_scheduling() -> Iterator[None]:
    """Leave every thread to the scheduler it had before the block, and new ones to the caller's.

    For root, as in most containers, SVT-AV1 starts its threads in real time (SCHED_FIFO 99) and moves the
    thread that opens it there too, with all programs that it starts later: nothing else would get a core.
    """
    if not hasattr(os, "sched_setscheduler") or not _TASKS.is_dir():  # Linux has both
        yield
        return
    own, before = (os.sched_getscheduler(0), os.sched_getparam(0)), _schedulers()
    try:
        yield
    finally:
        for thread, scheduler in _schedulers().items():
            if scheduler != before.get(thread, own[0]):
                with suppress(OSError):  # it has ended
                    os.sched_setscheduler(thread, *own)


def _schedulers() -> dict[int, int]:
    """Return the scheduler of each thread of this process."""
    found = {}
    for thread in (int(task.name) for task in _TASKS.iterdir()):
        with suppress(OSError):  # it has ended
            found[thread] = os.sched_getscheduler(thread)
    return found
