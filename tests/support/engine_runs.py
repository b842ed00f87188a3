"""Running an engine on the fake GPU, and what was called meanwhile."""

from __future__ import annotations

import numpy as np

from hasn_edge.runtime.tensorrt.engine_session import TensorRTSession

CUDA = ("cuda-python", "pycuda", "torch")
WITH_GRAPHS = ("cuda-python", "torch")
SHAPE = (1, 3, 16, 20)


def image(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def repeated(x: np.ndarray) -> np.ndarray:
    return x.repeat(4, axis=2).repeat(4, axis=3)


def run_and_check(session: TensorRTSession, *, times: int = 1, shape: tuple[int, ...] = SHAPE) -> None:
    for seed in range(times):
        x = image(seed, shape)
        np.testing.assert_array_equal(session.run(x), repeated(x))


def calls(lab, *names: str) -> list[str]:
    """Return the calls of these names since the last time, in order."""
    found = [name for name in lab.gpu.calls if name in names]
    lab.gpu.calls.clear()
    return found
