"""From a checkpoint to published files: which are made for which target, and nothing before all passed."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from hasn_edge.artifact import Artifact, load_artifact, output_error
from hasn_edge.engine.cache import KEY, engine_key, lookup
from hasn_edge.engine.capabilities import Capabilities, ask_capabilities, find_module
from hasn_edge.engine.gpu import gpu_facts
from hasn_edge.engine.target import EngineRuntime, EngineTarget, load_target
from hasn_edge.errors import HasnEdgeError, UnsupportedError
from hasn_edge.graphs import STRONG_OPSET, Form
from hasn_edge.job import Job, Progress
from hasn_edge.quantize.recipe import load_recipe
from hasn_edge.spec import Precision


class Int8Method(str, Enum):
    """Where the ranges of INT8 come from."""

    QDQ = "qdq"
    """Measured here, by our observers, and written into the graph: any TensorRT reads it, and a processor."""
    CALIBRATOR = "calibrator"
    """TensorRT's own entropy calibrator: 8.5 to 10 only, known on the device only."""

    @classmethod
    def parse(cls, text: str) -> Int8Method:
        """Return the method called ``text``.

        Raises:
            UnsupportedError: there is none.
        """
        try:
            return cls(text)
        except ValueError:
            names = ", ".join(method.value for method in cls)
            raise UnsupportedError(f"unknown INT8 method {text!r}; choose one of: {names}") from None


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
        format: ``"onnx"``, ``"torchscript"``, or ``"triton"`` for an ONNX graph in a model repository of
            NVIDIA Triton Inference Server, which ``output`` then is.
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
    if format == "triton":
        return export_triton(
            model, precision=precision, opset=opset, size=size, output=output, progress=progress
        )
    if format != "onnx":
        raise UnsupportedError(f"unknown format {format!r}; choose one of: onnx, torchscript, triton")
    if wanted is Precision.FP16 and opset not in (None, STRONG_OPSET):
        raise UnsupportedError(f"FP16 tensors need opset {STRONG_OPSET}; opset {opset} was asked for")
    job = Job(model, progress=progress)
    return job.publish(job.graph(Form.CPU, wanted, size=size, opset=opset, suffix=""), Path(output))


def export_triton(
    model: str | Path | Artifact,
    *,
    precision: str = "fp32",
    opset: int | None = None,
    size: tuple[int, int] | None = None,
    name: str | None = None,
    output: str | Path = "triton",
    progress: Progress = lambda text: None,
) -> Artifact:
    """Add a model to a model repository of NVIDIA Triton Inference Server.

    Args:
        model: What :func:`export` takes, or a graph or TensorRT engine that was published before.
        precision: Of a model that is exported here.
        opset: Likewise.
        size: Likewise.
        name: What clients call it; the file's name where ``None``.
        output: The repository's folder.
        progress: Called with what is under way.

    Returns:
        The file in the repository.

    Raises:
        UnsupportedError: the server cannot run the file.
        HasnEdgeError: see :func:`export` and :func:`hasn_edge.formats.triton.repository.triton_repository`.
    """
    from hasn_edge.formats.triton.repository import model_file, triton_repository

    if isinstance(model, Artifact):
        return load_artifact(model_file(triton_repository(model, output, name=name)))
    try:
        with tempfile.TemporaryDirectory(prefix="hasn-edge-export-") as folder:
            made = export(
                model, precision=precision, opset=opset, size=size, output=folder, progress=progress
            )
            return export_triton(made, name=name, output=output)
    except OSError as exc:
        raise output_error(Path(tempfile.gettempdir()), exc) from exc


def build(
    model: str | Path,
    *,
    precision: str = "fp16",
    target: str | Path | None = None,
    calibration: str | Path | None = None,
    recipe: str | Path = "default",
    size: tuple[int, int] | None = None,
    dynamic: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None = None,
    pixels: bool = False,
    int8_method: str = "qdq",
    rebuild: bool = False,
    output: str | Path = "engines",
    progress: Progress = lambda text: None,
) -> Built:
    """Build what runs on a target, within a quality budget.

    Args:
        model: Bundled name, ``.safetensors`` or ``.pth``.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        target: ``"cpu"`` for the graph that ONNX Runtime runs here, ``"portable"`` for the weak and the
            strong graph that TensorRT 8.5 to 11 read, or an engine target by name or file;
            :func:`default_target` where ``None``.
        calibration: Pictures for INT8 ranges: a folder or a manifest; those of the recipe where ``None``.
        recipe: INT8 recipe by name or file.
        size: The one (height, width) in pixels; otherwise the target's shapes.
        dynamic: Smallest, typical and largest (height, width) of an engine that takes a range of sizes.
        pixels: Take and give NHWC uint8 instead of NCHW float32: a quarter of the bytes to copy.
        int8_method: ``"qdq"``, ranges written into the graph; or ``"calibrator"``, chosen by TensorRT 8.5 to
            10 itself, to compare with.
        rebuild: Compile even if ``output`` holds an engine that was built of the very same.
        output: Folder.
        progress: Called with what is under way.

    Raises:
        VerificationError: the budget was missed; the message names the costliest layers.
        HasnEdgeError: see the message; nothing half-written stays.
    """
    from hasn_edge.fuse.apply import DEFAULT_RULES

    wanted, method = Precision.parse(precision), Int8Method.parse(int8_method)
    if wanted is not Precision.INT8 and (calibration is not None or str(recipe) != "default"):
        raise UnsupportedError(
            f"recipe and calibration are for INT8; the precision asked for is {wanted.value}"
        )
    if size is not None and dynamic is not None:
        raise UnsupportedError("a fixed size and a range of sizes exclude each other; give one of them")
    engine = load_target(default_target() if target is None else target)
    if dynamic is not None:
        engine = engine.with_range(*dynamic)
    elif size is not None:
        engine = engine.with_size(*size)
    compiles = engine.runtime in (EngineRuntime.RTX, EngineRuntime.TENSORRT)
    if not compiles and dynamic is not None:
        raise UnsupportedError(f"the target {engine.name!r} takes any size as it is; leave out the range")
    if method is Int8Method.CALIBRATOR and (wanted is not Precision.INT8 or not compiles):
        raise UnsupportedError("the calibrator is TensorRT's, for INT8: choose an engine target and int8")
    engine.require_gpu(gpu_facts())
    capabilities = ask_capabilities(engine.runtime) if compiles else None  # before minutes of work, not after
    rules = DEFAULT_RULES["onnxruntime" if engine.runtime is EngineRuntime.CPU else "tensorrt"]
    job = Job(model, rules=rules, pixels=pixels, progress=progress)
    if wanted is Precision.INT8:
        job.calibrate(load_recipe(recipe), calibration)
    folder = Path(output)
    if capabilities is not None:
        return _engine(job, wanted, engine, capabilities, folder, method=method, rebuild=rebuild)
    if engine.runtime is EngineRuntime.CPU:
        made = [job.graph(Form.CPU, wanted, size=size, suffix="-cpu")]
    else:
        # There is no weak FP16 graph: TensorRT before 10.12 makes FP16 of the FP32 one by a builder flag.
        forms = (Form.STRONG,) if wanted is Precision.FP16 else (Form.WEAK, Form.STRONG)
        made = [job.graph(form, wanted, size=size, suffix=f"-{form.value}") for form in forms]
    # Nothing takes its name before everything passed.
    return Built(artifacts=tuple(job.publish(file, folder) for file in made), summary=tuple(job.summary))


def default_target() -> str:
    """Return the target of a build that names none: TensorRT where it and its GPU are, else this CPU."""
    if gpu_facts() is not None:
        for runtime in (EngineRuntime.TENSORRT, EngineRuntime.RTX):
            with suppress(HasnEdgeError):
                find_module(runtime)
                return str(runtime.value)
    return EngineRuntime.CPU.value


def _engine(
    job: Job,
    wanted: Precision,
    target: EngineTarget,
    capabilities: Capabilities,
    folder: Path,
    *,
    method: Int8Method,
    rebuild: bool,
) -> Built:
    """Build an engine, or return the one in ``folder`` that was built of the very same."""
    legacy = method is Int8Method.CALIBRATOR
    if legacy and not capabilities.calibrator:
        raise UnsupportedError(
            f"{capabilities.title} has no calibrator; use the method qdq, which serves all"
        )
    form = Form.WEAK if legacy else Form(capabilities.form)
    # Weak graphs are FP32, or FP32 with Q/DQ: FP16 comes from a builder flag.
    by_flag = form is Form.WEAK and (legacy or wanted is Precision.FP16)
    precision, size = Precision.FP32 if by_flag else wanted, target.shapes.size
    calibrator = job.calibrator() if legacy else None
    key = engine_key(
        job.identity(form, precision, size),
        target,
        precision=wanted,
        capabilities=capabilities,
        gpu=gpu_facts(),
        calibration=calibrator.fingerprint if calibrator else None,
    )
    if not rebuild and (found := lookup(folder, key)) is not None:
        return Built(artifacts=(found,), summary=(f"{found.path.name}: nothing changed since it was built",))
    graph = job.graph(form, precision, size=size, suffix=f"-{form.value}")
    # What a flag makes of an FP32 graph is foreseen by the graph whose tensors have that type.
    emulated = job.graph(Form.STRONG, wanted, size=size, suffix="-strong") if by_flag else None
    engine = job.engine(
        graph,
        target,
        precision=wanted,
        emulated=emulated,
        details={KEY: key},
        cache=folder / "cache",
        calibrator=calibrator,
    )
    published = job.publish(graph, folder), job.publish(engine, folder)
    return Built(artifacts=published, summary=tuple(job.summary))
