"""What quantization needs to know of an ONNX graph: its convolutions, their tensors and their cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from hasn_edge.errors import UnsupportedError, say
from hasn_edge.exporters.least_side import without_padding
from hasn_edge.model.complexity import NetworkCounts


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """One ``Conv`` node with constant weights."""

    name: str
    """The node's name, which is the module path in the network; ranges are keyed by it."""
    input: str
    """Name of the tensor that it reads."""
    output: str
    weight: str
    """Name of the initializer with its weights ``(out, in / groups, height, width)``."""
    bias: str | None
    shape: tuple[int, int, int, int]
    groups: int
    pads: tuple[int, ...]
    """Rows and columns of zeros around the input: top, left, bottom, right."""
    strides: tuple[int, ...] = (1, 1)
    """Rows and columns from one output to the next."""


def convolutions(proto: ModelProto) -> tuple[Convolution, ...]:
    """Return the convolutions of ``proto`` in graph order.

    Raises:
        UnsupportedError: a convolution without a name of its own, or whose weights are computed.
    """
    weights = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    found: dict[str, Convolution] = {}
    for node in proto.graph.node:
        if node.op_type != "Conv":
            continue
        if not node.name or node.name in found:
            raise UnsupportedError(
                f"the graph has a convolution named {node.name!r} more than once or not at all, and ranges "
                "are keyed by name",
                say("export it with hasn_edge.exporters.onnx.onnx_from_model"),
            )
        shape = weights.get(node.input[1], ())
        if len(shape) != 4:
            raise UnsupportedError(
                f"convolution {node.name} takes its weights from {node.input[1]!r}, which is not a constant "
                "(out, in, height, width) tensor",
                say("quantize the float graph, not one that is quantized already"),
            )
        found[node.name] = Convolution(
            name=node.name,
            input=node.input[0],
            output=node.output[0],
            weight=node.input[1],
            bias=node.input[2] if len(node.input) > 2 and node.input[2] else None,
            shape=(shape[0], shape[1], shape[2], shape[3]),
            groups=int(attribute(node, "group", 1)),
            pads=tuple(attribute(node, "pads", (0, 0, 0, 0))),
            strides=tuple(attribute(node, "strides", (1, 1))),
        )
    return tuple(found.values())


@dataclass(frozen=True, kw_only=True)
class ConvCost:
    """What one convolution computes and writes for one image."""

    name: str
    macs: int
    """Multiply-accumulates: ``out * in / groups * kernel * output pixels``; the bias is not counted."""
    activations: int
    """Values that it writes."""
    weights: tuple[int, int, int, int]
    """Shape of its weights: out, in / groups, height, width."""
    kind: str
    """What it computes in: ``"FP32"``, ``"FP16"``, or ``"INT8"`` where input and weights are dequantized."""


def conv_macs(proto: ModelProto, size: tuple[int, int] = (256, 256)) -> dict[str, int]:
    """Return the multiply-accumulates of each convolution at an input of ``size`` (height, width), batch 1.

    Raises:
        UnsupportedError: shape inference does not reach a convolution's output.
    """
    return {cost.name: cost.macs for cost in conv_costs(proto, size)}


def conv_costs(proto: ModelProto, size: tuple[int, int]) -> tuple[ConvCost, ...]:
    """Return what each convolution costs at an input of ``size`` (height, width), batch 1, in graph order.

    The sizes come from ONNX's shape inference, which does not see through the padding that a graph of any
    size does itself; it has no convolution. ``proto`` is left as it was.

    Raises:
        UnsupportedError: shape inference does not reach a convolution's output.
    """
    fixed = without_padding(proto)
    del fixed.graph.value_info[:]
    entry = fixed.graph.input[0].type.tensor_type
    pixels = entry.elem_type == TensorProto.UINT8
    channels = entry.shape.dim[3 if pixels else 1].dim_value
    sides = (1, *size, channels) if pixels else (1, channels, *size)
    for dim, value in zip(entry.shape.dim, sides, strict=True):
        dim.Clear()
        dim.dim_value = value
    for output in fixed.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    shapes = {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in (*inferred.graph.value_info, *inferred.graph.output)
    }
    dequantized = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    half = {tensor.name for tensor in proto.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    costs = []
    for node in (node for node in inferred.graph.node if node.op_type == "Conv"):
        output = shapes.get(node.output[0], [])
        weight = shapes.get(node.input[1]) or _dims(inferred, node.input[1])
        if len(output) != 4 or 0 in output or len(weight) != 4:
            raise UnsupportedError(
                f"the output size of convolution {node.name} cannot be inferred from an input of {size}"
            )
        kind = "FP16" if node.input[1] in half else "FP32"
        integer = dequantized.issuperset(node.input[:2])
        costs.append(
            ConvCost(
                name=node.name,
                macs=prod(output[1:]) * prod(weight[1:]),
                activations=prod(output[1:]),
                weights=(weight[0], weight[1], weight[2], weight[3]),
                kind="INT8" if integer else kind,
            )
        )
    return tuple(costs)


def count_graph(proto: ModelProto, size: tuple[int, int]) -> NetworkCounts:
    """Return parameters, MACs and activations of a graph's convolutions at an input of ``size``, batch 1.

    Raises:
        UnsupportedError: see :func:`conv_costs`.
    """
    costs = conv_costs(proto, size)
    biases = sum(conv.shape[0] for conv in convolutions(proto) if conv.bias is not None)
    return NetworkCounts(
        parameters=biases + sum(prod(cost.weights) for cost in costs),
        macs=sum(cost.macs for cost in costs),
        activations=sum(cost.activations for cost in costs),
    )


def mac_share(proto: ModelProto, names: Iterable[str]) -> float:
    """Return the part of all convolutions' multiply-accumulates that those called ``names`` do, 0 to 1."""
    costs = conv_macs(proto)
    total = sum(costs.values())
    return sum(costs[name] for name in names) / total if total else 0.0


def initializers(proto: ModelProto) -> dict[str, TensorProto]:
    """Return the constant tensors of the graph by name; the protos are the graph's own."""
    return {tensor.name: tensor for tensor in proto.graph.initializer}


def array_of(tensor: TensorProto) -> NDArray[Any]:
    """Return a constant tensor's values."""
    values: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
    return values


def attribute(node: NodeProto, name: str, default: object) -> Any:
    """Return the value of a node's attribute, or ``default`` where it is not set."""
    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default


def opset_of(proto: ModelProto) -> int:
    """Return the version of the default operator set that the graph uses."""
    return next((int(item.version) for item in proto.opset_import if item.domain in ("", "ai.onnx")), 0)


def _dims(proto: ModelProto, name: str) -> list[int]:
    return next((list(tensor.dims) for tensor in proto.graph.initializer if tensor.name == name), [])
