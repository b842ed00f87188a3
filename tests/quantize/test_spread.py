"""Channels with a shift and a factor of their own in front of Q/DQ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from hasn_edge.quantize.check_qdq import problems
from hasn_edge.quantize.fp16 import fp16_onnx_from_onnx
from hasn_edge.quantize.int8 import int8_onnx_from_onnx
from hasn_edge.quantize.layer_drift import float_graph
from hasn_edge.quantize.ranges import measure_spread, ranges_from_onnx, shares_outside
from hasn_edge.quantize.recipe import QuantRecipe, Rounding
from hasn_edge.quantize.spread import channel_counts, choose_steps, spread_inputs, spread_of
from tests.quantize.test_int8 import conv_graph, pair_of, ranges_of

NAMES = ("conv_1", "block_1.dwconv2.conv", "block_1.g.conv", "block_1.cab.cab.2", "upsampler.0")
RECIPE = QuantRecipe(keep_float=("*.attention.*",), spread=NAMES)


def test_the_float_graph_computes_the_same(tiny, images, run_graph):
    found = measure_spread(tiny.weakly_typed, images(), NAMES, 2.4)
    assert set(found) == set(NAMES)
    graph = spread_inputs(tiny.weakly_typed, {name: each for name, (each, _) in found.items()})
    onnx.checker.check_model(graph, full_check=True)
    assert len(graph.graph.initializer) > len(tiny.weakly_typed.graph.initializer)
    x = next(iter(images(1, 20, 5)))
    assert run_graph(graph, x) == pytest.approx(tiny.model(torch.from_numpy(x)).numpy(), abs=2e-6)


@pytest.mark.parametrize("depthwise", [False, True])
def test_each_channel_uses_all_codes_and_borders_are_zero(run_graph, depthwise):
    """PyTorch rounds each channel by itself and pads with zeros afterwards."""
    rng = np.random.default_rng(0)
    lows, highs = np.array([-0.17, -3.0, 0.0]), np.array([2.0, 0.5, 0.1])
    steps, least = (highs - lows) / 255, np.rint(lows * 255 / (highs - lows))
    weights = rng.standard_normal((3, 1 if depthwise else 3, 3, 3))
    x = rng.uniform(lows[:, None, None] - 0.05, highs[:, None, None] + 0.05, (1, 3, 6, 5)).astype(np.float32)
    plain = conv_graph(weights, bias := rng.standard_normal(3))
    if depthwise:
        plain.graph.node[0].attribute.append(onnx.helper.make_attribute("group", 3))
        plain.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    spread, limit = spread_of(steps, least, np.ones(3, bool))
    ranges = replace(ranges_of({"c": limit}), spread={"c": spread})
    graph = int8_onnx_from_onnx(plain, ranges, QuantRecipe())
    onnx.checker.check_model(graph, full_check=True)
    assert problems(graph) == []
    step, low = steps.reshape(-1, 1, 1), least.reshape(-1, 1, 1)
    x_rounded = np.clip(np.rint(x / step), low, low + 255) * step
    factors = (limit / 127 / steps).reshape((-1, 1, 1, 1) if depthwise else (1, -1, 1, 1))
    scales = pair_of(graph, "c.weight.spread")[1].reshape(-1, 1, 1, 1)
    w_rounded = np.clip(np.rint(weights / factors / scales), -128, 127) * scales * factors
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(x_rounded),
        torch.from_numpy(w_rounded),
        torch.from_numpy(bias),
        padding=1,
        groups=3 if depthwise else 1,
    )
    assert run_graph(graph, x) == pytest.approx(expected.numpy(), abs=1e-4)
    undone = run_graph(float_graph(graph), x)
    true = torch.nn.functional.conv2d(
        torch.from_numpy(x).double(),
        torch.from_numpy(weights),
        torch.from_numpy(bias),
        padding=1,
        groups=3 if depthwise else 1,
    )
    assert undone == pytest.approx(true.numpy(), abs=2e-5)


def test_steps_are_the_best_of_what_is_tried():
    """A rare value is worth a coarser step for all others only where it is not far away."""
    rng = np.random.default_rng(1)
    x = np.zeros((1, 3, 200, 200), np.float32)
    x[0, :2] = rng.uniform(-0.5, 1.0, (2, 200, 200))
    x[0, 1, 0, 0] = 8.0
    low, high = x.min(axis=(0, 2, 3)).astype(float), x.max(axis=(0, 2, 3)).astype(float)
    counts = channel_counts([{"x": x}], {"x": (low, high)})["x"]
    assert counts.sum(axis=2).tolist() == [[40000] * 3]
    steps, least = choose_steps(counts, low, high, 2.0)
    assert steps[0] == pytest.approx((high[0] - low[0]) / 255, rel=0.02)

    def error(step: float, low: float) -> float:
        codes = np.clip(np.rint(x[0, 1] / step), low, low + 255)
        return float(np.square(x[0, 1] - codes * step).sum())

    assert error(steps[1], least[1]) <= 1.02 * error((high[1] - low[1]) / 255, np.rint(low[1] / (8.5 / 255)))
    assert steps[2] > 0


@pytest.mark.slow
@pytest.mark.parametrize("rounding", list(Rounding))
def test_every_form_loses_less(tiny, images, run_graph, rounding):
    recipe = replace(RECIPE, rounding=rounding)
    ranges = ranges_from_onnx(tiny.weakly_typed, images(), recipe)
    x = next(iter(images(1, 20, 5)))
    expected = tiny.model(torch.from_numpy(x)).numpy()
    plain = replace(recipe, spread=())
    before = int8_onnx_from_onnx(
        tiny.weakly_typed, ranges_from_onnx(tiny.weakly_typed, images(), plain), plain
    )
    worst = np.abs(run_graph(before, x) - expected).mean()
    for graph in (tiny.weakly_typed, tiny.decomposed, fp16_onnx_from_onnx(tiny.strongly_typed)):
        made = int8_onnx_from_onnx(graph, ranges, recipe)
        onnx.checker.check_model(made, full_check=True)
        assert problems(made) == []
        assert np.abs(run_graph(made, x) - expected).mean() < worst


def test_little_lies_outside(tiny, images):
    ranges = ranges_from_onnx(tiny.weakly_typed, images(), RECIPE)
    levels = [np.rint(x[0].transpose(1, 2, 0) * 255).astype(np.uint8) for x in images()]
    shares = shares_outside(tiny.weakly_typed, ranges, levels)
    assert all(shares[name] < 0.01 for name in NAMES), shares


def test_a_channel_that_hardly_varies_gets_a_factor_that_fp16_has(tiny, images, run_graph):
    """Training leaves such channels behind; a factor of 1e8 is infinite in FP16."""
    steps, least = np.array([1e-2, 4e-11, 2e-2, 1e-2]), np.array([-128.0, -255.0, 0.0, -255.0])
    (shifts, factors), limit = spread_of(steps, least, np.ones(4, bool))
    common = limit / 127
    assert np.allclose(common / np.array(factors), [1e-2, 2e-2 / 1024, 2e-2, 1e-2])
    # Every channel still reaches as far down as it did.
    assert np.allclose(np.array(shifts) - 128 * common / np.array(factors), [-1.28, 0, 0, -2.55], atol=4e-5)
    mostly = np.array([1e-11] * 6 + [1e-2] * 4)
    (_, factors), _ = spread_of(mostly, np.full(10, -255.0), np.ones(10, bool))
    assert 1 / 1024 <= min(factors) <= max(factors) <= 1024
    weights = {init.name: init for init in tiny.strongly_typed.graph.initializer}
    graph = onnx.ModelProto()
    graph.CopyFrom(tiny.strongly_typed)
    conv = next(node for node in graph.graph.node if node.name == "block_1.cab.cab.0")
    for name in conv.input[1:]:  # the first channel behind it hardly varies
        array = onnx.numpy_helper.to_array(weights[name]).copy()
        array[0] *= 1e-8
        next(i for i in graph.graph.initializer if i.name == name).CopyFrom(
            onnx.numpy_helper.from_array(array, name)
        )
    ranges = ranges_from_onnx(graph, images(), RECIPE)
    assert max(ranges.spread["block_1.cab.cab.2"][1]) <= 1024
    x = next(iter(images(1, 20, 5)))
    made = int8_onnx_from_onnx(fp16_onnx_from_onnx(graph), ranges, RECIPE)
    assert np.abs(run_graph(made, x) - run_graph(graph, x)).mean() < 0.02
