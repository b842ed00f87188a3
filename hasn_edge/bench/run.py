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
from hasn_edge.data.pairs import load_eval_set, shipped_eval_set
from hasn_edge.errors import InputError, UnsupportedError
from hasn_edge.machine import compute_cores, environment
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
    wanted = [Precision.parse(text) for text in precisions]
    threads = compute_cores() if threads is None else threads
    names = [item.partition("=")[0] for item in data]
    if len(set(names)) < len(names):
        raise InputError(f"two sets have one name ({', '.join(names)}); name them apart: --data NAME=DIR")
    for path in artifacts:
        load_artifact(path)
    for item in data:
        load_eval_set(item, 1)  # a wrong path is found now, not after the builds
    if model is None and not artifacts:
        raise InputError("nothing to bench; give a model or the path of a built file")
    with tempfile.TemporaryDirectory(prefix="hasn-edge-bench-") as folder:
        plans = _plans(model, artifacts, wanted, Path(folder), recipe, tile, threads, progress)
        spec = _common_spec(plans, model)
        sets = [load_eval_set(item, spec.scale) for item in data] or [shipped_eval_set(spec.scale)]
        with ExitStack() as stack:
            workers = []
            for plan in plans:
                progress(f"opening {plan.case.label}")
                workers.append(stack.enter_context(Worker(plan.case)))
            facts = [worker.open() for worker in workers]
            latencies = _time(plans, workers, size, runs, progress)
            peaks = [worker.peak_bytes() for worker in workers]
            scores = []
            for worker, plan in zip(workers, plans, strict=True):
                progress(f"scoring {plan.case.label}")
                scores.append([worker.score(eval_set) for eval_set in sets])
        cases = tuple(
            BenchCase(
                label=plan.case.label,
                backend=str(fact["backend"]),
                precision=str(fact["precision"]),
                file=plan.artifact.path.name if plan.artifact else None,
                sha256=plan.artifact.sha256 if plan.artifact else None,
                file_bytes=plan.artifact.path.stat().st_size if plan.artifact else None,
                latency=latency,
                peak_bytes=peak if plan.timed else None,
                quality=_quality(scores[0], own, is_reference=index == 0),
                not_measured=plan.note,
            )
            for index, (plan, fact, latency, peak, own) in enumerate(
                zip(plans, facts, latencies, peaks, scores, strict=True)
            )
        )
    name = model if model is not None else Path(artifacts[0]).name
    return BenchReport(
        model=Path(name).name,
        spec=spec,
        size=size,
        cases=cases,
        environment=environment(),
        date=datetime.date.today().isoformat(),
        warmup_calls=WARMUP,
        threads=threads,
        command=command,
    )


def _plans(
    model: str | None,
    artifacts: Sequence[Path],
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
    for path in artifacts:
        artifact = load_artifact(path)
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


def _common_spec(plans: Sequence[_Plan], model: str | None) -> ModelSpec:
    specs = [plan.artifact.spec for plan in plans if plan.artifact is not None]
    if not specs:
        from hasn_edge.model.zoo import load_model_checkpoint

        assert model is not None
        return load_model_checkpoint(model).spec
    for plan in plans:
        if plan.artifact is not None and plan.artifact.spec != specs[0]:
            raise InputError(
                f"{plan.artifact.path.name} is of another network than the first case; bench each on its own"
            )
    return specs[0]


def _time(
    plans: Sequence[_Plan],
    workers: Sequence[Worker],
    size: tuple[int, int],
    runs: int,
    progress: Callable[[str], None],
) -> list[Latency | None]:
    samples: list[list[float]] = [[] for _ in plans]
    for turn in range(ROUNDS):
        for index, (plan, worker) in enumerate(zip(plans, workers, strict=True)):
            if not plan.timed:
                continue
            progress(f"timing {plan.case.label}, turn {turn + 1} of {ROUNDS}")
            share = -(-runs // ROUNDS)
            samples[index] += worker.time(size, warmup=WARMUP if turn == 0 else 1, at_least=share)
    return [Latency(seconds=tuple(taken)) if taken else None for taken in samples]


def _quality(
    reference: Sequence[Scores], own: Sequence[Scores], *, is_reference: bool
) -> dict[str, SetQuality]:
    quality = {}
    for base, scores in zip(reference, own, strict=True):
        lost = None if is_reference else drift(base, scores)
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
