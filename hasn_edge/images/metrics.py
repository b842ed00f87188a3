"""Image quality as the super-resolution literature measures it: PSNR and SSIM on luma."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hasn_edge.errors import ShapeError
from hasn_edge.images.arrays import Float64, UInt8, luma

SSIM_WINDOW = 11
"""Pixels on each side of what SSIM looks at: no smaller image has one."""
_SIGMA = 1.5
_STRIP = 64  # rows of the SSIM map at a time: keeps the five moments of a strip in the CPU's cache


def psnr(a: NDArray[Any], b: NDArray[Any], *, data_range: float) -> float:
    """Peak signal-to-noise ratio in dB: ``10 log10(data_range**2 / mean((a - b)**2))``.

    Args:
        a: Array of any shape and numeric dtype; computed in float64.
        b: Array of the same shape.
        data_range: Largest possible minus smallest possible value, e.g. 255.

    Returns:
        dB; ``inf`` where both arrays are equal (see `mean_db` before averaging).

    Raises:
        ShapeError: the shapes differ, or there is no pixel.
    """
    _check_same("PSNR", a, b)
    difference = np.subtract(a, b, dtype=np.float64)
    error = float(np.mean(np.square(difference, out=difference)))
    return math.inf if error == 0 else 10 * math.log10(data_range**2 / error)


def ssim(a: NDArray[Any], b: NDArray[Any], *, data_range: float) -> float:
    """Structural similarity of two single-channel images (Wang et al. 2004), 1 where they are equal.

    Gaussian window of 11 x 11 with sigma 1.5, only where the window lies wholly inside, population
    (not sample) covariance, K1 = 0.01, K2 = 0.03; computed in float64.

    Args:
        a: ``(H, W)``, both at least 11.
        b: Array of the same shape.
        data_range: Largest possible minus smallest possible value, e.g. 255.

    Raises:
        ShapeError: the shapes differ, are not 2-D, or are smaller than the window.
    """
    _check_same("SSIM", a, b)
    if a.ndim != 2 or min(a.shape) < SSIM_WINDOW:
        raise ShapeError(
            f"SSIM needs one channel of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels after the border is "
            f"cut, got an array of shape {a.shape}; leave this image out of the set"
        )
    rows = a.shape[0] - SSIM_WINDOW + 1
    total = 0.0
    for top in range(0, rows, _STRIP):
        strip = slice(top, min(top + _STRIP, rows) + SSIM_WINDOW - 1)
        total += _ssim_sum(a[strip].astype(np.float64), b[strip].astype(np.float64), data_range)
    return total / float(rows * (a.shape[1] - SSIM_WINDOW + 1))


def psnr_y(sr: UInt8, hr: UInt8, *, border: int) -> float:
    """PSNR in dB of the BT.601 studio-range luma of two uint8 RGB images ``(H, W, 3)``.

    Args:
        sr: Image to judge.
        hr: Ground truth of the same shape.
        border: Pixels cut from each side first; the literature cuts the upscaling factor.

    Raises:
        ShapeError: another shape or dtype, or nothing is left inside the border.
    """
    return psnr(*_luma_pair(sr, hr, border), data_range=255.0)


def psnr_and_ssim_y(sr: UInt8, hr: UInt8, *, border: int) -> tuple[float, float]:
    """`psnr_y` and SSIM of the same luma, in one step."""
    a, b = _luma_pair(sr, hr, border)
    return psnr(a, b, data_range=255.0), ssim(a, b, data_range=255.0)


def psnr_rgb(a: UInt8, b: UInt8) -> float:
    """PSNR in dB over all three channels of two uint8 RGB images, no border cut.

    This is what *fidelity* means in every report: how near a faster network's image is to the
    reference network's image, whatever the ground truth.
    """
    for pixels in (a, b):
        _check_rgb8(pixels)
    return psnr(a, b, data_range=255.0)


def mean_db(values: Iterable[float]) -> float:
    """Mean of PSNR values, leaving out images that are identical (``inf``).

    One identical image would otherwise make the mean of a whole set infinite and hide every other
    image. ``inf`` only where all are identical, ``nan`` for no values at all.
    """
    everything = list(values)
    finite = [value for value in everything if value != math.inf]
    if finite:
        return math.fsum(finite) / len(finite)
    return math.inf if everything else math.nan


def finite_or_none(value: float) -> float | None:
    """Return what JSON can hold of a figure: ``None`` for infinity and what is no number."""
    return value if math.isfinite(value) else None


def _check_same(what: str, a: NDArray[Any], b: NDArray[Any]) -> None:
    if a.shape != b.shape:
        raise ShapeError(
            f"{what} compares images of one size, got {a.shape} and {b.shape}; crop or resize one of them"
        )
    if a.size == 0:
        raise ShapeError(f"{what} needs at least one pixel, got shape {a.shape}; cut a smaller border")


def _check_rgb8(pixels: NDArray[Any]) -> None:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ShapeError(
            f"expected an RGB image (H, W, 3) of uint8, got {pixels.shape} of {pixels.dtype}; convert it "
            "with hasn_edge.images.arrays.to_rgb and to_uint8"
        )


def _luma_pair(sr: UInt8, hr: UInt8, border: int) -> tuple[Float64, Float64]:
    if border < 0:
        raise ShapeError(f"border is {border} pixels; expected 0 or more")
    for pixels in (sr, hr):
        _check_rgb8(pixels)
    _check_same("PSNR and SSIM", sr, hr)
    height, width = sr.shape[:2]
    inside = (slice(border, max(border, height - border)), slice(border, max(border, width - border)))
    return luma(sr[inside]), luma(hr[inside])


def _gaussian() -> Float64:
    offset = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights: Float64 = np.exp(-0.5 * np.square(offset / _SIGMA))
    weights /= weights.sum()
    return weights


def _blur(x: Float64) -> Float64:
    """Correlate the last two axes with the Gaussian window, keeping only whole windows."""
    weights = _gaussian()
    rows = x.shape[-2] - SSIM_WINDOW + 1
    columns = x.shape[-1] - SSIM_WINDOW + 1
    down: Float64 = weights[0] * x[..., :rows, :]
    for k in range(1, SSIM_WINDOW):
        down += weights[k] * x[..., k : k + rows, :]
    across: Float64 = weights[0] * down[..., :columns]
    for k in range(1, SSIM_WINDOW):
        across += weights[k] * down[..., k : k + columns]
    return across


def _ssim_sum(a: Float64, b: Float64, data_range: float) -> float:
    c1 = (0.01 * data_range) ** 2
    c2 = (0.03 * data_range) ** 2
    mean_a, mean_b, square_a, square_b, product = _blur(np.stack([a, b, a * a, b * b, a * b]))
    both = mean_a * mean_b
    squares = mean_a * mean_a + mean_b * mean_b
    covariance = product - both
    variances = square_a + square_b - squares
    index = ((2 * both + c1) * (2 * covariance + c2)) / ((squares + c1) * (variances + c2))
    return float(index.sum())
