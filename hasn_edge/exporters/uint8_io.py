"""A graph of floats as one of pixels: NHWC uint8 in and out, all arithmetic of the conversion inside."""

from __future__ import annotations

import numpy as np
import onnx

from hasn_edge.errors import UnsupportedError, counted
from hasn_edge.exporters.onnx_graph import metadata, set_metadata, wrap

COLOR = "RGB, 0 to 255, NHWC"
"""The colour convention that the graph's metadata states."""


def with_pixels(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` with pixels in and out; ``model`` is left as it was.

    A quarter of the bytes crosses to the device and back. Around the network stands what
    :func:`~hasn_edge.images.arrays.to_tensor` and :func:`~hasn_edge.images.arrays.from_tensor` compute on
    the CPU: a multiplication by 1/255; clipping to [0, 1], 255 times, rounding to the nearest level,
    half to even. The channel order stays RGB. TensorRT takes uint8 at a network's border only, so that the
    casts stand outermost.

    Args:
        model: A graph from :func:`hasn_edge.exporters.onnx.onnx_from_model` or made of one: one float32 input
            ``(N, C, H, W)``, one float32 output.

    Returns:
        The graph: input ``(N, H, W, C)`` uint8, output ``(N, H * scale, W * scale, C)`` uint8, same names.

    Raises:
        UnsupportedError: another number of inputs or outputs, another rank or type.
    """
    helper, floats, uint8 = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    ends = [*graph.input, *graph.output]
    for end in ends:
        kind = end.type.tensor_type
        if len(graph.input) != 1 or len(graph.output) != 1 or kind.elem_type != floats:
            raise UnsupportedError(
                "pixels replace one float32 input and one float32 output (N, C, H, W); this graph has "
                f"{len(graph.input)} and {len(graph.output)}, {end.name} of "
                f"{onnx.TensorProto.DataType.Name(kind.elem_type)}"
            )
        if len(kind.shape.dim) != 4:
            raise UnsupportedError(
                f"{end.name} has {counted(len(kind.shape.dim), 'dimension')}; expected (N, C, H, W)"
            )
    inside = {graph.input[0].name: "pixels/input", graph.output[0].name: "pixels/output"}
    for info in graph.value_info:
        info.name = inside.get(info.name, info.name)
    # Arithmetic before the cast to FP16, where there is one: 1/255 of a level is FP32 here as it is outside.
    before = [
        helper.make_node("Cast", [graph.input[0].name], ["pixels/levels"], name="pixels/cast_in", to=floats),
        helper.make_node(
            "Transpose", ["pixels/levels"], ["pixels/planes"], name="pixels/planes", perm=[0, 3, 1, 2]
        ),
        helper.make_node("Div", ["pixels/planes", "pixels/255"], ["pixels/input"], name="pixels/divide"),
    ]
    after = [
        helper.make_node(
            "Clip", ["pixels/output", "pixels/0", "pixels/1"], ["pixels/clipped"], name="pixels/clip"
        ),
        helper.make_node("Mul", ["pixels/clipped", "pixels/255"], ["pixels/scaled"], name="pixels/scale"),
        helper.make_node("Round", ["pixels/scaled"], ["pixels/rounded"], name="pixels/round"),
        helper.make_node(
            "Transpose", ["pixels/rounded"], ["pixels/last"], name="pixels/last", perm=[0, 2, 3, 1]
        ),
        helper.make_node("Cast", ["pixels/last"], [graph.output[0].name], name="pixels/cast_out", to=uint8),
    ]
    wrap(graph, inside, before, after, {f"pixels/{n}": np.array(n, np.float32) for n in (0, 1, 255)})
    for end in ends:
        kind = end.type.tensor_type
        kind.elem_type = uint8
        dims = [onnx.TensorShapeProto.Dimension() for _ in range(4)]
        for dim, old in zip(dims, (0, 2, 3, 1), strict=True):
            dim.CopyFrom(kind.shape.dim[old])
        del kind.shape.dim[:]
        kind.shape.dim.extend(dims)
    set_metadata(result, {**metadata(result), "hasn_edge.color": COLOR})
    onnx.checker.check_model(result)
    return result
