"""The three CUDA packages over one fake GPU: what they are called with is checked as the real ones do.

Signatures are those of cuda-python 11.8, 12.9 and 13.0, of PyCUDA 2026.1 and of PyTorch 2.13, read from their
sources.
"""
# ruff: noqa: C901, N801, N815 - NVIDIA's names, and modules made by one function each

from __future__ import annotations

import enum
import threading
import types
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from tests.support.fake_gpu import CudaError, FakeGpu


def modules_of(gpu: FakeGpu, backend: str) -> dict[str, Any]:
    """Return what ``sys.modules`` must hold for one of the backends; ``None`` for the others' packages."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("cuda", "pycuda", "pycuda.driver", "cuda.bindings", "cuda.cudart")
    )
    made = {"cuda-python": cuda_python, "pycuda": pycuda, "torch": torch}[backend](gpu)
    return {**nothing, "cuda.bindings.runtime": None, "torch": None, **made}


# cuda-python


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


def cuda_python(gpu: FakeGpu, *, layout: str = "bindings") -> dict[str, Any]:
    """``layout`` "bindings": cuda-python 12.8 and newer; "cudart": the older one."""
    rt: Any = types.ModuleType("cuda.bindings.runtime")

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

    current_device: dict[int, int] = {}

    @api
    def cudaGetDevice() -> int:
        return current_device.get(threading.get_ident(), 0)

    @api
    def cudaMemGetInfo() -> tuple[int, int]:
        return gpu.free_bytes(), gpu.memory_bytes

    @api
    def cudaSetDevice(device: int) -> None:
        if whole(device) >= gpu.cards:
            raise CudaError("cudaErrorInvalidDevice")
        if "set_device" in gpu.fail:
            raise CudaError(gpu.fail.pop("set_device"))
        current_device[threading.get_ident()] = device
        if device != 0:
            return
        if not gpu._current.get(__import__("threading").get_ident()):
            gpu.enter()

    @api
    def cudaDeviceGetAttribute(attr: Any, device: int) -> int:
        assert isinstance(attr, rt.cudaDeviceAttr)
        return int(gpu.integrated)

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
        return {"cuda": package, "cuda.cudart": rt}
    bindings: Any = types.ModuleType("cuda.bindings")
    bindings.__path__ = []
    return {"cuda": package, "cuda.bindings": bindings, "cuda.bindings.runtime": rt}


# PyCUDA


def pycuda(gpu: FakeGpu) -> dict[str, Any]:
    drv: Any = types.ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class PyCudaMemoryError(Error):
        pass

    class LogicError(Error):
        pass

    class Guarded:
        """Raise PyCUDA's own errors."""

        def __enter__(self) -> None:
            pass

        def __exit__(self, kind: Any, exc: Any, trace: Any) -> None:
            if isinstance(exc, CudaError):
                known = {"cudaErrorMemoryAllocation": PyCudaMemoryError}
                raise known.get(exc.code, LogicError)(str(exc)) from exc

    class Context:
        def push(self) -> None:
            gpu.enter()

        @staticmethod
        def pop() -> None:
            gpu.leave()

    class Device:
        def __init__(self, index: int) -> None:
            assert initialized, "init() comes first"
            if index != 0:
                raise LogicError("cuDeviceGet failed: invalid device ordinal")

        def retain_primary_context(self) -> Context:
            gpu.contexts += 1
            return Context()

        def get_attribute(self, attribute: Any) -> int:
            assert attribute == drv.device_attribute.INTEGRATED
            return int(gpu.integrated)

    class DeviceAllocation:
        def __init__(self, thing: Any) -> None:
            self.thing = thing

        def __int__(self) -> int:
            return int(self.thing.address)

        def free(self) -> None:
            gpu.free(self.thing)

    class HostAllocation:
        def __init__(self, thing: Any) -> None:
            self.thing = thing
            self.__array_interface__ = thing.array.__array_interface__

        def get_device_pointer(self) -> int:
            with Guarded():
                if self.thing.device_address is None:
                    raise CudaError("cudaErrorInvalidValue")
            return int(self.thing.device_address)

        def free(self) -> None:
            gpu.free(self.thing)

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            assert flags == 1, "a stream that waits for the default stream"
            with Guarded():
                self.handle = gpu.create_stream().handle

        def synchronize(self) -> None:
            handle = self.handle
            del self  # the real one is no Python function: its frame would not keep the stream alive
            with Guarded():
                gpu.synchronize(handle)

        def __del__(self) -> None:
            with suppress(AssertionError):  # it is among the violations
                if hasattr(self, "handle"):
                    gpu.destroy_stream(self.handle)

    class Event:
        def __init__(self, flags: int = 0) -> None:
            assert flags in (0, 3)
            with Guarded():
                self.thing = gpu.create_event(sleeps=flags == 3)

        def synchronize(self) -> Event:
            with Guarded():
                gpu.wait(self.thing)
            return self

        def record(self, stream: Any) -> Event:
            assert type(stream) is Stream
            with Guarded():
                gpu.record(self.thing, stream.handle)
            return self

        def time_since(self, start: Event) -> float:
            with Guarded():
                return gpu.elapsed_ms(start.thing, self.thing)

        def __del__(self) -> None:
            if hasattr(self, "thing"):
                gpu.events.remove(self.thing)

    def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray:
        assert isinstance(shape, tuple)
        assert dtype is np.uint8
        with Guarded():
            made = gpu.host_alloc(shape[0], mapped=mem_flags == drv.host_alloc_flags.DEVICEMAP)
        return np.asarray(HostAllocation(made))

    def mem_alloc(nbytes: int) -> DeviceAllocation:
        assert type(nbytes) is int
        with Guarded():
            return DeviceAllocation(gpu.malloc(nbytes))

    def htod(dest: int, src: np.ndarray, stream: Any = None) -> None:
        assert type(dest) is int
        assert type(stream) is Stream
        with Guarded():
            gpu.copy(dest, src.ctypes.data, src.nbytes, stream.handle, to_device=True)

    def dtoh(dest: np.ndarray, src: int, stream: Any = None) -> None:
        assert type(src) is int
        assert type(stream) is Stream
        assert dest.flags.writeable
        with Guarded():
            gpu.copy(dest.ctypes.data, src, dest.nbytes, stream.handle, to_device=False)

    initialized: list[bool] = []
    drv.init = lambda: initialized.append(True)
    drv.Error, drv.MemoryError, drv.LogicError = Error, PyCudaMemoryError, LogicError
    drv.Context, drv.Device, drv.Stream, drv.Event = Context, Device, Stream, Event
    drv.device_attribute = types.SimpleNamespace(INTEGRATED=18)
    drv.event_flags = types.SimpleNamespace(DEFAULT=0, BLOCKING_SYNC=1, DISABLE_TIMING=2)
    drv.mem_get_info = lambda: (gpu.free_bytes(), gpu.memory_bytes)
    drv.host_alloc_flags = types.SimpleNamespace(PORTABLE=1, DEVICEMAP=2)
    drv.pagelocked_empty, drv.mem_alloc = pagelocked_empty, mem_alloc
    drv.memcpy_htod_async, drv.memcpy_dtoh_async = htod, dtoh
    package: Any = types.ModuleType("pycuda")
    package.__path__ = []
    package.driver = drv
    return {"pycuda": package, "pycuda.driver": drv}


# PyTorch


def torch(gpu: FakeGpu) -> dict[str, Any]:
    module: Any = types.ModuleType("torch")
    cuda: Any = types.ModuleType("torch.cuda")
    module.uint8 = "torch.uint8"
    module.__version__ = "2.13.0+fake"
    streams: list[Any] = []

    class OutOfMemoryError(RuntimeError):
        pass

    @contextmanager
    def guarded() -> Any:
        try:
            yield
        except CudaError as exc:
            if exc.code == "cudaErrorMemoryAllocation":
                raise OutOfMemoryError(f"CUDA {exc}") from exc
            raise RuntimeError(f"CUDA error: {exc}") from exc

    class Storage:
        """Freed with the last tensor or array that shows it."""

        def __init__(self, thing: Any) -> None:
            self.thing = thing
            self.__array_interface__ = thing.array.__array_interface__

        def __del__(self) -> None:
            with suppress(AssertionError):
                gpu.free(self.thing)

    class Tensor:
        def __init__(self, storage: Storage, start: int, stop: int) -> None:
            self._storage, self._start, self._stop = storage, start, stop

        def data_ptr(self) -> int:
            return int(self._storage.thing.address) + self._start

        def __getitem__(self, index: slice) -> Tensor:
            assert index.start is None
            assert index.step is None
            assert index.stop <= self._stop
            return Tensor(self._storage, self._start, index.stop)

        def numpy(self) -> np.ndarray:
            assert self._storage.thing.pinned, "can't convert cuda:0 device type tensor to numpy"
            return np.asarray(self._storage)

        def copy_(self, source: Tensor, non_blocking: bool = False) -> Tensor:
            assert non_blocking
            assert streams, "copied in the default stream"
            nbytes = self._stop - self._start
            assert nbytes == source._stop - source._start
            to_device = source._storage.thing.pinned
            with guarded():
                gpu.copy(
                    self.data_ptr(), source.data_ptr(), nbytes, streams[-1].cuda_stream, to_device=to_device
                )
            return self

    def empty(nbytes: int, *, dtype: Any, device: Any = None, pin_memory: bool = False) -> Tensor:
        assert dtype == module.uint8
        assert (device is None) == pin_memory
        with guarded():
            made = (
                gpu.host_alloc(nbytes, mapped=True, same_address=True) if pin_memory else gpu.malloc(nbytes)
            )
        return Tensor(Storage(made), 0, nbytes)

    class Stream:
        def __init__(self, *, device: Any) -> None:
            assert device == ("cuda", 0)
            with guarded():
                self.cuda_stream = gpu.create_stream().handle

        def synchronize(self) -> None:
            handle = self.cuda_stream
            del self
            with guarded():
                gpu.synchronize(handle)

        def __del__(self) -> None:
            if hasattr(self, "cuda_stream"):
                gpu.streams.pop(self.cuda_stream)  # in truth PyTorch keeps it

    class Event:
        def __init__(self, *, enable_timing: bool, blocking: bool) -> None:
            assert enable_timing is not blocking
            with guarded():
                self.thing = gpu.create_event(sleeps=blocking)

        def synchronize(self) -> None:
            with guarded():
                gpu.wait(self.thing)

        def record(self, stream: Stream) -> None:
            with guarded():
                gpu.record(self.thing, stream.cuda_stream)

        def elapsed_time(self, end: Event) -> float:
            with guarded():
                return gpu.elapsed_ms(self.thing, end.thing)

        def __del__(self) -> None:
            if hasattr(self, "thing"):
                gpu.events.remove(self.thing)

    class CUDAGraph:
        def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
            assert capture_error_mode == "thread_local"
            assert streams, "capture in the default stream"
            with guarded():
                gpu.begin_capture(streams[-1].cuda_stream)

        def capture_end(self) -> None:
            with guarded():
                self.thing = gpu.end_capture(streams[-1].cuda_stream)

        def replay(self) -> None:
            assert streams, "launched in the default stream"
            with guarded():
                gpu.launch(self.thing, streams[-1].cuda_stream)

        def reset(self) -> None:
            gpu.destroy_graph(self.thing)

    @contextmanager
    def current(index: int) -> Any:
        assert index == 0
        gpu.enter()
        try:
            yield
        finally:
            gpu.leave()

    @contextmanager
    def stream(chosen: Stream) -> Any:
        assert type(chosen) is Stream
        streams.append(chosen)
        try:
            yield
        finally:
            streams.pop()

    cuda.is_available, cuda.device_count = (lambda: not gpu.hidden_from_torch), (lambda: 1)
    cuda.get_device_properties = lambda index: types.SimpleNamespace(is_integrated=int(gpu.integrated))
    cuda.OutOfMemoryError, cuda.Stream, cuda.Event, cuda.CUDAGraph = (
        OutOfMemoryError,
        Stream,
        Event,
        CUDAGraph,
    )
    cuda.device, cuda.stream = current, stream
    cuda.mem_get_info = lambda index: (gpu.free_bytes(), gpu.memory_bytes)
    module.cuda, module.empty = cuda, empty
    module.device = lambda kind, index: (kind, index)
    return {"torch": module}
