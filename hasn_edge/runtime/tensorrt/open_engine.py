"""Opening an engine: everything that can be known is checked before TensorRT is touched, its result after."""

from __future__ import annotations

import os
from typing import Any

from hasn_edge.artifact import Artifact
from hasn_edge.engine.caches import graph_of
from hasn_edge.engine.capabilities import NAMES, find_module, load_tensorrt
from hasn_edge.engine.compatibility import rebuild, require_compatible, unknown_folders
from hasn_edge.engine.engine_file import PlanHeader, read_plan_header
from hasn_edge.engine.target import EngineRuntime
from hasn_edge.errors import ArtifactError, Cure, UnsupportedError, call, say, use
from hasn_edge.files import after_failure
from hasn_edge.hardware.gpu import GpuFacts, driver_present, gpu_facts
from hasn_edge.optional import installed_version
from hasn_edge.runtime.golden import check_golden
from hasn_edge.runtime.tensorrt.engine_session import TensorRTSession

_DISTRIBUTIONS = {
    EngineRuntime.TENSORRT: ("tensorrt-cu13-bindings", "tensorrt-cu12-bindings", "tensorrt"),
    EngineRuntime.RTX: ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
}


def open_engine(
    artifact: Artifact,
    *,
    device: str | None = None,
    cuda: str | None = None,
    in_flight: int = 1,
    eager: bool = False,
    mapped: bool | None = None,
) -> TensorRTSession:
    """Open an engine whose sidecar was read and whose bytes are those that were published.

    In this order: the plan's header, a driver and a GPU, the engine's GPU and TensorRT against those here,
    TensorRT itself, the engine, and the image whose result is known.

    Args:
        artifact: The engine.
        device: ``"cuda"`` or ``"cuda:<index>"``.
        cuda: See :func:`~hasn_edge.runtime.open.open_session`.
        in_flight: See :func:`~hasn_edge.runtime.open.open_session`.
        eager: See :func:`~hasn_edge.runtime.open.open_session`.
        mapped: See :func:`~hasn_edge.runtime.open.open_session`.

    Raises:
        HasnEdgeError: as :func:`~hasn_edge.runtime.open.open_session`.
    """
    kind, _, number = (device or "cuda").partition(":")
    if kind != "cuda" or (number and not number.isdecimal()):
        raise UnsupportedError(
            f"{artifact.path}: an engine runs on cuda or cuda:<index>, not on {device!r}", *_graph(artifact)
        )
    index = int(number or 0)
    header = read_plan_header(artifact.path)
    gpu = gpu_facts(index)
    if gpu is None:
        raise no_gpu(artifact, header, index)
    find_module(header.runtime, needed_for="Running an engine")
    try:
        options = {"cuda": cuda, "in_flight": in_flight, "eager": eager, "mapped": mapped}
        return _open_checked(artifact, header, gpu, device_index=index, **options)
    except ArtifactError as exc:
        if index == 0 or header.runtime is not EngineRuntime.TENSORRT:
            raise
        # TensorRT compiles on the first GPU: the same build as it stands would make the same engine again.
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        number = shown[index].strip() if index < len(shown) else str(index)
        note = f"a build compiles for the first GPU; CUDA_VISIBLE_DEVICES={number} makes this one the first"
        raise ArtifactError(f"{exc.message}; {note}", *exc.cures) from exc


def _open_checked(artifact: Artifact, header: PlanHeader, gpu: GpuFacts, **options: Any) -> TensorRTSession:
    """Open an engine on a GPU that is here if it is for this GPU, and computes what it shall."""
    require_compatible(artifact, gpu=gpu, runtime_version=tensorrt_version(header.runtime))
    _, capabilities = load_tensorrt(header.runtime, needed_for="Running an engine")
    require_compatible(artifact, gpu=gpu, runtime_version=capabilities.version)
    # Nothing that the build looks at has changed: only one that compiles anyway would not return this file.
    cure = rebuild(artifact, gpu=gpu, again=True)
    session = TensorRTSession(artifact, **options)
    try:
        check_golden(
            session,
            artifact.engine.golden,
            name=str(artifact.path),
            cure=cure,
            note=unknown_folders(cure),
        )
    except BaseException:
        with after_failure():
            session.close()
        raise
    return session


def tensorrt_version(runtime: EngineRuntime) -> str | None:
    """Return TensorRT's version as its package states it, without importing it."""
    versions = (installed_version(name) for name in _DISTRIBUTIONS[runtime])
    return next((version for version in versions if version is not None), None)


def no_gpu(artifact: Artifact, header: PlanHeader, index: int = 0) -> UnsupportedError:
    """Return the error of an engine where no GPU of that number answers: it states what the engine needs."""
    why = f"its NVIDIA driver knows no GPU number {index} (a container must be given one: --gpus all)"
    if not driver_present():
        why = "it has no NVIDIA driver (libcuda), so no GPU that could run it"
    details = artifact.engine
    made_on = details.gpu or ""
    if not made_on and details.compute_capabilities:
        made_on = f"of compute capability {', '.join(details.compute_capabilities)}"
    needed = f"{NAMES[header.runtime]} {header.version_or(details.version)}"
    return UnsupportedError(
        f"{artifact.path}: this machine cannot run an engine: {why}. It takes an NVIDIA GPU "
        f"{f'({made_on}) ' if made_on else ''}with its driver, and {needed}. Without them, run the "
        "graph that it was made from on any CPU",
        *_graph(artifact),
    )


def _graph(artifact: Artifact) -> tuple[Cure, ...]:
    """Return how to run the graph that the engine was made from."""
    graph = graph_of(artifact)
    if graph is not None:
        return (use(artifact=str(graph)),)
    model, named = artifact.engine.model, say("name the .onnx file that it was made from")
    if model.endswith("/"):  # a bundle has no graph for a CPU
        return (named,)
    return named, call("build", model=model, precision=artifact.precision.value, target="cpu")
