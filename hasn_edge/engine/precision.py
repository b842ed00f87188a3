"""Precision of weakly typed graphs: builder flags, and layers that stay in FP32 (TensorRT 8.5 to 10)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from hasn_edge.errors import BuildError, call
from hasn_edge.spec import Precision

FLAGS = {Precision.FP32: (), Precision.FP16: ("FP16",), Precision.INT8: ("INT8", "FP16")}
"""Builder flags by precision. INT8 has both: a layer without INT8 shall fall to FP16, not to FP32."""

_ARITHMETIC = frozenset({"ACTIVATION", "ELEMENTWISE", "NORMALIZATION", "POOLING", "REDUCE", "SCALE", "UNARY"})
"""Types of layers that compute floats; the others move, cast or hold them."""

# The graph's node names, which TensorRT's layers take over (tested with NVIDIA's parser): path and operator.
_SQRT = re.compile(r"^(.+)\.Sqrt(_\d+)?$")
_AVERAGE = re.compile(r"\.GlobalAveragePool(_\d+)?$")
_PIXELS = "pixels/"


def set_precision(
    trt: Any, network: Any, config: Any, precision: Precision, float_layers: Collection[str] = ()
) -> dict[str, list[str]]:
    """Set the builder flags of ``precision`` and pin the layers that must compute in FP32.

    In FP16 a LayerNorm's square overflows above 255 and its epsilon of 1e-5 is below the normal numbers; a
    mean over a frame sums too many numbers; levels of 8-bit pixels are converted exactly in FP32 only.
    Tensors between such layers are pinned as well, otherwise they would be rounded on their way. What leaves
    the last of them is not: the next convolution takes it as it likes.

    Args:
        trt: The loaded module.
        network: A parsed network that is not strongly typed.
        config: The builder's configuration.
        precision: What the engine shall compute in.
        float_layers: Layers that shall not be INT8; they are pinned to FP16.

    Returns:
        The flags set and the names of the layers pinned, for a sidecar.

    Raises:
        BuildError: the graph has a normalization, and its layers were not found.
    """
    if precision is Precision.FP32:
        return {"builder_flags": [], "fp32_layers": [], "fp16_layers": []}
    for name in FLAGS[precision]:
        config.set_flag(getattr(trt.BuilderFlag, name))
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    exact = _exact_layers(layers)
    kept = [layer for layer in layers if layer.name in float_layers]
    missing = set(float_layers) - {layer.name for layer in kept}
    if missing:
        raise BuildError(f"the graph has no layer {', '.join(sorted(missing))} to keep in FP16")
    inner = _read_only_by(layers, exact)
    for layer in (*exact, *_constants_of(layers, inner)):
        layer.precision = trt.DataType.FLOAT
        for index, tensor in enumerate(_outputs(layer)):
            if tensor.name in inner:
                layer.set_output_type(index, trt.DataType.FLOAT)
    for layer in kept:
        layer.precision = trt.DataType.HALF
    if exact or kept:
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    return {
        "builder_flags": [
            *FLAGS[precision],
            *(["OBEY_PRECISION_CONSTRAINTS"] if exact or kept else []),
        ],
        "fp32_layers": [layer.name for layer in exact],
        "fp16_layers": [layer.name for layer in kept],
    }


def _exact_layers(layers: list[Any]) -> list[Any]:
    """Return the layers that compute in FP32: normalizations, averages over the frame, pixels' arithmetic."""
    norms = {match[1] for layer in layers if (match := _SQRT.match(layer.name))}

    def exact(layer: Any) -> bool:
        kind, name = layer.type.name, layer.name
        if name.startswith(_PIXELS) and kind == "SHUFFLE":
            return True
        return kind in _ARITHMETIC and (
            kind == "NORMALIZATION"
            or name.rpartition(".")[0] in norms
            or bool(_AVERAGE.search(name))
            or name.startswith(_PIXELS)
        )

    found = [layer for layer in layers if exact(layer) and _makes_floats(layer)]
    # Someone else's names, or a version that names layers otherwise: better no engine than a wrong one.
    if not found and any(layer.type.name in ("REDUCE", "NORMALIZATION") for layer in layers):
        some = ", ".join(layer.name for layer in layers if layer.type.name == "REDUCE")
        raise BuildError(
            f"the layers that must compute in FP32 could not be found among this graph's names (its means "
            f"are {some})",
            call("export"),
        )
    return found


def _read_only_by(layers: list[Any], readers: list[Any]) -> set[str]:
    """Return the names of the tensors that only ``readers`` read."""
    chosen = {layer.name for layer in readers}
    mine: set[str] = set()
    others: set[str] = set()
    for layer in layers:
        names = {tensor.name for tensor in _inputs(layer)}
        (mine if layer.name in chosen else others).update(names)
    return mine - others


def _constants_of(layers: list[Any], tensors: set[str]) -> Iterator[Any]:
    """Yield the layers that bring a constant, such as epsilon, into shape for those that were pinned."""
    constants = {
        tensor.name for layer in layers if layer.type.name == "CONSTANT" for tensor in _outputs(layer)
    }
    for layer in layers:
        made = {tensor.name for tensor in _outputs(layer)}
        read = {tensor.name for tensor in _inputs(layer)}
        moves = layer.type.name == "SHUFFLE" and made <= tensors and read and read <= constants
        if moves and _makes_floats(layer):
            yield layer


def _makes_floats(layer: Any) -> bool:
    return all(tensor.dtype.name == "FLOAT" and not tensor.is_shape_tensor for tensor in _outputs(layer))


def _inputs(layer: Any) -> Iterator[Any]:
    tensors = (layer.get_input(i) for i in range(layer.num_inputs))
    return (tensor for tensor in tensors if tensor is not None)  # an optional input may be left out


def _outputs(layer: Any) -> Iterator[Any]:
    return (layer.get_output(i) for i in range(layer.num_outputs))
