"""Images of a set laid side by side into one frame of a given size, for engines that take one size only.

The network is not tile-equivariant: padding small images up to an engine's size would change what it
computes and count as drift. A full frame of image is the same work for every case.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hasn_edge.data.pairs import EvalSet, Pair
from hasn_edge.images.arrays import UInt8


@dataclass(frozen=True, kw_only=True)
class MosaicPair(Pair):
    """Images of several pairs in a grid of equal cells, row by row, from the first again if need be."""

    parts: tuple[Pair, ...]
    size: tuple[int, int]
    """LR (height, width) of the frame."""

    def hr(self) -> UInt8:
        """Return HR of the whole frame: ``(H * scale, W * scale, 3)`` uint8 RGB."""
        return self._grid([part.hr() for part in self.parts], self.scale)

    def lr(self) -> UInt8:
        """Return LR of the whole frame: ``(H, W, 3)`` uint8 RGB; each image was reduced on its own."""
        return self._grid([part.lr() for part in self.parts], 1)

    def _grid(self, images: list[UInt8], scale: int) -> UInt8:
        height, width = (side * scale for side in self.size)
        # The smallest image's sides, so that every cell is full; never more than the frame.
        cell_height = min(height, *(len(image) for image in images))
        cell_width = min(width, *(image.shape[1] for image in images))
        rows, columns = -(-height // cell_height), -(-width // cell_width)
        cells = [
            [
                images[(row * columns + column) % len(images)][:cell_height, :cell_width]
                for column in range(columns)
            ]
            for row in range(rows)
        ]
        frame: UInt8 = np.concatenate([np.concatenate(row, axis=1) for row in cells])
        return np.ascontiguousarray(frame[:height, :width])


def mosaic(eval_set: EvalSet, size: tuple[int, int]) -> EvalSet:
    """Return a set of one image of ``size`` (LR height, width): the set's images side by side."""
    pair = MosaicPair(
        name=f"mosaic of {len(eval_set)}",
        scale=eval_set.scale,
        hr_path=eval_set.pairs[0].hr_path,
        parts=eval_set.pairs,
        size=size,
    )
    return EvalSet(name=eval_set.name, scale=eval_set.scale, pairs=(pair,))
