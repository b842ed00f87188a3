"""What the parent asks of the compiler's process, as files in the build folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from hasn_edge.engine.target import EngineTarget
from hasn_edge.errors import ShapeError
from hasn_edge.spec import Precision

GRAPH, PLAN, TIMING, CALIBRATION = "model.onnx", "engine.plan", "timing.cache", "calibration.cache"
"""Names in the build folder: what comes in, and what the compiler leaves."""

_REQUEST = "request.json"


@dataclass(frozen=True, kw_only=True)
class CalibratorInput:
    """Images for TensorRT's own entropy calibrator, the legacy method."""

    batches: Iterable[NDArray[np.float32]]
    """float32 ``(N, 3, H, W)`` RGB in [0, 1], all of one shape; the graph's, where that is static."""
    fingerprint: str
    """Hash of the images: a calibration is kept and found again by it."""
    float_layers: tuple[str, ...] = ()
    """Names of convolutions that stay in FP16, as a recipe's ``keep_float`` chose them."""


@dataclass(frozen=True, kw_only=True)
class CalibrationFiles:
    """The images of a :class:`CalibratorInput` in the build folder."""

    fingerprint: str
    count: int
    shape: tuple[int, int, int, int]
    float_layers: tuple[str, ...]

    def read(self, folder: Path) -> Iterator[NDArray[np.float32]]:
        """Yield the batches in order."""
        for index in range(self.count):
            yield np.load(_batch(folder, index), allow_pickle=False)


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """All that the compiler is told beside the graph."""

    target: EngineTarget
    precision: Precision | None
    """``None``: as the graph says."""
    cache: str | None
    """Folder of timings and calibrations to start from."""
    calibration: CalibrationFiles | None

    def write(self, folder: Path) -> None:
        """Write the request for the child."""
        (folder / _REQUEST).write_bytes(msgspec.json.encode(self))

    @classmethod
    def read(cls, folder: Path) -> BuildRequest:
        """Read what the parent wrote."""
        return msgspec.json.decode((folder / _REQUEST).read_bytes(), type=cls)


def write_batches(calibrator: CalibratorInput, folder: Path) -> CalibrationFiles:
    """Write a calibrator's images for the child.

    Raises:
        ShapeError: no image, another type or rank than float32 ``(N, C, H, W)``, or several shapes.
    """
    shape: tuple[int, ...] | None = None
    count = 0
    for count, batch in enumerate(calibrator.batches, start=1):
        if batch.dtype != np.float32 or batch.ndim != 4:
            raise ShapeError(
                f"calibration batch {count} is {batch.dtype} of shape {batch.shape}; expected float32 "
                "(N, C, H, W)"
            )
        shape = shape or batch.shape
        if batch.shape != shape:
            raise ShapeError(
                f"calibration batch {count} has shape {batch.shape}, the first one {shape}; TensorRT's "
                "calibrator takes one shape only: cut the images to one size"
            )
        np.save(_batch(folder, count - 1), np.ascontiguousarray(batch))
    if shape is None:
        raise ShapeError("there is no image to calibrate on; give the calibrator at least one")
    return CalibrationFiles(
        fingerprint=calibrator.fingerprint,
        count=count,
        shape=(shape[0], shape[1], shape[2], shape[3]),
        float_layers=calibrator.float_layers,
    )


def _batch(folder: Path, index: int) -> Path:
    return folder / f"batch-{index:05}.npy"
