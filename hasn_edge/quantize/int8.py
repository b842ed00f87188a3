"""Q/DQ nodes around convolutions: the INT8 graph that TensorRT builds and ONNX Runtime runs exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from hasn_edge.errors import ConfigError, UnsupportedError, say, use
from hasn_edge.images.arrays import Float64
from hasn_edge.quantize.graph import Convolution, array_of, convolutions, initializers, opset_of
from hasn_edge.quantize.observers import LEVELS, mse_ranges
from hasn_edge.quantize.recipe import Granularity, WeightRange
from hasn_edge.quantize.spread import in_dtype, spread_inputs, weighted_sum

if TYPE_CHECKING:
    from hasn_edge.quantize.ranges import Ranges
    from hasn_edge.quantize.recipe import QuantRecipe
    from hasn_edge.quantize.spread import Spread

SMALLEST_SCALE = {"float32": 2.0**-100, "float16": 2.0**-14}
"""Scales are never below this: smaller FP16 numbers are subnormal, and 1 / scale must stay finite."""

DEAD_RANGE = 1.0
"""Range of a tensor that was zero on every calibration image: any scale above zero represents it."""


def scale_of(ranges: NDArray[np.floating] | float, dtype: np.dtype[np.floating]) -> NDArray[np.floating]:
    """Return the real value of one INT8 step for ranges of any finite size, in ``dtype``.

    Args:
        ranges: Magnitudes that code 127 stands for, 0 or more, any shape.
        dtype: float32 or float16: that of the tensor that is quantized.

    Returns:
        Scales of the same shape: finite, above zero, normal numbers, and small enough that code -128 times
        the scale is finite too.
    """
    values = np.asarray(ranges, np.float64)
    values = np.where(values > 0, values, DEAD_RANGE)
    limit = float(np.finfo(dtype).max) / (LEVELS + 1)
    scales = np.clip(values / LEVELS, SMALLEST_SCALE[dtype.name], limit).astype(dtype)
    assert np.isfinite(scales).all()
    assert (scales > 0).all()
    return scales


def int8_onnx_from_onnx(proto: ModelProto, ranges: Ranges, recipe: QuantRecipe) -> ModelProto:
    """Return ``proto`` with a Q/DQ pair on the input and the weights of each selected convolution.

    An FP32 graph becomes the weakly typed one (TensorRT 8.5 to 10.11, any opset from 13 on), an FP16 graph
    of :func:`~hasn_edge.quantize.fp16.fp16_onnx_from_onnx` the strongly typed one. Everything is symmetric
    with zero point 0; scales have the dtype of their tensor; biases and outputs stay in float; convolutions
    that read the same tensor share one pair. ``proto`` is left as it was.

    Args:
        proto: The float graph.
        ranges: Measured on the FP32 graph of the same network, by convolution name.
        recipe: Chooses the convolutions and the weights' scales.

    Raises:
        UnsupportedError: the graph is quantized already, its opset is too old, or FP16 cannot hold an
            activation that was measured.
        ArtifactError: a selected convolution has no measured range.
        ConfigError: the recipe selects nothing, or weights were rounded together for scales of the other
            granularity.
    """
    names = recipe.select(conv.name for conv in convolutions(proto))
    result = onnx.ModelProto()
    result.CopyFrom(
        spread_inputs(proto, {name: ranges.spread[name] for name in names if name in ranges.spread})
    )
    found = {conv.name: conv for conv in convolutions(result)}
    chosen = [found[name] for name in names]
    weights = initializers(result)
    dtypes = {array_of(weights[conv.weight]).dtype for conv in chosen}
    _check(result, chosen, dtypes, ranges)
    writer = _PairWriter(result, dtypes.pop())
    for conv in chosen:
        own, rounded = array_of(weights[conv.weight]), ranges.codes.get(conv.name)
        if rounded is not None and bool(rounded.limits.ndim) != (recipe.weights is Granularity.PER_CHANNEL):
            raise ConfigError(
                f"{conv.name}: its weights were rounded together for scales of another kind than "
                f"{recipe.weights.value!r}, which the recipe has; measure the ranges with this recipe"
            )
        if rounded is None:
            writer.weights(conv, weight_ranges(own, recipe), None)
        else:
            codes, limits = rounded.codes_of(own)
            writer.weights(conv, limits, codes)
        if conv.name in ranges.spread:
            writer.shift_of_codes(conv, own, ranges.spread[conv.name])
    for number, readers in enumerate(_by_input(chosen, ranges).values()):
        limit = max(ranges.of(conv.name) for conv in readers)
        writer.activation(readers, limit, ranges.lows.get(readers[0].name), number)
    writer.write()
    return result


def weight_ranges(weights: NDArray[np.floating], recipe: QuantRecipe) -> NDArray[np.float64]:
    """Return the range of each output channel of ``weights`` ``(out, in, h, w)``, or one for all: ``()``."""
    per_channel = recipe.weights is Granularity.PER_CHANNEL
    rows = weights.reshape(len(weights) if per_channel else 1, -1).astype(np.float64)
    found = mse_ranges(rows) if recipe.weight_range is WeightRange.MSE else np.abs(rows).max(axis=1)
    return found if per_channel else found.reshape(())


def _check(
    proto: ModelProto, chosen: Iterable[Convolution], dtypes: set[np.dtype[np.floating]], ranges: Ranges
) -> None:
    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
        raise UnsupportedError("the graph has Q/DQ nodes already", say("quantize the float graph"))
    names = {dtype.name for dtype in dtypes}
    if len(names) != 1 or not names <= set(SMALLEST_SCALE):
        raise UnsupportedError(
            f"the weights are {', '.join(sorted(names))}; expected all float32 or all float16"
        )
    half = names == {"float16"}
    needed = 19 if half else 13
    if opset_of(proto) < needed:
        raise UnsupportedError(
            f"Q/DQ of {names.pop()} tensors needs opset {needed} or newer, this graph has {opset_of(proto)}",
            use(opset=20),
        )
    largest = float(np.finfo(np.float16).max)
    for conv in chosen:
        peak = max(ranges.peaks.get(conv.name, 0.0), ranges.of(conv.name))
        if half and peak > largest:
            raise UnsupportedError(
                f"the input of convolution {conv.name} reaches {peak:.4g}, which FP16 cannot hold (largest: "
                f"{largest:.0f})",
                say("build from the FP32 graph (TensorRT below 10.12)"),
                say("use another checkpoint"),
            )


def _by_input(chosen: Iterable[Convolution], ranges: Ranges) -> dict[object, list[Convolution]]:
    """Return the convolutions that read one tensor in the same way."""
    groups: dict[object, list[Convolution]] = {}
    for conv in chosen:
        low = ranges.lows.get(conv.name)
        groups.setdefault((conv.input, low, None if low is None else conv.pads), []).append(conv)
    return groups


class _PairWriter:
    """Collects the new nodes and constants of a graph and puts them in front of their first reader."""

    def __init__(self, model: ModelProto, dtype: np.dtype[np.floating]) -> None:
        self._model = model
        self._dtype = dtype
        self._before: dict[str, list[NodeProto]] = {}
        self._constants: list[TensorProto] = []
        self._named: set[str] = set()
        self._rounded: dict[str, Float64] = {}
        self._nodes = {node.name: node for node in model.graph.node if node.op_type == "Conv"}
        self._readers = Counter(name for node in model.graph.node for name in node.input)

    def activation(self, readers: list[Convolution], limit: float, low: float | None, number: int) -> None:
        """Put one Q/DQ pair on the tensor that ``readers``, which come in graph order, read in one way.

        With ``low``, code -128 stands for it: the tensor is shifted by a constant first, the border is padded
        with what zero has become, and the constant's share goes into the bias, so nothing else changes.
        """
        tensor, scale = readers[0].input, scale_of(limit, self._dtype)
        name = f"{tensor}.q" if f"{tensor}.q" not in self._named else f"{tensor}.q{number}"
        self._named.add(name)
        if low is not None:
            # A whole number of steps, so that zero, which is what borders are padded with, has a code.
            codes = float(np.rint(low / float(scale))) + LEVELS + 1
            shift = self._dtype.type(codes * float(scale))
            tensor = self._shifted(readers, shift, name)
        quantized = self._pair(tensor, readers[0].name, scale, name=name)
        for conv in readers:
            self._nodes[conv.name].input[0] = quantized

    def _shifted(self, readers: list[Convolution], shift: np.floating, name: str) -> str:
        make, first = onnx.helper.make_node, readers[0]
        before = self._before.setdefault(first.name, [])
        amount = self._constant(np.asarray(shift, self._dtype), f"{name}.shift")
        shifted = f"{name}.shifted"
        before.append(make("Sub", [first.input, amount], [shifted], name=f"{name}/Shift"))
        if any(first.pads):
            top, left, bottom, right = first.pads
            pads = self._constant(np.array([0, 0, top, left, 0, 0, bottom, right]), f"{name}.pads")
            border = self._constant(np.asarray(-shift, self._dtype), f"{name}.border")
            before.append(make("Pad", [shifted, pads, border], [f"{name}.padded"], name=f"{name}/Pad"))
            shifted = f"{name}.padded"
        for conv in readers:
            self._add_to_bias(conv, float(shift))
            for item in self._nodes[conv.name].attribute:
                if item.name == "pads":
                    item.ints[:] = [0, 0, 0, 0]
        return shifted

    def _add_to_bias(self, conv: Convolution, shift: float) -> None:
        constants = initializers(self._model)
        bias = 0.0 if conv.bias is None else array_of(constants[conv.bias]).astype(np.float64)
        # Of the weights as they are after rounding: most values lie near zero, far from the shift.
        total = bias + shift * self._rounded[conv.name].sum(axis=(1, 2, 3))
        name = self._constant(total.astype(self._dtype), f"{conv.name}.bias.shifted")
        node = self._nodes[conv.name]
        node.input[2:] = [name]

    def _constant(self, values: NDArray[Any], name: str) -> str:
        self._constants.append(onnx.numpy_helper.from_array(values, name))
        return name

    def weights(self, conv: Convolution, limits: NDArray[np.float64], codes: Float64 | None) -> None:
        """Put a Q/DQ pair on the weights of ``conv``, which become what ``codes`` stand for where given."""
        scales, source = scale_of(limits, self._dtype), conv.weight
        tensor = initializers(self._model)[source]
        steps = scales.astype(np.float64).reshape(-1, 1, 1, 1)
        if codes is None:
            codes = np.clip(np.rint(array_of(tensor).astype(np.float64) / steps), -LEVELS - 1, LEVELS)
        else:
            # FP16 has no scale below SMALLEST_SCALE: codes that were chosen for a smaller one stand for less.
            meant = codes * (np.reshape(limits, (-1, 1, 1, 1)) / LEVELS)
            codes = np.clip(np.rint(meant / steps), -LEVELS - 1, LEVELS)
            moved = (codes * steps).astype(self._dtype)
            if self._readers[source] > 1:  # others read the same weights and have codes of their own
                self._readers[source] -= 1
                source = self._constant(moved, f"{conv.name}.weight.rounded")
            else:
                tensor.CopyFrom(onnx.numpy_helper.from_array(moved, source))
        self._rounded[conv.name] = codes * steps
        self._nodes[conv.name].input[1] = self._pair(source, conv.name, scales, name=f"{conv.name}.weight.q")

    def shift_of_codes(self, conv: Convolution, own: NDArray[np.floating], spread: Spread) -> None:
        """Let the bias of ``conv`` take what its codes, not its weights, make of its input's shift."""
        assert conv.bias is not None
        shifts, factors = in_dtype(spread, self._dtype)
        tensor = initializers(self._model)[conv.bias]
        lost = weighted_sum(self._rounded[conv.name] - own.astype(np.float64), shifts * factors, conv)
        values = (array_of(tensor).astype(np.float64) + lost).astype(self._dtype)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, conv.bias))

    def write(self) -> None:
        graph = self._model.graph
        graph.initializer.extend(self._constants)
        ordered = [
            onnx.NodeProto.FromString(node.SerializeToString())
            for reader in graph.node
            for node in (*self._before.get(reader.name, ()), reader)
        ]
        del graph.node[:]
        graph.node.extend(ordered)
        del graph.value_info[:]

    def _pair(self, tensor: str, reader: str, scales: NDArray[np.floating], *, name: str) -> str:
        make, constant = onnx.helper.make_node, onnx.numpy_helper.from_array
        scale, zero = f"{name}.scale", f"{name}.zero"
        self._constants.append(constant(scales, scale))
        self._constants.append(constant(np.zeros(scales.shape, np.int8), zero))
        axis = {"axis": 0} if scales.ndim else {}
        self._before.setdefault(reader, []).extend(
            [
                make("QuantizeLinear", [tensor, scale, zero], [name], name=f"{name}/Quantize", **axis),
                make(
                    "DequantizeLinear", [name, scale, zero], [f"{name}.dq"], name=f"{name}/Dequantize", **axis
                ),
            ]
        )
        return f"{name}.dq"
