"""A session without a network, for tests and dry runs of what surrounds one: nearest-neighbour upscaling."""

from __future__ import annotations

import threading

import numpy as np

from hasn_edge.images.arrays import Float32, UInt8
from hasn_edge.runtime.session import Session
from hasn_edge.spec import ModelSpec, Precision


class FakeSession(Session):
    """Repeats every pixel ``scale`` times in both directions; checks its input like every other session.

    Args:
        spec: The network to stand in for; the published x4 network by default.
        precision: What :attr:`precision` shall say; nothing is computed in it.
        size: Accept this (height, width) only, like a static artifact.
        batch: Accept this many images a call only.
    """

    backend = "fake"

    def __init__(
        self,
        spec: ModelSpec | None = None,
        *,
        precision: Precision = Precision.FP32,
        size: tuple[int, int] | None = None,
        batch: int | None = None,
    ) -> None:
        super().__init__(
            ModelSpec() if spec is None else spec, precision=precision, device="cpu", size=size, batch=batch
        )
        self.calls: list[tuple[int, ...]] = []
        """Shape of every input so far."""

    def _run(self, x_NCHW: Float32) -> Float32:
        self.calls.append(x_NCHW.shape)
        y_NCHW: Float32 = np.repeat(np.repeat(x_NCHW, self.spec.scale, axis=2), self.spec.scale, axis=3)
        return y_NCHW


class PixelSession(FakeSession):
    """Takes and gives 8-bit pixels, like a file that was built so."""

    pixels = True

    def _run_pixels(self, x_NHWC: UInt8) -> UInt8:
        y_NHWC: UInt8 = np.repeat(np.repeat(x_NHWC, self.spec.scale, axis=1), self.spec.scale, axis=2)
        return y_NHWC


class RecordingSession(FakeSession):
    """Keeps its inputs, ``(H, W, 3)``, and the names of the threads that they came in; twice as large."""

    def __init__(self) -> None:
        super().__init__(ModelSpec(scale=2))
        self.inputs: list[Float32] = []
        self.threads: set[str] = set()

    def _run(self, x_NCHW: Float32) -> Float32:
        self.inputs.append(x_NCHW[0].transpose(1, 2, 0).copy())
        self.threads.add(threading.current_thread().name)
        return super()._run(x_NCHW)
