"""A benchmark as tables, a row or a column a case, and what stands around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hasn_edge.bench.report import BenchCase, BenchReport, SetQuality
from hasn_edge.errors import Cure, with_cures
from hasn_edge.evaluation.latency import Latency
from hasn_edge.model.complexity import PAPER_SIZE

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


KEYS = (
    *(
        "backend",
        "precision",
        "parameters",
        "macs",
        "activations",
        "file",
        "median",
        "p90",
        "p99",
        "std",
        "fps",
        "speedup",
    ),
    *("gpu", "gpu-p90", "gpu-p99", "gpu-std", "enqueue", "transfers", "graphs", "tenths", "sustained"),
    *("power", "idle", "energy", "above-idle", "clock", "memory"),
    *("psnr", "ssim", "dpsnr", "dssim", "fidelity", "worst"),
)
"""Every :attr:`Column.key`, in the order of the columns."""


def columns(report: BenchReport) -> list[Column]:
    """Return all figures of which at least one case has one; those of quality once for each set."""
    cases = report.cases
    latency = [case.latency for case in cases]
    gpu = [case.parts.get("gpu") for case in cases]
    energy = [case.energy for case in cases]
    tenths = [case.latency.tenths_ms if case.latency and case.device != "cpu" else None for case in cases]
    long = [case.sustained.latency.tenths_ms if case.sustained else None for case in cases]
    rails = {e.rail for e in energy if e and e.rail}
    name = rails.pop() if len(rails) == 1 else None
    rail = f" of {name}" if name and len(name) < 12 else " of the module" if name else ""
    found = [
        Column("backend", "backend", [case.backend for case in cases]),
        Column("precision", "precision", [case.precision for case in cases]),
        *_counts(report),
        Column("file", "file, MB", [_number(case.file_bytes, 2, 1e-6) for case in cases]),
        *_quantiles("", "", latency, _milliseconds),
        Column("fps", "FPS", [GAP if one is None else f"{one.fps:.2f}" for one in latency]),
        Column("speedup", "speed-up", [_times(report.speedup(case)[0]) for case in cases]),
        *_quantiles("gpu", "GPU ", gpu, "{:.3f}".format),
        Column("enqueue", "enqueue, ms", [_part(case, "enqueue") for case in cases]),
        Column("transfers", "transfers, ms", [_part(case, "transfers") for case in cases]),
        Column("graphs", "CUDA graphs", [_yes(case.facts.get("graphs")) for case in cases]),
        Column("tenths", "last / first tenth", [GAP if t is None else _times(t[1] / t[0]) for t in tenths]),
        Column("sustained", "sustained, ms", [GAP if t is None else f"{t[1]:.3f}" for t in long]),
        Column("power", f"power{rail}, W", [_number(e.watts if e else None, 2, 1) for e in energy]),
        Column("idle", "idle, W", [_number(e.idle_watts if e else None, 2, 1) for e in energy]),
        Column(
            "energy",
            f"energy{rail}, mJ a frame",
            [_number(e.joules_per_frame if e else None, 1, 1e3) for e in energy],
        ),
        Column(
            "above-idle",
            "of it above idle, mJ",
            [_number(e.joules_above_idle if e else None, 1, 1e3) for e in energy],
        ),
        Column("clock", "GPU clock, MHz", [_number(e.gpu_hertz if e else None, 0, 1e-6) for e in energy]),
        Column("memory", "peak memory, MB", [_number(case.peak_bytes, 0, 1e-6) for case in cases]),
    ]
    if report.bicubic:
        found = [Column(one.key, one.heading, [*one.cells, GAP]) for one in found]
    for name in cases[0].quality:
        of = [case.quality.get(name) for case in cases]
        of += [report.bicubic[name]] if report.bicubic else []
        found += [
            Column("psnr", f"{name}: PSNR-Y, dB", [_get(q, "psnr_y_db", ".3f") for q in of]),
            Column("ssim", f"{name}: SSIM-Y", [_get(q, "ssim_y", ".4f") for q in of]),
            Column("dpsnr", f"{name}: dPSNR, dB", [_get(q, "dpsnr_db", "+.3f") for q in of]),
            Column("dssim", f"{name}: dSSIM", [_get(q, "dssim", "+.4f") for q in of]),
            Column("fidelity", f"{name}: fidelity, dB", [_get(q, "fidelity_db", ".1f") for q in of]),
            Column("worst", f"{name}: worst image", [_worst(q) for q in of]),
        ]
    return [one for one in found if set(one.cells) != {GAP}]


def _counts(report: BenchReport) -> Iterator[Column]:
    """Yield what networks are and compute, where there are several: else it is in the caption."""
    if not any(case.network for case in report.cases):
        return
    counts = [report.counts(PAPER_SIZE, case) for case in report.cases]
    size = f"{PAPER_SIZE[1]}x{PAPER_SIZE[0]}"
    yield Column(
        "parameters", "parameters", [GAP if one is None else f"{one.parameters:,}" for one in counts]
    )
    cells = [_number(one.macs if one else None, 2, 1e-9) for one in counts]
    yield Column("macs", f"GMACs at {size}", cells)
    cells = [_number(one.activations if one else None, 1, 1e-6) for one in counts]
    yield Column("activations", f"M activations at {size}", cells)


def _quantiles(
    key: str, what: str, latencies: Sequence[Latency | None], written: Callable[[float], str]
) -> Iterator[Column]:
    figures: dict[str, Callable[[Latency], float]] = {
        "median": lambda one: one.median_ms,
        "p90": lambda one: one.quantile_ms(0.9),
        "p99": lambda one: one.quantile_ms(0.99),
        "std": lambda one: one.std_ms,
    }
    for name, figure in figures.items():
        cells = [GAP if one is None else written(figure(one)) for one in latencies]
        own = name if not key else key if name == "median" else f"{key}-{name}"
        yield Column(own, f"{what}{name}, ms", cells)


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
    """Return the lines of a table."""
    return [f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows)]


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


def _part(case: BenchCase, name: str) -> str:
    part = case.parts.get(name)
    return GAP if part is None else f"{part.median_ms:.3f}"


def _yes(value: bool | None) -> str:
    return GAP if value is None else "yes" if value else "no"


def _number(value: float | None, digits: int, factor: float) -> str:
    return GAP if value is None else f"{value * factor:.{digits}f}"


def _times(value: float | None) -> str:
    return GAP if value is None else f"{value:.2f}x"


def _milliseconds(value: float) -> str:
    """Write four digits, of which one to three are decimals: an engine takes 1.234, a CPU 1234.5."""
    return f"{value:.{3 if value < 9.9995 else 2 if value < 99.995 else 1}f}"


def _get(quality: SetQuality | None, field: str, form: str) -> str:
    value = None if quality is None else getattr(quality, field)
    if value is None:
        return GAP
    return "equal" if value == float("inf") else format(value, form)


def _worst(quality: SetQuality | None) -> str:
    if quality is None or quality.worst_image is None or quality.worst_dpsnr_db is None:
        return GAP
    return f"{quality.worst_image} {quality.worst_dpsnr_db:+.3f}"
