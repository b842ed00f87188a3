"""What TensorRT refuses or silently mishandles in a Q/DQ graph, checked before anything is published."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from hasn_edge.errors import BuildError
from hasn_edge.quantize.graph import array_of, attribute, initializers

_PAIR = ("QuantizeLinear", "DequantizeLinear")


def check_qdq(proto: ModelProto) -> None:
    """Check a Q/DQ graph against TensorRT's rules.

    Raises:
        BuildError: a rule is broken; every place is listed.
    """
    found = problems(proto)
    if found:
        raise BuildError("the Q/DQ graph breaks rules of TensorRT:\n  " + "\n  ".join(found))


def problems(proto: ModelProto) -> list[str]:
    """Return what is wrong with a Q/DQ graph, a sentence each; nothing where all rules hold.

    The rules: scales are positive, finite constants with the dtype of their tensor; zero points are int8
    zeros; weights have one scale per output channel (axis 0) or one, activations one; biases are not
    quantized; a tensor is quantized once, whoever reads it; nothing quantizes the FP32 input of a graph
    whose convolutions are FP16.
    """
    return list(_Checker(proto).run())


class _Checker:
    def __init__(self, proto: ModelProto) -> None:
        self._nodes = list(proto.graph.node)
        self._constants = {name: array_of(tensor) for name, tensor in initializers(proto).items()}
        self._makers = {output: node for node in self._nodes for output in node.output}
        self._inputs = {value.name for value in proto.graph.input}
        inferred = onnx.shape_inference.infer_shapes(proto)
        typed = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
        self._dtypes = {
            info.name: np.dtype(onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type))
            for info in typed
            if info.type.tensor_type.elem_type
        }
        self._dtypes.update({name: values.dtype for name, values in self._constants.items()})

    def run(self) -> Iterator[str]:
        seen: set[str] = set()
        for node in self._nodes:
            if node.op_type in _PAIR:
                yield from self._parameters(node)
            if node.op_type == "QuantizeLinear":
                if node.input[0] in seen:
                    yield f"{node.name}: {node.input[0]} is quantized more than once"
                seen.add(node.input[0])
            if node.op_type == "DequantizeLinear" and not self._comes_from(node.input[0], "QuantizeLinear"):
                yield f"{node.name}: {node.input[0]} does not come from a QuantizeLinear"
            if node.op_type == "Conv":
                yield from self._convolution(node)

    def _parameters(self, node: NodeProto) -> Iterator[str]:
        scale = self._constants.get(node.input[1])
        zero = self._constants.get(node.input[2]) if len(node.input) > 2 else None
        if scale is None:
            yield f"{node.name}: its scale is not a constant"
            return
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            yield f"{node.name}: its scale is not a positive finite number everywhere"
        if zero is None or zero.dtype != np.int8 or zero.any():
            yield f"{node.name}: its zero point is not int8 zero"
        wanted = self._dtypes.get(node.input[0] if node.op_type == "QuantizeLinear" else node.output[0])
        if wanted is not None and wanted != scale.dtype:
            yield f"{node.name}: the tensor is {wanted}, its scale {scale.dtype}"
        source = node.input[0]
        if node.op_type == "DequantizeLinear" and source in self._makers:
            source = self._makers[source].input[0]
        if scale.ndim == 0:
            return
        weights = self._constants.get(source)
        if weights is None:
            yield f"{node.name}: the activation {source} has {scale.size} scales, expected one"
        elif attribute(node, "axis", 1) != 0 or scale.shape != weights.shape[:1]:
            yield f"{node.name}: {scale.shape} scales on axis {attribute(node, 'axis', 1)} of {weights.shape}"

    def _convolution(self, node: NodeProto) -> Iterator[str]:
        if len(node.input) > 2 and self._comes_from(node.input[2], "DequantizeLinear"):
            yield f"{node.name}: its bias is quantized"
        quantized = [self._comes_from(name, "DequantizeLinear") for name in node.input[:2]]
        if any(quantized) and not all(quantized):
            yield f"{node.name}: only one of its input and its weights is quantized"
        dtypes = {str(self._dtypes[name]) for name in node.input if name in self._dtypes}
        if len(dtypes) > 1:
            yield f"{node.name}: its inputs have different types: {', '.join(sorted(dtypes))}"

    def _comes_from(self, name: str, op_type: str) -> bool:
        return name in self._makers and self._makers[name].op_type == op_type
