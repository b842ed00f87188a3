"""Forms in which OpenVINO's CPU plugin computes the same faster, put into a graph that it has read."""

from __future__ import annotations

from typing import Any

import numpy as np

from hasn_edge.optional import require

TO_NHWC, TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]


def rewrite(graph: Any) -> dict[str, int]:
    """Rewrite what OpenVINO's CPU plugin computes slowly; the graph computes the same up to rounding.

    The plugin keeps activations with the channels last in memory whatever the graph states. So a LayerNorm
    between two transposes is copied twice for nothing: it becomes means, a root and a division in NCHW.
    And a sigmoid behind a convolution is computed by the convolution's kernel on its way out, more slowly
    than in the kernel that multiplies by it: ``x * sigmoid(z)`` becomes ``x / (1 + exp(-z))``.

    Measured with ``benchmarks/fusion.py``: ``benchmarks/results/fusion_cpu_forms_202611.md``; where the time
    goes: ``benchmarks/openvino_profile.py``. What is not recognised stays as it is: no graph is refused here.

    Args:
        graph: ``openvino.Model``, changed in place.

    Returns:
        How many places of each form were rewritten, by its name.
    """
    ops = require("openvino", extra="openvino", needed_for="Running an ONNX file in OpenVINO").opset13
    found = {"norm": 0, "gate": 0}
    for node in graph.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "MVN":
            found["norm"] += _decompose_norm(ops, node)
        elif kind == "Multiply":
            found["gate"] += _divide_by_gate(ops, node)
    if any(found.values()):
        graph.validate_nodes_and_infer_types()
    return found


def _decompose_norm(ops: Any, norm: Any) -> bool:
    """Normalize over dimension 1 of NCHW what a transpose, ``norm`` and a transpose back do."""
    if norm.get_input_size() != 2:  # the first MVN of OpenVINO, which states no axes
        return False
    before, options = norm.input_value(0).get_node(), norm.get_attributes()
    axes = _axes(norm.input_value(1).get_node())
    if (
        _order(before) != TO_NHWC
        or axes not in ([-1], [3])
        # In FP16 the squares could overflow and epsilon vanish; the norm itself computes in FP32.
        or norm.get_output_element_type(0).get_type_name() != "f32"
        or not options["normalize_variance"]
        or options["eps_mode"].upper() != "INSIDE_SQRT"
    ):
        return False
    affine: list[tuple[str, Any]] = []
    last = norm
    while (after := _only_reader(last)) is not None and after.get_type_name() in ("Multiply", "Add"):
        inputs = [after.input_value(index).get_node() for index in (0, 1)]
        values = next((each for each in map(_constant, inputs) if each is not None), None)
        if values is None or values.shape[-1:] != (values.size,):
            return False  # not one value a channel
        affine.append((after.get_type_name(), values.reshape(1, -1, 1, 1)))
        last = after
    if after is None or _order(after) != TO_NCHW:
        return False
    x_NCHW, over = before.input_value(0), ops.constant(np.array([1]))
    centred = ops.subtract(x_NCHW, ops.reduce_mean(x_NCHW, over, keep_dims=True))
    variance = ops.reduce_mean(ops.multiply(centred, centred), over, keep_dims=True)
    out = ops.divide(centred, ops.sqrt(ops.add(variance, ops.constant(np.float32(options["eps"])))))
    for kind, values in affine:
        out = (ops.multiply if kind == "Multiply" else ops.add)(out, ops.constant(values))
    _replace(after, out)
    return True


def _divide_by_gate(ops: Any, product: Any) -> bool:
    """Turn a product with the sigmoid of a convolution of many pixels into a division."""
    for index in (0, 1):
        gate, x = product.input_value(index).get_node(), product.input_value(1 - index)
        if gate.get_type_name() != "Sigmoid" or _only_reader(gate) is None:
            continue
        z, shape = gate.input_value(0), gate.get_output_partial_shape(0)
        # One gate for a whole channel costs nothing; SiLU has an operation of its own.
        one = shape.rank.is_dynamic or len(shape) != 4 or (shape[2].is_static and shape[2].get_length() == 1)
        if one or not _is_convolution(z.get_node()):
            continue
        one_more = ops.add(ops.exp(ops.negative(z)), ops.constant(1, z.get_element_type()))
        _replace(product, ops.divide(x, one_more))
        return True
    return False


def _is_convolution(node: Any) -> bool:
    """Whether ``node`` is a convolution, or one with its bias."""
    if node.get_type_name() == "Add":
        node = node.input_value(0).get_node()
    return str(node.get_type_name()) in ("Convolution", "GroupConvolution")


def _replace(node: Any, new: Any) -> None:
    new.set_friendly_name(node.get_friendly_name())
    for reader in list(node.output(0).get_target_inputs()):
        reader.replace_source_output(new.output(0))


def _only_reader(node: Any) -> Any:
    """Return the one node that reads ``node``; ``None`` where there are more."""
    readers = list(node.output(0).get_target_inputs())
    return readers[0].get_node() if len(readers) == 1 else None


def _order(node: Any) -> list[int] | None:
    """Return the order of dimensions that a transpose states; ``None`` for another node."""
    if node.get_type_name() != "Transpose":
        return None
    order = _constant(node.input_value(1).get_node())
    return None if order is None else [int(number) for number in order]


def _axes(node: Any) -> list[int] | None:
    """Return the dimensions that a constant names, or a range of constants, as ONNX's LayerNorm has it."""
    if node.get_type_name() == "Range":
        ends = [_constant(node.input_value(index).get_node()) for index in range(3)]
        return None if any(end is None for end in ends) else list(range(*(int(end) for end in ends)))
    values = _constant(node)
    return None if values is None else [int(value) for value in values.ravel()]


def _constant(node: Any) -> Any:
    """Return a constant's values as an array; ``None`` for another node."""
    return node.data if node.get_type_name() == "Constant" else None
