"""Bringing frames to the size that the network gets, and making them smaller for the self-test."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from hasn_edge.data.resize import imresize
from hasn_edge.errors import InputError
from hasn_edge.images.arrays import UInt8
from hasn_edge.live.frame import Frame
from hasn_edge.optional import require

Size = tuple[int, int]

LEAST_SIDE = 3
"""Pixels that a self-test gives the network at least: PSNR cuts as much as one of them off at each edge."""


def part_of(captured: Size, size: Size, aspect: float = 1.0) -> Size:
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


def fitted(pixels: UInt8, size: Size, aspect: float = 1.0) -> UInt8:
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
    part_height, part_width = part_of((height, width), size, aspect)
    top, left = (height - part_height) // 2, (width - part_width) // 2
    part = pixels[top : top + part_height, left : left + part_width]
    # One after the other: averaging knows no growing, and bicubic would leave out pixels where it shrinks.
    less = min(part_height, size[0]), min(part_width, size[1])
    return _resized(_resized(part, less, "INTER_AREA"), size, "INTER_CUBIC")


def _resized(pixels: UInt8, size: Size, method: str) -> UInt8:
    if pixels.shape[:2] == size:
        return np.ascontiguousarray(pixels)
    cv2: Any = require("cv2", extra="all", needed_for="Resizing frames")
    resized: UInt8 = cv2.resize(pixels, (size[1], size[0]), interpolation=getattr(cv2, method))
    return resized


def squared(captured: Size, aspect: float) -> Size:
    """Return the (height, width) of a frame as it is shown, with square pixels; none of its own are lost.

    Args:
        captured: (height, width) of the frame.
        aspect: How many times as wide as high its pixels are shown.
    """
    height, width = captured
    return (height, round(width * aspect)) if aspect >= 1 else (round(height / aspect), width)


def kept_shape(captured: Size, like: Size) -> Size:
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


def misfit(name: str, takes: Size | None, size: Size | None) -> str | None:
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


def smaller(frame: Frame, size: Size, scale: int, aspect: float = 1.0) -> Frame:
    """Return the self-test's frame: the image as ``truth``, its MATLAB-bicubic reduction as ``pixels``.

    Args:
        frame: As captured.
        size: (height, width) that the network gets; the truth is ``scale`` times as large.
        scale: Of the network.
        aspect: How many times as wide as high the captured pixels are shown.
    """
    truth = fitted(frame.pixels, (size[0] * scale, size[1] * scale), aspect)
    return replace(frame, pixels=imresize(truth, size=size), truth=truth)


def self_test_size(captured: Size, scale: int) -> Size:
    """Return what the network gets of a frame of its source's own size: a ``scale``-th of it.

    Raises:
        InputError: the frame is too small to be judged.
    """
    size = captured[0] // scale, captured[1] // scale
    check_self_test(size, scale, f"frames of {captured[1]}x{captured[0]} pixels are")
    return size


def check_self_test(size: Size, scale: int, what: str = "") -> None:
    """Return if a self-test can judge frames of which the network gets (height, width).

    Args:
        size: What it gets.
        scale: Of the network.
        what: What is too small, for people.

    Raises:
        InputError: nothing is left of them inside the border that PSNR leaves out, ``scale`` pixels wide.
    """
    if min(size) < LEAST_SIDE:
        least = LEAST_SIDE * scale
        raise InputError(
            f"{what or f'{size[1]}x{size[0]} is'} too small for a self-test at x{scale}: the network must "
            f"get at least {LEAST_SIDE}x{LEAST_SIDE}, of frames of {least}x{least}; choose a larger --size "
            "or source"
        )
