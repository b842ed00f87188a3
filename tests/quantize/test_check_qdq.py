"""Each rule of TensorRT is broken once; the linter must say which and where."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hasn_edge.errors import BuildError
from hasn_edge.quantize.check_qdq import check_qdq, problems
from hasn_edge.quantize.fp16 import fp16_onnx_from_onnx
from hasn_edge.quantize.int8 import int8_onnx_from_onnx
from hasn_edge.quantize.recipe import QuantRecipe

NAME = "block_1.g.conv"


@pytest.fixture
def proto(tiny) -> onnx.ModelProto:
    return int8_onnx_from_onnx(tiny.weakly_typed, tiny.ranges, QuantRecipe())


def conv(proto: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in proto.graph.node if node.name == NAME)


def quantizer(proto: onnx.ModelProto, index: int) -> onnx.NodeProto:
    """Return the QuantizeLinear behind input ``index`` (0 activation, 1 weights) of the convolution."""
    makers = {output: node for node in proto.graph.node for output in node.output}
    return makers[makers[conv(proto).input[index]].input[0]]


def replace_constant(proto: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def only(proto: onnx.ModelProto, text: str) -> None:
    found = problems(proto)
    assert found
    assert all(text in problem for problem in found), found
    with pytest.raises(BuildError, match="breaks rules of TensorRT"):
        check_qdq(proto)


def test_our_own_graphs_pass(proto):
    check_qdq(proto)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_scales_are_positive_and_finite(proto, bad):
    replace_constant(proto, quantizer(proto, 0).input[1], np.array(bad, np.float32))
    only(proto, "scale is not a positive finite number")


@pytest.mark.parametrize("zero", [np.array(3, np.int8), np.array(0, np.uint8)])
def test_zero_points_are_int8_zeros(proto, zero):
    replace_constant(proto, quantizer(proto, 0).input[2], zero)
    found = problems(proto)
    assert any("zero point is not int8 zero" in problem for problem in found)


def test_scales_have_the_type_of_their_tensor(tiny):
    strongly_typed = int8_onnx_from_onnx(fp16_onnx_from_onnx(tiny.strongly_typed), tiny.ranges, QuantRecipe())
    assert problems(strongly_typed) == []
    name = quantizer(strongly_typed, 0).input[1]
    replace_constant(strongly_typed, name, np.array(0.1, np.float32))
    assert any("the tensor is float16, its scale float32" in problem for problem in problems(strongly_typed))


def test_a_quantized_float32_input_in_front_of_an_fp16_convolution_is_found(tiny):
    strongly_typed = int8_onnx_from_onnx(fp16_onnx_from_onnx(tiny.strongly_typed), tiny.ranges, QuantRecipe())
    node = next(
        n for n in strongly_typed.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "input.fp16"
    )
    node.input[0] = "input"
    assert any("the tensor is float32, its scale float16" in problem for problem in problems(strongly_typed))


def test_activations_have_one_scale(proto):
    node = quantizer(proto, 0)
    replace_constant(proto, node.input[1], np.full(24, 0.1, np.float32))
    replace_constant(proto, node.input[2], np.zeros(24, np.int8))
    only(proto, "has 24 scales, expected one")


def test_weights_have_their_scales_on_axis_zero(proto):
    for node in proto.graph.node:
        if node.name.startswith(f"{NAME}.weight.q/"):
            node.attribute[0].i = 1
    only(proto, "scales on axis 1")


def test_biases_are_not_quantized(proto):
    bias = conv(proto).input[2]
    pair = [quantizer(proto, 0).input[1], quantizer(proto, 0).input[2]]
    proto.graph.node.insert(0, helper.make_node("DequantizeLinear", ["b.q", *pair], ["b.dq"], name="b.dq"))
    proto.graph.node.insert(0, helper.make_node("QuantizeLinear", [bias, *pair], ["b.q"], name="b.q"))
    conv(proto).input[2] = "b.dq"
    only(proto, f"{NAME}: its bias is quantized")


def test_input_and_weights_go_together(proto):
    conv(proto).input[1] = quantizer(proto, 1).input[0]
    only(proto, f"{NAME}: only one of its input and its weights is quantized")


def test_a_tensor_is_quantized_once(proto):
    node = quantizer(proto, 0)
    again = onnx.NodeProto()
    again.CopyFrom(node)
    again.name, again.output[0] = "again", "again"
    proto.graph.node.insert(list(proto.graph.node).index(node) + 1, again)
    only(proto, "is quantized more than once")


def test_stored_integers_are_found(proto):
    node = next(n for n in proto.graph.node if n.output[0] == conv(proto).input[1])
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((8, 24, 1, 1), np.int8), "stored"))
    node.input[0] = "stored"
    assert any("does not come from a QuantizeLinear" in problem for problem in problems(proto))


def test_computed_scales_are_found(proto):
    node = quantizer(proto, 0)
    copy = helper.make_node("Identity", [node.input[1]], ["computed"], name="computed")
    proto.graph.node.insert(0, copy)
    node.input[1] = "computed"
    only(proto, "its scale is not a constant")
