"""Run a benchmark: build what is to be compared, time it, score it, collect the report."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from hasn_edge.artifact import Artifact, Kind, load_artifact
from hasn_edge.bench.board import find_board
from hasn_edge.bench.cases import Wanted, plans
from hasn_edge.bench.measure import Effort, Measured, Stopwatch
from hasn_edge.bench.mosaic import mosaic
from hasn_edge.bench.report import BenchCase, BenchReport, SetQuality
from hasn_edge.bench.schedule import Course, Ran, too_many
from hasn_edge.data.pairs import EvalSet, load_eval_set, shipped_eval_set
from hasn_edge.engine.engine_file import read_plan_header
from hasn_edge.errors import InputError, UnsupportedError
from hasn_edge.evaluation.evaluate import Scores, drift
from hasn_edge.hardware.clocks import require_clocks
from hasn_edge.hardware.gpu import gpu_facts
from hasn_edge.hardware.host import compute_cores, describe_host
from hasn_edge.hardware.jetson import Jetson
from hasn_edge.model.zoo import load_model_checkpoint
from hasn_edge.runtime.tensorrt.open import no_gpu
from hasn_edge.spec import ModelSpec, Precision

DEFAULT_SIZE = (180, 320)
"""Input (height, width) of the latency figures where neither the user nor a file says another."""

RUNS, SECONDS, WARMUP = 20, 1.0, 2
"""The same figures on a CPU as below on a device."""

DEVICE_RUNS, DEVICE_SECONDS, DEVICE_WARMUP = 200, 10.0, 10
"""Timed calls and time of each case on a device, whichever is longer; and calls before the first timed one,
in which clocks rise, TensorRT sets itself up and graphs are recorded."""


def benchmark(
    model: str | None = None,
    *,
    artifacts: Sequence[Path] = (),
    device: str | None = None,
    precisions: Sequence[str] = ("fp32", "fp16", "int8"),
    data: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    runs: int | None = None,
    recipe: str = "default",
    tile: int | None = None,
    threads: int | None = None,
    cuda: str | None = None,
    sustained_minutes: float | None = None,
    set_clocks: bool = False,
    command: str = "",
    progress: Callable[[str], None] = lambda text: None,
) -> BenchReport:
    """Measure a model in several forms against its FP32 reference.

    Args:
        model: Bundled name or weights file. With it, the unfused network in PyTorch is the reference
            of every ratio and drift; without it the first of ``artifacts`` is.
        artifacts: Built files to measure as they are.
        device: ``"cpu"``, ``"cuda"`` (TensorRT, PyTorch and ONNX Runtime on an NVIDIA GPU), ``"rtx"``
            (TensorRT for RTX) or ``"jetson"`` (as cuda, with the module's power rails); ``None`` for the
            device of the engines among ``artifacts``, else the CPU.
        precisions: Precisions to build for the device and measure.
        data: Evaluation sets, ``"NAME=DIR"``; the images that ship where empty.
        size: Input (height, width) of the latency figures, pixels; ``None`` for the files' own, else
            :data:`DEFAULT_SIZE`.
        runs: Timed calls of each case, at least; ``None`` for 20 on a CPU, 200 on a device.
        recipe: INT8 recipe.
        tile: Tile side in pixels whose drift from whole frames is reported too.
        threads: CPU threads; all cores where ``None``.
        cuda: What gives engines their memory and streams: see :func:`~hasn_edge.runtime.open.open_session`.
        sustained_minutes: After the turns, run each case for so long without a pause.
        set_clocks: Set a Jetson's clocks to the power mode's maximum meanwhile, and back afterwards.
        command: What the report says it was printed by.
        progress: Called with what is under way.

    Returns:
        The finished report; the first case is the reference.

    Raises:
        UnsupportedError: the device is not here; the message says what is.
        HasnEdgeError: a file, set or precision cannot be used, or a build missed its budget.
    """
    if model is None and not artifacts:
        raise InputError("nothing to bench; give a model or the path of a built file")
    # What can be refused is refused before minutes of building.
    wanted = [Precision.parse(text) for text in precisions]
    loaded = [load_artifact(path) for path in artifacts]
    device = _device(device, loaded)
    board = find_board(device)
    if set_clocks:
        require_clocks()
    spec = _common_spec(model, loaded)
    size = _common_size(loaded, size)
    sets = _sets(data, spec.scale)
    threads = compute_cores() if threads is None else threads
    on_device = device != "cpu"
    effort = Effort(
        runs=runs or (DEVICE_RUNS if on_device else RUNS),
        seconds=DEVICE_SECONDS if on_device else SECONDS,
        warmup=DEVICE_WARMUP if on_device else WARMUP,
        sustained_minutes=sustained_minutes,
        set_clocks=set_clocks,
    )
    with tempfile.TemporaryDirectory(prefix="hasn-edge-bench-") as folder:
        planned = plans(
            Wanted(
                board=board,
                model=model,
                artifacts=loaded,
                precisions=wanted,
                recipe=recipe,
                size=size,
                threads=threads,
                folder=Path(folder),
                tile=tile,
                cuda=cuda,
                progress=progress,
            )
        )
        # PyTorch on a Jetson's CPU would take ten minutes for the samples that its GPU has in seconds.
        cpu = replace(effort, runs=runs or RUNS, seconds=SECONDS)
        watch = Stopwatch(board, effort, progress, cpu=cpu)
        # An engine of one size would compute padding with small images: all cases get one full frame.
        framed = any(plan.artifact is not None and plan.artifact.size is not None for plan in planned)
        if framed:
            sets = [mosaic(eval_set, size) for eval_set in sets]
        course = Course(plans=planned, watch=watch, size=size, sets=sets, framed=framed, progress=progress)
        apart = too_many(planned, board, spec, size)
        cases = []
        reference: Sequence[Scores] = []
        with closing(course.run(apart=bool(apart))) as results:
            for ran in results:
                one = ran.measured
                gaps = (*ran.plan.note, *(_gaps(one, watch.no_power) if on_device and one else ()))
                cases.append(_case(ran, _quality(reference, ran.scores), gaps))
                reference = reference or ran.scores  # only the first case's images are kept
    name = model if model is not None else Path(artifacts[0]).name
    return BenchReport(
        model=Path(name).name,
        spec=spec,
        size=size,
        cases=tuple(cases),
        environment=describe_host(),
        date=datetime.date.today().isoformat(),
        effort=effort,
        threads=threads,
        device=device,
        before=watch.before,
        after=watch.after,
        apart=apart,
        framed=framed,
        command=command,
    )


def _device(asked: str | None, artifacts: Sequence[Artifact]) -> str:
    engine = next((artifact for artifact in artifacts if artifact.kind is Kind.ENGINE), None)
    if asked == "cpu" and engine is not None:
        raise UnsupportedError(
            f"{engine.path.name} is an engine and runs on its GPU only; leave out --device cpu, or bench the "
            ".onnx that it was made of"
        )
    if asked is not None:
        return asked
    if engine is None:
        return "cpu"
    if gpu_facts() is None:  # find_board would speak of a --device that nobody gave
        raise no_gpu(engine, read_plan_header(engine.path))
    return "jetson" if Jetson().present else "cuda"


def _case(ran: Ran, quality: Mapping[str, SetQuality], not_measured: tuple[str, ...]) -> BenchCase:
    plan, measured = ran.plan, ran.measured
    artifact = plan.artifact
    return BenchCase(
        label=plan.case.label,
        backend=str(ran.facts["backend"]),
        precision=str(ran.facts["precision"]),
        device=str(ran.facts["device"]),
        file=artifact.path.name if artifact else None,
        sha256=artifact.sha256 if artifact else None,
        file_bytes=artifact.path.stat().st_size if artifact else None,
        latency=measured.latency if measured else None,
        parts=measured.parts if measured else {},
        energy=measured.energy if measured else None,
        sustained=measured.sustained if measured else None,
        facts=measured.facts if measured else {},
        peak_bytes=ran.peak_bytes if plan.timed else None,
        quality=quality,
        not_measured=not_measured,
    )


def _gaps(measured: Measured, no_power: str) -> Iterator[str]:
    """Say what a device's case has no figure of, and why."""
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
                f"{size[1]}x{size[0]}; give --size {own[1]}x{own[0]}, or bench it on its own"
            )
        size = own
    return size or DEFAULT_SIZE


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
