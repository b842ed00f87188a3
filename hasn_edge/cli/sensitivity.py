"""The ``sensitivity`` verb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hasn_edge.cli.build import calibration_option, cost_option, evaluation_option
from hasn_edge.cli.common import (
    SIZE,
    NamesOption,
    chosen_model,
    model_option,
    output_option,
    quant_recipe_option,
    target_names,
)
from hasn_edge.cli.tables import print_table
from hasn_edge.cli.terminal import console, note, status, write_results


@click.command("sensitivity")
@model_option
@quant_recipe_option("What may become INT8, and how", default="search")
@click.option(
    "--target",
    cls=NamesOption,
    names=target_names,
    default="cpu",
    show_default=True,
    metavar="NAME|FILE",
    help="What INT8 shall save something on: {names}, or a target file.",
)
@cost_option
@click.option("--size", type=SIZE, default=None, help="Input size.  [default: the target's]")
@calibration_option
@evaluation_option
@click.option(
    "--html", "html_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the table as a page."
)
@output_option
def command(model: str | None, html_path: Path | None, **options: Any) -> None:
    """Measure what INT8 of each group of convolutions costs in dB, and what it saves: MACs, bytes or time.

    Each group is quantized alone and run as exact Q/DQ arithmetic on the held-out images. Measurements
    are kept in the output folder's cache, so that this can be interrupted, and a build for a CPU with
    --max-drop goes on from them.

    \b
    Examples:
      hasn-edge sensitivity
      hasn-edge sensitivity --model HASN.pth --evaluation mine/ --html costs.html
      hasn-edge sensitivity --target rtx --size 320x180
    """
    from hasn_edge.files import require_writable
    from hasn_edge.pipeline.context import BuildOptions
    from hasn_edge.pipeline.placement import (
        CONVENTIONS,
        measure_costs,
        sensitivity_page,
        sensitivity_rows,
    )

    if html_path is not None:
        require_writable(html_path)  # measuring takes minutes
    name = chosen_model(model)
    with status("measuring") as update:
        groups, saving, notes = measure_costs(BuildOptions(model=name, precision="int8", **options), update)
    for line in notes:
        note(line)
    title = f"INT8 of one group of convolutions at a time: {Path(name).name}"
    heading, *rows = sensitivity_rows(groups, saving)
    write_results(
        lambda: {
            "model": name,
            "saving": saving.value,
            "groups": [
                {
                    "name": group.name,
                    "share": group.gain,
                    "loss_db": {
                        part.name: {"mean": part.mean, "worst": part.worst} for part in group.loss.parts
                    },
                }
                for group in groups
            ],
        },
        lambda: print_table(console(), [title, *CONVENTIONS], heading, rows),
        [(html_path, lambda: sensitivity_page(groups, title, saving))],
    )
