"""Run a benchmark: build what is to be compared, time it, score it, collect the report."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from hasn_edge.artifact import Artifact, load_artifact
from hasn_edge.bench.board import Board, find_board
from hasn_edge.bench.case_process import Case, Worker
from hasn_edge.bench.cases import CaseMaker, find_backends, find_compared, is_graph
from hasn_edge.bench.evidence import CaseEvidence, collect_evidence
from hasn_edge.bench.measure import Measured, Timer
from hasn_edge.bench.options import DEFAULT_SIZE, RUNS, SECONDS, BenchOptions
from hasn_edge.bench.report import BenchCase, BenchReport, Remark, SetQuality
from hasn_edge.bench.schedule import BenchSchedule, CaseResult, free_bytes, why_apart
from hasn_edge.bench.scores import bicubic_quality, eval_sets, has_larger, mosaic, quality_of, takes_whole
from hasn_edge.engine.engine_file import read_plan_header
from hasn_edge.errors import HasnEdgeError, InputError, OutOfMemoryError, UnsupportedError, omit, say, use
from hasn_edge.evaluation.evaluate import Scores
from hasn_edge.hardware.clocks import require_clocks
from hasn_edge.hardware.gpu import GpuFacts, gpu_facts
from hasn_edge.hardware.host import compute_cores, describe_host
from hasn_edge.hardware.jetson import Jetson
from hasn_edge.model.comparators import load_comparator, split_name
from hasn_edge.model.complexity import PAPER_SIZE, NetworkCounts
from hasn_edge.model.zoo import bundled_by_hash, bundled_onnx, is_foreign_network, load_model_checkpoint
from hasn_edge.optional import installed_version
from hasn_edge.pipeline.context import require_size
from hasn_edge.progress import Progress, Step, ignore
from hasn_edge.runtime.choice import source_of
from hasn_edge.runtime.graph_probe import probe_graph
from hasn_edge.runtime.open import GraphBackend
from hasn_edge.runtime.tensorrt.open_engine import no_gpu
from hasn_edge.sidecar import Kind
from hasn_edge.spec import NetworkSpec, Precision


def benchmark(
    model: str | None = None,
    *,
    artifacts: Sequence[Artifact | str | Path] = (),
    device: str | None = None,
    precisions: Sequence[str] = ("fp32", "fp16", "int8"),
    graph_backends: Sequence[GraphBackend] = ("onnxruntime",),
    compiled: bool = False,
    compare: Sequence[str] = (),
    data: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    runs: int | None = None,
    recipe: str = "default",
    tile: int | None = None,
    threads: int | None = None,
    cuda: str | None = None,
    sustained_minutes: float | None = None,
    set_clocks: bool = False,
    evidence: bool = False,
    command: str = "",
    progress: Progress = ignore,
) -> BenchReport:
    """Measure a model in several forms against its FP32 reference.

    The arguments are the fields of :class:`~hasn_edge.bench.options.BenchOptions`, which documents them;
    ``artifacts`` may be paths or what :func:`~hasn_edge.pipeline.api.build` returned, and ``progress``
    receives what is under way.

    Returns:
        The finished report; the first case is the reference.

    Raises:
        UnsupportedError: the device is not here; the message names what is.
        HasnEdgeError: a file, set or precision cannot be used, or a build missed its budget.
    """
    options = BenchOptions(
        model=model,
        artifacts=[one.path if isinstance(one, Artifact) else Path(one) for one in artifacts],
        device=device,
        precisions=precisions,
        graph_backends=graph_backends,
        compiled=compiled,
        compare=compare,
        data=data,
        size=size,
        runs=runs,
        recipe=recipe,
        tile=tile,
        threads=threads,
        cuda=cuda,
        sustained_minutes=sustained_minutes,
        set_clocks=set_clocks,
        evidence=evidence,
        command=command,
    )
    return run_benchmark(options, progress=progress)


def run_benchmark(
    options: BenchOptions,
    *,
    progress: Progress = ignore,
    board: Callable[[str], Board] = find_board,
    worker: Callable[[Case], Worker] = Worker,
    free_bytes: Callable[[GpuFacts], int | None] = free_bytes,
) -> BenchReport:
    """Do what :func:`benchmark` does.

    Args:
        options: What to compare and how much to measure.
        progress: Receives what is under way.
        board: Finds the device by its kind.
        worker: Makes the process of a case.
        free_bytes: Returns the free memory of a GPU.
    """
    options, artifacts = _check_options(options)
    device = _device(options.device, artifacts)
    found_board = board(device)
    if options.set_clocks:
        require_clocks()
    spec = _common_spec(options.model, artifacts)
    size = _common_size(artifacts, options.size)
    require_size(options.model or artifacts[0].path.name, spec, size)
    compared = find_compared(options.compare, spec.scale, size)
    sets = eval_sets(options.data, spec.scale)
    timing = options.timing(device)
    backends = find_backends(found_board, engines=bool(options.precisions or options.compare))
    with tempfile.TemporaryDirectory(prefix="hasn-edge-bench-") as folder:
        cases = CaseMaker(
            options=options,
            board=found_board,
            backends=backends,
            size=size,
            folder=Path(folder),
            compared=compared,
            progress=progress,
        ).cases(artifacts)
        # PyTorch on a Jetson's CPU would take ten minutes for the samples that its GPU has in seconds.
        cpu = replace(timing, runs=options.runs or RUNS, seconds=SECONDS)
        timer = Timer(found_board, timing, progress, cpu=cpu)
        # An engine would compute padding with images below its size, tiles of larger ones: all cases get one
        # full frame.
        framed = not all(case.artifact is None or takes_whole(case.artifact, sets) for case in cases)
        if framed:
            sets = [mosaic(eval_set, size) for eval_set in sets]
        schedule = BenchSchedule(
            cases=cases, timer=timer, size=size, sets=sets, framed=framed, progress=progress, worker=worker
        )
        # A drift of tiles would be that of nothing where no image is cut into several.
        whole = {each.name for each in sets if options.tile and not has_larger(each, options.tile)}
        apart = why_apart(cases, found_board, spec, size, free_bytes)
        finished, reference, evidence = _run_cases(
            schedule,
            apart=bool(apart),
            whole=whole,
            on_cpu=device == "cpu",
            with_evidence=options.evidence,
            source=_source(options.model, artifacts),
        )
        progress(Step("scoring bicubic"))
        bicubic = bicubic_quality(sets, reference)
    name = options.model if options.model is not None else Path(options.artifacts[0]).name
    return BenchReport(
        model=Path(name).name,
        spec=spec,
        size=size,
        cases=finished,
        environment=describe_host(),
        date=datetime.date.today().isoformat(),
        timing=timing,
        threads=options.threads,
        device=device,
        before=timer.before,
        after=timer.after,
        apart=apart,
        bicubic=bicubic,
        busy_cores=timer.busy_cores,
        own_reference=options.model is None,
        framed=framed,
        graph_counts=_graph_counts(options.model, size),
        evidence=evidence,
        without_engines=backends.without_engines,
        command=options.command,
    )


def _run_cases(
    schedule: BenchSchedule, *, apart: bool, whole: Set[str], on_cpu: bool, with_evidence: bool, source: str
) -> tuple[tuple[BenchCase, ...], Sequence[Scores], dict[str, CaseEvidence]]:
    """Run the cases; return what is reported of each, the first one's scores, and where the others differ.

    Args:
        schedule: The cases, and what is done with each.
        apart: See :meth:`BenchSchedule.run`.
        whole: Sets that have no image larger than a tile.
        on_cpu: Power is not expected.
        with_evidence: See where cases differ.
        source: As :func:`_source` returns it.
    """
    finished = []
    reference: Sequence[Scores] = []
    evidence: dict[str, CaseEvidence] = {}
    with closing(schedule.run(apart=apart)) as results:
        for result in results:
            case, scores = result.case, result.scores
            if result.failure is not None:
                finished.append(_failed_case(case, result.facts, result.failure))
                continue
            no_power = None if on_cpu else schedule.timer.no_power
            tiled: tuple[str, ...] = ()
            try:
                quality = quality_of(reference, scores)
            except OutOfMemoryError as exc:
                quality, tiled = quality_of((), scores), (f"drift: {exc.message}",)
            row = _bench_case(result, quality, whole, no_power)
            row = replace(row, not_measured=(*row.not_measured, *tiled))
            made_of = case.artifact.source if case.artifact and case.network is None else source
            finished.append(replace(row, other_weights=bool(source) and made_of != source))
            if with_evidence and scores and not tiled:
                schedule.progress(Step(f"looking at where {case.label} differs"))
                evidence[case.label] = collect_evidence(
                    case, schedule.sets, reference, scores, schedule.progress
                )
            reference = reference or scores  # only the first case's images are kept
    return tuple(finished), reference, evidence


def _check_options(options: BenchOptions) -> tuple[BenchOptions, list[Artifact]]:
    """Refuse before minutes of building what can be refused; return the options, completed, and the files."""
    if options.model is None and not options.artifacts:
        raise InputError("nothing to bench; give a model or the path of a built file")
    for text in options.precisions:
        Precision.parse(text)
    for backend in options.graph_backends:
        if backend not in get_args(GraphBackend):
            names = ", ".join(get_args(GraphBackend))
            raise UnsupportedError(f"unknown backend {backend!r}; choose among: {names}")
    artifacts = [load_artifact(path) for path in options.artifacts]
    if options.model is None:  # nothing is built, but files are compared with the network that they came from
        options = replace(options, model=bundled_by_hash(artifacts[0].source), precisions=())
    if options.compiled and (options.model is None or is_graph(options.model)):
        raise InputError("torch.compile takes a network of PyTorch, and there is none", omit("compiled"))
    threads = compute_cores() if options.threads is None else options.threads
    return replace(options, threads=threads), artifacts


def _device(asked: str | None, artifacts: Sequence[Artifact]) -> str:
    engine = next((artifact for artifact in artifacts if artifact.kind is Kind.ENGINE), None)
    if asked == "cpu" and engine is not None:
        raise UnsupportedError(
            f"{engine.path.name} is an engine and runs on its GPU only",
            omit("device"),
            say("bench the .onnx that it was made of"),
        )
    if asked is not None:
        return asked
    if engine is None:
        return "cpu"
    if gpu_facts() is None:  # the user chose no device, so that the message is about the engine
        raise no_gpu(engine, read_plan_header(engine.path))
    return "jetson" if Jetson().present else "cuda"


def _bench_case(
    result: CaseResult, quality: Mapping[str, SetQuality], whole: Set[str], no_power: str | None
) -> BenchCase:
    """Return what is reported of a case.

    Args:
        result: What was measured.
        quality: Of each set.
        whole: Sets that have no image larger than a tile.
        no_power: Why power was not measured, empty where it was; ``None`` on a CPU, where nothing is missed.
    """
    case, measured = result.case, result.measured
    gaps = tuple(_gaps(measured, no_power)) if measured and no_power is not None else ()
    if case.tile is not None:
        gaps += tuple(f"drift on {name}: no image is larger than a tile" for name in sorted(whole))
        quality = {name: one for name, one in quality.items() if name not in whole}
    artifact = case.artifact
    then = artifact.details.measured if artifact else None
    limits = then.held_out if then else None
    return BenchCase(
        label=case.label,
        network=case.network,
        **result.facts,
        **(vars(measured) if measured else {"latency": None}),
        file=artifact.path.name if artifact else None,
        sha256=artifact.sha256 if artifact else None,
        file_bytes=artifact.path.stat().st_size if artifact else None,
        tile=case.tile,
        pixels=artifact.pixels if artifact else False,
        budget_db=limits.budget_db if limits else None,
        budget_worst_db=limits.budget_worst_db if limits else None,
        peak_bytes=result.peak_bytes if case.timed else None,
        quality=quality,
        not_measured=(*case.not_measured, *gaps),
    )


def _failed_case(case: Case, facts: Mapping[str, Any], failure: HasnEdgeError) -> BenchCase:
    return BenchCase(
        label=case.label,
        network=case.network,
        **facts,
        file=case.artifact.path.name if case.artifact else None,
        sha256=case.artifact.sha256 if case.artifact else None,
        file_bytes=None,
        latency=None,
        peak_bytes=None,
        not_measured=case.not_measured,
        failure=Remark(failure.message, failure.cures),
    )


def _gaps(measured: Measured, no_power: str) -> Iterator[str]:
    """Yield what a device's case has no figure of, and why."""
    if not measured.parts:
        yield "GPU time, enqueue, transfers: this backend is timed host to host only"
    if no_power:
        yield no_power
    elif measured.energy and measured.energy.rail is None:
        rails = ", ".join(measured.energy.rails)
        yield f"power: which of the rails {rails} add up to the module is not known; the JSON has each"


def _common_size(artifacts: Sequence[Artifact], size: tuple[int, int] | None) -> tuple[int, int]:
    """Return the size to time at: what is asked for, else that of the files that take one only."""
    for artifact in artifacts:
        own = artifact.size
        if own is None:
            continue
        if size is not None and own != size:
            raise InputError(
                f"{artifact.path.name} takes {own[1]}x{own[0]} pixels only and is to be timed at "
                f"{size[1]}x{size[0]}",
                use(size=own),
                say("bench it on its own"),
            )
        size = own
    return size or DEFAULT_SIZE


def _common_spec(model: str | None, artifacts: Sequence[Artifact]) -> NetworkSpec:
    specs = {} if model is None else {model: _spec_of(model)}
    specs.update({artifact.path.name: artifact.spec for artifact in artifacts})
    first, *others = specs
    for name in others:
        if specs[name] != specs[first]:
            raise InputError(f"{name} is of another network than {first}", say("bench each on its own"))
    return specs[first]


def _spec_of(model: str) -> NetworkSpec:
    shipped = bundled_onnx(model)  # its sidecar names the network without PyTorch
    if shipped is not None:
        return load_artifact(shipped).spec
    if is_foreign_network(model):
        if (other := split_name(model)) is not None:
            return load_comparator(*other).spec
        return replace(probe_graph(Path(model)), peak=1.0)  # as the files that are built of it
    return load_model_checkpoint(model).spec


def _source(model: str | None, artifacts: Sequence[Artifact]) -> str:
    """Return the SHA-256 of the weights that given files are compared with; empty where none is given."""
    if not artifacts:
        return ""
    if model is None:
        return artifacts[0].source
    if is_foreign_network(model):
        from hasn_edge.pipeline.foreign_graph import load_foreign

        return load_foreign(model).sha256
    return source_of(model)


def _graph_counts(model: str | None, size: tuple[int, int]) -> Mapping[tuple[int, int], NetworkCounts]:
    """Return what a graph of somebody else's computes, where the package onnx can tell."""
    if model is None or not is_foreign_network(model) or installed_version("onnx") is None:
        return {}
    from hasn_edge.pipeline.foreign_graph import load_foreign
    from hasn_edge.quantize.graph import count_graph

    try:
        graph = load_foreign(model).graph(17, size=None, batch=1)
        return {one: count_graph(graph, one) for one in (size, PAPER_SIZE)}
    except UnsupportedError:  # of one size, or shapes that cannot be inferred
        return {}
