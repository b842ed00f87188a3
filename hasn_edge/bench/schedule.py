"""All cases open at once and timed in rounds, or, where memory would not suffice, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from hasn_edge.bench.board import Board
from hasn_edge.bench.case_process import Case, Worker
from hasn_edge.bench.measure import Measured, Timer
from hasn_edge.bench.table import GAP
from hasn_edge.data.pairs import EvalSet
from hasn_edge.engine.worker_process import run_python
from hasn_edge.errors import HasnEdgeError
from hasn_edge.evaluation.evaluate import Scores
from hasn_edge.hardware import host
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.progress import Progress, Step, ignore
from hasn_edge.runtime.memory import bytes_per_pixel
from hasn_edge.spec import NetworkSpec

INTEGRATED_BYTES = 2_000_000_000
"""What a process with CUDA takes of a Jetson's one memory before its first frame: interpreter, libraries with
their kernels, context. Two reports state 2 GB: ONNX Runtime with TensorRT on a Jetson Nano
(github.com/microsoft/onnxruntime/issues/4259), PyTorch with cuDNN (github.com/pytorch/pytorch/issues/12873).
Not measured by us; newer CUDA loads kernels when they are needed and may take less."""

CARD_BYTES = 500_000_000
"""What its context takes of a card's own memory: 0.3 GB with CUDA 11.7 and newer, more before
(github.com/pytorch/pytorch/issues/107667); rounded up."""

FREE_S = 60.0
"""Seconds that a card has to tell its free memory; one that takes longer counts as unknown."""


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """A case that ran, or did not."""

    case: Case
    facts: Mapping[str, Any]
    """Backend, precision and device, as its worker reports them."""
    measured: Measured | None
    peak_bytes: int | None
    scores: Sequence[Scores]
    failure: HasnEdgeError | None = None
    """Why it did not run, or not to its end; of the first case never."""


@dataclass(frozen=True, kw_only=True)
class BenchSchedule:
    """What is done with every case, and in which order."""

    cases: Sequence[Case]
    timer: Timer
    size: tuple[int, int]
    sets: Sequence[EvalSet]
    framed: bool
    """Every image has the size that the case is opened for."""
    progress: Progress = ignore
    worker: Callable[[Case], Worker] = Worker
    """Makes the process of a case."""

    def run(self, *, apart: bool) -> Generator[CaseResult, None, None]:
        """Yield every case when it is done; close the generator to end what is still open.

        Args:
            apart: One after the other; otherwise all are open at once.

        A case that fails is a result that states so, and the others go on.

        Raises:
            HasnEdgeError: the first case failed, which all others are compared with.
        """
        return self._run_apart() if apart else self._run_together()

    def _run_together(self) -> Generator[CaseResult, None, None]:
        """Open all, time them in rounds, score them."""
        with ExitStack() as stack:
            opened = [self._open(stack, case) for case in self.cases]
            with self.timer:
                measured = iter(self.timer.time([one[0] for one in opened if isinstance(one, tuple)]))
            for one in opened:
                yield self._result(*one, next(measured)) if isinstance(one, tuple) else one

    def _run_apart(self) -> Generator[CaseResult, None, None]:
        """Open each when the one before it is closed; its rounds follow each other."""
        with self.timer:
            for case in self.cases:
                with ExitStack() as stack:
                    one = self._open(stack, case)
                    if isinstance(one, tuple):
                        (measured,) = self.timer.time([one[0]])
                        one = self._result(*one, measured)
                yield one

    def _open(self, stack: ExitStack, case: Case) -> tuple[Worker, Mapping[str, Any]] | CaseResult:
        if case.failure is not None:
            return self._failed(case, case.failure)
        self.progress(Step(f"opening {case.label}"))
        with ExitStack() as own:  # what does not open is closed at once
            worker = own.enter_context(self.worker(case))
            try:
                facts = worker.open(self.size)
            except HasnEdgeError as exc:
                return self._failed(case, exc)
            stack.enter_context(own.pop_all())
        return worker, facts

    def _result(
        self, worker: Worker, facts: Mapping[str, Any], measured: Measured | HasnEdgeError | None
    ) -> CaseResult:
        if isinstance(measured, HasnEdgeError):
            return self._failed(worker.case, measured)
        self.progress(Step(f"scoring {worker.case.label}"))
        try:
            peak = worker.peak_bytes()
            other = worker.case.network
            sets = self.sets if other is None or other.trained else ()
            scores = [worker.score(eval_set, framed=self.framed) for eval_set in sets]
        except HasnEdgeError as exc:
            return self._failed(worker.case, exc)
        return CaseResult(case=worker.case, facts=facts, measured=measured, peak_bytes=peak, scores=scores)

    def _failed(self, case: Case, failure: HasnEdgeError) -> CaseResult:
        """Return the result of a case that failed; nothing is worth more without the first."""
        if case is self.cases[0]:
            raise failure
        kind = case.artifact.kind if case.artifact else None
        precision = case.artifact.precision.value if case.artifact else case.precision
        facts = {"backend": kind.value if kind else GAP, "precision": precision, "device": case.device or GAP}
        return CaseResult(case=case, facts=facts, measured=None, peak_bytes=None, scores=(), failure=failure)


def why_apart(
    cases: Sequence[Case],
    board: Board,
    spec: NetworkSpec,
    size: tuple[int, int],
    free_bytes: Callable[[GpuFacts], int | None],
) -> str:
    """Return why the cases cannot be open at once; empty where they can, or where nothing is known.

    On a CPU they always are: a case takes a few hundred megabytes there.
    """
    gpu = board.gpu
    if gpu is None or len(cases) < 2:
        return ""
    here = cases if gpu.integrated else [case for case in cases if case.on_gpu]
    frame = bytes_per_pixel(spec, "pytorch") * size[0] * size[1]  # the most that any backend takes
    need = len(here) * ((INTEGRATED_BYTES if gpu.integrated else CARD_BYTES) + frame)
    free = free_bytes(gpu)
    if free is None or need <= free:
        return ""
    return f"{len(here)} open at once need an estimated {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"


def free_bytes(gpu: GpuFacts) -> int | None:
    """Return the free memory of a GPU; ``None`` where it cannot be asked for."""
    if gpu.integrated:
        return host.available_memory_bytes()
    # In a process of its own: asking takes a context, which would stay in the memory that is asked about.
    code = "from hasn_edge.engine.device_memory import DeviceMemory; print(DeviceMemory().free_bytes())"
    try:
        return int(run_python("-c", code, limit_s=FREE_S).output)
    except (HasnEdgeError, ValueError):
        return None
