"""A benchmark as one table, for the terminal and for Markdown: a column a case, a row a figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hasn_edge.bench.report import BenchCase, BenchReport, SetQuality
from hasn_edge.errors import Cure, with_cures
from hasn_edge.model.complexity import PAPER_SIZE, complexity

if TYPE_CHECKING:
    from rich.table import Table

GAP = "-"
"""Stands where a figure was not measured; the reason is below the table."""


def rows(report: BenchReport) -> list[tuple[str, list[str]]]:
    """Return the table's rows: a heading and a cell for each case."""
    height, width = report.size
    counted = complexity(report.spec, height, width)
    paper = complexity(report.spec, *PAPER_SIZE)
    cases = report.cases
    same = len(cases)
    table = [
        ("backend", [case.backend for case in cases]),
        ("precision", [case.precision for case in cases]),
        ("parameters", [f"{counted.parameters:,}"] * same),
        ("GMACs at 256x256", [f"{paper.total / 1e9:.3f}"] * same),
        (f"GMACs at {width}x{height}", [f"{counted.total / 1e9:.3f}"] * same),
        ("file, MB", [_number(c.file_bytes, 2, 1e-6) for c in cases]),
        ("median, ms", [_quantile(c, 0.5) for c in cases]),
        ("p90, ms", [_quantile(c, 0.9) for c in cases]),
        ("p99, ms", [_quantile(c, 0.99) for c in cases]),
        ("std, ms", [GAP if c.latency is None else _milliseconds(c.latency.std_ms) for c in cases]),
        ("FPS", [GAP if c.latency is None else f"{c.latency.fps:.2f}" for c in cases]),
        ("speed-up", [_speedup(c, cases[0]) for c in cases]),
        *_device_rows(cases),
        ("peak memory, MB", [_number(c.peak_bytes, 0, 1e-6) for c in cases]),
    ]
    for name in cases[0].quality:
        of = [case.quality.get(name) for case in cases]
        table += [
            (f"{name}: PSNR-Y, dB", [_get(q, "psnr_y_db", ".3f") for q in of]),
            (f"{name}: SSIM-Y", [_get(q, "ssim_y", ".4f") for q in of]),
            (f"{name}: dPSNR, dB", [_get(q, "dpsnr_db", "+.3f") for q in of]),
            (f"{name}: dSSIM", [_get(q, "dssim", "+.4f") for q in of]),
            (f"{name}: fidelity, dB", [_get(q, "fidelity_db", ".1f") for q in of]),
            (f"{name}: worst image", [_worst(q) for q in of]),
        ]
    return table


def _device_rows(cases: Sequence[BenchCase]) -> list[tuple[str, list[str]]]:
    """Return the rows of a device: those of which at least one case has a figure."""
    gpu = [c.parts.get("gpu") for c in cases]
    energy = [c.energy for c in cases]
    rails = {e.rail for e in energy if e and e.rail}
    name = rails.pop() if len(rails) == 1 else None
    rail = f" of {name}" if name and len(name) < 12 else " of the module" if name else ""
    tenths = [c.latency.tenths_ms if c.latency and c.device != "cpu" else None for c in cases]
    long = [c.sustained.latency.tenths_ms if c.sustained else None for c in cases]
    found = [
        ("GPU median, ms", [GAP if g is None else f"{g.median_ms:.3f}" for g in gpu]),
        ("GPU p90, ms", [GAP if g is None else f"{g.quantile_ms(0.9):.3f}" for g in gpu]),
        ("GPU p99, ms", [GAP if g is None else f"{g.quantile_ms(0.99):.3f}" for g in gpu]),
        ("GPU std, ms", [GAP if g is None else f"{g.std_ms:.3f}" for g in gpu]),
        ("enqueue, ms", [_part(c, "enqueue") for c in cases]),
        ("transfers, ms", [_part(c, "transfers") for c in cases]),
        ("CUDA graphs", [_yes(c.facts.get("graphs")) for c in cases]),
        ("last / first tenth", [GAP if t is None else f"{t[1] / t[0]:.2f}x" for t in tenths]),
        ("sustained, ms", [GAP if t is None else f"{t[1]:.3f}" for t in long]),
        (f"power{rail}, W", [_number(e.watts if e else None, 2, 1) for e in energy]),
        ("idle, W", [_number(e.idle_watts if e else None, 2, 1) for e in energy]),
        (f"energy{rail}, mJ a frame", [_number(e.joules_per_frame if e else None, 1, 1e3) for e in energy]),
        ("of it above idle, mJ", [_number(e.joules_above_idle if e else None, 1, 1e3) for e in energy]),
        ("GPU clock, MHz", [_number(e.gpu_hertz if e else None, 0, 1e-6) for e in energy]),
    ]
    return [(heading, cells) for heading, cells in found if set(cells) != {GAP}]


def markdown(report: BenchReport, cure_text: Callable[[Cure], str] = str) -> str:
    """Return the report as Markdown: table, remarks, gaps, conventions, machine; see :func:`notes`."""
    lines = [f"# {title(report)}", ""]
    lines.append("| | " + " | ".join(case.label for case in report.cases) + " |")
    lines.append("|---" * (len(report.cases) + 1) + "|")
    lines += [f"| {heading} | " + " | ".join(cells) + " |" for heading, cells in rows(report)]
    lines.append("")
    lines += [f"- {text}" for text in notes(report, cure_text)]
    lines += ["", f"Machine: {machine_line(report)}."]
    if report.command:
        lines += ["", f"Printed by `{report.command}` on {report.date}."]
    return "\n".join(lines) + "\n"


def terminal_table(report: BenchReport) -> Table:
    """Return the table for :mod:`rich`."""
    from rich.table import Table

    table = Table(title=title(report), title_justify="left")
    table.add_column("", no_wrap=True)
    for case in report.cases:
        table.add_column(case.label, justify="right", overflow="fold")
    sections = {"file, MB", "median, ms", "GPU median, ms", "peak memory, MB"}
    for heading, cells in rows(report):
        if heading in sections or heading.startswith("power") or heading.endswith("PSNR-Y, dB"):
            table.add_section()
        table.add_row(heading, *cells)
    return table


def title(report: BenchReport) -> str:
    """Return the headline: model and size."""
    height, width = report.size
    return f"{report.model}, {width}x{height} -> {width * report.spec.scale}x{height * report.spec.scale}"


def notes(report: BenchReport, cure_text: Callable[[Cure], str] = str) -> list[str]:
    """Return remarks, gaps with their reasons, and conventions, one sentence each.

    Args:
        report: A finished benchmark.
        cure_text: Writes what helps against what a remark is about.
    """
    remarks = [with_cures(remark.text, map(cure_text, remark.cures)) for remark in report.remarks]
    gaps = [f"{case.label}: {reason}" for case in report.cases for reason in case.not_measured]
    gaps += [
        f"{case.label}: no CUDA graphs: {case.facts['graphs_reason']}"
        for case in report.cases
        if case.facts.get("graphs_reason")
    ]
    gaps += [
        f"{case.label}: power could be read only for a part of the time: {case.energy.not_read}"
        for case in report.cases
        if case.energy and case.energy.not_read
    ]
    return [*remarks, *gaps, *_sessions(report), *report.conventions]


def _sessions(report: BenchReport) -> list[str]:
    found = []
    for case in report.cases:
        if "memory" in case.facts:
            found.append(
                f"{case.label}: {case.facts.get('runtime', case.backend)}, memory {case.facts['memory']}, "
                f"CUDA by {case.facts.get('cuda')}"
            )
    return found


def machine_line(report: BenchReport) -> str:
    """Return the machine and the device's state in one line."""
    facts = dict(report.environment)
    before = report.before
    if report.device != "cpu" and before:
        facts["device"] = str(before.get("title"))
        for name, value in (before.get("jetson") or before.get("card") or {}).items():
            if name in ("l4t", "jetpack", "power_mode", "driver", "power_limit_watts", "clocks_locked"):
                facts[name.replace("_", " ")] = "unknown" if value is None else str(value)
    return "; ".join(f"{name} {value}" for name, value in facts.items())


def _part(case: BenchCase, name: str) -> str:
    part = case.parts.get(name)
    return GAP if part is None else f"{part.median_ms:.3f}"


def _yes(value: bool | None) -> str:
    return GAP if value is None else "yes" if value else "no"


def _number(value: float | None, digits: int, factor: float) -> str:
    return GAP if value is None else f"{value * factor:.{digits}f}"


def _quantile(case: BenchCase, q: float) -> str:
    return GAP if case.latency is None else _milliseconds(case.latency.quantile_ms(q))


def _milliseconds(value: float) -> str:
    """Write four digits, of which one to three are decimals: an engine takes 1.234, a CPU 1234.5."""
    return f"{value:.{3 if value < 9.9995 else 2 if value < 99.995 else 1}f}"


def _speedup(case: BenchCase, reference: BenchCase) -> str:
    if case.latency is None or reference.latency is None:
        return GAP
    return f"{reference.latency.times(case.latency):.2f}x"


def _get(quality: SetQuality | None, field: str, form: str) -> str:
    value = None if quality is None else getattr(quality, field)
    if value is None:
        return GAP
    return "equal" if value == float("inf") else format(value, form)


def _worst(quality: SetQuality | None) -> str:
    if quality is None or quality.worst_image is None or quality.worst_dpsnr_db is None:
        return GAP
    return f"{quality.worst_image} {quality.worst_dpsnr_db:+.3f}"
