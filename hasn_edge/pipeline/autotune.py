"""Build several precisions for one target, time them in rounds, and keep the fastest whose quality passes.

With a limit on the latency it is the best in quality of those that are fast enough. On a CPU each of them is
run by each backend, and held to its budget as that backend computes it.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import msgspec
from numpy.typing import NDArray

from hasn_edge.artifact import Artifact, load_artifact
from hasn_edge.data.pairs import held_out_sets
from hasn_edge.engine.target import EngineRuntime, EngineTarget, rtx_target_for
from hasn_edge.errors import (
    ArtifactError,
    BuildError,
    HasnEdgeError,
    MissingDependencyError,
    OutOfMemoryError,
    UnsupportedError,
    VerificationError,
    omit,
    say,
    use,
)
from hasn_edge.evaluation.evaluate import Drift, Scores, drift, score_session
from hasn_edge.evaluation.latency import Latency, Round, latency_of, noise_frame, time_session
from hasn_edge.files import require_writable, writing
from hasn_edge.hardware.gpu import GpuFacts, gpu_facts
from hasn_edge.hardware.host import has_bf16
from hasn_edge.pipeline.acceptance import FP16_BUDGET
from hasn_edge.pipeline.build import Built, build_one, default_target
from hasn_edge.pipeline.context import CACHE, BuildOptions
from hasn_edge.pipeline.inspection import megabytes, of_images
from hasn_edge.progress import Progress, Step, ignore
from hasn_edge.runtime.choice import describe_machine
from hasn_edge.runtime.cuda.start import start_cuda
from hasn_edge.runtime.open import GraphBackend, open_session
from hasn_edge.runtime.session import Session
from hasn_edge.sidecar import AutotuneRecord, EngineDetails
from hasn_edge.spec import Precision

WORTH = 1.03
"""How many times as fast a coarser number format must be to be worth what it loses."""

EQUAL_DB = 0.001
"""Losses that differ by no more are the same: what is measured twice on two machines differs by as much."""

BACKEND_WORTH = 0.02
"""What is added to that for another backend than ONNX Runtime, which is always there."""

ROUNDS, CALLS, SECONDS = 5, 5, 0.3
"""Rounds in which each candidate is timed, and what a candidate gets of a round at least."""

CANDIDATES = Path(CACHE, "candidates")
"""Where the candidates lie, below the output folder: the next ``auto`` finds engines that did not change."""

OF_ONE_PRECISION = (VerificationError, BuildError, ArtifactError, UnsupportedError, OutOfMemoryError)
"""What one precision may fail with while another one can be built: some TensorRTs fail to build INT8 at all,
and an engine may compute something else than its graph."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One precision, built and timed; on a CPU by one backend."""

    built: Built
    latency: Latency
    """Of calls of so many :attr:`images`."""
    images: int = 1
    backend: GraphBackend | None = None
    """``None`` where only one runs it."""
    name: str = ""
    """What it is called: the precision where no backend was chosen."""
    change: Drift | None = None
    """What it loses as this backend computes it; ``None`` for what its file states."""

    @property
    def artifact(self) -> Artifact:
        """The file that runs."""
        return self.built.artifacts[-1]

    @property
    def change_db(self) -> float | None:
        """Change of PSNR-Y in the mean of the part that loses the most; ``None`` for the reference."""
        if self.change is not None:
            return self.change.dpsnr
        measured = self.artifact.details.measured
        return min((part.dpsnr_db for part in measured.parts), default=None) if measured else None

    @property
    def loss_db(self) -> float:
        """What it loses: 0 for the reference, and for what gains."""
        return max(0.0, -(self.change_db or 0.0))

    def describe(self) -> str:
        """Return what was measured of it, as words."""
        quality = ", the reference" if self.change_db is None else f", {self.change_db:+.4f} dB"
        return f"{self.called} {self.takes}{quality}"

    @property
    def takes(self) -> str:
        """The median latency of a call, as words."""
        return f"{self.latency.median_ms:.2f} ms{of_images(self.images)}"

    @property
    def called(self) -> str:
        """What it is called in sentences."""
        return self.name or self.artifact.precision.value


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One precision that could not be built, or does not run."""

    precision: Precision
    error: HasnEdgeError
    backend: GraphBackend | None = None
    """What did not run it."""

    def as_error(self) -> HasnEdgeError:
        """Return the error with the precision in its message."""
        place = f"{self.precision.value}{f' by {self.backend}' if self.backend else ''} is left out"
        if self.backend is None or isinstance(self.error, MissingDependencyError):
            return self.error.within(place)
        # Another backend, which is the usual cure, was tried beside it.
        return BuildError(f"{place}: {self.error.message}")


def autotune(
    options: BuildOptions,
    progress: Progress = ignore,
    *,
    build: Callable[..., Built] = build_one,
    open_one: Callable[..., Session] = open_session,
    seconds: float = SECONDS,
) -> Built:
    """Build what :func:`hasn_edge.pipeline.build.build_one` builds, in the precision that is fastest here.

    With :attr:`BuildOptions.max_latency` in the one that loses the least among those that are fast enough.

    FP16 and INT8; on a CPU FP32 and INT8, each by ONNX Runtime, by OpenVINO and by OpenVINO in BF16. A
    precision that misses its budget, that the compiler cannot build, or whose engine does not compute what
    its graph does, is left out as long as another one remains. A coarser one is kept only where it is at
    least :data:`WORTH` times as fast as the finer one, and with :data:`BACKEND_WORTH` more where it needs
    another backend than ONNX Runtime. The sidecar of the file that runs records the choice for this machine,
    see :func:`hasn_edge.runtime.choice.find_choice`.

    Args:
        options: What is built; every precision takes the rest of them.
        progress: Receives what is under way.
        build: Builds one precision, as :func:`~hasn_edge.pipeline.build.build_one`.
        open_one: Opens a file, as :func:`~hasn_edge.runtime.open.open_session`.
        seconds: How long a candidate runs in each round, at least.

    Returns:
        The files that were kept; the summary states what each candidate took and lost, and why this one.

    Raises:
        NoCudaError: no Python package for CUDA works here, which running an engine needs.
        UnsupportedError: what is built for the target cannot run on this machine, or no precision can be
            built for it.
        VerificationError: every candidate missed its budget.
        BuildError: none could be built, or none takes as little time as was asked for.
        ArtifactError: none computes what its graph does.
        HasnEdgeError: as for a build of one precision.
    """
    output = Path(options.output)
    gpu = gpu_facts()
    target = options.resolve_target(default_target(gpu))
    if options.calibrator:
        raise UnsupportedError("auto takes INT8's ranges from the graph", use(precision="int8"))
    _require_runnable(target, gpu)
    require_engine_folders(output)
    finest = Precision.FP32 if target.runtime is EngineRuntime.CPU else Precision.FP16
    made: list[Built] = []
    unbuilt: list[Failure] = []
    for precision in (finest, Precision.INT8):
        one = replace(options, precision=precision.value, output=output / CANDIDATES)
        try:
            made.append(build(one, cache=output / CACHE, progress=progress))
        except OF_ONE_PRECISION as exc:
            unbuilt.append(Failure(precision=precision, error=exc))
    candidates, failed = measure(
        made, target, open_one, progress, seconds=seconds, evaluation=options.evaluation
    )
    failures = (*unbuilt, *failed)
    if not candidates:
        raise _join_failures(failures)
    if options.max_latency is None:
        chosen, why = choose_fastest(candidates)
    else:
        chosen, why = choose_within(candidates, options.max_latency, failures)
    record = AutotuneRecord(
        candidates=tuple(candidate.describe() for candidate in candidates),
        left_out=tuple(str(failure.as_error()) for failure in failures),
        why=why,
        backend=chosen.backend,
        machine=describe_machine(),
        when=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        max_latency_ms=options.max_latency,
    )
    written = tuple(_copy(path, output) for path in chosen.built.beside)
    *graphs, runs = chosen.built.artifacts
    kept = (*(_publish(artifact, output) for artifact in graphs), _publish(runs, output, record))
    return Built(
        artifacts=kept,
        beside=written,
        summary=(*chosen.built.summary, *record.candidates, why),
        left_out=tuple(failure.as_error() for failure in failures),
    )


def measure(
    made: Sequence[Built],
    target: EngineTarget,
    open_one: Callable[..., Session],
    progress: Progress = ignore,
    *,
    seconds: float = SECONDS,
    evaluation: str | Path | None = None,
) -> tuple[tuple[Candidate, ...], tuple[Failure, ...]]:
    """Time what was built in rounds, on frames of the optimal size or the next that the network takes.

    On a CPU each file is first run by each backend on the images that ship, and must keep its budget there:
    integer kernels of a CPU are not the exact arithmetic that a build looks at.

    Args:
        made: What was built.
        target: What it was built for.
        open_one: Opens a file.
        progress: Receives what is under way.
        seconds: How long a candidate runs in each round, at least.
        evaluation: Images instead of those that ship.

    Returns:
        What was timed, and what does not open, fails while it runs or misses its budget.
    """
    batch, channels, height, width = target.shapes.opt
    backends: tuple[GraphBackend | None, ...] = (None,)
    if target.runtime is EngineRuntime.CPU:
        backends = tuple(each for each in get_args(GraphBackend) if each != "openvino-bf16" or has_bf16())
    quality = _Quality(open_one, evaluation)
    failures: list[Failure] = []

    def leave_out(built: Built, backend: GraphBackend | None, error: HasnEdgeError) -> None:
        missing = [each.backend for each in failures if isinstance(each.error, MissingDependencyError)]
        if not isinstance(error, MissingDependencyError) or backend not in missing:  # once is enough
            failures.append(Failure(precision=built.artifacts[-1].precision, error=error, backend=backend))

    with ExitStack() as stack:
        opened: list[_Opened] = []
        for built, backend in product(made, backends):
            artifact = built.artifacts[-1]
            size = artifact.spec.size.fitting(height, width)
            progress(Step(f"running {artifact.path.name}" + (f" by {backend}" if backend else "")))
            how: dict[str, Any] = {"frame": size, "backend": backend} if backend else {"frame": None}
            try:
                change = quality.check(artifact, backend) if backend else None
                session = stack.enter_context(open_one(artifact, eager=True, **how))
            except HasnEdgeError as exc:
                leave_out(built, backend, exc)
                continue
            candidate = Candidate(
                built=built,
                latency=Latency(rounds=()),
                images=batch,
                backend=backend,
                name=f"{session.backend} {session.number_format}" if backend else "",
                change=change,
            )
            x = noise_frame(session, (batch, channels, *size))
            opened.append(_Opened(candidate=candidate, session=session, x=x))
        for number in range(ROUNDS):
            for one in list(opened):
                progress(Step(f"timing {one.candidate.called}, round", number + 1, ROUNDS))
                try:
                    one.session.times(one.x)  # warms up
                    one.rounds.append(time_session(one.session, one.x, at_least=CALLS, seconds=seconds))
                except HasnEdgeError as exc:
                    opened.remove(one)
                    one.session.close()  # the others may need its memory
                    leave_out(one.candidate.built, one.candidate.backend, exc)
    candidates = tuple(
        replace(one.candidate, latency=latency)
        for one in opened
        if (latency := latency_of(one.rounds)) is not None
    )
    return candidates, tuple(failures)


@dataclass(kw_only=True, eq=False)
class _Opened:
    """A candidate that is timed."""

    candidate: Candidate
    session: Session
    x: NDArray[Any]
    rounds: list[Round] = field(default_factory=list)


class _Quality:
    """What files lose on the held-out images, as a backend computes them, against FP32 by ONNX Runtime.

    Args:
        open_one: Opens a file.
        evaluation: Images instead of those that ship.
    """

    def __init__(self, open_one: Callable[..., Session], evaluation: str | Path | None) -> None:
        self._open = open_one
        self._evaluation = evaluation
        self._reference: tuple[Scores, ...] = ()

    def check(self, artifact: Artifact, backend: GraphBackend) -> Drift | None:
        """Return what is lost on the part that loses the most; ``None`` for the reference, asked for first.

        Raises:
            VerificationError: more than the budget.
            HasnEdgeError: the file does not open.
        """
        with self._open(artifact, backend=backend) as session:
            parts = held_out_sets(artifact.spec.scale, self._evaluation)
            scores = tuple(score_session(session, part, whole=True) for part in parts)
            what = f"{session.backend} {session.number_format}"
        if not self._reference:
            self._reference = scores
            return None
        changes = [drift(before, now) for before, now in zip(self._reference, scores, strict=True)]
        held_out = artifact.details.measured.held_out if artifact.details.measured else None
        mean, worst = (held_out.budget_db, held_out.budget_worst_db) if held_out else FP16_BUDGET
        for change in changes:
            if change.dpsnr < -mean:
                raise VerificationError(
                    f"{what} loses {-change.dpsnr:.4f} dB of PSNR-Y on this machine ({change.name}), over "
                    f"the budget of {mean:g} dB"
                )
            if worst is not None and change.worst_dpsnr < -worst:
                raise VerificationError(
                    f"{what} loses {-change.worst_dpsnr:.4f} dB of PSNR-Y on this machine "
                    f"({change.name}, {change.worst_image}), over the limit of {worst:g} dB for one image"
                )
        return min(changes, key=lambda change: change.dpsnr)


def _join_failures(failures: Sequence[Failure]) -> HasnEdgeError:
    """Return one error for all precisions; the first one's own where none of them is about a precision."""
    # What is not installed comes last: it says the least of why nothing runs.
    first = min(failures, key=lambda failure: isinstance(failure.error, MissingDependencyError)).error
    if isinstance(first, MissingDependencyError) or all(
        isinstance(failure.error, UnsupportedError) for failure in failures
    ):
        return first
    as_error = [failure.as_error() for failure in failures]
    cures = {str(cure): cure for error in as_error for cure in error.cures}  # each once
    message = " ".join(f"{error.message.rstrip('.')}." for error in as_error)
    return type(first)(message.rstrip("."), *cures.values())


def choose_fastest(candidates: Sequence[Candidate]) -> tuple[Candidate, str]:
    """Return the candidate to keep, and why; ``candidates`` go from the finest number format on."""
    best = candidates[0]
    for other in candidates[1:]:
        leaves = best.backend == "onnxruntime" != other.backend
        if best.latency.times(other.latency) >= WORTH + BACKEND_WORTH * leaves:
            best = other
    others = [
        f"{c.called} took {c.latency.times(best.latency):.2f} times as long"
        for c in candidates
        if c is not best
    ]
    if not others:
        return best, f"{best.called} is kept: it is the only one whose quality passes"
    others += _moved(candidates)
    rule = f"a coarser format must be {WORTH:g} times as fast"
    if best.backend is not None:
        rule += f", one by another backend than ONNX Runtime {WORTH + BACKEND_WORTH:g} times"
    return best, f"{best.called} is kept: {', '.join(others)} ({rule})"


def choose_within(
    candidates: Sequence[Candidate], limit_ms: float, failures: Sequence[Failure] = ()
) -> tuple[Candidate, str]:
    """Return the candidate that loses the least among those that are fast enough, and why.

    Of those that lose the same (:data:`EQUAL_DB`) it is the fastest, by the rule of :func:`choose_fastest`.

    Args:
        candidates: From the finest number format on.
        limit_ms: Largest accepted median latency of one call in milliseconds, of all images of a batch: each
            of them waits for the others.
        failures: What was left out, for the message.

    Raises:
        BuildError: none is fast enough; the message lists what was measured.
    """
    images = candidates[0].images
    limit = f"{limit_ms:g} ms{of_images(images)}"
    within = [candidate for candidate in candidates if candidate.latency.median_ms <= limit_ms]
    if not within:
        fastest = min(candidate.latency.median_ms for candidate in candidates)
        lines = [*(c.describe() for c in candidates), *(str(f.as_error().message) for f in failures)]
        raise BuildError(
            f"nothing that keeps its budget takes at most {limit} here; measured:\n  " + "\n  ".join(lines),
            use(max_latency=float(f"{fastest * 1.05:.3g}")),
            *([use(batch=1)] if images > 1 else []),
            say("build for smaller frames, or take a smaller network"),
            omit("max_latency"),
        )
    least = min(candidate.loss_db for candidate in within)
    best, _ = choose_fastest([c for c in within if c.loss_db <= least + EQUAL_DB])
    others = [c.describe() for c in candidates if c is not best]
    return best, (
        f"{best.called} is kept: of {len(within)} that take at most {limit} it loses the least, "
        f"{best.loss_db:.4f} dB in {best.takes}"
        + (f" (measured beside it: {'; '.join(others)})" if others else "")
    )


def require_engine_folders(output: Path) -> None:
    """Refuse folders for candidates that cannot be written before minutes of compiling.

    Raises:
        OutputError: one cannot be; another user may have made it.
    """
    for folder in (CANDIDATES, CACHE):
        require_writable(output / folder, folder=True)


def _moved(candidates: Sequence[Candidate]) -> list[str]:
    """Return what each engine moves, where its compiler stated that: the reason of most differences."""
    engines = [(c.called, c.artifact.details) for c in candidates]
    kernels = [(name, one.kernels) for name, one in engines if isinstance(one, EngineDetails) and one.kernels]
    return [
        f"{name} moves {megabytes(one.moved_bytes)}{of_images(one.images)}"
        for name, one in kernels
        if one.moved_bytes
    ]


def _require_runnable(target: EngineTarget, gpu: GpuFacts | None) -> None:
    target.require_gpu(gpu)  # which has more to say of the board that it is for
    if target.runtime is not EngineRuntime.CPU and not target.runs_on(gpu):
        other = rtx_target_for(gpu) if gpu is not None and target.runtime is EngineRuntime.RTX else None
        raise UnsupportedError(
            f"auto runs what it builds, and what is built for {target.name!r} cannot run on this machine"
            + ("" if gpu is None else f", whose GPU is {gpu.title}"),
            *([use(target=other)] if other is not None else []),
            use(precision="fp16"),
            use(precision="int8"),
            say("build on the device"),
        )
    if target.runtime.compiles:  # minutes of compiling would be for nothing
        start_cuda()


def _copy(path: Path, folder: Path) -> Path:
    copied = folder / path.name
    with writing(copied) as temporary:
        temporary.write_bytes(path.read_bytes())
    return copied


def _publish(artifact: Artifact, folder: Path, record: AutotuneRecord | None = None) -> Artifact:
    """Publish a candidate once more, where the user wants it.

    What lies there already with the same content stays untouched, its sidecar included: it may be a graph of
    the bundle that is built from, whose checksums list both.
    """
    path = folder / artifact.path.name
    details = msgspec.structs.replace(artifact.details, autotune=record)
    with suppress(ArtifactError):
        if (there := load_artifact(path)) == replace(artifact, path=path, details=details):
            return there
    return artifact.publish_copy(artifact.path.read_bytes(), path, details)
