"""CUDA through PyTorch, for programs that have it loaded anyway: tensors are the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hasn_edge.errors import UnsupportedError, say, use
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

NAME = "torch"


class TorchBackend:
    """Memory from PyTorch's allocators, its streams, events and graphs.

    Freed memory goes back to PyTorch's allocator, not to the system: other tensors of this program use it.

    Args:
        index: Number of the GPU.

    Raises:
        MissingDependencyError: PyTorch is not installed.
        UnsupportedError: this PyTorch has no CUDA, or sees no such GPU.
    """

    name = NAME
    graphs = True

    def __init__(self, index: int = 0) -> None:
        self._torch: Any = require("torch", extra="export", needed_for=f"Running an engine through {NAME}")
        self.index = index
        cuda = self._torch.cuda
        if not cuda.is_available() or index >= cuda.device_count():
            raise UnsupportedError(
                f"CUDA (through {NAME}): PyTorch {self._torch.__version__} here sees no GPU number {index}",
                say("install a build of PyTorch for CUDA"),
                use(cuda="cuda-python"),
                use(cuda="pycuda"),
            )
        self._device = self._torch.device("cuda", index)
        self.integrated = bool(cuda.get_device_properties(index).is_integrated)
        self._captures: dict[int, Any] = {}

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Make the GPU PyTorch's current one in this thread."""
        with self._torch.cuda.device(self.index):
            yield

    def malloc(self, nbytes: int) -> DeviceBuffer:
        """Allocate memory on the GPU."""
        with self._translate_errors(f"allocate {nbytes} bytes"):
            tensor = self._torch.empty(nbytes, dtype=self._torch.uint8, device=self._device)
        return DeviceBuffer(int(tensor.data_ptr()), nbytes, tensor)

    def free(self, buffer: DeviceBuffer) -> None:
        """Give memory back to PyTorch's allocator."""
        take(NAME, buffer)

    def host_alloc(self, nbytes: int, *, mapped: bool = False) -> HostBuffer:
        """Allocate page-locked memory.

        Its address on the GPU is the one on the CPU: so the CUDA programming guide states of all memory
        of ``cudaHostAlloc`` on 64-bit systems (unified addressing), and PyTorch has no other call for it.
        """
        with self._translate_errors(f"allocate {nbytes} bytes of page-locked memory"):
            tensor = self._torch.empty(nbytes, dtype=self._torch.uint8, pin_memory=True)
        return HostBuffer(tensor.numpy(), int(tensor.data_ptr()) if mapped else None, tensor)

    def host_free(self, buffer: HostBuffer) -> None:
        """Give memory back to PyTorch's allocator."""
        take(NAME, buffer)

    def to_device(self, target: DeviceBuffer, source: HostBuffer, nbytes: int, stream: CudaStream) -> None:
        """Queue a copy to the GPU."""
        with self._translate_errors("copy to the GPU"), self._torch.cuda.stream(stream.owner):
            target.owner[:nbytes].copy_(source.owner[:nbytes], non_blocking=True)

    def to_host(self, target: HostBuffer, source: DeviceBuffer, nbytes: int, stream: CudaStream) -> None:
        """Queue a copy from the GPU."""
        with self._translate_errors("copy from the GPU"), self._torch.cuda.stream(stream.owner):
            target.owner[:nbytes].copy_(source.owner[:nbytes], non_blocking=True)

    def create_stream(self) -> CudaStream:
        """Take one of PyTorch's streams, which do not wait for the default stream."""
        with self._translate_errors("make a stream"):
            stream = self._torch.cuda.Stream(device=self._device)
        return CudaStream(int(stream.cuda_stream), stream)

    def synchronize(self, stream: CudaStream) -> None:
        """Wait for all that was queued."""
        with self._translate_errors("finish the queued work"):
            stream.owner.synchronize()

    def destroy_stream(self, stream: CudaStream) -> None:
        """Give the stream back: PyTorch keeps it."""
        take(NAME, stream)

    def create_event(self) -> CudaEvent:
        """Make an event that takes the time."""
        with self._translate_errors("make an event"):
            return CudaEvent(self._torch.cuda.Event(enable_timing=True))

    def record(self, event: CudaEvent, stream: CudaStream) -> None:
        """Queue the event."""
        with self._translate_errors("record an event"):
            event.owner.record(stream.owner)

    def elapsed_s(self, start: CudaEvent, end: CudaEvent) -> float:
        """Return the seconds between two events that happened."""
        with self._translate_errors("read the time"):
            return float(start.owner.elapsed_time(end.owner)) / 1e3

    def destroy_event(self, event: CudaEvent) -> None:
        """Drop the event: PyTorch destroys it with its object."""
        take(NAME, event)

    def begin_capture(self, stream: CudaStream) -> None:
        """Start recording; other threads may go on calling CUDA meanwhile."""
        graph = self._torch.cuda.CUDAGraph()
        with self._translate_errors("start recording a graph"), self._torch.cuda.stream(stream.owner):
            graph.capture_begin(capture_error_mode="thread_local")
        self._captures[stream.handle] = graph

    def end_capture(self, stream: CudaStream) -> CudaGraph:
        """End the recording; PyTorch makes the graph executable."""
        graph = self._captures.pop(stream.handle)
        with self._translate_errors("record a graph"), self._torch.cuda.stream(stream.owner):
            graph.capture_end()
        return CudaGraph(graph)

    def launch(self, graph: CudaGraph, stream: CudaStream) -> None:
        """Queue the recorded work: PyTorch launches in its current stream."""
        with self._translate_errors("launch a graph"), self._torch.cuda.stream(stream.owner):
            graph.owner.replay()

    def destroy_graph(self, graph: CudaGraph) -> None:
        """Destroy a graph."""
        with self._translate_errors("destroy a graph"):
            take(NAME, graph).reset()

    def close(self) -> None:
        """Nothing to let go of: PyTorch keeps the primary context for the process."""

    @contextmanager
    def _translate_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._torch.cuda.OutOfMemoryError as exc:
            raise MemoryError(f"CUDA (through {NAME}) could not {what}: {exc}") from exc
        except RuntimeError as exc:
            raise cuda_error(NAME, what, exc) from exc
