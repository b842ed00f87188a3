"""Network and parser of the fake TensorRT: layers of real ONNX, named as NVIDIA's parser names them."""

from __future__ import annotations

from typing import Any

from tests.support.fake_strict import Strict

LAYERS = {
    "Conv": "CONVOLUTION",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
    "Sqrt": "UNARY",
    "Erf": "UNARY",
    "Round": "UNARY",
    "ReduceMean": "REDUCE",
    "GlobalAveragePool": "REDUCE",
    "LayerNormalization": "NORMALIZATION",
    "Transpose": "SHUFFLE",
    "Clip": "ACTIVATION",
    "Relu": "ACTIVATION",
    "Sigmoid": "ACTIVATION",
    "Gelu": "ACTIVATION",
    "MaxPool": "POOLING",
    "Cast": "CAST",
    "Resize": "RESIZE",
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), "ELEMENTWISE"),
}
BROADCAST = ("Add", "Sub", "Mul", "Div", "LayerNormalization")
"""Operators whose constants the parser brings into shape first."""
DTYPES = {1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "HALF"}


class Tensor(Strict):
    def __init__(self, name: str, dtype: str, shape: tuple[int, ...], trt: Any) -> None:
        self._name, self._dtype, self._shape = name, trt.DataType[dtype], shape
        self._output_of: Any = None

    _get_name = property(lambda self: self._name)
    _get_dtype = property(lambda self: self._dtype)
    _get_shape = property(lambda self: self._shape)
    _get_is_shape_tensor = property(lambda self: self._dtype.name in ("INT64", "INT32"))
    _get_is_network_output = property(lambda self: self._output_of is not None)


class Layer(Strict):
    def __init__(self, name: str, kind: Any, inputs: list[Any], outputs: list[Any]) -> None:
        self._name, self._type, self._inputs, self._outputs = name, kind, inputs, outputs
        self._precision: Any = None
        self._output_types: dict[int, Any] = {}

    _get_name = property(lambda self: self._name)
    _get_type = property(lambda self: self._type)
    _get_num_inputs = property(lambda self: len(self._inputs))
    _get_num_outputs = property(lambda self: len(self._outputs))
    _get_precision = property(lambda self: self._precision)

    def _set_precision(self, value: Any) -> None:
        assert value.name in ("FLOAT", "HALF")
        self._precision = value

    def _do_get_input(self, index: int) -> Any:
        return self._inputs[index]

    def _do_get_output(self, index: int) -> Any:
        return self._outputs[index]

    def _do_set_output_type(self, index: int, dtype: Any) -> None:
        assert self._outputs[index]._dtype.name == "FLOAT", f"{self._name} does not make floats"
        self._output_types[index] = dtype


class ParserError(Strict):
    def __init__(self, number: int, name: str, operator: str, text: str) -> None:
        self._values = (number, name, operator, text)

    def _do_node(self) -> int:
        return self._values[0]

    def _do_node_name(self) -> str:
        return self._values[1]

    def _do_node_operator(self) -> str:
        return self._values[2]

    def _do_desc(self) -> str:
        return self._values[3]


class Parser(Strict):
    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._errors = network, []
        assert logger._ready

    _get_num_errors = property(lambda self: len(self._errors))

    def _do_get_error(self, index: int) -> Any:
        return self._trt.ParserError(*self._errors[index])

    def _do_parse(self, model: bytes, path: str | None = None) -> bool:
        import onnx

        if not self._network._explicit:
            self._errors.append((0, "", "", "no explicit batch dimension in the network"))
            return False
        graph = onnx.load_from_string(model)
        bad = [n for n in graph.graph.node if n.op_type in self._trt.unknown_operators]
        self._errors += [(0, n.name, n.op_type, "Plugin not found") for n in bad]
        if not bad:
            self._network._fill(onnx.shape_inference.infer_shapes(graph))
        return not bad


class Network(Strict):
    def __init__(self, flags: int) -> None:
        kinds = self._trt.NetworkDefinitionCreationFlag
        self._explicit = not hasattr(self._trt.Builder, "max_batch_size") or bool(
            flags >> int(kinds.EXPLICIT_BATCH) & 1
        )
        asked = hasattr(kinds, "STRONGLY_TYPED") and bool(flags >> int(kinds.STRONGLY_TYPED) & 1)
        self._strong = asked or not hasattr(self._trt.BuilderFlag, "FP16")
        self._layers: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    _get_num_layers = property(lambda self: len(self._layers))
    _get_num_inputs = property(lambda self: len(self._inputs))
    _get_num_outputs = property(lambda self: len(self._outputs))

    def _do_get_layer(self, index: int) -> Any:
        return self._layers[index]

    def _do_get_input(self, index: int) -> Any:
        return self._inputs[index]

    def _do_get_output(self, index: int) -> Any:
        return self._outputs[index]

    def _fill(self, proto: Any) -> None:
        graph, trt = proto.graph, self._trt
        facts = {}
        for value in (*graph.value_info, *graph.input, *graph.output):
            kind = value.type.tensor_type
            facts[value.name] = (kind.elem_type, tuple(d.dim_value or -1 for d in kind.shape.dim))
        tensors: dict[str, Any] = {}

        def tensor(name: str) -> Any:
            dtype, shape = facts.get(name, (1, ()))
            kind = DTYPES[dtype]
            if kind == "INT64" and not hasattr(trt.DataType, kind):
                kind = "INT32"  # as TensorRT 8 reads it
            return tensors.setdefault(name, trt.ITensor(name, kind, shape, trt))

        constants = {t.name: t for t in graph.initializer}
        for value in graph.input:
            self._inputs.append(tensor(value.name))
        for node in graph.node:
            inputs: list[Any] = []
            for name in node.input:
                if name in constants and node.op_type in BROADCAST:
                    facts[name] = (constants[name].data_type, tuple(constants[name].dims))
                    inputs.append(self._constant(tensor(name), len(self._layers)))
                elif name not in constants:
                    inputs.append(tensor(name) if name else None)
            kind = trt.LayerType[LAYERS.get(node.op_type, "SHAPE")]
            self._layers.append(trt.ILayer(node.name, kind, inputs, [tensor(n) for n in node.output]))
        for value in graph.output:
            self._outputs.append(tensor(value.name))
            tensor(value.name)._output_of = self

    def _constant(self, value: Any, number: int) -> Any:
        """Do as the real parser does: a constant becomes two layers, the second one for its shape."""
        trt = self._trt
        shaped = trt.ITensor(f"ONNXTRT_Broadcast_{number}_output", value._dtype.name, value._shape, trt)
        self._layers.append(trt.ILayer(value._name, trt.LayerType.CONSTANT, [], [value]))
        name = f"ONNXTRT_Broadcast_{number}"
        self._layers.append(trt.ILayer(name, trt.LayerType.SHUFFLE, [value], [shaped]))
        return shaped

    def _problem(self, config: Any) -> str | None:
        flags = {flag.name for flag in config._flags}
        if not self._layers:
            return "the network is empty"
        if -1 in self._inputs[0]._shape and not config._profiles:
            return "network has dynamic inputs, but no optimization profile has been defined"
        if self._strong and flags & {"FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"}:
            return "precision flags are not allowed in a strongly typed network"
        pinned = [layer for layer in self._layers if layer._precision is not None]
        assert not (pinned and "OBEY_PRECISION_CONSTRAINTS" not in flags), "pins without the flag are ignored"
        quantized = any(layer._type.name == "QUANTIZE" for layer in self._layers)
        if quantized and not self._strong and "INT8" not in flags:
            return "networks with Q/DQ layers need the INT8 flag"
        if "INT8" in flags and not quantized and config._calibrator is None:
            return "no calibrator, and no dynamic ranges"
        return None
