"""What the window shows, as pixels: both images with the divider, enlarged, and words over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from hasn_edge.images.arrays import UInt8
from hasn_edge.live.frame import UpscaledFrame
from hasn_edge.optional import require

Mode = Literal["compare", "hasn", "bicubic"]

_WHITE, _DARK, _AMBER = (255, 255, 255), (14, 11, 8), (138, 210, 255)  # BGR


def cv2() -> Any:
    """Return OpenCV."""
    return require("cv2", extra="all", needed_for="The window view")


def together(shown: UpscaledFrame, mode: Mode, split: float) -> UInt8:
    """Return what is compared, in full size.

    Args:
        shown: The frame.
        mode: Both, the network's, or bicubic's.
        split: Where bicubic ends, as a part of the width from the left.

    Returns:
        ``(H * scale, W * scale, 3)`` uint8 RGB; the shared image itself where it is all HASN's.
    """
    columns = column(shown, {"hasn": 0.0, "bicubic": 1.0}.get(mode, split))
    if columns == 0:
        return shown.upscaled
    pixels: UInt8 = shown.upscaled.copy()
    pixels[:, :columns] = shown.frame.bicubic(shown.scale)[:, :columns]
    return pixels


def column(shown: UpscaledFrame, split: float) -> int:
    """Return the first column right of the divider."""
    width: int = shown.upscaled.shape[1]
    return round(split * width)


def enlarged(bgr: UInt8, zoom: int, centre: tuple[float, float]) -> UInt8:
    """Return a part of an image at the size of the whole, each pixel ``zoom`` times; nothing is smoothed.

    Args:
        bgr: ``(H, W, 3)``.
        zoom: 1 for all of it.
        centre: (x, y) of the part as fractions of the image; moved inwards as needed.
    """
    if zoom == 1:
        return bgr
    height, width = bgr.shape[:2]
    rows, columns = max(1, height // zoom), max(1, width // zoom)
    top = min(max(0, round(centre[1] * height - rows / 2)), height - rows)
    left = min(max(0, round(centre[0] * width - columns / 2)), width - columns)
    part = bgr[top : top + rows, left : left + columns]
    result: UInt8 = cv2().resize(part, (width, height), interpolation=cv2().INTER_NEAREST)
    return result


def divider(bgr: UInt8, x: int) -> None:
    """Draw the divider left of column ``x``."""
    height, width = bgr.shape[:2]
    thick = max(1, width // 640)
    bgr[:, max(0, x - thick) : max(0, x - thick) + thick] = 255
    cv2().circle(bgr, (x, height // 2), max(6, height // 40), _WHITE, -1, cv2().LINE_AA)
    cv2().circle(bgr, (x, height // 2), max(3, height // 80), _DARK, -1, cv2().LINE_AA)


def words(
    bgr: UInt8, lines: Sequence[str], where: Literal["top", "bottom", "middle"], alarm: bool = False
) -> None:
    """Write lines on a darkened box: in the top left corner, along the bottom, or in the middle.

    Args:
        bgr: ``(H, W, 3)``, drawn into.
        lines: Only ASCII can be drawn; the rest becomes ``?``.
        where: Place of the box.
        alarm: Write in amber instead of white.
    """
    height, width = bgr.shape[:2]
    lines = [line.encode("ascii", "replace").decode() for line in lines if line]
    if not lines:
        return
    size = max(0.35, height / 1200)
    lines = [part for line in lines for part in _broken(line, int(width * 0.94), size)]
    step, margin = round(34 * size), round(14 * size)
    wide = max(_width(line, size) for line in lines) + 2 * margin
    high = step * len(lines) + margin
    left = margin if where == "top" else max(0, (width - wide) // 2)
    top = {"top": margin, "bottom": height - high - margin, "middle": (height - high) // 2}[where]
    top = max(0, top)
    box = bgr[top : top + high, left : left + wide]
    box[:] = (box * 0.35 + np.array(_DARK) * 0.65).astype(np.uint8)
    ink = _AMBER if alarm else _WHITE
    for index, line in enumerate(lines):
        at = (left + margin, top + step * (index + 1) - margin // 3)
        cv2().putText(bgr, line, at, cv2().FONT_HERSHEY_SIMPLEX, size, ink, 1, cv2().LINE_AA)


def _broken(line: str, width: int, size: float) -> list[str]:
    """Break a line between words where it is too wide."""
    lines, current = [], ""
    for word in line.split(" "):
        longer = f"{current} {word}" if current else word
        if current and _width(longer, size) > width:
            lines.append(current)
            longer = word
        current = longer
    return [*lines, current]


def _width(text: str, size: float) -> int:
    return int(cv2().getTextSize(text, cv2().FONT_HERSHEY_SIMPLEX, size, 1)[0][0])
