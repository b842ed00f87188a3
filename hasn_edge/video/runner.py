"""Frames pass a session: what is done before, in and after the network, each in a thread of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hasn_edge.errors import OutOfMemoryError, UnsupportedError
from hasn_edge.images.arrays import Pixels, from_tensor, to_tensor
from hasn_edge.runtime.session import Pending, Session
from hasn_edge.runtime.upscaler import Upscaler


class Runner:
    """Takes frames through a session by the shortest way that it offers.

    Frames of a size that the session takes as it is go straight to it, so that its in-flight executions
    and its 8-bit pixels are used; all others go through the upscaler, which pads and tiles. Only
    :meth:`submit` and the result it returns touch the session: one thread's business. The others may run in
    other threads meanwhile.

    Args:
        upscaler: What computes; a session is wrapped into an upscaler.
        deep: Frames have 16 bits.
        large: Results are rounded to integers at once, and by tiles, in the session's thread: four times less
            memory for each that waits. Otherwise that is done beside the session.

    Raises:
        UnsupportedError: a network that does not compute RGB, or a file for larger batches.
    """

    def __init__(self, upscaler: Upscaler | Session, *, deep: bool = False, large: bool = False) -> None:
        self.upscaler = upscaler if isinstance(upscaler, Upscaler) else Upscaler(upscaler)
        self.session = self.upscaler.session
        if self.session.spec.channels != 3:
            raise UnsupportedError(
                f"video is RGB; this network computes {self.session.spec.channels} channel(s); choose another"
            )
        self.scale = self.session.spec.scale
        self._dtype = np.uint16 if deep else np.uint8
        self._large = large
        self.in_flight = 1 if large else self.session.in_flight
        """How many frames the session works on at a time."""

    def prepare(self, pixels: Pixels) -> NDArray[Any]:
        """Return what :meth:`submit` wants for an ``(H, W, 3)`` RGB frame of uint8 or uint16."""
        if self._large:
            return pixels
        direct = self._direct(pixels.shape[0], pixels.shape[1]) and self.session.pixels
        return pixels[None] if direct and pixels.dtype == np.uint8 else to_tensor(pixels)

    def submit(self, x: NDArray[Any]) -> Pending[Any]:
        """Begin to compute what :meth:`prepare` returned."""
        if self._large:
            return Pending.of(self.upscaler.upscale(x))
        pixels = x.dtype == np.uint8
        if pixels or self._direct(x.shape[2], x.shape[3]):
            try:
                return self.session.submit_pixels(x) if pixels else self.session.submit(x)
            except OutOfMemoryError:  # the upscaler goes on with smaller tiles
                x = to_tensor(x[0]) if pixels else x
        return Pending.of(self.upscaler.run(x))

    def finish(self, y: NDArray[Any]) -> Pixels:
        """Return the image, ``(H * scale, W * scale, 3)`` RGB, of a result of :meth:`submit`."""
        if self._large:
            return y
        return y[0] if y.dtype == np.uint8 else from_tensor(y, self._dtype)

    def close(self) -> None:
        """Close the session. Safe to call twice."""
        self.upscaler.close()

    def _direct(self, height: int, width: int) -> bool:
        """Whether the session computes such a frame whole, and gains by getting it directly."""
        session, upscaler = self.session, self.upscaler
        plain = upscaler.tile is None and not upscaler.self_ensemble
        least, most = session.smallest, session.largest or (height, width)
        fits = least[0] <= height <= most[0] and least[1] <= width <= most[1]
        fits = fits and session.spec.size.padding(height, width) == (0, 0)
        return plain and fits and (session.pixels or self.in_flight > 1)
