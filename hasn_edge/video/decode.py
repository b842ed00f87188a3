"""A video file is read image by image, upright and in RGB, with what travels beside the images."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from hasn_edge.errors import InputError
from hasn_edge.files import Closeable
from hasn_edge.images.arrays import Pixels
from hasn_edge.optional import require
from hasn_edge.video.colour import Colour, RgbFromFrame, Rotation
from hasn_edge.video.container import (
    Packet,
    PipeReader,
    Stream,
    VideoFrame,
    check_size,
    find_rate,
    find_start,
    main_video,
    move_chapters,
    move_packet,
    move_timecode,
    open_container,
    open_pipe,
    time_of,
    to_fraction,
)
from hasn_edge.video.formats import PIPE
from hasn_edge.video.wholeness import declared_length, find_cut

_INDEXED = ("mov", "matroska")  # where one can begin in the middle without decoding what is before
_ROUNDED_S = Fraction(1, 1000)  # times of Matroska are in milliseconds
_BRIEF_S = Fraction(1, 10)  # without an image at the beginning of a part: not worth one more image
_PRIMING_S = Fraction(1, 10)  # of hidden audio that stays: the first that is played is decoded with it
_BEHIND = 1000  # packets at most that stand behind the images of the same time


@dataclass(frozen=True, eq=False, kw_only=True)
class DecodedStep:
    """One image, and the packets of other streams that come before it in the file."""

    image: Pixels | None
    """``(H, W, 3)`` RGB, upright; uint8, or uint16 from videos of more than 8 bits. ``None`` in the last
    step, which has packets only."""
    pts: int = 0
    """When it is shown, in the time base of the video."""
    duration: int = 0
    """For how long, as the file says it; 0 where it does not."""
    packets: list[Packet] = field(default_factory=list)


@dataclass(kw_only=True)
class Tally:
    """What was read, and what was wrong with it."""

    images: int = 0
    damaged: int = 0
    """Images that were decoded with errors; they are passed on."""
    lost: int = 0
    """Images that could not be decoded; the one before is shown for longer."""
    retimed: int = 0
    """Images without a time, or not later than the one before: they got one."""
    ending: str | None = None
    """Why the file ended too early; ``None`` where it did not."""

    @property
    def whole(self) -> bool:
        """Whether every image of the file was decoded without an error."""
        return not (self.damaged or self.lost or self.ending)

    def sentences(self) -> list[str]:
        """Say what was wrong."""
        said = [
            (self.lost, "could not be decoded and are missing; the one before is shown for longer"),
            (self.damaged, "were decoded with errors"),
            (self.retimed, "had no time, or none later than the one before: they got one"),
        ]
        sentences = [f"{count} of its images {what}" for count, what in said if count]
        return [*sentences, f"it ends too early: {self.ending}"] if self.ending else sentences


class Decoder(Closeable):
    """Reads one file. :attr:`first` is decoded on opening, because only then its colours are known.

    Args:
        path: A video file, told by its content, or `hasn_edge.video.formats.PIPE`.
        start_s: The first time that is read, in seconds from the file's beginning, which becomes time 0 of
            what is given out.
        end_s: The time before which reading ends; ``None`` for the file's end.

    Raises:
        InputError: missing, no video, no image that can be decoded or between these times, or images larger
            than `hasn_edge.images.arrays.MAX_PIXELS`.
        MissingDependencyError: PyAV is not installed.
    """

    def __init__(self, path: Path, *, start_s: float = 0.0, end_s: float | None = None) -> None:
        if start_s < 0 or (end_s is not None and end_s <= start_s):
            until = "its end" if end_s is None else f"{end_s:g} s"
            raise InputError(f"{path}: nothing of it begins at {start_s:g} s and ends before {until}")
        self.path = path
        self.tally = Tally()
        self.notes: list[str] = []
        """What a user should know of how this file was read."""
        self._av: Any = require("av", extra="video", needed_for="Reading video files")
        self._pipe = PipeReader(sys.stdin.buffer) if path == PIPE else None
        self._container = open_container(path) if self._pipe is None else open_pipe(self._pipe)
        try:
            self.stream = main_video(self._container, path)
            self.others: list[Stream] = [s for s in self._container.streams if s is not self.stream]
            skipped = Fraction(start_s).limit_denominator(1_000_000)
            origin, self._start = find_start(self._container, [self.stream, *self.others], skipped)
            if origin:
                self.notes.append(f"its times begin at {float(origin):.3f} s; those of the result at 0")
            self._from = origin + skipped if skipped else None
            self._until = None if end_s is None else origin + Fraction(end_s).limit_denominator(1_000_000)
            self._partly = self._from is not None or self._until is not None
            self._cut = False  # at the end that was asked for
            self.rate = find_rate(path, self.stream)
            """Images per second on average."""
            self.expected = self._count_expected()
            """How many images the file says it has, or about; ``None`` where it says nothing."""
            self._last_pts: int | None = None
            self._end_s = min(0.0, float(origin))
            self._step_s = float(1 / self.rate)  # the longest between two images so far
            self._last_byte = 0
            self._suspects: set[int | None] = set()
            if self._from is not None and self._container.format.name.startswith(_INDEXED):
                with suppress(self._av.error.FFmpegError):  # else it is read from its beginning
                    self._container.seek(int(self._from * 1_000_000))
            self._incoming = self._demux()
            self._frames = self._select() if self._partly else self._decode()
            self._packets: list[Packet] = []
            self._head = next(self._frames, None)
            if self._head is None:
                what = "the part that was asked for" if self._partly else "it"
                raise InputError(f"{path}: no image of {what} could be decoded{self._explain_none()}")
            self._describe(self._head)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright images."""
        height, width = self._stored
        return (width, height) if self.rotation.transposes else (height, width)

    @property
    def time_base(self) -> Fraction:
        """What one unit of a time lasts, in seconds."""
        return to_fraction(self.stream.time_base) or Fraction(1, 90_000)

    @property
    def aspect(self) -> Fraction | None:
        """Width of a pixel by its height, upright; ``None`` where the file does not say it."""
        aspect = to_fraction(self.stream.sample_aspect_ratio)
        return 1 / aspect if aspect is not None and self.rotation.transposes else aspect

    @property
    def sample_rates(self) -> tuple[int, ...]:
        """Samples per second of each track of audio whose codec is known."""
        audio = [s.codec_context for s in self.others if s.type == "audio" and s.codec_context is not None]
        return tuple(context.sample_rate for context in audio if context.sample_rate > 0)

    @property
    def chapters(self) -> list[Any]:
        """Its chapters, as PyAV gives and takes them."""
        chapters = list(self._container.chapters()) if hasattr(self._container, "chapters") else []
        return move_chapters(chapters, self._start, self._until)

    def steps(self) -> Iterator[DecodedStep]:
        """Yield every image in the order it is shown, then a step with the packets after the last one.

        Raises:
            InputError: the size changes in the middle.
        """
        convert = RgbFromFrame(self.colour)
        frame = self._head
        self._head = None
        while frame is not None:
            if (frame.height, frame.width) != self._stored:
                raise InputError(
                    f"{self.path}: its size changes from {self._stored[1]}x{self._stored[0]} to {frame.width}"
                    f"x{frame.height} at image {self.tally.images + 1}; cut it there, upscale the parts"
                )
            self.tally.images += 1
            self.tally.damaged += frame.is_corrupt or frame.pts in self._suspects
            packets, self._packets = self._packets, []
            image, pts, following = self.rotation(convert(frame)), self._time(frame), next(self._frames, None)
            duration = frame.duration or 0
            if following is None and self._cut and self._until is not None:
                duration = round((self._until - self._start) / self.time_base) - pts
            elif following is None:
                duration = max(duration, self._last_duration(pts))
            yield DecodedStep(image=image, pts=pts, duration=duration, packets=packets)
            frame = following
        if self.tally.ending is None and not self._cut:
            size = None if self._pipe is None else self._pipe.count
            self.tally.ending = find_cut(
                self.path, self._container, self._end_s, self._step_s, self._last_byte, size=size
            )
        yield DecodedStep(image=None, packets=self._packets)

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._container.close()

    def _describe(self, frame: VideoFrame) -> None:
        """Take from the first frame what holds for all."""
        self._stored = frame.height, frame.width
        check_size(self.path, *self._stored)
        self.metadata = self._moved_metadata(frame)
        """Title, date, and what else is said of the whole file; its timecode is that of the first image."""
        self.colour = Colour.of(frame, self.stream.codec_context)
        self.rotation = Rotation.of(frame)
        self.notes += self.colour.notes
        if self.stream.metadata.get("alpha_mode") == "1" and not frame.format.has_palette:
            self.notes.append("its transparency is left out")  # the decoder of VP9 passes over it
        if not self.rotation.straight:
            self.notes.append(
                "it is to be shown at an angle that is no quarter rotation: left as it is stored"
            )
        if frame.interlaced_frame:
            self.notes.append(
                "it is interlaced: its fields were upscaled as they lie in the frames, and the result is "
                "progressive; deinterlace it first, for example with ffmpeg -i IN -vf bwdif OUT"
            )

    def _moved_metadata(self, frame: VideoFrame) -> dict[str, str]:
        """Return the file's metadata with the timecode of a frame, the first one that is given out."""
        found: dict[str, str] = dict(self._container.metadata)
        if self._from is None:
            return found
        begin, at = (self.stream.start_time or 0) * self.time_base, time_of(frame)
        images = None if at is None else round((at - begin) * self.rate)
        for key in [key for key in found if key.lower() == "timecode"]:
            said = found.pop(key)
            moved = None if images is None else move_timecode(said, images, self.rate)
            if moved is None:
                self.notes.append(f"its timecode {said} is left out: the part begins later")
            else:
                found[key] = moved
        return found

    def _decode(self) -> Iterator[VideoFrame]:
        """Yield decoded frames; collect the packets of other streams; count what cannot be decoded."""
        begun = False
        for packet in self._incoming:
            self._note_packet(packet)
            if packet.stream is not self.stream:
                self._keep(packet)
                continue
            if not packet.size and packet.dts is not None:
                continue  # the image before is shown for longer; without bytes it would end the decoder
            try:
                frames = self.stream.decode(packet)
            except self._av.error.EOFError:
                continue
            except self._av.error.MemoryError as exc:
                raise InputError(f"{self.path}: not enough memory to decode it") from exc
            except self._av.error.FFmpegError:
                self.tally.lost += 1
                continue
            for frame in frames:
                # Before the first key frame the decoder has grey and shreds: no player shows them.
                begun = begun or not frame.is_corrupt
                if begun:
                    yield frame
                else:
                    self.tally.lost += 1

    def _keep(self, packet: Packet) -> None:
        """Keep a packet of another stream, if it is of the time that was asked for and not hidden."""
        at = time_of(packet)
        if packet.is_discard and at is not None:  # which a new file without an edit list would play
            begin = (packet.stream.start_time or 0) * packet.stream.time_base
            if at < begin - _PRIMING_S:
                return
        if packet.size and (at is None or self._place(at) == 0):
            self._packets.append(move_packet(packet, self._start))

    def _select(self) -> Iterator[VideoFrame]:
        """Yield the frames of the time that was asked for; those without a time stand at their place.

        The first is the one that is shown when that time begins, where the next one comes a good while later.
        """
        begun = False
        before: VideoFrame = None
        for number, frame in enumerate(self._decode()):
            at = time_of(frame)
            place = self._place(number / self.rate if at is None else at)
            if place < 0:
                before = frame if at is not None else before
            elif not begun and before is not None and self._is_late(at):
                yield self._move_to_start(before)
            if place > 0:
                self._cut = True
                self._read_on()
                return
            if place == 0:
                if not begun:
                    self.tally.lost, begun = 0, True  # what was lost before is not missed
                yield frame
        at = None if begun or before is None else time_of(before)
        if at is not None and self._is_late(at + (before.duration or 0) * self.time_base):
            yield self._move_to_start(before)

    def _is_late(self, at: Fraction | None) -> bool:
        """Whether a time is well behind the beginning of the part that was asked for."""
        return at is not None and self._from is not None and at > self._from + _BRIEF_S

    def _move_to_start(self, frame: VideoFrame) -> VideoFrame:
        """Return an earlier frame, which is still shown, with the time at which the part begins."""
        pts, duration = frame.pts if frame.pts is not None else frame.dts, frame.duration or 0
        frame.pts = int(self._start / self.time_base)
        frame.duration = max(0, duration - (frame.pts - pts))
        self.tally.lost = 0
        return frame

    def _read_on(self) -> None:
        """Keep what other streams have of the same time, which may stand behind the images in the file."""
        waiting = {stream.index for stream in self.others if stream.type == "audio"}
        for packet in islice(self._incoming, _BEHIND):
            if packet.stream is self.stream:
                continue
            self._keep(packet)
            at = time_of(packet)
            if at is not None and self._place(at) > 0:
                waiting.discard(packet.stream.index)
            if not waiting:
                return

    def _place(self, at: Fraction) -> int:
        """Return -1, 0 or 1 for a time before, in and after what was asked for; containers round times."""
        if self._from is not None and at < self._from - _ROUNDED_S:
            return -1
        return int(self._until is not None and at >= self._until - _ROUNDED_S)

    def _demux(self) -> Iterator[Packet]:
        try:
            yield from self._container.demux()
            return
        except (self._av.error.FFmpegError, OSError) as exc:
            self.tally.ending = f"reading stopped with an error ({exc.strerror or exc})"
        flush = self._av.Packet()
        flush.stream = self.stream
        yield flush

    def _note_packet(self, packet: Packet) -> None:
        """Note how far the file reaches, and which packets came damaged."""
        if packet.pts is not None and packet.time_base:
            self._end_s = max(self._end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream is self.stream:
            self._last_byte = max(self._last_byte, (packet.pos or 0) + packet.size)
            if packet.is_corrupt:
                self._suspects.add(packet.pts)

    def _time(self, frame: VideoFrame) -> int:
        """Return when a frame is shown, later than the one before, and counted from the start."""
        last, shift = self._last_pts, int(self._start / self.time_base)
        pts: int | None = frame.pts if frame.pts is not None else frame.dts
        if pts is None or (last is not None and pts <= last):
            usual = max(1, round(1 / self.rate / self.time_base))
            self.tally.retimed += 1
            pts = shift if last is None else last + (usual if pts is None else 1)
        if last is not None:
            self._step_s = max(self._step_s, float((pts - last) * self.time_base))
        self._last_pts = pts
        return pts - shift

    def _count_expected(self) -> int | None:
        whole = self._count_all()
        if not self._partly:
            return whole
        begin_s = Fraction(0) if self._from is None else self._from
        last = whole if self._until is None else round(self._until * self.rate)
        return None if last is None else max(1, last - round(begin_s * self.rate))

    def _count_all(self) -> int | None:
        if self.stream.frames and self._container.format.name.startswith("mov"):
            return int(self.stream.frames)  # elsewhere it counts what shows nothing new, or a clock
        if self._container.format.name == "avi" and len(self.stream.index_entries) > 1:
            return len(self.stream.index_entries)
        seconds = declared_length(self._container)
        return round(seconds * self.rate) if seconds else None

    def _last_duration(self, pts: int) -> int:
        """Return how long the last image is shown by the length of the track; 0 where that says nothing."""
        if not self.stream.duration or self.stream.start_time:
            return 0
        left = int(self.stream.duration) - int(self._start / self.time_base) - pts
        return min(left, round(self._step_s / self.time_base))

    def _explain_none(self) -> str:
        lost = self.tally.lost
        reason = f": {lost} of its packets are damaged" if lost else ": it holds none"
        return f"{reason}; {self.tally.ending}" if self.tally.ending else reason
