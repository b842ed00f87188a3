"""FP16 graphs: types where they belong, the network's values, and refusal of what does not fit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from hasn_edge.errors import UnsupportedError
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.fuse.apply import fuse
from hasn_edge.quantize.fp16 import fp16_onnx_from_onnx, rounded_onnx_from_fp16

RULES = ("merge_branches", "compose_esa", "fold_esa", "norm_factor", "pad_cab", "squeeze_first")


def types_of(proto: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    typed = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    types = {info.name: info.type.tensor_type.elem_type for info in typed}
    types.update({tensor.name: tensor.data_type for tensor in proto.graph.initializer})
    return types


def nodes_of(proto: onnx.ModelProto, *op_types: str) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if node.op_type in op_types]


@pytest.fixture(scope="module")
def half(tiny) -> onnx.ModelProto:
    return fp16_onnx_from_onnx(tiny.strongly_typed)


def test_the_graph_is_valid_and_its_ends_are_float32(half):
    onnx.checker.check_model(half, full_check=True)
    for value in (*half.graph.input, *half.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    assert [value.name for value in (*half.graph.input, *half.graph.output)] == ["input", "output"]


def test_convolutions_are_half_and_statistics_are_not(half):
    types = types_of(half)
    assert len(nodes_of(half, "Conv")) == 18
    for node in nodes_of(half, "Conv", "Gelu", "Clip", "DepthToSpace", "MaxPool", "Sigmoid"):
        floats = [types[name] for name in (*node.input, *node.output) if name in types]
        assert set(floats) == {TensorProto.FLOAT16}, node.name
    for node in nodes_of(half, "LayerNormalization", "GlobalAveragePool"):
        assert {types[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT}, node.name


def test_each_tensor_is_cast_at_most_once_and_only_around_islands(half):
    casts = nodes_of(half, "Cast")
    # Both ends; into and out of LayerNorm; into and out of the average over the frame.
    assert len(casts) == 6
    assert len({node.input[0] for node in casts}) == len(casts)


def test_names_and_metadata_are_kept(tiny, half):
    assert half.metadata_props == tiny.strongly_typed.metadata_props
    before = [node.name for node in nodes_of(tiny.strongly_typed, "Conv")]
    assert [node.name for node in nodes_of(half, "Conv")] == before


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("decompose", [False, True])
def test_the_image_is_that_of_the_float32_graph(tiny, run_graph, fused, decompose):
    model = fuse(tiny.model, RULES)[0] if fused else tiny.model
    full = onnx_from_model(model, opset=20, decompose_norm=decompose, simplify=False)
    x = np.random.default_rng(1).random((1, 3, 19, 33), dtype=np.float32)
    expected, found = run_graph(full, x), run_graph(fp16_onnx_from_onnx(full), x)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 4e-3 * np.abs(expected).max()


def test_what_one_operator_hands_to_the_next_is_rounded_as_numpy_does(run_graph):
    """A GPU has FP16 between operators; ONNX Runtime's CPU has FP32 there, and never overflows."""
    make, weights = onnx.helper.make_node, (300.0, 500.0, 1e-3)
    ends = [
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 4, 64])
        for name in ("input", "output")
    ]
    tensors = ("input", "a", "b", "output")
    graph = onnx.helper.make_graph(
        [make("Conv", [tensors[i], f"w{i}"], [tensors[i + 1]], name=f"conv{i}") for i in range(3)],
        "three", ends[:1], ends[1:],
        [numpy_helper.from_array(np.array([[[[w]]]], np.float32), f"w{i}") for i, w in enumerate(weights)],
    )  # fmt: skip
    full = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    half = fp16_onnx_from_onnx(full)
    x = np.linspace(0, 1, 256, dtype=np.float32).reshape(1, 1, 4, 64)
    expected = x.astype(np.float16)
    with np.errstate(over="ignore"):
        for weight in np.array(weights, np.float16):
            expected = (expected.astype(np.float32) * np.float32(weight)).astype(np.float16)
    assert np.isinf(expected).any()
    before = half.SerializeToString()
    assert np.array_equal(run_graph(rounded_onnx_from_fp16(half), x), expected.astype(np.float32))
    assert half.SerializeToString() == before


def test_a_decomposed_norm_is_computed_in_float32(tiny):
    full = onnx_from_model(tiny.model, opset=20, decompose_norm=True)
    half = fp16_onnx_from_onnx(full)
    types = types_of(half)
    inside = [
        node for node in half.graph.node if node.name.startswith("block_1.ln.") and node.op_type != "Cast"
    ]
    assert {"ReduceMean", "Sqrt", "Div", "Sub"} <= {node.op_type for node in inside}
    for node in inside:
        assert TensorProto.FLOAT16 not in {types.get(name) for name in (*node.input, *node.output)}, node.name


@pytest.mark.parametrize(
    "changes", [{"esa": False}, {"cab": False}, {"norm": False}, {"esa": False, "cab": False, "norm": False}]
)
def test_variants_of_the_network_convert_too(make_model, run_graph, changes):
    full = onnx_from_model(make_model(**changes), opset=20, simplify=False)
    x = np.random.default_rng(1).random((1, 3, 16, 16), dtype=np.float32)
    half = fp16_onnx_from_onnx(full)
    onnx.checker.check_model(half, full_check=True)
    assert np.abs(run_graph(half, x) - run_graph(full, x)).max() < 5e-3


@pytest.mark.parametrize("value", [65505.0, 1e30, -7e4])
def test_a_constant_that_does_not_fit_is_named(tiny, value):
    broken = onnx.ModelProto()
    broken.CopyFrom(tiny.strongly_typed)
    tensor = next(t for t in broken.graph.initializer if t.name == "block_1.g.conv.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0] = value
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(UnsupportedError, match=r"block_1.g.conv.weight has the value .*cannot hold.*fp32"):
        fp16_onnx_from_onnx(broken)


def test_the_largest_number_that_fits_is_kept_and_the_smallest_becomes_zero(tiny):
    proto = onnx.ModelProto()
    proto.CopyFrom(tiny.strongly_typed)
    tensor = next(t for t in proto.graph.initializer if t.name == "block_1.g.conv.bias")
    values = np.zeros(8, np.float32)
    values[:3] = 65504.0, -65504.0, 1e-30
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    half = fp16_onnx_from_onnx(proto)
    found = next(numpy_helper.to_array(t) for t in half.graph.initializer if t.name.startswith(tensor.name))
    assert found.dtype == np.float16
    assert found[:3].tolist() == [65504.0, -65504.0, 0.0]


def test_an_old_opset_is_refused(tiny):
    with pytest.raises(UnsupportedError, match=r"from opset 20 on, this graph has opset 17"):
        fp16_onnx_from_onnx(tiny.weakly_typed)


def test_float_arithmetic_on_shapes_is_refused_by_name(tiny):
    proto = onnx.ModelProto()
    proto.CopyFrom(tiny.strongly_typed)
    cast = onnx.helper.make_node("Cast", ["input"], ["copy"], name="odd", to=TensorProto.FLOAT)
    proto.graph.node.insert(0, cast)
    with pytest.raises(UnsupportedError, match=r"node odd \(Cast\)"):
        fp16_onnx_from_onnx(proto)


def test_the_graph_is_left_as_it_was(tiny):
    before = tiny.strongly_typed.SerializeToString()
    fp16_onnx_from_onnx(tiny.strongly_typed)
    assert tiny.strongly_typed.SerializeToString() == before


def test_a_static_graph_converts(tiny, run_graph):
    full = onnx_from_model(tiny.model, opset=20, size=(17, 21), simplify=False)
    x = np.random.default_rng(1).random((1, 3, 17, 21), dtype=np.float32)
    assert np.abs(run_graph(fp16_onnx_from_onnx(full), x) - run_graph(full, x)).max() < 4e-3
