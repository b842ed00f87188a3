"""What delivers frames: the interface, a moving test pattern, and playing at the speed of the recording."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from hasn_edge.files import Closeable
from hasn_edge.images.arrays import UInt8
from hasn_edge.live.frame import Frame
from hasn_edge.live.notices import Notice

DEFAULT_SIZE = (180, 320)
"""(height, width) that the network gets, and of the test pattern, where neither the user nor the engine says
otherwise; of files and streams, which keep their shape, as many pixels at most."""


class FrameSource(Closeable):
    """Delivers frames one by one; one thread calls :meth:`read`, any thread :meth:`close`."""

    name: str
    """For people: ``"/dev/video0"``, ``"clip.mp4"``; without the password of an address."""
    live: bool
    """Frames that are not read in time are lost, and the newest counts; otherwise each one counts."""
    size: tuple[int, int] | None = None
    """(height, width) of its frames, where that is known."""
    fps: float | None = None
    """Frames a second that it promises, where it does."""
    aspect: float | None = None
    """How many times as wide as high its pixels are shown; ``None`` where that is not known: square."""
    dropped: int = 0
    """Frames that the source itself knows to have been lost between two reads."""
    report: Callable[[Notice | None], None] = staticmethod(lambda notice: None)
    """Receives what is wrong at the moment, for the user; ``None`` when it is over."""

    @abstractmethod
    def read(self) -> Frame | None:
        """Wait for the next frame; ``None`` at the end of the recording and once it is closed.

        Raises:
            SourceError: it is lost and does not come back by itself.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop: a :meth:`read` under way returns within a second. Safe to call twice, from any thread."""


class PatternSource(FrameSource):
    """A moving test pattern that needs no camera: frame ``i`` has the same pixels every time.

    A zone plate over slowly changing colours and blocks like lettering scroll by; the frame's number is a row
    of black and white squares in the top left corner, lowest bit first.

    Args:
        size: (height, width) in pixels, at least 16 x 16.
        fps: Frames a second.
        frames: How many there are; ``None`` for no end.
        live: Deliver them in time and lose what is not read, as a camera does; otherwise all, at once.
    """

    name = "pattern"

    def __init__(
        self,
        size: tuple[int, int] = DEFAULT_SIZE,
        *,
        fps: float = 30.0,
        frames: int | None = None,
        live: bool = True,
    ) -> None:
        self.size = size
        self.fps: float = fps
        self.live = live
        self._frames = frames
        self._scenery = scenery(size)
        self._closed = threading.Event()
        self._next = 0
        self._start: float | None = None

    def read(self) -> Frame | None:
        """Return the next frame when it is due."""
        if self.live:
            self._wait()
        index = self._next
        if self._closed.is_set() or (self._frames is not None and index >= self._frames):
            return None
        self._next += 1
        pixels = pattern(self._scenery, index)
        return Frame(index=index, pixels=pixels, time_s=index / self.fps, captured=time.monotonic())

    def close(self) -> None:
        """End a read under way."""
        self._closed.set()

    def _wait(self) -> None:
        now = time.monotonic()
        if self._start is None:
            self._start = now
        late = int((now - self._start) * self.fps) - self._next
        if late > 0:
            self._next += late
            self.dropped += late
        self._closed.wait(max(0.0, self._start + self._next / self.fps - now))


class Paced(FrameSource):
    """Plays a recording at its own speed, for people to look at; loses nothing.

    Args:
        source: What it plays; its frames count as captured when they are due.
    """

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        source.report = lambda notice: self.report(notice)
        self.name, self.live, self.size, self.fps = source.name, source.live, source.size, source.fps
        self.aspect = source.aspect
        self._closed = threading.Event()
        self._start: float | None = None

    def read(self) -> Frame | None:
        """Return the next frame when it is due; when playing fell behind, at once."""
        frame = self._source.read()
        self.dropped = self._source.dropped
        if frame is None:
            return None
        due_s = frame.time_s if frame.time_s is not None else frame.index / (self.fps or 30.0)
        now = time.monotonic()
        # Falling behind slows playing down; it is not made up for by playing faster afterwards.
        self._start = now - due_s if self._start is None else max(self._start, now - due_s)
        if self._closed.wait(self._start + due_s - now):
            return None
        return replace(frame, captured=time.monotonic())

    def close(self) -> None:
        """Close what it plays."""
        self._closed.set()
        self._source.close()


def scenery(size: tuple[int, int]) -> UInt8:
    """Return the ``(H, 2 * W, 3)`` uint8 RGB image of which the pattern shows a part; its ends meet."""
    height, width = size
    y, x = np.mgrid[0:height, 0 : 2 * width].astype(np.float32)
    angle = x * np.float32(np.pi / width)  # a full circle along the image
    colour = np.stack([0.5 + 0.4 * np.cos(angle * k + c) for k, c in ((1, 0.0), (2, 2.1), (3, 4.2))], axis=-1)
    radius2 = (np.mod(x, width) - width / 2) ** 2 + (y - height / 2) ** 2
    # The frequency grows to one cycle in eight pixels at the upper edge: an image a quarter as large still
    # holds half of the rings.
    rings = 0.5 + 0.5 * np.cos(radius2 * np.float32(np.pi / (4 * height)))
    rings[radius2 > (height / 2) ** 2] = 0.5
    image = colour * (0.4 + 0.6 * rings[..., None])
    cell = max(2, height // 45)
    blocks = np.random.default_rng(5).integers(0, 2, (height // cell + 1, 2 * width // cell + 1))
    letters = np.kron(blocks, np.ones((cell, cell)))[:height, : 2 * width]
    band = (y > 0.78 * height) & (y < 0.92 * height) & (np.mod(x, 4 * cell) >= cell)
    image[band] = letters[band][:, None]
    levels: UInt8 = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    return levels


def pattern(scenery: UInt8, index: int) -> UInt8:
    """Return frame ``index`` of the pattern over :func:`scenery`, ``(H, W, 3)`` uint8 RGB."""
    height, width = scenery.shape[0], scenery.shape[1] // 2
    left = index * max(1, width // 160) % (2 * width)
    pixels = np.ascontiguousarray(np.take(scenery, np.arange(left, left + width), axis=1, mode="wrap"))
    side = max(1, min(height, width) // 16)
    for bit in range(min(16, width // side)):
        pixels[:side, bit * side : (bit + 1) * side] = 255 if index >> bit & 1 else 0
    return pixels
