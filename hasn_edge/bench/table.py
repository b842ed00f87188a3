"""A benchmark as tables, a row or a column a case, and what stands around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hasn_edge.bench.report import BenchCase, BenchReport, SetQuality
from hasn_edge.errors import Cure, with_cures
from hasn_edge.evaluation.latency import Latency
from hasn_edge.model.complexity import PAPER_SIZE, NetworkCounts

GAP = "-"
"""Stands where a figure was not measured; the reason is below the table."""

MOST = 7
"""Figures of a case on the terminal where none are named: with its name, eight columns."""

FIRST = ("median", "gpu", "speedup", "psnr", "dpsnr", "macs", "energy", "memory", "ssim", "fidelity", "file")
"""Which those are, as far as a benchmark has them, the most important first."""


@dataclass(frozen=True)
class Column:
    """One figure of every case."""

    key: str
    """What the command line calls it."""
    heading: str
    cells: list[str]
    """In the order of the cases, and last of bicubic where the report has it."""


@dataclass(frozen=True)
class Metric:
    """How the cells of a column come about."""

    heading: str
    """``{rail}`` in it stands for what power was read of."""
    value: Callable[[BenchReport, BenchCase], Any]
    """Returns a case's figure; ``None`` where it was not measured."""
    written: Callable[[Any], str]


def _part(name: str, figure: Callable[[Latency], float]) -> Callable[[BenchReport, BenchCase], Any]:
    return lambda _, case: figure(case.parts[name]) if name in case.parts else None


def _count(figure: Callable[[NetworkCounts], int]) -> Callable[[BenchReport, BenchCase], Any]:
    return lambda report, case: (one := report.counts(PAPER_SIZE, case)) and figure(one)


def _last_to_first(_: BenchReport, case: BenchCase) -> float | None:
    tenths = case.latency.tenths_ms if case.latency and case.device != "cpu" else None
    return tenths and tenths[1] / tenths[0]


def _last_sustained(_: BenchReport, case: BenchCase) -> float | None:
    tenths = case.sustained.latency.tenths_ms if case.sustained else None
    return tenths and tenths[1]


def _milliseconds(value: float) -> str:
    """Write four digits, of which one to three are decimals: an engine takes 1.234, a CPU 1234.5."""
    return f"{value:.{3 if value < 9.9995 else 2 if value < 99.995 else 1}f}"


def four_digits(value: float) -> str:
    """Write at most four digits, and never a power of ten: a large frame takes a CPU 23457 ms."""
    return f"{value:.4g}" if value < 9999.5 else f"{value:.0f}"


def _fixed(digits: int, factor: float = 1.0) -> Callable[[float], str]:
    return lambda value: f"{value * factor:.{digits}f}"


PAPER = f"{PAPER_SIZE[1]}x{PAPER_SIZE[0]}"
"""The size of an input for which papers state counts."""

_COUNTS = {
    "parameters": Metric("parameters", _count(lambda one: one.parameters), "{:,}".format),
    "macs": Metric(f"GMACs at {PAPER}", _count(lambda one: one.macs), _fixed(2, 1e-9)),
    "activations": Metric(f"M activations at {PAPER}", _count(lambda one: one.activations), _fixed(1, 1e-6)),
}
"""What networks are and compute; the table has it where there are several, else it is in the caption."""

FIGURES = {
    "backend": Metric("backend", lambda _, case: case.backend, str),
    "precision": Metric("precision", lambda _, case: case.precision, str),
    **_COUNTS,
    "file": Metric("file, MB", lambda _, case: case.file_bytes, _fixed(2, 1e-6)),
    "median": Metric("median, ms", lambda _, case: case.latency and case.latency.median_ms, _milliseconds),
    "p90": Metric("p90, ms", lambda _, case: case.latency and case.latency.quantile_ms(0.9), _milliseconds),
    "p99": Metric("p99, ms", lambda _, case: case.latency and case.latency.quantile_ms(0.99), _milliseconds),
    "std": Metric("std, ms", lambda _, case: case.latency and case.latency.std_ms, _milliseconds),
    "fps": Metric("FPS", lambda _, case: case.latency and case.latency.fps, _fixed(2)),
    "speedup": Metric("speed-up", lambda report, case: report.speedup(case)[0], "{:.2f}x".format),
    "gpu": Metric("GPU median, ms", _part("gpu", lambda one: one.median_ms), _fixed(3)),
    "gpu-p90": Metric("GPU p90, ms", _part("gpu", lambda one: one.quantile_ms(0.9)), _fixed(3)),
    "gpu-p99": Metric("GPU p99, ms", _part("gpu", lambda one: one.quantile_ms(0.99)), _fixed(3)),
    "gpu-std": Metric("GPU std, ms", _part("gpu", lambda one: one.std_ms), _fixed(3)),
    "enqueue": Metric("enqueue, ms", _part("enqueue", lambda one: one.median_ms), _fixed(3)),
    "transfers": Metric("transfers, ms", _part("transfers", lambda one: one.median_ms), _fixed(3)),
    "graphs": Metric(
        "CUDA graphs", lambda _, case: case.facts.get("graphs"), lambda one: "yes" if one else "no"
    ),
    "tenths": Metric("last / first tenth", _last_to_first, "{:.2f}x".format),
    "sustained": Metric("sustained, ms", _last_sustained, _fixed(3)),
    "power": Metric("power{rail}, W", lambda _, case: case.energy and case.energy.watts, _fixed(2)),
    "idle": Metric("idle, W", lambda _, case: case.energy and case.energy.idle_watts, _fixed(2)),
    "energy": Metric(
        "energy{rail}, mJ a frame",
        lambda _, case: case.energy and case.energy.joules_per_frame,
        _fixed(1, 1e3),
    ),
    "above-idle": Metric(
        "of it above idle, mJ", lambda _, case: case.energy and case.energy.joules_above_idle, _fixed(1, 1e3)
    ),
    "clock": Metric("GPU clock, MHz", lambda _, case: case.energy and case.energy.gpu_hertz, _fixed(0, 1e-6)),
    "memory": Metric("peak memory, MB", lambda _, case: case.peak_bytes, _fixed(0, 1e-6)),
}
"""By :attr:`Column.key`, the columns of cases."""

_QUALITY: dict[str, tuple[str, Callable[[SetQuality | None], str]]] = {
    "psnr": ("PSNR-Y, dB", lambda one: _get(one, "psnr_y_db", ".3f")),
    "ssim": ("SSIM-Y", lambda one: _get(one, "ssim_y", ".4f")),
    "dpsnr": ("dPSNR, dB", lambda one: _get(one, "dpsnr_db", "+.3f")),
    "dssim": ("dSSIM", lambda one: _get(one, "dssim", "+.4f")),
    "fidelity": ("fidelity, dB", lambda one: _get(one, "fidelity_db", ".1f")),
    "worst": ("worst image", lambda one: _worst(one)),
}
"""Likewise those of quality, each once for every set: what the heading says behind its name, and the cell."""

KEYS = (*FIGURES, *_QUALITY)
"""Every :attr:`Column.key`, in the order of the columns."""


def columns(report: BenchReport) -> list[Column]:
    """Return all figures of which at least one case has one; those of quality once for each set."""
    cases = report.cases
    rails = {case.energy.rail for case in cases if case.energy and case.energy.rail}
    name = rails.pop() if len(rails) == 1 else ""
    rail = f" of {name if len(name) < 12 else 'the module'}" if name else ""
    bicubic = [GAP] if report.bicubic else []
    several = any(case.network for case in cases)
    found = []
    for key, figure in FIGURES.items():
        if several or key not in _COUNTS:
            values = (figure.value(report, case) for case in cases)
            cells = [GAP if value is None else figure.written(value) for value in values]
            found.append(Column(key, figure.heading.format(rail=rail), [*cells, *bicubic]))
    for name in cases[0].quality:
        of = [case.quality.get(name) for case in cases] + ([report.bicubic[name]] if report.bicubic else [])
        for key, (heading, cell) in _QUALITY.items():
            found.append(Column(key, f"{name}: {heading}", [cell(one) for one in of]))
    return [one for one in found if set(one.cells) != {GAP}]


def labels(report: BenchReport) -> list[str]:
    """Return the name of each row: the cases, and bicubic where it was measured."""
    return [case.label for case in report.cases] + (["bicubic"] if report.bicubic else [])


def choose(found: Sequence[Column], wanted: Sequence[str] = ()) -> list[Column]:
    """Return the columns whose keys are ``wanted``, or the :data:`MOST` most important, in their order."""
    if wanted:
        return [one for one in found if one.key in wanted]
    ordered = [one for key in FIRST for one in found if one.key == key]
    return [one for one in found if one in ordered[:MOST]]


def caption(report: BenchReport) -> list[str]:
    """Return what holds for every case: model and size, counts, and that the machine was busy, if it was."""
    height, width = report.size
    scale = report.spec.scale
    counted, paper = report.counts(report.size), report.counts(PAPER_SIZE)
    lines = [f"{report.model}, {width}x{height} -> {width * scale}x{height * scale}"]
    if counted is not None and paper is not None:
        lines.append(
            f"{counted.parameters:,} parameters, {paper.macs / 1e9:.3f} GMACs at 256x256, "
            f"{counted.macs / 1e9:.3f} at {width}x{height}"
        )
    return lines + ([report.busy] if report.busy else [])


def markdown(report: BenchReport, cure_text: Callable[[Cure], str] = str) -> str:
    """Return the report as Markdown: all figures, remarks, gaps, conventions, machine; see :func:`notes`."""
    title, *rest = caption(report)
    lines = [f"# {title}", "", *(text for line in rest for text in (f"{line}.", ""))]
    lines += markdown_table(["", *labels(report)], [[one.heading, *one.cells] for one in columns(report)])
    lines += ["", *(f"- {text}" for text in notes(report, cure_text))]
    lines += ["", f"Machine: {machine_line(report)}."]
    if report.command:
        lines += ["", f"Printed by `{report.command}` on {report.date}."]
    return "\n".join(lines) + "\n"


def brief(report: BenchReport) -> str:
    """Return what the report is of and its most important figures, as lines."""
    rows = [[one.heading, *one.cells] for one in choose(columns(report))]
    return "\n".join([*caption(report), *markdown_table(["", *labels(report)], rows)])


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table; a ``|`` in a cell, such as a file's name, ends none."""
    texts = [[cell.replace("|", r"\|") for cell in cells] for cells in (headings, *rows)]
    return [f"| {' | '.join(cells)} |" for cells in (texts[0], ["---"] * len(headings), *texts[1:])]


def notes(report: BenchReport, cure_text: Callable[[Cure], str] = str) -> list[str]:
    """Return remarks, gaps with their reasons, and conventions, one sentence each.

    Args:
        report: A finished benchmark.
        cure_text: Writes what helps against what a remark is about.
    """
    found = [with_cures(remark.text, map(cure_text, remark.cures)) for remark in report.remarks]
    for case in report.cases:
        gaps = [*case.not_measured, report.speedup(case)[1]]
        if case.facts.get("graphs_reason"):
            gaps.append(f"no CUDA graphs: {case.facts['graphs_reason']}")
        if case.energy and case.energy.not_read:
            gaps.append(f"power could be read only for a part of the time: {case.energy.not_read}")
        if "memory" in case.facts:
            taken = case.facts.get("gpu_memory_bytes")
            gaps.append(
                f"{case.facts.get('runtime', case.backend)}, memory {case.facts['memory']}, "
                + (f"{taken / 1e6:.0f} MB of the GPU's, " if taken is not None else "")
                + f"CUDA by {case.facts.get('cuda')}"
            )
        found += [f"{case.label}: {text}" for text in gaps if text]
    return [*found, *report.conventions]


def machine_facts(report: BenchReport) -> dict[str, str]:
    """Return the machine and the device's state, by name."""
    facts = dict(report.environment)
    before = report.before
    if report.device != "cpu" and before:
        facts["device"] = str(before.get("title"))
        for name, value in (before.get("jetson") or before.get("card") or {}).items():
            if name in ("l4t", "jetpack", "power_mode", "driver", "power_limit_watts", "clocks_locked"):
                facts[name.replace("_", " ")] = "unknown" if value is None else str(value)
    return facts


def machine_line(report: BenchReport) -> str:
    """Return :func:`machine_facts` in one line."""
    return "; ".join(f"{name} {value}" for name, value in machine_facts(report).items())


def _get(quality: SetQuality | None, field: str, form: str) -> str:
    value = None if quality is None else getattr(quality, field)
    if value is None:
        return GAP
    return "equal" if value == float("inf") else format(value, form)


def _worst(quality: SetQuality | None) -> str:
    if quality is None or quality.worst_image is None or quality.worst_dpsnr_db is None:
        return GAP
    return f"{quality.worst_image} {quality.worst_dpsnr_db:+.3f}"
