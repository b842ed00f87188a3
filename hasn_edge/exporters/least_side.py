"""A graph that takes images smaller than its network does: padded inside, cropped after.

It stands alone because runtimes do not check what a convolution or a pooling leaves of a small image: ONNX
Runtime divides by zero, and the process that serves the graph dies of one small request.
"""

from __future__ import annotations

import numpy as np
import onnx

from hasn_edge.exporters.onnx_graph import metadata, remove_dead_nodes, rename_tensors, set_metadata, wrap

PADDING = "hasn_edge.padding"
"""Key of the metadata that such a graph has."""

_PAD, _CROP = "least_side.pad", "least_side.crop"


def with_padding(model: onnx.ModelProto, least: int, scale: int) -> onnx.ModelProto:
    """Return ``model`` for images of any size from 1 x 1; ``model`` is left as it was.

    An image with a side below ``least`` is padded to it at its bottom and its right, the last row and column
    repeated, and the output is cropped to ``scale`` times the image: what
    :class:`~hasn_edge.runtime.upscaler.Upscaler` does around a graph. Any other image passes unchanged. Both
    nodes stand outermost, on float32: no quantized or FP16 tensor is touched. ONNX opset 13 has all of their
    operators, and TensorRT makes slices of them.

    Args:
        model: A graph with one float32 input ``(N, C, H, W)`` and one float32 output, height and width free.
        least: Least height and width in pixels that the network takes.
        scale: How many times as high and wide the output is.

    Returns:
        The graph, with the same names of input and output; a copy where ``least`` is 1.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if least == 1:
        return result
    graph = result.graph
    source, target = graph.input[0].name, graph.output[0].name
    inside = {source: "least_side.input", target: "least_side.output"}
    make = onnx.helper.make_node
    shape, zeros, pads, ends = (f"least_side.{name}" for name in ("shape", "zeros", "pads", "ends"))
    sides, missing, after, factors = (
        f"least_side.{name}" for name in ("sides", "missing", "after", "factors")
    )
    before = [
        make("Shape", [source], [shape], name=shape),
        make("Sub", [sides, shape], [missing], name=missing),
        make("Max", [missing, zeros], [after], name=after),
        make("Concat", [zeros, after], [pads], name=pads, axis=0),
        make("Pad", [source, pads], [inside[source]], name=_PAD, mode="edge"),
    ]
    behind = [
        make("Mul", [shape, factors], [ends], name=ends),
        make("Slice", [inside[target], zeros, ends], [target], name=_CROP),
    ]
    values = {sides: [0, 0, least, least], zeros: [0] * 4, factors: [1, 1, scale, scale]}
    constants = {name: np.array(value, np.int64) for name, value in values.items()}
    wrap(graph, inside, before, behind, constants)
    del graph.value_info[:]  # records of shapes that smaller images do not have
    set_metadata(result, {**metadata(result), PADDING: "edges repeated below the least side, cropped after"})
    onnx.checker.check_model(result, full_check=True)
    return result


def without_padding(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` as it was before :func:`with_padding`, for an engine: its profile has a least side.

    The pad and the crop would be two more copies of each frame. A graph without them is returned as a copy.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes = {node.name: node for node in result.graph.node}
    if _PAD not in nodes or _CROP not in nodes:
        return result
    pad, crop = nodes[_PAD], nodes[_CROP]
    around = {pad.output[0]: pad.input[0], crop.input[0]: crop.output[0]}
    for name in (_PAD, _CROP):
        result.graph.node.remove(nodes[name])
    rename_tensors(result.graph, around)
    remove_dead_nodes(result)
    set_metadata(result, {key: value for key, value in metadata(result).items() if key != PADDING})
    return result
