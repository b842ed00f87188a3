"""Bringing frames to the size that the network gets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hasn_edge.images.arrays import UInt8, middle_window
from hasn_edge.optional import require


def find_part(captured: tuple[int, int], size: tuple[int, int], aspect: float = 1.0) -> tuple[int, int]:
    """Return height and width of the largest part of a frame that has the shape of ``size``.

    Args:
        captured: (height, width) of the frame.
        size: (height, width) wanted, of square pixels.
        aspect: How many times as wide as high the frame's pixels are shown.
    """
    height, width = captured
    if aspect == 1 and 0 <= height - size[0] < 2 and 0 <= width - size[1] < 2:
        return size  # rather without its last row than made softer by resizing
    part_height = round(width * aspect * size[0] / size[1])
    part_width = round(height * size[1] / size[0] / aspect)
    return max(1, min(height, part_height)), max(1, min(width, part_width))


def fit(pixels: UInt8, size: tuple[int, int], aspect: float = 1.0) -> UInt8:
    """Cut a frame to the shape of ``size`` around its middle and resize it, to square pixels.

    Shrinking averages the covered pixels (OpenCV's ``INTER_AREA``), growing is bicubic.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB.
        size: (height, width) wanted.
        aspect: How many times as wide as high the frame's pixels are shown.

    Returns:
        ``(height, width, 3)``, C-contiguous; ``pixels`` itself where there is nothing to do.
    """
    height, width = pixels.shape[:2]
    if (height, width) == size and aspect == 1:
        return pixels
    part = pixels[middle_window((height, width), find_part((height, width), size, aspect))]
    # One after the other: averaging knows no growing, and bicubic would leave out pixels where it shrinks.
    less = min(part.shape[0], size[0]), min(part.shape[1], size[1])
    return _resize(_resize(part, less, "INTER_AREA"), size, "INTER_CUBIC")


def _resize(pixels: UInt8, size: tuple[int, int], method: str) -> UInt8:
    if pixels.shape[:2] == size:
        return np.ascontiguousarray(pixels)
    cv2: Any = require("cv2", extra="all", needed_for="Resizing frames")
    resized: UInt8 = cv2.resize(pixels, (size[1], size[0]), interpolation=getattr(cv2, method))
    return resized


def square_pixels(captured: tuple[int, int], aspect: float) -> tuple[int, int]:
    """Return the (height, width) of a frame as it is shown, with square pixels; none of its own are lost.

    Args:
        captured: (height, width) of the frame.
        aspect: How many times as wide as high its pixels are shown.
    """
    height, width = captured
    return (height, round(width * aspect)) if aspect >= 1 else (round(height / aspect), width)


def keep_shape(captured: tuple[int, int], like: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) that keeps a frame's shape and has no more pixels than ``like``.

    Sides are even, and no side grows; so a very small frame keeps its own.
    """
    factor = min(1.0, math.sqrt(like[0] * like[1] / (captured[0] * captured[1])))
    height, width = (
        max(1, min(side - side % 2, 2 * round(side * factor / 2))) if side > 1 else 1 for side in captured
    )
    while height * width > like[0] * like[1] and max(height, width) > 2:
        height, width = (height - 2, width) if height > width else (height, width - 2)
    return height, width


def describe_misfit(name: str, takes: tuple[int, int] | None, size: tuple[int, int] | None) -> str | None:
    """Say what an engine for frames of one size does with those of another; ``None`` where it takes them.

    Args:
        name: Of the engine.
        takes: The one (height, width) that it takes; ``None`` for any.
        size: (height, width) of the frames; ``None`` where it is not known.
    """
    if takes is None or size is None or takes == size:
        return None
    (height, width), (high, wide) = takes, size
    return f"{name} takes {width}x{height}: frames of {wide}x{high} are padded or computed in tiles"
