"""CUDA through PyCUDA, as many Jetson installations have it: no CUDA graphs, everything else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from hasn_edge.optional import require
from hasn_edge.runtime.cuda.backend import CudaBackend, CudaStream, DeviceBuffer, HostBuffer

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which PyCUDA has no name for


class PyCudaBackend(CudaBackend):
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

    name = "pycuda"
    graphs = False

    def __init__(self, index: int) -> None:
        self._driver: Any = require(
            "pycuda.driver", extra="pycuda", needed_for=f"Running an engine through {self.name}"
        )
        self._errors, self._memory_errors = (self._driver.Error,), (self._driver.MemoryError,)
        self.index = index
        with self._doing(f"use GPU {index}"):
            self._driver.init()
            device = self._driver.Device(index)
            self._context: Any = device.retain_primary_context()
            attribute = self._driver.device_attribute.INTEGRATED
            self.integrated = bool(device.get_attribute(attribute))

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Push the primary context on this thread's stack, and take it down again."""
        if self._context is None:
            raise self._refusal(f"use GPU {self.index}", "the backend is closed")
        with self._doing(f"use GPU {self.index}"):
            self._context.push()
        try:
            yield
        finally:
            self._driver.Context.pop()

    def close(self) -> None:
        """Let go of the primary context; it lives on while others hold it."""
        self._context = None

    def _malloc(self, nbytes: int) -> DeviceBuffer:
        allocation = self._driver.mem_alloc(nbytes)
        return DeviceBuffer(int(allocation), nbytes, allocation)

    def _free(self, owner: Any) -> None:
        owner.free()

    _host_free = _free

    def _host_alloc(self, nbytes: int, *, mapped: bool) -> HostBuffer:
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        array = self._driver.pagelocked_empty((nbytes,), np.uint8, mem_flags=flags)
        return HostBuffer(array, int(array.base.get_device_pointer()) if mapped else None, array.base)

    def _to_device(self, target: DeviceBuffer, source: HostBuffer, nbytes: int, stream: CudaStream) -> None:
        self._driver.memcpy_htod_async(target.address, source.array[:nbytes], stream.owner)

    def _to_host(self, target: HostBuffer, source: DeviceBuffer, nbytes: int, stream: CudaStream) -> None:
        self._driver.memcpy_dtoh_async(target.array[:nbytes], source.address, stream.owner)

    def _create_stream(self) -> CudaStream:
        stream = self._driver.Stream(_NON_BLOCKING)
        return CudaStream(int(stream.handle), stream)

    def _synchronize(self, stream: CudaStream) -> None:
        stream.owner.synchronize()

    def _create_event(self, *, sleeps: bool) -> Any:
        kinds = self._driver.event_flags
        return self._driver.Event(kinds.BLOCKING_SYNC | kinds.DISABLE_TIMING if sleeps else kinds.DEFAULT)

    def _wait(self, event: Any) -> None:
        event.synchronize()

    def _free_bytes(self) -> int:
        return int(self._driver.mem_get_info()[0])

    def _record(self, event: Any, stream: CudaStream) -> None:
        event.record(stream.owner)

    def _elapsed_ms(self, start: Any, end: Any) -> float:
        return float(end.time_since(start))
