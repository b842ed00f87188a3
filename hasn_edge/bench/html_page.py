"""A benchmark as one page that needs no other file: what to ship, what it costs, where it shows."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hasn_edge.bench import table
from hasn_edge.bench.evidence import CaseEvidence, WorstCrop
from hasn_edge.bench.report import BenchCase, BenchReport, SetQuality
from hasn_edge.bench.svg_charts import BOTTOM, TOP, Axis, Plot
from hasn_edge.bench.table import GAP, PAPER, caption, four_digits, machine_facts, notes
from hasn_edge.bench.verdict import LIMITS_DB, verdict
from hasn_edge.errors import counted
from hasn_edge.sidecar import EngineDetails, GraphDetails

SAMPLES = 100
"""Samples of a case that are drawn; of more, as many at equal distances in the order of their size."""

FLOOR_DB = 60.0
"""Where the bar of a layer ends that differs less than this."""

_PRECISIONS = ("fp32", "bf16", "fp16", "int8")
"""In the order of the legend; each has a colour in the page. "int8 and bf16" has that of its first word."""

_FIGURES: Sequence[tuple[str, str, str, Callable[[Any], str]]] = (
    ("median", "p50", "ms", four_digits),
    ("p90", "p90", "ms", four_digits),
    ("p99", "p99", "ms", four_digits),
    ("fps", "FPS", "", four_digits),
    ("speedup", "speed-up", "", table.FIGURES["speedup"].written),
    ("memory", "memory", "MB", table.FIGURES["memory"].written),
    ("file", "file", "MB", table.FIGURES["file"].written),
    ("macs", "MACs", f"G at {PAPER}", lambda one: f"{one * 1e-9:.3f}"),
    ("activations", "activations", f"M at {PAPER}", table.FIGURES["activations"].written),
    ("energy", "energy", "mJ a frame", table.FIGURES["energy"].written),
)
"""Columns: a key of :data:`hasn_edge.bench.table.FIGURES`, heading, unit, and what writes it."""

_QUALITY: Sequence[tuple[str, str, Callable[[SetQuality], tuple[str, str]]]] = (
    ("PSNR-Y", "dB", lambda one: (f"{one.psnr_y_db:.3f}", "")),
    ("dPSNR", "dB mean", lambda one: (_number(one.dpsnr_db, 1, "+.3f"), "")),
    ("dPSNR", "dB worst image", lambda one: (_number(one.worst_dpsnr_db, 1, "+.3f"), one.worst_image or "")),
    ("dSSIM", "mean", lambda one: (_number(one.dssim, 1, "+.4f"), "")),
)
"""The same for each set of images: heading, unit, and the cell."""

CROPS = (  # the reference is called as the report calls it
    ("low", "input"),
    ("reference", ""),
    ("case", "this case"),
    ("difference", "difference"),
    ("truth", "ground truth"),
)


def html_page(report: BenchReport) -> str:
    """Return the page: light and dark, for phones and for paper, with the report's JSON in it."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    found = verdict(report)
    columns = _columns(report)
    rows = list(zip(*(cells for _, _, cells in columns), strict=True))
    data = json.dumps(report.to_dict(), allow_nan=False)
    return environment.get_template("report.html.j2").render(
        title=caption(report)[0],
        facts=caption(report)[1:],
        verdict=found.sentence,
        columns=[*((heading, unit) for heading, unit, _ in columns), ("SHA-256", "")],
        rows=list(zip(report.cases, rows, strict=False)),
        chosen=found.case,
        bicubic=rows[-1] if report.bicubic else (),
        precisions=sorted(
            {case.precision.split()[0] for case in report.cases if case.latency}, key=_PRECISIONS.index
        ),
        plots=list(_plots(report)),
        crops=list(_crops(report)),
        layers=list(_layers(report)),
        files=list(_files(report)),
        sustained=list(_sustained(report)),
        tiles=[case for case in report.cases if case.tile is not None],
        reference=report.reference,
        limits=LIMITS_DB,
        notes=notes(report),
        machine=machine_facts(report),
        date=report.date,
        command=report.command,
        data=data.replace("<", "\\u003c"),
    )


def _columns(report: BenchReport) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return heading, unit, and the cells of all cases and of bicubic: a text, and what stands below it."""
    found = []
    for key, heading, unit, written in _FIGURES:
        values = [table.FIGURES[key].value(report, case) for case in report.cases]
        if any(values) or key != "energy":
            texts = [*(GAP if value is None else written(value) for value in values), GAP]
            found.append((heading, unit, [(text, "") for text in texts]))
    for name in report.cases[0].quality:
        of = [*(case.quality.get(name) for case in report.cases), report.bicubic.get(name)]
        for figure, unit, cell in _QUALITY:
            found.append((f"{name} {figure}", unit, [cell(one) if one else (GAP, "") for one in of]))
    return found


def _plots(report: BenchReport) -> Iterator[tuple[str, str, str]]:
    """Yield title, explanation and SVG of what compares the cases."""
    numbered = [(number, case) for number, case in enumerate(report.cases, 1) if case.latency is not None]
    for name in report.cases[0].quality:
        # What is reproduced exactly has a PSNR for which no axis is long enough.
        scored = [
            (number, case)
            for number, case in numbered
            if name in case.quality and math.isfinite(case.quality[name].psnr_y_db)
        ]
        times = {number: case.latency.median_ms for number, case in scored if case.latency}
        yield from _pareto(scored, name, times, "ms a frame")
        energy = {
            number: 1e3 * case.energy.joules_per_frame
            for number, case in scored
            if case.energy and case.energy.joules_per_frame
        }
        yield from _pareto(scored, name, energy, "mJ a frame")
    if numbered:
        yield _distribution(numbered)


def _pareto(
    cases: Sequence[tuple[int, BenchCase]], name: str, costs: Mapping[int, float], unit: str
) -> Iterator[tuple[str, str, str]]:
    shown = [(number, case) for number, case in cases if number in costs]
    if not shown:
        return
    # As the table has them: what differs by less is not better.
    decibels = {number: round(case.quality[name].psnr_y_db, 3) for number, case in shown}
    plot = Plot(
        Axis.of(unit, list(costs.values()), log=True, least=max(costs.values()) * 0.1),
        Axis.of("PSNR-Y, dB", list(decibels.values()), least=0.02),
        f"PSNR-Y on {name} against {unit}",
    )
    best: list[tuple[float, float]] = []
    for number, _ in sorted(shown, key=lambda one: costs[one[0]]):
        if not best or decibels[number] > best[-1][1]:
            best.append((costs[number], decibels[number]))
    plot.line(best, "front", "no other case is both faster and better")
    for number, case in reversed(shown):
        title = f"{number}: {case.label}, {decibels[number]:.3f} dB, {four_digits(costs[number])} {unit}"
        plot.dot(costs[number], decibels[number], str(number), title, f"p-{case.precision}")
    what = "time" if unit.startswith("ms") else "energy"
    yield (
        f"Quality against {what}",
        f"{name}; up and left is better. Numbers are those of the table; the line joins the cases that no "
        "other one beats in both.",
        plot.svg(),
    )


def _distribution(numbered: Sequence[tuple[int, BenchCase]]) -> tuple[str, str, str]:
    samples = {number: case.latency for number, case in numbered if case.latency}
    longest = [1e3 * second for one in samples.values() for second in one.seconds]
    names = [str(number) for number in samples]
    height = TOP + BOTTOM + 34 * len(names)
    plot = Plot(
        Axis.of("ms a frame", longest, zero=True),
        Axis("", -0.5, len(names) - 0.5),
        "How long single frames took",
        height=height,
        names=names,
    )
    for index, (number, case) in enumerate(numbered):
        latency = samples[number]
        seconds = sorted(latency.seconds)
        count = min(SAMPLES, len(seconds))
        for place in range(count):
            value = 1e3 * seconds[place * (len(seconds) - 1) // max(1, count - 1)]
            plot.tick(value, index, 9, f"s p-{case.precision}")
        for q, kind in ((0.5, "median"), (0.9, "quantile"), (0.99, "quantile")):
            value = latency.quantile_ms(q)
            plot.tick(value, index, 14, kind, f"{case.label}: p{100 * q:.0f} {four_digits(value)} ms")
    return (
        "Latency of single frames",
        "A stroke is a frame; the long ones are p50 (thick), p90 and p99.",
        plot.svg(),
    )


def _crops(report: BenchReport) -> Iterator[tuple[str, list[dict[str, Any]], bool]]:
    """Yield label, crops, and whether they are shown at once: those of the case that lost most."""
    found = {label: one.crops for label, one in report.evidence.items() if one.crops}
    losses = {label: min(one.drift.dpsnr for one in crops) for label, crops in found.items()}
    files = {case.label: losses[case.label] for case in report.cases if case.label in found and case.file}
    worst = min(files or losses, key=losses.__getitem__, default="")
    for label, crops in found.items():
        yield label, [_crop(one, report.reference) for one in crops], label == worst


def _crop(crop: WorstCrop, reference: str) -> dict[str, Any]:
    addresses = {
        key: f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
        for key, png in crop.pngs.items()
    }
    tiles = [
        (addresses[key], f"{text} x{crop.magnified}" if key == "difference" else text or reference)
        for key, text in CROPS
    ]
    return {
        "title": f"{crop.set}: {crop.image}",
        "figures": f"{crop.psnr_y:.2f} dB, {crop.drift.dpsnr:+.3f} dB against {reference}; "
        f"at x {crop.left}, y {crop.top}",
        "tiles": tiles,
        "reference": addresses["reference"],
        "case": addresses["case"],
    }


def _layers(report: BenchReport) -> Iterator[dict[str, Any]]:
    """Yield what is known of the layers of each INT8 graph."""
    seen: set[str] = set()
    for case in report.cases:
        evidence = report.evidence.get(case.label)
        if evidence is None or not evidence.layers or case.sha256 in seen:
            continue
        seen.add(case.sha256 or "")  # the same file, emulated
        yield {
            "label": case.label,
            "plots": [_sqnr_plot(evidence), *_range_plots(evidence)],
            "rows": [
                (
                    layer.name,
                    "INT8" if layer.int8 else "float",
                    _number(layer.sqnr_db, 1, ".1f"),
                    _number(layer.weight_peak, 1, ".4g"),
                    _number(layer.weight_clipped, 100, ".2f"),
                    _number(layer.input_peak, 1, ".4g"),
                    _number(layer.input_range, 1, ".4g"),
                )
                for layer in evidence.layers
            ],
        }


def _sqnr_plot(evidence: CaseEvidence) -> tuple[str, str, str]:
    layers = evidence.layers
    highest = max(FLOOR_DB, *(layer.sqnr_db or 0.0 for layer in layers))
    lowest = min(0.0, *(layer.sqnr_db or 0.0 for layer in layers))
    plot = Plot(
        Axis("", 0, len(layers)), Axis("SQNR, dB", lowest, min(highest, 100.0)), "Drift of each convolution"
    )
    for index, layer in enumerate(layers):
        value = highest if layer.sqnr_db is None else layer.sqnr_db
        written = "equal" if layer.sqnr_db is None else f"{layer.sqnr_db:.1f} dB"
        what = "INT8" if layer.int8 else "float"
        plot.bar(index, value, f"{layer.name} ({what}): {written}", "p-int8" if layer.int8 else "p-fp32")
    return (
        "Drift by layer",
        "Output of each convolution, from input to output of the network, against the float graph: signal "
        "over error in dB, higher is better. Coloured bars are INT8, gray ones stay in float.",
        plot.svg(),
    )


def _range_plots(evidence: CaseEvidence) -> Iterator[tuple[str, str, str]]:
    inputs = [
        (layer, layer.input_peak / layer.input_range)
        for layer in evidence.layers
        if layer.input_peak is not None and layer.input_range
    ]
    if inputs:
        top = max(2.0, min(8.0, max(share for _, share in inputs)))
        plot = Plot(
            Axis("", 0, len(inputs)), Axis("peak / range", 0.0, top), "Largest input over the range of INT8"
        )
        for index, (layer, share) in enumerate(inputs):
            title = f"{layer.name}: range {layer.input_range:.4g}, largest value {layer.input_peak:.4g}"
            plot.bar(index, share, title, "clipped")
            plot.bar(index, min(share, 1.0), title, "p-int8")
        plot.line([(0, 1.0), (len(inputs), 1.0)], "limit", "what INT8 can represent")
        yield (
            "Ranges of activations",
            "Largest value on the calibration images over the range that INT8 represents: what is above the "
            "line is clipped, far below it codes are wasted.",
            plot.svg(),
        )
    weights = [layer for layer in evidence.layers if layer.weight_clipped is not None]
    shares = [100 * (layer.weight_clipped or 0.0) for layer in weights]
    plot = Plot(
        Axis("", 0, len(weights)), Axis("clipped, %", 0.0, 1.1 * max(0.5, *shares)), "Weights clipped"
    )
    for index, (layer, value) in enumerate(zip(weights, shares, strict=True)):
        title = f"{layer.name}: {value:.2f} % clipped, largest weight {layer.weight_peak:.4g}"
        plot.bar(index, value, title, "p-int8")
    yield (
        "Clipping of weights",
        "Share of the weights that lie beyond the last code and are rounded to it.",
        plot.svg(),
    )


def _files(report: BenchReport) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield what the sidecar of each file states of its arithmetic."""
    seen: set[str] = set()
    for case in report.cases:
        evidence = report.evidence.get(case.label)
        artifact = evidence.artifact if evidence else None
        if artifact is None or artifact.sha256 in seen:
            continue
        seen.add(artifact.sha256)
        found: list[tuple[str, str]] = [("made of", artifact.source[:12])]
        details = artifact.details
        if isinstance(details, GraphDetails):
            found.append(("graph", f"{details.form.words}, opset {details.opset}"))
            if details.fused:
                found.append(("fused", ", ".join(details.fused)))
            if details.int8_mac_share is not None:
                count = counted(len(details.int8_convolutions), "convolution")
                found.append(("INT8", f"{count}, {details.int8_mac_share:.1%} of their MACs"))
            if details.ranges is not None:
                images = counted(details.ranges.images, "calibration image")
                found.append(("ranges", f"{details.ranges.observer} on {images}"))
        if isinstance(details, EngineDetails):
            found += _engine_facts(details)
        yield case.label, found


def _engine_facts(details: EngineDetails) -> Iterator[tuple[str, str]]:
    yield "engine", f"{details.runtime} {details.version} for {details.gpu or details.target}"
    layers = details.layers
    convolutions = counted(layers.convolution, "convolution")
    yield (
        "layers",
        (
            f"{layers.all}, of them {convolutions} ({layers.half_convolution} in FP16), "
            f"{layers.quantize} that quantize"
        ),
    )
    if details.kernels is not None:
        types = ", ".join(f"{count} of {name}" for name, count in details.kernels.convolutions.items())
        moved = details.kernels.moved_bytes
        yield (
            "kernels",
            f"{details.kernels.all}; convolutions: {types}"
            + (
                f"; they move {moved / details.profile.opt[0] / 1e6:.1f} MB an image"
                if moved is not None
                else ""
            ),
        )
    yield (
        "build",
        f"{details.build_seconds:.0f} s"
        + (f", {counted(len(details.warnings), 'warning')}" if details.warnings else ""),
    )


def _sustained(report: BenchReport) -> Iterator[tuple[str, str, str]]:
    for case in report.cases:
        if case.sustained is None:
            continue
        tenths = case.sustained.to_dict()["tenths_median_ms"]
        plot = Plot(
            Axis("part of the run", 0, 10), Axis.of("ms", tenths, zero=True), f"Sustained run of {case.label}"
        )
        part = 10 / len(tenths)  # of a few frames there are fewer than ten
        plot.line([((index + 0.5) * part, value) for index, value in enumerate(tenths)], "a")
        energy = case.sustained.energy
        heat = "".join(
            f"; {zone} {first:.0f} to {last:.0f} °C, at most {highest:.0f}"
            for zone, (first, last, highest) in (energy.celsius.items() if energy else ())
        )
        power = f"; {energy.watts:.2f} W" if energy and energy.watts is not None else ""
        yield (
            case.label,
            f"{case.sustained.minutes:g} min without a pause: the first tenth of the frames took "
            f"{four_digits(tenths[0])} ms, the last {four_digits(tenths[-1])} ms{power}{heat}.",
            plot.svg(),
        )


def _number(value: float | None, factor: float, form: str) -> str:
    return GAP if value is None else format(value * factor, form)
