"""What INT8 costs: by recipe, form, preparation, observer and kind of convolution; exact Q/DQ arithmetic.

    python benchmarks/int8_sensitivity.py                                   # the bundled model and images
    python benchmarks/int8_sensitivity.py --model HASN.pth --data Set5=DIR --data Set14=DIR

Recipes and preparations are measured on every set, observers and kinds on the first one. Prints tables and
writes them to benchmarks/results/. Quality does not depend on how busy the machine is.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from onnx import ModelProto
from result_files import origin, write
from rich.console import Console
from rich.table import Table

from hasn_edge.data.calibration import CalibrationData, load_calibration
from hasn_edge.data.pairs import EvalSet, load_eval_set, shipped_eval_set
from hasn_edge.evaluation.evaluate import Scores, drift, score_images
from hasn_edge.exporters.onnx_graph import Emulator
from hasn_edge.fuse.apply import DEFAULT_RULES
from hasn_edge.hardware.host import describe_host
from hasn_edge.model.zoo import DEFAULT_MODEL, load_model_checkpoint, model_name
from hasn_edge.pipeline.graph_exporter import GraphExporter
from hasn_edge.quantize.fp16 import rounded_onnx_from_fp16
from hasn_edge.quantize.graph import convolutions, mac_share
from hasn_edge.quantize.observers import Observer
from hasn_edge.quantize.ranges import Ranges
from hasn_edge.quantize.recipe import QuantRecipe, load_quant_recipe
from hasn_edge.quantize.sensitivity import kind_of
from hasn_edge.sidecar import Form
from hasn_edge.spec import Precision

Row = dict[str, Any]

OBSERVERS = (
    {"observer": Observer.MINMAX},
    {"observer": Observer.PERCENTILE, "percentile": 99.9},
    {"observer": Observer.PERCENTILE, "percentile": 99.99},
    {"observer": Observer.PERCENTILE, "percentile": 99.999},
    {"observer": Observer.ENTROPY},
    {"observer": Observer.MSE, "error_power": 2.0},
    {"observer": Observer.MSE, "error_power": 2.4},
    {"observer": Observer.MSE, "error_power": 3.0},
)

FORMS: tuple[tuple[Form, tuple[str, ...], str], ...] = (
    (Form.WEAKLY_TYPED, (), "weakly typed (opset 17, FP32 tensors)"),
    (Form.STRONGLY_TYPED, (), "strongly typed (opset 20, FP16 tensors)"),
    (Form.CPU, DEFAULT_RULES["onnxruntime"], "for the CPU (fused)"),
)


def computed(graph: ModelProto, form: Form) -> ModelProto:
    """Return the graph that computes as the reader of ``form`` does: a GPU rounds every FP16 tensor."""
    return rounded_onnx_from_fp16(graph) if form is Form.STRONGLY_TYPED else graph


class Bench:
    """One network and its images; FP32 is measured once a set."""

    def __init__(self, model: str, sets: list[EvalSet], data: CalibrationData) -> None:
        self.checkpoint = load_model_checkpoint(model)
        self.plain = GraphExporter(self.checkpoint)
        self._prepared: dict[object, tuple[GraphExporter, Ranges]] = {}
        self.sets, self.data = sets, data
        self.names = [conv.name for conv in convolutions(self.plain.fp32())]
        run = Emulator(self.plain.fp32(), exact=False).run
        self.reference: dict[str, Scores] = {each.name: score_images(run, each) for each in sets}

    def share(self, recipe: QuantRecipe) -> float:
        """Return the part of the multiply-accumulates that a recipe puts into INT8."""
        return mac_share(self.plain.fp32(), recipe.select(self.names))

    def row(self, label: str, share: float, graph: ModelProto, sets: list[EvalSet]) -> Row:
        """Measure one graph on some sets."""
        run = Emulator(graph, exact=True).run
        lost = {each.name: drift(self.reference[each.name], score_images(run, each)) for each in sets}
        return {
            "label": label,
            "int8_mac_share": share,
            "sets": {
                name: {
                    "dpsnr_db": each.dpsnr,
                    "dssim": each.dssim,
                    "fidelity_db": each.fidelity_psnr if math.isfinite(each.fidelity_psnr) else None,
                    "worst_image": each.worst_image,
                    "worst_dpsnr_db": each.worst_dpsnr,
                }
                for name, each in lost.items()
            },
        }

    def int8(
        self, form: Form, rules: tuple[str, ...], recipe: QuantRecipe, measured: QuantRecipe
    ) -> ModelProto:
        """Return the graph of a recipe, with the network and the ranges of another that selects more."""
        key = (rules, measured)
        if key not in self._prepared:
            exporter = GraphExporter.for_int8(self.checkpoint, rules, self.data, measured)
            self._prepared[key] = exporter, exporter.measure_ranges(self.data, measured)
        exporter, ranges = self._prepared[key]
        return computed(exporter.export(form, Precision.INT8, ranges=ranges, recipe=recipe), form)

    def recipes(self) -> Iterator[Row]:
        """Measure FP16 and the recipes that ship, in every form, on every set."""
        for form, rules, label in FORMS:
            if form is not Form.WEAKLY_TYPED:
                graph = computed(GraphExporter(self.checkpoint, rules).export(form, Precision.FP16), form)
                yield self.row(f"FP16, {label}", 0.0, graph, self.sets)
        for name in ("conservative", "default", "extensive"):
            recipe = load_quant_recipe(name)
            for form, rules, label in FORMS:
                graph = self.int8(form, rules, recipe, recipe)
                yield self.row(f"INT8 {name}, {label}", self.share(recipe), graph, self.sets)

    def preparations(self) -> Iterator[Row]:
        """Measure what equalizing and shifting bring, on every set."""
        for name in ("default", "extensive"):
            recipe = load_quant_recipe(name)
            variants = {
                "as it is": recipe,
                "not equalized": replace(recipe, equalize=None),
                "neither shifted nor spread": replace(recipe, shift=(), spread=()),
                "none of these": replace(recipe, equalize=None, shift=(), spread=()),
            }
            for label, variant in variants.items():
                if label == "as it is" or variant != recipe:
                    graph = self.int8(Form.WEAKLY_TYPED, (), variant, variant)
                    yield self.row(f"{name}, {label}", self.share(variant), graph, self.sets)

    def observers(self) -> Iterator[Row]:
        """Measure every observer on the convolutions of the default recipe."""
        for settings in OBSERVERS:
            recipe = replace(load_quant_recipe(), **settings)
            label = " ".join(str(getattr(value, "value", value)) for value in settings.values())
            graph = self.int8(Form.WEAKLY_TYPED, (), recipe, recipe)
            yield self.row(label, self.share(recipe), graph, self.sets[:1])

    def kinds(self) -> Iterator[Row]:
        """Measure each kind of convolution alone, then all of them."""
        everything = replace(load_quant_recipe(), quantize=("*",), keep_float=())
        for kind in (*dict.fromkeys(map(kind_of, self.names)), "*"):
            recipe = replace(everything, quantize=(kind,))
            graph = self.int8(Form.WEAKLY_TYPED, (), recipe, everything)
            label = "everything" if kind == "*" else kind
            yield self.row(label, self.share(recipe), graph, self.sets[:1])


def headings(rows: list[Row]) -> list[str]:
    """Return the columns of a table."""
    columns = ["", "MACs in INT8"]
    for name in rows[0]["sets"]:
        columns += [f"{name}: dPSNR-Y, dB", "dSSIM", "fidelity, dB", "worst image"]
    return columns


def cells(row: Row) -> list[str]:
    """Return one row as text."""
    texts = [row["label"], f"{row['int8_mac_share']:.1%}"]
    for lost in row["sets"].values():
        texts += [
            f"{lost['dpsnr_db']:+.4f}",
            f"{lost['dssim']:+.5f}",
            "equal" if lost["fidelity_db"] is None else f"{lost['fidelity_db']:.1f}",
            f"{lost['worst_image']} {lost['worst_dpsnr_db']:+.3f}",
        ]
    return texts


def markdown(tables: dict[str, list[Row]], title: str, notes: list[str]) -> str:
    """Return all tables with their conventions."""
    lines = [f"# {title}"]
    for name, rows in tables.items():
        lines += [
            "",
            f"## {name}",
            "",
            "| " + " | ".join(headings(rows)) + " |",
            "|---" * len(headings(rows)) + "|",
        ]
        lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def collect(console: Console, name: str, measure: Callable[[], Iterator[Row]]) -> list[Row]:
    """Run one table's measurements, saying how far they are, and print the table."""
    rows = []
    for row in measure():
        rows.append(row)
        console.print(f"{name}: {'  '.join(cells(row))}", style="dim", highlight=False)
    table = Table(title=name, title_justify="left")
    for index, heading in enumerate(headings(rows)):
        table.add_column(heading, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)
    return rows


@click.command(help=__doc__)
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Bundled name or weights file.")
@click.option(
    "--data", multiple=True, help="NAME=DIR of an evaluation set; repeatable. Default: those that ship."
)
@click.option(
    "--calibration", type=click.Path(path_type=Path), help="Folder or manifest; default: what ships."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(model: str, data: tuple[str, ...], calibration: Path | None, output: Path) -> None:
    """Measure, print, write."""
    console = Console()
    scale = load_model_checkpoint(model).spec.scale
    sets = [load_eval_set(each, scale) for each in data] or [shipped_eval_set(scale)]
    images = load_calibration(calibration) if calibration else load_calibration()
    bench = Bench(model, sets, images)
    first = sets[0].name
    tables = {
        "Recipes": collect(console, "Recipes", bench.recipes),
        "Equalizing and shifting": collect(console, "Preparations", bench.preparations),
        f"Observers, on the convolutions of the default recipe, {first}": collect(
            console, "Observers", bench.observers
        ),
        f"One kind of convolution at a time, ranges of the default recipe, {first}": collect(
            console, "Kinds", bench.kinds
        ),
    }
    name = model_name(model)
    title = f"INT8 and FP16 against FP32: {name}"
    fp32 = ", ".join(
        f"{each} {scores.psnr_y:.3f} dB / {scores.ssim_y:.4f}" for each, scores in bench.reference.items()
    )
    machine = describe_host()
    notes = [
        f"FP32 (PSNR-Y / SSIM-Y): {fp32}.",
        f"8-bit rounded output, Y of BT.601 studio range, {scale} pixels of border cut.",
        "dPSNR-Y and dSSIM are against FP32, negative is a loss; fidelity is the PSNR of the 8-bit RGB "
        "image against FP32's; the worst image is the one that lost the most.",
        "ONNX Runtime on the CPU with graph optimizations off: exact Q/DQ arithmetic, not what the fused "
        "integer kernels of some CPU make of it.",
        f"Ranges: {images.source}, {len(images)} patches, fingerprint {images.fingerprint[:16]}.",
        "Share of multiply-accumulates: of all convolutions, at 256 x 256.",
        *origin(machine=machine),
    ]
    for note in notes:
        console.print(f"- {note}", highlight=False)
    stem = f"int8_sensitivity_{name}_{datetime.date.today():%Y%m}"
    raw = {
        "title": title,
        "notes": notes,
        "machine": machine,
        "fp32": {each: scores.to_dict() for each, scores in bench.reference.items()},
        "tables": tables,
    }
    write(markdown(tables, title, notes), output, stem, raw)
    console.print(f"written: {output / stem}.json and .md")


if __name__ == "__main__":
    main()
