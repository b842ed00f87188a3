"""What a session needs of CUDA: memory, streams, events and graphs, behind one small protocol."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hasn_edge.errors import BuildError, Cure


@dataclass(eq=False)
class DeviceBuffer:
    """Memory on the GPU."""

    address: int
    nbytes: int
    owner: Any
    """What the package knows it by; ``None`` once it is freed."""


@dataclass(eq=False)
class HostBuffer:
    """Page-locked memory of the CPU, which copies to and from the GPU need to run by themselves."""

    array: NDArray[np.uint8]
    """The memory itself: one dimension, a byte an element. Views of it must not outlive the buffer."""
    device_address: int | None
    """Where the GPU sees the same memory; ``None`` where it was not asked for or is not possible."""
    owner: Any


@dataclass(eq=False)
class CudaStream:
    """A queue of work on the GPU, never the default one."""

    handle: int
    """The ``cudaStream_t`` as an integer, as TensorRT takes it."""
    owner: Any


@dataclass(eq=False)
class CudaEvent:
    """A point in a stream, with its time."""

    owner: Any


@dataclass(eq=False)
class CudaGraph:
    """Recorded work, launched as one."""

    owner: Any


class CudaBackend(Protocol):
    """CUDA through one Python package, for one GPU.

    Every call but :meth:`activate` and :meth:`close` must come inside ``with backend.activate():``, in any
    thread. What is freed or destroyed must not be in use by a stream any more. All work joins the GPU's
    *primary* context, which PyTorch and TensorRT share.

    Raises:
        BuildError: from every call that CUDA refuses, with CUDA's words.
        MemoryError: from allocations that do not fit.
    """

    name: str
    """``"cuda-python"``, ``"pycuda"`` or ``"torch"``."""
    index: int
    """Number of the GPU among those that ``CUDA_VISIBLE_DEVICES`` leaves."""
    integrated: bool
    """The GPU shares the CPU's memory (Jetson)."""
    graphs: bool
    """Whether CUDA graphs can be recorded; without, the four methods for them raise ``BuildError``."""

    def activate(self) -> AbstractContextManager[None]:
        """Make the GPU's primary context this thread's current one, for the time of the context manager."""
        ...

    def malloc(self, nbytes: int) -> DeviceBuffer:
        """Allocate memory on the GPU; its content is undefined."""
        ...

    def free(self, buffer: DeviceBuffer) -> None:
        """Free memory of :meth:`malloc`."""
        ...

    def host_alloc(self, nbytes: int, *, mapped: bool = False) -> HostBuffer:
        """Allocate page-locked memory; ``mapped`` also gives it an address on the GPU."""
        ...

    def host_free(self, buffer: HostBuffer) -> None:
        """Free memory of :meth:`host_alloc`."""
        ...

    def to_device(self, target: DeviceBuffer, source: HostBuffer, nbytes: int, stream: CudaStream) -> None:
        """Queue a copy of the first ``nbytes`` bytes; returns before it is done."""
        ...

    def to_host(self, target: HostBuffer, source: DeviceBuffer, nbytes: int, stream: CudaStream) -> None:
        """Queue a copy of the first ``nbytes`` bytes; returns before it is done."""
        ...

    def create_stream(self) -> CudaStream:
        """Make a stream that does not wait for the default stream."""
        ...

    def synchronize(self, stream: CudaStream) -> None:
        """Wait until all that was queued is done; an error of any of it is raised here."""
        ...

    def destroy_stream(self, stream: CudaStream) -> None:
        """Destroy a stream of :meth:`create_stream`."""
        ...

    def create_event(self) -> CudaEvent:
        """Make an event that takes the time."""
        ...

    def record(self, event: CudaEvent, stream: CudaStream) -> None:
        """Queue the event: it happens when all before it in the stream is done."""
        ...

    def elapsed_s(self, start: CudaEvent, end: CudaEvent) -> float:
        """Return the seconds between two events that happened; resolution is about half a microsecond."""
        ...

    def destroy_event(self, event: CudaEvent) -> None:
        """Destroy an event of :meth:`create_event`."""
        ...

    def begin_capture(self, stream: CudaStream) -> None:
        """Record what this thread queues in ``stream`` from now on instead of running it."""
        ...

    def end_capture(self, stream: CudaStream) -> CudaGraph:
        """End the recording; must be called after :meth:`begin_capture` whatever happened between."""
        ...

    def launch(self, graph: CudaGraph, stream: CudaStream) -> None:
        """Queue the recorded work."""
        ...

    def destroy_graph(self, graph: CudaGraph) -> None:
        """Destroy a graph of :meth:`end_capture`."""
        ...

    def close(self) -> None:
        """Let go of the context; buffers, streams, events and graphs must be gone. Safe to call twice."""
        ...


def cuda_error(backend: str, what: str, why: object, *cures: Cure) -> BuildError:
    """Return the error for a call that CUDA refused: the same words for every package."""
    text = str(why).strip() or type(why).__name__
    return BuildError(f"CUDA (through {backend}) failed to {what}: {text}", *cures)


def take(backend: str, holder: DeviceBuffer | HostBuffer | CudaStream | CudaEvent | CudaGraph) -> Any:
    """Take what ``holder`` owns away from it, to free it: it can be neither used nor freed again.

    Raises:
        BuildError: it was freed before.
    """
    owner, holder.owner = holder.owner, None
    if isinstance(holder, HostBuffer):
        holder.array = np.empty(0, np.uint8)
    if owner is None:
        raise cuda_error(backend, f"free a {type(holder).__name__}", "it was freed before")
    return owner
