"""Bicubic resizing that equals MATLAB's ``imresize``, by which the benchmarks' LR images are made."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hasn_edge.errors import InputError, ShapeError
from hasn_edge.images.arrays import Float64

Weights = tuple[Float64, NDArray[np.intp]]
"""Per output sample: its weights ``(out, taps)`` and the input samples ``(out, taps)`` they belong to."""

_BLOCK = 16  # output samples per matrix product: few enough that the band fills most of the small matrix


def imresize(
    image: NDArray[Any], *, size: tuple[int, int] | None = None, scale: float | None = None
) -> NDArray[Any]:
    """Resize with MATLAB's bicubic kernel (a = -0.5), antialiased where it shrinks.

    The kernel widens by the inverse of the scale when shrinking, samples beyond the edge mirror the
    image, and the axis that shrinks most goes first. Integer images are rounded (half up) after
    *each* axis, as MATLAB does; floating ones are computed in float64 and not clipped.

    Args:
        image: ``(H, W)`` or ``(H, W, C)`` of uint8, uint16 or a floating dtype; at least 1 x 1.
        size: ``(height, width)`` of the result, in pixels; or
        scale: factor for both axes; the result has ``ceil(scale * side)`` pixels.

    Returns:
        An array of the same rank and dtype, C-contiguous.

    Raises:
        ShapeError: another rank or dtype, or no pixels.
        InputError: neither or both of ``size`` and ``scale``, or one that is not positive.
    """
    if image.ndim not in (2, 3) or image.size == 0:
        raise ShapeError(
            f"imresize takes (H, W) or (H, W, C) with at least one pixel, got shape {image.shape}"
        )
    if image.dtype not in (np.uint8, np.uint16) and not np.issubdtype(image.dtype, np.floating):
        raise ShapeError(f"imresize takes uint8, uint16 or floating pixels, got {image.dtype}")
    sizes, scales = _geometry((image.shape[0], image.shape[1]), size, scale)
    result = image
    for axis in sorted((0, 1), key=lambda axis: scales[axis]):
        weights = _contributions(image.shape[axis], sizes[axis], scales[axis])
        result = _along_axis(result, axis, weights)
    return np.ascontiguousarray(result)


def _geometry(
    old: tuple[int, int], size: tuple[int, int] | None, scale: float | None
) -> tuple[tuple[int, int], tuple[float, float]]:
    if (size is None) == (scale is None):
        raise InputError("imresize takes either size=(height, width) or scale=factor")
    if scale is not None:
        if not (math.isfinite(scale) and scale > 0):
            raise InputError(f"imresize: scale is {scale}; expected a positive factor, e.g. 0.25")
        return (math.ceil(scale * old[0]), math.ceil(scale * old[1])), (scale, scale)
    assert size is not None
    if min(size) < 1:
        raise InputError(f"imresize: size is {size}; expected (height, width) of at least 1 x 1 pixels")
    return size, (size[0] / old[0], size[1] / old[1])


def _cubic(x: Float64) -> Float64:
    """Keys' cubic convolution kernel with a = -0.5; support [-2, 2]."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _contributions(old: int, new: int, scale: float) -> Weights:
    shrink = min(scale, 1.0)  # antialiasing: the kernel is stretched only when the image shrinks
    width = 4.0 / shrink
    centre = (np.arange(new) + 0.5) / scale - 0.5
    first = np.floor(centre - width / 2).astype(np.intp) + 1
    index = first[:, None] + np.arange(math.ceil(width) + 1)
    weights = shrink * _cubic(shrink * (centre[:, None] - index))
    weights /= weights.sum(axis=1, keepdims=True)
    # Mirror with the edge sample repeated: ... 1 0 | 0 1 2 ... n-1 | n-1 n-2 ...
    mirror = np.concatenate([np.arange(old), np.arange(old)[::-1]])
    return weights, mirror[index % (2 * old)]


def _along_axis(image: NDArray[Any], axis: int, weights: Weights) -> NDArray[Any]:
    """Resize one axis as a sequence of small dense matrix products over float64 slices of the image."""
    moved = np.moveaxis(image, axis, 0)
    rows = np.ascontiguousarray(moved).reshape(moved.shape[0], -1)
    values, index = weights
    out = np.empty((len(values), rows.shape[1]), image.dtype)
    for start in range(0, len(values), _BLOCK):
        block = slice(start, start + _BLOCK)
        low, high = int(index[block].min()), int(index[block].max()) + 1
        matrix = np.zeros((len(values[block]), high - low))
        np.add.at(matrix, (np.arange(len(matrix))[:, None], index[block] - low), values[block])
        out[block] = _as_dtype(matrix @ rows[low:high].astype(np.float64), image.dtype)
    return np.moveaxis(out.reshape(-1, *moved.shape[1:]), 0, axis)


def _as_dtype(values: Float64, dtype: np.dtype[Any]) -> NDArray[Any]:
    if not np.issubdtype(dtype, np.integer):
        return values.astype(dtype, copy=False)
    values += 0.5
    np.floor(values, out=values)
    return np.clip(values, 0, np.iinfo(dtype).max, out=values).astype(dtype)
