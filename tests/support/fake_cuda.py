"""cuda-python over the fake GPU, and what ``sys.modules`` holds for each of the three CUDA packages.

What it is called with is checked as the real one does. Signatures are those of cuda-python 11.8, 12.9 and
13.0, read from its sources.
"""
# ruff: noqa: C901, N801, N815 - NVIDIA's names, and a module made by one function

from __future__ import annotations

import enum
import threading
import types
from typing import Any

from tests.support.fake_gpu import CudaError, FakeGpu
from tests.support.fake_pycuda import pycuda
from tests.support.fake_torch import torch


def modules_of(gpu: FakeGpu, backend: str) -> dict[str, Any]:
    """Return what ``sys.modules`` must hold for one of the backends; ``None`` for the others' packages."""
    nothing: dict[str, Any] = dict.fromkeys(
        (
            "cuda", "cuda.bindings", "cuda.bindings.runtime", "cuda.bindings.driver", "cuda.cudart",
            "cuda.cuda", "pycuda", "pycuda.driver", "torch",
        )
    )  # fmt: skip
    made = {"cuda-python": cuda_python, "pycuda": pycuda, "torch": torch}[backend](gpu)
    return {**nothing, **made}


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalState = 401
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_CONTEXT = 201


def cuda_python(gpu: FakeGpu, *, layout: str = "bindings") -> dict[str, Any]:
    """``layout`` "bindings": cuda-python 12.8 and newer; "cudart": the older one."""
    rt: Any = types.ModuleType("cuda.bindings.runtime")
    driver: Any = types.ModuleType("cuda.bindings.driver")

    class Handle:
        def __init__(self, thing: Any, number: int) -> None:
            self.thing, self.number = thing, number

        def __int__(self) -> int:
            return self.number

    class cudaStream_t(Handle):
        pass

    class cudaEvent_t(Handle):
        pass

    class cudaGraph_t(Handle):
        pass

    class cudaGraphExec_t(Handle):
        pass

    class CUdevice(Handle):
        pass

    class CUcontext(Handle):
        pass

    def api(function: Any) -> Any:
        """Turn a function into one of the runtime: an error code, then results."""

        def called(*args: Any) -> tuple[Any, ...]:
            try:
                result = function(*args)
            except CudaError as exc:
                gpu.last_error = exc.code
                return (cudaError_t[exc.code], None)
            results = () if result is None else result if isinstance(result, tuple) else (result,)
            return (cudaError_t.cudaSuccess, *results)

        setattr(rt, function.__name__, called)
        return called

    def whole(value: object) -> int:
        assert type(value) is int, f"expected an int, got {type(value).__name__}"
        return value

    def stream_of(value: Any) -> int:
        assert type(value) is cudaStream_t, f"expected a cudaStream_t, got {type(value).__name__}"
        return int(value)

    owned: dict[int, Any] = {}

    stacks: dict[int, list[int]] = {}
    chosen: dict[int, int] = {}

    def stack() -> list[int]:
        """The GPUs of the contexts that this thread has, its current one last."""
        return stacks.setdefault(threading.get_ident(), [])

    @api
    def cudaGetDevice() -> int:
        return stack()[-1] if stack() else chosen.get(threading.get_ident(), 0)

    @api
    def cudaMemGetInfo() -> tuple[int, int]:
        return gpu.free_bytes(), gpu.memory_bytes

    @api
    def cudaSetDevice(device: int) -> None:
        if whole(device) >= gpu.cards:
            raise CudaError("cudaErrorInvalidDevice")
        gpu.primary.add(device)  # from CUDA 12 on
        chosen[threading.get_ident()] = device
        if stack():
            stack()[-1] = device
        else:
            stack().append(device)
            gpu.enter()

    @api
    def cudaDeviceGetAttribute(attr: Any, device: int) -> int:
        assert isinstance(attr, rt.cudaDeviceAttr)
        if "driver" in gpu.fail:
            raise CudaError(gpu.fail.pop("driver"))
        if whole(device) >= gpu.cards:
            raise CudaError("cudaErrorInvalidDevice")
        return int(gpu.integrated)

    def cuInit(flags: int) -> tuple[CUresult]:
        assert whole(flags) == 0
        driver.ready = True
        return (CUresult.CUDA_SUCCESS,)

    def cuDeviceGet(ordinal: int) -> tuple[CUresult, Any]:
        assert driver.ready, "cuInit comes first"
        assert whole(ordinal) < gpu.cards
        return CUresult.CUDA_SUCCESS, CUdevice(None, ordinal)

    def cuDevicePrimaryCtxRetain(dev: Any) -> tuple[CUresult, Any]:
        assert type(dev) is CUdevice
        if "context" in gpu.fail:
            return CUresult[gpu.fail.pop("context")], None
        gpu.primary.add(int(dev))
        return CUresult.CUDA_SUCCESS, CUcontext(int(dev), 0x1234)

    def cuCtxPushCurrent(ctx: Any) -> tuple[CUresult]:
        assert type(ctx) is CUcontext
        stack().append(ctx.thing)
        gpu.enter()
        return (CUresult.CUDA_SUCCESS,)

    def cuCtxPopCurrent() -> tuple[CUresult, Any]:
        gpu.leave()
        return CUresult.CUDA_SUCCESS, CUcontext(stack().pop(), 0x1234)

    driver.ready = False
    for function in (cuInit, cuDeviceGet, cuDevicePrimaryCtxRetain, cuCtxPushCurrent, cuCtxPopCurrent):
        setattr(driver, function.__name__, function)

    @api
    def cudaMalloc(size: int) -> int:
        made = gpu.malloc(whole(size))
        owned[made.address] = made
        return made.address

    @api
    def cudaFree(pointer: int) -> None:
        gpu.free(owned.pop(whole(pointer)))

    @api
    def cudaHostAlloc(size: int, flags: int) -> int:
        made = gpu.host_alloc(whole(size), mapped=whole(flags) == rt.cudaHostAllocMapped)
        owned[made.address] = made
        return made.address

    @api
    def cudaHostGetDevicePointer(pointer: int, flags: int) -> int:
        assert whole(flags) == 0
        address = owned[whole(pointer)].device_address
        if address is None:
            raise CudaError("cudaErrorInvalidValue")
        return int(address)

    @api
    def cudaFreeHost(pointer: int) -> None:
        gpu.free(owned.pop(whole(pointer)))

    @api
    def cudaMemcpyAsync(dst: int, src: int, count: int, kind: Any, stream: Any) -> None:
        assert isinstance(kind, rt.cudaMemcpyKind)
        to_device = kind is rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        gpu.copy(whole(dst), whole(src), whole(count), stream_of(stream), to_device=to_device)

    @api
    def cudaStreamCreateWithFlags(flags: int) -> Any:
        assert whole(flags) == rt.cudaStreamNonBlocking
        made = gpu.create_stream()
        return cudaStream_t(made, made.handle)

    @api
    def cudaStreamSynchronize(stream: Any) -> None:
        gpu.synchronize(stream_of(stream))

    @api
    def cudaStreamDestroy(stream: Any) -> None:
        gpu.destroy_stream(stream_of(stream))

    @api
    def cudaEventCreateWithFlags(flags: int) -> Any:
        assert whole(flags) in (0, 3), "timed, or slept on: both at a time makes the latter slower"
        return cudaEvent_t(gpu.create_event(sleeps=flags == 3), 7)

    @api
    def cudaEventSynchronize(event: Any) -> None:
        assert type(event) is cudaEvent_t
        gpu.wait(event.thing)

    @api
    def cudaEventRecord(event: Any, stream: Any) -> None:
        assert type(event) is cudaEvent_t
        gpu.record(event.thing, stream_of(stream))

    @api
    def cudaEventElapsedTime(start: Any, end: Any) -> float:
        return gpu.elapsed_ms(start.thing, end.thing)

    @api
    def cudaEventDestroy(event: Any) -> None:
        gpu.events.remove(event.thing)

    @api
    def cudaStreamBeginCapture(stream: Any, mode: Any) -> None:
        assert mode is rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        gpu.begin_capture(stream_of(stream))

    @api
    def cudaStreamEndCapture(stream: Any) -> Any:
        return cudaGraph_t(gpu.end_capture(stream_of(stream)), 8)

    @api
    def cudaGraphInstantiateWithFlags(graph: Any, flags: int) -> Any:
        assert type(graph) is cudaGraph_t
        assert whole(flags) == 0
        if "instantiate" in gpu.fail:
            raise CudaError(gpu.fail.pop("instantiate"))
        graph.made = True
        return cudaGraphExec_t(graph.thing, 9)

    @api
    def cudaGraphDestroy(graph: Any) -> None:
        assert type(graph) is cudaGraph_t
        if not hasattr(graph, "made"):
            gpu.destroy_graph(graph.thing)

    @api
    def cudaGraphExecDestroy(graph: Any) -> None:
        assert type(graph) is cudaGraphExec_t
        gpu.destroy_graph(graph.thing)

    @api
    def cudaGraphLaunch(graph: Any, stream: Any) -> None:
        assert type(graph) is cudaGraphExec_t
        gpu.launch(graph.thing, stream_of(stream))

    def error_string(error: cudaError_t) -> tuple[cudaError_t, bytes]:
        return cudaError_t.cudaSuccess, {2: b"out of memory", 700: b"an illegal memory access"}.get(
            int(error), b"some error"
        )

    def last_error() -> tuple[cudaError_t]:
        code, gpu.last_error = gpu.last_error, None
        return (cudaError_t[code] if code else cudaError_t.cudaSuccess,)

    rt.cudaGetErrorString = error_string
    rt.cudaGetLastError = last_error
    rt.cudaError_t = cudaError_t
    rt.cudaStream_t = cudaStream_t
    rt.cudaEventDefault, rt.cudaEventBlockingSync, rt.cudaEventDisableTiming = 0, 1, 2
    rt.cudaHostAllocDefault, rt.cudaHostAllocMapped, rt.cudaStreamNonBlocking = 0, 2, 1
    rt.cudaMemcpyKind = enum.Enum("cudaMemcpyKind", "cudaMemcpyHostToDevice cudaMemcpyDeviceToHost")
    rt.cudaDeviceAttr = enum.Enum("cudaDeviceAttr", "cudaDevAttrIntegrated")
    rt.cudaStreamCaptureMode = enum.Enum(
        "cudaStreamCaptureMode", "cudaStreamCaptureModeGlobal cudaStreamCaptureModeThreadLocal"
    )
    package: Any = types.ModuleType("cuda")
    package.__path__ = []
    if layout == "cudart":
        return {"cuda": package, "cuda.cudart": rt, "cuda.cuda": driver}
    bindings: Any = types.ModuleType("cuda.bindings")
    bindings.__path__ = []
    return {
        "cuda": package,
        "cuda.bindings": bindings,
        "cuda.bindings.runtime": rt,
        "cuda.bindings.driver": driver,
    }
