"""Timing cases on one device, in rounds, with its power read meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import Any

from hasn_edge.bench.board import Board
from hasn_edge.bench.case_process import Worker
from hasn_edge.bench.energy import IDLE_SECONDS, Energy, EnergyMeter
from hasn_edge.bench.options import TimingOptions
from hasn_edge.errors import HasnEdgeError
from hasn_edge.evaluation.latency import PARTS, Latency, Round, latency_of
from hasn_edge.hardware.clocks import full_clocks
from hasn_edge.hardware.host import busy_cpu_seconds
from hasn_edge.hardware.power import PowerSampler, PowerSource, PowerTrace
from hasn_edge.progress import Progress, Step, ignore

ROUNDS = 5
"""Rounds in which every case is timed: a machine that slows down half-way slows all of them."""


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


class Timer:
    """Times cases on one device, with its power read meanwhile. Use as a context manager, for one stretch.

    Args:
        board: What the cases run on.
        options: How much is measured.
        progress: Receives what is under way.
        cpu: How much is measured of a case that runs on the device's CPU, where a frame may take seconds;
            ``options`` where ``None``.
    """

    def __init__(
        self,
        board: Board,
        options: TimingOptions,
        progress: Progress = ignore,
        *,
        cpu: TimingOptions | None = None,
    ) -> None:
        self._board, self._options, self._progress = board, options, progress
        self._cpu = cpu or options
        self._stack = ExitStack()
        self._source: PowerSource | None = None
        self._idle: PowerTrace | None = None
        self.before: Mapping[str, Any] = {}
        """What the device reported before the first round."""
        self.after: Mapping[str, Any] = {}
        """The same after the last one."""
        self.no_power = ""
        """Why power was not read; empty where it was."""
        self.busy_cores: float | None = None
        """How many cores worked before the first round, when nothing of the benchmark ran."""

    def __enter__(self) -> Timer:
        """Find the power's source, set the clocks where asked, and see what the idle machine does.

        Raises:
            UnsupportedError: clocks are to be set and cannot be.
        """
        with ExitStack() as stack:
            self._source, self.no_power = self._board.power()
            if self._source is not None:
                stack.callback(self._source.close)
            stack.enter_context(full_clocks() if self._options.set_clocks else nullcontext())
            self.before = self._board.facts()
            self._progress(Step("looking at the machine with nothing running"))
            begun, worked = time.perf_counter(), busy_cpu_seconds()
            with PowerSampler(self._source) if self._source else nullcontext() as sampler:
                time.sleep(IDLE_SECONDS)
            self._idle = sampler.trace() if sampler else None
            if worked is not None:
                self.busy_cores = ((busy_cpu_seconds() or 0) - worked) / (time.perf_counter() - begun)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the clocks back."""
        self._stack.close()

    def time(self, workers: Sequence[Worker]) -> list[Measured | HasnEdgeError | None]:
        """Time the cases that are to be timed, in rounds, and return what was measured of each.

        Args:
            workers: One process for each case, opened.

        Returns:
            In the order of ``workers``; the error of a case that failed, which is left out from then on;
            ``None`` for a case that is not timed.
        """
        timed = [worker for worker in workers if worker.case.timed]
        failed: dict[Worker, HasnEdgeError] = {}

        @contextmanager
        def attempt(worker: Worker) -> Iterator[None]:
            try:
                yield
            except HasnEdgeError as exc:
                failed[worker] = exc
                timed.remove(worker)

        meters = {worker: EnergyMeter(self._source) for worker in timed}
        rounds: dict[Worker, list[Round]] = {worker: [] for worker in timed}
        for index in range(ROUNDS):
            for worker in tuple(timed):
                self._progress(Step(f"timing {worker.case.label}, round {index + 1} of {ROUNDS}"))
                options = self._options if worker.case.on_gpu else self._cpu
                with attempt(worker):
                    rounds[worker].append(_time_round(worker, meters[worker], options, first=index == 0))
        sustained = {}
        minutes = self._options.sustained_minutes
        if minutes is not None:
            for worker in tuple(timed):
                self._progress(Step(f"running {worker.case.label} for {minutes:g} min"))
                with attempt(worker):
                    sustained[worker] = _sustain(worker, EnergyMeter(self._source), minutes, self._idle)
        self.after = self._board.facts()
        measured: dict[Worker, Measured | HasnEdgeError] = {}
        for worker in tuple(timed):
            whole = latency_of(rounds[worker])
            assert whole is not None
            parts = {name: latency_of(rounds[worker], name) for name in PARTS}
            with attempt(worker):
                measured[worker] = Measured(
                    latency=whole,
                    parts={name: part for name, part in parts.items() if part is not None},
                    energy=meters[worker].result(self._idle),
                    facts=worker.facts(),
                    sustained=sustained.get(worker),
                )
        return [failed.get(worker) or measured.get(worker) for worker in workers]


def _time_round(worker: Worker, meter: EnergyMeter, options: TimingOptions, *, first: bool) -> Round:
    warmup = options.warmup if first else 1
    share = -(-options.runs // ROUNDS)
    with meter.reading():
        found = worker.time(warmup=warmup, at_least=share, seconds=options.seconds / ROUNDS)
    meter.count(warmup + len(found.total))
    return found


def _sustain(worker: Worker, meter: EnergyMeter, minutes: float, idle: PowerTrace | None) -> Sustained:
    with meter.reading():
        found = worker.time(warmup=0, at_least=1, seconds=60 * minutes)
    meter.count(len(found.total))
    return Sustained(minutes=minutes, latency=Latency(rounds=(found.total,)), energy=meter.result(idle))
