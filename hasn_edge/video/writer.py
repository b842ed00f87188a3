"""Frames of a running pipeline are recorded: a video file for whoever has images and a clock."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from hasn_edge.errors import InputError
from hasn_edge.images.arrays import Pixels
from hasn_edge.video.colour import Colour
from hasn_edge.video.encode import Encoder, Format, open_encoder, try_encoder

Self = TypeVar("Self", bound="VideoWriter")

_TIME_BASE = Fraction(1, 60_000)  # exact at 24, 25, 30, 50, 60 and 30000/1001; the finest that MPEG-4 takes


def check_writer(path: Path, *, codec: str | None = None, quality: float | None = None) -> None:
    """Refuse what :class:`VideoWriter` would refuse on entering, before there are images.

    Raises:
        InputError: another ending, or a quality out of range.
        UnsupportedError: this FFmpeg has no such encoder, or the container cannot hold what it makes.
        OutputError: the encoder does not start.
        MissingDependencyError: PyAV is not installed.
    """
    try_encoder(path, _format((2, 2), Fraction(30), codec, quality))


def _format(size: tuple[int, int], rate: Fraction, codec: str | None, quality: float | None) -> Format:
    colour = Colour.rgb()
    return Format(size=size, time_base=_TIME_BASE, rate=rate, colour=colour, codec=codec, quality=quality)


class _Empty(Exception):  # noqa: N818 - an end without a file, not an error
    """No image came."""


class VideoWriter:
    """Writes RGB images to a video file. A context manager; not thread-safe.

    The file is opened, and whatever is wrong with it said, on entering. It is written under a temporary name
    and takes its own when the block ends; an exception, or a block without an image, leaves nothing.
    :meth:`write` encodes in the calling thread: give it one of its own where nothing may wait.

    Args:
        path: Ends in .mp4, .mov, .mkv or .webm.
        size: Height and width of every image.
        fps: Images per second; with times given to :meth:`write`, what to expect on average.
        codec: FFmpeg's name of an encoder or of a codec; ``None`` for H.264 (VP9 in .webm).
        quality: On the encoder's own scale, on which less is better; ``None`` for a good one.

    Raises:
        InputError: another ending, a rate that is none, a quality out of range, or images too large.
        UnsupportedError: this FFmpeg has no such encoder, or the container cannot hold what it makes.
        OutputError: the encoder does not start, the folder cannot be written, or the disk is full.
        MissingDependencyError: PyAV is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: tuple[int, int],
        fps: float | Fraction,
        *,
        codec: str | None = None,
        quality: float | None = None,
    ) -> None:
        self.path = Path(path)
        self.frames = 0
        """Images written so far."""
        if not 0.001 <= fps <= 1000:
            raise InputError(f"cannot write {self.path}: {fps} images per second; expected 0.001 to 1000")
        self._rate = Fraction(fps).limit_denominator(1001)
        self._context = open_encoder(self.path, _format(size, self._rate, codec, quality))
        self._encoder: Encoder | None = None
        self._begin_s: float | None = None
        self._last = -1

    def __enter__(self: Self) -> Self:
        """Open the file."""
        self._encoder = self._context.__enter__()
        return self

    def write(self, rgb_HWC: Pixels, time_s: float | None = None) -> None:
        """Encode an image.

        Args:
            rgb_HWC: ``(H, W, 3)`` RGB of uint8.
            time_s: When it was taken, by any clock in seconds; the first one is time 0 of the file. ``None``
                for the rate. A time that is not later than the one before is moved behind it.

        Raises:
            ShapeError: another size.
            OutputError: the disk is full, or another failure to write.
        """
        if self._encoder is None:
            raise InputError(f"{self.path}: not open; use the writer as a context manager")
        if time_s is None:
            pts = round(self.frames / self._rate / _TIME_BASE)
        else:
            self._begin_s = time_s if self._begin_s is None else self._begin_s
            pts = round((time_s - self._begin_s) / _TIME_BASE)
        pts = max(pts, self._last + 1)
        self._encoder.write(rgb_HWC, pts, round(1 / self._rate / _TIME_BASE))
        self._last = pts
        self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the file its name, or remove it."""
        self._encoder = None
        if kind is None and not self.frames:
            kind, exc = _Empty, _Empty()
        self._context.__exit__(kind, exc, traceback)
