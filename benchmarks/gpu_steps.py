"""What benchmarks/gpu.py does, in order: each step is a function for a process of its own."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_case import Bench, Case, Output
from gpu_isolate import BUILD_LIMIT_S, LIMIT_S, Step, words

from hasn_edge.artifact import load_artifact
from hasn_edge.bench.board import find_board
from hasn_edge.engine.inspect import kernels_of_engine
from hasn_edge.errors import BuildError, HasnEdgeError
from hasn_edge.exporters.torchscript import torchscript_from_model
from hasn_edge.files import writing
from hasn_edge.hardware.gpu import GpuFacts, gpu_facts
from hasn_edge.model.hasn import HASN
from hasn_edge.model.zoo import load_model
from hasn_edge.pipeline.api import build
from hasn_edge.pipeline.inspection import engine_lines
from hasn_edge.runtime.open import open_session
from hasn_edge.runtime.tensorrt.engine_session import TensorRTSession
from hasn_edge.sidecar import Kind
from hasn_edge.spec import Precision

Size = tuple[int, int]
RTX, TENSORRT, ONNX_RUNTIME = "TensorRT for RTX", "TensorRT", "ONNX Runtime CUDA"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all steps share."""

    model: str
    device: str
    """``"cuda"``, or ``"cpu"`` in a rehearsal."""
    seconds: float
    runs: int
    folder: Path
    """What a step built or computed, for those behind it."""


def steps_of(
    setting: Setting, sizes: list[Size], runtimes: list[str], *, limit_s: float | None = None
) -> list[Step]:
    """Return the steps for one network: first whether engines load, last what is known elsewhere too.

    ``limit_s`` is what each may take; ``None`` gives those that may build more time than the others.
    """
    steps: list[Step] = []
    builds = (load_engine, golden_image, built, graphs, mapped, inspect)

    def add(name: str, work: Callable[..., dict[str, Any]], *args: Any) -> None:
        where = f"{Path(setting.model).stem}: {name}"
        limit = limit_s or (BUILD_LIMIT_S if work in builds else LIMIT_S)
        steps.append(Step(name=where, work=functools.partial(work, setting, *args), limit_s=limit))

    first = sizes[0]
    for runtime in runtimes:
        add(f"{runtime}: does an engine load", load_engine, runtime, first)
        add(f"{runtime}: golden image", golden_image, runtime, first)
    for size in sizes:
        at = f"{size[1]}x{size[0]}"
        add(f"PyTorch eager fp32, {at}", eager, size, "fp32")
        add(f"PyTorch eager fp16, {at}", eager, size, "fp16")
        for runtime in runtimes:
            add(f"{runtime} fp16, {at}", built, runtime, size, "fp16")
            add(f"{runtime} int8, {at}", built, runtime, size, "int8")
        add(f"torch.compile fp16, {at}", compiled, size, "fp16")
    for runtime in runtimes:
        add(f"{runtime}: CUDA graphs", graphs, runtime, first)
    for runtime in runtimes:
        add(f"{runtime}: mapped memory", mapped, runtime, first)
    for runtime in runtimes:
        add(f"{runtime}: inspect on the device", inspect, runtime, first)
    for size in sizes:
        at = f"{size[1]}x{size[0]}"
        add(f"PyTorch eager tf32, {at}", eager, size, "tf32")
        add(f"torch.compile fp32, {at}", compiled, size, "fp32")
        for precision in ("fp32", "fp16"):
            add(f"TorchScript {precision}, {at}", scripted, size, precision)
            add(f"{ONNX_RUNTIME} {precision}, {at}", built, ONNX_RUNTIME, size, precision)
        for runtime in runtimes:
            add(f"{runtime} fp32, {at}", built, runtime, size, "fp32")
    return steps


def load_engine(setting: Setting, runtime: str, size: Size) -> dict[str, Any]:
    """Build an FP16 engine and load it; nothing is run."""
    made = Engines(setting).get(runtime, "fp16", size)
    with TensorRTSession(load_artifact(made.path)) as session:
        facts = session.facts()
    return {"engine": made.path.name, "bytes": made.path.stat().st_size, "refused": made.refused, **facts}


def golden_image(setting: Setting, runtime: str, size: Size) -> dict[str, Any]:
    """Open the engine as every verb does: it has to compute what its graph did."""
    made = Engines(setting).get(runtime, "fp16", size)
    with open_session(made.path) as session:
        return {"engine": made.path.name, "equal": True, **(session.facts() or {})}


def eager(setting: Setting, size: Size, precision: str) -> dict[str, Any]:
    """Time PyTorch's module as it is."""
    with _timing(setting, size) as (bench, x), _tf32(precision == "tf32"):
        model, tensor = _module(setting, bench, x, precision)
        case = Case(label="PyTorch eager", precision=precision)
        return _whole([_run(setting, size, case, lambda: bench.module(case, model, tensor))])


def compiled(setting: Setting, size: Size, precision: str) -> dict[str, Any]:
    """Time what ``torch.compile`` makes of the module."""
    with _timing(setting, size) as (bench, x):
        model, tensor = _module(setting, bench, x, precision)
        case = Case(label="torch.compile", precision=precision)
        work = functools.partial(bench.module, case, torch.compile(model), tensor)
        return _whole([_run(setting, size, case, work)])


def scripted(setting: Setting, size: Size, precision: str) -> dict[str, Any]:
    """Time TorchScript without and with CUDA graphs."""
    with _timing(setting, size) as (bench, x):
        script = torchscript_from_model(load_model(setting.model).eval(), precision=Precision(precision))
        script, tensor = script.to(bench.device), torch.from_numpy(x).to(bench.device)
        results = []
        for recorded in (False, True):
            case = Case(label="TorchScript", precision=precision, graphs=recorded)
            work = functools.partial(bench.module, case, script, tensor.clone())
            results.append(_run(setting, size, case, work))
        return _whole(results)


def built(setting: Setting, runtime: str, size: Size, precision: str) -> dict[str, Any]:
    """Time what is built for one backend and precision."""
    made = Engines(setting).get(runtime, precision, size)
    with _timing(setting, size) as (bench, x):
        case = Case(label=runtime, precision=precision, refused=tuple(made.refused))
        return _whole([_run(setting, size, case, lambda: bench.session(case, made.path, x))])


def mapped(setting: Setting, runtime: str, size: Size) -> dict[str, Any]:
    """Time an FP16 engine with copies, and with memory that CPU and GPU share."""
    made = Engines(setting).get(runtime, "fp16", size)
    results = []
    with _timing(setting, size) as (bench, x):
        for shared in (False, True):
            case = Case(label=f"{runtime}, {'mapped' if shared else 'copied'}", precision="fp16")
            work = functools.partial(bench.session, case, made.path, x, mapped=shared)
            results.append(_run(setting, size, case, work))
    return _whole(results)


def graphs(setting: Setting, runtime: str, size: Size) -> dict[str, Any]:
    """Time an FP16 engine launched kernel by kernel, and as a CUDA graph."""
    made = Engines(setting).get(runtime, "fp16", size)
    results = []
    with _timing(setting, size) as (bench, x):
        for recorded in (False, True):
            case = Case(label=f"{runtime}, {'a graph' if recorded else 'no graph'}", precision="fp16")

            def work(case: Case = case, recorded: bool = recorded) -> None:
                with TensorRTSession(load_artifact(made.path), graphs=recorded) as session:
                    bench.opened(case, session, x)

            results.append(_run(setting, size, case, work))
    return _whole(results)


def inspect(setting: Setting, runtime: str, size: Size) -> dict[str, Any]:
    """List the kernels of an FP16 and an INT8 engine, as the GPU's inspector and as their sidecars do."""
    found: dict[str, Any] = {}
    for precision in ("fp16", "int8"):
        try:
            artifact = load_artifact(Engines(setting).get(runtime, precision, size).path)
            kernels = kernels_of_engine(artifact, loaded=True)
            lines = engine_lines(kernels, artifact.precision, artifact.path.name)
            stated = artifact.engine.kernels
            found[precision] = {
                "lines": list(lines),
                "kernels": kernels.all,
                "moved_bytes": kernels.moved_bytes,
                "convolutions": kernels.convolutions,
                "moved_bytes_in_sidecar": None if stated is None else stated.moved_bytes,
            }
        except HasnEdgeError as exc:
            found[precision] = {"error": words(exc)}
    if all("error" in entry for entry in found.values()):
        raise BuildError("; ".join(entry["error"] for entry in found.values()))
    return found


@dataclass(frozen=True, kw_only=True)
class Made:
    """One file."""

    path: Path
    refused: list[str]
    """Why the targets that were tried before it refused."""


class Engines:
    """Files of one run, built when a step first asks for one; what was refused is not tried again."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._folder = setting.folder / "engines"

    def get(self, runtime: str, precision: str, size: Size) -> Made:
        """Return the file of a backend and precision.

        Raises:
            BuildError: every target refused it; the words of each.
        """
        name = f"{Path(self._setting.model).stem} {runtime} {precision} {size[1]}x{size[0]}.json"
        record = self._folder / name.replace(" ", "-")
        if not record.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            # A step that ends while it builds leaves this, so that those behind it do not end there too.
            _write(record, {"path": None, "refused": ["an earlier step ended while it built this"]})
            _write(record, self._build(runtime, precision, size))
        content = json.loads(record.read_text(encoding="utf-8"))
        if content["path"] is None:
            raise BuildError("; ".join(content["refused"]))
        return Made(path=Path(content["path"]), refused=content["refused"])

    def _build(self, runtime: str, precision: str, size: Size) -> dict[str, Any]:
        gpu = gpu_facts() if self._setting.device == "cuda" else None
        targets = {ONNX_RUNTIME: ("cpu",), TENSORRT: ("tensorrt",)}.get(runtime) or rtx_targets(
            gpu, self._folder
        )
        kind, wanted = (Kind.ONNX, None) if runtime == ONNX_RUNTIME else (Kind.ENGINE, size)
        refused: list[str] = []
        for target in targets:
            try:
                artifacts = build(
                    self._setting.model, precision=precision, target=target, size=wanted, output=self._folder
                ).artifacts
            except HasnEdgeError as exc:
                refused.append(f"{Path(target).stem}: {words(exc)}")
                continue
            path = next(artifact.path for artifact in artifacts if artifact.kind is kind)
            return {"path": str(path), "refused": refused}
        return {"path": None, "refused": refused}


def _write(path: Path, content: dict[str, Any]) -> None:
    with writing(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def rtx_targets(gpu: GpuFacts | None, folder: Path) -> tuple[str, ...]:
    """Return the targets to try in turn until one is built and, where there is a GPU, ran on it.

    First for this very GPU by its capability; then without any, which leaves the choice to TensorRT for RTX:
    then neither its list of capabilities nor our check keeps the engine from the GPU, and its answer is its
    own; last the target that ships.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unnamed = folder / "unnamed-gpu.toml"
    unnamed.write_text('runtime = "rtx"\n', encoding="utf-8")
    if gpu is None:
        return (str(unnamed), "rtx")
    this = folder / "this-gpu.toml"
    this.write_text(
        f'runtime = "rtx"\ncompute_capabilities = ["{gpu.compute_capability}"]\n', encoding="utf-8"
    )
    return (str(this), str(unnamed), "rtx")


@contextmanager
def _timing(setting: Setting, size: Size) -> Iterator[tuple[Bench, Output]]:
    """Yield what measures, with the power source open, and the input, noise."""
    torch.backends.cudnn.allow_tf32 = False
    with ExitStack() as stack:
        source = None if setting.device == "cpu" else find_board("cuda").power()[0]
        if source is not None:
            stack.callback(source.close)
        stack.enter_context(torch.inference_mode())
        x = np.random.default_rng(0).random((1, 3, *size), dtype=np.float32)
        yield Bench(device=setting.device, seconds=setting.seconds, runs=setting.runs, source=source), x


def _module(setting: Setting, bench: Bench, x: Output, precision: str) -> tuple[HASN, torch.Tensor]:
    model = load_model(setting.model).eval().to(bench.device)
    tensor = torch.from_numpy(x).to(bench.device)
    return (model.half(), tensor.half()) if precision == "fp16" else (model, tensor)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Let convolutions use TF32 inside the block."""
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = False


def _run(setting: Setting, size: Size, case: Case, work: Callable[[], None]) -> dict[str, Any]:
    """Do the work of a case; a failure of any library becomes its reason. Eager FP32 is the reference."""
    try:
        work()
    except HasnEdgeError as exc:
        case.fail(words(exc))
    except Exception as exc:
        case.fail(f"{type(exc).__name__}: {words(exc)}")
    reference = setting.folder / f"{Path(setting.model).stem}-{size[1]}x{size[0]}.npy"
    if (case.label, case.precision) == ("PyTorch eager", "fp32") and case.finite:
        np.save(reference, case.output)
    known = np.load(reference) if reference.exists() else None
    return {"size": {"height": size[0], "width": size[1]}, **case.to_dict(known)}


def _whole(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a step's result.

    Raises:
        BuildError: no case has a figure; the reasons.
    """
    if all(case["error"] and case["host"] is None for case in cases):
        raise BuildError("; ".join(why for case in cases for why in (*case["refused"], case["error"])))
    return {"cases": cases}
