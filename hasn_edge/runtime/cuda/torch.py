"""CUDA through PyTorch, for programs that have it loaded anyway: tensors are the memory."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from hasn_edge.errors import UnsupportedError, say, use
from hasn_edge.optional import require
from hasn_edge.runtime.cuda.backend import CudaBackend, CudaStream, DeviceBuffer, HostBuffer


class TorchBackend(CudaBackend):
    """Memory from PyTorch's allocators, its streams, events and graphs.

    Freed memory goes back to PyTorch's allocator, not to the system: other tensors of this program use it.
    Its streams stay PyTorch's, too.

    Args:
        index: Number of the GPU.

    Raises:
        MissingDependencyError: PyTorch is not installed.
        UnsupportedError: this PyTorch has no CUDA, or sees no such GPU.
    """

    name = "torch"

    def __init__(self, index: int) -> None:
        self._torch: Any = require(
            "torch", extra="export", needed_for=f"Running an engine through {self.name}"
        )
        self.index = index
        cuda = self._torch.cuda
        self._errors, self._memory_errors = (RuntimeError,), (cuda.OutOfMemoryError,)
        if not cuda.is_available() or index >= cuda.device_count():
            raise UnsupportedError(
                f"CUDA (through {self.name}): PyTorch {self._torch.__version__} here sees no GPU number "
                f"{index}",
                say("install a build of PyTorch for CUDA"),
                use(cuda="cuda-python"),
                use(cuda="pycuda"),
            )
        self._device = self._torch.device("cuda", index)
        self.integrated = bool(cuda.get_device_properties(index).is_integrated)
        self._captures: dict[int, Any] = {}

    def activate(self) -> AbstractContextManager[None]:
        """Make the GPU PyTorch's current one in this thread."""
        current: AbstractContextManager[None] = self._torch.cuda.device(self.index)
        return current

    def _malloc(self, nbytes: int) -> DeviceBuffer:
        tensor = self._torch.empty(nbytes, dtype=self._torch.uint8, device=self._device)
        return DeviceBuffer(int(tensor.data_ptr()), nbytes, tensor)

    def _host_alloc(self, nbytes: int, *, mapped: bool) -> HostBuffer:
        # Its address on the GPU is the one on the CPU: so the CUDA programming guide states of all memory of
        # cudaHostAlloc on 64-bit systems (unified addressing), and PyTorch has no other call for it.
        tensor = self._torch.empty(nbytes, dtype=self._torch.uint8, pin_memory=True)
        return HostBuffer(tensor.numpy(), int(tensor.data_ptr()) if mapped else None, tensor)

    def _to_device(self, target: DeviceBuffer, source: HostBuffer, nbytes: int, stream: CudaStream) -> None:
        with self._torch.cuda.stream(stream.owner):
            target.owner[:nbytes].copy_(source.owner[:nbytes], non_blocking=True)

    def _to_host(self, target: HostBuffer, source: DeviceBuffer, nbytes: int, stream: CudaStream) -> None:
        with self._torch.cuda.stream(stream.owner):
            target.owner[:nbytes].copy_(source.owner[:nbytes], non_blocking=True)

    def _create_stream(self) -> CudaStream:
        stream = self._torch.cuda.Stream(device=self._device)
        return CudaStream(int(stream.cuda_stream), stream)

    def _synchronize(self, stream: CudaStream) -> None:
        stream.owner.synchronize()

    def _create_event(self, *, sleeps: bool) -> Any:
        return self._torch.cuda.Event(enable_timing=not sleeps, blocking=sleeps)

    def _wait(self, event: Any) -> None:
        event.synchronize()

    def _free_bytes(self) -> int:
        return int(self._torch.cuda.mem_get_info(self.index)[0])

    def _record(self, event: Any, stream: CudaStream) -> None:
        event.record(stream.owner)

    def _elapsed_ms(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end))

    def _begin_capture(self, stream: CudaStream) -> None:
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.stream(stream.owner):
            graph.capture_begin(capture_error_mode="thread_local")
        self._captures[stream.handle] = graph

    def _end_capture(self, stream: CudaStream) -> Any:
        graph = self._captures.pop(stream.handle)
        with self._torch.cuda.stream(stream.owner):
            graph.capture_end()
        return graph

    def _launch(self, graph: Any, stream: CudaStream) -> None:
        with self._torch.cuda.stream(stream.owner):  # PyTorch launches in its current stream
            graph.replay()

    def _destroy_graph(self, owner: Any) -> None:
        owner.reset()
