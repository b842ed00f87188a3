"""PyCUDA over the fake GPU: what it is called with is checked as the real one does.

Signatures are those of PyCUDA 2026.1, read from its sources. Each thread has a stack of contexts of its own;
what is used or destroyed where none is current is a violation. (The real one destroys in the thread that
retained the context, and elsewhere warns and leaks.)
"""
# ruff: noqa: C901 - a module made by one function

from __future__ import annotations

import types
from contextlib import suppress
from typing import Any

import numpy as np

from tests.support.fake_gpu import CudaError, FakeGpu


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
            if index >= gpu.cards:
                raise LogicError("cuDeviceGet failed: invalid device ordinal")
            self.index = index

        def retain_primary_context(self) -> Context:
            gpu.primary.add(self.index)
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
            gpu.require_current("get_device_pointer")
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
            with suppress(AssertionError):  # as above
                if hasattr(self, "thing"):
                    gpu.require_current("destroy an event")
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
