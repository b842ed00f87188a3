"""Build several precisions for one target, time them in rounds, and keep the fastest whose quality passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hasn_edge.artifact import Artifact, publish
from hasn_edge.engine.target import EngineRuntime, EngineTarget
from hasn_edge.errors import ArtifactError, BuildError, HasnEdgeError, UnsupportedError, VerificationError
from hasn_edge.evaluation.latency import Latency, latency_of, time_session
from hasn_edge.hardware.gpu import gpu_facts
from hasn_edge.pipeline.build import CACHE, BuildOptions, Built, Int8Method, build_one
from hasn_edge.pipeline.context import Progress
from hasn_edge.runtime import cuda
from hasn_edge.runtime.open import open_session
from hasn_edge.runtime.session import Session
from hasn_edge.spec import Precision

WORTH = 1.03
"""How many times as fast a coarser number format must be to be worth what it loses."""

ROUNDS, CALLS, SECONDS = 5, 5, 0.3
"""Rounds of each candidate, and what a round is at least."""

_OF_ONE_PRECISION = (VerificationError, BuildError, ArtifactError, UnsupportedError)
"""What one precision may fail with while another one can be built: some TensorRTs fail to build INT8 at all,
and an engine may compute something else than its graph."""

SHELF = Path(CACHE, "candidates")
"""Where the candidates lie, below the output folder: the next ``auto`` finds engines that did not change."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One precision, built and timed."""

    built: Built
    latency: Latency

    @property
    def artifact(self) -> Artifact:
        """The file that runs."""
        return self.built.artifacts[-1]

    def said(self) -> str:
        """Return what was measured of it, as words."""
        held_out = self.artifact.details.get("measured", {}).get("held_out")
        quality = f", {held_out['dpsnr_db']:+.4f} dB" if held_out else ", the reference"
        return f"{self.artifact.precision.value} {self.latency.median_ms:.2f} ms{quality}"


def build_fastest(
    model: str | Path,
    options: BuildOptions,
    *,
    output: Path,
    progress: Progress = lambda text: None,
) -> Built:
    """Build what :func:`hasn_edge.pipeline.build.build_one` builds, in the precision that is fastest here.

    FP16 and INT8, on a CPU FP32 too. A precision that misses its budget, that the compiler cannot
    build, or whose engine does not compute what its graph does, is left out as long as another one remains. A
    coarser one is kept only where it is at least :data:`WORTH` times as fast as the finer one.

    Returns:
        The files that were kept; the summary says what each candidate took and lost, and why this one.

    Raises:
        NoCudaError: no Python package for CUDA works here, which running an engine needs.
        UnsupportedError: what is built for the target cannot run on this machine, or no precision can be
            built for it.
        VerificationError: every candidate missed its budget.
        BuildError: none could be built.
        ArtifactError: none computes what its graph does.
        HasnEdgeError: as for a build of one precision.
    """
    target = options.resolved()
    if options.int8_method is Int8Method.CALIBRATOR:
        raise UnsupportedError("auto takes INT8's ranges from the graph; with the calibrator choose int8")
    _require_runnable(target)
    precisions: tuple[Precision, ...] = (Precision.FP16, Precision.INT8)
    if target.runtime is EngineRuntime.CPU:
        precisions = (Precision.FP32, *precisions)
    made: list[Built] = []
    failed: list[tuple[Precision, HasnEdgeError]] = []
    for precision in precisions:
        try:
            made.append(
                build_one(
                    model,
                    precision,
                    options,
                    output=output / SHELF,
                    cache=output / CACHE,
                    progress=progress,
                )
            )
        except _OF_ONE_PRECISION as exc:
            failed.append((precision, exc))
    candidates = measure(made, target, open_session, progress, failed)
    left_out = [f"{precision.value} is left out: {exc}" for precision, exc in failed]
    if not candidates:
        first = failed[0][1]
        if all(isinstance(exc, UnsupportedError) for _, exc in failed):
            raise first  # it is not about a precision
        raise type(first)(" ".join(left_out)) from first
    chosen, why = choose(candidates)
    facts = {
        "candidates": [c.said() for c in candidates],
        "left_out": left_out,
        "why": why,
    }
    kept = tuple(_publish(artifact, output, facts) for artifact in chosen.built.artifacts)
    return Built(artifacts=kept, summary=(*chosen.built.summary, *facts["candidates"], *left_out, why))


def measure(
    made: Sequence[Built],
    target: EngineTarget,
    open_one: Callable[..., Session],
    progress: Progress = lambda text: None,
    failed: list[tuple[Precision, HasnEdgeError]] | None = None,
) -> tuple[Candidate, ...]:
    """Time what was built on frames of the target's ``opt`` size, in rounds.

    Args:
        made: The candidates.
        target: What they were built for.
        open_one: Opens a file.
        progress: Called with what is under way.
        failed: Takes the errors of files that open wrong, which are left out; without it they are raised.
    """
    batch, channels, height, width = target.shapes.opt
    frame = (height, width) if target.runtime is EngineRuntime.CPU else None
    with ExitStack() as stack:
        opened: list[tuple[Built, Session]] = []
        for built in made:
            try:
                session = open_one(built.artifacts[-1], frame=frame, eager=True)
                opened.append((built, stack.enter_context(session)))
            except ArtifactError as exc:
                if failed is None:
                    raise
                failed.append((built.artifacts[-1].precision, exc))
        sessions = [session for _, session in opened]
        inputs = [_frame(session, (batch, channels, height, width)) for session in sessions]
        samples: list[list[Any]] = [[] for _ in sessions]
        for number in range(ROUNDS):
            for index, (session, x) in enumerate(zip(sessions, inputs, strict=True)):
                name = opened[index][0].artifacts[-1].path.name
                progress(f"timing {name}, round {number + 1} of {ROUNDS}")
                session.run_pixels(x) if session.pixels else session.run(x)
                samples[index].append(time_session(session, x, at_least=CALLS, seconds=SECONDS))
    latencies = [latency_of(found) for found in samples]
    return tuple(
        Candidate(built=built, latency=latency)
        for (built, _), latency in zip(opened, latencies, strict=True)
        if latency is not None
    )


def choose(candidates: Sequence[Candidate]) -> tuple[Candidate, str]:
    """Return the candidate to keep, and why; ``candidates`` go from the finest number format on."""
    best = candidates[0]
    for other in candidates[1:]:
        if best.latency.times(other.latency) >= WORTH:
            best = other
    name = best.artifact.precision.value
    others = [
        f"{c.artifact.precision.value} took {c.latency.times(best.latency):.2f} times as long"
        for c in candidates
        if c is not best
    ]
    if not others:
        return best, f"{name} is kept: it is the only one whose quality passes"
    rule = f"a coarser format must be {WORTH:g} times as fast"
    return best, f"{name} is kept: {', '.join(others)} ({rule})"


def _frame(session: Session, shape: tuple[int, int, int, int]) -> Any:
    batch, channels, height, width = shape
    rng = np.random.default_rng(0)
    if session.pixels:
        return rng.integers(0, 256, (batch, height, width, channels), np.uint8)
    return rng.random((batch, channels, height, width), dtype=np.float32)


def _require_runnable(target: EngineTarget) -> None:
    runs = target.runtime is EngineRuntime.CPU or (target.runtime.compiles and gpu_facts() is not None)
    if not runs:
        raise UnsupportedError(
            f"auto runs what it builds, and what is built for {target.name!r} cannot run on this machine; "
            "choose fp16 or int8, or build on the device"
        )
    if target.runtime.compiles:  # minutes of compiling would be for nothing
        cuda.choose().close()


def _publish(artifact: Artifact, folder: Path, facts: Mapping[str, Any]) -> Artifact:
    """Publish a candidate once more, from the shelf to where the user wants it."""
    return publish(
        artifact.path.read_bytes(),
        folder / artifact.path.name,
        kind=artifact.kind,
        spec=artifact.spec,
        precision=artifact.precision,
        source=artifact.source,
        parent=artifact.parent,
        made_by=artifact.made_by,
        details={**artifact.details, "auto": dict(facts)},
    )
