"""The ``export`` verb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hasn_edge.cli.common import (
    SIZE,
    chosen_model,
    describe_artifact,
    force_option,
    is_given,
    model_option,
    name_option,
    options_given,
    output_option,
)
from hasn_edge.cli.terminal import say, status, write_results


@click.command("export")
@model_option
@click.option(
    "--artifact",
    type=click.Path(path_type=Path),
    default=None,
    help="Triton: a finished .onnx or TensorRT .engine file instead of --model.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["onnx", "pt2", "aoti", "torchscript", "triton", "bundle"]),
    default="onnx",
    show_default=True,
    help="What to write.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Number format; INT8 is made by 'build'.",
)
@click.option("--size", type=SIZE, default=None, help="Fix the input size.  [default: any size]")
@click.option(
    "--batch",
    type=click.IntRange(1, 64),
    default=1,
    metavar="N",
    help="Take any number of images at a time; Triton joins requests up to N.  [default: 1]",
)
@click.option(
    "--opset",
    type=click.IntRange(17, 20),
    default=None,
    help="ONNX opset, 17 to 20.  [default: 17 for FP32, 20 for FP16]",
)
@click.option(
    "--backend",
    type=click.Choice(["python", "onnxruntime", "tensorrt"]),
    default=None,
    help="Triton: what runs the file; python is our session, for any file and size.  [default: by file]",
)
@output_option
@name_option
@force_option
@click.pass_context
def command(
    context: click.Context,
    model: str | None,
    artifact: Path | None,
    kind: str,
    precision: str,
    size: tuple[int, int] | None,
    batch: int,
    opset: int | None,
    backend: str | None,
    name: str | None,
    force: bool,
    output: Path,
) -> None:
    """Write a model as ONNX, for PyTorch, or for NVIDIA Triton Inference Server.

    The file is run and compared with PyTorch before it appears under its name; its sidecar
    (FILE.json) states what it was made from. The path is printed.

    For PyTorch there are pt2 (torch.export: runs wherever PyTorch does), aoti (compiled by AOTInductor
    for this machine; needs g++ and minutes) and torchscript, which PyTorch is giving up.

    A bundle is a folder (default: bundle) of graphs that a board builds its engines from, without
    PyTorch: hasn-edge build --from DIR.

    With --format triton, -o is the model repository (default: triton), to which the model is added, or
    a further version of it. --artifact takes an INT8 graph or a TensorRT engine that 'build' made.

    \b
    Examples:
      hasn-edge export --format onnx
      hasn-edge export --format pt2 --precision fp16 -o out/
      hasn-edge export --model net.pth --size 320x180
      hasn-edge export --format bundle -o for-the-board
      hasn-edge export --format triton --precision fp16 --batch 8
      hasn-edge export --format triton --backend python \\
        --artifact engines/net-int8-cpu.onnx
      hasn-edge export --format triton --name net \\
        --artifact engines/net-int8-tensorrt.engine
    """
    from hasn_edge.artifact import load_artifact
    from hasn_edge.pipeline.api import export, export_triton

    if kind == "bundle":
        _export_bundle(context, model, name, output, force=force)
        return
    if kind != "triton" and artifact is not None:
        raise click.UsageError("--artifact goes with --format triton")
    if kind != "triton" and backend is not None:
        raise click.UsageError("--backend goes with --format triton")
    if kind == "triton" and force:
        raise click.UsageError("--format triton adds a version and replaces none; leave out --force")
    clash = options_given(context, ("model", "precision", "size", "batch", "opset"))
    if artifact is not None and clash:
        raise click.UsageError(f"--artifact is a finished file; leave out {clash[0]}")
    if kind == "triton" and not is_given(context, "output"):
        output = Path("triton")  # 'engines' may hold folders that the server would take for models
    wanted: dict[str, Any] = {"precision": precision, "opset": opset, "size": size, "batch": batch}
    wanted["output"] = output
    with status("exporting") as update:
        if kind == "triton":
            source = chosen_model(model) if artifact is None else load_artifact(artifact)
            made = export_triton(source, name=name, backend=backend, progress=update, **wanted)
        else:
            made = export(chosen_model(model), format=kind, name=name, force=force, progress=update, **wanted)
    write_results(lambda: {"artifacts": [describe_artifact(made)]}, lambda: say(str(made.path)))


def _export_bundle(
    context: click.Context, model: str | None, name: str | None, output: Path, *, force: bool
) -> None:
    from hasn_edge.pipeline.bundle import export_bundle

    clash = options_given(context, ("artifact", "precision", "size", "batch", "opset", "backend"))
    if clash:
        raise click.UsageError(f"a bundle has all precisions, for any size; leave out {clash[0]}")
    folder = output if is_given(context, "output") else Path("bundle")
    with status("exporting") as update:
        made = export_bundle(chosen_model(model), folder, name=name, force=force, progress=update)
    write_results(lambda: {"bundle": str(made)}, lambda: say(str(made)))
