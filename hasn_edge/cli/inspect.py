"""The ``inspect`` verb."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hasn_edge.cli.common import SIZE, NamesOption, target_names
from hasn_edge.cli.tables import print_table
from hasn_edge.cli.terminal import console, note, say, status, write_results

if TYPE_CHECKING:
    from hasn_edge.pipeline.inspection import Change, Figure, Inspection

SHOWN = 8
"""Layers that are printed without ``--layers``: the heaviest."""


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path), required=False, metavar="[FILE2]")
@click.option("--layers", is_flag=True, help="Print every kernel or convolution; of two files, each change.")
@click.option(
    "--size",
    type=SIZE,
    default=None,
    help="Look at a graph that takes any size with this one.  [default: 320x180]",
)
@click.option(
    "--target",
    cls=NamesOption,
    names=target_names,
    default=None,
    metavar="NAME|FILE",
    help="Compile a graph for this target and look at its kernels; rtx needs no GPU.",
)
def command(
    file: Path,
    other: Path | None,
    layers: bool,
    size: tuple[int, int] | None,
    target: str | None,
) -> None:
    """Show what a built engine or graph does, layer by layer; of two files, the difference.

    An engine: its kernels, the bytes that they move (read and write) for one image, the memory that they
    need, and the types that its convolutions compute in. They are in its sidecar; an engine of version
    0.1 is compiled again from its graph, or asked on its GPU. A graph: its convolutions, their
    multiply-accumulates and activations, and the share in INT8. MB are 10^6 bytes, of whole tensors.

    \b
    Examples:
      hasn-edge inspect engines/hasn-x4-fp16-rtx.engine
      hasn-edge inspect fp16.engine int8.engine --layers
      hasn-edge inspect engines/hasn-x4-int8-cpu.onnx --json graph.json
      hasn-edge inspect engines/hasn-x4-fp16-strongly-typed.onnx --target rtx
    """
    from hasn_edge.pipeline.inspection import compare_files, inspect_file

    with status("reading") as update:
        found = [
            inspect_file(path, size=size, target=target, progress=update)
            for path in filter(None, (file, other))
        ]
    if len(found) == 1:
        write_results(found[0].to_dict, lambda: _print_one(found[0], everything=layers))
        return
    changes = compare_files(found[0], found[1])
    write_results(
        lambda: {
            "files": [one.to_dict() for one in found],
            "difference": {change.name: change.difference for change in changes},
        },
        lambda: _print_two(found[0], found[1], changes, layers=layers),
    )


def _print_one(found: Inspection, *, everything: bool) -> None:
    rows = [[figure.name, _text(figure)] for figure in found.figures]
    print_table(console(), [found.title], ["", ""], rows)
    chosen = found.layers
    title = f"every {found.layer}, as it runs"
    if not everything:
        chosen = tuple(sorted(found.layers, key=lambda layer: -layer.weight)[:SHOWN])
        title = f"the {len(chosen)} heaviest of {len(found.layers)} {found.layer}s"
    names = [figure.name for figure in chosen[0].figures] if chosen else []
    table = [[layer.name, layer.types, *(_text(figure) for figure in layer.figures)] for layer in chosen]
    print_table(console(), [title], ["", "types", *names], table)
    _print_remarks(found)
    if not everything and len(found.layers) > SHOWN:
        note(f"--layers prints all {len(found.layers)}")


def _print_two(before: Inspection, after: Inspection, changes: Sequence[Change], *, layers: bool) -> None:
    from hasn_edge.pipeline.inspection import compare_layers

    headings = ["", "first", "second", "difference"]
    print_table(console(), [before.title, after.title], headings, [_row(change) for change in changes])
    if layers:
        rows = [_row(change) for change in compare_layers(before, after)]
        print_table(console(), [f"each {before.layer} that differs"], headings, rows)
    for one in (before, after):
        _print_remarks(one)


def _print_remarks(found: Inspection) -> None:
    for text in found.remarks:
        say(f"- {found.path.name}: {text}")


def _row(change: Change) -> list[str]:
    values = (change.before, change.after)
    cells = [_number(value, change.unit) for value in values]
    difference = change.difference
    text = "-" if difference is None else _number(difference, change.unit, sign="+")
    if difference and change.before and change.unit != "of all":
        text += f" ({difference / change.before:+.1%})"
    return [change.name, *cells, text]


def _text(figure: Figure) -> str:
    return _number(figure.value, figure.unit)


def _number(value: float | None, unit: str, *, sign: str = "") -> str:
    """Return a figure as text, its unit with it; ``-`` where it is not known."""
    if value is None:
        return "-"
    if unit == "of all":
        return f"{value:{sign}.1%}"
    scale, word, digits = {"bytes": (1e6, " MB", 1), "MACs": (1e9, " G", 3), "values": (1e6, " M", 2)}.get(
        unit, (1, "", 0)
    )
    return f"{value / scale:{sign},.{digits}f}{word}"
