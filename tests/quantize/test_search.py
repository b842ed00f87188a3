"""The search for a placement: losses as the metrics have them, and a choice that no other selection beats."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from hasn_edge.data.pairs import EvalSet, held_out_sets
from hasn_edge.errors import BuildError
from hasn_edge.exporters.onnx_graph import Emulator
from hasn_edge.images.arrays import from_tensor, to_tensor
from hasn_edge.images.metrics import psnr_y
from hasn_edge.quantize.graph import conv_macs, convolutions
from hasn_edge.quantize.int8 import int8_onnx_from_onnx
from hasn_edge.quantize.ranges import ranges_from_onnx
from hasn_edge.quantize.recipe import QuantRecipe, Rounding, load_quant_recipe
from hasn_edge.quantize.search import (
    SPEND,
    Group,
    Loss,
    Meter,
    PartLoss,
    group_of,
    measure_groups,
    search_placement,
)


@pytest.fixture(scope="module")
def parts() -> tuple[EvalSet, ...]:
    return tuple(EvalSet(name=p.name, scale=p.scale, pairs=p.pairs[:2]) for p in held_out_sets(4))


def test_groups_are_patterns_that_select_their_members(tiny):
    names = [conv.name for conv in convolutions(tiny.weakly_typed)]
    for name in names:
        chosen = QuantRecipe(quantize=(group_of(name),)).select(names)
        assert name in chosen
        assert {group_of(each) for each in chosen} == {group_of(name)}
    assert group_of("block_12.f2.conv") == "block_12.f*.conv"
    assert group_of("block_1.esa.conv_f") == "block_1.esa.*"
    assert group_of("block_1.cab.cab.2") == "block_1.cab.cab.2"


@pytest.mark.parametrize(
    ("budget", "expected"),
    [((0.03, 0.2), True), ((0.02, 0.1), True), ((0.019, 0.2), False), ((0.03, 0.099), False)],
)
def test_a_loss_keeps_both_halves_of_a_budget_on_every_part(budget, expected):
    parts = PartLoss("photographs", 0.02, 0.03, "a"), PartLoss("drawn", -0.01, 0.1, "b")
    loss = Loss(parts=parts)
    assert loss.within(budget) is expected
    assert loss.worst_image == "drawn b"


@pytest.mark.slow
def test_a_loss_is_the_difference_of_psnr_y(tiny, parts):
    meter = Meter(tiny.weakly_typed, tiny.ranges, QuantRecipe(), parts)
    names = ["conv_1", "block_1.g.conv"]
    loss, errors = meter.measure(names)
    graph = int8_onnx_from_onnx(tiny.weakly_typed, tiny.ranges, QuantRecipe(quantize=tuple(names)))
    runs = [Emulator(proto, exact=True).run for proto in (tiny.weakly_typed, graph)]
    for part, (name, mean, worst, image) in zip(parts, loss.parts, strict=True):
        drops = []
        for pair in part:
            floats, int8 = (
                psnr_y(from_tensor(run(to_tensor(pair.lr()))), pair.hr(), border=4) for run in runs
            )
            drops.append(floats - int8)
        assert name == part.name
        assert mean == pytest.approx(np.mean(drops), abs=2e-3)  # outputs are not rounded to 8 bits here
        assert worst == pytest.approx(max(drops), abs=2e-3)
        assert drops[[pair.name for pair in part].index(image)] == pytest.approx(worst, abs=2e-3)
    assert len(errors) == 4
    assert min(errors) > 0


@pytest.mark.slow
def test_other_codes_of_the_same_ranges_are_measured_anew(tiny, images, parts, tmp_path):
    names = ("block_1.g.conv",)
    recipe = QuantRecipe(quantize=names, rounding=Rounding.COMPENSATED)
    ranges = ranges_from_onnx(tiny.weakly_typed, images(), recipe)
    own = ranges.codes[names[0]]
    other = replace(ranges, codes={names[0]: replace(own, codes=np.clip(own.codes, -1, 1))})
    losses = [
        Meter(tiny.weakly_typed, each, recipe, parts, memory).measure(names)[0]
        for each, memory in ((ranges, tmp_path / "a"), (other, tmp_path / "a"), (other, tmp_path / "b"))
    ]
    assert losses[0] != losses[1] == losses[2]


@pytest.mark.slow
def test_what_was_measured_is_not_measured_again(tiny, parts, tmp_path):
    recipe = load_quant_recipe("search")

    def groups_of(progress):
        meter = Meter(tiny.weakly_typed, tiny.ranges, recipe, parts, tmp_path)
        return measure_groups(tiny.weakly_typed, meter, recipe, progress=progress)

    class StoppedError(Exception):
        pass

    def stop(step):
        if step.done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        groups_of(stop)
    (file,) = tmp_path.iterdir()
    before = file.read_text()
    whole = groups_of(lambda step: None)
    assert before[:-1] in file.read_text()
    unused = Meter._run
    try:
        Meter._run = None  # nothing is left to run
        assert groups_of(lambda step: None) == whole
    finally:
        Meter._run = unused
    macs = conv_macs(tiny.weakly_typed)
    assert sum(group.gain for group in whole) == pytest.approx(
        sum(v for k, v in macs.items() if "attention" not in k) / sum(macs.values())
    )


class Additive:
    """Errors that add exactly, in images whose FP32 errors are known, so that the best choice is counted."""

    floor = (10.0, 20.0, 5.0)

    def __init__(self, errors: dict[str, tuple[float, ...]]) -> None:
        self.errors = errors

    def measure(self, names):
        total = np.sum([np.zeros(3), *(self.errors[name] for name in names)], axis=0)
        return self.loss_of([a + b for a, b in zip(self.floor, total, strict=True)]), tuple(total)

    def loss_of(self, squares):
        drops = [10 * np.log10(b / a) for a, b in zip(self.floor, squares, strict=True)]
        first = PartLoss("a", float(np.mean(drops[:2])), max(drops[:2]), f"{int(np.argmax(drops[:2]))}")
        return Loss(parts=(first, PartLoss("b", drops[2], drops[2], "2")))


@pytest.mark.parametrize("seed", range(4))
def test_the_choice_keeps_the_budget_and_hardly_any_other_gains_more(seed):
    random = np.random.default_rng(seed)
    errors = {f"c{n}": tuple(10 ** random.uniform(-3, 0, 3)) for n in range(8)}
    meter = Additive(errors)
    gains = random.dirichlet(np.ones(8))
    groups = [
        Group(name=n, convolutions=(n,), gain=float(g), loss=meter.measure([n])[0], errors=errors[n])
        for n, g in zip(errors, gains, strict=True)
    ]
    budget = (0.2, 0.6)
    found = search_placement(groups, meter, QuantRecipe(), budget=budget)
    limits = budget[0] * SPEND, budget[1] * SPEND
    assert meter.measure(found.chosen.groups)[0].within(limits)
    best = max(
        sum(g.gain for g in some)
        for count in range(1, 9)
        for some in combinations(groups, count)
        if meter.measure([g.name for g in some])[0].within(limits)
    )
    assert found.chosen.gain >= 0.9 * best
    assert found.recipe.select(errors) == found.chosen.groups
    assert (found.recipe.budget_db, found.recipe.max_drop_worst) == budget
    gains_of = [point.gain for point in found.frontier]
    losses = [point.loss.mean for point in found.frontier]
    assert gains_of == sorted(gains_of)
    assert losses == sorted(losses)
    assert found.limits == pytest.approx(limits)
    assert found.nearest is None or not found.nearest.loss.within(limits)
    assert search_placement(groups, meter, QuantRecipe(), budget=budget) == found


def test_a_budget_that_nothing_keeps_is_refused():
    meter = Additive({"c0": (5.0, 5.0, 5.0)})
    loss, errors = meter.measure(["c0"])
    groups = [Group(name="c0", convolutions=("c0",), gain=1.0, loss=loss, errors=errors)]
    with pytest.raises(BuildError, match=r"keeps 90% of 0.01 dB \(.*\): c0 alone loses 3.0103 dB"):
        search_placement(groups, meter, QuantRecipe(), budget=(0.01, 0.05))
