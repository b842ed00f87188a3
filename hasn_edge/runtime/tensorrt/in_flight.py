"""One image at a time on the GPU: a stream, an execution context, buffers and a graph of their own."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hasn_edge.errors import BuildError
from hasn_edge.files import after_failure
from hasn_edge.runtime.cuda.backend import CudaBackend, CudaEvent, CudaGraph, DeviceBuffer, HostBuffer
from hasn_edge.runtime.session import Timing
from hasn_edge.runtime.tensorrt.plan import LoadedPlan, nbytes, view


class Memory:
    """One end's buffer: page-locked, and on the GPU a second one unless the first is mapped there."""

    def __init__(self, cuda: CudaBackend, *, mapped: bool) -> None:
        self.size = 0
        self.device: DeviceBuffer | None = None
        self._cuda = cuda
        self._mapped = mapped
        self._host: HostBuffer | None = None

    @property
    def host(self) -> HostBuffer:
        """The page-locked part."""
        assert self._host is not None
        return self._host

    @property
    def address(self) -> int:
        """Where the GPU finds it."""
        if self.device is not None:
            return self.device.address
        assert self.host.device_address is not None
        return self.host.device_address

    def reserve(self, size: int) -> None:
        """Make room for ``size`` bytes; what was there is lost, and so may be the address."""
        if size <= self.size:
            return
        self.free()
        self._host = self._cuda.host_alloc(size, mapped=self._mapped)
        if self._host.device_address is None:
            self.device = self._cuda.malloc(size)
        self.size = size

    def free(self) -> None:
        """Free both parts. Safe to call twice."""
        device, self.device, host, self._host, self.size = self.device, None, self._host, None, 0
        try:
            if device is not None:
                self._cuda.free(device)
        finally:
            if host is not None:
                self._cuda.host_free(host)


class InFlight:
    """Runs one input at a time. Every call needs ``cuda.activate()`` around it.

    The first call of a shape is enqueued plainly, as TensorRT allocates and chooses in it; the second one
    records a CUDA graph, which it and those after it launch. A new shape drops the graph.

    Args:
        cuda: Where memory and streams come from.
        plan: The engine.
        graphs: Record CUDA graphs.
        mapped: Let the GPU read and write the CPU's memory instead of copying.
    """

    def __init__(self, cuda: CudaBackend, plan: LoadedPlan, *, graphs: bool, mapped: bool) -> None:
        self.cuda = cuda
        self.plan = plan
        self.busy = False
        self.graph_refused: str | None = None
        """Why no graph is recorded any more."""
        self._graph: CudaGraph | None = None
        self._runs = 0
        self._shape: tuple[int, ...] | None = None
        self._out_shape: tuple[int, ...] = ()
        self._input = Memory(cuda, mapped=mapped)
        self._output = Memory(cuda, mapped=mapped)
        self._activations: DeviceBuffer | None = None
        self._events: list[CudaEvent] = []
        self._enqueue_s = 0.0
        self._stream = cuda.create_stream()
        try:
            self._context: Any
            self._context, self.is_lent_memory = plan.create_context()
            """Whether the activations are ours, sized by the inputs."""
            self._graphs = graphs and cuda.graphs and not plan.own_graphs
        except BaseException:
            with after_failure():
                cuda.destroy_stream(self._stream)
            raise

    def start(self, x: NDArray[Any], *, timed: bool = False) -> None:
        """Queue the transfers and the network for one input, which may be changed afterwards.

        Raises:
            BuildError: TensorRT or CUDA refused.
            MemoryError: no room for the buffers or the network's activations.
        """
        if self.busy:  # the last one failed half-way, or no call waited for it to the end
            self.wait()
        self._prepare(x.shape)
        if self._graphs and self._graph is None and self._runs > 0 and self.graph_refused is None:
            self._graph = self._record()
        if timed and not self._events:
            self._events = [self.cuda.create_event() for _ in range(4)]
        np.copyto(view(self._input.host.array, self.plan.input, x.shape), x)
        self.busy = True  # from here on the stream may use the buffers, also if what follows fails
        self._queue(self._events if timed else [])

    def finish(self) -> NDArray[Any]:
        """Wait for the queued input; return its output in memory of its own.

        Raises:
            BuildError: something of what was queued failed on the GPU.
        """
        self.wait()
        self._runs += 1
        output: NDArray[Any] = view(self._output.host.array, self.plan.output, self._out_shape).copy()
        return output

    def wait(self) -> None:
        """Wait until the GPU is done with the buffers; only :meth:`finish` keeps the output."""
        try:
            self.cuda.synchronize(self._stream)
        except Exception:
            self.busy = False
            raise
        self.busy = False

    def timing(self, total_s: float) -> Timing:
        """Return where the time of the last timed call went."""
        times = [self.cuda.elapsed_s(a, b) for a, b in zip(self._events, self._events[1:], strict=False)]
        return Timing(
            gpu_s=times[1],
            enqueue_s=self._enqueue_s,
            total_s=total_s,
            to_device_s=times[0] if self._input.device is not None else None,
            to_host_s=times[2] if self._output.device is not None else None,
        )

    def close(self) -> None:
        """Free everything: what the GPU may still use last. Goes on after a failure and raises the first."""
        problems: list[Exception] = []

        def attempt(step: Any, *args: Any) -> None:
            try:
                step(*args)
            except Exception as exc:
                problems.append(exc)

        attempt(self.wait)
        attempt(self._drop_graph)
        self._context = None
        attempt(self._input.free)
        attempt(self._output.free)
        attempt(self._take_back)
        for event in self._events:
            attempt(self.cuda.destroy_event, event)
        self._events = []
        attempt(self.cuda.destroy_stream, self._stream)
        if problems:
            raise problems[0]

    def _queue(self, events: list[CudaEvent]) -> None:
        marks = iter(events)

        def mark() -> None:
            for event in marks:
                self.cuda.record(event, self._stream)
                return

        assert self._shape is not None
        mark()
        if self._input.device is not None:
            size = nbytes(self.plan.input, self._shape)
            self.cuda.to_device(self._input.device, self._input.host, size, self._stream)
        mark()
        begin = time.perf_counter()
        self._enqueue()
        self._enqueue_s = time.perf_counter() - begin
        mark()
        if self._output.device is not None:
            size = nbytes(self.plan.output, self._out_shape)
            self.cuda.to_host(self._output.host, self._output.device, size, self._stream)
        mark()

    def _prepare(self, shape: tuple[int, ...]) -> None:
        """Tell the context shapes and addresses; a graph holds both and is void with them."""
        if shape == self._shape:
            return
        self._shape = None  # until all of this worked
        self._runs = 0
        self._drop_graph()
        source, target = self.plan.input, self.plan.output
        # No local name for the context: a traceback that somebody keeps would keep it alive after close.
        if not self._context.set_input_shape(source.name, shape):
            raise self.plan.refusal(f"{self.plan.title} refused an input of {shape}")
        try:
            missing = self._context.infer_shapes()
        except RuntimeError as exc:  # shapes that no input explains
            raise self.plan.refusal(f"{self.plan.title} cannot compute the output's shape: {exc}") from exc
        out_shape = tuple(int(n) for n in self._context.get_tensor_shape(target.name))
        if missing or min(out_shape) < 1:
            raise self.plan.refusal(
                f"{self.plan.title} does not know the output's shape for an input of {shape}: {out_shape}"
            )
        self._input.reserve(nbytes(source, shape))
        self._output.reserve(nbytes(target, out_shape))
        for name, memory in ((source.name, self._input), (target.name, self._output)):
            if not self._context.set_tensor_address(name, memory.address):
                raise self.plan.refusal(f"{self.plan.title} refused the memory of {name!r}")
        if self.is_lent_memory:
            self._lend(self._context.update_device_memory_size_for_shapes())
        self._shape, self._out_shape = shape, out_shape

    def _lend(self, size: int) -> None:
        """Give the context memory for its activations, which must not be in use."""
        if self._activations is None or self._activations.nbytes < size:
            self._take_back()
            self._activations = self.cuda.malloc(max(size, 1))
        self._context.set_device_memory(self._activations.address, self._activations.nbytes)

    def _take_back(self) -> None:
        lent, self._activations = self._activations, None
        if lent is not None:
            self.cuda.free(lent)

    def _enqueue(self) -> None:
        if self._graph is not None:
            try:
                self.cuda.launch(self._graph, self._stream)
                return
            except (BuildError, MemoryError) as exc:
                self._drop_graph()
                self.graph_refused = str(exc)
        if self._context.execute_async_v3(self._stream.handle):
            return
        # NVIDIA's description of one call lets us lend what this size takes, that of another demands what the
        # largest size takes: where the first was refused, the second is tried.
        if self.is_lent_memory and self._activations is not None:
            largest = self.plan.activation_bytes
            if self._activations.nbytes < largest:
                self.cuda.synchronize(self._stream)
                self._lend(largest)
                if self._context.execute_async_v3(self._stream.handle):
                    return
        raise self.plan.refusal(f"{self.plan.title} refused to run an input of {self._shape}")

    def _record(self) -> CudaGraph | None:
        """Record the network as a graph; ``None`` with the reason in :attr:`graph_refused`.

        A refused enqueue leaves an empty recording, which would replay whatever the buffers hold: its answer
        decides. The recording is ended in every case, or the stream would be lost.
        """
        # TensorRT for RTX reports beforehand whether it can be recorded; TensorRT has no such question.
        capturable = getattr(self._context, "is_stream_capturable", None)
        if capturable is not None and not capturable(self._stream.handle):
            self.graph_refused = f"{self.plan.title} reports that this engine cannot be recorded"
            return None
        text = f"{self.plan.title} refused to be recorded as a CUDA graph"
        graph: CudaGraph | None = None
        accepted = False
        try:
            self.cuda.begin_capture(self._stream)
            try:
                accepted = self._context.execute_async_v3(self._stream.handle)
            finally:
                graph = self.cuda.end_capture(self._stream)
        except (BuildError, MemoryError) as exc:
            text = str(exc)
        finally:
            if not accepted and graph is not None:
                self.cuda.destroy_graph(graph)
                graph = None
        if graph is None:
            self.graph_refused = str(self.plan.refusal(text))
        return graph

    def _drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            self.cuda.destroy_graph(graph)
