"""Engines in TensorRT and TensorRT for RTX, on an NVIDIA GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hasn_edge.artifact import Artifact
from hasn_edge.engine.capabilities import load_tensorrt
from hasn_edge.engine.compatibility import rebuild, unknown_folders
from hasn_edge.engine.engine_file import read_plan
from hasn_edge.engine.target import EngineRuntime
from hasn_edge.errors import ArtifactError, BuildError, ConfigError, ShapeError, say
from hasn_edge.files import after_failure
from hasn_edge.images.arrays import Float32, UInt8
from hasn_edge.runtime.cuda import choose
from hasn_edge.runtime.cuda.backend import CudaBackend
from hasn_edge.runtime.session import Pending, Session, Timing, out_of_memory
from hasn_edge.runtime.tensorrt.in_flight import InFlight
from hasn_edge.runtime.tensorrt.plan import MORE_MEMORY, LoadedPlan, RuntimeCache

T = TypeVar("T")

MAXIMUM_IN_FLIGHT = 16


class TensorRTSession(Session):
    """Runs an engine of TensorRT 8.5 to 11 or of TensorRT for RTX.

    An input is copied to page-locked memory, from there to the GPU, the network runs, and the output takes
    the same way back; on a GPU that shares the CPU's memory (Jetson) nothing is copied between the two.
    All that is queued in a stream of its own, and from the second input of a size on the network is launched
    as a CUDA graph. With several in-flight executions the next input is copied while the one before it is
    computed. Kernels that TensorRT for RTX compiles meanwhile are kept in its runtime cache,
    ``<engine>.runtime-cache``, and loaded the next time.

    Use :func:`~hasn_edge.runtime.open.open_session`, which also refuses engines of another GPU or version and
    compares an output with the one that was stored when the engine was built.

    Args:
        artifact: The engine.
        cuda: ``"torch"``, ``"cuda-python"``, ``"pycuda"``, or a backend that the caller closes; ``None`` for
            :func:`~hasn_edge.runtime.cuda.choose`'s order.
        in_flight: Inputs in flight, each with memory of its own for the network's activations: from TensorRT
            10.3 on what the sizes in use take, before what the engine's largest size takes.
        graphs: Record CUDA graphs where the backend can.
        eager: Where TensorRT for RTX runs a range of sizes, let it compile the kernels for a size before that
            runs, not beside the first runs: the beginning is slow, and what is timed is what stays.
        mapped: Let the GPU use the CPU's memory instead of copying; ``None`` for integrated GPUs only.
        device_index: Number of the GPU among those that ``CUDA_VISIBLE_DEVICES`` leaves.

    Raises:
        ArtifactError: no engine, or TensorRT does not take it.
        MissingDependencyError: TensorRT, or the CUDA backend that was named, is not installed.
        NoCudaError: no CUDA backend works.
        BuildError: TensorRT or CUDA does not start, or the GPU's memory does not suffice.
    """

    backend = "tensorrt"

    def __init__(
        self,
        artifact: Artifact,
        *,
        cuda: CudaBackend | str | None = None,
        in_flight: int = 1,
        graphs: bool = True,
        eager: bool = False,
        mapped: bool | None = None,
        device_index: int = 0,
    ) -> None:
        if not 1 <= in_flight <= MAXIMUM_IN_FLIGHT:
            raise ConfigError(f"in_flight is {in_flight}; expected 1 to {MAXIMUM_IN_FLIGHT}")
        plan, header = read_plan(artifact.path)
        trt, capabilities = load_tensorrt(header.runtime, needed_for="Running an engine")
        self._owns_cuda = cuda is None or isinstance(cuda, str)
        self._cuda = choose(cuda, index=device_index) if cuda is None or isinstance(cuda, str) else cuda
        self._mapped = self._cuda.integrated if mapped is None else mapped
        self._graphs = graphs
        self.in_flight = in_flight
        self._cache = RuntimeCache(artifact.path)
        self._plan: LoadedPlan | None = None
        self._executions: list[InFlight] = []
        self._free: deque[InFlight] = deque()
        self._busy: deque[Pending[Any]] = deque()
        self._timed = False
        try:
            with self._cuda.activate():
                self._free_before = self._cuda.free_bytes()
                self._plan = LoadedPlan(
                    plan,
                    trt,
                    capabilities.title,
                    name=str(artifact.path),
                    graphs=graphs,
                    eager=eager,
                    host_code=artifact.engine.flags.version_compatible,
                    cache=self._cache.read() if header.runtime is EngineRuntime.RTX else b"",
                    again=rebuild(artifact, again=True),
                )
                self._plan.check(artifact.spec)
                self._describe(artifact, self._plan)
                for _ in range(in_flight):
                    execution = InFlight(self._cuda, self._plan, graphs=graphs, mapped=self._mapped)
                    self._executions.append(execution)
                    self._free.append(execution)
                self._plan.kept.raise_first()
        except MemoryError as exc:
            with after_failure():
                self._close()
            raise BuildError(f"{artifact.path}: {exc}", MORE_MEMORY) from exc
        except BaseException:
            with after_failure():
                self._close()
            raise

    def times(self, x: Float32 | UInt8) -> Timing:
        """Run one input as :meth:`run` or :meth:`run_pixels` and return where the time went.

        The first two calls of a size are slower: TensorRT sets itself up, and a graph is recorded.

        Args:
            x: As for :meth:`run`, or as for :meth:`run_pixels`.

        Raises:
            HasnEdgeError: as :meth:`run`.
        """
        if self.batch == 1 and getattr(x, "shape", ())[:1] not in ((), (1,)):
            raise ShapeError(f"{self.backend}: times takes one image of this engine, got {len(x)}")
        while self._busy:
            self._finish_oldest()
        self._timed = True
        try:
            total_s = super().times(x).total_s
        finally:
            self._timed = False
        return self._guard(x.shape, lambda: self._free[-1].timing(total_s))

    def facts(self) -> dict[str, Any]:
        """Return how this session runs, as plain JSON values; graphs are known after two runs of a size.

        ``gpu_memory_bytes`` is how much less is free on the GPU than before it was opened: this session's, as
        far as nothing else changed meanwhile. It is the peak, for buffers grow and are kept.
        """
        self._check_open()
        assert self._plan is not None
        with self._cuda.activate():
            taken = self._free_before - self._cuda.free_bytes()
        refused = next(
            (execution.graph_refused for execution in self._executions if execution.graph_refused), None
        )
        lent = all(execution.is_lent_memory for execution in self._executions)
        if not self._graphs:
            refused = "not asked for"
        elif self._plan.own_graphs:
            refused = None
        elif not self._cuda.graphs:
            refused = f"{self._cuda.name} has no CUDA graphs"
        return {
            "runtime": self._plan.title,
            "cuda": self._cuda.name,
            "gpu_index": self._cuda.index,
            "gpu_memory_bytes": taken,
            "mapped": self._mapped,
            "memory": "mapped, nothing copied" if self._mapped else "page-locked, copied",
            "activations": f"of the {'sizes in use' if lent else 'largest size'}",
            "kernels": self._plan.kernels_of_a_size,
            "graphs": refused is None,
            "graphs_reason": refused,
            "in_flight": self.in_flight,
            "pixels": self.pixels,
        }

    def _run(self, x_NCHW: Float32) -> Float32:
        return self._begin(x_NCHW).result()

    def _run_pixels(self, x_NHWC: UInt8) -> UInt8:
        return self._begin_pixels(x_NHWC).result()

    def _begin(self, x_NCHW: Float32) -> Pending[Float32]:
        return self._start(x_NCHW)

    def _begin_pixels(self, x_NHWC: UInt8) -> Pending[UInt8]:
        return self._start(x_NHWC)

    def _start(self, x: NDArray[Any]) -> Pending[Any]:
        if not self._free:
            self._finish_oldest()
        execution = self._free.popleft()
        try:
            self._guard(x.shape, lambda: execution.start(x, timed=self._timed))
        except BaseException:
            self._free.append(execution)
            raise
        shape = x.shape

        def wait() -> NDArray[Any]:
            with suppress(ValueError):  # the oldest is taken out
                self._busy.remove(pending)
            try:
                output = self._guard(shape, execution.finish)
                if self._plan is not None:
                    self._plan.kept.raise_first()
                return output
            finally:
                self._free.append(execution)

        pending = Pending(wait)
        self._busy.append(pending)
        return pending

    def _finish_oldest(self) -> None:
        with suppress(Exception):  # kept there, like an output, until it is asked for
            self._busy.popleft().result()

    def _guard(self, shape: tuple[int, ...], call: Callable[[], T]) -> T:
        """Call with the GPU's context current; memory that does not suffice gets the usual words."""
        try:
            with self._cuda.activate():
                return call()
        except MemoryError as exc:
            height, width = shape[1:3] if self.pixels else shape[2:4]
            raise out_of_memory(self.backend, (shape[0], height, width), exc) from exc

    def _describe(self, artifact: Artifact, plan: LoadedPlan) -> None:
        """Take from the plan what the engine takes; refuse one whose sidecar states something else."""
        end = plan.input
        self.pixels = end.dtype == np.uint8
        rows = slice(1, 3) if self.pixels else slice(2, 4)
        low, high = end.minimum, end.maximum
        smallest, largest = (low[rows][0], low[rows][1]), (high[rows][0], high[rows][1])
        size = smallest if smallest == largest else None
        if artifact.size not in (None, size) or artifact.pixels != self.pixels:
            kind, again = "uint8" if artifact.pixels else "float32", rebuild(artifact, again=True)
            raise ArtifactError(
                f"{artifact.path}: the engine takes {size or 'any'} pixels of {end.dtype}, its sidecar "
                f"states {artifact.size or 'any'} of {kind}{unknown_folders(again)}",
                again,
            )
        super().__init__(
            artifact.spec,
            precision=artifact.precision,
            device=f"cuda:{self._cuda.index}",
            size=size,
            batch=low[0] if low[0] == high[0] else None,
        )
        minimum = artifact.spec.size.minimum
        self.smallest = (max(smallest[0], minimum), max(smallest[1], minimum))
        self.largest = largest
        self._batches = (low[0], high[0])

    def _check_size(self, count: int, height: int, width: int) -> None:
        low, high = self._batches
        if self.batch is None and not low <= count <= high:
            raise ShapeError(
                f"{self.backend}: this engine takes {low} to {high} images at a time, got {count}",
                say("call run with other batches"),
            )
        super()._check_size(count, height, width)

    def _close(self) -> None:
        """Wait, then free: graphs, contexts, memory and streams, the engine, TensorRT, the GPU's context."""
        problem: Exception | None = None
        try:
            with self._cuda.activate():
                while self._busy:
                    self._finish_oldest()
                while self._executions:
                    try:
                        self._executions.pop().close()
                    except Exception as exc:
                        problem = problem or exc
                self._free.clear()
                if self._plan is not None:
                    self._cache.keep(self._plan.runtime_cache())
                    self._plan.close()
                    self._plan = None
        finally:
            if self._owns_cuda:
                self._cuda.close()
        if problem is not None:
            raise problem
