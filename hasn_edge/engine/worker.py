"""The child process that compiles: ``python -m hasn_edge.engine.worker FOLDER``.

``--ask RUNTIME`` states what a TensorRT can do, ``--list RUNTIME PLAN HOST_CODE N C H W`` the kernels of a
plan, which holds code for the CPU where HOST_CODE is 1. The compiler runs apart from the program that asks,
because it can crash or be killed for memory. FOLDER holds the request and the graph; the plan is left there.
Standard output carries one JSON object per line: messages, progress, and at last either ``done`` or
``failed``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from hasn_edge.engine.builder import Calibration, Compiled, Options, compile_plan, inspect_plan
from hasn_edge.engine.caches import timing_cache_name
from hasn_edge.engine.calibrator import calibration_cache_name, make_calibrator
from hasn_edge.engine.capabilities import Capabilities, load_tensorrt
from hasn_edge.engine.device_memory import DeviceMemory
from hasn_edge.engine.kernels import describe_kernels, find_unverified
from hasn_edge.engine.known_issues import warnings_before_build
from hasn_edge.engine.target import EngineRuntime, EngineTarget, ShapeRange
from hasn_edge.engine.worker_process import CALIBRATION, GRAPH, PLAN, TIMING, BuildRequest, no_room
from hasn_edge.errors import HasnEdgeError, UnsupportedError, error_to_values, say, use
from hasn_edge.hardware import host
from hasn_edge.hardware.gpu import GpuFacts, driver_present, gpu_facts
from hasn_edge.hardware.jetson import power_mode
from hasn_edge.interrupt import die_with_parent

INTEGRATED_SHARE = 4
"""On a Jetson a quarter of the free memory: compiler, weights and all other programs live in the same."""
DISCRETE_SHARE = 2
"""On a card half of the free memory: weights and the tensors being timed need the rest."""

_LEAST = 64 << 20
"""Below this hardly any convolution has a kernel; running out then is the better message."""


class Channel:
    """Writes events to the parent; safe to use from several threads."""

    def __init__(self, descriptor: int) -> None:
        self._stream = os.fdopen(descriptor, "w", encoding="utf-8")
        self._lock = threading.Lock()

    def send(self, event: str, **values: Any) -> bool:
        """Write one event; return whether the parent still reads."""
        try:
            with self._lock:
                self._stream.write(json.dumps({"event": event, **values}) + "\n")
                self._stream.flush()
        except OSError:
            return False
        return True

    def fail(self, error: HasnEdgeError) -> None:
        """Write that the work ends with this error."""
        self.send("failed", error=error_to_values(error))


def main(arguments: list[str]) -> int:
    """Do what the parent asks for; return the exit code."""
    die_with_parent()
    channel = Channel(os.dup(1))
    os.dup2(2, 1)  # libraries print to standard output as they like; that must not end up in the channel
    try:
        if arguments[0] == "--ask":
            channel.send("done", result=asdict(_load(EngineRuntime(arguments[1]), channel)[1]))
        elif arguments[0] == "--list":
            runtime, plan, host_code, *sides = arguments[1:]
            shape = tuple(map(int, sides))
            list_kernels(EngineRuntime(runtime), Path(plan), shape, channel, host_code=bool(int(host_code)))
        else:
            build(Path(arguments[0]), channel)
    except HasnEdgeError as exc:
        channel.fail(exc)
        return 1
    except OSError as exc:
        channel.fail(no_room(exc))
        return 1
    return 0


def build(folder: Path, channel: Channel) -> None:
    """Compile what the request in ``folder`` asks for and report what is known of the engine.

    Its kernels come after all else: TensorRT loads the engine to list them, and should memory not suffice for
    that, the engine is there all the same.
    """
    request = BuildRequest.read(folder)
    target = request.target
    trt, capabilities, gpu = _load(target.runtime, channel)
    for text in (
        warnings_before_build(capabilities.version, precision=request.precision, gpu=gpu)
        if target.runtime is EngineRuntime.TENSORRT
        else ()
    ):
        channel.send("message", severity="WARNING", text=text)
    onnx = (folder / GRAPH).read_bytes()
    cache = None if request.cache is None else Path(request.cache)
    memory = None if gpu is None else DeviceMemory()
    free = None
    if gpu is not None and memory is not None:
        free = host.available_memory_bytes() if gpu.integrated else memory.free_bytes()
    workspace, source = choose_workspace(target, gpu, free)
    kept: dict[str, str] = {}
    if gpu is not None and cache is not None:
        kept[TIMING] = timing_cache_name(gpu, capabilities.version, power_mode())
    calibration = None
    if request.calibration is not None:
        name = calibration_cache_name(request.calibration.fingerprint, onnx, capabilities.version)
        kept[CALIBRATION] = name
        known = None if cache is None else cache / name
        calibration = _calibration(request, folder, known, memory, channel)
    compiled = compile_plan(
        trt,
        capabilities,
        onnx,
        target,
        Options(
            precision=request.precision,
            workspace_bytes=workspace,
            timings=cache / kept[TIMING] if cache and TIMING in kept else None,
            collect_timings=TIMING in kept,
            calibration=calibration,
            verbose=request.verbose,
        ),
        on_message=lambda severity, text: channel.send("message", severity=severity, text=text),
        on_step=lambda phase, done, steps: channel.send("step", phase=phase, done=done, steps=steps),
    )
    (folder / PLAN).write_bytes(compiled.plan)
    if compiled.timings:
        (folder / TIMING).write_bytes(compiled.timings)
    facts = compiled.facts
    facts["flags"]["workspace_from"] = source
    if request.calibration is not None:
        facts["calibrator"] = {
            "algorithm": "entropy 2",
            "fingerprint": request.calibration.fingerprint,
            "batches": request.calibration.count,
            "shape": list(request.calibration.shape),
        }
    result = {"facts": {**facts, **_device(gpu)}, "keep": kept, "version": capabilities.version}
    channel.send("done", result=result)
    _report_kernels(trt, capabilities, onnx, request, compiled, gpu, channel)


def _report_kernels(
    trt: Any,
    capabilities: Capabilities,
    onnx: bytes,
    request: BuildRequest,
    compiled: Compiled,
    gpu: GpuFacts | None,
    channel: Channel,
) -> None:
    """Report the kernels of an engine that was compiled just now, as far as this machine knows them."""
    target, facts = request.target, compiled.facts
    dynamic = facts["profile"]["min"] != facts["profile"]["max"]
    if gpu is not None:
        shape = tuple(facts["profile"]["opt"]) if dynamic else None
        kernels = inspect_plan(trt, compiled.plan, shape, host_code=target.version_compatible)
    else:
        # Where sizes are open, an engine of the optimal one tells what is read and written.
        compiled = _compile_twin(trt, capabilities, onnx, request) if dynamic else compiled
        kernels = compiled.kernels
    if kernels:
        unverified = find_unverified(kernels, facts["flags"].get("fp32_layers", ()))
        record = describe_kernels(
            kernels,
            size=target.shapes.opt[2:],
            images=facts["profile"]["opt"][0],
            activation_bytes=None if gpu is not None and dynamic else compiled.activation_bytes,
        )
        channel.send("kernels", kernels=msgspec.to_builtins(record), unverified=unverified)


def list_kernels(
    runtime: EngineRuntime, plan: Path, shape: tuple[int, ...], channel: Channel, *, host_code: bool
) -> None:
    """Report the kernels of a plan for the GPU here, with an input of ``shape``, which it must take."""
    trt = _load(runtime, channel)[0]
    kernels = inspect_plan(trt, plan.read_bytes(), shape, host_code=host_code)  # type: ignore[arg-type]
    if kernels:
        channel.send("kernels", kernels=msgspec.to_builtins(describe_kernels(kernels)), unverified=())
    channel.send("done", result={})


def _compile_twin(trt: Any, capabilities: Capabilities, onnx: bytes, request: BuildRequest) -> Compiled:
    """Compile for the optimal shape alone, on a machine without a GPU: it takes seconds there."""
    opt = request.target.shapes.opt
    target = replace(request.target, shapes=ShapeRange(min=opt, opt=opt, max=opt))
    return compile_plan(
        trt,
        capabilities,
        onnx,
        target,
        Options(precision=request.precision, workspace_bytes=target.workspace_bytes),
        on_message=lambda severity, text: None,
        on_step=lambda phase, done, steps: True,
    )


def choose_workspace(
    target: EngineTarget, gpu: GpuFacts | None, free_bytes: int | None
) -> tuple[int | None, str]:
    """Return the limit in bytes and where it is from.

    Args:
        target: Its own ``workspace_bytes`` decides where it is set.
        gpu: The GPU that compiles; ``None`` for TensorRT for RTX, which need not have one.
        free_bytes: What is free of its memory, or on a Jetson of the CPU's; ``None`` where that is unknown.

    Returns:
        ``None`` where the compiler's default stands, which is all memory of the GPU.
    """
    if target.workspace_bytes is not None:
        return target.workspace_bytes, "target"
    if gpu is None or free_bytes is None:
        return None, "the compiler's default"
    share = free_bytes // (INTEGRATED_SHARE if gpu.integrated else DISCRETE_SHARE)
    return max(share, _LEAST) >> 20 << 20, "free memory"


def _load(runtime: EngineRuntime, channel: Channel) -> tuple[ModuleType, Capabilities, GpuFacts | None]:
    """Import TensorRT; one that needs a GPU only where there is one, because it may crash otherwise."""
    gpu = None
    if runtime is EngineRuntime.TENSORRT:
        gpu = gpu_facts()
        if gpu is None:
            missing = "this machine has no NVIDIA driver (libcuda)"
            if driver_present():
                missing = "its driver sees no GPU here"
            raise UnsupportedError(
                f"TensorRT compiles on the device it compiles for, and {missing}",
                say("run the build on the device"),
                say("choose a target of TensorRT for RTX"),
                use(target="rtx"),
            )
    trt, capabilities = load_tensorrt(runtime)
    channel.send("loaded", title=capabilities.title)
    return trt, capabilities, gpu


def _calibration(
    request: BuildRequest,
    folder: Path,
    known: Path | None,
    memory: DeviceMemory | None,
    channel: Channel,
) -> Calibration:
    files = request.calibration
    assert files is not None
    if memory is None:
        raise UnsupportedError("TensorRT's calibrator needs a GPU; TensorRT for RTX has no calibrator")
    return Calibration(
        shape=files.shape,
        float_layers=files.float_layers,
        make=lambda trt: make_calibrator(
            trt,
            files.read(folder),
            files.shape[0],
            upload=memory.upload,
            known=known,
            leave=folder / CALIBRATION,
            on_batch=lambda done: channel.send("step", phase="calibrating", done=done, steps=files.count),
        ),
    )


def _device(gpu: GpuFacts | None) -> dict[str, Any]:
    """Return the facts of the GPU that the engine is made on and for."""
    if gpu is None:
        return {"gpu": None}
    return {
        "gpu": gpu.name,
        "compute_capability": gpu.compute_capability,
        "sm_count": gpu.sm_count,
        "integrated": gpu.integrated,
        "driver": gpu.driver,
        "cuda": gpu.cuda,
        "l4t": gpu.l4t,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
