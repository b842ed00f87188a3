"""An engine from an ONNX graph: the compiler runs in a child process, and however that ends is an answer."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from hasn_edge.engine import worker_process
from hasn_edge.engine.capabilities import NAMES, find_module
from hasn_edge.engine.engine_file import PlanHeader, parse_plan_header
from hasn_edge.engine.target import EngineTarget, ShapeRange
from hasn_edge.engine.worker_process import (
    WORKER,
    BuildRequest,
    CalibrationFiles,
    CalibratorInput,
    WorkerProcess,
    no_room,
    run_worker,
)
from hasn_edge.errors import BuildError, OutputError, UnsupportedError, counted, say, use
from hasn_edge.files import writing
from hasn_edge.progress import Progress, ignore
from hasn_edge.sidecar import EngineDetails, KernelRecord
from hasn_edge.spec import Precision

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A compiled plan and what is known about it."""

    plan: bytes
    """A plain TensorRT plan, nothing added: other tools load it too."""
    target: EngineTarget
    precision: Precision
    header: PlanHeader
    version: str
    """Of the compiler: as the plan states it, or where it does not (TensorRT 8.5), as the compiler does."""
    made_by: Mapping[str, str]
    """Name and version of the compiler, for a sidecar."""
    warnings: tuple[str, ...]
    """What the compiler warned of, each text once."""
    seconds: float
    """Wall-clock time of the build, the child's start included."""
    kernels: KernelRecord | None = field(default=None, repr=False)
    """``None`` where the compiler did not list them."""
    facts: Mapping[str, Any] = field(repr=False)
    """Inputs, outputs, layer counts, profile, flags, GPU and driver, as plain JSON values."""

    def details(self) -> EngineDetails:
        """Return what belongs into the engine's sidecar, as far as the compiler knows it."""
        facts = {
            **self.facts,
            "size": self.target.shapes.size,
            "target": self.target.name,
            "runtime": self.target.runtime.value,
            "version": self.version,
            "compute_capabilities": self.target.compute_capabilities,
            "build_seconds": round(self.seconds, 2),
            "warnings": self.warnings,
        }
        return msgspec.structs.replace(msgspec.convert(facts, EngineDetails), kernels=self.kernels)


def engine_from_onnx(
    onnx: bytes,
    target: EngineTarget,
    *,
    precision: Precision | None = None,
    progress: Progress = ignore,
    cache: Path | None = None,
    calibrator: CalibratorInput | None = None,
) -> BuiltEngine:
    """Compile an ONNX graph for ``target``.

    The compiler runs in a process of its own, so a crash of it, or the system killing it for memory, is an
    error here and not the end of this program. TensorRT for RTX needs no GPU.

    Args:
        onnx: The serialized graph, in the form that
            :attr:`hasn_edge.engine.capabilities.Capabilities.form` names; with ``calibrator`` the FP32
            graph in the form that ``weakly_typed_form`` names.
        target: What to build for.
        precision: What the engine shall compute in. A strongly typed graph states it itself and is checked
            against it; a weakly typed one takes it by builder flags. ``None``: what the graph states, which
            never is FP16 where flags decide.
        progress: Called from this thread while the compiler works.
        cache: Folder that keeps timings (and calibrations) for the next build; ``None`` keeps none.
        calibrator: Let TensorRT choose the INT8 ranges, the legacy method of TensorRT 8.5 to 10.

    Raises:
        MissingDependencyError: TensorRT is not installed.
        UnsupportedError: this TensorRT cannot build for the target, or the graph's fixed size is another.
        BuildError: the compiler refused, crashed or was killed; carries its messages. Or it made an INT8
            engine without INT8.
        ShapeError: calibration images of several shapes, or none.
        OutputError: no room for the temporary files.
    """
    built = _compile(onnx, target, precision, progress, cache, calibrator)
    kernels = built.kernels
    one_generation = len(target.compute_capabilities) == 1  # of several, the kernels are those of one
    if built.precision is Precision.INT8 and kernels and one_generation and not kernels.integer:
        raise BuildError(
            f"none of the {kernels.convolutions_all} convolutions computes in INT8 on GPUs of compute "
            f"capability {target.compute_capabilities[0]}: this engine would be less exact than an FP16 "
            "one, and slower",
            use(precision="fp16"),
        )
    return built


def _compile(
    onnx: bytes,
    target: EngineTarget,
    precision: Precision | None,
    progress: Progress,
    cache: Path | None,
    calibrator: CalibratorInput | None,
) -> BuiltEngine:
    if target.runtime not in NAMES:
        raise UnsupportedError(
            f"the target {target.name!r} has no engine: its runtime, {target.runtime.value!r}, takes the "
            "graph itself",
            say("choose a target of TensorRT"),
            use(target="rtx"),
        )
    if calibrator is not None and precision not in (None, Precision.INT8):
        raise UnsupportedError(f"a calibrator makes INT8 engines; the precision asked for is {precision}")
    find_module(target.runtime)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="hasn-edge-build-") as name:
            folder = Path(name)
            (folder / worker_process.GRAPH).write_bytes(onnx)
            request = BuildRequest(
                target=target,
                precision=precision,
                cache=None if cache is None else str(cache.resolve()),
                calibration=None if calibrator is None else CalibrationFiles.write(calibrator, folder),
                verbose=worker_process.log.isEnabledFor(logging.DEBUG),
            )
            request.write(folder)
            worker = run_worker(folder, [sys.executable, *WORKER, str(folder)], progress=progress)
            result = worker.outcome(NAMES[target.runtime])
            plan = (folder / worker_process.PLAN).read_bytes()
            if cache is not None:
                _keep(folder, cache, result["keep"])
    except OSError as exc:
        raise no_room(exc) from exc
    header = parse_plan_header(plan, file_bytes=len(plan), name=f"the plan for target {target.name!r}")
    version = header.version_or(result["version"])
    return BuiltEngine(
        plan=plan,
        target=target,
        precision=Precision(result["facts"]["precision"]),
        header=header,
        version=version,
        made_by={NAMES[target.runtime]: version},
        warnings=(*_doubts(worker), *worker.texts("WARNING")),
        seconds=time.monotonic() - started,
        kernels=worker.kernels,
        facts=result["facts"],
    )


def kernels_from_onnx(
    onnx: bytes, target: EngineTarget, *, precision: Precision | None = None, progress: Progress = ignore
) -> KernelRecord:
    """Compile an ONNX graph and return what its kernels read and write: what the graph costs on ``target``.

    The engine is of the target's optimal size alone, and is thrown away. TensorRT for RTX needs no GPU for
    that, and some two seconds; the bytes it counts (:attr:`~hasn_edge.sidecar.KernelRecord.moved_bytes`)
    tell how fast a memory-bound network will be, and are the same in each run.

    Args:
        onnx: As for :func:`engine_from_onnx`.
        target: Where it has several compute capabilities, the compiler lists the kernels for one of them.
        precision: As for :func:`engine_from_onnx`.
        progress: As for :func:`engine_from_onnx`.

    Raises:
        HasnEdgeError: as for :func:`engine_from_onnx`, but for INT8 without INT8.
        UnsupportedError: the compiler does not list its kernels here.
    """
    opt = target.shapes.opt
    fixed = replace(target, shapes=ShapeRange(min=opt, opt=opt, max=opt))
    kernels = _compile(onnx, fixed, precision, progress, None, None).kernels
    if kernels is None:
        raise UnsupportedError(f"{NAMES[target.runtime]} does not list the kernels that it compiled")
    return kernels


def _doubts(worker: WorkerProcess) -> list[str]:
    """Return what an engine's kernels tell against it."""
    if not worker.unverified:
        return []
    return [
        "kernels that do not state what they compute in hold at least "
        f"{counted(len(worker.unverified), 'layer')} that shall compute in FP32: only the engine's output "
        "tells"
    ]


def _keep(folder: Path, cache: Path, names: Mapping[str, str]) -> None:
    """Move what the compiler left for the next build into the cache, each file whole or not at all.

    Where that is not possible the next build is slower: no reason to lose the engine.
    """
    for made, name in names.items():
        source = folder / made
        if source.is_file():
            try:
                with writing(cache / name) as temporary:
                    temporary.write_bytes(source.read_bytes())
            except OutputError as exc:
                log.warning("the next build begins anew: %s", exc)
