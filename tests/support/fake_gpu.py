"""A GPU that computes nothing until it is waited for, and forgives nothing: the floor under every fake here.

Work in a stream runs when the stream is waited for, not before, from the memory as it is then. So a missing
wait, a buffer that is written too early or freed too early gives wrong numbers or an error, as it might on a
real GPU. What a real GPU would do silently wrong is an ``AssertionError`` here, and kept in ``violations``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

GARBAGE = 0xFF  # of every byte: NaN as a float


class CudaError(Exception):
    """An error code of CUDA's; every fake package turns it into its own kind of error."""

    def __init__(self, code: str, text: str = "") -> None:
        super().__init__(text or code)
        self.code = code


@dataclass(eq=False)
class Allocation:
    address: int
    array: np.ndarray
    pinned: bool
    device_address: int | None = None
    freed: bool = False


@dataclass(eq=False)
class Op:
    """Something queued: what it does, when it takes place in the GPU's time, and the memory it touches."""

    run: Callable[[], None]
    seconds: float
    touches: tuple[Allocation, ...] = ()
    what: str = ""


@dataclass(eq=False)
class FakeStream:
    handle: int
    ops: list[Op] = field(default_factory=list)
    capture: list[Op] | None = None
    invalid: bool = False
    destroyed: bool = False


@dataclass(eq=False)
class FakeEvent:
    happened: float | None = None
    sleeps: bool = False
    stream: int | None = None
    """Where it was recorded last."""


@dataclass(eq=False)
class FakeGraph:
    ops: list[Op]
    destroyed: bool = False


class FakeGpu:
    """One GPU. Knobs: ``integrated``, ``memory_bytes``, ``fail`` (calls to fail, by name, with CUDA's code or
    an exception), ``hidden_from_torch``, ``cards`` (others beside it, which compute nothing)."""

    def __init__(self, *, integrated: bool = False, memory_bytes: int = 1 << 30) -> None:
        self.integrated = integrated
        self.memory_bytes = memory_bytes
        self.hidden_from_torch = False
        self.cards = 1
        self.fail: dict[str, str | BaseException] = {}
        self.calls: list[str] = []
        self.violations: list[str] = []
        self.allocations: list[Allocation] = []
        self.streams: dict[int, FakeStream] = {}
        self.graphs: list[FakeGraph] = []
        self.events: list[FakeEvent] = []
        self.clock = 0.0
        self.last_error: str | None = None
        """What ``cudaGetLastError`` returns: who launches a kernel and asks takes it for the kernel's."""
        self.primary: set[int] = set()
        """Numbers of the GPUs that have a primary context, which takes hundreds of megabytes of each."""
        self._current: dict[int, int] = {}
        self._next_address = 0x7_0000_0000
        self._next_stream = 0x5500

    # what must be current

    def enter(self) -> None:
        thread = threading.get_ident()
        self._current[thread] = self._current.get(thread, 0) + 1

    def leave(self) -> None:
        self.require_current("a context is taken down")
        self._current[threading.get_ident()] -= 1

    def require_current(self, what: str) -> None:
        if not self._current.get(threading.get_ident()):
            raise self.wrong(f"{what} without a current context in this thread")

    def wrong(self, text: str) -> AssertionError:
        self.violations.append(text)
        return AssertionError(text)

    def call(self, name: str) -> None:
        """Note a call; fail where the test asked for it."""
        self.calls.append(name)
        self.require_current(name)
        if name in self.fail:
            why = self.fail.pop(name)
            raise why if isinstance(why, BaseException) else CudaError(why)

    # memory

    def malloc(self, nbytes: int) -> Allocation:
        self.call("malloc")
        self._forbid_while_capturing("malloc")
        made = self.reserve(nbytes)
        if made is None:
            raise CudaError("cudaErrorMemoryAllocation", "out of memory")
        return made

    def reserve(self, nbytes: int) -> Allocation | None:
        """Take memory as TensorRT does, by no call of a package; ``None`` where it does not suffice."""
        if sum(len(a.array) for a in self.allocations if not a.pinned) + nbytes > self.memory_bytes:
            return None
        self._next_address += 1 << 32
        return self._add(Allocation(self._next_address, np.full(nbytes, GARBAGE, np.uint8), pinned=False))

    def host_alloc(self, nbytes: int, *, mapped: bool, same_address: bool = False) -> Allocation:
        self.call("host_alloc")
        self._forbid_while_capturing("host_alloc")
        raw = np.full(nbytes + 256, GARBAGE, np.uint8)
        array = raw[-raw.ctypes.data % 256 :][:nbytes]
        made = Allocation(array.ctypes.data, array, pinned=True)
        if mapped:
            self._next_address += 1 << 32
            made.device_address = made.address if same_address else self._next_address
        return self._add(made)

    def _add(self, made: Allocation) -> Allocation:
        self.allocations.append(made)
        return made

    def free(self, allocation: Allocation) -> None:
        self.require_current("free")
        if allocation.freed:
            raise self.wrong("freed twice")
        for stream in self.streams.values():
            if any(allocation in op.touches for op in stream.ops):
                raise self.wrong("freed while a stream still has work with it")
        allocation.freed = True
        allocation.array.fill(GARBAGE)
        self.allocations.remove(allocation)

    def find(self, address: int, nbytes: int, *, host: bool) -> tuple[Allocation, np.ndarray]:
        """Return the memory at an address as the GPU (or, ``host``, a copy's host side) sees it."""
        for a in self.allocations:
            start = a.address if a.pinned is host else a.device_address if not host else None
            if start is not None and start <= address and address + nbytes <= start + len(a.array):
                return a, a.array[address - start : address - start + nbytes]
        kind = "page-locked" if host else "the GPU's"
        raise self.wrong(f"{nbytes} bytes at {address:#x} are no {kind} memory (any more)")

    # streams

    def create_stream(self) -> FakeStream:
        self.call("create_stream")
        self._next_stream += 16
        stream = self.streams[self._next_stream] = FakeStream(self._next_stream)
        return stream

    def stream(self, handle: int) -> FakeStream:
        if handle in (0, 1, 2):
            raise self.wrong("the default stream is used")
        if handle not in self.streams:
            raise self.wrong(f"no stream {handle:#x} (any more)")
        return self.streams[handle]

    def queue(self, handle: int, op: Op) -> None:
        stream = self.stream(handle)
        (stream.ops if stream.capture is None else stream.capture).append(op)

    def copy(self, target: int, source: int, nbytes: int, handle: int, *, to_device: bool) -> None:
        self.call("to_device" if to_device else "to_host")
        # A page-locked side is found by its host address, the other by the GPU's.
        a, to = self.find(target, nbytes, host=not to_device)
        b, of = self.find(source, nbytes, host=to_device)

        def run() -> None:
            if a.freed or b.freed:
                raise self.wrong("a copy runs with memory that was freed")
            to[:] = of

        self.queue(handle, Op(run, nbytes * 1e-9, (a, b), "to_device" if to_device else "to_host"))

    def synchronize(self, handle: int) -> None:
        self.call("synchronize")
        stream = self.stream(handle)
        if stream.capture is not None:
            stream.invalid = True
            raise CudaError("cudaErrorStreamCaptureUnsupported")
        ops, stream.ops = stream.ops, []
        for op in ops:
            op.run()
            self.clock += op.seconds
        if "asynchronous" in self.fail:
            raise CudaError(self.fail.pop("asynchronous"), "an illegal memory access was encountered")

    def destroy_stream(self, handle: int) -> None:
        self.require_current("destroy_stream")
        stream = self.stream(handle)
        if stream.ops:
            raise self.wrong("a stream is destroyed with work in it")
        del self.streams[handle]

    # events

    def create_event(self, *, sleeps: bool = False) -> FakeEvent:
        self.call("create_event")
        self.events.append(FakeEvent(sleeps=sleeps))
        return self.events[-1]

    def wait(self, event: FakeEvent) -> None:
        assert event.sleeps
        assert event.stream is not None, "waited for before it was recorded"
        self.calls.append("sleep")
        self.synchronize(event.stream)

    def free_bytes(self) -> int:
        self.call("free_bytes")
        return self.memory_bytes - sum(len(a.array) for a in self.allocations if not a.pinned)

    def record(self, event: FakeEvent, handle: int) -> None:
        self.call("record")
        event.happened, event.stream = None, handle

        def run() -> None:
            event.happened = self.clock

        self.queue(handle, Op(run, 0.0, (), "event"))

    def elapsed_ms(self, start: FakeEvent, end: FakeEvent) -> float:
        self.require_current("elapsed")
        assert {start.sleeps, end.sleeps} == {False}, "an event without a time"
        if start.happened is None or end.happened is None:
            raise CudaError("cudaErrorNotReady")
        return (end.happened - start.happened) * 1e3

    # graphs

    def begin_capture(self, handle: int) -> None:
        self.call("begin_capture")
        stream = self.stream(handle)
        if stream.capture is not None:
            raise CudaError("cudaErrorIllegalState")
        stream.capture, stream.invalid = [], False

    def end_capture(self, handle: int) -> FakeGraph:
        self.require_current("end_capture")
        self.calls.append("end_capture")
        stream = self.stream(handle)
        if stream.capture is None:
            raise CudaError("cudaErrorIllegalState")
        ops, stream.capture = stream.capture, None
        if stream.invalid:
            raise CudaError("cudaErrorStreamCaptureInvalidated")
        if "end_capture" in self.fail:
            raise CudaError(self.fail.pop("end_capture"))
        graph = FakeGraph([] if self.fail.pop("empty graph", None) else ops)
        self.graphs.append(graph)
        return graph

    def launch(self, graph: FakeGraph, handle: int) -> None:
        self.call("launch")
        if graph.destroyed:
            raise self.wrong("a destroyed graph is launched")
        for op in graph.ops:  # an empty graph is launched without a word, as on a real GPU
            self.queue(handle, op)

    def destroy_graph(self, graph: FakeGraph) -> None:
        self.require_current("destroy_graph")
        if graph.destroyed:
            raise self.wrong("a graph is destroyed twice")
        graph.destroyed = True
        self.graphs.remove(graph)

    def _forbid_while_capturing(self, what: str) -> None:
        for stream in self.streams.values():
            if stream.capture is not None:
                stream.invalid = True
                raise CudaError("cudaErrorStreamCaptureUnsupported", f"{what} while a graph is recorded")

    def leaks(self) -> list[str]:
        """Return what was never freed."""
        left = {
            "memory": self.allocations,
            "stream": list(self.streams),
            "graph": self.graphs,
            "event": self.events,
        }
        return [name for name, things in left.items() for _ in things]
