"""A super-resolution graph of somebody else's as a model: what a checkpoint is to a network of ours."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hasn_edge.data.likeness import sample
from hasn_edge.errors import UnsupportedError, VerificationError, omit, say
from hasn_edge.files import file_sha256
from hasn_edge.model.comparators import RANDOM, load_comparator, split_name
from hasn_edge.optional import require
from hasn_edge.runtime.graph_probe import probe_graph, source_sha256
from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession
from hasn_edge.runtime.session import Session
from hasn_edge.spec import SPEC_KEY, GraphSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from hasn_edge.model.comparators.comparator import RgbNetwork
    from hasn_edge.quantize.recipe import QuantRecipe

APART = 1e-4
"""Largest accepted difference, values in [0, 1], between a graph and what is made of it in FP32."""


@dataclass(frozen=True, kw_only=True)
class ForeignGraph:
    """A graph file, what probing found of it, and the same graph in our terms."""

    path: Path
    probed: GraphSpec
    """As the file is."""
    spec: GraphSpec
    """As the graphs are that are made of it: RGB in [0, 1]."""
    sha256: str

    def session(self) -> Session:
        """Open the file itself: the FP32 reference of everything that is made of it."""
        return OnnxRuntimeSession(self.path, self.probed)

    def graph(self, opset: int, *, size: tuple[int, int] | None, batch: int | None) -> ModelProto:
        """Return the FP32 graph with our names of input and output, RGB in [0, 1], of one size or of any.

        Args:
            opset: Opset of the result, where the converter of the package onnx reaches it.
            size: The one (height, width); any that the network takes where ``None``.
            batch: Images at a time; any number where ``None``.

        Raises:
            UnsupportedError: it cannot be written so; the message names the node, or quotes the converter.
            VerificationError: what was made computes something else.
        """
        import onnx

        from hasn_edge.exporters import onnx_graph as graphs

        try:
            proto = onnx.load(str(self.path))
        except (onnx.checker.ValidationError, OSError) as exc:  # ONNX Runtime takes links
            raise UnsupportedError(
                f"{self.path}: its weights, which are in other files, cannot be read: {exc}",
                say("copy the graph and these files into one folder, not as links"),
                say("export it as one file"),
            ) from exc
        _refuse_nodes(proto)
        proto = graphs.canonical(_with_opset(proto, opset, self.path))
        graphs.rename_ends(proto)
        if self.probed.peak != 1:
            _scale_ends(proto, self.probed.peak)
        _free(proto, batch, self.spec.scale)
        if size is not None:
            proto = graphs.with_fixed_size(proto, size, self.spec.scale)
        values = {
            SPEC_KEY: json.dumps(self.spec.to_dict(), sort_keys=True),
            "hasn_edge.source": self.sha256,
            "hasn_edge.color": "RGB, [0, 1], NCHW",
        }
        graphs.set_metadata(proto, values)
        try:
            onnx.checker.check_model(proto, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError) as exc:
            raise UnsupportedError(f"{self.path}: cannot be written anew: {exc}") from exc
        self._compare(proto, size)
        return proto

    def adapt(self, recipe: QuantRecipe) -> tuple[QuantRecipe, str]:
        """Return a recipe for this graph's convolutions, and what was changed as a sentence.

        One whose names are another network's quantizes all convolutions but the first and the last, which see
        the image itself. Equalizing needs a network whose structure is known, and is left out.
        """
        from hasn_edge.errors import ConfigError
        from hasn_edge.quantize.graph import convolutions

        names = [conv.name for conv in convolutions(self.graph(17, size=None, batch=1))]
        if not names:
            raise UnsupportedError(f"{self.path}: it has no convolution to quantize", omit("precision"))
        try:
            recipe.select(names)
        except ConfigError:
            kept = tuple({names[0], names[-1]}) if len(names) > 2 else ()
            changed = replace(recipe, quantize=("*",), keep_float=kept, shift=(), equalize=None)
            return changed, (
                f"int8: the recipe names none of the {len(names)} convolutions of this graph; all are "
                f"quantized but {' and '.join(sorted(kept)) or 'none'}, without equalizing"
            )
        return replace(recipe, equalize=None), "int8: without equalizing, which is for our own networks"

    def _compare(self, proto: ModelProto, size: tuple[int, int] | None) -> None:
        with self.session() as own:
            side = max(self.spec.minimum, 64 // self.spec.multiple * self.spec.multiple)
            shape = size or (side, side)
            x = sample(*shape)
            expected = own.run(x)
        with OnnxRuntimeSession(proto.SerializeToString(), self.spec) as made:
            if made.batch not in (None, 1):
                x, expected = x.repeat(made.batch, 0), expected.repeat(made.batch, 0)
            apart = float(np.abs(made.run(x) - expected).max())
        if not apart <= APART:
            raise VerificationError(
                f"{self.path}: the graph in our terms differs from it by {apart:.2g}, {APART:g} is allowed"
            )


@dataclass(frozen=True, kw_only=True)
class ForeignNetwork(ForeignGraph):
    """A network of another paper, of which the graphs are made here."""

    network: RgbNetwork

    def session(self) -> Session:
        """Open the network in PyTorch."""
        from hasn_edge.runtime.pytorch import PyTorchSession

        return PyTorchSession(self.network)

    def graph(self, opset: int, *, size: tuple[int, int] | None, batch: int | None) -> ModelProto:
        """Return the FP32 graph; see :func:`hasn_edge.exporters.onnx.onnx_from_model`."""
        from hasn_edge.exporters.onnx import onnx_from_model

        return onnx_from_model(self.network, opset=opset, size=size, batch=batch, source=self.sha256)


def load_foreign(model: str | Path) -> ForeignGraph:
    """Load what :func:`hasn_edge.model.zoo.is_foreign_network` holds for.

    Raises:
        CheckpointError: see :func:`hasn_edge.model.comparators.load_comparator`.
        UnsupportedError: see :func:`~hasn_edge.runtime.graph_probe.probe_graph`.
        MissingDependencyError: a package for it is not installed.
    """
    other = split_name(model)
    if other is None:
        return load_foreign_graph(Path(model))
    require("onnx", extra="export", needed_for="Building from a network")
    network = load_comparator(*other)
    random = other[1] == RANDOM
    return ForeignNetwork(
        path=Path(other[0] if random else other[1]),
        probed=network.spec,
        spec=network.spec,
        sha256=hashlib.sha256(other[0].encode()).hexdigest() if random else file_sha256(Path(other[1])),
        network=network,
    )


def load_foreign_graph(path: Path) -> ForeignGraph:
    """Probe a graph.

    Raises:
        UnsupportedError: see :func:`~hasn_edge.runtime.graph_probe.probe_graph`.
        MissingDependencyError: the package onnx or ONNX Runtime is not installed.
    """
    require("onnx", extra="export", needed_for="Building from a graph")
    probed = probe_graph(path)
    with OnnxRuntimeSession(path, probed) as session:
        if session.size is not None:
            raise UnsupportedError(
                f"{path} takes {session.size[1]}x{session.size[0]} pixels only, and files are built and "
                "checked of a graph that takes any size",
                say("export it with free height and width"),
            )
    return ForeignGraph(path=path, probed=probed, spec=replace(probed, peak=1.0), sha256=source_sha256(path))


def _refuse_nodes(proto: ModelProto) -> None:
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            raise UnsupportedError(
                f"node {_called(node)} quantizes: the graph is quantized already",
                say("give the float graph"),
            )
        if node.domain not in ("", "ai.onnx"):
            raise UnsupportedError(
                f"node {_called(node)} is of the operator set {node.domain!r}, which only some runtimes have",
                say("export it with operators of the ONNX standard"),
            )
        if node.op_type in ("If", "Loop", "Scan"):
            raise UnsupportedError(
                f"node {_called(node)} decides while it runs which nodes come next, which INT8 and FP16 "
                "graphs do not keep",
                say("export it without control flow, or simplify it"),
            )


def _called(node: NodeProto) -> str:
    return f"{node.name or node.output[0]!s} ({node.op_type})"


def _with_opset(proto: ModelProto, opset: int, path: Path) -> ModelProto:
    import onnx

    from hasn_edge.quantize.graph import opset_of

    own = opset_of(proto)
    if own == opset:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, opset)
    except Exception as exc:  # the converter's errors share no base
        raise UnsupportedError(
            f"{path}: it has opset {own} and cannot be brought to opset {opset}: {str(exc).strip()}",
            say(f"export it with opset {opset}"),
        ) from exc


def _scale_ends(proto: ModelProto, peak: float) -> None:
    """Let the graph take and give [0, 1] where it was made for [0, ``peak``]."""
    import onnx

    from hasn_edge.exporters.onnx_graph import INPUT, OUTPUT, wrap

    make, factor = onnx.helper.make_node, "range.peak"
    before = make("Mul", [INPUT, factor], ["range.in"], name="range.in")
    after = make("Div", ["range.out", factor], [OUTPUT], name="range.out")
    inside = {INPUT: "range.in", OUTPUT: "range.out"}
    wrap(proto.graph, inside, [before], [after], {factor: np.array(peak, np.float32)})


def _free(proto: ModelProto, batch: int | None, scale: int) -> None:
    """Give input and output our names of dimensions."""
    for value, start in ((proto.graph.input[0], ""), (proto.graph.output[0], f"{scale}*")):
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for index, name in enumerate(("batch", "channels", f"{start}height", f"{start}width")):
            dim = shape.dim.add()
            number = {0: batch, 1: 3}.get(index)
            if number is None:
                dim.dim_param = name
            else:
                dim.dim_value = number
