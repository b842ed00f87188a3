"""From a checkpoint to published files: which are made for which target, and nothing before all passed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hasn_edge.artifact import Artifact
from hasn_edge.engine.capabilities import find_module
from hasn_edge.engine.target import EngineRuntime, load_target
from hasn_edge.errors import UnsupportedError
from hasn_edge.graphs import STRONG_OPSET, Form
from hasn_edge.job import Job, Progress
from hasn_edge.quantize.recipe import load_recipe
from hasn_edge.spec import Precision


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
        if size is not None:
            raise UnsupportedError("TorchScript files take any size; leave out --size, or export ONNX")
        job = Job(model, progress=progress)
        return job.publish(job.torchscript(wanted), Path(output))
    if format != "onnx":
        raise UnsupportedError(f"unknown format {format!r}; choose one of: onnx, torchscript")
    if wanted is Precision.FP16 and opset not in (None, STRONG_OPSET):
        raise UnsupportedError(f"FP16 tensors need opset {STRONG_OPSET}; opset {opset} was asked for")
    job = Job(model, progress=progress)
    return job.publish(job.graph(Form.CPU, wanted, size=size, opset=opset, suffix=""), Path(output))


def build(
    model: str | Path,
    *,
    precision: str = "fp16",
    target: str | Path = "cpu",
    calibration: str | Path | None = None,
    recipe: str | Path = "default",
    size: tuple[int, int] | None = None,
    pixels: bool = False,
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
        pixels: Take and give NHWC uint8 instead of NCHW float32: a quarter of the bytes to copy.
        output: Folder.
        progress: Called with what is under way.

    Raises:
        VerificationError: the budget was missed; the message names the costliest layers.
        HasnEdgeError: see the message; nothing half-written stays.
    """
    from hasn_edge.fuse.apply import DEFAULT_RULES

    wanted = Precision.parse(precision)
    if wanted is not Precision.INT8 and (calibration is not None or str(recipe) != "default"):
        raise UnsupportedError(
            f"recipe and calibration are for INT8; the precision asked for is {wanted.value}"
        )
    engine = load_target(target)
    if engine.runtime in (EngineRuntime.RTX, EngineRuntime.TENSORRT):
        find_module(engine.runtime)  # before minutes of work, not after
    rules = DEFAULT_RULES["onnxruntime" if engine.runtime is EngineRuntime.CPU else "tensorrt"]
    job = Job(model, rules=rules, pixels=pixels, progress=progress)
    if wanted is Precision.INT8:
        job.calibrate(load_recipe(recipe), calibration)
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
    return Built(
        artifacts=tuple(job.publish(file, Path(output)) for file in made), summary=tuple(job.summary)
    )
