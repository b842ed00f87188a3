"""One build: a model in one precision for one target, published when all of it passed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hasn_edge.artifact import Artifact, load_artifact
from hasn_edge.engine.caches import KEY, engine_key, graph_of, lookup
from hasn_edge.engine.capabilities import Capabilities, Form, ask_capabilities, find_module
from hasn_edge.engine.target import EngineRuntime, EngineTarget, load_target
from hasn_edge.errors import ArtifactError, HasnEdgeError, UnsupportedError
from hasn_edge.hardware.gpu import gpu_facts
from hasn_edge.optional import require
from hasn_edge.pipeline.context import Job, Progress
from hasn_edge.pipeline.engine_build import calibrator_input, compiled, tried
from hasn_edge.quantize.recipe import load_recipe
from hasn_edge.spec import Precision

CACHE = "cache"
"""Folder below the output's in which timings of earlier builds are kept."""

Size = tuple[int, int]
"""(height, width) in pixels."""


class Int8Method(str, Enum):
    """Where the ranges of INT8 come from."""

    QDQ = "qdq"
    """Measured here, by our observers, and written into the graph: any TensorRT reads it, and a CPU."""
    CALIBRATOR = "calibrator"
    """TensorRT's own entropy calibrator: 8.5 to 10 only, known on the device only."""

    @classmethod
    def parse(cls, text: str) -> Int8Method:
        """Return the method called ``text``.

        Raises:
            UnsupportedError: there is none.
        """
        try:
            return cls(text)
        except ValueError:
            names = ", ".join(method.value for method in cls)
            raise UnsupportedError(f"unknown INT8 method {text!r}; choose one of: {names}") from None


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What is built, but for model and precision; see :func:`hasn_edge.pipeline.api.build`."""

    target: str | Path | None = None
    calibration: str | Path | None = None
    recipe: str | Path = "default"
    size: Size | None = None
    dynamic: tuple[Size, Size, Size] | None = None
    batch: int | None = None
    pixels: bool = False
    int8_method: Int8Method = Int8Method.QDQ
    rebuild: bool = False

    def resolved(self) -> EngineTarget:
        """Return the target with the shapes asked for.

        Raises:
            UnsupportedError: options that exclude each other, or that this target does not have.
            HasnEdgeError: see :func:`hasn_edge.engine.target.load_target`.
        """
        if self.size is not None and self.dynamic is not None:
            raise UnsupportedError("a fixed size and a range of sizes exclude each other; give one of them")
        target = load_target(default_target() if self.target is None else self.target)
        if self.dynamic is not None:
            if not target.runtime.compiles:
                raise UnsupportedError(
                    f"the target {target.name!r} takes any size as it is; leave out the range"
                )
            target = target.with_range(*self.dynamic)
        if self.size is not None:
            target = target.with_size(*self.size)
        return target if self.batch is None else target.with_batch(self.batch)


@dataclass(frozen=True, kw_only=True)
class _Folders:
    """Where a build of an engine writes, and where it looks first."""

    output: Path
    cache: Path
    known: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a build published."""

    artifacts: tuple[Artifact, ...]
    """The files; the last one is the one to run."""
    summary: tuple[str, ...]
    """What the build measured, a sentence each."""


def build_one(
    model: str | Path,
    precision: Precision,
    options: BuildOptions,
    *,
    output: Path,
    cache: Path | None = None,
    known: Sequence[Path] = (),
    progress: Progress = lambda text: None,
) -> Built:
    """Build ``model`` in one precision.

    Args:
        model: As for :func:`hasn_edge.pipeline.api.build`.
        precision: What it computes in.
        options: The rest.
        output: Folder of the published files.
        cache: Folder of what makes the next build faster; below ``output`` where ``None``.
        known: More folders where an engine of the very same may lie; it is returned from there.
        progress: Called with what is under way.

    Raises:
        VerificationError: the budget was missed; the message names the costliest layers.
        HasnEdgeError: see the message; nothing half-written stays.
    """
    require("torch", extra="export", needed_for="Building")
    from hasn_edge.fuse.apply import DEFAULT_RULES

    target = options.resolved()
    legacy = options.int8_method is Int8Method.CALIBRATOR
    if legacy and (precision is not Precision.INT8 or not target.runtime.compiles):
        raise UnsupportedError("the calibrator is TensorRT's, for INT8: choose an engine target and int8")
    target.require_gpu(gpu_facts())
    # Before minutes of work, not after.
    capabilities = ask_capabilities(target.runtime) if target.runtime.compiles else None
    rules = DEFAULT_RULES["onnxruntime" if target.runtime is EngineRuntime.CPU else "tensorrt"]
    low, high = target.shapes.min[0], target.shapes.max[0]
    batch = (low, high) if target.runtime.compiles else (1, options.batch or 1)
    job = Job(model, rules=rules, pixels=options.pixels, batch=batch, progress=progress)
    smallest = target.shapes.min[2:] if target.runtime.compiles else options.size
    if smallest is not None:
        job.require_size(smallest)
    if precision is Precision.INT8:
        job.calibrate(load_recipe(options.recipe), options.calibration)
    if capabilities is not None:
        folders = _Folders(output=output, cache=cache or output / CACHE, known=(output, *known))
        return _engine(job, precision, target, capabilities, folders, options)
    size = options.size
    if target.runtime is EngineRuntime.CPU:
        made = [job.graph(Form.CPU, precision, size=size, suffix="-cpu")]
    else:
        # There is no weakly typed FP16 graph: TensorRT before 10.12 makes FP16 of FP32 by a builder flag.
        forms = (
            (Form.STRONGLY_TYPED,)
            if precision is Precision.FP16
            else (Form.WEAKLY_TYPED, Form.STRONGLY_TYPED)
        )
        made = [job.graph(form, precision, size=size, suffix=f"-{form.value}") for form in forms]
    # Nothing takes its name before everything passed.
    return Built(artifacts=tuple(job.publish(file, output) for file in made), summary=tuple(job.summary))


def default_target() -> str:
    """Return the target of a build that names none: TensorRT where it and its GPU are, else this CPU."""
    if gpu_facts() is not None:
        for runtime in (EngineRuntime.TENSORRT, EngineRuntime.RTX):
            with suppress(HasnEdgeError):
                find_module(runtime)
                return str(runtime.value)
    return EngineRuntime.CPU.value


def _engine(
    job: Job,
    wanted: Precision,
    target: EngineTarget,
    capabilities: Capabilities,
    folders: _Folders,
    options: BuildOptions,
) -> Built:
    """Build an engine, or return the one that was built of the very same."""
    legacy = options.int8_method is Int8Method.CALIBRATOR
    if legacy and options.pixels:
        raise UnsupportedError("the calibrator takes float images; leave out --pixels, or use the method qdq")
    if legacy and not capabilities.calibrator:
        raise UnsupportedError(
            f"{capabilities.title} has no calibrator; use the method qdq, which serves all"
        )
    form = capabilities.weakly_typed_form if legacy else capabilities.form
    # Weakly typed graphs are FP32, or FP32 with Q/DQ: FP16 comes from a builder flag.
    by_flag = form.weakly_typed and (legacy or wanted is Precision.FP16)
    # TensorRT's calibrator runs the graph on images of their own size: the engine's is the profile's.
    precision, size = Precision.FP32 if by_flag else wanted, None if legacy else target.shapes.size
    if len(set(job.batch)) > 1:
        size = None  # a graph that takes any number of images takes any size; the engine's is the profile's
    calibrator = calibrator_input(job) if legacy else None
    gpu = gpu_facts()
    key = engine_key(
        job.identity(form, precision, size),
        target,
        precision=wanted,
        capabilities=capabilities,
        gpu=gpu,
        calibration=f"{calibrator.fingerprint} {calibrator.float_layers}" if calibrator else None,
    )
    for folder in () if options.rebuild else folders.known:
        if (found := lookup(folder, key)) is not None:
            return _unchanged(found)
    graph = job.graph(form, precision, size=size, suffix=f"-{form.value}")
    # What a flag makes of an FP32 graph is foreseen by the graph whose tensors have that type.
    emulated = (
        job.graph(Form.STRONGLY_TYPED, wanted, size=size, suffix="-strongly-typed") if by_flag else None
    )
    engine = compiled(
        job,
        graph,
        target,
        precision=wanted,
        emulated=emulated,
        details={KEY: key, **_ranges(job, wanted, options)},
        cache=folders.cache,
        calibrator=calibrator,
    )
    job.summary.append(tried(job, engine, target, gpu))
    published = job.publish(graph, folders.output), job.publish(engine, folders.output)
    return Built(artifacts=published, summary=tuple(job.summary))


def _unchanged(engine: Artifact) -> Built:
    """Return an engine that need not be built again, with its graph where that lies beside it."""
    graph = graph_of(engine)
    graphs = []
    with suppress(ArtifactError):
        graphs = [] if graph is None else [load_artifact(graph)]
    summary = f"{engine.path.name}: nothing changed since it was built"
    return Built(artifacts=(*graphs, engine), summary=(summary,))


def _ranges(job: Job, precision: Precision, options: BuildOptions) -> dict[str, Any]:
    """Return what an INT8 engine's sidecar says of its ranges: hash of the images, and what was asked."""
    if precision is not Precision.INT8:
        return {}
    assert job.images is not None
    images = options.calibration
    return {
        "calibration": {"fingerprint": job.images.fingerprint, "images": len(job.images)},
        "asked": {
            "recipe": Path(options.recipe).name,
            "calibration": None if images is None else Path(images).name,
        },
    }
