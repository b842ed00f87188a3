"""Which precision to ship, and why, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hasn_edge.bench.report import APART, BenchCase, BenchReport, disagree
from hasn_edge.bench.table import four_digits
from hasn_edge.quantize.recipe import QuantRecipe

LIMITS_DB = QuantRecipe().budget
"""Accepted loss of PSNR-Y of a file that states no limits, in dB: of each set's mean, and of one image."""

FASTER = 1.05
"""How many times as fast as the fastest FP32 case another has to be."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a benchmark says to ship."""

    case: BenchCase | None
    """``None`` where nothing was both timed and scored."""
    sentence: str


def verdict(report: BenchReport) -> Verdict:
    """Return the fastest case that keeps its file's limits on every set, FP32 where none is faster.

    A file that states none may lose :data:`LIMITS_DB`.

    Cases are compared by the median over rounds of the ratio within a round. The sentence states where the
    machine was busy.
    """
    found = _choose(report)
    if found.case is None or not report.busy:
        return found
    doubt = "The machine was busy: times of a free one may choose another case."
    return replace(found, sentence=f"{found.sentence} {doubt}")


def _choose(report: BenchReport) -> Verdict:
    def quickest(cases: Sequence[BenchCase]) -> BenchCase:
        return min(cases, key=lambda case: _seconds(report, case))

    own = [case for case in report.cases if case.network is None]
    timed = [case for case in own if case.latency is not None and case.failure is None]
    if not timed:
        return Verdict(case=None, sentence="Nothing was timed, so that nothing can be said of what to ship.")
    base = quickest([case for case in timed if case.precision == "fp32"] or timed[:1])
    others = [case for case in timed if case.precision != "fp32" and case is not base]
    kept = [case for case in others if not _missed(case)]
    if not others:
        why = "No other precision was measured"
    elif not kept:
        quick = quickest(others)
        why = f"{quick.label} {_missed(quick)}"
    else:
        best = quickest(kept)
        times = _seconds(report, base) / _seconds(report, best)
        faster = f"{times:.2f}x as fast"
        if times < FASTER:
            why = f"{best.label} is {'only ' if times > 1 else ''}{faster}"
        elif _disagree(base, best):
            why = (
                f"{best.label} is {faster}, but the rounds disagree by more than {APART:.0%}: measure again "
                "on a quiet machine"
            )
        else:
            what = "the fastest in FP32" if base.precision == "fp32" else "the reference"
            sentence = f"{_ship(best)}, {faster} as {base.label}, {what}{_costs(best)}."
            return Verdict(case=best, sentence=sentence)
    return Verdict(case=base, sentence=f"{_ship(base)}. {why}.")


def _seconds(report: BenchReport, case: BenchCase) -> float:
    reference = report.cases[0].latency
    assert case.latency is not None
    return case.latency.median_ms if reference is None else case.latency.times(reference)


def _missed(case: BenchCase) -> str:
    """Return which of its limits a case misses, or that it was not scored; nothing where it keeps both."""
    losses = [-one.dpsnr_db for one in case.quality.values() if one.dpsnr_db is not None]
    if not losses:
        return "was not scored"
    mean, worst = LIMITS_DB
    if case.budget_db is not None:
        mean, worst = QuantRecipe(budget_db=case.budget_db, max_drop_worst=case.budget_worst_db).budget
    if not max(losses) <= mean:
        return f"loses {max(losses):.3f} dB, more than {mean:g}"
    images = [
        (-one.worst_dpsnr_db, one.worst_image)
        for one in case.quality.values()
        if one.worst_dpsnr_db is not None
    ]
    loss, image = max(images, default=(0.0, ""))
    return "" if loss <= worst else f"loses {loss:.3f} dB on one image, {image}, more than {worst:g}"


def _ship(case: BenchCase) -> str:
    assert case.latency is not None
    file = f" ({case.file})" if case.file and case.file not in case.label else ""
    quality = "".join(f", {one.psnr_y_db:.3f} dB on {name}" for name, one in case.quality.items())
    return f"Ship {case.label}{file}: {four_digits(case.latency.median_ms)} ms a frame{quality}"


def _costs(case: BenchCase) -> str:
    costs = ", ".join(
        f"{one.dpsnr_db:+.3f} dB on {name} (worst image {one.worst_dpsnr_db:+.3f})"
        for name, one in case.quality.items()
        if one.dpsnr_db is not None and one.worst_dpsnr_db is not None
    )
    return costs and f", for {costs}"


def _disagree(base: BenchCase, best: BenchCase) -> bool:
    assert base.latency is not None
    assert best.latency is not None
    return disagree(best.latency.ratios(base.latency))
