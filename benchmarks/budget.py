"""Whether the budget's images predict what INT8 loses elsewhere: drift by recipe on both, and their ranks.

    python benchmarks/budget.py --model HASN.pth --model hasn-x4 --data Set5=DIR --data Set14=DIR

Every recipe is measured in exact Q/DQ arithmetic on the two parts that a build is held to and on the sets
that are given. Networks are prepared once and ranges measured for each recipe, on the patches that ship.
"""

from __future__ import annotations

import datetime
from dataclasses import replace
from itertools import product
from pathlib import Path

import click
import numpy as np
from result_files import origin, publish

from hasn_edge.data.calibration import load_calibration
from hasn_edge.data.pairs import EvalSet, held_out_sets, load_eval_set
from hasn_edge.evaluation.evaluate import Drift, drift, score_images
from hasn_edge.exporters.onnx_graph import Emulator
from hasn_edge.model.zoo import load_model_checkpoint, model_name
from hasn_edge.pipeline.graph_exporter import GraphExporter
from hasn_edge.quantize.graph import convolutions, mac_share
from hasn_edge.quantize.recipe import load_quant_recipe
from hasn_edge.sidecar import Form
from hasn_edge.spec import Precision

RECIPES = ("conservative", "default", "extensive", "search")
"""The last one selects whatever a search may choose from."""


def measure(model: str, recipes: tuple[str, ...], given: tuple[str, ...]) -> list[tuple[str, list[Drift]]]:
    """Return the drift of each recipe on the budget's parts and on the sets that are given."""
    checkpoint = load_model_checkpoint(model)
    scale = checkpoint.spec.scale
    sets: list[EvalSet] = [*held_out_sets(scale), *(load_eval_set(each, scale) for each in given)]
    data, everything = load_calibration(), replace(load_quant_recipe("search"), keep_float=())
    exporter = GraphExporter.for_int8(checkpoint, (), data, everything)
    names = [conv.name for conv in convolutions(exporter.fp32())]
    run = Emulator(exporter.fp32(), exact=False).run
    reference = [score_images(run, each) for each in sets]
    rows = []
    loaded = {**{name: load_quant_recipe(name) for name in recipes}, "everything": everything}
    for name, recipe in loaded.items():
        ranges = exporter.measure_ranges(data, recipe)
        graph = exporter.export(Form.WEAKLY_TYPED, Precision.INT8, ranges=ranges, recipe=recipe)
        run = Emulator(graph, exact=True).run
        lost = [drift(before, score_images(run, each)) for before, each in zip(reference, sets, strict=True)]
        share = mac_share(exporter.fp32(), recipe.select(names))
        rows.append((f"{model_name(model)}, {Path(name).stem}, {share:.1%}", lost))
        click.echo(f"{rows[-1][0]}: " + ", ".join(_cell(each) for each in lost), err=True)
    return rows


def ranks(rows: list[tuple[str, list[Drift]]]) -> list[str]:
    """Return Spearman's rank correlation of each part of the budget with each other set, a line each."""
    losses = np.array([[each.dpsnr for each in lost] for _, lost in rows])
    order = losses.argsort(0).argsort(0)
    correlation = np.corrcoef(order.T)
    names = [each.name for each in rows[0][1]]
    return [
        f"rank correlation of {names[part]} with {names[other]}: {correlation[part, other]:.2f}"
        for part, other in product(range(2), range(2, len(names)))
    ]


def _cell(lost: Drift) -> str:
    return f"{lost.dpsnr:+.4f} ({lost.worst_image} {lost.worst_dpsnr:+.3f})"


@click.command(help=__doc__)
@click.option("--model", "models", multiple=True, required=True, help="Bundled name or weights; repeatable.")
@click.option("--recipe", "more", multiple=True, help="A further recipe's file; repeatable.")
@click.option("--data", multiple=True, help="NAME=DIR of an evaluation set; repeatable.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(models: tuple[str, ...], more: tuple[str, ...], data: tuple[str, ...], output: Path) -> None:
    """Measure, print, write."""
    rows = [row for model in models for row in measure(model, (*RECIPES, *more), data)]
    names = [each.name for each in rows[0][1]]
    lines = [
        "# What the budget's images predict",
        "",
        f"| network, recipe, MACs in INT8 | {' | '.join(names)} |",
    ]
    lines.append("|---" * (len(names) + 1) + "|")
    lines += [f"| {label} | {' | '.join(map(_cell, lost))} |" for label, lost in rows]
    notes = [
        *ranks(rows),
        "dPSNR-Y in dB against FP32 and the worst image; 8-bit rounded output, Y of BT.601 studio range, a "
        "border of the scale cut; exact Q/DQ arithmetic in the weakly typed graph.",
        *origin(),
    ]
    text = "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])
    publish(text, output, f"budget_{datetime.date.today():%Y%m}")


if __name__ == "__main__":
    main()
