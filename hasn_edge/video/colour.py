"""Decoded frames become upright RGB, and RGB frames, by the matrix, range and depth that a file states."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hasn_edge.images.arrays import Pixels
from hasn_edge.optional import require
from hasn_edge.video.container import VideoFrame

LIMITED, FULL = 1, 2
"""FFmpeg's numbers for the range of luma: 16 to 235, and 0 to 255."""
BT709, UNSPECIFIED, SMPTE170M, BT2020 = 1, 2, 6, 9
"""Numbers of ITU-T H.273 for the matrix and the primaries."""
_CONVERTED = (1, 4, 5, 6, 7, 9)
"""Matrices that swscale converts by: BT.709, FCC, BT.601 (twice), SMPTE 240M, BT.2020."""
_HDR = {16: "PQ", 18: "HLG"}

# Bicubic, with chroma interpolated at full width both ways, and exact rounding. Over a ramp of colours,
# PyAV's default takes whole pixels of chroma and truncates: 1.7 levels of mean error in RGB, and luma 1.1
# levels darker after coming back, against 0.6 and 0.0 with these flags (4:2:0, 8 bits).
_SWSCALE = 0x4 | 0x2000 | 0x4000 | 0x40000


@dataclass(frozen=True, kw_only=True)
class Colour:
    """What a video says of its colours, in the numbers of ITU-T H.273, and what is made of it."""

    matrix: int
    """The matrix as it is written into the result; never unspecified."""
    primaries: int
    transfer: int
    range: int
    """0 unspecified (players take it as limited), `LIMITED` or `FULL`."""
    bits: int = 8
    """Of a sample. With more than 8, RGB has 16, and the result 10 if its encoder can."""
    notes: tuple[str, ...] = ()
    """What a user should know of the conversion."""

    @property
    def deep(self) -> bool:
        """Whether samples have more than 8 bits."""
        return self.bits > 8

    @property
    def converted_by(self) -> int:
        """The matrix that is computed with, both ways."""
        return self.matrix if self.matrix in _CONVERTED else BT709

    def without_name(self, size: tuple[int, int]) -> Colour:
        """Return the colours of a result of ``size`` ``(height, width)`` that cannot name its matrix."""
        return replace(self, matrix=_guessed_matrix(*size))

    @classmethod
    def rgb(cls) -> Colour:
        """Return the colours for images that never were a video: BT.709, limited range, 8 bits."""
        return cls(matrix=BT709, primaries=BT709, transfer=BT709, range=LIMITED)

    @classmethod
    def of(cls, frame: VideoFrame, context: Any) -> Colour:
        """Read the colours of a decoded frame and of the decoder it came from.

        A video that names no matrix is taken as players take it: BT.601 up to 576 rows of less than 1280
        pixels, BT.709 above. The result must name it, because at four times the size players would
        guess the other one.
        """
        notes = []
        matrix, primaries = int(context.colorspace), int(context.color_primaries)
        transfer, level = int(context.color_trc), int(context.color_range)
        if frame.format.name.startswith("yuvj"):
            level = FULL
        if frame.format.is_rgb:
            matrix, level = BT709, LIMITED
            notes.append("its frames are RGB; the result is YUV by BT.709")
        elif matrix in (0, UNSPECIFIED):
            matrix = BT2020 if primaries == BT2020 else _guessed_matrix(frame.height, frame.width)
        elif matrix not in _CONVERTED:
            notes.append(
                f"its colour matrix (number {matrix} of H.273) is none that FFmpeg converts by; the network "
                "saw BT.709 instead, which the way back undoes"
            )
        components = frame.format.components
        if any(component.is_alpha for component in components):
            notes.append("its transparency is left out")
        if transfer in _HDR:
            notes.append(
                f"it has a high dynamic range ({_HDR[transfer]}): upscaled as it is stored, tags kept; data "
                "of the mastering display is left out"
            )
        return cls(
            matrix=matrix,
            primaries=primaries,
            transfer=transfer,
            range=level,
            bits=max(component.bits for component in components),
            notes=tuple(notes),
        )


def _guessed_matrix(height: int, width: int) -> int:
    return BT709 if width >= 1280 or height > 576 else SMPTE170M


class RgbFromFrame:
    """Converts decoded frames to RGB. For one thread: it keeps the converter."""

    def __init__(self, colour: Colour) -> None:
        self._colour = colour
        self._reformatter = _make_reformatter()

    def __call__(self, frame: VideoFrame) -> Pixels:
        """Return ``(H, W, 3)`` RGB as the frame is stored: uint8, uint16 for more than 8 bits."""
        matrix = self._colour.converted_by
        converted = self._reformatter.reformat(
            _clear_tags(frame, matrix),
            format="rgb48le" if self._colour.deep else "rgb24",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=FULL if self._colour.range == FULL or frame.format.is_rgb else LIMITED,
            dst_color_range=FULL,
            interpolation=_SWSCALE,
        )
        rgb_HWC: Pixels = converted.to_ndarray()
        if frame.format.name.startswith("gray") and self._colour.range != FULL:
            return _stretch_gray(rgb_HWC)
        if self._colour.deep and not frame.format.is_rgb:  # swscale copies RGB
            shift = _white_shift(self._colour.range, self._colour.bits)
            rgb_HWC = np.minimum(rgb_HWC, 65535 - (65535 >> shift))
            rgb_HWC += rgb_HWC >> shift
        return rgb_HWC


class FrameFromRgb:
    """Converts RGB to frames of one pixel format. For one thread: it keeps the converter."""

    def __init__(self, colour: Colour, pixel_format: str) -> None:
        self._colour = colour
        self._format = pixel_format
        self._av: Any = require("av", extra="video", needed_for="Writing video files")
        self._reformatter = _make_reformatter()

    def __call__(self, rgb_HWC: Pixels) -> VideoFrame:
        """Return a frame of ``(H, W, 3)`` uint8 or uint16 RGB."""
        matrix = self._colour.converted_by
        layout = "rgb24"
        if rgb_HWC.dtype == np.uint16:
            layout = "rgb48le"
            rgb_HWC = rgb_HWC - (rgb_HWC >> 8)  # what swscale makes of it is 256/255 of that, in both ranges
        rgb = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb_HWC), format=layout)
        frame: VideoFrame = self._reformatter.reformat(
            _clear_tags(rgb, matrix),
            format=self._format,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=FULL,
            dst_color_range=FULL if self._colour.range == FULL else LIMITED,
            interpolation=_SWSCALE,
        )
        return frame


class Rotation:
    """The quarter turns and flips of a display matrix, done to pixels: every player shows the result upright.

    Args:
        matrix: The nine numbers of FFmpeg's display matrix; ``None`` for none.
    """

    def __init__(self, matrix: tuple[int, ...] | None) -> None:
        a, b, _, c, d, *_ = (1, 0, 0, 0, 1) if matrix is None else matrix
        self.straight = bool(a) == bool(d) != bool(b) == bool(c)
        """Whether it is quarter turns and flips only; others are left undone."""
        self.transposes = self.straight and bool(b)
        """Whether height and width change places."""
        self.mirrors = self.straight and a * d < b * c  # a negative determinant
        """Whether the image is mirrored, about whichever axis, and not rotated alone."""
        # A stored pixel (x, y) is shown at (a x + c y, b x + d y): with b and c, columns come from rows.
        self._flip_rows = self.straight and (b if b else d) < 0
        self._flip_columns = self.straight and (c if c else a) < 0

    @classmethod
    def of(cls, frame: VideoFrame) -> Rotation:
        """Read the display matrix of a decoded frame."""
        data = frame.side_data.get("DISPLAYMATRIX")
        return cls(None if data is None else struct.unpack("=9i", bytes(data)[:36]))

    def __call__(self, rgb_HWC: Pixels) -> Pixels:
        """Return the image upright, C-contiguous."""
        turned = rgb_HWC.swapaxes(0, 1) if self.transposes else rgb_HWC
        turned = turned[::-1] if self._flip_rows else turned
        return np.ascontiguousarray(turned[:, ::-1] if self._flip_columns else turned)


def _clear_tags(frame: VideoFrame, matrix: int) -> VideoFrame:
    """Return the frame with its matrix as its only tag.

    PyAV 17 passes over the argument for BT.2020, and FFmpeg refuses to convert with some of the other tags.
    """
    frame.colorspace = matrix
    frame.color_primaries = frame.color_trc = UNSPECIFIED
    return frame


def _white_shift(level: int, bits: int) -> int:
    """Return how the 16-bit RGB that swscale makes falls short: white is 65535 less 65535 shifted by this."""
    return bits if level == FULL else 8


def _stretch_gray(rgb_HWC: Pixels) -> Pixels:
    """Return gray of limited range as RGB; swscale takes all gray for full range."""
    unit, top = (1, 255) if rgb_HWC.dtype == np.uint8 else (256, 65535)
    levels = (rgb_HWC.astype(np.float32) - 16 * unit) * np.float32(top / (219 * unit))
    stretched: Pixels = np.rint(np.clip(levels, 0, top)).astype(rgb_HWC.dtype)
    return stretched


def _make_reformatter() -> Any:
    reformatter = require("av.video.reformatter", extra="video", needed_for="Reading and writing video files")
    return reformatter.VideoReformatter()
