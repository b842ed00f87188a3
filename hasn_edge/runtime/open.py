"""Open what there is: a built file or a model by name, each with the backend that fits it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from hasn_edge.artifact import Artifact, load_artifact
from hasn_edge.errors import InputError, UnsupportedError, call, omit, say, use
from hasn_edge.model.comparators import load_comparator, split_name
from hasn_edge.model.zoo import DEFAULT_MODEL, WEIGHTS, bundled_onnx, is_foreign_network, load_model
from hasn_edge.optional import require
from hasn_edge.runtime.session import Session
from hasn_edge.sidecar import Kind

ModelBackend = Literal["onnxruntime", "pytorch", "torch.compile"]

GraphBackend = Literal["onnxruntime", "openvino", "openvino-bf16"]
"""What runs an ONNX graph; the last computes in BF16 what the graph has in FP32."""
_OPENVINO = ("openvino", "openvino-bf16")

_MOST = 1024
"""Threads, or inputs in flight; as the command line takes them."""

COMPILED = Path("cache", "openvino")
"""Folder beside a graph in which OpenVINO keeps what it compiled."""


def open_session(
    artifact: Artifact | str | os.PathLike[str],
    *,
    backend: GraphBackend | None = None,
    device: str | None = None,
    exact: bool = False,
    threads: int | None = None,
    frame: tuple[int, int] | None = None,
    cuda: str | None = None,
    in_flight: int = 1,
    eager: bool = False,
    mapped: bool | None = None,
) -> Session:
    """Open a built file with the backend of its kind.

    ``.onnx`` runs in ONNX Runtime or OpenVINO, ``.ts`` in PyTorch, ``.engine`` in the TensorRT that built
    it. An engine is refused before TensorRT sees it where its header, its sidecar and this machine's GPU do
    not go together; after it is loaded it must compute what its graph did when it was built.

    Args:
        artifact: An artifact, or the path of its file, whose sidecar lies beside it.
        backend: For ONNX, ``"onnxruntime"`` (the default), ``"openvino"`` or ``"openvino-bf16"``.
        device: ``"cpu"`` (the default), ``"cuda[:<index>]"``; for ONNX also ``"tensorrt[:<index>]"``, in
            OpenVINO ``"cpu"``, ``"gpu[:<index>]"`` and ``"npu"``. An engine runs on ``"cuda[:<index>]"``
            only, which is its default.
        exact: For ONNX, no graph optimizations: exact arithmetic of Q/DQ, slower.
        threads: CPU threads; ``None`` for the backend's choice.
        frame: The one (height, width) in pixels that will come; ONNX Runtime and OpenVINO are faster when
            they know.
        cuda: For an engine, what gives it memory and streams: ``"torch"``, ``"cuda-python"`` or ``"pycuda"``;
            ``None`` for the first that works.
        in_flight: For an engine and in OpenVINO, how many inputs are in flight at a time, see
            :meth:`Session.submit`.
        eager: For timing: an engine of TensorRT for RTX that takes a range of sizes compiles the kernels for
            a size before that first runs, instead of running general ones until they are there. Nothing else
            changes by it.
        mapped: For an engine, let the GPU use the CPU's memory instead of copying; ``None`` where the two
            share one (Jetson).

    Raises:
        InputError: threads or inputs in flight that are not 1 to 1024, or a frame without pixels.
        ArtifactError: the file or its sidecar is missing, damaged or changed; or it is an engine that was
            built for another GPU or TensorRT, or computes something else than it did.
        UnsupportedError: a device that is not here, or an option that this kind of file does not have.
        BuildError: the backend refused the file; its message is carried.
        MissingDependencyError: the backend is not installed.
    """
    _check_numbers(threads=threads, in_flight=in_flight)
    if frame is not None and min(frame) < 1:
        raise InputError(f"frame is {frame}; expected a height and a width from 1 on", omit("frame"))
    if not isinstance(artifact, Artifact):
        artifact = load_artifact(artifact)
    several = in_flight != 1 and backend not in _OPENVINO
    given = {"cuda": cuda is not None, "in_flight": several, "mapped": mapped is not None}
    _check_options(artifact, backend, exact, [name for name, asked in given.items() if asked])
    if artifact.kind is Kind.ENGINE:
        from hasn_edge.runtime.tensorrt.open_engine import open_engine

        return open_engine(
            artifact, device=device, cuda=cuda, in_flight=in_flight, eager=eager, mapped=mapped
        )
    if backend in _OPENVINO:
        return _open_in_openvino(
            artifact,
            bf16=backend == "openvino-bf16",
            device=device,
            exact=exact,
            threads=threads,
            frame=frame,
            in_flight=in_flight,
        )
    if artifact.kind is Kind.ONNX:
        from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession

        return OnnxRuntimeSession(
            artifact.path,
            artifact.spec,
            precision=artifact.precision,
            exact=exact,
            threads=threads,
            device=device or "cpu",
            size=artifact.size,
            frame=frame,
        )
    require("torch", extra="export", needed_for="Running a file of PyTorch")
    if artifact.kind is Kind.PT2:
        return _open_pt2(artifact, device=device, threads=threads)
    from hasn_edge.runtime.torchscript import TorchScriptSession

    return TorchScriptSession(
        artifact.path,
        artifact.spec,
        precision=artifact.precision,
        device=device or "cpu",
        size=artifact.size,
        threads=threads,
    )


def _check_numbers(**given: int | None) -> None:
    """Refuse what backends take for something else, or for so many threads that they never start."""
    for name, number in given.items():
        if number is not None and not 1 <= number <= _MOST:
            raise InputError(f"{name} is {number}; expected 1 to {_MOST}", omit(name))


def _check_options(
    artifact: Artifact, backend: GraphBackend | None, exact: bool, of_engines: Sequence[str]
) -> None:
    """Refuse what this kind of file does not have; ``of_engines`` are given and for engines alone."""
    if exact and artifact.kind is not Kind.ONNX:
        raise UnsupportedError(
            f"{artifact.path}: exact arithmetic of Q/DQ is a mode of ONNX Runtime, and this file is of kind "
            f"{artifact.kind.value}",
            omit("exact"),
        )
    if backend is not None and artifact.kind is not Kind.ONNX:
        raise UnsupportedError(
            f"{artifact.path}: a backend is chosen for ONNX graphs, and this file is of kind "
            f"{artifact.kind.value}",
            omit("backend"),
        )
    if backend not in (None, *get_args(GraphBackend)):
        raise UnsupportedError(
            f"unknown backend {backend!r}; choose one of: {', '.join(get_args(GraphBackend))}"
        )
    if of_engines and artifact.kind is not Kind.ENGINE:
        raise UnsupportedError(
            f"{artifact.path}: a CUDA backend, several executions in flight and mapped memory are for "
            f"engines, and this file is of kind {artifact.kind.value}",
            omit(*of_engines),
        )


def _open_pt2(artifact: Artifact, *, device: str | None, threads: int | None) -> Session:
    from hasn_edge.runtime.pt2 import CompiledSession, ProgramSession

    details = artifact.program
    options: dict[str, Any] = {
        "precision": artifact.precision,
        "least_side": details.least_side,
        "threads": threads,
    }
    if details.compiled_for is None or details.device is None:
        return ProgramSession(artifact.path, artifact.spec, device=device or "cpu", **options)
    if device is not None and device.partition(":")[0] != details.device:
        raise UnsupportedError(
            f"{artifact.path}: compiled for {details.device}, and {device} was asked for",
            omit("device"),
            say("use a file of format pt2, which runs on any device"),
        )
    return CompiledSession(
        artifact.path,
        artifact.spec,
        compiled_for=details.compiled_for,
        device=device or details.device,
        **options,
    )


def _open_in_openvino(artifact: Artifact, *, exact: bool, device: str | None, **options: Any) -> Session:
    if exact:
        raise UnsupportedError(
            f"{artifact.path}: exact arithmetic of Q/DQ is a mode of ONNX Runtime", omit("backend")
        )
    from hasn_edge.runtime.openvino import open_openvino

    folder = artifact.path.parent
    return open_openvino(
        artifact.path,
        artifact.spec,
        precision=artifact.precision,
        device=device or "cpu",
        size=artifact.size,
        # A bundled model lies among the package's own files.
        cache=folder / COMPILED if folder != WEIGHTS and os.access(folder, os.W_OK) else None,
        **options,
    )


def open_model(
    model: str | Path | None = None,
    *,
    backend: ModelBackend | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> Session:
    """Open a model by bundled name or by the path of its weights, in FP32.

    Args:
        model: Bundled name, ``.safetensors`` or ``.pth``; an ``.onnx`` of ours, with its sidecar, or any
            super-resolution graph, see :func:`~hasn_edge.runtime.graph_probe.probe_graph`; ``"span=FILE"``
            for another paper's network, see :func:`~hasn_edge.model.comparators.load_comparator`; ``None``
            for the default model.
        backend: ``"onnxruntime"`` runs the ONNX file that ships with a bundled model and does not import
            PyTorch; ``"pytorch"`` runs the network eagerly, unfused; ``"torch.compile"`` through PyTorch's
            compiler, which takes a minute at the first frame. ``None`` takes the first where it can.
        device: See :func:`open_session`.
        threads: CPU threads; ``None`` for the backend's choice.

    Raises:
        InputError: threads that are not 1 to 1024.
        CheckpointError: no such model, or weights that cannot be used.
        UnsupportedError: an unknown backend, one that this model has no file for, or no such device.
        ArtifactError: the shipped ONNX file was changed or lost its sidecar.
        MissingDependencyError: the backend is not installed.
    """
    _check_numbers(threads=threads)
    name = DEFAULT_MODEL if model is None else model
    other = split_name(name)
    if other is None and Path(name).suffix == ".onnx":
        return _open_graph(Path(name), backend=backend, device=device, threads=threads)
    if backend not in (None, *get_args(ModelBackend)):
        raise UnsupportedError(
            f"unknown backend {backend!r} for a model", *(use(backend=one) for one in get_args(ModelBackend))
        )
    shipped = bundled_onnx(name) if backend in (None, "onnxruntime") else None
    if shipped is not None:
        return open_session(shipped, device=device, threads=threads)
    if backend == "onnxruntime":
        raise UnsupportedError(
            f"{name}: no ONNX file ships with it to open",
            call("export", model=str(name)),
        )
    network = load_model(name) if other is None else load_comparator(*other)
    from hasn_edge.runtime.pytorch import PyTorchSession

    return PyTorchSession(
        network, device=device or "cpu", threads=threads, compiled=backend == "torch.compile"
    )


def _open_graph(
    path: Path, *, backend: ModelBackend | None, device: str | None, threads: int | None
) -> Session:
    """Open a graph by its path alone: ours with its sidecar, another's as running it shows that it is."""
    from hasn_edge.runtime.graph_probe import probe_graph
    from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession

    if backend not in (None, "onnxruntime"):
        raise UnsupportedError(
            f"{path}: PyTorch runs weights, and this is a graph", use(backend="onnxruntime")
        )
    if not is_foreign_network(path):
        return open_session(path, device=device, threads=threads)
    return OnnxRuntimeSession(path, probe_graph(path), threads=threads, device=device or "cpu")
