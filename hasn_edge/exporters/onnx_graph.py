"""An ONNX graph in memory: edits that keep its meaning, its metadata, and running it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hasn_edge.errors import BuildError, use
from hasn_edge.hardware.host import compute_cores
from hasn_edge.optional import require
from hasn_edge.spec import SPEC_KEY, NetworkSpec, SizeRule

INPUT, OUTPUT = "input", "output"
"""Names of the one input and the one output of every graph of hasn-edge."""


def module_path(scope: str) -> str:
    """Return ``block_1.cab.cab.0`` for the exporter's ``/block_1/cab/cab/cab.0``.

    PyTorch repeats a container's name in front of its children's numbers.
    """
    parts: list[str] = []
    for part in scope.strip("/").split("/"):
        if parts and part.startswith(parts[-1] + "."):
            parts[-1] = part
        else:
            parts.append(part)
    return ".".join(parts)


def constants_to_initializers(model: onnx.ModelProto) -> None:
    """Turn every Constant node into an initializer, equal ones into one, and read past Identity nodes.

    A Constant of text or of a sparse tensor, neither of which an initializer holds, stays a node.
    """
    graph = model.graph
    kept: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    same: dict[str, str] = {}
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        tensor = _constant(node)
        if tensor is None:
            continue
        array = onnx.numpy_helper.to_array(tensor)
        key = (tensor.data_type, array.shape, array.tobytes())
        if key not in kept:
            kept[key] = node.output[0]
            graph.initializer.append(onnx.numpy_helper.from_array(array, node.output[0]))
        same[node.output[0]] = kept[key]
        graph.node.remove(node)
    outputs = {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type == "Identity"]:
        # The exporter writes one for each parameter that equals an earlier one.
        if node.output[0] not in outputs:
            same[node.output[0]] = same.get(node.input[0], node.input[0])
            graph.node.remove(node)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return what a Constant node states, as a tensor or as plain numbers; ``None`` for any other value."""
    value = node.attribute[0]
    if value.name == "value":
        return value.t
    types = {"value_float": np.float32, "value_int": np.int64}
    dtype = types.get(value.name.removesuffix("s"))
    if dtype is None:
        return None
    return onnx.numpy_helper.from_array(np.array(onnx.helper.get_attribute_value(value), dtype))


def remove_dead_nodes(model: onnx.ModelProto) -> None:
    """Drop nodes, initializers and shape records that nothing reads; initializers in order of first use."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    for node in reversed(list(graph.node)):
        if needed.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            needed.update(node.input)
    order = {name: i for i, name in reversed(list(enumerate(n for node in graph.node for n in node.input)))}
    used = sorted((t for t in graph.initializer if t.name in order), key=lambda tensor: order[tensor.name])
    tensors = [type(tensor).FromString(tensor.SerializeToString()) for tensor in used]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    # Records of intermediate shapes are recomputed by whoever wants them; stale ones would contradict edits.
    del graph.value_info[:]


def rename(model: onnx.ModelProto) -> None:
    """Give every node and tensor a name that tells its place in the network.

    A Conv node is called by the path of its convolution (``block_1.f1.conv``), and its parameters after it,
    its own even where another convolution's have equal values; other nodes by path and operator
    (``block_1.ln.Sqrt``). A node's output carries its node's name, except the graph's output; an unnamed
    constant that of its first reader with the input's index.
    """
    graph = model.graph
    tensors = {value.name: value.name for value in (*graph.input, *graph.output)}
    parameters = {tensor.name for tensor in graph.initializer if re.search(r"\.(weight|bias)$", tensor.name)}
    taken = {*tensors, *parameters}  # a node of such a name would give it to its output too
    constants = {tensor.name for tensor in graph.initializer} - parameters
    for node in graph.node:
        name = module_path(node.name.removesuffix("/Conv")) or node.op_type
        node.name = _unique(name, taken)
        for index, output in enumerate(node.output):
            tensors.setdefault(output, node.name + (f".{index}" if index else ""))
        for index, name in enumerate(node.input):
            if name in constants:
                tensors.setdefault(name, f"{node.name}.constant{index}")
    for node in graph.node:
        node.doc_string = ""
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = tensors.get(name, name)
    for tensor in graph.initializer:
        tensor.name = tensors.get(tensor.name, tensor.name)
    _separate_parameters(graph)


def rename_ends(model: onnx.ModelProto) -> None:
    """Call the one input and the one output as ours are called, and what had these names otherwise."""
    graph = model.graph
    new = {graph.input[0].name: INPUT, graph.output[0].name: OUTPUT}
    for name in (INPUT, OUTPUT):
        if name not in new:
            new[name] = f"{name}.inner"
    rename_tensors(graph, new)
    for tensor in graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    graph.input[0].name, graph.output[0].name = INPUT, OUTPUT


def rename_tensors(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give what nodes read and write the names that stand under theirs in ``names``."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def wrap(
    graph: onnx.GraphProto,
    inside: Mapping[str, str],
    before: Iterable[onnx.NodeProto],
    after: Iterable[onnx.NodeProto],
    constants: Mapping[str, NDArray[Any]],
) -> None:
    """Put nodes around a graph's own, which call input and output as ``inside`` has it from then on.

    ``constants``, which the new nodes read, become initializers.
    """
    rename_tensors(graph, inside)
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with initializers for constants, no dead code and readable names.

    Initializers that stand among the inputs as well, as exporters once wrote them, are inputs no more.
    """
    copy = type(model).FromString(model.SerializeToString())
    constants = {tensor.name for tensor in copy.graph.initializer}
    for value in [value for value in copy.graph.input if value.name in constants]:
        copy.graph.input.remove(value)
    constants_to_initializers(copy)
    rename(copy)
    remove_dead_nodes(copy)
    return copy


def with_fixed_size(model: onnx.ModelProto, size: tuple[int, int], scale: int) -> onnx.ModelProto:
    """Return a copy that takes ``(H, W)`` only, with the target of every Resize a constant.

    One that has factors instead of a target, as networks of others have, keeps them.

    Raises:
        BuildError: a Resize's output has no size that shape inference can tell.
    """
    fixed = type(model).FromString(model.SerializeToString())
    for value, factor in ((fixed.graph.input[0], 1), (fixed.graph.output[0], scale)):
        for index, side in zip((2, 3), size, strict=True):
            value.type.tensor_type.shape.dim[index].dim_value = side * factor
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True, strict_mode=True)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in inferred.graph.value_info
    }
    for node in [node for node in fixed.graph.node if node.op_type == "Resize"]:
        if not "".join(node.input[3:]):
            continue
        # ESA's Resize has a convolution's size, which inference knows where it cannot follow the arithmetic
        # on shapes: both meet in the Add that reads the Resize.
        sizes = shapes.get(node.output[0], [])
        readers = [reader for reader in fixed.graph.node if node.output[0] in reader.input]
        for name in (name for reader in readers if reader.op_type == "Add" for name in reader.input):
            sizes = sizes if sizes and all(sizes) else shapes.get(name, [])
        if len(sizes) != 4 or not all(sizes[1:]):
            raise BuildError(f"{node.name}: its size could not be made constant (found {sizes})")
        if not sizes[0]:
            raise BuildError(f"{node.name}: a static graph needs a fixed batch", use(batch=1))
        name = f"{node.name}.sizes"
        fixed.graph.initializer.append(onnx.numpy_helper.from_array(np.array(sizes, np.int64), name))
        node.input[3] = name
    remove_dead_nodes(fixed)
    return fixed


def conv_parameters(model: onnx.ModelProto) -> dict[str, tuple[bytes, ...]]:
    """Return the bytes of the weight and the bias of every Conv by node name."""
    values = {t.name: onnx.numpy_helper.to_array(t).tobytes() for t in model.graph.initializer}
    return {
        node.name: tuple(values.get(name, b"") for name in node.input[1:])
        for node in model.graph.node
        if node.op_type == "Conv"
    }


def set_metadata(model: onnx.ModelProto, values: Mapping[str, str]) -> None:
    """Replace the model's metadata by ``values``, sorted by key so that equal graphs are equal bytes."""
    del model.metadata_props[:]
    for key in sorted(values):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, values[key]


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Return the model's metadata."""
    return {entry.key: entry.value for entry in model.metadata_props}


class Emulator:
    """An ONNX graph in ONNX Runtime on the CPU, for measuring.

    With ``exact`` nothing is fused: every Q/DQ pair rounds where it stands in the graph, which is the
    arithmetic that a prediction of INT8's cost needs (fused integer kernels shift results on some CPUs).
    Images of sizes that the network does not take (the graph's metadata states them) are padded below and at
    the right by repeating their edges: ONNX Runtime ends the process where nothing is left of one.

    Raises:
        BuildError: ONNX Runtime refuses the graph.
    """

    def __init__(self, proto: onnx.ModelProto, *, exact: bool) -> None:
        ort = require("onnxruntime", extra="export", needed_for="Measuring a graph")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = compute_cores()
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_DISABLE_ALL if exact else levels.ORT_ENABLE_ALL
        try:
            self._session = ort.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as exc:  # ONNX Runtime's exceptions have no common base but Exception
            raise BuildError(f"ONNX Runtime cannot load the graph: {exc}") from exc
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._height = 1 if self._session.get_inputs()[0].type == "tensor(uint8)" else 2
        spec = metadata(proto).get(SPEC_KEY)
        self._sizes = SizeRule() if spec is None else NetworkSpec.from_dict(json.loads(spec)).size

    def run(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the graph's first output for images as it takes them.

        Args:
            x: float32 RGB in [0, 1] as NCHW, or uint8 RGB as NHWC for a graph of 8-bit pixels.
        """
        padded = self._padded(x)
        output: NDArray[Any] = self._session.run(self._outputs[:1], {self._input: padded})[0]
        if padded is x:
            return output
        scale = output.shape[self._height] // padded.shape[self._height]
        rows, columns = (side * scale for side in self._sides(x))
        return output[:, :rows, :columns] if self._height == 1 else output[..., :rows, :columns]

    def run_all(self, x: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """Return every output of the graph by name, of the padded images where they are padded."""
        outputs = self._session.run(self._outputs, {self._input: self._padded(x)})
        return dict(zip(self._outputs, outputs, strict=True))

    def _sides(self, x: NDArray[Any]) -> tuple[int, int]:
        return x.shape[self._height], x.shape[self._height + 1]

    def _padded(self, x: NDArray[Any]) -> NDArray[Any]:
        rows, columns = self._sizes.padding(*self._sides(x))
        if not rows and not columns:
            return x
        amounts = [(0, 0)] * 4
        amounts[self._height : self._height + 2] = (0, rows), (0, columns)
        return np.pad(x, amounts, mode="edge")


def largest_difference(
    first: onnx.ModelProto, second: onnx.ModelProto, shapes: Iterable[tuple[int, int, int, int]]
) -> float:
    """Return the largest difference of two graphs' outputs on random images, relative to the output's range.

    Args:
        first: The graph to trust.
        second: The graph to check.
        shapes: NCHW shapes of the images.
    """
    run_first, run_second = (Emulator(graph, exact=True).run for graph in (first, second))
    rng = np.random.default_rng(0)
    worst = 0.0
    for shape in shapes:
        x = rng.random(shape, dtype=np.float32)
        a, b = run_first(x), run_second(x)
        if a.shape != b.shape:
            return float("inf")
        difference = float(np.abs(a - b).max()) / max(float(np.abs(a).max()), 1e-6)
        worst = max(worst, difference if np.isfinite(difference) else float("inf"))
    return worst


def _separate_parameters(graph: onnx.GraphProto) -> None:
    # The exporter (like onnxsim) merges parameters of equal value, e.g. zero biases of a new network.
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for index in range(1, len(node.input) if node.op_type == "Conv" else 0):
            name = f"{node.name}.{('weight', 'bias')[index - 1]}"
            if node.input[index] in tensors and name not in tensors:
                tensors[name] = type(graph.initializer[0])()
                tensors[name].CopyFrom(tensors[node.input[index]])
                tensors[name].name = name
                graph.initializer.append(tensors[name])
            if node.input[index] in tensors:
                node.input[index] = name


def _unique(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate
