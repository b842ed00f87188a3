"""The sets of images that cases are scored on, and each case's figures against the reference's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hasn_edge.artifact import Artifact
from hasn_edge.bench.report import SetQuality
from hasn_edge.data.pairs import EvalSet, Pair, bicubic_baseline, held_out_sets, load_eval_sets
from hasn_edge.evaluation.evaluate import Scores, drift, score_images
from hasn_edge.images.arrays import UInt8
from hasn_edge.sidecar import Kind


def eval_sets(data: Sequence[str], scale: int) -> list[EvalSet]:
    """Return the sets called ``"NAME=DIR"``; the held-out images that ship where there are none.

    Raises:
        InputError: a set cannot be used, or two have one name.
    """
    return load_eval_sets(data, scale) or list(held_out_sets(scale))


def quality_of(reference: Sequence[Scores], own: Sequence[Scores]) -> Mapping[str, SetQuality]:
    """Return the figures of each set, and the drift from ``reference``, which is empty for the first case.

    Raises:
        InputError: as :func:`hasn_edge.evaluation.evaluate.drift`.
    """
    quality = {}
    for index, scores in enumerate(own):
        change = drift(reference[index], scores) if reference else None
        quality[scores.name] = SetQuality(
            images=len(scores.images),
            psnr_y_db=scores.psnr_y,
            ssim_y=scores.ssim_y,
            dpsnr_db=change.dpsnr if change else None,
            dssim=change.dssim if change else None,
            fidelity_db=change.fidelity_psnr if change else None,
            worst_image=change.worst_image if change else None,
            worst_dpsnr_db=change.worst_dpsnr if change else None,
        )
    return quality


def bicubic_quality(sets: Sequence[EvalSet], reference: Sequence[Scores]) -> Mapping[str, SetQuality]:
    """Return the figures of bicubic interpolation on each set, and its drift from ``reference``."""
    return quality_of(reference, [score_images(bicubic_baseline(each.scale), each) for each in sets])


def has_larger(eval_set: EvalSet, tile: int) -> bool:
    """Say whether an image of a set is larger than a tile, so that it would be computed in several."""
    return any(max(pair.lr().shape[:2]) > tile for pair in eval_set)


def takes_whole(artifact: Artifact, sets: Sequence[EvalSet]) -> bool:
    """Say whether a file computes every image of the sets as a file of any size does.

    One of a single size never counts as such. An engine of a range cuts what is larger into tiles and pads
    what is smaller, which changes figures by itself.
    """
    if artifact.size is not None or artifact.kind is not Kind.ENGINE:
        return artifact.size is None
    axes, profile = (1, 2) if artifact.pixels else (2, 3), artifact.engine.profile
    least, most = ([shape[axis] for axis in axes] for shape in (profile.min, profile.max))
    for pair in (pair for each in sets for pair in each):
        height, width = pair.lr().shape[:2]
        more = artifact.spec.size.padding(height, width)  # what the network itself needs is added everywhere
        sides = zip(least, (height + more[0], width + more[1]), most, strict=True)
        if not all(low <= side <= high for low, side, high in sides):
            return False
    return True


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
    """Return a set of one image of ``size`` (LR height, width): the set's images side by side.

    For engines that do not take every image whole: the network is not tile-equivariant, so that padding
    small images up to their size, or tiles of large ones, would change what it computes and count as drift.
    A full frame is the same work for every case.
    """
    pair = MosaicPair(
        name=f"mosaic of {len(eval_set)}",
        scale=eval_set.scale,
        hr_path=eval_set.pairs[0].hr_path,
        parts=eval_set.pairs,
        size=size,
    )
    return EvalSet(name=eval_set.name, scale=eval_set.scale, pairs=(pair,))
