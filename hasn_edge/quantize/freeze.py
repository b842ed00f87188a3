"""Channel attention whose gates hardly depend on the image, as constants in the convolution before it.

A gate that is the same for every image only scales output channels, so it goes into weights and bias exactly,
and the global mean, which waits for the whole frame, is not computed. Where gates vary a little the fold is
an approximation: its loss is measured as INT8's is, and only a search or a recipe chooses it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import ModelProto

from hasn_edge.exporters.onnx_graph import remove_dead_nodes
from hasn_edge.quantize.graph import array_of, convolutions, initializers
from hasn_edge.quantize.recipe import GATE

if TYPE_CHECKING:
    from hasn_edge.quantize.ranges import Ranges
    from hasn_edge.quantize.recipe import QuantRecipe

STEADY = 0.05
"""Largest standard deviation of a gate over images, relative to its mean and averaged over channels, with
which a search tries it as a constant. In the published x4 network it is 0.004 to 0.015."""

_INSIDE = {"Conv", "Relu", "Sigmoid", "HardSigmoid", "LeakyRelu", "Clip"}


@dataclass(frozen=True, kw_only=True)
class ChannelGate:
    """Where a graph scales a convolution's output by what it computes from the mean of a whole frame."""

    conv: str
    """Name of the convolution."""
    tensor: str
    """What it is scaled by, ``(N, C, 1, 1)``."""
    product: str
    """Name of the node that multiplies."""


def find_gates(proto: ModelProto) -> dict[str, ChannelGate]:
    """Return the channel attentions of a graph by name."""
    makers = {output: node for node in proto.graph.node for output in node.output}
    convs = {conv.output: conv.name for conv in convolutions(proto)}
    found = {}
    for node in (node for node in proto.graph.node if node.op_type == "Mul"):
        for scaled, gate in (node.input, reversed(node.input)):
            attention = _attention(gate, makers) if scaled in convs else []
            own = {node.name, *(each.name for each in attention)}
            # What is not scaled yet may have no other reader.
            if attention and all(each.name in own for each in proto.graph.node if scaled in each.input):
                name = convs[scaled] + GATE
                found[name] = ChannelGate(conv=convs[scaled], tensor=gate, product=node.name)
    return found


def _attention(tensor: str, makers: Mapping[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return what computes a tensor from a global mean: convolutions and activations alone, or nothing."""
    nodes = []
    node = makers.get(tensor)
    while node is not None and node.op_type in _INSIDE:
        nodes.append(node)
        node = makers.get(node.input[0])
    return [*nodes, node] if node is not None and node.op_type == "GlobalAveragePool" else []


def freeze_gates(proto: ModelProto, values: Mapping[str, Iterable[float]]) -> ModelProto:
    """Return the graph with constants for gates: folded into weights and bias, their computation left out.

    Exact where a gate has these values for every image. The products are taken in float64.

    Args:
        proto: A float graph; not modified.
        values: ``(C,)`` by the gate's name.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    gates, constants = find_gates(result), initializers(result)
    nodes = {node.name: node for node in result.graph.node}
    readers = Counter(name for node in result.graph.node for name in node.input)
    for name, factors in values.items():
        conv, product = nodes[gates[name].conv], nodes[gates[name].product]
        scale = np.fromiter(factors, np.float64)
        for index, shape in ((1, (-1, 1, 1, 1)), (2, (-1,))):
            if index < len(conv.input) and conv.input[index]:
                tensor = constants[conv.input[index]]
                old = array_of(tensor)
                if readers[tensor.name] > 1:  # another node reads the values as they were
                    readers[tensor.name] -= 1
                    tensor = result.graph.initializer.add(name=f"{tensor.name}.{conv.name}")
                    conv.input[index] = tensor.name
                new = (old.astype(np.float64) * scale.reshape(shape)).astype(old.dtype)
                tensor.CopyFrom(onnx.numpy_helper.from_array(new, tensor.name))
        conv.output[0] = product.output[0]
        result.graph.node.remove(product)
    remove_dead_nodes(result)
    return result


def with_frozen_gates(proto: ModelProto, ranges: Ranges, recipe: QuantRecipe) -> ModelProto:
    """Return the graph as a recipe freezes it; itself where the recipe freezes nothing of it."""
    chosen = recipe.frozen(find_gates(proto)) if recipe.freeze else ()
    return freeze_gates(proto, {name: ranges.gates[name] for name in chosen}) if chosen else proto
