"""Whether what a network makes of an image resembles it, and which value it takes for white."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hasn_edge.data.pairs import bicubic_baseline, shipped_eval_set
from hasn_edge.images.arrays import Float32, to_tensor
from hasn_edge.images.metrics import psnr

LIKENESS_DB = 15.0
"""PSNR in dB against bicubic interpolation below which an output does not count as the image upscaled."""

CLEARLY_DB = 1.0
"""How much more an image of [0, 255] has to resemble its result, to be what a network takes: where there are
no biases, both do."""


@dataclass(frozen=True)
class Likeness:
    """PSNR in dB of a network's output against bicubic interpolation, by the value of white, 1 and 255."""

    decibels: Mapping[float, float]

    @property
    def peak(self) -> float:
        """The value of white that the network takes; meaningless where :attr:`problem` is not empty."""
        return 255.0 if self.decibels[255.0] > self.decibels[1.0] + CLEARLY_DB else 1.0

    @property
    def problem(self) -> str:
        """What is wrong where neither resembles the image; else empty."""
        if self.decibels[self.peak] >= LIKENESS_DB:
            return ""
        return (
            "its output does not resemble its input, neither for RGB in [0, 1] nor in [0, 255] "
            f"({self.decibels[1.0]:.1f} and {self.decibels[255.0]:.1f} dB against bicubic interpolation)"
        )


def likeness(run: Callable[[Float32], Float32], size: tuple[int, int], scale: int) -> Likeness:
    """Run a network on a natural image of one (height, width), with white as 1 and as 255.

    Args:
        run: Upscales ``(1, 3, H, W)`` float32 as it is, by ``scale``.
        size: Height and width.
        scale: Factor.
    """
    x = sample(*size)
    expected = bicubic_baseline(scale)(x)
    found = {
        peak: psnr(np.clip(run(x * np.float32(peak)) / np.float32(peak), 0, 1), expected, data_range=1.0)
        for peak in (1.0, 255.0)
    }
    return Likeness(found)


def sample(height: int, width: int) -> Float32:
    """Return a natural image ``(1, 3, height, width)`` float32 in [0, 1], mirrored where it is too small."""
    image = to_tensor(shipped_eval_set(4).pairs[0].lr())
    rows, columns = (max(0, side - have) for side, have in zip((height, width), image.shape[2:], strict=True))
    padded = np.pad(image, ((0, 0), (0, 0), (0, rows), (0, columns)), mode="symmetric")
    return np.ascontiguousarray(padded[:, :, :height, :width], dtype=np.float32)
