"""The ``build`` verb."""

from __future__ import annotations

from pathlib import Path

import click

from hasn_edge.cli.common import SIZE, chosen_model, model_option, output_option, status


@click.command("build")
@model_option
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp16",
    show_default=True,
    help="Number format of the result.",
)
@click.option(
    "--target",
    default="cpu",
    show_default=True,
    metavar="NAME|FILE",
    help="What to build for: cpu, portable (the graphs that TensorRT 8.5 to 11 read), rtx, or a target file.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR|MANIFEST",
    help="Your own pictures for INT8 ranges.  [default: the patches that ship]",
)
@click.option(
    "--recipe",
    default="default",
    show_default=True,
    metavar="NAME|FILE",
    help="INT8 recipe: default, conservative, div2k, or a TOML file.",
)
@click.option("--size", type=SIZE, default=None, help="Fix the input size.  [default: any size]")
@click.option(
    "--pixels",
    is_flag=True,
    help="Take and give 8-bit pixels (NHWC uint8): conversion inside, a quarter of the bytes to copy.",
)
@output_option
def command(
    model: str | None,
    precision: str,
    target: str,
    calibration: Path | None,
    recipe: str,
    size: tuple[int, int] | None,
    pixels: bool,
    output: Path,
) -> None:
    """Build an artefact or engine, and refuse to publish one that misses its quality budget.

    INT8 ranges are measured on the processor, written into the graph, and the very graph that the
    engine is made of is run on pictures that were not used for calibration. A missed budget writes
    nothing, names the costliest layers and exits with 3. The path of each file is printed.

    \b
    Examples:
      hasn-edge build --precision int8
      hasn-edge build --precision int8 --target rtx --size 320x180
      hasn-edge build --precision int8 --calibration photos/ --recipe conservative
    """
    from hasn_edge.pipeline import build

    with status("building") as update:
        built = build(
            chosen_model(model),
            precision=precision,
            target=target,
            calibration=calibration,
            recipe=recipe,
            size=size,
            pixels=pixels,
            output=output,
            progress=update,
        )
    for line in built.summary:
        click.echo(line, err=True)
    for artifact in built.artifacts:
        click.echo(str(artifact.path))
