"""What a benchmark compares: the reference, what is built for the device, and the files that are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hasn_edge.artifact import Artifact, Kind
from hasn_edge.bench.board import Board
from hasn_edge.bench.worker import CaseSpec
from hasn_edge.engine.capabilities import find_module
from hasn_edge.engine.target import EngineRuntime
from hasn_edge.errors import MissingDependencyError
from hasn_edge.optional import require
from hasn_edge.pipeline.api import export
from hasn_edge.pipeline.autotune import SHELF
from hasn_edge.pipeline.build import CACHE, BuildOptions, build_one
from hasn_edge.spec import Precision

_NAMES = {Kind.ONNX: "ONNX Runtime", Kind.TORCHSCRIPT: "TorchScript", Kind.ENGINE: "TensorRT"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A case before it ran."""

    case: CaseSpec
    artifact: Artifact | None = None
    timed: bool = True
    note: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to compare."""

    board: Board
    model: str | None
    """Bundled name or weights file; with it the unfused network in PyTorch is the reference."""
    artifacts: Sequence[Artifact]
    precisions: Sequence[Precision]
    recipe: str
    size: tuple[int, int]
    """(height, width) that engines are built for."""
    threads: int | None
    folder: Path
    """Where graphs for the CPU and TorchScript go."""
    engines: Path = Path("engines")
    """Where engines of earlier builds lie, and below which new ones are kept."""
    tile: int | None = None
    cuda: str | None = None
    progress: Callable[[str], None] = field(default=lambda text: None)


def plans(wanted: Wanted) -> list[Plan]:
    """Return the cases in the order of the report; build what has to be built.

    Raises:
        MissingDependencyError: nothing on this machine runs engines on the device.
        HasnEdgeError: a build failed or missed its budget.
    """
    found: list[Plan] = []
    if wanted.model is not None:
        maker = _processor if wanted.board.kind == "cpu" else _device
        found += maker(wanted, wanted.model)
    for artifact in wanted.artifacts:
        found.append(_of_artifact(artifact, wanted, label=artifact.path.name))
        if artifact.kind is Kind.ONNX and artifact.precision is Precision.INT8:
            found.append(_emulation(artifact, wanted))
    if wanted.tile is not None:
        base = found[0]
        found.append(
            Plan(
                case=replace(base.case, label=f"{base.case.label}, tiles of {wanted.tile}", tile=wanted.tile),
                artifact=base.artifact,
                timed=False,
                note=(
                    "latency: tiles are for frames that do not fit in memory; only their drift is measured",
                ),
            )
        )
    return found


def _processor(wanted: Wanted, model: str) -> list[Plan]:
    found = [Plan(case=CaseSpec(label="PyTorch fp32", model=model, threads=wanted.threads))]
    for precision in wanted.precisions:
        built = _build(wanted, model, precision, "cpu", None)
        found += [_of_artifact(artifact, wanted) for artifact in built]
        if precision is Precision.FP32:
            # Not FP16: PyTorch computes half precision on a CPU some fifty times slower.
            found.append(_torchscript(wanted, model, precision))
        elif precision is Precision.INT8:
            found += [_emulation(artifact, wanted) for artifact in built]
    return found


def _device(wanted: Wanted, model: str) -> list[Plan]:
    """The reference, then for each precision the engine, TorchScript and ONNX Runtime where they can run."""
    torch, runtime = _torch_has_gpu(), _runtime(wanted.board)
    where = "GPU" if torch else "CPU"
    found = [
        Plan(
            case=CaseSpec(
                label=f"PyTorch fp32, {where}",
                model=model,
                threads=wanted.threads,
                device="cuda" if torch else None,
            )
        )
    ]
    for precision in wanted.precisions:
        if runtime is not None:
            for artifact in _build(wanted, model, precision, runtime.value, wanted.size):
                if artifact.kind is Kind.ENGINE:
                    found.append(_of_artifact(artifact, wanted))
                elif precision is Precision.INT8:
                    found.append(_emulation(artifact, wanted))
        if torch and precision is not Precision.INT8:
            found.append(_torchscript(wanted, model, precision))
        if _onnxruntime_has_gpu() and precision is not Precision.INT8:
            found += [_of_artifact(a, wanted) for a in _build(wanted, model, precision, "cpu", None)]
    return found


def _runtime(board: Board) -> EngineRuntime | None:
    """Return what compiles engines for the device; ``None`` where only other backends run on it."""
    runtime = EngineRuntime.RTX if board.kind == "rtx" else EngineRuntime.TENSORRT
    try:
        find_module(runtime)
    except MissingDependencyError:
        if board.kind != "cuda" or not (_torch_has_gpu() or _onnxruntime_has_gpu()):
            raise
        return None
    return runtime


def _build(
    wanted: Wanted, model: str, precision: Precision, target: str, size: tuple[int, int] | None
) -> tuple[Artifact, ...]:
    wanted.progress(f"building {precision.value}" + ("" if target == "cpu" else f" for {target}"))
    options = BuildOptions(target=target, recipe=wanted.recipe, size=size)
    # Compiling takes minutes on a small board: engines are kept, and those of earlier builds are taken.
    engines = target != "cpu"
    return build_one(
        model,
        precision,
        options,
        output=wanted.engines / SHELF if engines else wanted.folder,
        cache=wanted.engines / CACHE if engines else None,
        known=(wanted.engines,) if engines else (),
        progress=wanted.progress,
    ).artifacts


def _torchscript(wanted: Wanted, model: str, precision: Precision) -> Plan:
    script = export(
        model,
        format="torchscript",
        precision=precision.value,
        output=wanted.folder,
        progress=wanted.progress,
    )
    return _of_artifact(script, wanted)


def _of_artifact(artifact: Artifact, wanted: Wanted, label: str = "") -> Plan:
    on_gpu = wanted.board.kind != "cpu"
    engine = artifact.kind is Kind.ENGINE
    return Plan(
        case=CaseSpec(
            label=label or f"{_NAMES[artifact.kind]} {artifact.precision.value}",
            artifact=artifact.path,
            threads=wanted.threads,
            device="cuda" if on_gpu else None,
            cuda=wanted.cuda if engine else None,
        ),
        artifact=artifact,
    )


def _emulation(artifact: Artifact, wanted: Wanted) -> Plan:
    return Plan(
        case=CaseSpec(
            label="INT8 emulated exactly", artifact=artifact.path, exact=True, threads=wanted.threads
        ),
        artifact=artifact,
        timed=False,
        note=(
            "latency: this is the arithmetic an engine is expected to do, run on the CPU; its speed "
            "says nothing",
        ),
    )


def _torch_has_gpu() -> bool:
    try:
        torch = require("torch", extra="export", needed_for="Running PyTorch on the GPU")
    except MissingDependencyError:
        return False
    return bool(torch.cuda.is_available())


def _onnxruntime_has_gpu() -> bool:
    try:
        ort = require("onnxruntime", extra="export", needed_for="Running ONNX Runtime on the GPU")
    except MissingDependencyError:
        return False
    return "CUDAExecutionProvider" in ort.get_available_providers()
