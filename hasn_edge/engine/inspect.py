"""The kernels of a built engine: from its sidecar, from its graph compiled again, or from the GPU here.

It stands alone because building never needs it: a build states the kernels in the sidecar itself.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hasn_edge.artifact import Artifact
from hasn_edge.engine.caches import graph_of
from hasn_edge.engine.capabilities import NAMES, find_module
from hasn_edge.engine.compatibility import rebuild, unknown_folders
from hasn_edge.engine.compile import kernels_from_onnx
from hasn_edge.engine.target import EngineRuntime, EngineTarget, ShapeRange
from hasn_edge.engine.worker_process import ask_worker
from hasn_edge.errors import UnsupportedError, say
from hasn_edge.hardware.gpu import GpuFacts, gpu_facts
from hasn_edge.progress import Progress, Step, ignore
from hasn_edge.sidecar import KernelRecord


def kernels_of_engine(
    engine: Artifact,
    *,
    progress: Progress = ignore,
    loaded: bool = False,
    find_gpu: Callable[[], GpuFacts | None] = gpu_facts,
) -> KernelRecord:
    """Return the kernels of a built engine.

    Its sidecar has them. Those of an engine that was built before sidecars did come from its graph, where
    that lies beside it and TensorRT for RTX is here to compile it again, or from TensorRT's engine inspector,
    which needs the engine's GPU.

    Args:
        engine: The file is read in the last case only.
        progress: Receives what is under way.
        loaded: Ask TensorRT's engine inspector in any case: what the GPU got, not what the compiler stated.
        find_gpu: Returns the GPU that an engine can be loaded on.

    Raises:
        UnsupportedError: none of these is possible.
        MissingDependencyError: TensorRT is not installed.
        BuildError: the compiler, or the process that loads the engine, failed.
    """
    details = engine.engine
    if not loaded and details.kernels is not None and details.kernels.lines:
        # Sidecars that do not state the number have the sizes of the optimal batch as well.
        return msgspec.structs.replace(details.kernels, images=details.profile.opt[0])
    runtime = EngineRuntime(details.runtime)
    if not loaded and runtime is EngineRuntime.RTX and (graph := graph_of(engine)) is not None:
        progress(Step(f"compiling {graph.name} again"))
        return kernels_from_onnx(graph.read_bytes(), _target_of(engine), precision=engine.precision)
    gpu = find_gpu()
    again = rebuild(engine, gpu=gpu, again=True)
    if gpu is None:
        # Its compiler lists them without a GPU, TensorRT's needs one, and so does what loads the engine.
        lists = not loaded and runtime is EngineRuntime.RTX
        why = "" if loaded else "its sidecar does not list its kernels, and "
        note = unknown_folders(again) if lists else ""
        raise UnsupportedError(
            f"{engine.path}: {why}there is no GPU here to load it on{note}",
            say("look at it on its device"),
            *([again] if lists else []),
        )
    find_module(runtime, needed_for="Listing an engine's kernels")
    progress(Step(f"loading {engine.path.name}"))
    shape = map(str, details.profile.opt)
    host_code = str(int(details.flags.version_compatible))
    worker = ask_worker("--list", runtime.value, str(engine.path.resolve()), host_code, *shape)
    worker.outcome(NAMES[runtime])
    if worker.kernels is None:
        raise UnsupportedError(
            f"{engine.path}: {NAMES[runtime]} does not load it on the GPU here, or does not list its kernels"
            f"{unknown_folders(again)}",
            again,
        )
    opt = _target_of(engine).shapes.opt
    return msgspec.structs.replace(worker.kernels, size=opt[2:], images=opt[0])


def _target_of(engine: Artifact) -> EngineTarget:
    """Return what an engine was built for, at its optimal size alone."""
    details = engine.engine
    n, *sides = details.profile.opt
    c, h, w = (sides[2], *sides[:2]) if engine.pixels else sides
    return EngineTarget(
        name=details.target,
        runtime=EngineRuntime(details.runtime),
        shapes=ShapeRange.static(h, w, batch=n, channels=c),
        compute_capabilities=details.compute_capabilities,
    )
