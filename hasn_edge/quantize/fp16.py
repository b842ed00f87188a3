"""An FP32 graph as one with FP16 tensors, written into the graph: what strongly typed builders read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from hasn_edge.errors import UnsupportedError, say, use
from hasn_edge.quantize.graph import initializers, opset_of

LARGEST_FP16 = 65504.0
"""Largest finite FP16 number."""

FLOAT32_OPS = frozenset({"LayerNormalization", "GlobalAveragePool"})
"""Operators computed in FP32: an FP16 square overflows above 255, and a sum over a frame much sooner."""

_FLOAT32_SCOPES = frozenset({"ReduceMean", "Sqrt"})
"""Where one of these is, all nodes of its module are computed in FP32: a LayerNorm in elementary operators
adds an epsilon of 1e-5, which is below FP16's normal numbers."""

_FLOAT32_INPUTS = {"Resize": (1, 2)}
"""Inputs that stay FP32 by the operator's definition: region and scales of Resize."""

_MAKES_FLOATS = frozenset({"Constant", "ConstantOfShape", "EyeLike", "If", "Loop", "RandomNormal", "Scan"})


def fp16_onnx_from_onnx(proto: ModelProto) -> ModelProto:
    """Return ``proto`` with FP16 tensors and weights, FP32 input and output; ``proto`` is left as it was.

    LayerNorm and averages over the frame are computed in FP32 between two casts. No value of the result
    is infinite: a constant that FP16 cannot hold is refused. Constants below 6e-8 become zero.

    Args:
        proto: An FP32 graph of opset 20 or newer, from
            :func:`hasn_edge.exporters.onnx.onnx_from_model`.

    Raises:
        UnsupportedError: an older opset, a constant above 65504 (it is named), or an operator that makes
            floats out of nothing.
    """
    if opset_of(proto) < 20:
        raise UnsupportedError(
            f"FP16 is written from opset 20 on, this graph has opset {opset_of(proto)}",
            use(opset=20),
            say("give TensorRT below 10.12 the FP32 graph with its own FP16 flag"),
        )
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    writer = _CastWriter(result)
    nodes = list(result.graph.node)
    island = set(_float32_nodes(nodes))
    outputs = {output.name for output in result.graph.output}
    for node in nodes:
        writer.add(node, float32=node.name in island, keep=outputs)
    for output in result.graph.output:
        writer.finish(output.name)
    writer.write()
    return result


def rounded_onnx_from_fp16(proto: ModelProto) -> ModelProto:
    """Return a graph of FP32 tensors that are rounded wherever ``proto`` has FP16 ones: what a GPU computes.

    ONNX Runtime's CPU provider runs FP16 operators in FP32 and leaves out the casts between them that it put
    there itself, so that it neither rounds what one operator hands to the next nor sees an overflow. Casts
    that a graph states stay. Operators are taken to sum up in FP32, and what an INT8 convolution reads is no
    FP16 number: it sums up integers, whose scales are applied to the sum. ``proto`` is left as it was.

    Args:
        proto: From :func:`fp16_onnx_from_onnx`, or with Q/DQ nodes from
            :func:`hasn_edge.quantize.int8.int8_onnx_from_onnx` on top of it.
    """
    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    halves = {info.name for info in inferred.value_info if info.type.tensor_type.elem_type == half}
    result, nodes = onnx.ModelProto(), []
    result.CopyFrom(proto)
    for tensor in result.graph.initializer:
        if tensor.data_type == half:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for node in result.graph.node:
        for item in node.attribute if node.op_type == "Cast" else ():
            item.i = full if item.name == "to" and item.i == half else item.i
        made = [name for name in node.output if name in halves and node.op_type != "DequantizeLinear"]
        node.output[:] = [f"{name}.exact" if name in made else name for name in node.output]
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
        for name in made:
            nodes.append(onnx.helper.make_node("Cast", [f"{name}.exact"], [f"{name}.half"], to=half))
            nodes.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=full))
    del result.graph.node[:], result.graph.value_info[:]
    result.graph.node.extend(nodes)
    return result


def _float32_nodes(nodes: list[NodeProto]) -> Iterator[str]:
    scopes = {_scope(node) for node in nodes if node.op_type in _FLOAT32_SCOPES}
    for node in nodes:
        if node.op_type in FLOAT32_OPS | _FLOAT32_SCOPES or _scope(node) in scopes:
            yield node.name


def _scope(node: NodeProto) -> str:
    """Return the module that a node belongs to: ``block_1.ln`` for ``block_1.ln.Sqrt``."""
    return str(node.name).rpartition(".")[0] or str(node.name)


class _CastWriter:
    """Goes through a graph in order and puts a Cast wherever FP16 meets FP32, once per tensor."""

    def __init__(self, model: ModelProto) -> None:
        self._half = onnx.TensorProto.FLOAT16
        self._full = onnx.TensorProto.FLOAT
        self._model = model
        self._constants = initializers(model)
        inferred = onnx.shape_inference.infer_shapes(model)
        typed = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
        self._float = {info.name for info in typed if info.type.tensor_type.elem_type == self._full}
        self._type = {info.name: self._full for info in model.graph.input}
        self._nodes: list[NodeProto] = []
        self._casts: dict[tuple[str, int], str] = {}
        self._new: dict[str, Any] = {}

    def add(self, node: NodeProto, *, float32: bool, keep: set[str]) -> None:
        if node.op_type in _MAKES_FLOATS or (
            node.op_type == "Cast" and any(name in self._float for name in (*node.input, *node.output))
        ):
            raise UnsupportedError(
                f"node {node.name} ({node.op_type}) cannot be written in FP16",
                say("simplify the graph first (hasn_edge.exporters.onnx.onnx_from_model does)"),
            )
        wanted = self._full if float32 else self._half
        for index, name in enumerate(node.input):
            if index in _FLOAT32_INPUTS.get(node.op_type, ()):
                self._new.setdefault(name, self._constants.get(name))
            elif name:
                node.input[index] = self._convert(name, wanted)
        for index, name in enumerate(node.output):
            if name not in self._float:
                continue
            if name in keep and wanted == self._half:
                node.output[index] = name = f"{name}.fp16"
            self._type[name] = wanted
        self._nodes.append(node)

    def finish(self, output: str) -> None:
        """Give the graph's output its FP32 value."""
        if output not in self._type:
            self._cast(f"{output}.fp16", output, self._full)

    def write(self) -> None:
        graph = self._model.graph
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self._nodes]
        tensors = [tensor for tensor in self._new.values() if tensor is not None]
        tensors = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
        for field, values in ((graph.node, nodes), (graph.initializer, tensors), (graph.value_info, [])):
            del field[:]
            field.extend(values)

    def _convert(self, name: str, wanted: int) -> str:
        if name in self._constants:
            return self._constant(name, wanted)
        current = self._type.get(name)
        # A tensor that an earlier node has renamed because it is the graph's output as well.
        if current is None and f"{name}.fp16" in self._type:
            name, current = f"{name}.fp16", self._half
        if current is None or current == wanted:
            return name
        if (name, wanted) not in self._casts:
            suffix = "fp16" if wanted == self._half else "fp32"
            self._casts[name, wanted] = f"{name}.{suffix}"
            self._cast(name, f"{name}.{suffix}", wanted)
        return self._casts[name, wanted]

    def _cast(self, source: str, target: str, wanted: int) -> None:
        node = onnx.helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=wanted)
        self._nodes.append(node)
        self._type[target] = wanted

    def _constant(self, name: str, wanted: int) -> str:
        tensor = self._constants[name]
        if tensor.data_type != self._full or wanted == self._full:
            self._new[name] = tensor
            return name
        values = onnx.numpy_helper.to_array(tensor)
        largest = float(np.abs(values).max(initial=0.0))
        if not largest <= LARGEST_FP16:
            raise UnsupportedError(
                f"{name} has the value {largest:.4g}, which FP16 cannot hold (largest: {LARGEST_FP16:.0f})",
                use(precision="fp32"),
                say("use another checkpoint"),
            )
        # An FP32 node may read the same constant as it is, hence a name of its own.
        self._new[f"{name}.fp16"] = onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.fp16")
        return f"{name}.fp16"
