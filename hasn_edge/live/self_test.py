"""What the self-test says of one frame: PSNR-Y of the network and of bicubic against the true image."""

from __future__ import annotations

import math

from hasn_edge.data.resize import imresize
from hasn_edge.images.arrays import UInt8
from hasn_edge.live.frame import Frame, Quality
from hasn_edge.metrics import psnr_y


def quality(frame: Frame, upscaled: UInt8, scale: int) -> Quality:
    """Measure as the literature does: luma of BT.601 in studio range, ``scale`` pixels of border cut.

    Args:
        frame: With its ``truth``.
        upscaled: What the network made of ``frame.pixels``, ``(H * scale, W * scale, 3)`` uint8 RGB.
        scale: Of the network.
    """
    assert frame.truth is not None
    bicubic = imresize(frame.pixels, size=(frame.truth.shape[0], frame.truth.shape[1]))
    return Quality(
        hasn_db=psnr_y(upscaled, frame.truth, border=scale),
        bicubic_db=psnr_y(bicubic, frame.truth, border=scale),
    )


class Mean:
    """Mean of decibels without the infinite ones, as :func:`hasn_edge.metrics.mean_db` takes it."""

    def __init__(self) -> None:
        self.count = self._finite = 0
        """How many values came, the infinite ones included."""
        self._total = 0.0
        self.last: float | None = None
        """The newest one; ``None`` where it was infinite."""

    def add(self, value: float) -> None:
        """Add a value."""
        self.count += 1
        # JSON has no infinity: two identical images have no figure.
        self.last = value if math.isfinite(value) else None
        if self.last is not None:
            self._finite += 1
            self._total += value

    @property
    def mean(self) -> float | None:
        """The mean of the finite ones; ``None`` without any."""
        return self._total / self._finite if self._finite else None


def so_far(hasn: Mean, bicubic: Mean) -> dict[str, float | None] | None:
    """Return the figures of a run as JSON values; ``None`` before there is one."""
    if hasn.count == 0:
        return None
    return {
        "hasn_db": hasn.last,
        "bicubic_db": bicubic.last,
        "hasn_mean_db": hasn.mean,
        "bicubic_mean_db": bicubic.mean,
        "frames": hasn.count,
    }
