"""The ``bench`` verb."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hasn_edge.cli.common import SIZE, chosen_model, console, model_option, status, threads_option


@click.command("bench")
@model_option
@click.option(
    "--artifact",
    "artifacts",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Bench this built file (.onnx, .ts) as well; repeatable. Without --precision, only these.",
)
@click.option("--device", type=click.Choice(["cpu"]), default="cpu", show_default=True, help="Where to run.")
@click.option(
    "--precision",
    "precisions",
    default=None,
    metavar="LIST",
    help="Comma-separated precisions to build and bench.  [default: fp32,fp16,int8]",
)
@click.option(
    "--data",
    multiple=True,
    metavar="[NAME=]DIR",
    help="Set of pictures for the quality figures; repeatable.  [default: the pictures that ship]",
)
@click.option(
    "--size", type=SIZE, default="320x180", show_default=True, help="Input size of the latency figures."
)
@click.option(
    "--runs",
    type=click.IntRange(2, 10000),
    default=20,
    show_default=True,
    help="Timed calls a case, at least.",
)
@click.option("--recipe", default="default", show_default=True, metavar="NAME|FILE", help="INT8 recipe.")
@click.option(
    "--tile", type=click.IntRange(32, 4096), default=None, help="Also report the drift of tiles of N pixels."
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write the report with every raw sample to FILE.",
)
@click.option(
    "--markdown",
    "markdown_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write the table as Markdown to FILE.",
)
@threads_option
def command(
    model: str | None,
    artifacts: tuple[Path, ...],
    device: str,
    precisions: str | None,
    data: tuple[str, ...],
    size: tuple[int, int],
    runs: int,
    recipe: str,
    tile: int | None,
    json_path: Path | None,
    markdown_path: Path | None,
    threads: int | None,
) -> None:
    """Measure latency, memory, quality and drift, and print one table.

    Every case runs in a process of its own and all are timed in turns, against the unfused FP32
    network in PyTorch, in the same run. What could not be measured is '-' with its reason.

    \b
    Examples:
      hasn-edge bench
      hasn-edge bench --precision fp32,int8 --data Set5=datasets/Set5 --markdown bench.md
      hasn-edge bench --artifact engines/hasn-x4-int8-cpu.onnx --size 640x360
    """
    from hasn_edge.artifact import writing
    from hasn_edge.bench.run import benchmark
    from hasn_edge.bench.table import markdown, notes, terminal_table

    if precisions is None:
        precisions = "" if artifacts else "fp32,fp16,int8"
    with status("preparing") as update:
        report = benchmark(
            chosen_model(model) if model or precisions or not artifacts else None,
            artifacts=artifacts,
            device=device,
            precisions=[p for p in precisions.split(",") if p],
            data=data,
            size=size,
            runs=runs,
            recipe=recipe,
            tile=tile,
            threads=threads,
            command="hasn-edge " + " ".join(sys.argv[1:]),
            progress=update,
        )
    console().print(terminal_table(report))
    for note in notes(report):
        click.echo(f"- {note}")
    click.echo("- machine: " + "; ".join(f"{k} {v}" for k, v in report.environment.items()))
    if json_path is not None:
        report.write_json(json_path)
        click.echo(str(json_path))
    if markdown_path is not None:
        with writing(markdown_path) as temporary:
            temporary.write_text(markdown(report), encoding="utf-8")
        click.echo(str(markdown_path))
