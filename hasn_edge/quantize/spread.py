"""Channels that are shifted and scaled in front of their Q/DQ pair, so that each of them uses all 256 codes.

A tensor has one scale and zero point 0. Each channel is therefore shifted by a constant of its own and then
multiplied by another: two elementwise operations behind one that is there already (a sum, a product, GELU).
The convolution's weights and bias take both back, so the FP32 function stays as it is; borders are padded
first. Equalization (`equalize.py`) needs no operation, but stops at GELU and where several convolutions read
a tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from hasn_edge.images.arrays import Float64
from hasn_edge.quantize.graph import Convolution, array_of, convolutions, initializers
from hasn_edge.quantize.observers import LEVELS

Spread = tuple[tuple[float, ...], tuple[float, ...]]
"""What is subtracted from each channel, and what it is multiplied by then."""

FINEST = 1 / 1024
"""The smallest step that a channel gets, as a share of the largest. A channel that hardly varies needs no 256
codes of its own, and the factor that would give it these does not fit into FP16."""

_CODES = 2 * LEVELS + 1
_BINS = 256
_BEYOND = (0.0, 2e-5, 1e-4)
"""Shares of a channel's values that are cut off at either end: what is tried. Larger ones cut periodic
patterns, which no calibration image shows: the bundled network lost 0.31 dB on one instead of 0.22."""


def channel_counts(
    tensors: Iterable[Mapping[str, NDArray[np.float32]]], ends: Mapping[str, tuple[Float64, Float64]]
) -> dict[str, NDArray[np.uint32]]:
    """Return how often each channel's values lie in equal parts between its ends, ``(images, C, parts)``.

    Args:
        tensors: ``(N, C, H, W)`` a batch, by name.
        ends: Least and largest value of each channel, ``(C,)`` each.
    """
    found: dict[str, list[NDArray[np.uint32]]] = {name: [] for name in ends}
    for batch in tensors:
        for name, (low, high) in ends.items():
            width = np.maximum(high - low, 1e-30) / _BINS
            for image in batch[name]:
                rows = image.reshape(len(low), -1)
                bins = np.clip((rows - low[:, None]) / width[:, None], 0, _BINS - 1).astype(np.intp)
                bins += np.arange(len(low))[:, None] * _BINS
                counts = np.bincount(bins.ravel(), minlength=len(low) * _BINS)
                found[name].append(counts.reshape(-1, _BINS).astype(np.uint32))
    return {name: np.stack(counts) for name, counts in found.items()}


def choose_steps(
    counts: NDArray[np.uint32], low: Float64, high: Float64, power: float
) -> tuple[Float64, Float64]:
    """Return the value of one code and the number of the least one, of each channel.

    Each image's error counts relative to the least that any choice leaves on it: few images with large values
    do not set the range for all.

    Args:
        counts: As :func:`channel_counts` has them.
        low: Least value, 0 or below: zero has a code, because borders are padded with it.
        high: Largest value, 0 or above.
        power: What errors are raised to.
    """
    width = (high - low) / _BINS
    middles = low[:, None] + (np.arange(_BINS) + 0.5) * width[:, None]
    below = counts.sum(axis=0, dtype=np.float64).cumsum(axis=1)
    each = counts.astype(np.float32)
    steps, least, errors = [], [], []
    for share in _BEYOND:
        beyond = share * below[:, -1:]
        first, last = (below <= beyond).sum(axis=1), (below < below[:, -1:] - beyond).sum(axis=1)
        begin = np.minimum(low + first * width, 0.0) if share > 0 else low
        end = np.maximum(low + (last + 1) * width, 0.0) if share > 0 else high
        step = np.where(end > begin, end - begin, 1.0) / _CODES
        codes = np.rint(begin / step)
        ends = (codes * step)[:, None], ((codes + _CODES) * step)[:, None]
        outside = np.maximum(np.maximum(ends[0] - middles, middles - ends[1]), 0.0)
        # Inside, what is rounded is anywhere in a step: the parts are no smaller than one.
        inside = (step / 2) ** power / (power + 1)
        cost = np.where(outside > 0, outside**power, inside[:, None])
        steps.append(step)
        least.append(codes)
        errors.append(np.einsum("ncb,cb->nc", each, cost))
    lost = np.maximum(np.stack(errors), np.finfo(np.float64).tiny)
    best = (lost / lost.min(axis=0)).mean(axis=1).argmin(axis=0), np.arange(len(low))
    return np.stack(steps)[best], np.stack(least)[best]


def spread_of(steps: Float64, least: Float64, alive: NDArray[np.bool_]) -> tuple[Spread, float]:
    """Return shifts and factors that give all channels one scale, and the range that it has.

    Args:
        steps: ``(C,)`` value of one code.
        least: ``(C,)`` number of the least code, whole.
        alive: Channels that are not zero everywhere; there is one at least.
    """
    bounded = np.maximum(steps, steps[alive].max() * FINEST)
    common = float(np.exp(np.log(bounded[alive]).mean()))
    least = np.where(alive, np.rint(least * steps / bounded), -LEVELS - 1.0)
    steps = np.where(alive, bounded, common)
    shifts = (least + LEVELS + 1) * steps
    return (tuple(shifts.tolist()), tuple((common / steps).tolist())), common * LEVELS


def spread_inputs(proto: ModelProto, found: Mapping[str, Spread]) -> ModelProto:
    """Return a float graph with shifts and factors in front of convolutions: the same function.

    Args:
        proto: FP32 or FP16; not modified, and returned itself where ``found`` names none of its convolutions.
        found: By convolution name. Those that read one tensor in one way have the same.
    """
    convs = [conv for conv in convolutions(proto) if conv.name in found]
    if not convs:
        return proto
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    nodes = {node.name: node for node in result.graph.node if node.op_type == "Conv"}
    constants, make = initializers(result), onnx.helper.make_node
    made: dict[tuple[str, tuple[int, ...]], str] = {}
    before: dict[str, list[onnx.NodeProto]] = {}
    replaced = set()

    def constant(values: NDArray[Any], name: str) -> str:
        result.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        return name

    for conv in convs:
        weights = array_of(constants[conv.weight])
        shifts, factors = in_dtype(found[conv.name], weights.dtype)
        if (conv.input, conv.pads) not in made:
            name, source, steps = f"{conv.name}.spread", conv.input, before.setdefault(conv.name, [])
            if any(conv.pads):
                top, left, bottom, right = conv.pads
                pads = constant(np.array([0, 0, top, left, 0, 0, bottom, right]), f"{name}.pads")
                steps.append(make("Pad", [source, pads], [f"{name}.padded"], name=f"{name}/Pad"))
                source = f"{name}.padded"
            sides = (1, -1, 1, 1)
            low = constant(shifts.astype(weights.dtype).reshape(sides), f"{name}.shifts")
            steps.append(make("Sub", [source, low], [f"{name}.shifted"], name=f"{name}/Center"))
            scale = constant(factors.astype(weights.dtype).reshape(sides), f"{name}.factors")
            steps.append(make("Mul", [f"{name}.shifted", scale], [name], name=f"{name}/Spread"))
            made[conv.input, conv.pads] = name
        node, exact = nodes[conv.name], weights.astype(np.float64)
        bias = 0.0 if conv.bias is None else array_of(constants[conv.bias]).astype(np.float64)
        bias = bias + weighted_sum(exact, shifts, conv)
        replaced |= {conv.weight, conv.bias}
        exact = exact / (factors.reshape(-1, 1, 1, 1) if conv.groups > 1 else factors.reshape(1, -1, 1, 1))
        node.input[:] = [
            made[conv.input, conv.pads],
            constant(exact.astype(weights.dtype), f"{conv.name}.weight.spread"),
            constant(bias.astype(weights.dtype), f"{conv.name}.bias.spread"),
        ]
        for item in node.attribute:
            if item.name == "pads":
                item.ints[:] = [0, 0, 0, 0]
    ordered = [
        onnx.NodeProto.FromString(node.SerializeToString())
        for reader in result.graph.node
        for node in (*before.get(reader.name, ()), reader)
    ]
    del result.graph.node[:], result.graph.value_info[:]
    result.graph.node.extend(ordered)
    read = {name for node in ordered for name in node.input}
    for tensor in [each for each in result.graph.initializer if each.name in replaced - read]:
        result.graph.initializer.remove(tensor)
    return result


def in_dtype(spread: Spread, dtype: np.dtype[np.floating]) -> tuple[Float64, Float64]:
    """Return shifts and factors ``(C,)`` as a graph of this dtype has them."""
    shifts, factors = (np.array(values).astype(dtype).astype(np.float64) for values in spread)
    return shifts, factors


def weighted_sum(weights: Float64, values: Float64, conv: Convolution) -> Float64:
    """Return what a convolution makes of a constant in each input channel ``(C,)``: ``(out,)``."""
    if conv.groups > 1:  # depthwise
        made: Float64 = weights.sum(axis=(1, 2, 3)) * values
        return made
    total: Float64 = np.einsum("oihw,i->o", weights, values)
    return total
