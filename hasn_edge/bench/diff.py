"""Two benchmarks of the same cases: what changed beyond the noise of the samples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from hasn_edge.bench.report import BUSY_CORES, SCHEMA
from hasn_edge.bench.table import markdown_table
from hasn_edge.errors import InputError, counted, say

RESAMPLES = 2000
LEVEL = 0.95
"""Of the interval that has to leave out 1 before a time counts as changed."""

TEST = (
    f"time: hierarchical bootstrap of the ratio of the medians, rounds drawn first and samples within them, "
    f"{RESAMPLES} resamples, {LEVEL:.0%} percentile interval; changed where it leaves out 1"
)

LEAST_DB, LEAST_SSIM = 0.0005, 0.00005
"""Changes below these are rounding."""

_LEAST = {"psnr": LEAST_DB, "ssim": LEAST_SSIM, "worst": LEAST_DB}

OTHER_IMAGES_DB = 0.01
"""By how much PSNR-Y of bicubic interpolation differs on other images; on the same ones it hardly does."""

LEAST_SHARE = 0.02
"""Share by which memory and energy differ from run to run: no change."""

PLACES = {
    "psnr": (3, "dB"),
    "ssim": (4, ""),
    "worst": (3, "dB"),
    "latency": (3, "ms"),
    "memory": (0, "MB"),
    "file": (2, "MB"),
    "energy": (1, "mJ"),
}
"""Figures that limits can be set on, with decimals and unit; ``worst`` is the drift of the worst image."""

_DEVICE = {
    "gpu": ("name", "sm_count", "driver", "cuda", "l4t"),
    "jetson": ("jetpack", "power_mode", "clocks_locked", "cpu_governor"),
    "card": ("power_limit_watts",),
}
"""What a device reports that decides how fast it is, and does not change from moment to moment."""

HEADINGS = ("", "figure", "old", "new", "change", "95% interval")

_LIMIT = re.compile(r"\s*([a-z]+)\s*([<>])\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*(%?)\s*")


@dataclass(frozen=True, kw_only=True)
class FigureLimit:
    """What a change must not be: below, or above, a value."""

    figure: str
    above: bool
    value: float
    percent: bool

    @classmethod
    def parse(cls, text: str) -> tuple[FigureLimit, ...]:
        """Return the limits in ``"psnr<-0.02,latency>5%"``.

        Raises:
            InputError: a part is no limit, or of an unknown figure.
        """
        found = []
        for part in text.split(","):
            match = _LIMIT.fullmatch(part)
            if match is None or match[1] not in PLACES:
                names = ", ".join(PLACES)
                raise InputError(
                    f"{part.strip()!r} is no limit; expected a figure ({names}), < or >, and a number, with "
                    "% for a relative change: psnr<-0.02, latency>5%"
                )
            found.append(
                cls(figure=match[1], above=match[2] == ">", value=float(match[3]), percent=match[4] == "%")
            )
        return tuple(found)

    def __str__(self) -> str:
        unit = "%" if self.percent else f" {PLACES[self.figure][1]}".rstrip()
        return f"{self.figure}{'>' if self.above else '<'}{self.value:g}{unit}"

    def broken_by(self, change: FigureChange) -> bool:
        """Say whether a change is of this figure, beyond the noise, and beyond the limit."""
        if change.figure != self.figure or not change.changed:
            return False
        moved = change.new - change.old
        if self.percent:
            moved = 100 * moved / abs(change.old) if change.old else float("inf") * np.sign(moved)
        return moved > self.value if self.above else moved < self.value


@dataclass(frozen=True, kw_only=True)
class FigureChange:
    """One figure of one case, before and after."""

    case: str
    figure: str
    """A key of :data:`PLACES`."""
    of: str
    """The set of images, of quality; empty for the others."""
    old: float
    new: float
    interval: tuple[float, float] | None = None
    """Of the ratio new over old, of times."""
    changed: bool
    """Beyond the noise, or beyond rounding where there is none."""

    @property
    def cells(self) -> list[str]:
        """Name, old and new value, the change, and the interval that it lies in."""
        digits, unit = PLACES[self.figure]
        name = _of(self.figure, self.of)
        moved = f"{self.new - self.old:+.{digits}f}"
        noise = ""
        if self.interval is not None:
            moved = f"{100 * (self.new / self.old - 1):+.1f}%"
            noise = " to ".join(f"{100 * (one - 1):+.1f}%" for one in self.interval)
        return [
            f"{name}, {unit}" if unit else name,
            f"{self.old:.{digits}f}",
            f"{self.new:.{digits}f}",
            moved,
            noise,
        ]

    def __str__(self) -> str:
        name, old, new, moved, noise = self.cells
        return f"{name} {old} -> {new} ({moved}{f', {noise}' if noise else ''})"


@dataclass(frozen=True, kw_only=True)
class BenchDiff:
    """What changed from one benchmark to another."""

    old: str
    new: str
    changes: tuple[FigureChange, ...]
    gone: tuple[str, ...]
    """Cases that only the old one has, or that failed in the new one alone."""
    failed: tuple[str, ...]
    """Cases that failed in the old one, and in the new one too."""
    added: tuple[str, ...]
    """Cases that only the new one has, or that failed in the old one alone."""
    missing: tuple[tuple[str, str, str], ...]
    """Case, figure and set of what the old one has and the new one lacks."""
    files: tuple[str, ...]
    """What is different about the files and how they ran, a sentence each."""
    machine: tuple[str, ...]
    """What is different about the machines, a sentence each."""

    def broken(self, limits: Sequence[FigureLimit]) -> list[str]:
        """Return what breaks a limit, a sentence each.

        A case that is gone breaks all limits, a figure that is gone those that are about it.

        Raises:
            InputError: a limit is about a figure that no case of both reports has: nothing could break it.
        """
        found = [
            f"{change.case}: {change} breaks {limit}"
            for change in self.changes
            for limit in limits
            if limit.broken_by(change)
        ]
        found += [
            f"{case}: {_of(figure, of)} is in the old report alone, which breaks {limit}"
            for case, figure, of in self.missing
            for limit in limits
            if limit.figure == figure
        ]
        found += [f"{case} has no figures any more" for case in self.gone if limits]
        compared = {change.figure for change in self.changes} | {figure for _, figure, _ in self.missing}
        idle = [str(limit) for limit in limits if limit.figure not in compared]
        if idle and not found:
            raise InputError(
                f"no case of both {self.old} and {self.new} has what {', '.join(idle)} is about: nothing was "
                f"compared; figures of both: {', '.join(sorted(compared)) or 'none'}",
                say("bench both with what measures it, or leave that limit out"),
            )
        return found

    def rows(self) -> list[list[str]]:
        """Return a row for each figure that changed, under :data:`HEADINGS`."""
        return [[change.case, *change.cells] for change in self.changes if change.changed]

    def sentences(self) -> list[str]:
        """Return what stands below the table."""
        still = sum(not change.changed for change in self.changes)
        lines = [f"{still} of {len(self.changes)} figures are within the noise, or equal"]
        lines += [f"gone or failed: {case}" for case in self.gone]
        lines += [f"failed in both: {case}" for case in self.failed]
        lines += [f"new, or failed before: {case}" for case in self.added]
        for case in dict.fromkeys(case for case, _, _ in self.missing):
            lost = ", ".join(_of(figure, of) for name, figure, of in self.missing if name == case)
            lines.append(f"{case}: in the old report alone: {lost}")
        return [*lines, *self.files, *self.machine, TEST]

    def markdown(self, broken: Sequence[str] = (), limits: Sequence[FigureLimit] = ()) -> str:
        """Return a summary for a pull request; with ``limits``, whether they hold stands first."""
        lines = [f"### Benchmark: {self.old} -> {self.new}", ""]
        if limits:
            state = f"**{counted(len(broken), 'limit')} broken**" if broken else "**Within all limits**"
            lines += [f"{state}: {', '.join(map(str, limits))}", "", *(f"- {text}" for text in broken)]
            lines += [""] if broken else []
        if self.rows():
            lines += [*markdown_table(HEADINGS, self.rows()), ""]
        return "\n".join([*lines, *(f"- {text}" for text in self.sentences())]) + "\n"


def diff_reports(old: Path, new: Path) -> BenchDiff:
    """Compare two JSON reports of ``bench``, case by case.

    Raises:
        InputError: a file is no such report, or they were measured at other sizes, or a set of one name has
            other images.
    """
    before, after = _load(old), _load(new)
    if before["size"] != after["size"]:
        sizes = [f"{one['size']['width']}x{one['size']['height']}" for one in (before, after)]
        raise InputError(
            f"{old} was measured at {sizes[0]} and {new} at {sizes[1]}: times of other sizes do not compare",
            say("bench both at one size"),
        )
    _require_same_images((old, new), (before, after))
    cases = [{case["label"]: case for case in one["cases"]} for one in (before, after)]
    both = [label for label in cases[0] if label in cases[1]]
    failed = [label for label in both if cases[1][label]["failure"] and not cases[0][label]["failure"]]
    ran_again = [label for label in both if cases[0][label]["failure"] and not cases[1][label]["failure"]]
    changes: list[FigureChange] = []
    missing: list[tuple[str, str, str]] = []
    how = (
        {"model": one.get("model"), "one after the other": bool(one.get("one_after_the_other"))}
        for one in (before, after)
    )
    files = [*_different("", *how)]
    if "threads" in before and "threads" in after:  # older reports lack them
        files += _different("", *({"CPU threads": one["threads"]} for one in (before, after)))
    for label in both:
        if cases[0][label]["failure"] or cases[1][label]["failure"]:
            continue
        changes += _changes(label, cases[0][label], cases[1][label])
        left = _figures(cases[1][label])
        missing += [(label, *key) for key in _figures(cases[0][label]) if key not in left]
        files += _file_changes(label, cases[0][label], cases[1][label])
    machine = [*_different("", before["environment"], after["environment"], but=("load average",))]
    machine += _different("", *(_device(one) for one in (before, after)))
    machine += [
        f"{path.name}: the machine was busy, other programs used {one['busy_cores']:.1f} cores"
        for path, one in ((old, before), (new, after))
        if (one["busy_cores"] or 0) >= BUSY_CORES
    ]
    return BenchDiff(
        old=old.name,
        new=new.name,
        changes=tuple(changes),
        gone=(*(label for label in cases[0] if label not in cases[1]), *failed),
        failed=tuple(label for label in both if cases[0][label]["failure"] and cases[1][label]["failure"]),
        added=(*(label for label in cases[1] if label not in cases[0]), *ran_again),
        missing=tuple(missing),
        files=tuple(files),
        machine=tuple(machine),
    )


def median_ratio_interval(
    old: Sequence[Sequence[float]], new: Sequence[Sequence[float]], *, seed: int = 0
) -> tuple[float, float]:
    """Return the bootstrap interval of the ratio of two medians, new over old; see :data:`TEST`.

    Args:
        old: Samples by round, any unit.
        new: Likewise.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    draws = [_draw_medians([np.asarray(one) for one in rounds], rng) for rounds in (old, new)]
    ratios = draws[1] / draws[0]
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _draw_medians(rounds: Sequence[Any], rng: np.random.Generator) -> Any:
    medians = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        chosen = rng.integers(len(rounds), size=len(rounds))
        medians[index] = np.median(
            np.concatenate(
                [rounds[one][rng.integers(len(rounds[one]), size=len(rounds[one]))] for one in chosen]
            )
        )
    return medians


class _Latency(msgspec.Struct):
    median_ms: float
    rounds_seconds: Annotated[
        list[Annotated[list[float], msgspec.Meta(min_length=1)]], msgspec.Meta(min_length=1)
    ]


class _SetFigures(msgspec.Struct):
    psnr_y_db: float | None
    ssim_y: float | None
    worst_dpsnr_db: float | None
    images: int


class _Energy(msgspec.Struct):
    joules_per_frame: float | None = None


class _Case(msgspec.Struct):
    label: str
    backend: str
    precision: str
    device: str
    file: str | None
    sha256: str | None
    file_bytes: int | None
    peak_bytes: int | None
    latency: _Latency | None
    energy: _Energy | None
    session: dict[str, Any]
    quality: dict[str, _SetFigures]
    failure: str | None


class _Size(msgspec.Struct):
    height: int
    width: int


class _Report(msgspec.Struct):
    """What is read of a report without asking whether it is there."""

    size: _Size
    cases: list[_Case]
    environment: dict[str, Any]
    busy_cores: float | None
    bicubic: dict[str, _SetFigures] | None = None


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content["schema"]
        if schema == SCHEMA:
            msgspec.convert(content, _Report)
            return dict(content)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
        raise InputError(f"{path}: no JSON report of bench ({exc})") from exc
    raise InputError(
        f"{path}: its schema is {schema!r}, and reports of schema {SCHEMA} are compared",
        say("bench again with this version"),
    )


def _require_same_images(paths: Sequence[Path], reports: Sequence[Mapping[str, Any]]) -> None:
    """Refuse sets of one name that are of other images, as far as reports show it: number, and bicubic."""
    rows = [
        [report.get("bicubic") or {}, *(case["quality"] for case in report["cases"])] for report in reports
    ]
    counts = [{name: one.get("images") for row in each for name, one in row.items()} for each in rows]
    bicubic = [each[0] for each in rows]
    for name in sorted(counts[0].keys() & counts[1].keys()):
        numbers = [each[name] for each in counts]
        said = [counted(number, "image") for number in numbers]
        if numbers[0] == numbers[1]:
            if not all(name in each for each in bicubic):
                continue
            levels = [each[name]["psnr_y_db"] for each in bicubic]
            if None in levels or abs(levels[0] - levels[1]) < OTHER_IMAGES_DB:
                continue
            said = [f"images that bicubic interpolation enlarges with {level:.3f} dB" for level in levels]
        raise InputError(
            f"set {name} has {said[0]} in {paths[0]} and {said[1]} in {paths[1]}: figures of other images do "
            "not compare",
            say("bench both on the same images"),
        )


def _figures(case: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """Return what a case has of :data:`PLACES`, in their units, by figure and set of images."""
    found: dict[tuple[str, str], float | None] = {}
    for name, quality in case["quality"].items():
        for figure, key in (("psnr", "psnr_y_db"), ("ssim", "ssim_y"), ("worst", "worst_dpsnr_db")):
            found[figure, name] = quality[key]
    found["latency", ""] = case["latency"]["median_ms"] if case["latency"] else None
    for figure, value, factor in (
        ("memory", case["peak_bytes"], 1e-6),
        ("file", case["file_bytes"], 1e-6),
        ("energy", (case["energy"] or {}).get("joules_per_frame"), 1e3),
    ):
        found[figure, ""] = None if value is None else value * factor
    return {key: value for key, value in found.items() if value is not None}


def _changes(label: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[FigureChange]:
    after = _figures(new)
    for (figure, of), one in _figures(old).items():
        if (figure, of) not in after:
            continue
        two, interval = after[figure, of], None
        if figure == "latency":
            rounds = [case["latency"]["rounds_seconds"] for case in (old, new)]
            interval = median_ratio_interval(*rounds)
            changed = not interval[0] <= 1 <= interval[1]
        elif figure in _LEAST:
            changed = abs(two - one) >= _LEAST[figure]
        else:
            changed = abs(two - one) > (0.0 if figure == "file" else LEAST_SHARE) * one
        yield FigureChange(
            case=label, figure=figure, of=of, old=one, new=two, interval=interval, changed=changed
        )


def _of(figure: str, of: str) -> str:
    return f"{figure} on {of}" if of else figure


def _device(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the device reported before the first round; older reports state less."""
    before = (report.get("device") or {}).get("before") or {}
    found = {"device": before.get("title")} if before.get("gpu") else {}  # a CPU is in the environment
    for part, keys in _DEVICE.items():
        values = before.get(part) or {}
        found.update({f"{part} {key}": values[key] for key in keys if key in values})
    return found


def _file_changes(label: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    if old["sha256"] != new["sha256"]:
        yield f"{label}: other bytes, SHA-256 {_short(old['sha256'])} -> {_short(new['sha256'])}"
    keys = ("backend", "precision", "device", "file")
    yield from _different(f"{label}: ", {key: old[key] for key in keys}, {key: new[key] for key in keys})
    but = ("gpu_memory_bytes",)
    yield from _different(f"{label}: ", old["session"], new["session"], but=but)


def _different(
    start: str, old: Mapping[str, Any], new: Mapping[str, Any], *, but: Sequence[str] = ()
) -> Iterator[str]:
    for key in dict.fromkeys([*old, *new]):
        if key not in but and old.get(key) != new.get(key):
            yield f"{start}{key} {old.get(key, 'none')} -> {new.get(key, 'none')}"


def _short(sha256: str | None) -> str:
    return sha256[:12] if sha256 else "none"
