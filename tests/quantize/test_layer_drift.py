"""Layers of INT8 graphs against those of the float graphs that they were made of."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from hasn_edge.errors import InputError
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.quantize.int8 import int8_onnx_from_onnx
from hasn_edge.quantize.layer_drift import float_graph, layer_drift
from hasn_edge.quantize.ranges import ranges_from_onnx
from hasn_edge.quantize.recipe import QuantRecipe
from tests.quantize.conftest import Images, run, tiny_model

RECIPES = {"plain": QuantRecipe(), "shifted": QuantRecipe(shift=("*",))}


@pytest.fixture(scope="module", params=list(RECIPES))
def graphs(request):
    recipe = RECIPES[request.param]
    plain = onnx_from_model(tiny_model())
    ranges = ranges_from_onnx(plain, Images(), recipe)
    return plain, int8_onnx_from_onnx(plain, ranges, recipe), ranges


def test_the_float_graph_is_the_one_that_was_quantized(graphs):
    plain, quantized, _ = graphs
    x = np.random.default_rng(5).random((1, 3, 24, 20), dtype=np.float32)
    assert np.abs(run(float_graph(quantized), x) - run(plain, x)).max() < 2e-6
    assert np.abs(run(quantized, x) - run(plain, x)).max() > 1e-4


def test_the_last_layers_sqnr_is_that_of_the_output(graphs):
    plain, quantized, ranges = graphs
    image = np.random.default_rng(6).random((1, 3, 40, 30), dtype=np.float32)
    found = layer_drift(quantized, [image], ranges.to_record(), largest=24)
    x = np.ascontiguousarray(image[:, :, :24, :24])
    a, b = run(plain, x).astype(np.float64), run(quantized, x)
    # The pixel shuffle moves values and changes none.
    assert found[-1].sqnr_db == pytest.approx(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()), abs=1e-3)
    assert [one.name for one in found] == [n.name for n in plain.graph.node if n.op_type == "Conv"]
    assert found[0].sqnr_db > found[-1].sqnr_db


def test_clipping_is_that_of_the_weights_and_of_the_sidecar(graphs):
    plain, quantized, ranges = graphs
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in plain.graph.initializer}
    for one, node in zip(
        layer_drift(quantized, Images(1).batches, ranges.to_record()),
        (n for n in plain.graph.node if n.op_type == "Conv"),
        strict=True,
    ):
        assert one.int8
        assert one.weight_peak == pytest.approx(np.abs(weights[node.input[1]]).max())
        assert 0 <= one.weight_clipped < 0.2
        assert one.input_peak == ranges.peaks[node.name]
        factor = 255 / 127 if node.name in ranges.lows else 1
        assert one.input_range == pytest.approx(ranges.values[node.name] * factor)


def test_what_is_not_quantized_has_no_range(graphs):
    plain, _, ranges = graphs
    only = QuantRecipe(quantize=("conv_2",))
    quantized = int8_onnx_from_onnx(plain, ranges, only)
    found = {one.name: one for one in layer_drift(quantized, Images(1).batches)}
    assert [name for name, one in found.items() if one.int8] == ["conv_2"]
    assert found["conv_1"].sqnr_db is None
    assert found["conv_1"].weight_peak is None
    assert found["conv_2"].sqnr_db is not None
    assert found["conv_2"].input_peak is None


def test_no_image_is_refused(graphs):
    with pytest.raises(InputError, match="comparing layers needs at least one image"):
        layer_drift(graphs[1], [])
