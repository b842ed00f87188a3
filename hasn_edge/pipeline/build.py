"""One build: a model in one precision for one target, published when all of it passed."""

from __future__ import annotations

import hashlib
import html
import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from hasn_edge.artifact import Artifact, load_artifact
from hasn_edge.engine.caches import engine_key, graph_of, lookup
from hasn_edge.engine.capabilities import Capabilities, ask_capabilities, check_target, find_module
from hasn_edge.engine.compile import BuiltEngine, engine_from_onnx, kernels_from_onnx
from hasn_edge.engine.target import EngineRuntime, EngineTarget, rtx_target_for
from hasn_edge.engine.worker_process import CalibratorInput
from hasn_edge.errors import (
    ArtifactError,
    HasnEdgeError,
    MissingDependencyError,
    NoCudaError,
    UnsupportedError,
    VerificationError,
    omit,
    use,
)
from hasn_edge.files import naming_errors, require_writable
from hasn_edge.hardware.gpu import GpuFacts, gpu_facts
from hasn_edge.model.zoo import is_foreign_network
from hasn_edge.optional import require
from hasn_edge.pipeline.bundle import BundleVariants, is_finished
from hasn_edge.pipeline.context import (
    CACHE,
    BuildContext,
    BuildOptions,
    FinishedFile,
    ImageSize,
    load_target_context,
    publish_file,
)
from hasn_edge.pipeline.finetune import finetune
from hasn_edge.pipeline.inspection import engine_lines, megabytes
from hasn_edge.pipeline.placement import describe, recipe_name, search_build, target_cost, write_placement
from hasn_edge.pipeline.variants import Variants
from hasn_edge.progress import Progress, Step, ignore
from hasn_edge.runtime.golden import OWN_RANGES, make_golden
from hasn_edge.runtime.tensorrt.trial import NoMemoryError, try_engine
from hasn_edge.sidecar import (
    BuildAskedFor,
    CalibrationRecord,
    Form,
    Golden,
    GraphDetails,
)
from hasn_edge.spec import Precision


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a build published."""

    artifacts: tuple[Artifact, ...]
    """The files; the last one is the one to run."""
    summary: tuple[str, ...]
    """What the build measured, a sentence each."""
    beside: tuple[Path, ...] = ()
    """What else was written: the recipe, page and curve of a search, and adapted weights."""
    left_out: tuple[HasnEdgeError, ...] = ()
    """Why a precision was left out, where several were tried."""

    @property
    def notes(self) -> tuple[str, ...]:
        """The summary, and what was written beside the files."""
        return (*self.summary, *(f"wrote {path}" for path in self.beside))

    def __str__(self) -> str:
        left_out = (str(error) for error in self.left_out)
        return "\n".join([*self.notes, *left_out, *(str(artifact.path) for artifact in self.artifacts)])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def build_one(
    options: BuildOptions,
    *,
    cache: Path | None = None,
    known: Sequence[Path] = (),
    progress: Progress = ignore,
) -> Built:
    """Build a model in the one precision that ``options`` name.

    Args:
        options: What is built.
        cache: Folder of what makes the next build faster; below the output's where ``None``.
        known: More folders where an engine that was built from the same things may lie; it is returned from
            there.
        progress: Receives what is under way.

    Raises:
        VerificationError: the budget was missed; the message names the costliest layers.
        HasnEdgeError: see the message; nothing half-written stays.
    """
    bundled = is_finished(options.model)
    if not bundled and not is_foreign_network(options.model):
        require("torch", extra="export", needed_for="Building")
    precision, output, gpu = Precision(options.precision), Path(options.output), gpu_facts()
    target = options.resolve_target(default_target(gpu))
    if options.calibrator and (precision is not Precision.INT8 or not target.runtime.compiles):
        raise UnsupportedError(
            "the calibrator is TensorRT's, for INT8, and needs an engine target",
            use(precision="int8", target=EngineRuntime.TENSORRT.value),
            omit("int8_method"),
        )
    target.require_gpu(gpu)
    if options.max_drop is not None or options.finetune is not None:  # which keep there what they found
        require_writable(cache or output / CACHE, folder=True)
    # Before minutes of work, not after.
    capabilities = ask_capabilities(target.runtime) if target.runtime.compiles else None
    if capabilities is not None:
        check_target(capabilities, target)
    build = _Build(
        options=options,
        target=target,
        capabilities=capabilities,
        gpu=gpu,
        output=output,
        cache=cache or output / CACHE,
        known=(output, *known),
        progress=progress,
    )
    if bundled:
        return build.files(BundleVariants(options, target, progress))
    variants = Variants(load_target_context(options, target, progress), progress)
    return build.placed(variants) if options.finetune_seconds is None else build.finetuned(variants)


@dataclass(frozen=True, kw_only=True)
class _Build:
    """What all steps of one build share: :meth:`finetuned` calls :meth:`placed`, that :meth:`files`."""

    options: BuildOptions
    target: EngineTarget
    capabilities: Capabilities | None
    """Of the engine's compiler; ``None`` for graphs alone."""
    gpu: GpuFacts | None
    output: Path
    cache: Path
    known: tuple[Path, ...]
    """Folders where an engine that was built from the same things may lie."""
    progress: Progress

    def finetuned(self, variants: Variants) -> Built:
        """Adapt the weights, then build; search a placement only where the recipe's misses the drop."""
        context, max_drop = variants.context, self.options.max_drop
        assert self.options.finetune_seconds is not None
        if max_drop is not None and context.recipe is not None:
            context = replace(context, recipe=replace(context.recipe, budget_db=max_drop))
        adapted = finetune(
            Variants(context, self.progress),
            self.options.finetune_seconds,
            self.output,
            cache=self.cache,
            only_if_needed=max_drop is not None,
        )
        try:
            built = self.files(adapted.variants)
        except VerificationError:
            if max_drop is None:
                raise
            built = self.placed(adapted.variants)
        written = adapted.publish()
        return replace(built, summary=(*adapted.notes, *built.summary), beside=(*written, *built.beside))

    def placed(self, variants: Variants) -> Built:
        """Build the files of the recipe, or of the placement that a search finds where one is asked for."""
        from hasn_edge.data.calibration import PATCHES

        options = self.options
        if options.max_drop is None or options.precision != Precision.INT8.value:
            return self.files(variants)
        cost = target_cost(
            variants, options, self.target, self.capabilities, self.gpu, self.cache, self.progress
        )
        built, placement = search_build(
            variants, options.max_drop, cost, self.cache, self.progress, self.files
        )
        if (images := options.calibration or PATCHES) != PATCHES:
            used = replace(placement.recipe, calibration=str(Path(images).absolute()))
            placement = replace(placement, recipe=used)
        files = write_placement(placement, self.output, variants.context.name)
        return replace(built, summary=(*describe(placement), *built.summary), beside=files)

    def files(self, variants: Variants) -> Built:
        """Build the files of one placement."""
        if self.capabilities is not None:
            return self.engine(variants, self.capabilities)
        precision = Precision(self.options.precision)
        if self.target.runtime is EngineRuntime.CPU:
            forms: tuple[Form, ...] = (Form.CPU,)
        elif precision is Precision.FP16:
            # No weakly typed FP16 graph: TensorRT before 10.12 makes FP16 of the FP32 one by a builder flag.
            forms = (Form.STRONGLY_TYPED,)
        else:
            forms = (Form.WEAKLY_TYPED, Form.STRONGLY_TYPED)
        files = [variants.make_graph(form, precision, size=self.options.size) for form in forms]
        # Nothing takes its name before everything passed.
        notes = (*variants.notes, *(note for file in files for note in file.notes))
        return self._publish(variants.context, files, notes)

    def engine(self, variants: Variants, capabilities: Capabilities) -> Built:
        """Build an engine, or return the one that was built from the same things."""
        options, target = self.options, self.target
        if options.calibrator:
            _check_calibrator(options, capabilities)
        wanted, context = Precision(options.precision), variants.context
        form = capabilities.weakly_typed_form if options.calibrator else capabilities.form
        # Weakly typed graphs are FP32, or FP32 with Q/DQ: FP16 comes from a builder flag.
        by_flag = form.weakly_typed and (options.calibrator or wanted is Precision.FP16)
        kinds = [(form, Precision.FP32 if by_flag else wanted)]
        if by_flag and context.makes(Form.STRONGLY_TYPED, wanted):
            # What a flag makes of FP32 is predicted by the graph whose tensors have that type.
            kinds.append((Form.STRONGLY_TYPED, wanted))
        # TensorRT's calibrator runs the graph on images of their own size, and a graph that takes any number
        # of images takes any size: the engine's is the profile's.
        any_size = options.calibrator or context.count is None
        size = None if any_size else target.shapes.size
        calibrator = calibrator_input(variants) if options.calibrator else None
        chosen = None
        if calibrator is not None:  # the graph that predicts it has to keep the recipe's budget
            predicted = context.identity(Form.STRONGLY_TYPED, wanted, size)
            chosen = f"{calibrator.fingerprint} {calibrator.float_layers} {predicted}"
        key = engine_key(
            context.identity(*kinds[0], size),
            target,
            precision=wanted,
            capabilities=capabilities,
            gpu=self.gpu,
            calibration=chosen,
        )
        start = f"{context.name}-" if options.name else ""  # a name that was asked for shall be there then
        for folder in () if options.rebuild else self.known:
            if (found := lookup(folder, key, start=start)) is not None:
                return _reuse_engine(found)
        return self._new_engine(variants, kinds, size, key, calibrator)

    def _new_engine(
        self,
        variants: Variants,
        kinds: Sequence[tuple[Form, Precision]],
        size: ImageSize | None,
        key: str,
        calibrator: CalibratorInput | None,
    ) -> Built:
        """Build the engine of the first of some kinds of graphs; it is held to the last one."""
        target, context, wanted = self.target, variants.context, Precision(self.options.precision)
        files = [variants.make_graph(form, precision, size=size) for form, precision in kinds]
        graph, nearest, form = files[0], files[-1], kinds[0][0]
        done = variants.notes  # without those of a graph that is made for comparison only
        built = self._compile(graph, wanted, calibrator)
        if (
            wanted is Precision.INT8
            and target.runtime is EngineRuntime.RTX
            and context.makes(form, Precision.FP16)
        ):
            self.progress(Step("comparing with FP16"))
            built = _compare_with_fp16(built, variants, form, target, size)
        self.progress(Step("computing the golden image"))
        engine = FinishedFile(
            data=built.plan,
            precision=wanted,
            suffix=f"-{target.name}",
            details=msgspec.structs.replace(
                built.details(),
                cache_key=key,
                **_facts(self.options, variants, nearest),
                golden=golden_of(context, nearest, wanted, target, OWN_RANGES if calibrator else None),
            ),
            notes=(
                f"{target.name}: compiled in {built.seconds:.1f} s by {', '.join(built.made_by)}",
                *(engine_lines(built.kernels, wanted, target.name) if built.kernels else ()),
                *(f"warning: {text}" for text in built.warnings[:3]),
            ),
            parent=hashlib.sha256(graph.data).hexdigest(),
            made_by=built.made_by,
        )
        tested = smoke_test(context, engine, target, self.gpu, self.progress)
        notes = (*done, *(note for file in (*files, engine) for note in file.notes), tested)
        return self._publish(context, (graph, engine), notes)

    def _publish(self, context: BuildContext, files: Sequence[FinishedFile], notes: Iterable[str]) -> Built:
        artifacts = tuple(publish_file(context, file, self.output, self.progress) for file in files)
        return Built(artifacts=artifacts, summary=tuple(dict.fromkeys(notes)))

    def _compile(
        self, graph: FinishedFile, precision: Precision, calibrator: CalibratorInput | None
    ) -> BuiltEngine:
        """Compile a finished graph, without the pad that it has for smaller images: an engine has sizes."""
        import onnx

        from hasn_edge.exporters.least_side import without_padding

        what = f"compiling for {self.target.name}"
        self.progress(Step(what))
        return engine_from_onnx(
            without_padding(onnx.load_from_string(graph.data)).SerializeToString(),
            self.target,
            precision=precision,
            progress=lambda step: self.progress(Step(f"{what}: {step.text}", step.done, step.total)),
            cache=self.cache,
            calibrator=calibrator,
        )


def _check_calibrator(options: BuildOptions, capabilities: Capabilities) -> None:
    """Refuse TensorRT's own calibrator where it cannot be had."""
    if options.pixels:
        raise UnsupportedError("the calibrator takes float images", omit("pixels"), use(int8_method="qdq"))
    if not capabilities.calibrator:
        raise UnsupportedError(f"{capabilities.title} has no calibrator", use(int8_method="qdq"))


def default_target(gpu: GpuFacts | None) -> str:
    """Return the target of a build that names none: TensorRT where it and its GPU are, else this CPU.

    TensorRT for RTX counts where a target that ships is for this GPU: it has none for Hopper, for example.
    """
    if gpu is not None:
        with suppress(HasnEdgeError):
            find_module(EngineRuntime.TENSORRT)
            return EngineRuntime.TENSORRT.value
        with suppress(HasnEdgeError):
            find_module(EngineRuntime.RTX)
            return rtx_target_for(gpu) or EngineRuntime.CPU.value
    return EngineRuntime.CPU.value


def _compare_with_fp16(
    int8: BuiltEngine, variants: Variants, form: Form, target: EngineTarget, size: ImageSize | None
) -> BuiltEngine:
    """Return an INT8 engine of TensorRT for RTX that warns where FP16 would move fewer bytes.

    The network is bound by memory, and without a GPU the bytes are all that is known of its speed.
    """
    graph = variants.exporter.export(form, Precision.FP16, size=size, batch=variants.context.count)
    graph = variants.as_compiled(graph)  # with the ends that the INT8 engine has
    fp16 = kernels_from_onnx(graph.SerializeToString(), target, precision=Precision.FP16).moved_bytes
    moved = int8.kernels.moved_bytes if int8.kernels else None
    if fp16 is None or moved is None or moved < fp16:
        return int8
    text = (
        f"INT8 moves {megabytes(moved)} where FP16 moves {megabytes(fp16)}, {moved / fp16:.2f} times as "
        "much: expect it to be slower; FP16 is advised, or measure both on the GPU"
    )
    return replace(int8, warnings=(text, *int8.warnings))


def _facts(options: BuildOptions, variants: Variants, nearest: FinishedFile) -> dict[str, Any]:
    """Return what an engine's sidecar states of its graph, its ranges and what was asked for.

    Args:
        options: What was asked for.
        variants: What was built.
        nearest: The graph whose arithmetic on a CPU is nearest to the engine's: what it measured and what it
            computes is what the engine is held to.
    """
    assert isinstance(nearest.details, GraphDetails)
    context = variants.context
    # The name is what an adapted network's files begin with, where one was given for the first.
    asked = BuildAskedFor(
        evaluation=_without_folder(options.evaluation), name=context.name if options.name else None
    )
    facts: dict[str, Any] = {
        "model": context.model,
        "emulated_as": f"{nearest.details.form.words} graph, {nearest.precision.value}",
        "measured": nearest.details.measured,
        "asked": asked,
    }
    if context.images is None:
        return facts
    recipe = recipe_name(context.name) if variants.searched else _without_folder(options.int8_recipe)
    return {
        **facts,
        "int8_method": options.int8_method if options.calibrator else None,
        "calibration": CalibrationRecord(fingerprint=context.images.fingerprint, images=len(context.images)),
        "asked": msgspec.structs.replace(
            asked, recipe=recipe, calibration=_without_folder(options.calibration)
        ),
    }


def _without_folder(given: str | Path | None) -> str | None:
    """Return the name of a file or folder: a sidecar goes to people who shall not see where it was."""
    # "." has a name too, and a link is found by its own.
    return None if given is None else Path(os.path.abspath(given)).name  # noqa: PTH100 - follows links


def _reuse_engine(engine: Artifact) -> Built:
    """Return an engine that need not be built again, with its graph where that lies beside it."""
    graph = graph_of(engine)
    graphs = []
    with suppress(ArtifactError):
        graphs = [] if graph is None else [load_artifact(graph)]
    summary = f"{engine.path.name}: nothing changed since it was built"
    return Built(artifacts=(*graphs, engine), summary=(summary,))


def calibrator_input(variants: Variants) -> CalibratorInput:
    """Return the images for TensorRT's own calibrator, and what the recipe keeps out of INT8."""
    from hasn_edge.quantize.graph import convolutions

    recipe, images = variants.context.recipe, variants.context.images
    assert recipe is not None
    assert images is not None
    names = [conv.name for conv in convolutions(variants.exporter.fp32())]
    variants.check_patterns(variants.exporter)
    chosen = set(recipe.select(names))
    return CalibratorInput(
        batches=images,
        fingerprint=images.fingerprint,
        float_layers=tuple(name for name in names if name not in chosen),
    )


def golden_of(
    context: BuildContext,
    file: FinishedFile,
    precision: Precision,
    target: EngineTarget,
    tolerance: tuple[float, float] | None,
) -> Golden:
    """Return an image and what the network makes of it, which every later load is checked against."""
    from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession

    spec, exact = context.checkpoint.spec, precision is Precision.INT8
    with OnnxRuntimeSession(file.data, spec, precision=precision, exact=exact) as session:
        return make_golden(session, target.shapes.opt[2:], tolerance=tolerance)


def smoke_test(
    context: BuildContext,
    engine: FinishedFile,
    target: EngineTarget,
    gpu: GpuFacts | None,
    progress: Progress,
) -> str:
    """Run a finished engine before it gets its name, where this machine can.

    Returns:
        What was found, as a sentence: that it ran, or why it could not.

    Raises:
        ArtifactError: it computes something else than its graph.
        BuildError: it does not load, or fails.
    """
    what = f"the {engine.precision.value} engine for {target.name}"
    if not target.runs_on(gpu):
        return f"{what} was not executed: that needs its GPU"
    progress(Step(f"running {what}"))
    try:
        with (
            naming_errors(Path(tempfile.gettempdir())),
            tempfile.TemporaryDirectory(prefix="hasn-edge-try-") as folder,
        ):
            try_engine(publish_file(context, engine, Path(folder), progress).path)
    except (MissingDependencyError, NoCudaError, NoMemoryError) as exc:
        return f"{what} was not executed: {exc}"
    return f"{what} ran: its golden image came out right"
