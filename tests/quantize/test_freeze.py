"""Frozen channel attention: exact where gates are constant, and one more choice of a search."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from hasn_edge.data.pairs import EvalSet, held_out_sets
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.fuse.apply import fuse
from hasn_edge.quantize.freeze import find_gates, freeze_gates, with_frozen_gates
from hasn_edge.quantize.int8 import int8_onnx_from_onnx
from hasn_edge.quantize.ranges import measure_gates, ranges_from_onnx
from hasn_edge.quantize.recipe import QuantRecipe, Saving
from hasn_edge.quantize.search import Meter, measure_groups, search_placement

NAME = "block_1.cab.cab.2.gate"


def in_doubles(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that computes in float64."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            wide = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))
    for value in (*copy.graph.input, *copy.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return copy


@pytest.fixture(scope="module")
def constant(make_model):
    """A network whose attention's ReLU is dead, as in blocks 4 and 5 of the published weights."""
    model = make_model()
    with torch.no_grad():
        model.block_1.cab.cab[3].attention[1].bias.fill_(-100.0)
    gate = torch.sigmoid(model.block_1.cab.cab[3].attention[3].bias.double()).numpy()
    return model, gate


@pytest.mark.parametrize("rules", [(), ("squeeze_first", "pad_cab")])
def test_a_constant_gate_folds_exactly(constant, rules):
    model, gate = constant
    proto = in_doubles(onnx_from_model(fuse(model, rules)[0] if rules else model, opset=17))
    assert list(find_gates(proto)) == [NAME]
    frozen = freeze_gates(proto, {NAME: gate})
    x = np.random.default_rng(0).random((1, 3, 16, 18))
    a, b = (ReferenceEvaluator(graph).run(None, {"input": x})[0] for graph in (proto, frozen))
    assert np.abs(a - b).max() < 1e-12 * np.abs(a).max()
    kinds = {node.op_type for node in frozen.graph.node}
    assert "GlobalAveragePool" not in kinds
    assert not any("attention" in tensor.name for tensor in frozen.graph.initializer)


def test_what_another_node_reads_too_is_left_as_it_was(constant):
    """onnxsim merges initializers of equal values: here the bias of the scaled convolution and of g."""
    model, gate = constant
    proto = in_doubles(onnx_from_model(model, opset=17))
    nodes = {node.name: node for node in proto.graph.node}
    conv, other = nodes[find_gates(proto)[NAME].conv], nodes["block_1.g.conv"]
    other.input[2] = conv.input[2]
    frozen = freeze_gates(proto, {NAME: gate})
    x = np.random.default_rng(0).random((1, 3, 16, 18))
    a, b = (ReferenceEvaluator(graph).run(None, {"input": x})[0] for graph in (proto, frozen))
    assert np.abs(a - b).max() < 1e-12 * np.abs(a).max()


def test_gates_are_means_over_images(tiny, images):
    ((mean, spread),) = measure_gates(tiny.weakly_typed, images(), [NAME]).values()
    seen = []
    attention = tiny.model.block_1.cab.cab[3].attention
    handle = attention.register_forward_hook(lambda m, i, out: seen.append(out[0, :, 0, 0].double().numpy()))
    with torch.no_grad():
        for batch in images():
            tiny.model(torch.from_numpy(batch))
    handle.remove()
    np.testing.assert_allclose(mean, np.mean(seen, 0), rtol=1e-5)
    assert spread == pytest.approx((np.std(seen, 0) / np.mean(seen, 0)).mean(), rel=1e-2)


def test_a_recipe_freezes_in_int8_graphs(tiny, images, run_graph):
    recipe = QuantRecipe(quantize=("block_1.g.conv",), freeze=("block_*.gate",))
    ranges = ranges_from_onnx(tiny.weakly_typed, images(), recipe)
    assert list(ranges.gates) == [NAME]
    frozen = with_frozen_gates(tiny.weakly_typed, ranges, recipe)
    assert len(find_gates(tiny.weakly_typed)) == 1, "the graph itself stays"
    graph = int8_onnx_from_onnx(frozen, ranges, recipe)
    (x,) = images(count=1)
    assert np.abs(run_graph(graph, x) - run_graph(tiny.weakly_typed, x)).max() < 0.05
    assert with_frozen_gates(tiny.weakly_typed, ranges, replace(recipe, freeze=())) is tiny.weakly_typed


def test_a_gate_is_found_behind_channels_that_are_spread(tiny, images):
    recipe = QuantRecipe(quantize=("*",), spread=("*",), freeze=("*",))
    ranges = ranges_from_onnx(tiny.weakly_typed, images(), recipe)
    ((mean, _),) = measure_gates(tiny.weakly_typed, images(), [NAME]).values()
    assert ranges.gates == {NAME: mean}
    frozen = with_frozen_gates(tiny.weakly_typed, ranges, recipe)
    graph = int8_onnx_from_onnx(frozen, ranges, recipe)
    assert not [node.name for node in graph.graph.node if node.op_type == "GlobalAveragePool"]


@pytest.mark.slow
def test_a_search_chooses_it_where_it_saves_something(tiny, tmp_path):
    parts = [EvalSet(name=p.name, scale=p.scale, pairs=p.pairs[:1]) for p in held_out_sets(4)]
    gates = {NAME: (0.5,) * 8}
    recipe = QuantRecipe(quantize=("block_1.g.conv",))
    ranges = replace(tiny.ranges, gates=gates)
    meter = Meter(tiny.weakly_typed, ranges, recipe, parts, tmp_path)
    gains = {"block_1.g.conv": 0.1, NAME: 0.2}
    groups = measure_groups(tiny.weakly_typed, meter, recipe, gates=gates, gains=gains)
    found = search_placement(groups, meter, recipe, budget=(50.0, 50.0), saving=Saving.BYTES)
    assert (found.recipe.quantize, found.recipe.freeze) == (("block_1.g.conv",), (NAME,))
    plain = Meter(tiny.weakly_typed, tiny.ranges, recipe, parts, tmp_path)
    assert plain.measure(["block_1.g.conv"])[0] == groups[0].loss
    assert len(list(tmp_path.iterdir())) == 1, "what is measured without gates is known with them, and back"
    without = [replace(group, gain=-0.1) if group.name == NAME else group for group in groups]
    assert search_placement(without, meter, recipe, budget=(50.0, 50.0)).recipe.freeze == ()
