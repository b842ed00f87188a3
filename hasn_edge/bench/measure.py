"""Timing the cases in turns on one device, with its power read meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hasn_edge.bench.energy import IDLE_SECONDS, Energy, EnergyMeter
from hasn_edge.bench.plans import Plan
from hasn_edge.bench.worker import Worker
from hasn_edge.device.board import Board
from hasn_edge.device.clocks import full_clocks
from hasn_edge.device.power import PowerSampler, PowerTrace
from hasn_edge.latency import PARTS, Latency, Turn, latency_of

ROUNDS = 5
"""Turns that each case gets: a machine that slows down half-way slows all of them."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured."""

    runs: int
    """Timed calls of each case, at least."""
    seconds: float
    """Time that each case is timed for, at least."""
    warmup: int
    """Calls before the first timed one; one more before each further turn."""
    sustained_minutes: float | None = None
    """Time that each case runs without a pause after the turns."""
    set_clocks: bool = False
    """Run a Jetson's clocks at the power mode's maximum meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Sustained:
    """A case that ran without a pause."""

    minutes: float
    latency: Latency
    energy: Energy | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: the medians of ten equal parts instead of every sample."""
        samples = self.latency.seconds
        bounds = [len(samples) * part // 10 for part in range(11)]
        parts = [Latency(turns=(samples[a:b],)) for a, b in pairwise(bounds) if b > a]
        return {
            "minutes": self.minutes,
            "frames": len(samples),
            "median_ms": self.latency.median_ms,
            "p99_ms": self.latency.quantile_ms(0.99),
            "tenths_median_ms": [part.median_ms for part in parts],
            "energy": self.energy.to_dict() if self.energy else None,
        }


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of one timed case."""

    latency: Latency
    parts: Mapping[str, Latency] = field(default_factory=dict)
    """Durations inside a call, by name: see :class:`~hasn_edge.latency.Turn`."""
    energy: Energy | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    sustained: Sustained | None = None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """All cases, and the device before and after."""

    cases: tuple[Measured | None, ...]
    """In the order of the plans; ``None`` for those that are not timed."""
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    no_power: str
    """Why power was not read; empty where it was."""


def measure(
    plans: Sequence[Plan],
    workers: Sequence[Worker],
    board: Board,
    effort: Effort,
    progress: Callable[[str], None] = lambda text: None,
    *,
    processor: Effort | None = None,
) -> Measurement:
    """Time every case that is to be timed, in turns.

    Args:
        plans: The cases.
        workers: Their processes, opened, in the same order.
        board: What they run on.
        effort: How much is measured.
        progress: Called with what is under way.
        processor: How much is measured of a case that runs on the device's processor, where a frame may
            take seconds; ``effort`` where ``None``.

    Raises:
        UnsupportedError: clocks are to be set and cannot be.
        HasnEdgeError: a case failed.
    """
    timed = [index for index, plan in enumerate(plans) if plan.timed]
    with ExitStack() as stack:
        source, no_power = board.power()
        if source is not None:
            stack.callback(source.close)
        stack.enter_context(full_clocks() if effort.set_clocks else nullcontext())
        before = board.facts()
        idle: PowerTrace | None = None
        if source is not None:
            progress("reading power with nothing running")
            with PowerSampler(source) as sampler:
                time.sleep(IDLE_SECONDS)
            idle = sampler.trace()
        meters = {index: EnergyMeter(source) for index in timed}
        turns: dict[int, list[Turn]] = {index: [] for index in timed}
        for turn in range(ROUNDS):
            for index in timed:
                progress(f"timing {plans[index].case.label}, turn {turn + 1} of {ROUNDS}")
                much = effort if plans[index].case.device else processor or effort
                turns[index].append(_turn(workers[index], meters[index], much, first=turn == 0))
        sustained = {}
        if effort.sustained_minutes is not None:
            for index in timed:
                progress(f"running {plans[index].case.label} for {effort.sustained_minutes:g} minutes")
                sustained[index] = _sustain(
                    workers[index], EnergyMeter(source), effort.sustained_minutes, idle
                )
        after = board.facts()
    cases: list[Measured | None] = [None] * len(plans)
    for index in timed:
        whole = latency_of(turns[index])
        assert whole is not None
        parts = {name: part for name in PARTS if (part := latency_of(turns[index], name)) is not None}
        cases[index] = Measured(
            latency=whole,
            parts=parts,
            energy=meters[index].result(idle),
            facts=workers[index].facts(),
            sustained=sustained.get(index),
        )
    return Measurement(cases=tuple(cases), before=before, after=after, no_power=no_power)


def _turn(worker: Worker, meter: EnergyMeter, effort: Effort, *, first: bool) -> Turn:
    warmup = effort.warmup if first else 1
    share = -(-effort.runs // ROUNDS)
    with meter.reading():
        turn = worker.time(warmup=warmup, at_least=share, seconds=effort.seconds / ROUNDS)
    meter.count(warmup + len(turn.total))
    return turn


def _sustain(worker: Worker, meter: EnergyMeter, minutes: float, idle: PowerTrace | None) -> Sustained:
    with meter.reading():
        turn = worker.time(warmup=0, at_least=1, seconds=60 * minutes)
    meter.count(len(turn.total))
    return Sustained(minutes=minutes, latency=Latency(turns=(turn.total,)), energy=meter.result(idle))
