"""Which convolutions cost quality: each is quantized alone, and the image's error is measured."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hasn_edge.errors import Cure, InputError, say
from hasn_edge.exporters.onnx_graph import Emulator
from hasn_edge.images.arrays import Float32, middle_window
from hasn_edge.progress import Progress, Step, ignore
from hasn_edge.quantize.graph import conv_macs, convolutions
from hasn_edge.quantize.int8 import int8_onnx_from_onnx

if TYPE_CHECKING:
    from onnx import ModelProto

    from hasn_edge.quantize.ranges import Ranges
    from hasn_edge.quantize.recipe import QuantRecipe


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What quantizing one convolution, or one kind of convolution, alone does to the image."""

    name: str
    convolutions: tuple[str, ...]
    mean_square: float
    """Squared error of the clipped output in [0, 1] against FP32, mean over all pixels and images."""
    error_share: float
    """Part of the sum of all listed squared errors, 0 to 1. Errors of different layers nearly add."""
    mac_share: float
    """Part of all convolutions' multiply-accumulates, 0 to 1."""

    @property
    def fidelity_db(self) -> float:
        """PSNR of the output against FP32's, in dB, data range 1; ``inf`` where nothing changed."""
        return math.inf if self.mean_square == 0 else -10 * math.log10(self.mean_square)


def kind_of(name: str) -> str:
    """Return a convolution's name without the number of its block: ``block_*.f1.conv``."""
    return re.sub(r"^block_\d+\.", "block_*.", name)


def sensitivity(
    proto: ModelProto,
    ranges: Ranges,
    recipe: QuantRecipe,
    images: Iterable[Float32],
    *,
    by_kind: bool = False,
    largest: int = 64,
    progress: Progress = ignore,
) -> tuple[LayerCost, ...]:
    """Quantize what ``recipe`` selects one convolution (or one kind) at a time; the costliest comes first.

    Args:
        proto: The FP32 graph that ``ranges`` were measured on; not modified.
        ranges: Of every convolution that the recipe selects.
        recipe: Chooses what is looked at, and how weights are quantized.
        images: Network inputs ``(1, C, H, W)`` float32 in [0, 1] that were not used for calibration.
        by_kind: Treat the same convolution of all blocks as one.
        largest: Images are cut to this side in pixels around their middle, to keep it short.
        progress: Receives which convolution is quantized.

    Raises:
        InputError: there is no image.
        ConfigError: the recipe selects nothing.
    """
    crops: list[Float32] = []
    for image in images:
        rows, columns = middle_window(image.shape[2:], (largest, largest))
        crops.append(np.ascontiguousarray(image[:, :, rows, columns]))
    if not crops:
        raise InputError("measuring the layers' cost needs at least one image")
    groups: dict[str, list[str]] = {}
    for name in recipe.select(conv.name for conv in convolutions(proto)):
        groups.setdefault(kind_of(name) if by_kind else name, []).append(name)
    reference = _outputs(proto, crops)
    errors: dict[str, float] = {}
    for done, (group, names) in enumerate(groups.items()):
        progress(Step(f"quantizing {group} alone", done, len(groups)))
        alone = replace(recipe, quantize=tuple(names), keep_float=())
        outputs = _outputs(int8_onnx_from_onnx(proto, ranges, alone), crops)
        errors[group] = float(np.mean([_mean_square(a, b) for a, b in zip(reference, outputs, strict=True)]))
    macs = conv_macs(proto)
    total_macs, total_error = sum(macs.values()), sum(errors.values())
    costs = (
        LayerCost(
            name=group,
            convolutions=tuple(names),
            mean_square=errors[group],
            error_share=errors[group] / total_error if total_error else 0.0,
            mac_share=sum(macs[name] for name in names) / total_macs,
        )
        for group, names in groups.items()
    )
    return tuple(sorted(costs, key=lambda cost: -cost.mean_square))


def advice(costs: Sequence[LayerCost], *, count: int = 5) -> tuple[str, Cure]:
    """Return a sentence that names the costliest layers, and the cure, for a build that missed its budget."""
    worst = [cost for cost in costs if cost.mean_square > 0][:count]
    listed = "; ".join(
        f"{cost.name} ({cost.error_share:.0%} of the error for {cost.mac_share:.1%} of the MACs)"
        for cost in worst
    )
    names = ", ".join(f'"{cost.name}"' for cost in worst)
    return f"The costliest layers: {listed}", say(
        f"keep them in float with keep_float = [{names}] in the recipe"
    )


def _outputs(proto: ModelProto, crops: Sequence[Float32]) -> list[Float32]:
    emulator = Emulator(proto, exact=True)
    return [np.clip(emulator.run(crop), 0, 1) for crop in crops]


def _mean_square(a: Float32, b: Float32) -> float:
    return float(np.mean(np.square(a - b, dtype=np.float64)))
