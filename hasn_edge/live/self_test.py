"""The self-test: frames made smaller, and PSNR-Y of the network and of bicubic against the true image."""

from __future__ import annotations

import math
from dataclasses import replace

from hasn_edge.data.resize import imresize
from hasn_edge.errors import InputError, say, use
from hasn_edge.images.arrays import UInt8
from hasn_edge.images.metrics import psnr_y
from hasn_edge.live.fit import fit
from hasn_edge.live.frame import Frame, FrameQuality
from hasn_edge.live.snapshot import QualityFigures

LEAST_SIDE = 3
"""Pixels that a self-test gives the network at least: PSNR cuts as much as one of them off at each edge."""


def shrink_for_self_test(frame: Frame, size: tuple[int, int], scale: int, aspect: float = 1.0) -> Frame:
    """Return the self-test's frame: the image as ``truth``, its MATLAB-bicubic reduction as ``pixels``.

    Args:
        frame: As captured.
        size: (height, width) that the network gets; the truth is ``scale`` times as large.
        scale: Of the network.
        aspect: How many times as wide as high the captured pixels are shown.
    """
    truth = fit(frame.pixels, (size[0] * scale, size[1] * scale), aspect)
    return replace(frame, pixels=imresize(truth, size=size), truth=truth)


def self_test_size(captured: tuple[int, int], scale: int) -> tuple[int, int]:
    """Return what the network gets of a frame of its source's own size: a ``scale``-th of it.

    Raises:
        InputError: the frame is too small to be judged.
    """
    size = captured[0] // scale, captured[1] // scale
    check_self_test(size, scale, f"frames of {captured[1]}x{captured[0]} pixels are")
    return size


def check_self_test(size: tuple[int, int], scale: int, what: str = "") -> None:
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
        enough = max(size[0], LEAST_SIDE), max(size[1], LEAST_SIDE)
        raise InputError(
            f"{what or f'{size[1]}x{size[0]} is'} too small for a self-test at x{scale}: the network must "
            f"get at least {LEAST_SIDE}x{LEAST_SIDE}, of frames of {least}x{least}",
            use(size=enough),
            say("choose a larger source"),
        )


def measure_quality(frame: Frame, upscaled: UInt8, scale: int) -> FrameQuality:
    """Measure as the literature does: luma of BT.601 in studio range, ``scale`` pixels of border cut.

    Args:
        frame: With its ``truth``.
        upscaled: What the network made of ``frame.pixels``, ``(H * scale, W * scale, 3)`` uint8 RGB.
        scale: Of the network.
    """
    assert frame.truth is not None
    bicubic = imresize(frame.pixels, size=(frame.truth.shape[0], frame.truth.shape[1]))
    return FrameQuality(
        hasn_db=psnr_y(upscaled, frame.truth, border=scale),
        bicubic_db=psnr_y(bicubic, frame.truth, border=scale),
    )


class Mean:
    """Mean of decibels without the infinite ones, as :func:`hasn_edge.images.metrics.mean_db` takes it."""

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


def summarize_quality(hasn: Mean, bicubic: Mean) -> QualityFigures | None:
    """Return the figures of a run; ``None`` before there is one."""
    if hasn.count == 0:
        return None
    return {
        "hasn_db": hasn.last,
        "bicubic_db": bicubic.last,
        "hasn_mean_db": hasn.mean,
        "bicubic_mean_db": bicubic.mean,
        "frames": hasn.count,
    }
