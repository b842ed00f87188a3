"""Colour, range and layout of images: RGB arrays in memory, and the tensors that a network takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hasn_edge.errors import InputError, ShapeError, call, say

Pixels = NDArray[Any]
"""``(H, W, C)`` of uint8 or uint16: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha (not premultiplied)."""
UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

MAX_PIXELS = 1 << 28
"""Largest image that is decoded: 268 megapixels. A file of a few kilobytes can claim terapixels."""

LUMA = (65.481, 128.553, 24.966)
"""What R, G and B in [0, 1] add to Y of BT.601 in studio range, which begins at 16, of 255."""

_STRIP = 64  # rows converted at a time: a x4 full-HD frame would need gigabytes of temporaries otherwise


def to_rgb(pixels: Pixels) -> Pixels:
    """Return ``(H, W, 3)`` of the same dtype: gray repeated, alpha left out (see `split_alpha`)."""
    check_pixels(pixels)
    if pixels.shape[2] == 3:
        return pixels
    return np.ascontiguousarray(pixels[..., :3] if pixels.shape[2] == 4 else pixels[..., [0, 0, 0]])


def to_uint8(pixels: Pixels) -> UInt8:
    """Return the image in 8 bits; 16-bit values are divided by 257 and rounded."""
    check_pixels(pixels)
    if pixels.dtype == np.uint8:
        return pixels
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def split_alpha(pixels: Pixels) -> tuple[Pixels, Pixels | None]:
    """Return colour ``(H, W, 1 or 3)`` and alpha ``(H, W, 1)``, which is ``None`` for opaque images."""
    check_pixels(pixels)
    if pixels.shape[2] % 2:
        return pixels, None
    return np.ascontiguousarray(pixels[..., :-1]), np.ascontiguousarray(pixels[..., -1:])


def visible_window(alpha: Pixels, margin: int) -> tuple[slice, slice]:
    """Return the rows and columns that are not wholly transparent, and ``margin`` more on each side.

    Args:
        alpha: ``(H, W, 1)``.
        margin: In pixels.

    Returns:
        Slices for rows and columns; empty ones where nothing is visible.
    """
    slices = []
    for axis in (1, 0):
        seen = np.flatnonzero(alpha[..., 0].any(axis=axis))
        first, last = (seen[0], seen[-1] + 1) if len(seen) else (margin, -margin)
        slices.append(slice(max(0, int(first) - margin), max(0, int(last) + margin)))
    return slices[0], slices[1]


def middle_window(size: tuple[int, ...], part: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns in the middle of an image.

    Args:
        size: Height and width of the image; what follows them does not matter.
        part: Height and width of what is wanted at most.
    """
    high, wide = (min(sides) for sides in zip(size, part, strict=False))
    top, left = (size[0] - high) // 2, (size[1] - wide) // 2
    return slice(top, top + high), slice(left, left + wide)


def enlarge_window(window: tuple[slice, slice], scale: int) -> tuple[slice, slice]:
    """Return what a window of an image is in the same image ``scale`` times larger."""
    rows, columns = (slice(scale * part.start, scale * part.stop) for part in window)
    return rows, columns


def bleed_colours(colour: Pixels, alpha: Pixels) -> Pixels:
    """Return colours that go on where an image is wholly transparent, instead of those that are hidden there.

    Editors leave black or white there, and whatever looks at the neighbours of a pixel makes a rim of it.
    Each hidden pixel gets the mean, weighted by alpha, of the smallest block of 2, 4, 8 ... pixels around it
    that has visible ones; then the blocks are smoothed.

    Args:
        colour: ``(H, W, C)`` of uint8 or uint16.
        alpha: ``(H, W, 1)``.
    """
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return colour
    weight: Float32 = np.divide(alpha, np.iinfo(alpha.dtype).max, dtype=np.float32)
    filled = _fill_hidden(colour.astype(np.float32), weight)
    return np.where(hidden, np.rint(filled).astype(colour.dtype), colour)


def _fill_hidden(values: Float32, weight: Float32) -> Float32:
    """Replace the values without weight by those of the coarser image; ``(H, W, C)`` and ``(H, W, 1)``."""
    height, width = weight.shape[:2]
    if weight.all() or max(height, width) == 1:
        return values
    odd = ((0, height % 2), (0, width % 2), (0, 0))

    def add_blocks(each: Float32) -> Float32:
        padded = np.pad(each, odd)
        rows = padded[0::2] + padded[1::2]
        return np.asarray(rows[:, 0::2] + rows[:, 1::2])

    total = add_blocks(weight)
    mean: Float32 = np.divide(add_blocks(values * weight), np.maximum(total, 1e-12), dtype=np.float32)
    coarse = _fill_hidden(mean, np.minimum(total, 1))
    large = np.pad(
        coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width], ((1, 1), (1, 1), (0, 0)), "edge"
    )
    columns = large[:, :-2] + 2 * large[:, 1:-1] + large[:, 2:]
    smooth = (columns[:-2] + 2 * columns[1:-1] + columns[2:]) / 16
    return np.where(weight > 0, values, smooth)


def to_tensor(rgb: Pixels) -> Float32:
    """Turn an RGB image into what a network takes.

    Args:
        rgb: ``(H, W, 3)`` uint8 or uint16.

    Returns:
        ``(1, 3, H, W)`` float32 in [0, 1], C-contiguous: the value divided by 255 or 65535.

    Raises:
        ShapeError: another shape or dtype.
    """
    check_pixels(rgb)
    if rgb.shape[2] != 3:
        raise ShapeError(
            f"expected an RGB image (H, W, 3), got shape {rgb.shape}; see hasn_edge.images.arrays.to_rgb"
        )
    x_CHW = np.empty((3, *rgb.shape[:2]), np.float32)
    np.divide(rgb.transpose(2, 0, 1), np.float32(np.iinfo(rgb.dtype).max), out=x_CHW)
    return x_CHW[None]


def from_tensor(y_NCHW: NDArray[Any], dtype: DTypeLike = np.uint8) -> Pixels:
    """Turn a network's output back into an image: clipped to [0, 1], scaled, rounded to the nearest level.

    Args:
        y_NCHW: ``(1, C, H, W)`` of a floating dtype.
        dtype: ``numpy.uint8`` or ``numpy.uint16``.

    Returns:
        ``(H, W, C)`` of ``dtype``, C-contiguous.

    Raises:
        ShapeError: another rank, a batch of more than one, or an integer tensor.
        InputError: the tensor has values that are not finite numbers.
    """
    if y_NCHW.ndim != 4 or y_NCHW.shape[0] != 1 or not np.issubdtype(y_NCHW.dtype, np.floating):
        raise ShapeError(
            f"expected one image as a floating (1, C, H, W) tensor, got {y_NCHW.shape} of {y_NCHW.dtype}; "
            "convert a batch one image at a time"
        )
    levels = _levels(dtype)
    _, channels, height, width = y_NCHW.shape
    pixels = np.empty((height, width, channels), dtype)
    compute = np.result_type(y_NCHW.dtype, np.float32)
    for top in range(0, height, _STRIP):
        strip = y_NCHW[0, :, top : top + _STRIP].astype(compute)
        # Clipping makes infinity white and the cast makes NaN any level: a broken engine, FP16 overflowing
        # inside for one, would pass for a working one.
        if not np.isfinite(strip).all():
            raise InputError(
                "the network's output has values that are not numbers (NaN or infinity): this file or "
                "precision does not work for this image",
                call("build", precision="fp32"),
                say("check the checkpoint"),
            )
        strip = np.clip(strip, 0, 1, out=strip)
        strip *= levels
        rounded = np.rint(strip, out=strip).astype(dtype)
        for channel in range(channels):  # twice as fast as one transposed copy
            pixels[top : top + _STRIP, :, channel] = rounded[channel]
    return pixels


def luma(rgb: UInt8) -> Float64:
    """Return the luma ``(H, W)`` of a uint8 RGB image ``(H, W, 3)``: float64 in [16, 235], not rounded.

    ITU-R BT.601 with studio range, as MATLAB's ``rgb2ycbcr`` has it and every published PSNR-Y uses:
    ``16 + (65.481 R + 128.553 G + 24.966 B) / 255``.

    Raises:
        ShapeError: another shape or dtype.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ShapeError(
            f"luma needs (H, W, 3) of uint8, got {rgb.shape} of {rgb.dtype}; see to_rgb, to_uint8"
        )
    weights = np.array(LUMA) / 255.0
    y_HW: Float64 = rgb[..., 0] * weights[0]
    y_HW += rgb[..., 1] * weights[1]
    y_HW += rgb[..., 2] * weights[2]
    y_HW += 16.0
    return y_HW


def check_pixels(pixels: Pixels) -> None:
    """Refuse what is not an image.

    Raises:
        ShapeError: no array, not ``(H, W, C)`` with C from 1 to 4, no pixels, or neither uint8 nor uint16.
    """
    if not isinstance(pixels, np.ndarray):
        raise ShapeError(
            f"expected an image as a NumPy array (H, W, C) of uint8 or uint16, got {type(pixels).__name__}",
            say("hasn_edge.read_image reads files"),
            say("numpy.asarray makes one of an image of Pillow or a tensor"),
        )
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or pixels.size == 0:
        planes = pixels.ndim == 3 and 1 <= pixels.shape[0] <= 4
        raise ShapeError(
            f"expected an image (H, W, C) with 1 to 4 channels, got shape {pixels.shape}",
            *([say("call .transpose(1, 2, 0), it looks like (C, H, W)")] if planes else []),
        )
    if pixels.dtype not in (np.uint8, np.uint16):
        floats = np.issubdtype(pixels.dtype, np.floating)
        raise ShapeError(
            f"expected pixels of uint8 or uint16, got {pixels.dtype}",
            say(
                "make 8 bits of [0, 1]: (x.clip(0, 1) * 255).round().astype(numpy.uint8)"
                if floats
                else "call .astype(numpy.uint8) where its values are 0 to 255"
            ),
        )


def _levels(dtype: DTypeLike) -> int:
    kind = np.dtype(dtype)
    if kind not in (np.uint8, np.uint16):
        raise ShapeError(f"an image has uint8 or uint16 levels, not {kind}")
    return int(np.iinfo(kind).max)
