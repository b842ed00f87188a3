"""The ``export`` verb."""

from __future__ import annotations

from pathlib import Path

import click

from hasn_edge.cli.common import SIZE, chosen_model, model_option, output_option, status


@click.command("export")
@model_option
@click.option(
    "--format",
    "kind",
    type=click.Choice(["onnx", "torchscript"]),
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
    "--opset",
    type=click.IntRange(17, 20),
    default=None,
    help="ONNX opset, 17 or 20.  [default: 17 for FP32, 20 for FP16]",
)
@output_option
def command(
    model: str | None,
    kind: str,
    precision: str,
    size: tuple[int, int] | None,
    opset: int | None,
    output: Path,
) -> None:
    """Write a model as ONNX or TorchScript.

    The file is run and compared with PyTorch before it appears under its name; its sidecar
    (FILE.json) says what it was made from. The path is printed.

    \b
    Examples:
      hasn-edge export --format onnx
      hasn-edge export --format torchscript --precision fp16 -o out/
      hasn-edge export --model net.pth --size 320x180
    """
    from hasn_edge.pipeline import export

    with status("exporting") as update:
        artifact = export(
            chosen_model(model),
            format=kind,
            precision=precision,
            opset=opset,
            size=size,
            output=output,
            progress=update,
        )
    click.echo(str(artifact.path))
