"""Cut a frame into equal tiles and weigh them so that they join without a seam: arithmetic only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hasn_edge.images.arrays import Float32

SMALLEST_TILE = 64
"""Side in pixels below which memory alone does not push a tile: its border would outweigh its middle."""


class Size(NamedTuple):
    """Height and width in pixels; as text ``WIDTHxHEIGHT``, as everybody writes it."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, kw_only=True)
class TileGrid:
    """Where the tiles of one frame lie. All are of the same size and inside the frame."""

    frame: Size
    tile: Size
    overlap: int
    """Pixels that neighbours share at least; spreading the tiles evenly may make it more."""

    @property
    def rows(self) -> tuple[int, ...]:
        """First row of each row of tiles."""
        return starts(self.frame.height, self.tile.height, self.overlap)

    @property
    def columns(self) -> tuple[int, ...]:
        """First column of each column of tiles."""
        return starts(self.frame.width, self.tile.width, self.overlap)

    @property
    def tiles(self) -> int:
        """How many tiles there are; 1 is the whole frame."""
        return len(self.rows) * len(self.columns)


def starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    """Return where the tiles begin along one axis: the fewest that overlap enough, spread evenly.

    The last tile ends with the frame, so that every tile has its full size.
    """
    if length <= tile:
        return (0,)
    count = math.ceil((length - overlap) / (tile - overlap))
    return tuple(round(i * (length - tile) / (count - 1)) for i in range(count))


def weights(begins: tuple[int, ...], tile: int, *, scale: int, blend: bool) -> list[Float32]:
    """Return for each tile along one axis the weight of each of its ``tile * scale`` output samples.

    At every output sample the weights of all tiles add up to 1. With ``blend`` they ramp linearly over the
    overlap; without, each sample comes from one tile alone, cut in the middle of the overlap.
    """
    total = np.zeros((begins[-1] + tile) * scale, np.float64)
    raw: list[NDArray[np.float64]] = []
    for i, begin in enumerate(begins):
        weight = np.ones(tile * scale)
        position: NDArray[np.float64] = np.arange(tile * scale, dtype=np.float64) + 0.5
        if i > 0:
            shared = (begins[i - 1] + tile - begin) * scale
            weight *= _ramp(position, shared, blend=blend)
        if i + 1 < len(begins):
            shared = (begin + tile - begins[i + 1]) * scale
            weight *= 1 - _ramp(position - (tile * scale - shared), shared, blend=blend)
        raw.append(weight)
        total[begin * scale : (begin + tile) * scale] += weight
    return [
        (weight / total[begin * scale : (begin + tile) * scale]).astype(np.float32)
        for begin, weight in zip(begins, raw, strict=True)
    ]


def _ramp(position: NDArray[np.float64], shared: int, *, blend: bool) -> NDArray[np.float64]:
    if blend and shared:
        return np.clip(position / shared, 0, 1)
    return (position > shared // 2).astype(np.float64)


def tile_for(frame: Size, pixels: int, *, overlap: int, minimum: int) -> Size:
    """Return the tile of at most ``pixels`` pixels that covers ``frame`` with the least computed twice.

    Args:
        frame: The frame, at least ``minimum`` on each side.
        pixels: How many pixels fit in memory at a time.
        overlap: Pixels that neighbours share.
        minimum: Smallest side that the network takes.

    Returns:
        The frame itself where it fits; never a side below :data:`SMALLEST_TILE` or twice the overlap, even
        where ``pixels`` asks for it.
    """
    least = max(minimum, SMALLEST_TILE, 2 * overlap)
    pixels = max(pixels, least * least)
    candidates = []
    for rows in range(1, max(1, math.ceil((frame.height - overlap) / (least - overlap))) + 1):
        height = min(frame.height, max(least, math.ceil((frame.height + (rows - 1) * overlap) / rows)))
        widest = pixels // height
        if widest < min(least, frame.width):
            continue
        columns = 1 if frame.width <= widest else math.ceil((frame.width - overlap) / (widest - overlap))
        width = min(frame.width, max(least, math.ceil((frame.width + (columns - 1) * overlap) / columns)))
        plan = TileGrid(frame=frame, tile=Size(height, width), overlap=overlap)
        candidates.append((plan.tiles * height * width, plan.tiles, plan.tile))
    return min(candidates)[2]


def even_side(tile: int, frame: int, least: int, most: int, *, overlap: int) -> int:
    """Return a tile's side of at most ``most`` pixels that cuts ``frame`` into parts of about one size.

    ``tile`` is the side that was wanted, which stays where it is small enough.
    """
    if tile <= most:
        return tile
    parts = math.ceil((frame - overlap) / (most - overlap))
    return min(most, max(least, math.ceil((frame + (parts - 1) * overlap) / parts)))
