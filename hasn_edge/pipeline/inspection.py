"""What a built file does: an engine's kernels, a graph's convolutions, and how two files differ."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hasn_edge.artifact import read_sidecar, sidecar_path
from hasn_edge.engine.compile import kernels_from_onnx
from hasn_edge.engine.inspect import kernels_of_engine
from hasn_edge.engine.target import load_target
from hasn_edge.errors import ArtifactError, InputError, UnsupportedError, call, counted, omit, say
from hasn_edge.optional import require
from hasn_edge.progress import Progress, Step, ignore
from hasn_edge.sidecar import KernelLine, KernelRecord, Kind
from hasn_edge.spec import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

BYTES, MACS, VALUES, COUNT, SHARE = "bytes", "MACs", "values", "", "of all"
"""Units of figures."""

SIZE = (180, 320)
"""(height, width) that a graph of any size is looked at with."""

_FLOATS = {Precision.FP32: "Float", Precision.FP16: "Half"}
"""What TensorRT calls the type that an engine of a precision computes in."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of a file."""

    name: str
    value: int | float | None
    """``None`` where it is not known."""
    unit: str = COUNT


@dataclass(frozen=True, kw_only=True)
class InspectedLayer:
    """One kernel of an engine, or one convolution of a graph."""

    name: str
    """Of an engine: the graph's nodes that it computes; of a graph: the convolution."""
    types: str
    """What it reads and writes, or computes in."""
    figures: tuple[Figure, ...]
    """The last one is what it weighs."""

    @property
    def weight(self) -> float:
        """What layers are ordered by: bytes moved, or multiply-accumulates."""
        return self.figures[-1].value or 0


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found of one file."""

    path: Path
    title: str
    """What the file is, in words."""
    layer: str
    """What a layer is: ``"kernel"`` or ``"convolution"``."""
    figures: tuple[Figure, ...]
    layers: tuple[InspectedLayer, ...]
    """In the order that they run in."""
    remarks: tuple[str, ...] = ()
    """Where the file is not what its name says, a sentence each."""

    def figure(self, name: str) -> Figure | None:
        """Return the figure of a name, if there is one."""
        return next((figure for figure in self.figures if figure.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain JSON values, in bytes and counts."""
        return {
            "file": str(self.path),
            "title": self.title,
            "figures": {figure.name: figure.value for figure in self.figures},
            "layers": [
                {"name": layer.name, "types": layer.types, **{f.name: f.value for f in layer.figures}}
                for layer in self.layers
            ],
            "remarks": list(self.remarks),
        }


def inspect_file(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    target: str | None = None,
    progress: Progress = ignore,
) -> Inspection:
    """Look into a built engine, or any ONNX graph of one image input.

    Args:
        path: ``.engine`` with its sidecar, or ``.onnx``, with one or without.
        size: (height, width) that a graph is looked at with; its own where it has one, else :data:`SIZE`.
        target: Name or file of an engine target: look at the kernels that a graph would become there.
        progress: Receives what is under way.

    Raises:
        ArtifactError: no such file, no graph, or an engine without a sidecar.
        UnsupportedError: an engine whose kernels cannot be found out here; a graph that cannot be read.
        HasnEdgeError: as :func:`hasn_edge.engine.compile.kernels_from_onnx`, with ``target``.
    """
    path = Path(path)
    if path.suffix == Kind.ENGINE.suffix:
        for name, value in (("size", size), ("target", target)):
            if value is not None:
                raise UnsupportedError(f"{path.name} is an engine, whose {name} is its own", omit(name))
        engine = read_sidecar(path)
        kernels = kernels_of_engine(engine, progress=progress)
        words = f"{engine.precision.value.upper()} engine for {engine.engine.target}"
        return _of_kernels(path, words, kernels, engine.precision, engine.engine.warnings)
    if path.suffix != Kind.ONNX.suffix:
        raise ArtifactError(
            f"{path}: cannot be looked into; expected an .engine or an .onnx file", call("build")
        )
    graph = _read_graph(path)
    sides = graph.graph.input[0].type.tensor_type.shape.dim
    pixels = len(sides) == 4 and sides[3].dim_value == 3
    own = tuple(side.dim_value for side in (sides[1:3] if pixels else sides[2:4]))
    if size is not None and all(own) and size != own:
        raise UnsupportedError(f"{path.name} takes {own[1]}x{own[0]} pixels only", omit("size"))
    chosen = size or ((own[0], own[1]) if all(own) else SIZE)
    if target is None:
        return _of_graph(path, graph, chosen)
    wanted = load_target(target).with_size(*chosen)
    if not wanted.runtime.compiles:
        raise UnsupportedError(f"the target {wanted.name!r} runs the graph itself", omit("target"))
    progress(Step(f"compiling for {wanted.name}"))
    from hasn_edge.exporters.least_side import without_padding

    inside = without_padding(graph).SerializeToString()  # as builds compile it
    kernels = kernels_from_onnx(inside, wanted, progress=progress)
    return _of_kernels(path, f"compiled for {wanted.name}", kernels, None, ())


@dataclass(frozen=True, kw_only=True)
class Change:
    """One figure of two files."""

    name: str
    before: int | float | None
    after: int | float | None
    unit: str

    @property
    def difference(self) -> int | float | None:
        """By how much it grew."""
        known = self.before is not None and self.after is not None
        return self.after - self.before if known else None  # type: ignore[operator]


def compare_files(before: Inspection, after: Inspection) -> tuple[Change, ...]:
    """Return the figures of two files side by side; one that only one of them has is ``None`` in the other.

    Raises:
        InputError: one is an engine, the other a graph.
    """
    if before.layer != after.layer:
        raise InputError(
            f"{before.path} has {before.layer}s and {after.path} has {after.layer}s, which do not compare",
            say("give two engines, or two graphs"),
        )
    return _changes(before.figures, after.figures)


def compare_layers(before: Inspection, after: Inspection) -> tuple[Change, ...]:
    """Return what the layers of two files weigh side by side, those that differ, the largest change first.

    A layer of an engine is what its kernels compute; where two engines fuse otherwise, both are listed.
    """
    changes = _changes(_weights(before.layers), _weights(after.layers))
    differing = [change for change in changes if change.before != change.after]
    return tuple(sorted(differing, key=lambda c: -abs((c.after or 0) - (c.before or 0))))


def engine_lines(kernels: KernelRecord, precision: Precision, name: str) -> tuple[str, str]:
    """Return the two sentences on an engine that matter: what it moves, and what its convolutions are."""
    count = counted(kernels.images, "image")
    size = "" if kernels.size is None else f" for {count} of {kernels.size[1]}x{kernels.size[0]}"
    moved = "an unknown number of bytes" if kernels.moved_bytes is None else megabytes(kernels.moved_bytes)
    memory = "" if kernels.activation_bytes is None else f", {megabytes(kernels.activation_bytes)} of scratch"
    first = f"{name}: {kernels.all} kernels read and write {moved}{size}{memory}"
    if precision is Precision.INT8:
        what = f"{kernels.integer} of {kernels.convolutions_all} convolutions read INT8"
        what += f", {kernels.wide} write FP32 (unfused)" if kernels.wide else ""
    else:
        what = ", ".join(f"{counted(n, 'convolution')} {types}" for types, n in kernels.convolutions.items())
    return first, f"{precision.value.upper()}: {what}"


def megabytes(value: float) -> str:
    """Return bytes as text in MB, which are 10^6 bytes."""
    return f"{value / 1e6:,.{0 if value >= 1e8 else 1}f} MB"


def of_images(count: int) -> str:
    """Return what the figure of one call is for, where that is not one image."""
    return f" for {count} images" if count > 1 else ""


def _changes(before: Iterable[Figure], after: Iterable[Figure]) -> tuple[Change, ...]:
    first, second = ({figure.name: figure for figure in figures} for figures in (before, after))
    changes = []
    for name in dict.fromkeys((*first, *second)):
        one, other = first.get(name), second.get(name)
        unit = (one or other).unit  # type: ignore[union-attr]
        # A count that one file does not have is 0 there: no convolution of such types.
        missing = 0 if unit == COUNT else None
        changes.append(
            Change(
                name=name,
                before=one.value if one else missing,
                after=other.value if other else missing,
                unit=unit,
            )
        )
    return tuple(changes)


def _weights(layers: Iterable[InspectedLayer]) -> list[Figure]:
    """Return what each layer weighs, those of one name together."""
    sums: dict[str, float] = {}
    unit = COUNT
    for layer in layers:
        sums[layer.name] = sums.get(layer.name, 0) + layer.weight
        unit = layer.figures[-1].unit
    return [Figure(name=name, value=value, unit=unit) for name, value in sums.items()]


def _of_kernels(
    path: Path, words: str, kernels: KernelRecord, precision: Precision | None, warnings: tuple[str, ...]
) -> Inspection:
    at = "" if kernels.size is None else f", at {kernels.size[1]}x{kernels.size[0]}"
    at += "" if kernels.images == 1 else f", {kernels.images} images at a time: bytes moved are of one"
    return Inspection(
        path=path,
        title=f"{path.name}: {words}{at}",
        layer="kernel",
        figures=(
            Figure(name="kernels", value=kernels.all),
            Figure(name="convolutions", value=kernels.convolutions_all),
            *(
                Figure(name=f"convolutions {types}", value=number)
                for types, number in sorted(kernels.convolutions.items())
            ),
            Figure(name="Q/DQ kernels (unfused)", value=kernels.rounding),
            *_traffic(kernels, kernels.images),
            Figure(name="activation memory", value=kernels.activation_bytes, unit=BYTES),
        ),
        layers=tuple(
            InspectedLayer(
                name=shorten_nodes(line.nodes.split()) or line.name,
                types=f"{line.reads} -> {line.writes}",
                figures=_traffic(line, kernels.images),
            )
            for line in kernels.lines
        ),
        remarks=(*_contradictions(kernels, precision), *warnings),
    )


def _traffic(of: KernelRecord | KernelLine, images: int) -> tuple[Figure, ...]:
    """Return what is moved for one image: engines of different batches compare by that."""
    bytes_ = (("read", of.read_bytes), ("written", of.written_bytes), ("moved", of.moved_bytes))
    return tuple(
        Figure(name=name, value=value if value is None or images == 1 else value / images, unit=BYTES)
        for name, value in bytes_
    )


def _contradictions(kernels: KernelRecord, precision: Precision | None) -> list[str]:
    """Return where an engine's convolutions are not what its precision says."""
    if precision is None or not kernels.convolutions:
        return []
    every = kernels.convolutions_all
    if precision is Precision.INT8:
        if not kernels.integer:
            return [f"it is called INT8, and none of its {every} convolutions is"]
        wide = (
            f"{kernels.wide} of its {every} convolutions read INT8 and write FP32: what follows is not fused"
        )
        return [wide] if kernels.wide > kernels.integer / 2 else []
    other = sum(n for types, n in kernels.convolutions.items() if not types.startswith(_FLOATS[precision]))
    name = precision.value.upper()
    return [f"it is called {name}, and {other} of its {every} convolutions are not"] if other else []


def shorten_nodes(nodes: list[str]) -> str:
    """Return the names of a kernel's nodes as text, what all of them begin with once."""
    paths = [node.split(".") for node in dict.fromkeys(nodes)]
    if len(paths) < 2:
        return nodes[0] if nodes else ""
    columns = zip(*(path[:-1] for path in paths), strict=False)
    shared = len(list(itertools.takewhile(lambda names: len(set(names)) == 1, columns)))
    rest = ", ".join(".".join(path[shared:]) for path in paths)
    return f"{'.'.join(paths[0][:shared])}: {rest}" if shared else rest


def _read_graph(path: Path) -> ModelProto:
    onnx = require("onnx", extra="export", needed_for="Looking into a graph")
    try:
        graph: ModelProto = onnx.load(path)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file", call("build")) from None
    except IsADirectoryError:
        raise ArtifactError(f"{path}: a folder; expected an ONNX graph's file") from None
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read ({exc.strerror})", say("check its permissions")) from exc
    except Exception as exc:  # protobuf's own errors have no common base
        raise ArtifactError(f"{path}: not a readable ONNX graph ({exc})", call("build")) from exc
    if not graph.graph.input or len(graph.graph.input[0].type.tensor_type.shape.dim) != 4:
        raise ArtifactError(f"{path}: expected a graph whose first input is an image, (N, C, H, W)")
    return graph


def _of_graph(path: Path, graph: ModelProto, size: tuple[int, int]) -> Inspection:
    from hasn_edge.quantize.graph import array_of, conv_costs

    costs = conv_costs(graph, size)
    total = sum(cost.macs for cost in costs)
    kinds = sorted({cost.kind for cost in costs})
    integer = sum(cost.macs for cost in costs if cost.kind == "INT8")
    artifact = read_sidecar(path) if sidecar_path(path).is_file() else None
    words = "graph without a sidecar"
    if artifact is not None:
        words = f"{artifact.precision.value.upper()} graph, {artifact.graph.form.words}"
    remarks = []
    if artifact is not None and artifact.precision is Precision.INT8 and not integer:
        remarks.append(f"it is called INT8, and none of its {len(costs)} convolutions is")
    return Inspection(
        path=path,
        title=f"{path.name}: {words}, at {size[1]}x{size[0]}",
        layer="convolution",
        figures=(
            Figure(name="nodes", value=len(graph.graph.node)),
            Figure(name="convolutions", value=len(costs)),
            *(
                Figure(name=f"convolutions {kind}", value=sum(cost.kind == kind for cost in costs))
                for kind in kinds
            ),
            Figure(name="multiply-accumulates", value=total, unit=MACS),
            Figure(name="share in INT8", value=integer / total if total else 0.0, unit=SHARE),
            Figure(name="activations (convolutions)", value=sum(c.activations for c in costs), unit=VALUES),
            Figure(
                name="weights", value=sum(array_of(t).nbytes for t in graph.graph.initializer), unit=BYTES
            ),
            Figure(name="file", value=path.stat().st_size, unit=BYTES),
        ),
        layers=tuple(
            InspectedLayer(
                name=f"{cost.name} ({'x'.join(map(str, cost.weights))})",
                types=cost.kind,
                figures=(
                    Figure(name="activations", value=cost.activations, unit=VALUES),
                    Figure(name="share of MACs", value=cost.macs / total, unit=SHARE),
                    Figure(name="MACs", value=cost.macs, unit=MACS),
                ),
            )
            for cost in costs
        ),
        remarks=tuple(remarks),
    )
