"""A TensorRT network from an ONNX graph: created, parsed, described, and given its input range."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hasn_edge.engine.capabilities import Capabilities
from hasn_edge.engine.target import ShapeRange
from hasn_edge.errors import BuildError, UnsupportedError, call, say, use
from hasn_edge.sidecar import Shape
from hasn_edge.spec import Precision

# Not trt.nptype: that of TensorRT 8.5 asks for np.bool, which NumPy from 1.24 on does not have.
_DTYPES = {"float": "float32", "half": "float16"}


def make_network(trt: Any, capabilities: Capabilities, builder: Any, *, strongly_typed: bool) -> Any:
    """Create an empty network whose types come from the graph (``strongly_typed``) or from builder flags."""
    flags = 0
    if capabilities.explicit_batch_flag:
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if strongly_typed and capabilities.strong_typing_flag:
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return builder.create_network(flags)


def parse(trt: Any, capabilities: Capabilities, network: Any, logger: object, onnx: bytes) -> None:
    """Read the ONNX graph into ``network``.

    Raises:
        BuildError: the parser refused; its messages of each node are carried.
    """
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        lines = []
        for i in range(parser.num_errors):
            error = parser.get_error(i)
            where = f"node {error.node()}"
            if capabilities.parser_names_nodes and error.node_operator():
                where = f"node {error.node_name() or error.node()!r} ({error.node_operator()})"
            lines.append(f"{where}: {error.desc()}".replace("\n", "\n    "))
        raise BuildError("\n  ".join([f"{capabilities.title} cannot read the ONNX graph:", *lines]))
    if network.num_inputs == 0:  # the parser takes bytes of anything for an empty graph
        raise BuildError("the bytes given are not an ONNX graph, or one without an input")
    if network.num_inputs != 1:
        raise BuildError(f"the graph has {network.num_inputs} inputs; expected one image")
    tensor = network.get_input(0)
    if len(tensor.shape) != 4:
        raise BuildError(
            f"the graph's input {tensor.name!r} has shape {tuple(tensor.shape)}; expected (N, C, H, W), or "
            "(N, H, W, C) of 8-bit pixels"
        )


def describe(network: Any) -> dict[str, Any]:
    """Return inputs, outputs and layer counts as plain JSON values."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    kinds = Counter(layer.type.name for layer in layers)
    half = sum(
        layer.type.name == "CONVOLUTION" and layer.get_output(0).dtype.name == "HALF" for layer in layers
    )
    return {
        "inputs": [_tensor(network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [_tensor(network.get_output(i)) for i in range(network.num_outputs)],
        "layers": {
            "all": network.num_layers,
            "convolution": kinds["CONVOLUTION"],
            "half_convolution": half,
            "quantize": kinds["QUANTIZE"],
        },
    }


def check_precision(
    facts: dict[str, Any], precision: Precision | None, *, strongly_typed: bool, calibrated: bool, title: str
) -> Precision:
    """Return the precision that the engine will have; refuse a graph that cannot give what was asked for.

    Args:
        facts: From :func:`describe`.
        precision: What was asked for; ``None`` takes what the graph is.
        strongly_typed: Whether the graph's types decide.
        calibrated: Whether a calibrator provides the ranges.
        title: The compiler's name.

    Raises:
        BuildError: without this, TensorRT would build an engine of another precision without a message.
    """
    layers = facts["layers"]
    if calibrated and layers["quantize"]:
        raise BuildError(
            f"the graph has {layers['quantize']} quantize layers, and TensorRT's calibrator is for graphs "
            "without",
            say("give it the FP32 graph"),
            use(int8_method="qdq"),
        )
    typed = Precision.FP16 if strongly_typed and layers["half_convolution"] else Precision.FP32
    found = Precision.INT8 if layers["quantize"] or calibrated else typed
    if precision is None:
        return found
    if precision is Precision.INT8 and found is not Precision.INT8:
        raise BuildError(
            "the graph has no Q/DQ layers, so it cannot become an INT8 engine",
            call("build", precision="int8"),
        )
    if precision is not Precision.INT8 and found is Precision.INT8:
        raise BuildError(
            f"the graph has Q/DQ layers, so it would not become the {precision.value} engine that was asked "
            "for"
        )
    if strongly_typed and precision is not Precision.FP32 and not layers["half_convolution"]:
        raise BuildError(
            f"the graph's convolutions are FP32, and {title} takes types from the graph",
            say(f"give it the strongly typed {precision.value} graph"),
        )
    if precision is Precision.FP32 and layers["half_convolution"]:
        raise BuildError("the graph's convolutions are FP16", say("give the FP32 graph for an fp32 engine"))
    return precision


def input_range(network: Any, shapes: ShapeRange) -> tuple[Shape, Shape, Shape]:
    """Return the min, opt and max shape of the graph's input, in the graph's own layout.

    Raises:
        UnsupportedError: the graph is fixed to another size than ``shapes``.
    """
    tensor = network.get_input(0)
    fixed = tuple(int(n) for n in tensor.shape)
    pixels = tensor.dtype.name == "UINT8"
    low, middle, high = (
        _fit(_lay_out(shape, pixels=pixels), fixed, tensor.name, channel=3 if pixels else 1)
        for shape in (shapes.min, shapes.opt, shapes.max)
    )
    return low, middle, high


def is_dynamic(network: Any) -> bool:
    """Whether the graph leaves a dimension of its input open."""
    return -1 in network.get_input(0).shape


def make_profile(builder: Any, network: Any, shapes: tuple[Shape, Shape, Shape]) -> Any:
    """Return an optimization profile of the input's min, opt and max shape."""
    profile = builder.create_optimization_profile()
    profile.set_shape(network.get_input(0).name, *shapes)
    return profile


def _lay_out(shape: Shape, *, pixels: bool) -> Shape:
    n, c, h, w = shape
    return (n, h, w, c) if pixels else shape


def _fit(shape: Shape, fixed: tuple[int, ...], name: str, *, channel: int) -> Shape:
    """Return ``shape`` with the graph's channels; its other fixed dimensions must be the target's."""
    wanted = list(shape)
    if fixed[channel] > 0:
        wanted[channel] = fixed[channel]
    if any(have not in (-1, want) for have, want in zip(fixed, wanted, strict=True)):
        raise UnsupportedError(
            f"the graph's input {name!r} is fixed to {fixed}, but the target asks for {tuple(wanted)}",
            say("export the graph with any size, and with a batch for several images at a time"),
            say("choose a target of the graph's shape"),
        )
    return (wanted[0], wanted[1], wanted[2], wanted[3])


def _tensor(tensor: Any) -> dict[str, Any]:
    dtype = tensor.dtype.name.lower()
    return {"name": tensor.name, "dtype": _DTYPES.get(dtype, dtype), "shape": [int(n) for n in tensor.shape]}
