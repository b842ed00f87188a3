"""PyTorch's CUDA over the fake GPU: what it is called with is checked as the real one does.

Signatures are those of PyTorch 2.13, read from its sources.
"""
# ruff: noqa: C901 - a module made by one function

from __future__ import annotations

import types
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from tests.support.fake_gpu import CudaError, FakeGpu


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
            assert device[0] == "cuda"
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
        gpu.primary.add(index)
        gpu.enter()
        try:
            yield
        finally:
            gpu.leave()  # it gives a GPU back only where it has a context

    @contextmanager
    def stream(chosen: Stream) -> Any:
        assert type(chosen) is Stream
        streams.append(chosen)
        try:
            yield
        finally:
            streams.pop()

    cuda.is_available, cuda.device_count = (lambda: not gpu.hidden_from_torch), (lambda: gpu.cards)
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
