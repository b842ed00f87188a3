"""What a benchmark compares: the reference, what is built for the device, and the files that are given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from hasn_edge.artifact import Artifact, load_artifact, read_sidecar
from hasn_edge.bench.board import Board
from hasn_edge.bench.case_process import Case, ComparedNetwork
from hasn_edge.bench.options import BenchOptions
from hasn_edge.engine.caches import graph_of
from hasn_edge.engine.capabilities import find_module
from hasn_edge.engine.compatibility import require_compatible
from hasn_edge.engine.target import EngineRuntime, load_target, rtx_target_for
from hasn_edge.errors import (
    HasnEdgeError,
    InputError,
    MissingDependencyError,
    UnsupportedError,
    call,
    use,
)
from hasn_edge.files import distinct_names
from hasn_edge.model.comparators import RANDOM, load_comparator, split_name
from hasn_edge.model.complexity import PAPER_SIZE
from hasn_edge.model.zoo import bundled_onnx, is_foreign_network
from hasn_edge.optional import installed_version, require
from hasn_edge.pipeline.api import export
from hasn_edge.pipeline.autotune import CANDIDATES, OF_ONE_PRECISION, require_engine_folders
from hasn_edge.pipeline.build import Built, build_one
from hasn_edge.pipeline.context import CACHE, BuildOptions
from hasn_edge.progress import Progress, Step, ignore
from hasn_edge.runtime.choice import source_of
from hasn_edge.runtime.open import GraphBackend
from hasn_edge.runtime.tensorrt.open_engine import tensorrt_version
from hasn_edge.sidecar import Kind
from hasn_edge.spec import Precision

_BACKENDS: dict[GraphBackend, str] = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "openvino-bf16": "OpenVINO BF16",
}
_NAMES = {
    Kind.ONNX: "ONNX Runtime",
    Kind.TORCHSCRIPT: "TorchScript",
    Kind.PT2: "PyTorch program",
    Kind.ENGINE: "TensorRT",
}


@dataclass(frozen=True, kw_only=True)
class Backends:
    """What runs networks on the GPU of a benchmark; nothing of it for a benchmark on the CPU."""

    engines: str | None = None
    """The target of the engines, by name; ``None`` where only other backends run."""
    torch_gpu: bool = False
    """Whether PyTorch sees the GPU."""
    onnxruntime_gpu: bool = False
    """Whether ONNX Runtime has its CUDA provider."""
    without_engines: HasnEdgeError | None = field(default=None, compare=False)
    """Why no engines run although they were wanted, and what helps."""


def find_backends(board: Board, *, engines: bool = True) -> Backends:
    """Return what is installed here for the device.

    Args:
        board: The device.
        engines: Whether engines are to be built.

    Raises:
        MissingDependencyError: nothing on this machine runs engines on the device, and ``cuda``, which is
            for whatever runs there, was not asked for or has nothing else.
        UnsupportedError: the same of a Jetson; or TensorRT for RTX has no target for this GPU.
    """
    if board.kind == "cpu":
        return Backends()
    torch_gpu, onnxruntime_gpu = _torch_has_gpu(), _onnxruntime_has_gpu()
    if not engines:
        return Backends(torch_gpu=torch_gpu)
    runtime = EngineRuntime.RTX if board.kind == "rtx" else EngineRuntime.TENSORRT
    installed: str | None = runtime.value
    without: HasnEdgeError | None = None
    try:
        find_module(runtime)
        if runtime is EngineRuntime.RTX and board.gpu is not None:
            installed = rtx_target_for(board.gpu)
            if installed is None:
                raise UnsupportedError(
                    f"no target of TensorRT for RTX is for {board.gpu.title}", use(device="cuda")
                )
    except (MissingDependencyError, UnsupportedError) as exc:
        if board.kind != "cuda" or not (torch_gpu or onnxruntime_gpu):
            raise
        installed, without = None, exc
    return Backends(
        engines=installed, torch_gpu=torch_gpu, onnxruntime_gpu=onnxruntime_gpu, without_engines=without
    )


def find_compared(texts: Sequence[str], scale: int, size: tuple[int, int]) -> list[ComparedNetwork]:
    """Return networks of other papers, and count them.

    Args:
        texts: As :attr:`BenchOptions.compare`.
        scale: That of the network that they are compared with.
        size: (height, width) of the latency figures.

    Raises:
        InputError: no network is called so; those that there are are listed. Or the scale is another.
        CheckpointError: a file is no checkpoint of its network.
        MissingDependencyError: PyTorch is not installed.
    """
    found = []
    wanted = [split_name(text) or (text, RANDOM) for text in texts]
    files = distinct_names([Path(weights) for _, weights in wanted])
    for (name, weights), file in zip(wanted, files, strict=True):
        network = load_comparator(name, weights)
        if network.spec.scale != scale:
            raise InputError(f"{name} is of scale {network.spec.scale}, and the model of scale {scale}")
        trained = weights != RANDOM
        found.append(
            ComparedNetwork(
                name=f"{name} ({file})" if trained else name,
                model=f"{name}={weights}",
                trained=trained,
                counts={one: network.network.counts(*one) for one in (size, PAPER_SIZE)},
            )
        )
    return found


def is_graph(model: str) -> bool:
    """Return whether the model is a graph alone: nothing that PyTorch could run."""
    return is_foreign_network(model) and split_name(model) is None


@dataclass(frozen=True, kw_only=True)
class CaseMaker:
    """Makes the cases of one benchmark, and builds what they run."""

    options: BenchOptions
    board: Board
    backends: Backends
    size: tuple[int, int]
    """(height, width) that engines are built for."""
    folder: Path
    """Where graphs for the CPU and TorchScript go."""
    engines: Path = Path("engines")
    """Where engines of earlier builds lie, and below which new ones are kept."""
    compared: Sequence[ComparedNetwork] = ()
    """What :func:`find_compared` found of ``options.compare``."""
    progress: Progress = ignore
    build: Callable[..., Built] = build_one
    export: Callable[..., Artifact] = export

    def cases(self, artifacts: Sequence[Artifact]) -> list[Case]:
        """Return the cases in the order of the report, no two of one label; build what has to be built.

        A build that fails or misses its budget is a case that states so; the others go on.

        Raises:
            OutputError: engines cannot be written where they are kept.
            HasnEdgeError: nothing could be built, with the reason of the first.
        """
        found: list[Case] = []
        if self.options.model is not None:
            make = self._cpu_cases if self.board.kind == "cpu" else self._device_cases
            found += make(self.options.model, self._precisions)
            failures = [case.failure for case in found if case.failure is not None]
            built = [case for case in found[1:] if case.model is None]  # the others are the network itself
            if failures and len(failures) == len(built):
                raise failures[0]
        names = distinct_names([artifact.path for artifact in artifacts])
        for artifact, name in zip(artifacts, names, strict=True):
            found += self._artifact_cases(artifact, label=name)
            if artifact.kind is Kind.ONNX and artifact.precision is Precision.INT8:
                found.append(self._emulated_case(artifact, label=f"{name}, emulated exactly"))
        for other in self.compared:  # last: the first case is the reference
            found += self._compared_cases(other)
        tile = self.options.tile
        if tile is not None:
            why = "latency: tiles are for frames that do not fit in memory; only their drift is measured"
            label = f"{found[0].label}, tiles of {tile}"
            found.append(replace(found[0], label=label, tile=tile, timed=False, not_measured=(why,)))
        return _numbered(found)

    def _reference(self, model: str, *, gpu: bool | None) -> Case:
        """Return the FP32 network: by PyTorch or, without that, the graph that ships with it."""
        where = {None: "", False: ", CPU", True: ", GPU"}[gpu]
        if is_graph(model):
            return Case(label="ONNX Runtime fp32, as given", model=model, threads=self.options.threads)
        onnx = None if installed_version("torch") else bundled_onnx(model)
        if onnx is not None:
            case = self._artifact_case(load_artifact(onnx), label="ONNX Runtime fp32, as it ships")
            return case if self.backends.onnxruntime_gpu else replace(case, device=None)
        device = "cuda" if gpu else None
        return Case(label=f"PyTorch fp32{where}", model=model, threads=self.options.threads, device=device)

    def _compiled_case(self, model: str, *, gpu: bool) -> list[Case]:
        if not self.options.compiled or is_graph(model):
            return []
        return [
            Case(
                label="torch.compile fp32" + (", GPU" if gpu else ""),
                model=model,
                compiled=True,
                threads=self.options.threads,
                device="cuda" if gpu else None,
            )
        ]

    def _compared_cases(self, other: ComparedNetwork) -> list[Case]:
        """The network in PyTorch, and as the device runs networks best, in floating point."""
        if self.board.kind == "cpu":
            found = self._cpu_cases(other.model, [Precision.FP32])
        else:
            floats = [one for one in self._precisions if one is not Precision.INT8]
            found = self._device_cases(other.model, floats or [Precision.FP16])
        why = () if other.trained else ("quality: its weights are random, and tell what it costs alone",)
        return [
            replace(
                case,
                label=f"{other.name}, {case.label}",
                network=other,
                not_measured=(*case.not_measured, *why),
            )
            for case in found
        ]

    def _cpu_cases(self, model: str, precisions: Sequence[Precision]) -> list[Case]:
        found = [self._reference(model, gpu=None), *self._compiled_case(model, gpu=False)]
        for precision in precisions:
            built = self._build(model, precision, "cpu", None)
            found += self._cases_of(built)
            if precision is Precision.FP32 and not is_foreign_network(model):
                # Not FP16: PyTorch computes half precision on a CPU some fifty times slower.
                found.append(self._torchscript_case(model, precision))
            if precision is Precision.INT8:
                found += [self._emulated_case(one) for one in built if isinstance(one, Artifact)]
        return found

    def _device_cases(self, model: str, precisions: Sequence[Precision]) -> list[Case]:
        """The reference, then for each precision the engine, TorchScript and ONNX Runtime where they run."""
        if self.backends.engines is not None:
            require_engine_folders(self.engines)
        gpu = self.backends.torch_gpu and not is_graph(model)
        found = [self._reference(model, gpu=gpu), *self._compiled_case(model, gpu=gpu)]
        for precision in precisions:
            if self.backends.engines is not None:
                for one in self._build(model, precision, self.backends.engines, self.size):
                    if isinstance(one, Case) or one.kind is Kind.ENGINE:
                        found += self._cases_of([one])
                    elif precision is Precision.INT8:
                        found.append(self._emulated_case(one))
            if gpu and precision is not Precision.INT8 and not is_foreign_network(model):
                found.append(self._torchscript_case(model, precision))
            if self.backends.onnxruntime_gpu and precision is not Precision.INT8:
                found += self._cases_of(self._build(model, precision, "cpu", None))
        return found

    @property
    def _precisions(self) -> list[Precision]:
        return [Precision.parse(text) for text in self.options.precisions]

    def _build(
        self, model: str, precision: Precision, target: str, size: tuple[int, int] | None
    ) -> Sequence[Artifact | Case]:
        """Build, and return the files, or a case with the reason why there are none."""
        self.progress(Step(f"building {precision.value}" + ("" if target == "cpu" else f" for {target}")))
        # Compiling takes minutes on a small board: engines are kept, and those of earlier builds are taken.
        engines = target != "cpu"
        try:
            return self.build(
                BuildOptions(
                    model=model,
                    precision=precision.value,
                    target=target,
                    recipe=self.options.recipe,
                    size=size,
                    force=True,  # what a network is worth stands in the table
                    output=self.engines / CANDIDATES if engines else self.folder,
                ),
                cache=self.engines / CACHE if engines else None,
                known=(self.engines,) if engines else (),
                progress=self.progress,
            ).artifacts
        except (*OF_ONE_PRECISION, MissingDependencyError) as exc:
            failure: HasnEdgeError = exc
            if isinstance(exc, MissingDependencyError):
                if self.board.kind == "cpu":
                    raise
                # A board without PyTorch runs what was built there from the graphs of another machine.
                if engines and (found := self._known_engine(model, precision, target)):
                    return found
                if engines:
                    failure = UnsupportedError(
                        f"{exc.needed_for} needs the Python package {exc.module!r}, which is not installed, "
                        f"and no engine of this model, size and GPU is in {self.engines}",
                        use(artifacts="FILE.engine"),
                        call("build", model="BUNDLE", precision=precision.value, target=target, size=size),
                    )
            label = f"{_NAMES[Kind.ENGINE if engines else Kind.ONNX]} {precision.value}"
            device = None if self.board.kind == "cpu" else "cuda"
            return [Case(label=label, precision=precision.value, device=device, failure=failure, timed=False)]

    def _known_engine(self, model: str, precision: Precision, target: str) -> list[Artifact]:
        """Return an engine that lies here and its graph, of these weights, size, recipe and GPU."""
        runtime = load_target(target).runtime
        wanted = (source_of(model), precision, self.size, False, runtime.value)
        version = tensorrt_version(runtime)
        for folder in (self.engines, self.engines / CANDIDATES):
            for path in sorted(folder.glob(f"*{Kind.ENGINE.suffix}")):
                with suppress(HasnEdgeError):
                    one = read_sidecar(path)
                    if wanted != (one.source, one.precision, one.size, one.pixels, one.engine.runtime):
                        continue
                    asked = one.engine.asked
                    if asked is not None and asked.recipe not in (None, Path(self.options.recipe).name):
                        continue
                    require_compatible(one, gpu=self.board.gpu, runtime_version=version)
                    graph = graph_of(one)
                    return [*([] if graph is None else [load_artifact(graph)]), load_artifact(path)]
        return []

    def _cases_of(self, built: Sequence[Artifact | Case]) -> list[Case]:
        cases = ([one] if isinstance(one, Case) else self._artifact_cases(one) for one in built)
        return list(chain.from_iterable(cases))

    def _torchscript_case(self, model: str, precision: Precision) -> Case:
        script = self.export(
            model,
            format="torchscript",
            precision=precision.value,
            output=self.folder,
            progress=self.progress,
        )
        return self._artifact_case(script)

    def _artifact_cases(self, artifact: Artifact, label: str = "") -> list[Case]:
        """Return a case of a file; of a graph on a CPU one for each backend that was asked for."""
        wanted = self.options.graph_backends
        if artifact.kind is not Kind.ONNX or self.board.kind != "cpu" or tuple(wanted) == ("onnxruntime",):
            return [self._artifact_case(artifact, label)]
        return [self._artifact_case(artifact, label, backend) for backend in wanted]

    def _artifact_case(
        self, artifact: Artifact, label: str = "", backend: GraphBackend | None = None
    ) -> Case:
        runner = _NAMES[artifact.kind] if backend is None else _BACKENDS[backend]
        if label and backend is not None:
            label = f"{label}, {runner}"
        return Case(
            label=label or f"{runner} {artifact.precision.value}",
            artifact=artifact,
            backend=backend,
            threads=self.options.threads,
            device=None if self.board.kind == "cpu" else "cuda",
            cuda=self.options.cuda if artifact.kind is Kind.ENGINE else None,
        )

    def _emulated_case(self, artifact: Artifact, label: str = "INT8 emulated exactly") -> Case:
        return Case(
            label=label,
            artifact=artifact,
            exact=True,
            threads=self.options.threads,
            timed=False,
            not_measured=(
                "latency: this is the arithmetic an engine is expected to do, run on the CPU; its speed "
                "means nothing",
            ),
        )


def _numbered(cases: Sequence[Case]) -> list[Case]:
    """Return the cases, with a number behind labels that earlier ones have: reports are compared by them."""
    times: Counter[str] = Counter()
    found = []
    for case in cases:
        times[case.label] += 1
        number = times[case.label]
        found.append(case if number == 1 else replace(case, label=f"{case.label} ({number})"))
    return found


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
