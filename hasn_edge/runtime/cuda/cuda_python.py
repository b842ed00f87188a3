"""CUDA through cuda-python, NVIDIA's own bindings of the CUDA runtime."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from hasn_edge.errors import Cure, MissingDependencyError, say
from hasn_edge.hardware.gpu import cuda_python_install, gpu_facts
from hasn_edge.optional import require
from hasn_edge.runtime.cuda.backend import CudaBackend, CudaStream, DeviceBuffer, HostBuffer


class _Refused(Exception):  # noqa: N818 - never leaves this file
    """An error code of the runtime or the driver, which raise none themselves."""

    code: Any = None


class _NoMemory(_Refused):
    pass


class CudaPythonBackend(CudaBackend):
    """Calls CUDA's runtime, in a context that the driver makes current; calls return ``(error, *results)``.

    Args:
        index: Number of the GPU.

    Raises:
        MissingDependencyError: cuda-python is not installed.
        BuildError: the runtime does not start: no driver, or one that is too old for it.
    """

    name = "cuda-python"
    _errors, _memory_errors = (_Refused,), (_NoMemory,)

    def __init__(self, index: int) -> None:
        self._rt, self._driver = _modules(self.name)
        self.index = index
        with self._doing(f"use GPU {index}"):
            # The runtime first: it refuses a driver that is missing or too old with an error of its own.
            attribute = self._rt.cudaDeviceAttr.cudaDevAttrIntegrated
            self.integrated = bool(self._result(self._rt.cudaDeviceGetAttribute(attribute, index)))
            self._result(self._driver.cuInit(0))
            device = self._result(self._driver.cuDeviceGet(index))
            self._context = self._result(self._driver.cuDevicePrimaryCtxRetain(device))

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Push the primary context on this thread's stack, where the runtime finds it; pop it at the end.

        ``cudaSetDevice`` would not do: giving a thread its GPU 0 back makes a context there, from CUDA 12 on.
        """
        with self._doing(f"use GPU {self.index}"):
            self._result(self._driver.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            self._driver.cuCtxPopCurrent()

    def _malloc(self, nbytes: int) -> DeviceBuffer:
        address = int(self._result(self._rt.cudaMalloc(nbytes)))
        return DeviceBuffer(address, nbytes, address)

    def _free(self, owner: Any) -> None:
        self._result(self._rt.cudaFree(owner))

    def _host_alloc(self, nbytes: int, *, mapped: bool) -> HostBuffer:
        flags = self._rt.cudaHostAllocMapped if mapped else self._rt.cudaHostAllocDefault
        address = int(self._result(self._rt.cudaHostAlloc(nbytes, flags)))
        device_address = None
        if mapped:
            try:
                device_address = int(self._result(self._rt.cudaHostGetDevicePointer(address, 0)))
            except _Refused:
                self._rt.cudaFreeHost(address)
                raise
        memory = (ctypes.c_uint8 * nbytes).from_address(address)
        return HostBuffer(np.ctypeslib.as_array(memory), device_address, address)

    def _host_free(self, owner: Any) -> None:
        self._result(self._rt.cudaFreeHost(owner))

    def _to_device(self, target: DeviceBuffer, source: HostBuffer, nbytes: int, stream: CudaStream) -> None:
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._result(self._rt.cudaMemcpyAsync(target.owner, source.owner, nbytes, kind, stream.owner))

    def _to_host(self, target: HostBuffer, source: DeviceBuffer, nbytes: int, stream: CudaStream) -> None:
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._result(self._rt.cudaMemcpyAsync(target.owner, source.owner, nbytes, kind, stream.owner))

    def _create_stream(self) -> CudaStream:
        stream = self._result(self._rt.cudaStreamCreateWithFlags(self._rt.cudaStreamNonBlocking))
        return CudaStream(int(stream), stream)

    def _synchronize(self, stream: CudaStream) -> None:
        self._result(self._rt.cudaStreamSynchronize(stream.owner))

    def _destroy_stream(self, owner: Any) -> None:
        self._result(self._rt.cudaStreamDestroy(owner))

    def _create_event(self, *, sleeps: bool) -> Any:
        flags = self._rt.cudaEventBlockingSync | self._rt.cudaEventDisableTiming
        return self._result(self._rt.cudaEventCreateWithFlags(flags if sleeps else self._rt.cudaEventDefault))

    def _wait(self, event: Any) -> None:
        self._result(self._rt.cudaEventSynchronize(event))

    def _free_bytes(self) -> int:
        return int(self._results(self._rt.cudaMemGetInfo())[0])

    def _record(self, event: Any, stream: CudaStream) -> None:
        self._result(self._rt.cudaEventRecord(event, stream.owner))

    def _elapsed_ms(self, start: Any, end: Any) -> float:
        return float(self._result(self._rt.cudaEventElapsedTime(start, end)))

    def _destroy_event(self, owner: Any) -> None:
        self._result(self._rt.cudaEventDestroy(owner))

    def _begin_capture(self, stream: CudaStream) -> None:
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._result(self._rt.cudaStreamBeginCapture(stream.owner, mode))

    def _end_capture(self, stream: CudaStream) -> Any:
        graph = self._result(self._rt.cudaStreamEndCapture(stream.owner))
        # cudaGraphInstantiate takes other arguments in every major version; this one has not changed.
        try:
            return self._result(self._rt.cudaGraphInstantiateWithFlags(graph, 0))
        finally:
            self._rt.cudaGraphDestroy(graph)

    def _launch(self, graph: Any, stream: CudaStream) -> None:
        self._result(self._rt.cudaGraphLaunch(graph, stream.owner))

    def _destroy_graph(self, owner: Any) -> None:
        self._result(self._rt.cudaGraphExecDestroy(owner))

    def _result(self, answer: tuple[Any, ...]) -> Any:
        """Return an answer's result, if it has one, or raise its error."""
        return next(iter(self._results(answer)), None)

    def _results(self, answer: tuple[Any, ...]) -> list[Any]:
        codes = self._rt.cudaError_t
        error, results = codes(int(answer[0])), list(answer[1:])  # the driver's errors have the same numbers
        if error == codes.cudaSuccess:
            return results
        # The error stays until somebody asks; TensorRT would take it for that of its own next launch.
        self._rt.cudaGetLastError()
        text = self._rt.cudaGetErrorString(error)[1]
        text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        no_memory = error == codes.cudaErrorMemoryAllocation
        refused = _NoMemory(text) if no_memory else _Refused(f"{text} ({error.name})")
        refused.code = error
        raise refused

    def _cures(self, exc: Exception) -> tuple[Cure, ...]:
        if not isinstance(exc, _Refused) or exc.code.name != "cudaErrorInsufficientDriver":
            return ()
        command = cuda_python_install(gpu_facts(self.index), otherwise="pip install 'cuda-python<13'")
        return (say(f"install the cuda-python of the driver's CUDA: {command}"),)


def _modules(name: str) -> tuple[ModuleType, ModuleType]:
    """Import the bindings of runtime and driver, called as in version 12.8 and newer, or as in older ones."""
    needed = {"extra": "cuda", "needed_for": f"Running an engine through {name}"}
    try:
        return require("cuda.bindings.runtime", **needed), require("cuda.bindings.driver", **needed)
    except MissingDependencyError as missing:
        try:
            return require("cuda.cudart", **needed), require("cuda.cuda", **needed)
        except MissingDependencyError:
            install = cuda_python_install(gpu_facts())
            raise MissingDependencyError(missing.module, **needed, install=install) from None
