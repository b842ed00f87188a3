"""TensorRT's entropy calibrator, the legacy way to INT8 (TensorRT 8.5 to 10): only this file knows it.

Ranges in the graph (Q/DQ) are the way of hasn-edge; this one is for comparing with it. TensorRT runs the FP32
network on the images, histograms every tensor, and picks the ranges itself. DLA wants this algorithm too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hasn_edge.engine.capabilities import Capabilities
from hasn_edge.engine.messages import Kept
from hasn_edge.errors import UnsupportedError, use

Upload = Callable[[NDArray[np.float32]], int]
"""Copies an array to the GPU and returns its device address, valid until the next call."""
OnBatch = Callable[[int], object]
"""Called with the number of batches that TensorRT has taken."""


def require_calibrator(capabilities: Capabilities) -> None:
    """Refuse a TensorRT that has no calibrator.

    Raises:
        UnsupportedError: TensorRT 11 and TensorRT for RTX read ranges from the graph only.
    """
    if not (capabilities.calibrator and capabilities.precision_flags):
        raise UnsupportedError(
            f"{capabilities.title} has no calibrator; TensorRT 8.5 to 10 have",
            use(int8_method="qdq"),
        )


def calibration_cache_name(fingerprint: str, onnx: bytes, version: str) -> str:
    """Return the file name of the ranges of one graph, one set of images and one TensorRT."""
    key = hashlib.sha256(f"{fingerprint}\n{hashlib.sha256(onnx).hexdigest()}\n{version}".encode())
    return f"calibration-{key.hexdigest()[:24]}.cache"


def make_calibrator(
    trt: Any,
    batches: Iterator[NDArray[np.float32]],
    batch_size: int,
    *,
    upload: Upload,
    known: Path | None,
    leave: Path,
    on_batch: OnBatch,
) -> Any:
    """Return a calibrator; it must live until the engine is built, because TensorRT keeps a plain pointer.

    What fails in it ends the calibration, and is in its ``kept``.

    Args:
        trt: The loaded module; :func:`require_calibrator` passed.
        batches: float32 ``(N, 3, H, W)`` in [0, 1], all of one shape.
        batch_size: Their N.
        upload: Brings a batch to the GPU.
        known: Ranges of an earlier calibration; where the file is there, no batch is taken.
        leave: Where to write the ranges.
        on_batch: Called after each batch.
    """

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)  # without this call a pybind subclass crashes
            self.kept = Kept()
            self._taken = 0

        def get_batch_size(self) -> int:
            return batch_size

        def get_batch(self, names: list[str]) -> list[int] | None:
            with self.kept.keeping():
                batch = next(batches, None)
                if batch is not None:
                    address = upload(np.ascontiguousarray(batch))
                    self._taken += 1
                    on_batch(self._taken)
                    return [address]
            return None  # which ends the calibration

        def read_calibration_cache(self) -> bytes | None:
            with self.kept.keeping(), suppress(OSError):
                return None if known is None else known.read_bytes()
            return None

        def write_calibration_cache(self, cache: Any) -> None:
            with self.kept.keeping():
                leave.write_bytes(bytes(cache))

    return Calibrator()
