"""A benchmark without children: sessions that report their times, and boards whose power is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hasn_edge.bench.benchmark import run_benchmark
from hasn_edge.bench.board import Board
from hasn_edge.bench.case_process import Case, CaseHost
from hasn_edge.bench.options import BenchOptions
from hasn_edge.bench.report import BenchCase, BenchReport
from hasn_edge.evaluation.latency import Latency
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.hardware.power import Sample
from hasn_edge.runtime.session import Timing
from hasn_edge.spec import ModelSpec, Precision
from tests.support.fake_session import FakeSession

SPEC = ModelSpec(features=8, blocks=1)
ORIN = GpuFacts(
    name="Orin", compute_capability="8.7", total_memory_bytes=8 << 30, driver=None, cuda="12.6",
    integrated=True, l4t="36.4.3", sm_count=8,
)  # fmt: skip


class TimedSession(FakeSession):
    """Reports times like TensorRT's session; each call takes a millisecond longer than the one before."""

    backend = "tensorrt"

    def __init__(self, *args, mapped=False, **options):
        super().__init__(*args, **options)
        self.device = "cuda"
        self.count = 0
        self.mapped = mapped

    def times(self, x):
        self.run(x)
        self.count += 1
        gpu = self.count / 1000
        there, back = (None, None) if self.mapped else (0.1, 0.2)
        return Timing(total_s=gpu + 0.5, gpu_s=gpu, enqueue_s=0.05, to_device_s=there, to_host_s=back)

    def facts(self):
        return {
            "runtime": "TensorRT 10.3",
            "cuda": "cuda-python",
            "memory": "mapped, nothing copied" if self.mapped else "page-locked, copied",
            "graphs": False,
            "graphs_reason": "pycuda has no CUDA graphs",
        }


class InProcess:
    """Answers as a worker does, without a child: a fake session cannot be sent to one."""

    def __init__(self, case: Case, rig: BenchRig):
        self.case, self.rig = case, rig
        self.host = CaseHost(lambda frame=None: rig.open(case), tile=case.tile)

    def __enter__(self):
        self.rig.open_now.append(self.case.label)
        self.rig.log.append(tuple(self.rig.open_now))
        return self

    def __exit__(self, *exc):
        self.rig.open_now.remove(self.case.label)
        self.host.close()

    def open(self, size):
        return self.host.open(size)

    def time(self, *, warmup, at_least, seconds=0.2):
        return self.host.time(warmup, at_least, seconds)

    def facts(self):
        return self.host.facts()

    def peak_bytes(self):
        return 123_000_000

    def score(self, eval_set, *, framed=False):
        return self.host.score(eval_set, framed)


class Here(InProcess):
    """Opens a case as a child does, in this process: most of a child's time goes into loading PyTorch."""

    def __init__(self, case: Case):
        self.case, self.host = case, CaseHost(case.open, tile=case.tile)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.host.close()


class Steady:
    """Six watts in all, two of them the GPU's."""

    rails = ("VDD_IN", "VDD_GPU")
    total = ("VDD_IN",)
    closed = 0

    def read(self):
        return Sample(watts={"VDD_IN": 6.0, "VDD_GPU": 2.0}, celsius={"gpu": 50.0}, gpu_hertz=1e9)

    def close(self):
        self.closed += 1


@dataclass(frozen=True, kw_only=True)
class PoweredBoard(Board):
    """A board whose power is read from what the test gives, or not for the reason that it gives."""

    source: tuple[Any, str] = (None, "x")

    def power(self):
        return self.source


@dataclass
class BenchRig:
    """Runs benchmarks of an engine on a Jetson Orin Nano in this process."""

    board: Board
    engine: Path
    sessions: dict[str, Callable[[], FakeSession]] = field(default_factory=dict)
    """What makes the session of a case, by label; others get a timed session of one size."""
    free: int | None = 64 << 30
    """Free memory in bytes."""
    log: list[tuple[str, ...]] = field(default_factory=list)
    """The cases that were open each time another one was opened."""
    open_now: list[str] = field(default_factory=list)

    def open(self, case: Case) -> FakeSession:
        make = self.sessions.get(case.label)
        return make() if make else TimedSession(SPEC, precision=Precision.FP16, size=(48, 64))

    def run(self, power: tuple[Any, str] | None = None, **options: Any) -> BenchReport:
        """Bench the engine; ``power`` is what the board's ``power()`` returns, else its files are read."""
        board = self.board if power is None else PoweredBoard(**vars(self.board), source=power)
        return run_benchmark(
            BenchOptions(**{"artifacts": [self.engine], "device": "jetson", **options}),
            board=lambda kind: board,
            worker=lambda case: InProcess(case, self),
            free_bytes=lambda gpu: self.free,
        )


REFERENCE = Latency(rounds=((0.1, 0.3, 0.2), (0.4, 0.5)))
SLOW = Latency(rounds=((0.4, 0.4), (0.9, 0.9)))


def make_row(label: str, **fields) -> BenchCase:
    """Return a row of a report with these fields."""
    values = {
        "backend": "onnxruntime",
        "precision": "fp32",
        "file": f"{label}.onnx",
        "sha256": "0" * 64,
        "file_bytes": 1_750_000,
        "latency": REFERENCE,
        "peak_bytes": 512_000_000,
    }
    return BenchCase(label=label, **{**values, **fields})
