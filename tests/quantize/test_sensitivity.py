"""Layer costs: what was made bad on purpose comes first, and the advice names it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from hasn_edge.errors import InputError
from hasn_edge.progress import Step
from hasn_edge.quantize.graph import mac_share
from hasn_edge.quantize.int8 import int8_onnx_from_onnx
from hasn_edge.quantize.recipe import QuantRecipe
from hasn_edge.quantize.sensitivity import LayerCost, advice, kind_of, sensitivity

RECIPE = QuantRecipe(quantize=("block_1.f*.conv", "block_1.g.conv", "conv_2"))


def test_a_range_that_is_far_too_wide_is_the_costliest(tiny, images):
    bad = replace(tiny.ranges, values={**tiny.ranges.values, "conv_2": 50 * tiny.ranges.values["conv_2"]})
    steps: list[Step] = []
    costs = sensitivity(tiny.weakly_typed, bad, RECIPE, images(), progress=steps.append)
    assert costs[0].name == "conv_2"
    assert [cost.mean_square for cost in costs] == sorted((c.mean_square for c in costs), reverse=True)
    assert sum(cost.error_share for cost in costs) == pytest.approx(1)
    assert [(step.done, step.total) for step in steps] == [(done, 5) for done in range(5)]
    named, cure = advice(costs)
    assert 'keep_float = ["conv_2"' in str(cure)
    assert f"The costliest layers: conv_2 ({costs[0].error_share:.0%} of the error" in named


@pytest.mark.slow
def test_the_error_is_that_of_the_graph_with_one_layer_quantized(tiny, images, run_graph):
    batches = list(images(count=2, seed=9))
    costs = sensitivity(tiny.weakly_typed, tiny.ranges, RECIPE, batches)
    cost = next(cost for cost in costs if cost.name == "block_1.g.conv")
    alone = int8_onnx_from_onnx(tiny.weakly_typed, tiny.ranges, QuantRecipe(quantize=("block_1.g.conv",)))
    errors = [
        np.mean((np.clip(run_graph(tiny.weakly_typed, x), 0, 1) - np.clip(run_graph(alone, x), 0, 1)) ** 2)
        for x in batches
    ]
    assert cost.mean_square == pytest.approx(np.mean(errors), rel=1e-4)
    assert cost.fidelity_db == pytest.approx(-10 * math.log10(np.mean(errors)), abs=1e-3)
    assert cost.mac_share == pytest.approx(mac_share(tiny.weakly_typed, ["block_1.g.conv"]))


def test_kinds_gather_the_blocks(tiny, images):
    assert kind_of("block_12.f1.conv") == "block_*.f1.conv"
    assert kind_of("conv_2") == "conv_2"
    costs = sensitivity(tiny.weakly_typed, tiny.ranges, RECIPE, images(count=1), by_kind=True)
    assert {cost.name for cost in costs} == {
        "block_*.f1.conv",
        "block_*.f2.conv",
        "block_*.f3.conv",
        "block_*.g.conv",
        "conv_2",
    }
    assert all(len(cost.convolutions) == 1 for cost in costs)


def test_nothing_to_measure_on_is_refused(tiny):
    with pytest.raises(InputError, match="at least one image"):
        sensitivity(tiny.weakly_typed, tiny.ranges, RECIPE, [])


def test_a_layer_without_error_has_infinite_fidelity():
    cost = LayerCost(name="a", convolutions=("a",), mean_square=0.0, error_share=0.0, mac_share=0.1)
    assert cost.fidelity_db == math.inf
