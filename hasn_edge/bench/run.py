"""Run a benchmark: build what is to be compared, time it in turns, score it, collect the report."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hasn_edge.artifact import Artifact, load_artifact
from hasn_edge.bench.latency import Latency
from hasn_edge.bench.report import BenchCase, BenchReport, SetQuality
from hasn_edge.bench.worker import CaseSpec, Worker
from hasn_edge.data.pairs import EvalSet, load_eval_set, shipped_eval_set
from hasn_edge.errors import InputError, UnsupportedError
from hasn_edge.machine import compute_cores, environment
from hasn_edge.model.zoo import load_model_checkpoint
from hasn_edge.pipeline import build, export
from hasn_edge.quality import Scores, drift
from hasn_edge.spec import ModelSpec, Precision

ROUNDS = 5
"""Turns that each case gets: a machine that slows down half-way slows all of them."""

WARMUP = 2
"""Calls before the first timed one; one more before each further turn."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A case before it ran."""

    case: CaseSpec
    artifact: Artifact | None = None
    timed: bool = True
    note: tuple[str, ...] = ()


def benchmark(
    model: str | None = None,
    *,
    artifacts: Sequence[Path] = (),
    device: str = "cpu",
    precisions: Sequence[str] = ("fp32", "fp16", "int8"),
    data: Sequence[str] = (),
    size: tuple[int, int] = (180, 320),
    runs: int = 20,
    recipe: str = "default",
    tile: int | None = None,
    threads: int | None = None,
    command: str = "",
    progress: Callable[[str], None] = lambda text: None,
) -> BenchReport:
    """Measure a model in several forms against its FP32 reference.

    Args:
        model: Bundled name or weights file. With it, the unfused network in PyTorch is the reference
            of every ratio and drift; without it the first of ``artifacts`` is.
        artifacts: Built files to measure as they are.
        device: ``"cpu"``.
        precisions: Precisions to build for this machine and measure.
        data: Evaluation sets, ``"NAME=DIR"``; the pictures that ship where empty.
        size: Input (height, width) of the latency figures, pixels.
        runs: Timed calls of each case, at least.
        recipe: INT8 recipe.
        tile: Tile side in pixels whose drift from whole frames is reported too.
        threads: Processor threads; all cores where ``None``.
        command: What the report says it was printed by.
        progress: Called with what is under way.

    Returns:
        The finished report; the first case is the reference.

    Raises:
        HasnEdgeError: a file, set or precision cannot be used, or a build missed its budget.
    """
    if device != "cpu":
        raise UnsupportedError(f"unknown device {device!r}; this version benches on: cpu")
    if model is None and not artifacts:
        raise InputError("nothing to bench; give a model or the path of a built file")
    # What can be refused is refused before minutes of building.
    wanted = [Precision.parse(text) for text in precisions]
    loaded = [load_artifact(path) for path in artifacts]
    spec = _common_spec(model, loaded)
    sets = _sets(data, spec.scale)
    threads = compute_cores() if threads is None else threads
    with tempfile.TemporaryDirectory(prefix="hasn-edge-bench-") as folder, ExitStack() as stack:
        plans = _plans(model, loaded, wanted, Path(folder), recipe, tile, threads, progress)
        workers, facts = [], []
        for plan in plans:
            progress(f"opening {plan.case.label}")
            workers.append(stack.enter_context(Worker(plan.case)))
            facts.append(workers[-1].open(size))
        latencies = _time(plans, workers, runs, progress)
        peaks = [worker.peak_bytes() for worker in workers]
        cases = []
        reference: list[Scores] = []
        for plan, worker, fact, latency, peak in zip(plans, workers, facts, latencies, peaks, strict=True):
            progress(f"scoring {plan.case.label}")
            scores = [worker.score(eval_set) for eval_set in sets]
            cases.append(
                BenchCase(
                    label=plan.case.label,
                    backend=str(fact["backend"]),
                    precision=str(fact["precision"]),
                    file=plan.artifact.path.name if plan.artifact else None,
                    sha256=plan.artifact.sha256 if plan.artifact else None,
                    file_bytes=plan.artifact.path.stat().st_size if plan.artifact else None,
                    latency=latency,
                    peak_bytes=peak if plan.timed else None,
                    quality=_quality(reference, scores),
                    not_measured=plan.note,
                )
            )
            reference = reference or scores  # only the first case's pictures are kept
    name = model if model is not None else Path(artifacts[0]).name
    return BenchReport(
        model=Path(name).name,
        spec=spec,
        size=size,
        cases=tuple(cases),
        environment=environment(),
        date=datetime.date.today().isoformat(),
        warmup_calls=WARMUP,
        threads=threads,
        command=command,
    )


def _plans(
    model: str | None,
    artifacts: Sequence[Artifact],
    precisions: Sequence[Precision],
    folder: Path,
    recipe: str,
    tile: int | None,
    threads: int | None,
    progress: Callable[[str], None],
) -> list[_Plan]:
    plans: list[_Plan] = []
    if model is not None:
        plans.append(_Plan(case=CaseSpec(label="PyTorch fp32", model=model, threads=threads)))
        for precision in precisions:
            progress(f"building {precision.value}")
            built = build(
                model,
                precision=precision.value,
                target="cpu",
                recipe=recipe if precision is Precision.INT8 else "default",
                output=folder,
                progress=progress,
            )
            plans += [_artifact_plan(artifact, threads) for artifact in built.artifacts]
            if precision is Precision.FP32:
                # Not FP16: PyTorch computes half precision on a processor some fifty times slower.
                script = export(
                    model, format="torchscript", precision=precision.value, output=folder, progress=progress
                )
                plans.append(_artifact_plan(script, threads))
            elif precision is Precision.INT8:
                plans += [_emulation_plan(artifact, threads) for artifact in built.artifacts]
    for artifact in artifacts:
        plans.append(_artifact_plan(artifact, threads, label=artifact.path.name))
        if artifact.precision is Precision.INT8:
            plans.append(_emulation_plan(artifact, threads))
    if tile is not None:
        base = plans[0]
        plans.append(
            _Plan(
                case=CaseSpec(
                    **{**vars(base.case), "label": f"{base.case.label}, tiles of {tile}", "tile": tile}
                ),
                artifact=base.artifact,
                timed=False,
                note=(
                    "latency: tiles are for frames that do not fit in memory; only their drift is measured",
                ),
            )
        )
    return plans


def _artifact_plan(artifact: Artifact, threads: int | None, label: str = "") -> _Plan:
    names = {"onnx": "ONNX Runtime", "torchscript": "TorchScript", "engine": "TensorRT"}
    return _Plan(
        case=CaseSpec(
            label=label or f"{names[artifact.kind.value]} {artifact.precision.value}",
            artifact=artifact.path,
            threads=threads,
        ),
        artifact=artifact,
    )


def _emulation_plan(artifact: Artifact, threads: int | None) -> _Plan:
    return _Plan(
        case=CaseSpec(label="INT8 emulated exactly", artifact=artifact.path, exact=True, threads=threads),
        artifact=artifact,
        timed=False,
        note=(
            "latency: this is the arithmetic an engine is expected to do, run on the processor; its speed "
            "says nothing",
        ),
    )


def _common_spec(model: str | None, artifacts: Sequence[Artifact]) -> ModelSpec:
    specs = {} if model is None else {model: load_model_checkpoint(model).spec}
    specs.update({artifact.path.name: artifact.spec for artifact in artifacts})
    first, *others = specs
    for name in others:
        if specs[name] != specs[first]:
            raise InputError(f"{name} is of another network than {first}; bench each on its own")
    return specs[first]


def _sets(data: Sequence[str], scale: int) -> list[EvalSet]:
    sets = [load_eval_set(item, scale) for item in data] or [shipped_eval_set(scale)]
    names = [eval_set.name for eval_set in sets]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two sets are called {name}; name them apart: --data NAME=DIR")
    return sets


def _time(
    plans: Sequence[_Plan],
    workers: Sequence[Worker],
    runs: int,
    progress: Callable[[str], None],
) -> list[Latency | None]:
    samples: list[list[tuple[float, ...]]] = [[] for _ in plans]
    for turn in range(ROUNDS):
        for index, (plan, worker) in enumerate(zip(plans, workers, strict=True)):
            if not plan.timed:
                continue
            progress(f"timing {plan.case.label}, turn {turn + 1} of {ROUNDS}")
            share = -(-runs // ROUNDS)
            samples[index].append(worker.time(warmup=WARMUP if turn == 0 else 1, at_least=share))
    return [Latency(turns=tuple(turns)) if turns else None for turns in samples]


def _quality(reference: Sequence[Scores], own: Sequence[Scores]) -> dict[str, SetQuality]:
    """Return the figures of each set, and the drift from ``reference``, which is empty for the first case."""
    quality = {}
    for index, scores in enumerate(own):
        lost = drift(reference[index], scores) if reference else None
        quality[scores.name] = SetQuality(
            images=len(scores.images),
            psnr_y_db=scores.psnr_y,
            ssim_y=scores.ssim_y,
            dpsnr_db=lost.dpsnr if lost else None,
            dssim=lost.dssim if lost else None,
            fidelity_db=lost.fidelity_psnr if lost else None,
            worst_image=lost.worst_image if lost else None,
            worst_dpsnr_db=lost.worst_dpsnr if lost else None,
        )
    return quality
