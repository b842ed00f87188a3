"""What a session needs of CUDA: memory, streams, events and graphs, the same through every Python package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hasn_edge.errors import BuildError, Cure

Owner = TypeVar("Owner", bound="DeviceBuffer | HostBuffer | CudaStream | CudaEvent | CudaGraph")


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
    waiter: Any = None
    """An event that this thread sleeps on, where that was asked for."""


@dataclass(eq=False)
class CudaEvent:
    """A point in a stream, with its time."""

    owner: Any


@dataclass(eq=False)
class CudaGraph:
    """Recorded work, launched as one."""

    owner: Any


class CudaBackend(ABC):
    """CUDA through one Python package, for one GPU: this class turns errors into ours, a subclass calls.

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
    graphs: bool = True
    """Whether CUDA graphs can be recorded; without, the four methods for them raise ``BuildError``."""
    _errors: tuple[type[Exception], ...]
    """What the package raises where CUDA refuses."""
    _memory_errors: tuple[type[Exception], ...]
    """Those of them that mean that memory does not suffice."""

    @abstractmethod
    def activate(self) -> AbstractContextManager[None]:
        """Make the GPU's primary context this thread's current one, for the time of the context manager."""

    def malloc(self, nbytes: int) -> DeviceBuffer:
        """Allocate memory on the GPU; its content is undefined."""
        with self._doing(f"allocate {nbytes} bytes"):
            return self._malloc(nbytes)

    def free(self, buffer: DeviceBuffer) -> None:
        """Free memory of :meth:`malloc`."""
        with self._doing("free memory"):
            self._free(self._take(buffer))

    def free_bytes(self) -> int:
        """Return the GPU's memory that is free, whoever uses the rest."""
        with self._doing("ask for free memory"):
            return int(self._free_bytes())

    def host_alloc(self, nbytes: int, *, mapped: bool = False) -> HostBuffer:
        """Allocate page-locked memory; ``mapped`` also gives it an address on the GPU."""
        with self._doing(f"allocate {nbytes} bytes of page-locked memory"):
            return self._host_alloc(nbytes, mapped=mapped)

    def host_free(self, buffer: HostBuffer) -> None:
        """Free memory of :meth:`host_alloc`."""
        with self._doing("free page-locked memory"):
            buffer.array = np.empty(0, np.uint8)
            self._host_free(self._take(buffer))

    def to_device(self, target: DeviceBuffer, source: HostBuffer, nbytes: int, stream: CudaStream) -> None:
        """Queue a copy of the first ``nbytes`` bytes; returns before it is done."""
        with self._doing("copy to the GPU"):
            self._to_device(target, source, nbytes, stream)

    def to_host(self, target: HostBuffer, source: DeviceBuffer, nbytes: int, stream: CudaStream) -> None:
        """Queue a copy of the first ``nbytes`` bytes; returns before it is done."""
        with self._doing("copy from the GPU"):
            self._to_host(target, source, nbytes, stream)

    def create_stream(self) -> CudaStream:
        """Make a stream that does not wait for the default stream."""
        with self._doing("make a stream"):
            return self._create_stream()

    def synchronize(self, stream: CudaStream) -> None:
        """Wait until all that was queued is done; an error of any of it is raised here.

        On a GPU that shares the CPU's memory, and its watts, this thread sleeps meanwhile and wakes a little
        late; on a card it asks again and again, as CUDA does by default.
        """
        with self._doing("finish the queued work"):
            if not self.integrated:
                self._synchronize(stream)
                return
            if stream.waiter is None:
                stream.waiter = self._create_event(sleeps=True)
            self._record(stream.waiter, stream)
            self._wait(stream.waiter)

    def destroy_stream(self, stream: CudaStream) -> None:
        """Destroy a stream of :meth:`create_stream`."""
        with self._doing("destroy a stream"):
            if stream.waiter is not None:
                waiter, stream.waiter = stream.waiter, None
                self._destroy_event(waiter)
            self._destroy_stream(self._take(stream))

    def create_event(self) -> CudaEvent:
        """Make an event that takes the time."""
        with self._doing("make an event"):
            return CudaEvent(self._create_event(sleeps=False))

    def record(self, event: CudaEvent, stream: CudaStream) -> None:
        """Queue the event: it happens when all before it in the stream is done."""
        with self._doing("record an event"):
            self._record(event.owner, stream)

    def elapsed_s(self, start: CudaEvent, end: CudaEvent) -> float:
        """Return the seconds between two events that happened; resolution is about half a microsecond."""
        with self._doing("read the time"):
            return self._elapsed_ms(start.owner, end.owner) / 1e3

    def destroy_event(self, event: CudaEvent) -> None:
        """Destroy an event of :meth:`create_event`."""
        with self._doing("destroy an event"):
            self._destroy_event(self._take(event))

    def begin_capture(self, stream: CudaStream) -> None:
        """Record what this thread queues in ``stream`` from now on instead of running it.

        Other threads may go on calling CUDA meanwhile.
        """
        with self._doing("start recording a graph"):
            self._begin_capture(stream)

    def end_capture(self, stream: CudaStream) -> CudaGraph:
        """End the recording; must be called after :meth:`begin_capture` whatever happened between."""
        with self._doing("record a graph"):
            return CudaGraph(self._end_capture(stream))

    def launch(self, graph: CudaGraph, stream: CudaStream) -> None:
        """Queue the recorded work."""
        with self._doing("launch a graph"):
            self._launch(graph.owner, stream)

    def destroy_graph(self, graph: CudaGraph) -> None:
        """Destroy a graph of :meth:`end_capture`."""
        with self._doing("destroy a graph"):
            self._destroy_graph(self._take(graph))

    def close(self) -> None:  # noqa: B027 - runtimes keep the primary context for the process
        """Let go of the context; buffers, streams, events and graphs must be gone. Safe to call twice."""

    @abstractmethod
    def _malloc(self, nbytes: int) -> DeviceBuffer: ...

    @abstractmethod
    def _host_alloc(self, nbytes: int, *, mapped: bool) -> HostBuffer: ...

    @abstractmethod
    def _to_device(
        self, target: DeviceBuffer, source: HostBuffer, nbytes: int, stream: CudaStream
    ) -> None: ...

    @abstractmethod
    def _to_host(self, target: HostBuffer, source: DeviceBuffer, nbytes: int, stream: CudaStream) -> None: ...

    @abstractmethod
    def _create_stream(self) -> CudaStream: ...

    @abstractmethod
    def _synchronize(self, stream: CudaStream) -> None: ...

    @abstractmethod
    def _create_event(self, *, sleeps: bool) -> Any:
        """Make an event that takes the time, or one that a thread sleeps on."""

    @abstractmethod
    def _wait(self, event: Any) -> None: ...

    @abstractmethod
    def _free_bytes(self) -> int: ...

    @abstractmethod
    def _record(self, event: Any, stream: CudaStream) -> None: ...

    @abstractmethod
    def _elapsed_ms(self, start: Any, end: Any) -> float: ...

    def _drop(self, owner: Any) -> None:  # noqa: B027
        """Do nothing: what the package made is destroyed with its last Python object, which this one is."""

    _free = _host_free = _destroy_stream = _destroy_event = _destroy_graph = _drop

    def _no_graphs(self, *_: Any) -> Any:
        raise self._refusal("record a graph", f"{self.name} has no CUDA graphs")

    _begin_capture = _end_capture = _launch = _no_graphs

    def _take(self, holder: Owner) -> Any:
        """Take what ``holder`` owns away from it, to free it: it can be neither used nor freed again."""
        owner, holder.owner = holder.owner, None
        if owner is None:
            raise self._refusal(f"free a {type(holder).__name__}", "it was freed before")
        return owner

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._memory_errors as exc:
            raise MemoryError(f"CUDA (through {self.name}) could not {what}: {exc}") from exc
        except self._errors as exc:
            raise self._refusal(what, exc, *self._cures(exc)) from exc

    def _cures(self, exc: Exception) -> tuple[Cure, ...]:
        return ()

    def _refusal(self, what: str, why: object, *cures: Cure) -> BuildError:
        """Return the error for a call that CUDA refused: the same words for every package."""
        text = str(why).strip() or type(why).__name__
        return BuildError(f"CUDA (through {self.name}) failed to {what}: {text}", *cures)
