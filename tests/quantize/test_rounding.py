"""Compensated rounding: moments as PyTorch's unfold has them, smaller errors on what a convolution reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from hasn_edge.errors import ConfigError
from hasn_edge.quantize import rounding
from hasn_edge.quantize.fp16 import fp16_onnx_from_onnx
from hasn_edge.quantize.freeze import freeze_gates
from hasn_edge.quantize.graph import array_of, convolutions, initializers
from hasn_edge.quantize.int8 import int8_onnx_from_onnx
from hasn_edge.quantize.ranges import ranges_from_onnx
from hasn_edge.quantize.recipe import Granularity, QuantRecipe, Rounding, WeightRange
from hasn_edge.quantize.rounding import compensate, input_moments


@pytest.mark.parametrize("name", ["conv_1", "block_1.dwconv.conv", "block_1.esa.conv2", "block_1.g.conv"])
def test_moments_are_those_of_unfold(tiny, name, monkeypatch):
    monkeypatch.setattr(rounding, "SAMPLES", 10**6)  # every place
    conv = next(conv for conv in convolutions(tiny.weakly_typed) if conv.name == name)
    module = tiny.model.get_submodule(name)
    x = np.random.default_rng(0).standard_normal((module.in_channels, 13, 15)).astype(np.float32)
    unfolded = torch.nn.functional.unfold(
        torch.from_numpy(x)[None].double(), module.kernel_size, padding=module.padding, stride=module.stride
    )
    groups = unfolded.reshape(module.groups, -1, unfolded.shape[-1])
    expected = (groups @ groups.transpose(1, 2)).numpy()
    np.testing.assert_allclose(input_moments(conv, x), expected, rtol=1e-4, atol=1e-3)


def test_inputs_that_go_together_compensate_and_others_do_not():
    rng = np.random.default_rng(0)
    weights, scales = rng.standard_normal((6, 27)), np.full(6, 0.05)
    nearest = np.rint(weights / 0.05)
    np.testing.assert_array_equal(compensate(weights, scales, np.diag(rng.random(27) + 0.1)), nearest)
    mixed = rng.standard_normal((27, 4)) @ rng.standard_normal((4, 500)) + 0.1 * rng.standard_normal(
        (27, 500)
    )
    codes = compensate(weights, scales, mixed @ mixed.T)
    errors = [np.square((each * 0.05 - weights) @ mixed).mean() for each in (codes, nearest)]
    assert errors[0] < 0.3 * errors[1]
    assert np.abs(codes - nearest).max() <= 3


@pytest.mark.filterwarnings("error")
def test_weights_of_inputs_that_are_always_zero_go_to_the_nearest_code():
    weights, scales = np.random.default_rng(0).standard_normal((6, 9)), np.linspace(0.02, 0.05, 6)
    nearest = np.clip(np.rint(weights / scales[:, None]), -128, 127)
    np.testing.assert_array_equal(compensate(weights, scales, np.zeros((9, 9))), nearest)


@pytest.mark.parametrize("half", [False, True])
def test_graphs_have_these_codes_and_lose_less(tiny, images, run_graph, half):
    recipe = QuantRecipe(
        quantize=("*",),
        keep_float=("*.attention.*",),
        rounding=Rounding.COMPENSATED,
        weight_range=WeightRange.MSE,
    )
    ranges = ranges_from_onnx(tiny.weakly_typed, images(), recipe)
    source = fp16_onnx_from_onnx(tiny.strongly_typed) if half else tiny.weakly_typed
    graph = int8_onnx_from_onnx(source, ranges, recipe)
    onnx.checker.check_model(graph)
    constants = initializers(graph)
    for conv in convolutions(source):
        if conv.name in ranges.codes:
            scales = array_of(constants[f"{conv.name}.weight.q.scale"]).astype(np.float64)
            codes = np.rint(array_of(constants[conv.weight]).astype(np.float64) / scales.reshape(-1, 1, 1, 1))
            rounded = ranges.codes[conv.name]
            np.testing.assert_array_equal(codes, rounded.codes)
            steps = np.where(rounded.limits > 0, rounded.limits, 1) / 127
            np.testing.assert_allclose(scales, steps, rtol=2e-3 if half else 1e-6)
    if half:
        return
    (x,) = images(count=1, seed=5)
    expected = run_graph(tiny.weakly_typed, x)
    losses = [
        np.square(run_graph(int8_onnx_from_onnx(tiny.weakly_typed, each, recipe), x) - expected).mean()
        for each in (ranges, replace(ranges, codes={}))
    ]
    assert losses[0] < losses[1]


def test_what_is_stated_has_no_codes(tiny, images):
    recipe = QuantRecipe(quantize=("conv_1",), rounding=Rounding.COMPENSATED)
    ranges = ranges_from_onnx(tiny.weakly_typed, images(), recipe)
    assert list(ranges.codes) == ["conv_1"]
    assert not hasattr(ranges.to_record(), "codes")
    assert ranges.only([]).codes == {}


def stored(graph: onnx.ModelProto, name: str) -> np.ndarray:
    """Return the weights that a convolution's Q/DQ pair reads."""
    makers = {output: node for node in graph.graph.node for output in node.output}
    (conv,) = (node for node in graph.graph.node if node.name == name)
    return array_of(initializers(graph)[makers[makers[conv.input[1]].input[0]].input[0]])


def test_codes_keep_their_scales_where_a_gate_is_frozen(tiny, images):
    name = "block_1.cab.cab.2"
    recipe = QuantRecipe(quantize=(name,), rounding=Rounding.COMPENSATED)
    ranges = ranges_from_onnx(tiny.weakly_typed, images(), recipe)
    own = ranges.codes[name]
    # Scales that nobody would choose for these weights: they are kept all the same.
    ranges = replace(ranges, codes={name: replace(own, limits=own.limits * np.linspace(0.8, 1.2, 8))})
    gate = np.array([0.5, 1.0, 0.0, -0.25, 0.1, 0.9, 0.3, 0.7])
    plain = int8_onnx_from_onnx(tiny.weakly_typed, ranges, recipe)
    frozen = int8_onnx_from_onnx(freeze_gates(tiny.weakly_typed, {f"{name}.gate": gate}), ranges, recipe)
    steps = own.limits * np.linspace(0.8, 1.2, 8) / 127
    np.testing.assert_allclose(stored(plain, name), own.codes * steps.reshape(-1, 1, 1, 1), rtol=1e-6)
    expected = stored(plain, name) * gate.reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(stored(frozen, name), expected, rtol=1e-5)
    with pytest.raises(ConfigError, match="one scale for all"):
        replace(recipe, weights=Granularity.PER_TENSOR, freeze=("*.gate",))


def test_small_weights_keep_their_size_where_fp16_has_no_such_scale(tiny, images):
    name, plain = "block_1.f2.conv", onnx.ModelProto()
    plain.CopyFrom(tiny.strongly_typed)
    (conv,) = (conv for conv in convolutions(plain) if conv.name == name)
    tensor = initializers(plain)[conv.weight]
    weights = array_of(tensor).copy()
    weights[0] *= 1e-3 / np.abs(weights[0]).max()  # one code stands for 7.9e-6, and FP16's least for 6.1e-5
    tensor.CopyFrom(onnx.numpy_helper.from_array(weights, conv.weight))
    recipe = QuantRecipe(quantize=(name,), rounding=Rounding.COMPENSATED)
    ranges = ranges_from_onnx(plain, images(), recipe)
    graph = int8_onnx_from_onnx(fp16_onnx_from_onnx(plain), ranges, recipe)
    meant = ranges.codes[name].codes[0] * (ranges.codes[name].limits[0] / 127)
    np.testing.assert_allclose(stored(graph, name)[0], meant, rtol=1e-3, atol=2.0**-15)


def test_codes_of_other_scales_are_refused(tiny, images):
    recipe = QuantRecipe(rounding=Rounding.COMPENSATED)
    ranges = ranges_from_onnx(tiny.weakly_typed, images(), recipe)
    with pytest.raises(ConfigError, match="rounded together for scales of another kind than .*'per_tensor'"):
        int8_onnx_from_onnx(tiny.weakly_typed, ranges, replace(recipe, weights=Granularity.PER_TENSOR))


def test_convolutions_that_share_weights_have_codes_of_their_own(tiny, images):
    names = ("block_1.f1.conv", "block_1.f2.conv")
    shared = onnx.ModelProto()
    shared.CopyFrom(tiny.weakly_typed)
    first, second = (next(node for node in shared.graph.node if node.name == name) for name in names)
    second.input[1] = first.input[1]
    recipe = QuantRecipe(quantize=names, rounding=Rounding.COMPENSATED)
    ranges = ranges_from_onnx(shared, images(), recipe)
    own = ranges.codes[names[1]]
    ranges = replace(ranges, codes={**ranges.codes, names[1]: replace(own, codes=own.codes // 2)})
    graph = int8_onnx_from_onnx(shared, ranges, recipe)
    onnx.checker.check_model(graph)
    for name in names:
        rounded = ranges.codes[name]
        expected = rounded.codes * (rounded.limits / 127).reshape(-1, 1, 1, 1)
        np.testing.assert_allclose(stored(graph, name), expected, rtol=1e-6)
