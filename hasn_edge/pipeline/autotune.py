"""Build several precisions for one target, time them in rounds, and keep the fastest whose quality passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hasn_edge.artifact import Artifact
from hasn_edge.engine.target import EngineRuntime, EngineTarget
from hasn_edge.errors import (
    ArtifactError,
    BuildError,
    HasnEdgeError,
    UnsupportedError,
    VerificationError,
    say,
    use,
)
from hasn_edge.evaluation.latency import Latency, latency_of, time_session
from hasn_edge.hardware.gpu import GpuFacts, gpu_facts
from hasn_edge.pipeline.build import CACHE, Built, build_one, default_target
from hasn_edge.pipeline.context import BuildOptions
from hasn_edge.progress import Progress, Step, ignore
from hasn_edge.runtime import cuda
from hasn_edge.runtime.open import open_session
from hasn_edge.runtime.session import Session
from hasn_edge.sidecar import AutotuneRecord
from hasn_edge.spec import Precision

WORTH = 1.03
"""How many times as fast a coarser number format must be to be worth what it loses."""

ROUNDS, CALLS, SECONDS = 5, 5, 0.3
"""Rounds in which each candidate is timed, and what a candidate gets of a round at least."""

CANDIDATES = Path(CACHE, "candidates")
"""Where the candidates lie, below the output folder: the next ``auto`` finds engines that did not change."""

OF_ONE_PRECISION = (VerificationError, BuildError, ArtifactError, UnsupportedError)
"""What one precision may fail with while another one can be built: some TensorRTs fail to build INT8 at all,
and an engine may compute something else than its graph."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One precision, built and timed."""

    built: Built
    latency: Latency

    @property
    def artifact(self) -> Artifact:
        """The file that runs."""
        return self.built.artifacts[-1]

    def describe(self) -> str:
        """Return what was measured of it, as words."""
        measured = self.artifact.details.measured
        held_out = measured.held_out if measured else None
        quality = f", {held_out.dpsnr_db:+.4f} dB" if held_out else ", the reference"
        return f"{self.artifact.precision.value} {self.latency.median_ms:.2f} ms{quality}"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One precision that could not be built, or does not run."""

    precision: Precision
    error: HasnEdgeError

    def as_error(self) -> HasnEdgeError:
        """Return the error with the precision in its message."""
        return self.error.within(f"{self.precision.value} is left out")


def autotune(
    options: BuildOptions,
    progress: Progress = ignore,
    *,
    build: Callable[..., Built] = build_one,
    open_one: Callable[..., Session] = open_session,
    seconds: float = SECONDS,
    worth: float = WORTH,
) -> Built:
    """Build what :func:`hasn_edge.pipeline.build.build_one` builds, in the precision that is fastest here.

    FP16 and INT8, on a CPU FP32 too. A precision that misses its budget, that the compiler cannot
    build, or whose engine does not compute what its graph does, is left out as long as another one remains. A
    coarser one is kept only where it is at least :data:`WORTH` times as fast as the finer one.

    Args:
        options: What is built; every precision takes the rest of them.
        progress: Receives what is under way.
        build: Builds one precision, as :func:`~hasn_edge.pipeline.build.build_one`.
        open_one: Opens a file, as :func:`~hasn_edge.runtime.open.open_session`.
        seconds: How long a candidate runs in each round, at least.
        worth: How many times as fast a coarser number format must be.

    Returns:
        The files that were kept; the summary states what each candidate took and lost, and why this one.

    Raises:
        NoCudaError: no Python package for CUDA works here, which running an engine needs.
        UnsupportedError: what is built for the target cannot run on this machine, or no precision can be
            built for it.
        VerificationError: every candidate missed its budget.
        BuildError: none could be built.
        ArtifactError: none computes what its graph does.
        HasnEdgeError: as for a build of one precision.
    """
    output = Path(options.output)
    gpu = gpu_facts()
    target = options.resolve_target(default_target(gpu))
    if options.calibrator:
        raise UnsupportedError("auto takes INT8's ranges from the graph", use(precision="int8"))
    _require_runnable(target, gpu)
    precisions: tuple[Precision, ...] = (Precision.FP16, Precision.INT8)
    if target.runtime is EngineRuntime.CPU:
        precisions = (Precision.FP32, *precisions)
    made: list[Built] = []
    unbuilt: list[Failure] = []
    for precision in precisions:
        one = replace(options, precision=precision.value, output=output / CANDIDATES)
        try:
            made.append(build(one, cache=output / CACHE, progress=progress))
        except OF_ONE_PRECISION as exc:
            unbuilt.append(Failure(precision=precision, error=exc))
    candidates, unopened = measure(made, target, open_one, progress, seconds=seconds)
    failures = (*unbuilt, *unopened)
    if not candidates:
        raise _join_failures(failures)
    chosen, why = choose_fastest(candidates, worth)
    record = AutotuneRecord(
        candidates=tuple(candidate.describe() for candidate in candidates),
        left_out=tuple(str(failure.as_error()) for failure in failures),
        why=why,
    )
    kept = tuple(_publish(artifact, output, record) for artifact in chosen.built.artifacts)
    return Built(
        artifacts=kept,
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
) -> tuple[tuple[Candidate, ...], tuple[Failure, ...]]:
    """Time what was built on frames of the target's optimal size, in rounds.

    Args:
        made: What was built.
        target: What it was built for.
        open_one: Opens a file.
        progress: Receives what is under way.
        seconds: How long a candidate runs in each round, at least.

    Returns:
        What was timed, and the files that do not open.
    """
    batch, channels, height, width = target.shapes.opt
    frame = (height, width) if target.runtime is EngineRuntime.CPU else None
    failures: list[Failure] = []
    with ExitStack() as stack:
        opened: list[tuple[Built, Session, Any]] = []
        for built in made:
            artifact = built.artifacts[-1]
            try:
                session = stack.enter_context(open_one(artifact, frame=frame, eager=True))
            except ArtifactError as exc:
                failures.append(Failure(precision=artifact.precision, error=exc))
                continue
            opened.append((built, session, _noise_frame(session, (batch, channels, height, width))))
        samples: list[list[Any]] = [[] for _ in opened]
        for number in range(ROUNDS):
            for (built, session, x), timed in zip(opened, samples, strict=True):
                progress(Step(f"timing {built.artifacts[-1].path.name}, round", number + 1, ROUNDS))
                session.run_pixels(x) if session.pixels else session.run(x)
                timed.append(time_session(session, x, at_least=CALLS, seconds=seconds))
    candidates = tuple(
        Candidate(built=built, latency=latency)
        for (built, _, _), timed in zip(opened, samples, strict=True)
        if (latency := latency_of(timed)) is not None
    )
    return candidates, tuple(failures)


def _join_failures(failures: Sequence[Failure]) -> HasnEdgeError:
    """Return one error for all precisions; the first one's own where none of them is about a precision."""
    first = failures[0].error
    if all(isinstance(failure.error, UnsupportedError) for failure in failures):
        return first
    as_error = [failure.as_error() for failure in failures]
    cures = {str(cure): cure for error in as_error for cure in error.cures}  # each once
    message = " ".join(f"{error.message.rstrip('.')}." for error in as_error)
    return type(first)(message.rstrip("."), *cures.values())


def choose_fastest(candidates: Sequence[Candidate], worth: float = WORTH) -> tuple[Candidate, str]:
    """Return the candidate to keep, and why; ``candidates`` go from the finest number format on."""
    best = candidates[0]
    for other in candidates[1:]:
        if best.latency.times(other.latency) >= worth:
            best = other
    name = best.artifact.precision.value
    others = [
        f"{c.artifact.precision.value} took {c.latency.times(best.latency):.2f} times as long"
        for c in candidates
        if c is not best
    ]
    if not others:
        return best, f"{name} is kept: it is the only one whose quality passes"
    rule = f"a coarser format must be {worth:g} times as fast"
    return best, f"{name} is kept: {', '.join(others)} ({rule})"


def _noise_frame(session: Session, shape: tuple[int, int, int, int]) -> Any:
    batch, channels, height, width = shape
    rng = np.random.default_rng(0)
    if session.pixels:
        return rng.integers(0, 256, (batch, height, width, channels), np.uint8)
    return rng.random((batch, channels, height, width), dtype=np.float32)


def _require_runnable(target: EngineTarget, gpu: GpuFacts | None) -> None:
    runs = target.runtime is EngineRuntime.CPU or (target.runtime.compiles and gpu is not None)
    if not runs:
        raise UnsupportedError(
            f"auto runs what it builds, and what is built for {target.name!r} cannot run on this machine",
            use(precision="fp16"),
            use(precision="int8"),
            say("build on the device"),
        )
    if target.runtime.compiles:  # minutes of compiling would be for nothing
        cuda.choose().close()


def _publish(artifact: Artifact, folder: Path, record: AutotuneRecord) -> Artifact:
    """Publish a candidate once more, where the user wants it."""
    details = msgspec.structs.replace(artifact.details, autotune=record)
    return artifact.publish_copy(artifact.path.read_bytes(), folder / artifact.path.name, details)
