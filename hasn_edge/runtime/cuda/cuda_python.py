"""CUDA through cuda-python, NVIDIA's own bindings of the CUDA runtime."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from hasn_edge.errors import BuildError, Cure, MissingDependencyError, say
from hasn_edge.hardware.gpu import cuda_python_install, gpu_facts
from hasn_edge.optional import require
from hasn_edge.runtime.cuda.protocol import (
    CudaEvent,
    CudaGraph,
    CudaStream,
    DeviceBuffer,
    HostBuffer,
    cuda_error,
    take,
)

NAME = "cuda-python"


class CudaPythonBackend:
    """Calls the CUDA runtime API; every call returns ``(error, *results)``.

    Args:
        index: Number of the GPU.

    Raises:
        MissingDependencyError: cuda-python is not installed.
        BuildError: the runtime does not start: no driver, or one that is too old for it.
    """

    name = NAME
    graphs = True

    def __init__(self, index: int = 0) -> None:
        self._rt = _module()
        self.index = index
        with self.activate():
            (integrated,) = self._call(
                "ask for the GPU's kind",
                self._rt.cudaDeviceGetAttribute(self._rt.cudaDeviceAttr.cudaDevAttrIntegrated, index),
            )
        self.integrated = bool(integrated)

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Choose the GPU for this thread; the runtime then uses its primary context."""
        self._call(f"use GPU {self.index}", self._rt.cudaSetDevice(self.index))
        yield

    def malloc(self, nbytes: int) -> DeviceBuffer:
        """Allocate memory on the GPU."""
        (address,) = self._call(f"allocate {nbytes} bytes", self._rt.cudaMalloc(nbytes))
        return DeviceBuffer(int(address), nbytes, int(address))

    def free(self, buffer: DeviceBuffer) -> None:
        """Free memory of :meth:`malloc`."""
        self._call("free memory", self._rt.cudaFree(take(NAME, buffer)))

    def host_alloc(self, nbytes: int, *, mapped: bool = False) -> HostBuffer:
        """Allocate page-locked memory; ``mapped`` also gives it an address on the GPU."""
        flags = self._rt.cudaHostAllocMapped if mapped else self._rt.cudaHostAllocDefault
        what = f"allocate {nbytes} bytes of page-locked memory"
        (address,) = self._call(what, self._rt.cudaHostAlloc(nbytes, flags))
        device_address = None
        if mapped:
            try:
                (device,) = self._call("map memory", self._rt.cudaHostGetDevicePointer(address, 0))
            except BuildError:
                self._rt.cudaFreeHost(address)
                raise
            device_address = int(device)
        memory = (ctypes.c_uint8 * nbytes).from_address(int(address))
        return HostBuffer(np.ctypeslib.as_array(memory), device_address, int(address))

    def host_free(self, buffer: HostBuffer) -> None:
        """Free memory of :meth:`host_alloc`."""
        self._call("free page-locked memory", self._rt.cudaFreeHost(take(NAME, buffer)))

    def to_device(self, target: DeviceBuffer, source: HostBuffer, nbytes: int, stream: CudaStream) -> None:
        """Queue a copy to the GPU."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(
            "copy to the GPU",
            self._rt.cudaMemcpyAsync(target.owner, source.owner, nbytes, kind, stream.owner),
        )

    def to_host(self, target: HostBuffer, source: DeviceBuffer, nbytes: int, stream: CudaStream) -> None:
        """Queue a copy from the GPU."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(
            "copy from the GPU",
            self._rt.cudaMemcpyAsync(target.owner, source.owner, nbytes, kind, stream.owner),
        )

    def create_stream(self) -> CudaStream:
        """Make a stream that does not wait for the default stream."""
        (stream,) = self._call(
            "make a stream", self._rt.cudaStreamCreateWithFlags(self._rt.cudaStreamNonBlocking)
        )
        return CudaStream(int(stream), stream)

    def synchronize(self, stream: CudaStream) -> None:
        """Wait for all that was queued."""
        self._call("finish the queued work", self._rt.cudaStreamSynchronize(stream.owner))

    def destroy_stream(self, stream: CudaStream) -> None:
        """Destroy a stream."""
        self._call("destroy a stream", self._rt.cudaStreamDestroy(take(NAME, stream)))

    def create_event(self) -> CudaEvent:
        """Make an event that takes the time."""
        (event,) = self._call("make an event", self._rt.cudaEventCreate())
        return CudaEvent(event)

    def record(self, event: CudaEvent, stream: CudaStream) -> None:
        """Queue the event."""
        self._call("record an event", self._rt.cudaEventRecord(event.owner, stream.owner))

    def elapsed_s(self, start: CudaEvent, end: CudaEvent) -> float:
        """Return the seconds between two events that happened."""
        (milliseconds,) = self._call("read the time", self._rt.cudaEventElapsedTime(start.owner, end.owner))
        return float(milliseconds) / 1e3

    def destroy_event(self, event: CudaEvent) -> None:
        """Destroy an event."""
        self._call("destroy an event", self._rt.cudaEventDestroy(take(NAME, event)))

    def begin_capture(self, stream: CudaStream) -> None:
        """Start recording; other threads may go on calling CUDA meanwhile."""
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("start recording a graph", self._rt.cudaStreamBeginCapture(stream.owner, mode))

    def end_capture(self, stream: CudaStream) -> CudaGraph:
        """End the recording and make the graph executable."""
        (graph,) = self._call("record a graph", self._rt.cudaStreamEndCapture(stream.owner))
        # cudaGraphInstantiate takes other arguments in every major version; this one has not changed.
        try:
            (executable,) = self._call(
                "prepare the recorded graph", self._rt.cudaGraphInstantiateWithFlags(graph, 0)
            )
        finally:
            self._rt.cudaGraphDestroy(graph)
        return CudaGraph(executable)

    def launch(self, graph: CudaGraph, stream: CudaStream) -> None:
        """Queue the recorded work."""
        self._call("launch a graph", self._rt.cudaGraphLaunch(graph.owner, stream.owner))

    def destroy_graph(self, graph: CudaGraph) -> None:
        """Destroy a graph."""
        self._call("destroy a graph", self._rt.cudaGraphExecDestroy(take(NAME, graph)))

    def close(self) -> None:
        """Nothing to let go of: the runtime keeps the primary context for the process."""

    def _call(self, what: str, answer: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return an answer's results, or raise its error."""
        error, *results = answer
        if error == self._rt.cudaError_t.cudaSuccess:
            return tuple(results)
        # The error stays until somebody asks; TensorRT would take it for that of its own next launch.
        self._rt.cudaGetLastError()
        text = self._rt.cudaGetErrorString(error)[1]
        text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        if error == self._rt.cudaError_t.cudaErrorMemoryAllocation:
            raise MemoryError(f"CUDA (through {NAME}) could not {what}: {text}")
        cures: tuple[Cure, ...] = ()
        if error.name == "cudaErrorInsufficientDriver":
            command = cuda_python_install(gpu_facts(self.index), otherwise="pip install 'cuda-python<13'")
            cures = (say(f"install the cuda-python of the driver's CUDA: {command}"),)
        raise cuda_error(NAME, what, f"{text} ({error.name})", *cures)


def _module() -> ModuleType:
    """Import the bindings under the name of version 12.8 and newer, or under the older one."""
    needed = {"extra": "cuda", "needed_for": f"Running an engine through {NAME}"}
    try:
        return require("cuda.bindings.runtime", **needed)
    except MissingDependencyError as missing:
        try:
            return require("cuda.cudart", **needed)
        except MissingDependencyError:
            install = cuda_python_install(gpu_facts())
            raise MissingDependencyError(missing.module, **needed, install=install) from None
