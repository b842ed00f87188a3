"""CUDA through PyCUDA, as many Jetson installations have it: no CUDA graphs, everything else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

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

NAME = "pycuda"

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which PyCUDA has no name for


class PyCudaBackend:
    """Uses the GPU's primary context, as ``pycuda.autoprimaryctx`` does, for the GPU that was asked for.

    ``pycuda.autoinit`` would make a context of its own, whose memory TensorRT and PyTorch cannot use. PyCUDA
    knows a current context for each thread only, and destroys things with their Python objects: both are
    why every call comes inside :meth:`activate`.

    Args:
        index: Number of the GPU.

    Raises:
        MissingDependencyError: PyCUDA is not installed.
        BuildError: CUDA does not start.
    """

    name = NAME
    graphs = False

    def __init__(self, index: int = 0) -> None:
        self._driver: Any = require(
            "pycuda.driver", extra="pycuda", needed_for=f"Running an engine through {NAME}"
        )
        self.index = index
        with self._translate_errors(f"use GPU {index}"):
            self._driver.init()
            device = self._driver.Device(index)
            self._context: Any = device.retain_primary_context()
            attribute = self._driver.device_attribute.INTEGRATED
            self.integrated = bool(device.get_attribute(attribute))

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Push the primary context on this thread's stack, and take it down again."""
        if self._context is None:
            raise cuda_error(NAME, f"use GPU {self.index}", "the backend is closed")
        with self._translate_errors(f"use GPU {self.index}"):
            self._context.push()
        try:
            yield
        finally:
            self._driver.Context.pop()

    def malloc(self, nbytes: int) -> DeviceBuffer:
        """Allocate memory on the GPU."""
        with self._translate_errors(f"allocate {nbytes} bytes"):
            allocation = self._driver.mem_alloc(nbytes)
        return DeviceBuffer(int(allocation), nbytes, allocation)

    def free(self, buffer: DeviceBuffer) -> None:
        """Free memory of :meth:`malloc`."""
        with self._translate_errors("free memory"):
            take(NAME, buffer).free()

    def host_alloc(self, nbytes: int, *, mapped: bool = False) -> HostBuffer:
        """Allocate page-locked memory; ``mapped`` also gives it an address on the GPU."""
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        with self._translate_errors(f"allocate {nbytes} bytes of page-locked memory"):
            array = self._driver.pagelocked_empty((nbytes,), np.uint8, mem_flags=flags)
            device_address = int(array.base.get_device_pointer()) if mapped else None
        return HostBuffer(array, device_address, array.base)

    def host_free(self, buffer: HostBuffer) -> None:
        """Free memory of :meth:`host_alloc`."""
        with self._translate_errors("free page-locked memory"):
            take(NAME, buffer).free()

    def to_device(self, target: DeviceBuffer, source: HostBuffer, nbytes: int, stream: CudaStream) -> None:
        """Queue a copy to the GPU."""
        with self._translate_errors("copy to the GPU"):
            self._driver.memcpy_htod_async(target.address, source.array[:nbytes], stream.owner)

    def to_host(self, target: HostBuffer, source: DeviceBuffer, nbytes: int, stream: CudaStream) -> None:
        """Queue a copy from the GPU."""
        with self._translate_errors("copy from the GPU"):
            self._driver.memcpy_dtoh_async(target.array[:nbytes], source.address, stream.owner)

    def create_stream(self) -> CudaStream:
        """Make a stream that does not wait for the default stream."""
        with self._translate_errors("make a stream"):
            stream = self._driver.Stream(_NON_BLOCKING)
        return CudaStream(int(stream.handle), stream)

    def synchronize(self, stream: CudaStream) -> None:
        """Wait for all that was queued."""
        with self._translate_errors("finish the queued work"):
            stream.owner.synchronize()

    def destroy_stream(self, stream: CudaStream) -> None:
        """Drop the stream: PyCUDA destroys it with its object."""
        take(NAME, stream)

    def create_event(self) -> CudaEvent:
        """Make an event that takes the time."""
        with self._translate_errors("make an event"):
            return CudaEvent(self._driver.Event())

    def record(self, event: CudaEvent, stream: CudaStream) -> None:
        """Queue the event."""
        with self._translate_errors("record an event"):
            event.owner.record(stream.owner)

    def elapsed_s(self, start: CudaEvent, end: CudaEvent) -> float:
        """Return the seconds between two events that happened."""
        with self._translate_errors("read the time"):
            return float(end.owner.time_since(start.owner)) / 1e3

    def destroy_event(self, event: CudaEvent) -> None:
        """Drop the event: PyCUDA destroys it with its object."""
        take(NAME, event)

    def begin_capture(self, stream: CudaStream) -> None:
        """PyCUDA has no CUDA graphs.

        Raises:
            BuildError: always.
        """
        raise cuda_error(NAME, "record a graph", "PyCUDA has no CUDA graphs")

    def end_capture(self, stream: CudaStream) -> CudaGraph:
        """PyCUDA has no CUDA graphs.

        Raises:
            BuildError: always.
        """
        raise cuda_error(NAME, "record a graph", "PyCUDA has no CUDA graphs")

    def launch(self, graph: CudaGraph, stream: CudaStream) -> None:
        """PyCUDA has no CUDA graphs.

        Raises:
            BuildError: always.
        """
        raise cuda_error(NAME, "launch a graph", "PyCUDA has no CUDA graphs")

    def destroy_graph(self, graph: CudaGraph) -> None:
        """PyCUDA has no CUDA graphs, so that there is none to destroy."""

    def close(self) -> None:
        """Let go of the primary context; it lives on while others hold it."""
        self._context = None

    @contextmanager
    def _translate_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._driver.MemoryError as exc:
            raise MemoryError(f"CUDA (through {NAME}) could not {what}: {exc}") from exc
        except self._driver.Error as exc:
            raise cuda_error(NAME, what, exc) from exc
