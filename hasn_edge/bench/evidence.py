"""What shows where a precision costs quality: the worst crops of each case, and the drift of its layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from hasn_edge.artifact import Artifact
from hasn_edge.bench.case_process import Case
from hasn_edge.data.pairs import EvalSet, Pair
from hasn_edge.evaluation.evaluate import ImageDrift, ImageScore, Scores, drift
from hasn_edge.images.arrays import Float64, UInt8, luma, to_tensor
from hasn_edge.images.codec import encode
from hasn_edge.optional import installed_version
from hasn_edge.progress import Progress
from hasn_edge.sidecar import Kind
from hasn_edge.spec import Precision

if TYPE_CHECKING:
    from hasn_edge.quantize.layer_drift import LayerDrift

WORST = 3
"""Images of each set that are shown."""

CROP = 96
"""Side of what is shown of an image, in pixels of the result."""

LAYER_IMAGES = 3
"""Images on which layers are compared."""


@dataclass(frozen=True, kw_only=True)
class WorstCrop:
    """The part of an image in which a case differs most from the reference, as PNG files of one size."""

    set: str
    image: str
    left: int
    top: int
    """Where it was cut from, in pixels of the result."""
    drift: ImageDrift
    psnr_y: float
    """Of the whole image, by this case; dB."""
    magnified: int
    """What the differences are multiplied by in ``difference``."""
    pngs: Mapping[str, bytes] = field(repr=False)
    """``"low"`` (each LR pixel as a square), ``"reference"``, ``"case"``, ``"difference"``, ``"truth"``."""


@dataclass(frozen=True, kw_only=True)
class CaseEvidence:
    """What was found of one case."""

    crops: Sequence[WorstCrop] = ()
    layers: Sequence[LayerDrift] = ()
    artifact: Artifact | None = None
    """What its sidecar states."""


def collect_evidence(
    case: Case,
    sets: Sequence[EvalSet],
    reference: Sequence[Scores],
    scores: Sequence[Scores],
    progress: Progress,
) -> CaseEvidence:
    """Return crops and layers of one case.

    FP32 files have no crops: they differ from the reference by rounding. Layers are compared for INT8 graphs
    on this machine, where the package ``onnx`` is installed.

    Args:
        case: What was scored.
        sets: The images.
        reference: The first case's scores on them, with outputs; empty for the first case itself.
        scores: This case's.
        progress: Receives which image is looked at.
    """
    artifact = case.artifact
    precision = artifact.precision if artifact else Precision.parse(case.precision)
    crops: list[WorstCrop] = []
    if reference and (precision is not Precision.FP32 or case.tile is not None):
        for eval_set, before, after in zip(sets, reference, scores, strict=True):
            crops += _worst_crops(eval_set, before, after)
    layers: Sequence[LayerDrift] = ()
    graph = artifact if artifact and artifact.kind is Kind.ONNX and not artifact.pixels else None
    if graph is not None and precision is Precision.INT8 and installed_version("onnx"):
        import onnx

        from hasn_edge.quantize.layer_drift import layer_drift

        images = (to_tensor(pair.lr()) for pair in islice(sets[0], LAYER_IMAGES))
        layers = layer_drift(onnx.load(str(graph.path)), images, graph.graph.ranges, progress=progress)
    return CaseEvidence(crops=crops, layers=layers, artifact=artifact)


def _worst_crops(eval_set: EvalSet, before: Scores, after: Scores) -> list[WorstCrop]:
    triples = zip(eval_set, before.images, after.images, drift(before, after).images, strict=True)
    changed = [one for one in triples if one[3].fidelity_psnr != math.inf]
    changed.sort(key=lambda one: one[3].dpsnr)
    return [_crop(eval_set.name, *one) for one in changed[:WORST]]


def _crop(name: str, pair: Pair, before: ImageScore, after: ImageScore, image_drift: ImageDrift) -> WorstCrop:
    first, second = before.output, after.output
    assert first is not None
    assert second is not None
    error = np.square(luma(second) - luma(first))
    top, left, side = _worst_window(error, pair.scale)

    def cut(pixels: UInt8, scale: int = 1) -> UInt8:
        return pixels[top // scale : (top + side) // scale, left // scale : (left + side) // scale]

    apart = np.abs(cut(first).astype(np.int16) - cut(second))
    magnified = 2 ** max(0, int(math.log2(255 / max(1, int(apart.max())))))
    low = cut(pair.lr(), pair.scale)
    images = {
        "low": low.repeat(pair.scale, 0).repeat(pair.scale, 1),
        "reference": cut(first),
        "case": cut(second),
        "difference": (apart * magnified).astype(np.uint8),
        "truth": cut(pair.hr()),
    }
    return WorstCrop(
        set=name,
        image=after.name,
        left=left,
        top=top,
        drift=image_drift,
        psnr_y=after.psnr_y,
        magnified=magnified,
        pngs={key: encode(np.ascontiguousarray(pixels), ".png", 0) for key, pixels in images.items()},
    )


def _worst_window(error: Float64, scale: int) -> tuple[int, int, int]:
    """Return (top, left, side) of the square with the largest sum of errors, on whole LR pixels."""
    side = min(CROP, *error.shape) // scale * scale
    sums = np.pad(error.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    boxes = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    boxes = boxes[::scale, ::scale]
    top, left = np.unravel_index(int(boxes.argmax()), boxes.shape)
    return int(top) * scale, int(left) * scale, side
