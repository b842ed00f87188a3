"""What the verbs ``export`` and ``build`` call: from a model to published files, or to nothing at all."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hasn_edge.artifact import Artifact, load_artifact, output_error, require_writable
from hasn_edge.engine.capabilities import Form
from hasn_edge.errors import UnsupportedError
from hasn_edge.pipeline.autotune import build_fastest
from hasn_edge.pipeline.build import BuildOptions, Built, Int8Method, Size, build_one
from hasn_edge.pipeline.context import Job, Progress
from hasn_edge.pipeline.variants import STRONGLY_TYPED_OPSET
from hasn_edge.spec import Precision

AUTO = "auto"
"""The precision that is measured instead of chosen."""


def export(
    model: str | Path,
    *,
    format: str = "onnx",
    precision: str = "fp32",
    opset: int | None = None,
    size: tuple[int, int] | None = None,
    batch: int = 1,
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
        batch: Images that the file takes at a time, at most. More than one make a graph that takes any
            number and any size; a server for it is told this one as its limit.
        output: Folder.
        progress: Called with what is under way.

    Raises:
        UnsupportedError: an unknown format, or a precision or opset that it does not have.
        VerificationError: the file's output is not the network's; nothing was written.
        HasnEdgeError: the model cannot be loaded or the folder not written.
    """
    wanted = Precision.parse(precision)
    require_writable(Path(output, "graph"))
    if wanted is Precision.INT8:
        raise UnsupportedError("export writes fp32 and fp16; INT8 needs calibration: use hasn-edge build")
    if format == "torchscript":
        if opset is not None:
            raise UnsupportedError("TorchScript has no opset; leave out --opset, or export ONNX")
        if size is not None:
            raise UnsupportedError("TorchScript files take any size; leave out --size, or export ONNX")
        if batch != 1:
            raise UnsupportedError("TorchScript files take any number of images; leave out --batch")
        job = Job(model, progress=progress)
        return job.publish(job.torchscript(wanted), Path(output))
    if format == "triton":
        return export_triton(
            model, precision=precision, opset=opset, size=size, batch=batch, output=output, progress=progress
        )
    if format != "onnx":
        raise UnsupportedError(f"unknown format {format!r}; choose one of: onnx, torchscript, triton")
    if wanted is Precision.FP16 and opset not in (None, STRONGLY_TYPED_OPSET):
        raise UnsupportedError(f"FP16 tensors need opset {STRONGLY_TYPED_OPSET}; opset {opset} was asked for")
    job = Job(model, batch=(1, batch), progress=progress)
    return job.publish(job.graph(Form.CPU, wanted, size=size, opset=opset, suffix=""), Path(output))


def export_triton(
    model: str | Path | Artifact,
    *,
    precision: str = "fp32",
    opset: int | None = None,
    size: tuple[int, int] | None = None,
    batch: int = 1,
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
        batch: Likewise; from 2 on the server joins requests.
        name: What clients call it; the file's name where ``None``.
        output: The repository's folder.
        progress: Called with what is under way.

    Returns:
        The file in the repository.

    Raises:
        UnsupportedError: the server cannot run the file.
        HasnEdgeError: see :func:`export` and :func:`hasn_edge.exporters.triton.repository.triton_repository`.
    """
    from hasn_edge.exporters.triton.repository import model_file, triton_repository

    if isinstance(model, Artifact):
        return load_artifact(model_file(triton_repository(model, output, name=name)))
    try:
        with tempfile.TemporaryDirectory(prefix="hasn-edge-export-") as folder:
            made = export(
                model,
                precision=precision,
                opset=opset,
                size=size,
                batch=batch,
                output=folder,
                progress=progress,
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
    dynamic: tuple[Size, Size, Size] | None = None,
    batch: int | None = None,
    pixels: bool = False,
    int8_method: str = "qdq",
    rebuild: bool = False,
    output: str | Path = "engines",
    progress: Progress = lambda text: None,
) -> Built:
    """Build what runs on a target, within a quality budget.

    Args:
        model: Bundled name, ``.safetensors`` or ``.pth``.
        precision: ``"fp32"``, ``"fp16"``, ``"int8"``, or ``"auto"``: those that make sense are built and
            timed here, and the fastest that keeps its budget is published.
        target: ``"cpu"`` for the graph that ONNX Runtime runs here, ``"portable"`` for the weakly
            and the strongly typed graph that TensorRT 8.5 to 11 read, or an engine target by name or file;
            :func:`hasn_edge.pipeline.build.default_target` where ``None``.
        calibration: Images for INT8 ranges: a folder or a manifest; those of the recipe where ``None``.
        recipe: INT8 recipe by name or file.
        size: The one (height, width) in pixels; otherwise the target's shapes.
        dynamic: Smallest, ``opt`` (fastest) and largest (height, width) of an engine for a range of sizes.
        batch: Images at a time, at most: an engine takes 1 to so many, fastest at so many; a graph any
            number. The target's where ``None``, which is 1 but for a file that says otherwise.
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
    options = BuildOptions(
        target=target,
        calibration=calibration,
        recipe=recipe,
        size=size,
        dynamic=dynamic,
        batch=batch,
        pixels=pixels,
        int8_method=Int8Method.parse(int8_method),
        rebuild=rebuild,
    )
    require_writable(Path(output, "engine"))
    if precision == AUTO:
        return build_fastest(model, options, output=Path(output), progress=progress)
    wanted = Precision.parse(precision)
    if wanted is not Precision.INT8 and (calibration is not None or str(recipe) != "default"):
        raise UnsupportedError(
            f"recipe and calibration are for INT8; the precision asked for is {wanted.value}: add "
            "--precision int8, or leave them out"
        )
    return build_one(model, wanted, options, output=Path(output), progress=progress)
