"""Compensated rounding: moments as PyTorch's unfold has them, smaller errors on what a convolution reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from hasn_edge.quantize import rounding
from hasn_edge.quantize.fp16 import fp16_onnx_from_onnx
from hasn_edge.quantize.graph import array_of, convolutions, initializers
from hasn_edge.quantize.int8 import int8_onnx_from_onnx
from hasn_edge.quantize.ranges import ranges_from_onnx
from hasn_edge.quantize.recipe import QuantRecipe, Rounding
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


@pytest.mark.parametrize("half", [False, True])
def test_graphs_have_these_codes_and_lose_less(tiny, images, run_graph, half):
    recipe = QuantRecipe(quantize=("*",), keep_float=("*.attention.*",), rounding=Rounding.COMPENSATED)
    ranges = ranges_from_onnx(tiny.weakly_typed, images(), recipe)
    source = fp16_onnx_from_onnx(tiny.strongly_typed) if half else tiny.weakly_typed
    graph = int8_onnx_from_onnx(source, ranges, recipe)
    onnx.checker.check_model(graph)
    constants = initializers(graph)
    for conv in convolutions(source):
        if conv.name in ranges.codes:
            scales = array_of(constants[f"{conv.name}.weight.q.scale"]).astype(np.float64)
            codes = np.rint(array_of(constants[conv.weight]).astype(np.float64) / scales.reshape(-1, 1, 1, 1))
            np.testing.assert_array_equal(codes, ranges.codes[conv.name])
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
