"""Bringing frames to the size that the network gets, and making them smaller for the self-test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hasn_edge.data.resize import imresize
from hasn_edge.errors import InputError
from hasn_edge.optional import require
from hasn_edge.video.frame import Frame, UInt8


def fitted(pixels: UInt8, size: tuple[int, int]) -> UInt8:
    """Cut a frame to the shape of ``size`` around its middle and resize it.

    Shrinking averages the covered pixels (OpenCV's ``INTER_AREA``), growing is bicubic.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB.
        size: (height, width) wanted.

    Returns:
        ``(height, width, 3)``, C-contiguous; ``pixels`` itself where there is nothing to do.
    """
    height, width = pixels.shape[:2]
    if (height, width) == size:
        return pixels
    # The largest part of the frame that has the wanted shape, at least one pixel.
    part_height = max(1, min(height, round(width * size[0] / size[1])))
    part_width = max(1, min(width, round(height * size[1] / size[0])))
    top, left = (height - part_height) // 2, (width - part_width) // 2
    part = pixels[top : top + part_height, left : left + part_width]
    if (part_height, part_width) == size:
        return np.ascontiguousarray(part)
    cv2: Any = require("cv2", extra="all", needed_for="Resizing frames")
    shrinks = part_height >= size[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    resized: UInt8 = cv2.resize(part, (size[1], size[0]), interpolation=method)
    return resized


def smaller(frame: Frame, size: tuple[int, int], scale: int) -> Frame:
    """Return the self-test's frame: the picture as ``truth``, its MATLAB-bicubic reduction as ``pixels``.

    Args:
        frame: As captured.
        size: (height, width) that the network gets; the truth is ``scale`` times as large.
        scale: Of the network.
    """
    truth = fitted(frame.pixels, (size[0] * scale, size[1] * scale))
    return replace(frame, pixels=imresize(truth, size=size), truth=truth)


def self_test_size(captured: tuple[int, int], scale: int) -> tuple[int, int]:
    """Return what the network gets of a frame of its source's own size: a ``scale``-th of it.

    Raises:
        InputError: the frame is smaller than one pixel of that.
    """
    height, width = captured[0] // scale, captured[1] // scale
    if min(height, width) < 1:
        raise InputError(
            f"frames of {captured[1]}x{captured[0]} pixels are too small for a self-test at x{scale}"
        )
    return height, width
