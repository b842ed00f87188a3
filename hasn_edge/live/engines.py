"""Which engines a live run can choose from, best first for this machine, and how each is opened."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hasn_edge.artifact import Artifact, load_artifact
from hasn_edge.errors import ArtifactError, HasnEdgeError, InputError, call, omit, use
from hasn_edge.hardware.gpu import gpu_facts
from hasn_edge.live.notices import Tell
from hasn_edge.model.zoo import bundled_onnx, model_name
from hasn_edge.runtime.choice import ENGINES, find_choice, source_of
from hasn_edge.runtime.open import GraphBackend, open_model, open_session
from hasn_edge.runtime.session import Session
from hasn_edge.sidecar import Kind
from hasn_edge.spec import NetworkSpec, Precision

IN_FLIGHT = 2
"""Of a TensorRT engine: one frame is copied while another is computed."""

ON_CPU = " cpu"
"""Ending of the second name of what can be computed on a GPU, which the plain name means."""


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """One way to compute."""

    open: Callable[[tuple[int, int] | None], Session]
    """Opens it for frames of a (height, width); ``None`` where that is not known."""
    size: tuple[int, int] | None = None
    """The one (height, width) that it takes; ``None`` for any."""
    scale: int | None = None
    """How many times it enlarges, where that is known before it is open."""
    other: bool = False
    """It computes another model than the one that was asked for: never the first one unless it is named."""


def list_engines(
    model: str,
    artifacts: Iterable[Path] = (),
    *,
    folder: Path | None = ENGINES,
    size: tuple[int, int] | None = None,
    threads: int | None = None,
    device: str | None = None,
    cuda: str | None = None,
) -> dict[str, EngineChoice]:
    """Return engines by name, the one to begin with first; built files are called as they are on disk.

    Args:
        model: Bundled name or weights file.
        artifacts: Built files; where there are any, only these, in this order.
        folder: Where built files are looked for otherwise; ``None`` for nowhere. Best first: TensorRT
            engines, FP16 before INT8; on a GPU that ONNX Runtime or PyTorch can use, FP16, the model itself
            in FP32, INT8; on the CPU the file that was measured to be best here, with its backend; the model
            itself on the CPU; the others, those for another size, and last those of other models, to
            compare with.
        size: (height, width) that was asked for; ``None`` for any.
        threads: CPU threads; ``None`` for the backend's choice.
        device: Where all of them run, see :func:`~hasn_edge.runtime.open.open_session`. ``None`` for a GPU
            where it can be used, and once more on the CPU, under a name of its own.
        cuda: What gives engines memory and streams; ``None`` for the first that works.

    Raises:
        ArtifactError: one of ``artifacts`` is missing, damaged or changed.
        CheckpointError: no such model.
        InputError: no such device; or ``cuda`` where there is no engine.
    """
    if device is not None and not re.fullmatch(r"cpu|(cuda|tensorrt)(:[0-9]+)?", device):
        raise InputError(
            f"no device called {device!r}; choose cpu, cuda, cuda:<index>, tensorrt or tensorrt:<index>"
        )
    found = [load_artifact(path) for path in artifacts]
    own = not found
    choices: list[tuple[int, str, EngineChoice]] = []
    measured = None
    if own:
        shipped, source = bundled_onnx(model), source_of(model)
        found = [] if folder is None else [a for a in _in(folder) if _runs_on(a.kind, device)]
        if folder is not None and device in (None, "cpu"):
            measured = find_choice(model, folder, size=size)
        for target, engine in _own(model, shipped, threads, device):
            rank = _MODEL_ON_GPU if _is_gpu(target) else _MODEL
            choices.append((rank, _called(f"{model_name(model)} fp32", target, device), engine))
    if cuda is not None and all(artifact.kind is not Kind.ENGINE for artifact in found):
        raise InputError(
            "cuda names what gives TensorRT engines their memory, and there is no engine to choose here",
            call("build"),
            use(artifacts="FILE.engine"),
            omit("cuda"),
        )
    for place, artifact in enumerate(found):
        for target in _targets(artifact.kind, device):
            other = own and artifact.source != source
            rank = place if not own else _OTHER if other else _rank(artifact, size, target)
            backend = None
            if measured is not None and measured.artifact.path == artifact.path and not _is_gpu(target):
                rank, backend = min(rank, _MEASURED), measured.backend
            engine = replace(_built(artifact, threads, target, cuda, backend), other=other)
            choices.append((rank, _called(artifact.path.name, target, device), engine))
    return {name: engine for _, name, engine in sorted(choices, key=lambda choice: choice[0])}


def open_first(
    engines: Mapping[str, EngineChoice],
    wanted: str | None,
    size: tuple[int, int] | None,
    tell: Tell,
) -> tuple[str, Session]:
    """Open the engine to begin with: the one that was named, or the first that works.

    Args:
        engines: As :func:`list_engines` returned them.
        wanted: Its name, see :func:`find_engine`; ``None`` for the best.
        size: (height, width) of the frames where an engine takes any; ``None`` where it is not known.
        tell: Receives which ones do not work here, and where the chosen one is computed.

    Raises:
        InputError: no engine of that name, or several.
        HasnEdgeError: the one that was named, or the last of all, does not work.
    """
    best = [name for name, engine in engines.items() if not engine.other]
    names = best if wanted is None else [find_engine(engines, wanted)]
    for name in names:
        try:
            session = engines[name].open(engines[name].size or size)
        except HasnEdgeError as exc:
            if name == names[-1]:
                raise
            tell(f"{name} is left out: {exc.message}", *exc.cures)
        else:
            plain = session.number_format == session.precision.value
            inside = "" if plain else f" in {session.number_format}"
            tell(f"{name}: computed by {session.backend}{inside} on {session.device}", note=True)
            return name, session
    raise AssertionError("no engine to open")


def find_engine(engines: Mapping[str, EngineChoice], wanted: str) -> str:
    """Return the name of the engine that was asked for; a built file's ending may be left out.

    Raises:
        InputError: no engine of that name, or files of several kinds.
    """
    if wanted in engines:
        return wanted
    base, cpu = wanted.removesuffix(ON_CPU), ON_CPU * wanted.endswith(ON_CPU)
    files = [name for kind in Kind if (name := f"{base}{kind.suffix}{cpu}") in engines]
    if len(files) > 1:
        raise InputError(f"{wanted!r} may be any of {', '.join(files)}; name one, with its ending")
    if not files:
        raise InputError(f"no engine called {wanted!r}; choose one of: {', '.join(engines)}")
    return files[0]


def _own(
    model: str, shipped: Path | None, threads: int | None, device: str | None
) -> Iterator[tuple[str | None, EngineChoice]]:
    """Yield the model itself with each device: the one that was asked for, or a GPU and the CPU."""
    graph = None if shipped is None else load_artifact(shipped)
    scale = None if graph is None else graph.spec.scale

    def opens(target: str | None, kind: Kind | None) -> Callable[[tuple[int, int] | None], Session]:
        backend: Literal["pytorch"] | None = None if kind is None else "pytorch"

        def opened(size: tuple[int, int] | None) -> Session:
            if graph is not None and kind is not Kind.TORCHSCRIPT:
                try:
                    return open_session(graph, device=target, threads=threads, frame=_whole(size, graph.spec))
                except HasnEdgeError:
                    # PyTorch brings CUDA's libraries along; ONNX Runtime wants to find them.
                    if kind is None or not _has_gpu(Kind.TORCHSCRIPT):
                        raise
            return open_model(model, backend=backend, device=target, threads=threads)

        return opened

    kinds = (Kind.TORCHSCRIPT,) if shipped is None else (Kind.ONNX, Kind.TORCHSCRIPT)
    asks_gpu = device is None or device.startswith("cuda")
    # What ONNX Runtime was built without, PyTorch may have.
    gpu = next((kind for kind in kinds if _has_gpu(kind)), None) if asks_gpu else None
    if gpu is not None:
        yield device or "cuda", EngineChoice(open=opens(device or "cuda", gpu), scale=scale)
    if gpu is None or device is None:
        target = "cpu" if gpu is not None else device
        yield target, EngineChoice(open=opens(target, None), scale=scale)


def _built(
    artifact: Artifact,
    threads: int | None,
    device: str | None,
    cuda: str | None,
    backend: GraphBackend | None,
) -> EngineChoice:
    def opened(size: tuple[int, int] | None) -> Session:
        if artifact.kind is Kind.ENGINE:
            return open_session(artifact, device=device, cuda=cuda, in_flight=IN_FLIGHT)
        anything = artifact.kind is Kind.ONNX and artifact.size is None
        known = _whole(size, artifact.spec) if anything else None
        chosen: dict[str, Any] = {} if backend is None else {"backend": backend}
        return open_session(artifact, device=device, threads=threads, frame=known, **chosen)

    return EngineChoice(open=opened, size=artifact.size, scale=artifact.spec.scale)


def _whole(size: tuple[int, int] | None, spec: NetworkSpec) -> tuple[int, int] | None:
    """Return a size that the network takes as it is; what is too small for it is padded."""
    return size if size is not None and spec.size.padding(*size) == (0, 0) else None


def _runs_on(kind: Kind, device: str | None) -> bool:
    """Whether files of a kind can run on a device that was asked for."""
    if device is None or kind is Kind.ONNX:
        return True
    return device.startswith("cuda") or (device == "cpu" and kind in (Kind.TORCHSCRIPT, Kind.PT2))


def _targets(kind: Kind, device: str | None) -> tuple[str | None, ...]:
    """Return the devices that a file is offered on, the better one first."""
    if device is None and kind is not Kind.ENGINE and _has_gpu(kind):
        return "cuda", "cpu"
    return (device,)


def _has_gpu(kind: Kind) -> bool:
    """Whether what runs a kind of file, ONNX Runtime or PyTorch, can use a GPU of this machine."""
    if gpu_facts() is None:
        return False
    try:
        if kind is Kind.ONNX:
            providers = importlib.import_module("onnxruntime").get_available_providers()
            return "CUDAExecutionProvider" in providers
        return bool(importlib.import_module("torch").cuda.is_available())
    except (ImportError, OSError):  # not installed, or without its libraries
        return False


def _called(name: str, target: str | None, device: str | None) -> str:
    return name + ON_CPU if device is None and target == "cpu" else name


def _is_gpu(target: str | None) -> bool:
    return target not in (None, "cpu")


def _in(folder: Path) -> list[Artifact]:
    """Return the artifacts in a folder; files that are none, or damaged, are no choice."""
    suffixes = {kind.suffix for kind in Kind}
    artifacts = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix in suffixes:
            try:
                artifacts.append(load_artifact(path))
            except ArtifactError:
                continue
    return artifacts


_MODEL_ON_GPU, _MEASURED, _MODEL, _OTHER = 5, 9, 10, 40
"""Where the model itself, in FP32, what was measured to be best on the CPU, and files of other models stand
among the ranks."""


def _rank(artifact: Artifact, size: tuple[int, int] | None, target: str | None) -> int:
    if None not in (size, artifact.size) and artifact.size != size:
        return 30
    onnx, precision = artifact.kind is Kind.ONNX, artifact.precision
    if artifact.kind is Kind.ENGINE:
        return {Precision.FP16: 0, Precision.INT8: 1}.get(precision, 2)
    if _is_gpu(target):
        # Q/DQ in front of every convolution costs ONNX Runtime's CUDA kernels time.
        return {Precision.FP16: 3, Precision.INT8: 8}.get(precision, 6) + (not onnx)
    return 20 if onnx else 21
