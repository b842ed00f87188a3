"""Decoding, the network and encoding overlap, each in its own thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from hasn_edge.errors import InputError
from hasn_edge.images.arrays import Pixels, from_tensor, to_tensor
from hasn_edge.runtime.session import Pending
from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.video.decode import DecodedStep, Decoder
from hasn_edge.video.encode import Encoder
from hasn_edge.video.queues import BoundedQueue, Closed
from hasn_edge.video.runner import Runner

T = TypeVar("T")

FrameProgress = Callable[[int, "int | None"], None]
"""Called after every image with how many are done, and how many there are if the file says so."""

_WAITING = 2  # images between two stages: enough to even them out, and few, because they are large
_LARGE = 1 << 23
"""Pixels of a result from which on it is rounded to 8 bits at once, and by tiles, in the network's thread:
four times less memory for each that waits. Below, that is done beside the network."""


class Network:
    """Takes images through a session; only :meth:`begin` and the result it returns compute.

    Args:
        upscaler: Over any session.
        size: Height and width of the upscaled images.
        deep: Whether images have 16 bits.
    """

    def __init__(self, upscaler: Upscaler, size: tuple[int, int], *, deep: bool) -> None:
        self._upscaler = upscaler
        self._runner = Runner(upscaler)
        self._large = size[0] * size[1] > _LARGE
        self._deep = deep
        self.in_flight = 1 if self._large else self._runner.in_flight
        """How many images may be under way at a time."""

    def prepare(self, image: Pixels) -> Any:
        """Return what :meth:`begin` wants; in any thread."""
        if self._large:
            return image
        return to_tensor(image) if self._deep else self._runner.prepare(image)

    def begin(self, x: Any) -> Pending[Any]:
        """Begin to compute; in the session's thread."""
        try:
            return Pending.of(self._upscaler.upscale(x)) if self._large else self._runner.submit(x)
        except MemoryError as exc:
            raise InputError(
                "not enough memory for images of this size; make the video smaller first"
            ) from exc

    def finish(self, y: Any) -> Pixels:
        """Return the image of a result; in any thread."""
        if self._large:
            upscaled: Pixels = y
            return upscaled
        return from_tensor(y, np.uint16) if self._deep else self._runner.finish(y)

    def notes(self, image: Pixels) -> list[str]:
        """Say how images like this one were cut, and what that cost."""
        report = self._upscaler.last_report
        if report is None or report.tiles == 1:
            return []
        causes = {"memory": " because of memory", "static size": " because the model's file has one size"}
        why = causes.get(report.reason or "", "")
        drift = self._upscaler.tile_drift(image)
        return [
            f"each image was computed in {report.tiles} tiles of {report.tile}{why}; drift of the first "
            f"from the whole frame: {drift}"
        ]


def transcode(
    decoder: Decoder, network: Network, encoder: Encoder, progress: FrameProgress | None
) -> list[str]:
    """Decode, upscale and encode every image; copy what travels beside them.

    The session is used in the calling thread only. What goes wrong in any thread stops all of them, and is
    raised here.

    Returns:
        What a user should know, one sentence each.
    """
    decoded: BoundedQueue[tuple[DecodedStep, Any]] = BoundedQueue(_WAITING)
    computed: BoundedQueue[tuple[DecodedStep, Any]] = BoundedQueue(_WAITING)

    def read() -> None:
        try:
            for step in decoder.steps():
                if not decoded.put((step, None if step.image is None else network.prepare(step.image))):
                    return
        finally:
            decoded.finish()

    def write() -> None:
        try:
            for step, y in _items(computed):
                for packet in step.packets:
                    encoder.copy(packet)
                if step.image is not None:
                    encoder.write(network.finish(y), step.pts, step.duration)
        finally:
            computed.close()

    with ThreadPoolExecutor(2, thread_name_prefix="hasn-edge-video") as threads:
        reading, writing = threads.submit(read), threads.submit(write)
        try:
            first: Pixels | None = None
            results = _results(_items(decoded), network)
            for count, (step, y) in enumerate(results, start=1):
                if not computed.put((step, y)):
                    break  # the writer failed; its error comes below
                first = step.image if first is None else first
                if progress is not None and step.image is not None:
                    progress(count, decoder.expected)
            decoded.close()
            reading.result()
            notes = [] if first is None else network.notes(first)
            computed.finish()
            writing.result()
        finally:
            decoded.close()
            computed.close()
    return notes


def _results(steps: Iterable[tuple[DecodedStep, Any]], network: Network) -> Iterator[tuple[DecodedStep, Any]]:
    """Yield every step with its result, in order; as many are under way as the session computes at a time."""
    under_way: deque[tuple[DecodedStep, Pending[Any] | None]] = deque()
    for step, x in steps:
        under_way.append((step, None if x is None else network.begin(x)))
        if len(under_way) >= network.in_flight:
            yield _result(*under_way.popleft())
    while under_way:
        yield _result(*under_way.popleft())


def _result(step: DecodedStep, pending: Pending[Any] | None) -> tuple[DecodedStep, Any]:
    return step, None if pending is None else pending.result()


def _items(lane: BoundedQueue[T]) -> Iterator[T]:
    """Take from a lane until nothing comes any more."""
    with suppress(Closed):
        while True:
            item = lane.get()
            assert item is not None
            yield item
