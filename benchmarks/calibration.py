"""What calibration images do: drift on the budget's two parts by what the ranges were measured on.

    python benchmarks/calibration.py --model HASN.pth --originals DIR

The default recipe in exact Q/DQ arithmetic. Beside the patches that ship: some of them, darkened, and images
that nobody should calibrate on. ``--originals`` are high-resolution images, fed as they are.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from result_files import origin, publish

from hasn_edge.data.calibration import CalibrationData, load_calibration, load_folder
from hasn_edge.data.pairs import held_out_sets
from hasn_edge.evaluation.evaluate import drift, score_images
from hasn_edge.exporters.onnx_graph import Emulator
from hasn_edge.files import shipped_path
from hasn_edge.images.listing import find_images
from hasn_edge.model.zoo import load_model_checkpoint, model_name
from hasn_edge.pipeline.graph_exporter import GraphExporter
from hasn_edge.quantize.ranges import shares_outside
from hasn_edge.quantize.recipe import load_quant_recipe
from hasn_edge.sidecar import Form
from hasn_edge.spec import Precision


def sources(originals: Path | None) -> Iterator[tuple[str, CalibrationData]]:
    """Yield what is calibrated on, by name."""
    shipped = load_calibration()
    names = [path.name for path in find_images([shipped_path("calibration", "patches")])]
    photographs = tuple(
        patch for patch, name in zip(shipped.patches, names, strict=True) if not name.startswith("drawn")
    )
    yield "the 44 patches that ship", shipped
    yield "the 32 of photographs", CalibrationData("photographs", photographs)
    yield (
        "the 12 drawn ones",
        CalibrationData("drawn", tuple(p for p in shipped.patches if all(p is not q for q in photographs))),
    )
    yield "one photograph (8 patches)", CalibrationData("one", photographs[:8])
    yield "one patch of 33 x 33", CalibrationData("small", (photographs[0][:33, :33].copy(),))
    yield (
        "photographs at night (a sixth of the light)",
        CalibrationData("dark", tuple((patch // 6).astype(np.uint8) for patch in photographs)),
    )
    yield "flat gray", CalibrationData("gray", (np.full((64, 64, 3), 128, np.uint8),))
    if originals is not None:
        yield "high-resolution originals", load_folder(originals, limit=32)


@click.command(help=__doc__)
@click.option("--model", required=True, help="Bundled name or weights file.")
@click.option("--originals", type=click.Path(path_type=Path), help="Folder of high-resolution images.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(model: str, originals: Path | None, output: Path) -> None:
    """Measure, print, write."""
    checkpoint, recipe = load_model_checkpoint(model), load_quant_recipe()
    parts = held_out_sets(checkpoint.spec.scale)
    run = Emulator(GraphExporter(checkpoint).fp32(), exact=False).run
    reference = [score_images(run, part) for part in parts]
    lines = [
        f"# Calibration images of {model_name(model)}, default recipe",
        "",
        f"| ranges measured on | {' | '.join(f'{part.name} | outside' for part in parts)} |",
        "|---|---|---|---|---|",
    ]
    for name, data in sources(originals):
        exporter = GraphExporter.for_int8(checkpoint, (), data, recipe)
        ranges = exporter.measure_ranges(data, recipe)
        graph = exporter.export(Form.WEAKLY_TYPED, Precision.INT8, ranges=ranges, recipe=recipe)
        emulate = Emulator(graph, exact=True).run
        cells = []
        for before, part in zip(reference, parts, strict=True):
            lost = drift(before, score_images(emulate, part))
            shares = shares_outside(exporter.fp32(), ranges, (pair.lr() for pair in part))
            cells += [
                f"{lost.dpsnr:+.4f} ({lost.worst_image} {lost.worst_dpsnr:+.3f})",
                f"{max(shares.values()):.1%}",
            ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        click.echo(lines[-1], err=True)
    notes = [
        "dPSNR-Y in dB against FP32 and the worst image, exact Q/DQ arithmetic; outside: the largest share "
        "of a convolution's input outside its range (a build refuses more than 5 %).",
        *origin(),
    ]
    text = "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])
    publish(text, output, f"calibration_{model_name(model)}_{datetime.date.today():%Y%m}")


if __name__ == "__main__":
    main()
