"""What the verbs ``export`` and ``build`` call: from a model to published files, or to nothing at all."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hasn_edge.artifact import Artifact, load_artifact
from hasn_edge.errors import UnsupportedError, call, omit, use
from hasn_edge.files import naming_errors, require_writable
from hasn_edge.model.zoo import model_name
from hasn_edge.optional import require
from hasn_edge.pipeline.autotune import autotune
from hasn_edge.pipeline.build import Built, build_one
from hasn_edge.pipeline.bundle import is_finished, name_and_source
from hasn_edge.pipeline.context import (
    AUTO,
    BuildOptions,
    ImageSize,
    load_context,
    publish_file,
    refuse_other_sources,
)
from hasn_edge.pipeline.graph_exporter import STRONGLY_TYPED_OPSET
from hasn_edge.pipeline.variants import Variants
from hasn_edge.progress import Progress, ignore
from hasn_edge.sidecar import Form
from hasn_edge.spec import Precision

FORMATS = ("onnx", "pt2", "aoti", "torchscript", "triton")
"""What :func:`export` writes."""

_PYTORCH = {"pt2": "pt2 files", "aoti": "aoti files", "torchscript": "TorchScript files"}


def export(
    model: str | Path,
    *,
    format: str = "onnx",
    precision: str = "fp32",
    opset: int | None = None,
    size: ImageSize | None = None,
    batch: int = 1,
    output: str | Path = "engines",
    name: str | None = None,
    force: bool = False,
    progress: Progress = ignore,
) -> Artifact:
    """Write a model as ONNX or as a file of PyTorch after comparing it with PyTorch.

    Args:
        model: Bundled name, ``.safetensors`` or ``.pth``.
        format: ``"onnx"``; ``"pt2"`` for a program of ``torch.export``, which any machine with PyTorch runs;
            ``"aoti"`` for what AOTInductor compiles of it for this machine, its GPU where PyTorch sees one;
            ``"torchscript"``, which PyTorch is giving up; or ``"triton"`` for an ONNX graph in a model
            repository of NVIDIA Triton Inference Server, which ``output`` then is.
        precision: ``"fp32"`` or ``"fp16"``; input and output are float32 either way.
        opset: ONNX opset from 17 to 20; 17 for FP32 and 20 for FP16 where ``None``.
        size: The one (height, width) in pixels that the file takes; any size where ``None``.
        batch: Images that the file takes at a time, at most. More than one make a graph that takes any
            number and any size; a server for it takes this number as its limit.
        output: Folder.
        name: What the file's name begins with, or what Triton's clients call the model; the model's own
            where ``None``.
        force: Replace a file of that name that was made of other weights.
        progress: Receives what is under way.

    Raises:
        UnsupportedError: an unknown format, or a precision, opset or batch that it does not have.
        VerificationError: the file's output is not the network's; nothing was written.
        OutputError: a file of that name was made of other weights, and ``force`` is false.
        HasnEdgeError: the model cannot be loaded or the folder not written.
    """
    wanted = Precision.parse(precision)
    if batch < 1:
        raise UnsupportedError(f"batch is {batch}; expected the number of images, from 1 on", omit("batch"))
    require_writable(Path(output), folder=True)
    if wanted is Precision.INT8:
        raise UnsupportedError(
            "export writes fp32 and fp16; INT8 needs calibration", call("build", precision="int8")
        )
    if format in _PYTORCH:
        words = _PYTORCH[format]
        if opset is not None:
            raise UnsupportedError(f"{words} have no opset", omit("opset"), use(format="onnx"))
        if size is not None:
            raise UnsupportedError(f"{words} take any size", omit("size"), use(format="onnx"))
        if batch != 1:
            raise UnsupportedError(f"{words} take any number of images", omit("batch"))
    elif format == "triton":
        return export_triton(
            model,
            precision=precision,
            opset=opset,
            size=size,
            batch=batch,
            name=name,
            output=output,
            progress=progress,
        )
    elif format != "onnx":
        names = ", ".join(FORMATS)
        raise UnsupportedError(f"unknown format {format!r}; choose one of: {names}")
    elif wanted is Precision.FP16 and opset not in (None, STRONGLY_TYPED_OPSET):
        raise UnsupportedError(
            f"FP16 tensors need opset {STRONGLY_TYPED_OPSET}; opset {opset} was asked for",
            omit("opset"),
            use(precision="fp32"),
        )
    refuse_other_sources(model, Path(output), called=name, force=force)
    variants = Variants(load_context(model, batch=(1, batch), called=name, progress=progress), progress)
    if format == "torchscript":
        file = variants.make_torchscript(wanted)
    elif format in _PYTORCH:
        file = variants.make_program(wanted, compiled=format == "aoti")
    else:
        file = variants.make_graph(Form.CPU, wanted, size=size, opset=opset, suffix="")
    return publish_file(variants.context, file, Path(output), progress)


def export_triton(
    model: str | Path | Artifact,
    *,
    precision: str = "fp32",
    opset: int | None = None,
    size: ImageSize | None = None,
    batch: int = 1,
    name: str | None = None,
    backend: str | None = None,
    output: str | Path = "triton",
    progress: Progress = ignore,
) -> Artifact:
    """Add a model to a model repository of NVIDIA Triton Inference Server.

    Args:
        model: What :func:`export` takes, or a graph or TensorRT engine that was published before.
        precision: Of a model that is exported here.
        opset: Likewise.
        size: Likewise.
        batch: Likewise; from 2 on the server joins requests.
        name: What clients call it; the file's name where ``None``.
        backend: The server's part that runs it: ``"onnxruntime"``, ``"tensorrt"``, or ``"python"`` for
            hasn-edge's own session, which takes any file and any size; by the kind of file where ``None``.
        output: The repository's folder.
        progress: Receives what is under way.

    Returns:
        The file in the repository.

    Raises:
        UnsupportedError: the server cannot run the file.
        HasnEdgeError: see :func:`export` and :func:`hasn_edge.exporters.triton.repository.triton_repository`.
    """
    require("onnx", extra="export", needed_for="Writing a Triton model repository")
    from hasn_edge.exporters.triton.pbtxt import ONNX_RUNTIME, PYTHON, require_model_name
    from hasn_edge.exporters.triton.repository import model_file, triton_repository

    if isinstance(model, Artifact):
        return load_artifact(model_file(triton_repository(model, output, name=name, backend=backend)))
    require_model_name(name or model_name(model))  # now and not when all is exported
    if backend not in (None, ONNX_RUNTIME.name, PYTHON.name):
        raise UnsupportedError(
            f"a model is exported as a graph, which Triton's backend {backend!r} does not run",
            use(backend=ONNX_RUNTIME.name),
            use(backend=PYTHON.name),
        )
    with (
        naming_errors(Path(tempfile.gettempdir())),
        tempfile.TemporaryDirectory(prefix="hasn-edge-export-") as folder,
    ):
        made = export(
            model,
            precision=precision,
            opset=opset,
            size=size,
            batch=batch,
            output=folder,
            progress=progress,
        )
        return export_triton(made, name=name, backend=backend, output=output)


def build(
    model: str | Path,
    *,
    precision: str = "fp16",
    target: str | Path | None = None,
    calibration: str | Path | None = None,
    evaluation: str | Path | None = None,
    recipe: str | Path = "default",
    max_drop: float | None = None,
    cost: str | None = None,
    finetune: str | None = None,
    max_latency: float | None = None,
    size: ImageSize | None = None,
    dynamic: tuple[ImageSize, ImageSize, ImageSize] | None = None,
    batch: int | None = None,
    pixels: bool = False,
    int8_method: str = "qdq",
    rebuild: bool = False,
    output: str | Path = "engines",
    name: str | None = None,
    force: bool = False,
    progress: Progress = ignore,
) -> Built:
    """Build what runs on a target, within a quality budget.

    The arguments are the attributes of :class:`~hasn_edge.pipeline.context.BuildOptions`, which describes
    them; ``progress`` receives what is under way.

    Raises:
        VerificationError: the budget was missed; the message names the costliest layers.
        OutputError: files of that name were made of other weights, and ``force`` is false.
        HasnEdgeError: see the message; nothing half-written stays.
    """
    options = BuildOptions(
        model=model,
        precision=precision,
        target=target,
        calibration=calibration,
        evaluation=evaluation,
        recipe=recipe,
        max_drop=max_drop,
        cost=cost,
        finetune=finetune,
        max_latency=max_latency,
        size=size,
        dynamic=dynamic,
        batch=batch,
        pixels=pixels,
        int8_method=int8_method,
        rebuild=rebuild,
        output=output,
        name=name,
        force=force,
    )
    return build_from(options, progress)


def build_from(options: BuildOptions, progress: Progress = ignore) -> Built:
    """Build what ``options`` describe; see :func:`build`."""
    require_writable(Path(options.output), folder=True)
    name, source = name_and_source(options.model) if is_finished(options.model) else (options.name, None)
    refuse_other_sources(options.model, Path(options.output), called=name, force=options.force, source=source)
    if options.cost is not None and options.max_drop is None:
        raise UnsupportedError("cost is what a search saves", use(max_drop=0.03), omit("cost"))
    if options.finetune is not None and options.precision != Precision.INT8.value:
        raise UnsupportedError(
            f"finetune adapts weights to INT8; the precision asked for is {options.precision}",
            use(precision="int8"),
            omit("finetune"),
        )
    if options.finetune is not None and options.calibrator:
        raise UnsupportedError(
            "finetune learns ranges with the weights, and the calibrator chooses its own",
            use(int8_method="qdq"),
            omit("finetune"),
        )
    if options.precision == AUTO:
        return autotune(options, progress)
    if options.max_latency is not None:
        raise UnsupportedError(
            f"max_latency chooses among precisions; the one asked for is {options.precision}",
            use(precision=AUTO),
            omit("max_latency"),
        )
    for_int8 = {
        "recipe": str(options.recipe) != "default",
        "calibration": options.calibration is not None,
        "max_drop": options.max_drop is not None,
    }
    given = [name for name, is_given in for_int8.items() if is_given]
    if options.precision != Precision.INT8.value and given:
        raise UnsupportedError(
            f"only INT8 takes {', '.join(given)}; the precision asked for is {options.precision}",
            use(precision="int8"),
            omit(*given),
        )
    return build_one(options, progress=progress)
