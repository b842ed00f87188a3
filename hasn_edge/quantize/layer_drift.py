"""What quantizing does to each convolution: how far its output is from the float one's, what is clipped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from hasn_edge.errors import InputError
from hasn_edge.exporters.onnx_graph import Emulator
from hasn_edge.images.arrays import Float32
from hasn_edge.progress import Progress, Step, ignore
from hasn_edge.quantize.graph import array_of, initializers
from hasn_edge.quantize.observers import LEVELS

if TYPE_CHECKING:
    from hasn_edge.sidecar import RangesRecord


@dataclass(frozen=True, kw_only=True)
class LayerDrift:
    """One convolution of an INT8 graph."""

    name: str
    sqnr_db: float | None
    """Power of its output in the float graph over that of the difference, in dB; ``None`` where both are
    equal."""
    int8: bool
    """Whether it is quantized itself; the others pass on what came before."""
    weight_peak: float | None = None
    """Largest magnitude among the weights; ``None``, as what follows, where it is not quantized."""
    weight_clipped: float | None = None
    """Share of the weights beyond code 127, which are rounded to it, 0 to 1."""
    input_peak: float | None = None
    """Largest magnitude of its input on the calibration images; ``None`` where no sidecar states it."""
    input_range: float | None = None
    """The magnitude that code 127 stands for."""


def float_graph(proto: ModelProto) -> ModelProto:
    """Return an INT8 graph of :func:`~hasn_edge.quantize.int8.int8_onnx_from_onnx` without its Q/DQ pairs.

    It is the float graph that was quantized, equalized where the recipe equalizes, so that its tensors are
    comparable with the quantized graph's one by one. ``proto`` is left as it was.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    made = {name: node for node in result.graph.node for name in node.output}
    values = {name: array_of(tensor) for name, tensor in initializers(result).items()}
    for conv in (node for node in result.graph.node if node.op_type == "Conv"):
        weights = _before_pair(conv.input[1], made)
        source = _before_pair(conv.input[0], made)
        shift = _shift_of(source, made)
        if shift is not None:
            scale = values[made[made[conv.input[1]].input[0]].input[1]].astype(np.float64)
            steps = scale.reshape(-1, 1, 1, 1)
            codes = np.clip(np.rint(values[weights] / steps), -LEVELS - 1, LEVELS)
            amount = float(values[shift.input[1]])
            bias = values[conv.input[2]] - amount * (codes * steps).sum(axis=(1, 2, 3))
            plain = onnx.numpy_helper.from_array(bias.astype(np.float32), f"{conv.name}.bias.float")
            result.graph.initializer.append(plain)
            conv.input[2] = plain.name
            pad = made[source] if made[source].op_type == "Pad" else None
            if pad is not None:
                around = values[pad.input[1]].tolist()
                for item in conv.attribute:
                    if item.name == "pads":
                        item.ints[:] = [*around[2:4], *around[6:8]]
            source = shift.input[0]
        spread = made.get(source)
        if spread is not None and spread.name.endswith("/Spread") and conv.input[1] in made:
            # The float graph has it too; its bias has the share of the weights, not of their codes.
            scale = values[made[made[conv.input[1]].input[0]].input[1]].astype(np.float64)
            steps, own = scale.reshape(-1, 1, 1, 1), values[weights].astype(np.float64)
            codes = np.clip(np.rint(own / steps), -LEVELS - 1, LEVELS)
            zero = values[made[spread.input[0]].input[1]] * values[spread.input[1]].astype(np.float64)
            shape = (-1, 1, 1, 1) if len(own) == zero.size and own.shape[1] == 1 else (1, -1, 1, 1)
            lost = ((codes * steps - own) * zero.reshape(shape)).sum(axis=(1, 2, 3))
            plain = onnx.numpy_helper.from_array(
                (values[conv.input[2]] - lost).astype(values[conv.input[2]].dtype), f"{conv.name}.bias.float"
            )
            result.graph.initializer.append(plain)
            conv.input[2] = plain.name
        conv.input[0], conv.input[1] = source, weights
    return result


def layer_drift(
    proto: ModelProto,
    images: Iterable[Float32],
    ranges: RangesRecord | None = None,
    *,
    largest: int = 96,
    progress: Progress = ignore,
) -> tuple[LayerDrift, ...]:
    """Compare each convolution's output in an INT8 graph with that in its float graph.

    Args:
        proto: The quantized graph; not modified.
        images: Network inputs ``(1, C, H, W)`` float32 in [0, 1].
        ranges: What its sidecar states of the inputs.
        largest: Images are cut to this side in pixels from their first corner, to keep it short.
        progress: Receives which image is looked at.

    Returns:
        In graph order.

    Raises:
        InputError: there is no image.
    """
    crops = [np.ascontiguousarray(image[:, :, :largest, :largest]) for image in images]
    if not crops:
        raise InputError("comparing layers needs at least one image")
    plain = float_graph(proto)
    nodes = [node for node in proto.graph.node if node.op_type == "Conv"]
    outputs = [node.output[0] for node in nodes]
    runs = [Emulator(_watched(graph, outputs), exact=True) for graph in (plain, proto)]
    signal, noise = dict.fromkeys(outputs, 0.0), dict.fromkeys(outputs, 0.0)
    for done, crop in enumerate(crops, 1):
        progress(Step("comparing layers", done, len(crops)))
        before, after = (run.run_all(crop) for run in runs)
        for name in outputs:
            a, b = before[name].astype(np.float64), after[name].astype(np.float64)
            signal[name] += float(np.square(a).sum())
            noise[name] += float(np.square(a - b).sum())
    made = {name: node for node in proto.graph.node for name in node.output}
    return tuple(
        _with_clipping(
            LayerDrift(
                name=node.name,
                sqnr_db=_ratio_db(signal[node.output[0]], noise[node.output[0]]),
                int8=node.input[1] in made,
            ),
            proto,
            made.get(node.input[1]),
            ranges,
        )
        for node in nodes
    )


def _with_clipping(
    layer: LayerDrift, proto: ModelProto, dequantizer: NodeProto | None, ranges: RangesRecord | None
) -> LayerDrift:
    """Return ``layer`` with what is known of the weights in front of ``dequantizer`` and of its input."""
    if dequantizer is None:
        return layer
    values = initializers(proto)
    quantizer = next(node for node in proto.graph.node if node.output[0] == dequantizer.input[0])
    weights = np.abs(array_of(values[quantizer.input[0]]).astype(np.float64))
    scales = array_of(values[quantizer.input[1]]).astype(np.float64).reshape(-1, 1, 1, 1)
    layer = replace(
        layer,
        weight_peak=float(weights.max()),
        weight_clipped=float((weights > scales * (LEVELS + 0.5)).mean()),
    )
    if ranges is None or layer.name not in ranges.values:
        return layer
    # Of a shifted input code 127 stands for a whole range above its lowest value.
    codes = 2 + 1 / LEVELS if layer.name in ranges.lows else 1.0
    return replace(layer, input_peak=ranges.peaks[layer.name], input_range=ranges.values[layer.name] * codes)


def _before_pair(tensor: str, made: dict[str, NodeProto]) -> str:
    """Return the tensor in front of a Q/DQ pair; the tensor itself where none made it."""
    if tensor in made and made[tensor].op_type == "DequantizeLinear":
        return str(made[made[tensor].input[0]].input[0])
    return tensor


def _shift_of(tensor: str, made: dict[str, NodeProto]) -> NodeProto | None:
    node = made.get(tensor)
    if node is not None and node.op_type == "Pad":
        node = made.get(node.input[0])
    shifted = node is not None and node.op_type == "Sub" and node.name.endswith("/Shift")
    return node if shifted else None


def _watched(proto: ModelProto, tensors: Sequence[str]) -> ModelProto:
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    present = {output.name for output in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in present)
    return watched


def _ratio_db(signal: float, noise: float) -> float | None:
    return None if noise == 0 else 10 * math.log10(max(signal, 1e-30) / noise)
