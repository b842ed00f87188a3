"""What an upscaler says about its work: how an image was cut, and what the cutting cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hasn_edge.runtime.tiling import Size

Reason = Literal["asked", "memory", "static size", "engine size"]

_NO_LARGER = (
    "this file takes no larger size than that of its tiles; a file of any size computes the whole frame: "
    "leave out --artifact, or build "
)
NO_WHOLE_FRAME: dict[Reason, str] = {
    "static size": f"{_NO_LARGER}without --size",
    "engine size": f"{_NO_LARGER}with a larger --dynamic",
}
"""Why the drift of tiles is not measured where the session's sizes are the reason for them, and the cure."""


@dataclass(frozen=True, kw_only=True)
class UpscaleReport:
    """How one image was upscaled."""

    size: Size
    """Height and width of the input."""
    padded: tuple[int, int]
    """Rows and columns of edge pixels added, and cropped from the result, because the network needs them."""
    tiles: int
    """How many tiles were computed; 1 is the whole frame, the exact result."""
    tile: Size
    """Height and width of what the session was given."""
    overlap: int
    reason: Reason | None
    """Why there are tiles; ``None`` where there are none."""


@dataclass(frozen=True, kw_only=True)
class TileDrift:
    """How far a tiled result is from that of the whole frame, on a region of the image."""

    psnr_db: float | None
    """PSNR between both results, clipped to [0, 1]; infinite where equal, ``None`` if not measured."""
    region: Size | None = None
    """Height and width of the region, the largest middle of the image that fits in memory."""
    tile: Size | None = None
    """The tiles used in it. Smaller than the image's own where one of those fills the memory."""
    reason: str | None = None
    """Why it was not measured."""

    def __str__(self) -> str:
        if self.psnr_db is None:
            return f"not measured ({self.reason})"
        return f"{self.psnr_db:.1f} dB (middle {self.region} in tiles of {self.tile})"
