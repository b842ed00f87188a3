"""One checked graph on its way to an engine: compiled, given a golden image, and tried where it can run."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hasn_edge.artifact import Kind, output_error
from hasn_edge.engine.compile import engine_from_onnx
from hasn_edge.engine.target import EngineRuntime, EngineTarget
from hasn_edge.engine.worker_process import CalibratorInput
from hasn_edge.errors import MissingDependencyError, NoCudaError
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.pipeline.context import File, Job
from hasn_edge.progress import Step
from hasn_edge.runtime.golden import OWN_RANGES, make_golden
from hasn_edge.runtime.open import open_session
from hasn_edge.spec import Precision


def compiled(
    job: Job,
    graph: File,
    target: EngineTarget,
    *,
    precision: Precision,
    emulated: File | None = None,
    details: Mapping[str, Any],
    cache: Path | None = None,
    calibrator: CalibratorInput | None = None,
) -> File:
    """Compile a checked graph.

    Args:
        job: Where the graph was made.
        graph: What is compiled.
        target: What for.
        precision: What the engine computes in: the graph's, or by a builder flag where that is FP32.
        emulated: The graph whose arithmetic on a CPU is nearest to the engine's, where that is
            another than ``graph``; what it measured and what it computes is what the engine is held to.
        details: More for the sidecar.
        cache: Folder of timings of earlier builds.
        calibrator: Images, where TensorRT shall choose INT8's ranges by its own legacy method.
    """

    def show(step: Step) -> None:
        job.progress(f"compiling for {target.name}: {step.text} {step.done} of {step.total}")

    job.progress(f"compiling for {target.name}")
    built = engine_from_onnx(
        graph.data, target, precision=precision, progress=show, cache=cache, calibrator=calibrator
    )
    job.summary.append(f"{target.name}: compiled in {built.seconds:.1f} s by {', '.join(built.made_by)}")
    job.summary += [f"warning of the compiler: {text}" for text in built.warnings[:3]]
    nearest = emulated or graph
    return File(
        data=built.plan,
        kind=Kind.ENGINE,
        precision=precision,
        size=target.shapes.size,
        suffix=f"-{target.name}",
        details={
            **built.details(),
            "model": job.model,
            "int8_method": "calibrator" if calibrator else None,
            "emulated_as": f"{nearest.details['form'].replace('-', ' ')} graph, {nearest.precision.value}",
            "measured": nearest.details["measured"],
            "golden": _golden(job, nearest, precision, target, OWN_RANGES if calibrator else None),
            **details,
        },
        parent=hashlib.sha256(graph.data).hexdigest(),
        made_by=built.made_by,
    )


def _golden(
    job: Job,
    file: File,
    precision: Precision,
    target: EngineTarget,
    tolerance: tuple[float, float] | None,
) -> dict[str, Any]:
    """Return an image and what the network makes of it, which every later load is checked against."""
    from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession

    job.progress("computing the golden image")
    with OnnxRuntimeSession(
        file.data,
        job.maker.checkpoint.spec,
        precision=precision,
        exact=precision is Precision.INT8,
    ) as session:
        return make_golden(session, target.shapes.opt[2:], tolerance=tolerance)


def tried(job: Job, engine: File, target: EngineTarget, gpu: GpuFacts | None) -> str:
    """Run a finished engine before it gets its name, where this machine can.

    Returns:
        What was found, as a sentence: that it ran, or why it could not be tried.

    Raises:
        ArtifactError: it computes something else than its graph.
        BuildError: it does not load, or fails.
    """
    what = f"the {engine.precision.value} engine for {target.name}"
    if gpu is None or (
        target.runtime is EngineRuntime.RTX
        and target.compute_capabilities
        and gpu.compute_capability not in target.compute_capabilities
    ):
        return f"{what} was not executed: that needs its GPU"
    job.progress(f"running {what}")
    try:
        with tempfile.TemporaryDirectory(prefix="hasn-edge-try-") as folder:
            open_session(job.publish(engine, Path(folder))).close()
    except (MissingDependencyError, NoCudaError) as exc:
        return f"{what} was not executed: {exc}"
    except OSError as exc:
        raise output_error(Path(tempfile.gettempdir()), exc) from exc
    return f"{what} ran: its golden image came out right"


def calibrator_input(job: Job) -> CalibratorInput:
    """Return the images for TensorRT's own calibrator, and what the recipe keeps out of INT8."""
    from hasn_edge.quantize.graph import convolutions

    assert job.recipe is not None
    assert job.images is not None
    names = [conv.name for conv in convolutions(job.maker.fp32())]
    chosen = set(job.recipe.select(names))
    return CalibratorInput(
        batches=job.images,
        fingerprint=job.images.fingerprint,
        float_layers=tuple(name for name in names if name not in chosen),
    )
