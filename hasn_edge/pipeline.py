"""From a checkpoint to published files: export, verify, quantize, verify, build, publish.

A file appears under its name only after it was run and passed; until then it is a temporary one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hasn_edge import gate
from hasn_edge.artifact import Artifact, Kind, publish
from hasn_edge.engine.capabilities import find_module
from hasn_edge.engine.target import EngineRuntime, EngineTarget, load_target
from hasn_edge.errors import UnsupportedError
from hasn_edge.graphs import STRONG_OPSET, Form, GraphMaker
from hasn_edge.model.zoo import load_model_checkpoint, model_name
from hasn_edge.optional import installed_version
from hasn_edge.quantize.recipe import QuantRecipe, load_recipe
from hasn_edge.spec import Precision

if TYPE_CHECKING:
    from hasn_edge.model.checkpoint import Checkpoint
    from hasn_edge.quantize.ranges import Ranges

BUILDER_FLAGS = {Precision.FP32: (), Precision.INT8: ("INT8", "FP16")}
"""Flags that TensorRT 8.5 to 10.11 must be given with a weak graph, whose tensors are all FP32."""

Progress = Callable[[str], None]

TOOLS = ("hasn-edge", "torch", "onnx", "onnxsim", "onnxruntime", "numpy")
"""Distributions whose versions go into sidecars."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a build published."""

    artifacts: tuple[Artifact, ...]
    """The files; the last one is the one to run."""
    summary: tuple[str, ...]
    """What the build measured, a sentence each."""


def export(
    model: str | Path,
    *,
    format: str = "onnx",
    precision: str = "fp32",
    opset: int | None = None,
    size: tuple[int, int] | None = None,
    output: str | Path = "engines",
    progress: Progress = lambda text: None,
) -> Artifact:
    """Write a model as ONNX or TorchScript after comparing it with PyTorch.

    Args:
        model: Bundled name, ``.safetensors`` or ``.pth``.
        format: ``"onnx"`` or ``"torchscript"``.
        precision: ``"fp32"`` or ``"fp16"``; input and output are float32 either way.
        opset: ONNX opset from 17 to 20; 17 for FP32 and 20 for FP16 where ``None``.
        size: The one (height, width) in pixels that the file takes; any size where ``None``.
        output: Folder.
        progress: Called with what is under way.

    Raises:
        UnsupportedError: an unknown format, or a precision or opset that it does not have.
        VerificationError: the file's output is not the network's; nothing was written.
        HasnEdgeError: the model cannot be loaded or the folder not written.
    """
    wanted = Precision.parse(precision)
    if wanted is Precision.INT8:
        raise UnsupportedError("export writes fp32 and fp16; INT8 needs calibration: use hasn-edge build")
    if format == "torchscript":
        if opset is not None:
            raise UnsupportedError("TorchScript has no opset; leave out --opset, or export ONNX")
        return _export_torchscript(_Job.open(model, Path(output), progress), wanted, size)
    if format != "onnx":
        raise UnsupportedError(f"unknown format {format!r}; choose one of: onnx, torchscript")
    if wanted is Precision.FP16 and opset not in (None, STRONG_OPSET):
        raise UnsupportedError(f"FP16 tensors need opset {STRONG_OPSET}; opset {opset} was asked for")
    job = _Job.open(model, Path(output), progress)
    return job.publish(job.graph(Form.CPU, wanted, size=size, opset=opset, suffix=""))


def build(
    model: str | Path,
    *,
    precision: str = "fp16",
    target: str | Path = "cpu",
    calibration: str | Path | None = None,
    recipe: str | Path = "default",
    size: tuple[int, int] | None = None,
    output: str | Path = "engines",
    progress: Progress = lambda text: None,
) -> Built:
    """Build what runs on a target, within a quality budget.

    Args:
        model: Bundled name, ``.safetensors`` or ``.pth``.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        target: ``"cpu"`` for the graph that ONNX Runtime runs here, ``"portable"`` for the weak and the
            strong graph that TensorRT 8.5 to 11 read, or an engine target by name or file.
        calibration: Pictures for INT8 ranges: a folder or a manifest; those of the recipe where ``None``.
        recipe: INT8 recipe by name or file.
        size: The one (height, width) in pixels; otherwise the target's shapes.
        output: Folder.
        progress: Called with what is under way.

    Raises:
        VerificationError: the budget was missed; the message names the costliest layers.
        HasnEdgeError: see the message; nothing half-written stays.
    """
    wanted = Precision.parse(precision)
    if wanted is not Precision.INT8 and (calibration is not None or str(recipe) != "default"):
        raise UnsupportedError(
            f"recipe and calibration are for INT8; the precision asked for is {wanted.value}"
        )
    engine = load_target(target)
    if engine.runtime in (EngineRuntime.RTX, EngineRuntime.TENSORRT):
        find_module(engine.runtime)  # before minutes of work, not after
    job = _Job.open(model, Path(output), progress, target=engine.runtime)
    if wanted is Precision.INT8:
        job = job.with_ranges(load_recipe(recipe), calibration)
    if engine.runtime is EngineRuntime.CPU:
        made = [job.graph(Form.CPU, wanted, size=size, suffix="-cpu")]
    elif engine.runtime is EngineRuntime.PORTABLE:
        # There is no weak FP16 graph: TensorRT before 10.12 makes FP16 of the FP32 one by a builder flag.
        forms = (Form.STRONG,) if wanted is Precision.FP16 else (Form.WEAK, Form.STRONG)
        made = [job.graph(form, wanted, size=size, suffix=f"-{form.value}") for form in forms]
    else:
        if size is not None:
            engine = engine.with_size(*size)
        made = [job.graph(Form.STRONG, wanted, size=engine.shapes.size, suffix="-strong")]
        made.append(job.engine(made[0], engine))
    # Nothing takes its name before everything passed.
    return Built(artifacts=tuple(job.publish(file) for file in made), summary=tuple(job.summary))


@dataclass(frozen=True, kw_only=True)
class _File:
    """A finished file that has no name on disk yet."""

    data: bytes
    kind: Kind
    precision: Precision
    size: tuple[int, int] | None
    suffix: str
    details: Mapping[str, Any]
    parent: str | None = None
    made_by: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    """One model on its way to files in one folder."""

    name: str
    maker: GraphMaker
    output: Path
    progress: Progress
    summary: list[str]
    recipe: QuantRecipe | None = None
    ranges: Ranges | None = None

    @classmethod
    def open(
        cls, model: str | Path, output: Path, progress: Progress, *, target: EngineRuntime | None = None
    ) -> _Job:
        from hasn_edge.fuse.apply import DEFAULT_RULES

        progress("loading the model")
        rules = {None: (), EngineRuntime.CPU: DEFAULT_RULES["onnxruntime"]}
        maker = GraphMaker(load_model_checkpoint(model), tuple(rules.get(target, DEFAULT_RULES["tensorrt"])))
        return cls(model_name(model), maker, output, progress, list(maker.fused))

    @property
    def checkpoint(self) -> Checkpoint:
        return self.maker.checkpoint

    def with_ranges(self, recipe: QuantRecipe, calibration: str | Path | None) -> _Job:
        from hasn_edge.data.calibration import load_calibration

        data = load_calibration(calibration if calibration is not None else recipe.calibration)
        if data.skipped:
            self.summary.append(
                f"calibration: {len(data.skipped)} pictures left out, the first: {data.skipped[0]}"
            )
        self.progress(f"measuring ranges on {len(data)} pictures")
        return replace(self, recipe=recipe, ranges=self.maker.ranges(data, recipe))

    def graph(
        self,
        form: Form,
        precision: Precision,
        *,
        size: tuple[int, int] | None,
        suffix: str,
        opset: int | None = None,
    ) -> _File:
        """Make and check one ONNX file."""
        what = f"{precision.value}{suffix}"
        self.progress(f"making {what}")
        graph = self.maker.make(form, precision, opset=opset, ranges=self.ranges, recipe=self.recipe)
        self.progress(f"checking {what}")
        measured, said = gate.check_graph(
            graph,
            self.maker,
            precision,
            what=what,
            recipe=self.recipe,
            ranges=self.ranges,
            progress=self.progress,
        )
        self.summary.extend(said)
        if size is not None:
            fixed = self.maker.make(
                form, precision, size=size, opset=opset, ranges=self.ranges, recipe=self.recipe
            )
            gate.check_static(fixed, graph, self.checkpoint.spec, precision, size)
            graph = fixed
        return _File(
            data=graph.SerializeToString(),
            kind=Kind.ONNX,
            precision=precision,
            size=size,
            suffix=suffix,
            details={
                "form": form.value,
                **({"builder_flags": list(BUILDER_FLAGS[precision])} if form is Form.WEAK else {}),
                "opset": graph.opset_import[0].version,
                "fused": list(self.maker.rules),
                **self._quantization(),
                "measured": measured,
            },
        )

    def engine(self, graph: _File, target: EngineTarget) -> _File:
        """Compile a checked graph."""
        from hasn_edge.engine.tensorrt import engine_from_onnx

        def step(phase: str, done: int, steps: int) -> None:
            self.progress(f"compiling for {target.name}: {phase} {done} of {steps}")

        self.progress(f"compiling for {target.name}")
        built = engine_from_onnx(graph.data, target, progress=step)
        self.summary.append(
            f"{target.name}: compiled in {built.seconds:.1f} s by {', '.join(built.made_by)}; not executed: "
            "that needs its GPU"
        )
        return _File(
            data=built.plan,
            kind=Kind.ENGINE,
            precision=graph.precision,
            size=target.shapes.size,
            suffix=f"-{target.name}",
            details={**built.details(), "measured": graph.details["measured"]},
            parent=hashlib.sha256(graph.data).hexdigest(),
            made_by=built.made_by,
        )

    def publish(self, file: _File) -> Artifact:
        """Give a finished file its name, with its sidecar."""
        sized = f"-{file.size[1]}x{file.size[0]}" if file.size else ""
        path = self.output / f"{self.name}-{file.precision.value}{file.suffix}{sized}{file.kind.suffix}"
        self.progress(f"writing {path}")
        versions = {tool: version for tool in TOOLS if (version := installed_version(tool))}
        return publish(
            file.data,
            path,
            kind=file.kind,
            spec=self.checkpoint.spec,
            precision=file.precision,
            source=self.checkpoint.sha256,
            parent=file.parent,
            made_by={**versions, **file.made_by},
            details={**({"size": list(file.size)} if file.size else {}), **file.details},
        )

    def _quantization(self) -> Mapping[str, Any]:
        if self.recipe is None or self.ranges is None:
            return {}
        from hasn_edge.quantize.graph import convolutions, mac_share

        plain = self.maker.fp32()
        chosen = self.recipe.select(conv.name for conv in convolutions(plain))
        share = mac_share(plain, chosen)
        said = f"int8: {len(chosen)} convolutions, {share:.1%} of the convolutions' MACs"
        if said not in self.summary:
            self.summary.append(said)
        return {
            "recipe": self.recipe.to_dict(),
            "ranges": self.ranges.to_dict(),
            "int8_convolutions": list(chosen),
            "int8_mac_share": share,
        }


def _export_torchscript(job: _Job, precision: Precision, size: tuple[int, int] | None) -> Artifact:
    from hasn_edge.formats.torchscript import torchscript_bytes, torchscript_from_model

    if size is not None:
        raise UnsupportedError("TorchScript files take any size; leave out --size, or export ONNX")
    job.progress(f"exporting TorchScript {precision.value}")
    data = torchscript_bytes(torchscript_from_model(job.checkpoint.model(), precision=precision))
    job.progress("comparing with PyTorch")
    measured, said = gate.check_torchscript(data, job.checkpoint, precision)
    job.summary.extend(said)
    return job.publish(
        _File(
            data=data,
            kind=Kind.TORCHSCRIPT,
            precision=precision,
            size=None,
            suffix="",
            details={"measured": measured},
        )
    )
