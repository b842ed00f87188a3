"""The cheapest placement of INT8 that keeps a budget in dB: each group measured alone, then together.

What "cheap" means comes from outside: a share of what a target pays that INT8 of each group saves.

Each group of convolutions is quantized alone first. Squared errors of groups nearly add, so they predict what
any selection loses; a greedy order comes from that prediction, and the selections along it are measured.
All losses are exact Q/DQ arithmetic on the images that the budget is about.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hasn_edge.errors import BuildError, say
from hasn_edge.exporters.onnx_graph import Emulator
from hasn_edge.files import KeptValues
from hasn_edge.images.arrays import LUMA, Float32, Float64, enlarge_window, luma, middle_window, to_tensor
from hasn_edge.optional import installed_version
from hasn_edge.progress import Progress, Step, ignore
from hasn_edge.quantize.freeze import freeze_gates
from hasn_edge.quantize.graph import conv_macs, convolutions
from hasn_edge.quantize.int8 import int8_onnx_from_onnx
from hasn_edge.quantize.recipe import GATE, Saving

if TYPE_CHECKING:
    from onnx import ModelProto

    from hasn_edge.data.pairs import EvalSet
    from hasn_edge.images.arrays import UInt8
    from hasn_edge.quantize.ranges import Ranges
    from hasn_edge.quantize.recipe import QuantRecipe

LARGEST = 64
"""Images are cut to this side of LR in pixels around their middle, so that a search takes minutes."""

SPEND = 0.9
"""Part of the budget that a search spends: FP16 tensors and the fused graph of a CPU move a result."""

ROUNDS = 8
"""How many predicted selections are measured at most."""

LOOKS = 8
"""How many groups that were left out are tried once more at the end."""


class PartLoss(NamedTuple):
    """What a selection loses on one part of the images, in dB of PSNR-Y; above zero where quality is lost."""

    name: str
    mean: float
    worst: float
    image: str
    """Name of the image that loses most."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What a selection loses against FP32."""

    parts: tuple[PartLoss, ...]

    @property
    def mean(self) -> float:
        """The largest loss of a part's mean."""
        return max(part.mean for part in self.parts)

    @property
    def worst(self) -> float:
        """The largest loss of an image."""
        return max(part.worst for part in self.parts)

    @property
    def worst_image(self) -> str:
        """Part and name of the image that loses most."""
        part = max(self.parts, key=lambda part: part.worst)
        return f"{part.name} {part.image}"

    def within(self, budget: tuple[float, float]) -> bool:
        """Say whether it keeps a budget: of each part's mean, and of each image."""
        return self.mean <= budget[0] and self.worst <= budget[1]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Convolutions that become INT8 together, and what that does alone."""

    name: str
    convolutions: tuple[str, ...]
    gain: float
    """What INT8 saves here, as a share of what the target pays without; below zero where it costs more. By
    MACs: the share of them that is here."""
    loss: Loss
    errors: tuple[float, ...]
    """Mean squared error of luma against FP32 of each image, in squared levels."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One selection that was measured."""

    groups: tuple[str, ...]
    """Names of the groups in INT8."""
    gain: float
    """The sum of theirs."""
    loss: Loss


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What a search found."""

    groups: tuple[Group, ...]
    """All of them, in the graph's order."""
    points: tuple[Measurement, ...]
    """Every selection that was measured, from the smallest gain to the largest."""
    chosen: Measurement
    recipe: QuantRecipe
    """Reproduces the choice without searching."""
    spend: float = SPEND
    """Part of the budget that was spent at most."""
    saving: Saving = Saving.MACS
    """What gains are shares of."""
    confirmed: str = ""
    """What the choice costs on its target, as a sentence; gains of groups only predict it."""

    @property
    def limits(self) -> tuple[float, float]:
        """What was accepted at most, in dB: of each part's mean, and of an image."""
        mean, worst = self.recipe.budget
        return mean * self.spend, worst * self.spend

    @property
    def nearest(self) -> Measurement | None:
        """The measured selection of larger gain that misses the limits by the least for what it gains."""
        least = self.chosen.gain + 1e-9
        larger = [point for point in self.points if point.gain > least]
        misses = [(_share(point.loss, self.limits) - 1) / (point.gain - least) for point in larger]
        return larger[int(np.argmin(misses))] if larger else None

    @property
    def frontier(self) -> tuple[Measurement, ...]:
        """The measured selections that no other beats in both gain and loss."""
        best: list[Measurement] = []
        for point in sorted(self.points, key=lambda p: (-p.gain, p.loss.mean)):
            if not best or point.loss.mean < best[-1].loss.mean:
                best.append(point)
        return tuple(reversed(best))


def group_of(name: str) -> str:
    """Return a pattern for what a convolution is quantized together with.

    These are branches that read one tensor and share its Q/DQ pair, and all of an ESA, whose parts are too
    small to choose among.
    """
    block, _, inside = name.partition(".")
    if inside in ("f1.conv", "f2.conv", "f3.conv"):
        return f"{block}.f*.conv"
    return f"{block}.esa.*" if inside.startswith("esa.") else name


class Meter:
    """Measures selections of one network exactly; what was measured before is read from a file.

    Args:
        proto: The FP32 graph; not modified.
        ranges: Of all convolutions that may be selected, and the means of gates that may be frozen.
        recipe: How they are quantized.
        parts: Images with their ground truth.
        memory: Folder for measurements, one file for all of this network; nothing is kept where ``None``.
        reference: Hash and ``run`` of the network that losses count from, where ``proto`` is of weights that
            were adapted: what they lost themselves counts then too. Else it is ``proto``.
    """

    def __init__(
        self,
        proto: ModelProto,
        ranges: Ranges,
        recipe: QuantRecipe,
        parts: Sequence[EvalSet],
        memory: Path | None = None,
        *,
        reference: tuple[str, Callable[[Float32], Float32]] | None = None,
    ) -> None:
        self._proto, self._ranges, self._recipe = proto, ranges, recipe
        self._parts = [
            (part.name, [_crop(pair.lr(), pair.hr(), pair.scale) for pair in part]) for part in parts
        ]
        self._names = [[pair.name for pair in part] for part in parts]
        run = Emulator(proto, exact=False).run
        self._floats = [_output_luma(run, lr) for _, pairs in self._parts for lr, _ in pairs]
        self._truths = [luma(hr) for _, pairs in self._parts for _, hr in pairs]
        self._border = border = parts[0].scale
        self.floor = [_mean_square(a, b, border) for a, b in zip(self._floats, self._truths, strict=True)]
        """Mean squared error of FP32's luma against the ground truth, of each image, in squared levels."""
        self._before = self.floor
        if reference is not None:
            outputs = [_output_luma(reference[1], lr) for _, pairs in self._parts for lr, _ in pairs]
            self._before = [_mean_square(a, b, border) for a, b in zip(outputs, self._truths, strict=True)]
        identity = self._identity(parts, None if reference is None else reference[0])
        self._kept = KeptValues[list[list[float]]](memory and memory / f"placement-{identity[:16]}.json")

    def measure(self, names: Iterable[str]) -> tuple[Loss, tuple[float, ...]]:
        """Return what INT8 of the convolutions in ``names`` loses, and each image's error against FP32.

        Gates among them are frozen. The error is against the graph in FP32, whatever losses count from.
        """
        chosen = sorted(names)
        if not chosen:
            return self.loss_of(self.floor), (0.0,) * len(self._floats)
        gates = [str(self._ranges.gates[name]) for name in chosen if name in self._ranges.gates]
        key = hashlib.sha256("\n".join([*chosen, *gates]).encode()).hexdigest()[:20]
        squares, against = self._kept.get(key, lambda: self._run(chosen))
        return self.loss_of(squares), tuple(against)

    def loss_of(self, squares: Sequence[float]) -> Loss:
        """Return the loss of outputs with these squared errors against the ground truth."""
        drops = [
            10 * math.log10(max(b, 1e-9) / max(a, 1e-9)) for a, b in zip(self._before, squares, strict=True)
        ]
        parts, start = [], 0
        for (name, _), images in zip(self._parts, self._names, strict=True):
            own = drops[start : start + len(images)]
            worst, image = max(zip(own, images, strict=True))
            parts.append(PartLoss(name, math.fsum(own) / len(own), worst, image))
            start += len(images)
        return Loss(parts=tuple(parts))

    def _run(self, chosen: list[str]) -> list[list[float]]:
        frozen = {name: self._ranges.gates[name] for name in chosen if name in self._ranges.gates}
        graph = freeze_gates(self._proto, frozen) if frozen else self._proto
        integer = tuple(name for name in chosen if name not in frozen)
        if integer:
            recipe = replace(self._recipe, quantize=integer, keep_float=())
            graph = int8_onnx_from_onnx(graph, self._ranges, recipe)
        run = Emulator(graph, exact=True).run
        outputs = [_output_luma(run, lr) for _, pairs in self._parts for lr, _ in pairs]
        return [
            [_mean_square(y, truth, self._border) for y, truth in zip(outputs, self._truths, strict=True)],
            [_mean_square(y, base, self._border) for y, base in zip(outputs, self._floats, strict=True)],
        ]

    def _identity(self, parts: Sequence[EvalSet], reference: str | None) -> str:
        digest = hashlib.sha256(self._proto.SerializeToString(deterministic=True))
        how = {**self._recipe.to_dict(), "quantize": None, "keep_float": None}
        facts = [
            how,
            dict(self._ranges.values),
            dict(self._ranges.lows),
            dict(self._ranges.spread),
            [part.fingerprint for part in parts],
            installed_version("hasn-edge"),
            *([] if reference is None else [reference]),
        ]
        digest.update(json.dumps(facts, sort_keys=True).encode())
        for name, rounded in sorted(self._ranges.codes.items()):
            digest.update(name.encode() + rounded.codes.tobytes() + rounded.limits.tobytes())
        return digest.hexdigest()


def group_convolutions(proto: ModelProto, recipe: QuantRecipe) -> dict[str, tuple[str, ...]]:
    """Return what is quantized together of what ``recipe`` selects: convolutions by the group's name."""
    members: dict[str, tuple[str, ...]] = {}
    for name in recipe.select(conv.name for conv in convolutions(proto)):
        members[group_of(name)] = (*members.get(group_of(name), ()), name)
    return members


def measure_groups(
    proto: ModelProto,
    meter: Meter,
    recipe: QuantRecipe,
    *,
    gates: Iterable[str] = (),
    gains: Mapping[str, float] | None = None,
    progress: Progress = ignore,
) -> tuple[Group, ...]:
    """Quantize each group of convolutions that ``recipe`` selects alone.

    Args:
        proto: The FP32 graph.
        meter: Of this graph.
        recipe: Selects what may become INT8.
        gates: Channel attentions that are groups of their own, in which freezing takes the place of INT8.
        gains: What INT8 of each group saves, by its name; its share of the MACs where ``None``.
        progress: Receives each group.
    """
    members = {**group_convolutions(proto, recipe), **{name: (name,) for name in gates}}
    if gains is None:
        macs = conv_macs(proto)
        total = sum(macs.values())
        gains = {name: sum(macs.get(each, 0) for each in own) / total for name, own in members.items()}
    groups = []
    for done, (name, own) in enumerate(members.items()):
        what = "freezing" if name.endswith(GATE) else "quantizing"
        progress(Step(f"{what} {name} alone", done, len(members)))
        loss, errors = meter.measure(own)
        groups.append(Group(name=name, convolutions=own, gain=gains[name], loss=loss, errors=errors))
    return tuple(groups)


def search_placement(
    groups: Sequence[Group],
    meter: Meter,
    recipe: QuantRecipe,
    *,
    budget: tuple[float, float],
    spend: float = SPEND,
    saving: Saving = Saving.MACS,
    progress: Progress = ignore,
) -> Placement:
    """Return the selection of groups with the largest gain that keeps a budget.

    Args:
        groups: From :func:`measure_groups`.
        meter: The same.
        recipe: What the groups were selected by.
        budget: Largest accepted loss in dB: of each part's mean, and of an image.
        spend: Part of the budget that is spent; the rest is for what these images do not show.
        saving: What the groups' gains are shares of. Groups that save nothing stay in float.
        progress: Receives each selection that is measured.

    Raises:
        BuildError: no selection keeps the budget.
    """
    limits = budget[0] * spend, budget[1] * spend
    useful = [group for group in groups if group.gain > 0]
    search = _Search(useful, meter, limits, progress)
    kept = search.best_predicted()
    for group in search.promising([g for g in useful if g not in kept], kept):
        if search.measure([*kept, group]).loss.within(limits):
            kept.append(group)
    integer = tuple(group.name for group in groups if group in kept and not group.name.endswith(GATE))
    if not integer:
        best = min((g for g in groups if not g.name.endswith(GATE)), key=lambda group: group.loss.mean)
        raise BuildError(
            f"no placement of INT8 keeps {spend:.0%} of {budget[0]:g} dB "
            f"(of {budget[1]:g} dB for one image): {best.name} alone loses {best.loss.mean:.4f} dB "
            f"(worst {best.loss.worst:.4f})",
            say("allow a larger drop"),
            say("build FP16"),
        )
    chosen = search.measure(kept)
    return Placement(
        groups=tuple(groups),
        points=tuple(sorted(search.points.values(), key=lambda point: (point.gain, point.loss.mean))),
        chosen=chosen,
        recipe=replace(
            recipe,
            quantize=integer,
            keep_float=(),
            freeze=tuple(name for name in chosen.groups if name.endswith(GATE)),
            budget_db=budget[0],
            max_drop_worst=budget[1],
        ),
        spend=spend,
        saving=saving,
    )


@dataclass
class _Search:
    groups: Sequence[Group]
    meter: Meter
    limits: tuple[float, float]
    progress: Progress
    points: dict[tuple[str, ...], Measurement] = field(default_factory=dict)

    def measure(self, chosen: Sequence[Group]) -> Measurement:
        """Return what a selection gains and loses."""
        names = tuple(group.name for group in self.groups if group in chosen)
        if names not in self.points:
            gain = _gain(chosen)
            self.progress(Step(f"measuring INT8 of {gain:.0%}, {len(names)} of {len(self.groups)} groups"))
            loss, _ = self.meter.measure(name for group in chosen for name in group.convolutions)
            self.points[names] = Measurement(groups=names, gain=gain, loss=loss)
        return self.points[names]

    def excess(self, chosen: Sequence[Group]) -> float:
        """Return the predicted loss of a selection over its limit: 1 where it just keeps it."""
        squares = np.sum([self.meter.floor, *(group.errors for group in chosen)], axis=0)
        return _share(self.meter.loss_of(squares.tolist()), self.limits)

    def best_predicted(self) -> list[Group]:
        """Return the best measured selection of those that are predicted to keep the limits.

        What is measured states how far the prediction is off, which moves the predicted limit.
        """
        best: list[Group] = []
        low, high, limit = 0.0, math.inf, 1.0
        for _ in range(ROUNDS):
            chosen = self.fill(limit)
            loss = self.measure(chosen).loss
            if loss.within(self.limits):
                low, best = limit, max(best, chosen, key=_gain)
            else:
                high = limit
            if len(best) == len(self.groups):
                break
            limit /= max(_share(loss, self.limits), 1e-3)
            if not low < limit < high:
                limit = math.sqrt(low * high) if low > 0 and high < math.inf else max(2 * low, high / 2)
        return best

    def fill(self, limit: float) -> list[Group]:
        """Return a selection of large gain whose predicted share of the limits is at most ``limit``."""
        chosen = list(self.groups)
        while chosen and (whole := self.excess(chosen)) > limit:
            without = [self.excess([g for g in chosen if g is not group]) for group in chosen]
            relief = [(whole - less) / max(g.gain, 1e-6) for less, g in zip(without, chosen, strict=True)]
            chosen.pop(int(np.argmax(relief)))
        while True:  # one more, or another one instead
            best, gained = chosen, 1e-9
            for group in (g for g in self.groups if g not in chosen):
                for other in (None, *chosen):
                    gain = group.gain - (0.0 if other is None else other.gain)
                    some = [*(g for g in chosen if g is not other), group]
                    if gain > gained and self.excess(some) <= limit:
                        best, gained = some, gain
            if best is chosen:
                return chosen
            chosen = best

    def promising(self, out: Sequence[Group], kept: Sequence[Group]) -> list[Group]:
        """Return those left out that may fit yet, the largest gain for the least predicted loss first."""
        alone = sorted(
            out, key=lambda group: (self.excess([*kept, group]) / max(group.gain, 1e-6), group.name)
        )
        return alone[:LOOKS]


def _share(loss: Loss, limits: tuple[float, float]) -> float:
    """Return a loss over its limit."""
    return max(loss.mean / max(limits[0], 1e-9), loss.worst / max(limits[1], 1e-9))


def _gain(groups: Sequence[Group]) -> float:
    return math.fsum(group.gain for group in groups)


def _crop(lr: UInt8, hr: UInt8, scale: int) -> tuple[Float32, UInt8]:
    """Return the middle of LR ``(1, C, h, w)`` and the same of HR."""
    window = middle_window(lr.shape, (LARGEST, LARGEST))
    return to_tensor(np.ascontiguousarray(lr[window])), np.ascontiguousarray(
        hr[enlarge_window(window, scale)]
    )


def _output_luma(run: Callable[[Float32], Float32], lr: Float32) -> Float64:
    """Return the luma of an output as :func:`luma` has it, but not rounded: small errors would be lost."""
    y_CHW = np.clip(run(lr)[0], 0, 1).astype(np.float64)
    return 16 + np.tensordot(LUMA, y_CHW, 1)


def _mean_square(a: Float64, b: Float64, border: int) -> float:
    difference = (a - b)[border:-border, border:-border]
    return float(np.mean(np.square(difference)))
