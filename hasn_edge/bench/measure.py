"""Timing cases on one device, in turns, with its power read meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import Any

from hasn_edge.bench.board import Board
from hasn_edge.bench.cases import Plan
from hasn_edge.bench.energy import IDLE_SECONDS, Energy, EnergyMeter
from hasn_edge.bench.worker import Worker
from hasn_edge.evaluation.latency import PARTS, Latency, Round, latency_of
from hasn_edge.hardware.clocks import full_clocks
from hasn_edge.hardware.power import PowerSampler, PowerSource, PowerTrace

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
        parts = [Latency(rounds=(samples[a:b],)) for a, b in pairwise(bounds) if b > a]
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
    """Durations inside a call, by name: see :class:`~hasn_edge.evaluation.latency.Round`."""
    energy: Energy | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    sustained: Sustained | None = None


class Stopwatch:
    """Times cases on one device, with its power read meanwhile. Use as a context manager, for one stretch.

    Args:
        board: What the cases run on.
        effort: How much is measured.
        progress: Called with what is under way.
        cpu: How much is measured of a case that runs on the device's CPU, where a frame may
            take seconds; ``effort`` where ``None``.
    """

    def __init__(
        self,
        board: Board,
        effort: Effort,
        progress: Callable[[str], None] = lambda text: None,
        *,
        cpu: Effort | None = None,
    ) -> None:
        self._board, self._effort, self._progress = board, effort, progress
        self._cpu = cpu or effort
        self._stack = ExitStack()
        self._source: PowerSource | None = None
        self._idle: PowerTrace | None = None
        self.before: Mapping[str, Any] = {}
        """What the device said of itself before the first turn."""
        self.after: Mapping[str, Any] = {}
        """The same after the last one."""
        self.no_power = ""
        """Why power was not read; empty where it was."""

    def __enter__(self) -> Stopwatch:
        """Find the power's source, set the clocks where that is asked for, and read the idle power.

        Raises:
            UnsupportedError: clocks are to be set and cannot be.
        """
        with ExitStack() as stack:
            self._source, self.no_power = self._board.power()
            if self._source is not None:
                stack.callback(self._source.close)
            stack.enter_context(full_clocks() if self._effort.set_clocks else nullcontext())
            self.before = self._board.facts()
            if self._source is not None:
                self._progress("reading power with nothing running")
                with PowerSampler(self._source) as sampler:
                    time.sleep(IDLE_SECONDS)
                self._idle = sampler.trace()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the clocks back."""
        self._stack.close()

    def time(self, cases: Sequence[tuple[Plan, Worker]]) -> list[Measured | None]:
        """Time those that are to be timed, in turns, and return what was measured of each.

        Args:
            cases: Each with its process, opened.

        Returns:
            In the order of ``cases``; ``None`` for those that are not timed.

        Raises:
            HasnEdgeError: a case failed.
        """
        timed = {index: case for index, case in enumerate(cases) if case[0].timed}
        meters = {index: EnergyMeter(self._source) for index in timed}
        turns: dict[int, list[Round]] = {index: [] for index in timed}
        for turn in range(ROUNDS):
            for index, (plan, worker) in timed.items():
                self._progress(f"timing {plan.case.label}, turn {turn + 1} of {ROUNDS}")
                much = self._effort if plan.case.device else self._cpu
                turns[index].append(_turn(worker, meters[index], much, first=turn == 0))
        sustained = {}
        minutes = self._effort.sustained_minutes
        if minutes is not None:
            for index, (plan, worker) in timed.items():
                self._progress(f"running {plan.case.label} for {minutes:g} minutes")
                sustained[index] = _sustain(worker, EnergyMeter(self._source), minutes, self._idle)
        self.after = self._board.facts()
        found: list[Measured | None] = [None] * len(cases)
        for index, (_, worker) in timed.items():
            whole = latency_of(turns[index])
            assert whole is not None
            found[index] = Measured(
                latency=whole,
                parts={name: part for name in PARTS if (part := latency_of(turns[index], name)) is not None},
                energy=meters[index].result(self._idle),
                facts=worker.facts(),
                sustained=sustained.get(index),
            )
        return found


def _turn(worker: Worker, meter: EnergyMeter, effort: Effort, *, first: bool) -> Round:
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
    return Sustained(minutes=minutes, latency=Latency(rounds=(turn.total,)), energy=meter.result(idle))
