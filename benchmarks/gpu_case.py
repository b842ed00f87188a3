"""One way to run a network on a GPU, timed on the GPU and host to host: what benchmarks/gpu.py is made of."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hasn_edge.bench.energy import EnergyMeter
from hasn_edge.errors import HasnEdgeError
from hasn_edge.evaluation.latency import Latency, Round, time_session
from hasn_edge.hardware.power import PowerSource
from hasn_edge.runtime.open import open_session
from hasn_edge.runtime.session import Session

WARMUP = 10
"""Calls before the first timed one."""

Output = np.ndarray
Call = Callable[[], torch.Tensor]


@dataclass(kw_only=True)
class Case:
    """One way to run one network at one size; ``error`` is why it did not, or what is wrong with it."""

    label: str
    precision: str
    graphs: bool = False
    gpu: Latency | None = None
    host: Latency | None = None
    enqueue: Latency | None = None
    output: Output | None = None
    joules_per_frame: float | None = None
    facts: dict[str, Any] | None = None
    error: str | None = None
    refused: tuple[str, ...] = ()
    """What refused this case in another form before it was built in the one that ran."""

    def fail(self, reason: str) -> None:
        """Keep why it did not run, and no figure of it."""
        self.error = reason
        self.gpu = self.host = self.enqueue = self.output = None

    @property
    def finite(self) -> bool:
        """Whether there is an output, all of whose values are numbers."""
        return self.output is not None and bool(np.isfinite(self.output).all())

    def difference(self, reference: Output | None) -> tuple[float, float] | None:
        """Return the largest difference from ``reference`` and the PSNR of it in dB; of numbers alone."""
        if reference is None or self.output is None or not self.finite:
            return None
        delta = np.abs(self.output.astype(np.float64) - reference)
        mean = float(np.mean(delta**2))
        return float(delta.max()), math.inf if mean == 0 else -10 * math.log10(mean)

    def to_dict(self, reference: Output | None) -> dict[str, Any]:
        """Return plain JSON values."""
        error = self.error
        if error is None and self.output is not None and not self.finite:
            wrong = np.count_nonzero(~np.isfinite(self.output))
            error = f"{wrong} of {self.output.size} values of its output are no numbers (NaN or infinity)"
        largest, psnr = self.difference(reference) or (None, None)
        return {
            "label": self.label,
            "precision": self.precision,
            "cuda_graphs": self.graphs,
            **{name: _figures(getattr(self, name)) for name in ("gpu", "host", "enqueue")},
            "max_abs_difference": largest,
            "psnr_db": None if psnr is None or math.isinf(psnr) else psnr,
            "joules_per_frame": self.joules_per_frame,
            "session": self.facts,
            "error": error,
            "refused": list(self.refused),
        }


@dataclass(kw_only=True)
class Bench:
    """What the cases share: the device, how long is measured, and where power is read."""

    device: str
    seconds: float
    runs: int
    source: PowerSource | None

    @property
    def rehearsal(self) -> bool:
        """Whether this is the CPU standing in for a GPU."""
        return self.device == "cpu"

    def module(self, case: Case, module: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
        """Time a module on a tensor that lies on the device, then host to host."""
        call = self._captured(module, x) if case.graphs else lambda: module(x)
        for _ in range(WARMUP):
            result = call()
        self._wait()
        case.output = result.to("cpu", torch.float32).numpy().copy()
        case.gpu = self._repeat(lambda: self._between_events(call))
        array = x.to("cpu", torch.float32).numpy()

        def host() -> float:
            begin = time.perf_counter()
            x.copy_(torch.from_numpy(array))
            call().to("cpu", torch.float32).numpy()
            return time.perf_counter() - begin

        meter = EnergyMeter(self.source)
        with meter.reading():
            case.host = self._repeat(host)
        meter.count(len(case.host.seconds))
        self._energy(case, meter)

    def session(self, case: Case, path: Path, x: Output, *, mapped: bool | None = None) -> None:
        """Time an artifact through its session; ``mapped`` is for engines."""
        device = None if self.rehearsal else "cuda"
        with open_session(path, device=device, frame=(x.shape[2], x.shape[3]), mapped=mapped) as session:
            self.opened(case, session, x)

    def opened(self, case: Case, session: Session, x: Output) -> None:
        """Time an open session."""
        time_session(session, x, at_least=WARMUP, seconds=0)
        case.output = session.run(x)
        meter = EnergyMeter(self.source)
        with meter.reading():
            timed = time_session(session, x, at_least=self.runs, seconds=self.seconds)
        meter.count(len(timed.total))
        case.host = Latency(rounds=(timed.total,))
        case.gpu, case.enqueue = _part(timed, "gpu"), _part(timed, "enqueue")
        case.facts = session.facts() or None
        case.graphs = bool(case.facts and case.facts.get("graphs"))
        self._energy(case, meter)

    def _captured(self, module: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Call:
        """Return a call that replays a CUDA graph of ``module`` on ``x``."""
        if self.rehearsal:
            raise HasnEdgeError("CUDA graphs need a GPU")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # TorchScript specialises itself in its first calls
                module(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = module(x)

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay

    def _between_events(self, call: Call) -> float:
        if self.rehearsal:
            begin = time.perf_counter()
            call()
            return time.perf_counter() - begin
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def _repeat(self, once: Callable[[], float]) -> Latency:
        samples: list[float] = []
        begin = time.perf_counter()
        while len(samples) < self.runs or time.perf_counter() - begin < self.seconds:
            samples.append(once())
        return Latency(rounds=(tuple(samples),))

    def _wait(self) -> None:
        if not self.rehearsal:
            torch.cuda.synchronize()

    def _energy(self, case: Case, meter: EnergyMeter) -> None:
        found = meter.result()
        case.joules_per_frame = found.joules_per_frame if found else None


def _part(timed: Round, name: str) -> Latency | None:
    samples = getattr(timed, name)
    return Latency(rounds=(samples,)) if samples else None


def _figures(latency: Latency | None) -> dict[str, Any] | None:
    if latency is None:
        return None
    return {
        "median_ms": latency.median_ms,
        "p90_ms": latency.quantile_ms(0.9),
        "p99_ms": latency.quantile_ms(0.99),
        "std_ms": latency.std_ms,
        "tenths_ms": latency.tenths_ms,
        "samples": len(latency.seconds),
    }
