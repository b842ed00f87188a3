"""A plan loaded by TensorRT: what goes in and out of it, and contexts to run it in."""

from __future__ import annotations

import logging
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hasn_edge.engine.compatibility import unknown_folders
from hasn_edge.engine.messages import Kept, logger_of, means_no_memory
from hasn_edge.errors import ArtifactError, BuildError, Cure, HasnEdgeError, OutputError, call, say
from hasn_edge.files import writing
from hasn_edge.spec import NetworkSpec

log = logging.getLogger(__name__)

E = TypeVar("E", bound=HasnEdgeError)

# TensorRT's own trt.nptype breaks with newer versions of NumPy on JetPack 5.
_DTYPES: dict[str, type[np.generic]] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT64": np.int64,
}
_KEPT_MESSAGES = 20
MORE_MEMORY = say("free some of the GPU's memory, or build for smaller sizes")


@dataclass(frozen=True)
class Tensor:
    """One end of an engine."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """-1 where it is dynamic."""
    minimum: tuple[int, ...]
    maximum: tuple[int, ...]
    """The range of an input's shape; of an output, its shape again."""


LARGEST_CACHE_BYTES = 1 << 30
"""What is larger is no such file: a network's kernels take some megabytes."""


class RuntimeCache:
    """The file ``<engine>.runtime-cache``. It saves time and decides nothing: every failure is silent.

    TensorRT for RTX itself refuses kernels of another GPU, version or CUDA, and compiles again; what it has
    at the end replaces them. The file is as trusted as the engine beside it: both hold code for the GPU.
    """

    def __init__(self, plan: Path) -> None:
        self.path = plan.with_name(plan.name + ".runtime-cache")
        self._known = b""

    def read(self) -> bytes:
        """Return what was kept; nothing where nothing was, or it cannot be read."""
        with suppress(OSError):
            if self.path.stat().st_size <= LARGEST_CACHE_BYTES:
                self._known = self.path.read_bytes()
        return self._known

    def keep(self, cache: bytes) -> None:
        """Write what there is now, if that is something else than what was read."""
        if cache and cache != self._known:
            # A folder that cannot be written to costs the next start some time, and nothing else.
            with suppress(OSError, OutputError), writing(self.path) as temporary:
                temporary.write_bytes(cache)
                self._known = cache


class LoadedPlan:
    """A deserialized engine. Needs the GPU's context to be current, from the beginning to :meth:`close`.

    Args:
        plan: The plan's bytes.
        trt: TensorRT, or TensorRT for RTX.
        title: Its name and version, for messages.
        name: What messages call the plan.
        graphs: Let TensorRT for RTX record and launch CUDA graphs by itself.
        eager: Let it compile the kernels for a size before that first runs, where sizes change.
        cache: What :meth:`runtime_cache` returned in an earlier process.
        again: The build that makes it again.
        host_code: The plan may hold code for the CPU, as version-compatible ones do.

    Raises:
        ArtifactError: TensorRT does not take the plan, or it is not of a super-resolution network.
        BuildError: TensorRT does not start.
    """

    def __init__(
        self,
        plan: bytes,
        trt: ModuleType,
        title: str,
        *,
        name: str,
        graphs: bool,
        eager: bool = False,
        host_code: bool = False,
        cache: bytes = b"",
        again: Cure,
    ) -> None:
        self.title = title
        self.name = name
        self.own_graphs = False
        """TensorRT records and launches CUDA graphs by itself."""
        self.kernels_of_a_size: str | None = None
        """When TensorRT for RTX compiles them; ``None`` where there is one size only, and for TensorRT."""
        self._plan = plan
        self._trt: Any = trt
        self._graphs = graphs
        self._eager = eager
        self._known_cache = cache
        self._again = again
        self._runtime_cache: Any = None
        self._messages: deque[tuple[int, str]] = deque(maxlen=_KEPT_MESSAGES)
        """With the thread that each is from: other engines of the process have the same logger."""
        self.kept = Kept()
        """What failed in our function that TensorRT calls with messages."""
        self._logger = logger_of(trt)
        self._logger.listeners.append(self._on_message)
        self._engines: list[Any] = []
        self._configs: list[Any] = []
        try:
            self._runtime: Any = trt.Runtime(self._logger)
        except TypeError as exc:  # pybind's word for a null pointer
            raise self.refusal(f"{title} cannot start on this GPU", BuildError, call("doctor")) from exc
        if host_code:
            self._runtime.engine_host_code_allowed = True
        try:
            self._deserialize()
            self.input, self.output = self._ends()
        except BaseException:
            self.close()
            raise

    def create_context(self) -> tuple[Any, bool]:
        """Return a new execution context with the engine's one profile, and whether it must be lent memory.

        One that is lent memory for its activations takes what the size in use takes. One that has its own
        takes what the largest size takes, from the beginning, which is the same where there is one size only.

        Raises:
            BuildError: no memory on the GPU for its activations, usually.
        """
        lends = hasattr(self._trt.IExecutionContext, "set_device_memory")
        dynamic = -1 in self.input.shape
        # Engines that version 0.1 built for TensorRT for RTX demand to be lent memory, as the library's own
        # words go; its release notes are less strict. What is refused one way is tried the other way.
        for managed in (dynamic, not dynamic) if lends else (False,):
            context = self._try_context(0, managed)
            if context is not None and context.active_optimization_profile < 0:
                # TensorRT 8 gives a profile to one context only: the next one needs an engine of its own.
                context = None
                self._deserialize()
                context = self._try_context(-1, managed)
            if context is not None:
                return context, managed
        raise self.refusal(f"{self.name}: no execution context; the GPU's memory may not suffice")

    @property
    def activation_bytes(self) -> int:
        """What the activations of the largest size take; asked of a TensorRT that lets us lend them."""
        engine = self._engines[0]
        return int(engine.device_memory_size_v2)

    def check(self, spec: NetworkSpec) -> None:
        """Refuse an engine whose ends are not those of the network.

        Raises:
            ArtifactError: it takes or gives something else.
        """
        x, y = self.input, self.output
        pixels = x.dtype == np.uint8
        good = x.dtype == y.dtype and x.dtype in (np.float32, np.uint8) and len(x.shape) == len(y.shape) == 4
        channels = 3 if pixels else 1
        if not good or any(end.shape[channels] not in (-1, spec.channels) for end in (x, y)):
            raise self._foreign(
                f"expected float32 (N, {spec.channels}, H, W) or uint8 (N, H, W, {spec.channels}) in and "
                f"out, got {x.dtype} {x.shape} in and {y.dtype} {y.shape} out; it is no engine that "
                "hasn-edge built for this network"
            )

    def refusal(self, text: str, kind: type[E] = BuildError, *cures: Cure) -> E:  # type: ignore[assignment]
        """Return an error with what TensorRT logged since the last one."""
        mine = [message for thread, message in self._messages if thread == threading.get_ident()]
        messages = list(dict.fromkeys(mine or (message for _, message in self._messages)))
        self._messages.clear()
        if any(map(means_no_memory, messages)):
            cures = (*cures, MORE_MEMORY)
        if messages:
            text = "\n  ".join(
                [f"{text}; messages of {self.title}:", *(m.replace("\n", "\n    ") for m in messages)]
            )
        return kind(text, *cures)

    def runtime_cache(self) -> bytes:
        """Return what TensorRT for RTX compiled for this GPU; TensorRT's plans hold theirs: nothing."""
        serialized = None if self._runtime_cache is None else self._runtime_cache.serialize()
        return b"" if serialized is None else bytes(serialized)

    def close(self) -> None:
        """Let go of TensorRT's objects, children first; contexts must be gone. Safe to call twice."""
        self._configs.clear()
        self._runtime_cache = None
        self._engines.clear()
        self._runtime = None
        if self._on_message in self._logger.listeners:
            self._logger.listeners.remove(self._on_message)

    def _on_message(self, severity: str, text: str) -> None:
        if severity == "VERBOSE":
            return
        with self.kept.keeping():
            problem = severity in ("INTERNAL_ERROR", "ERROR", "WARNING")
            if problem:
                self._messages.append((threading.get_ident(), text))
            log.info("%s%s", f"{severity.lower()}: " if problem else "", text)

    def _deserialize(self) -> None:
        engine = self._runtime.deserialize_cuda_engine(self._plan)
        if engine is None:
            raise self.refusal(
                f"{self.name}: {self.title} does not load this engine: it is damaged, or was built by "
                f"another version or for another GPU{unknown_folders(self._again)}",
                ArtifactError,
                self._again,
            )
        self._engines.append(engine)

    def _try_context(self, index: int, managed: bool) -> Any:
        engine = self._engines[index]
        config = self._runtime_config(engine)
        if not managed:
            return engine.create_execution_context(*(() if config is None else (config,)))
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if config is None:
            return engine.create_execution_context(strategy)
        config.set_execution_context_allocation_strategy(strategy)
        return engine.create_execution_context(config)

    def _runtime_config(self, engine: Any) -> Any:
        """Return how TensorRT for RTX shall run; ``None`` for TensorRT."""
        if not hasattr(self._trt, "IRuntimeCache"):
            return None
        config = engine.create_runtime_config()
        self._configs.append(config)
        if self._runtime_cache is None:
            self._runtime_cache = config.create_runtime_cache()
            # It refuses what is damaged, or of another GPU or version, and then begins empty.
            if self._known_cache and not self._runtime_cache.deserialize(self._known_cache):
                self._runtime_cache.reset()
        config.set_runtime_cache(self._runtime_cache)
        if -1 in self.input.shape:
            self.kernels_of_a_size = "general ones run until they are compiled"
            if self._eager:
                before = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
                config.dynamic_shapes_kernel_specialization_strategy = before
                self.kernels_of_a_size = "compiled before it runs"
        if self._graphs:
            # Kernels for a shape are compiled while others already run: a graph that we recorded would keep
            # those others for ever, one that it records itself does not.
            wanted = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            config.cuda_graph_strategy = wanted
            self.own_graphs = config.cuda_graph_strategy == wanted
        return config

    def _ends(self) -> tuple[Tensor, Tensor]:
        # No frame that raises holds an engine: its traceback would keep it alive longer than TensorRT.
        found = self._tensors()
        inputs = [self._tensor(*facts) for is_input, *facts in found if is_input]
        outputs = [self._tensor(*facts) for is_input, *facts in found if not is_input]
        if len(inputs) != 1 or len(outputs) != 1:
            raise self._foreign(
                f"expected one input and one output, got {len(inputs)} and {len(outputs)}; it is no engine "
                "that hasn-edge built"
            )
        return inputs[0], outputs[0]

    def _tensors(self) -> list[tuple[Any, ...]]:
        """Return of each end: whether it is an input, its name, type, shape, and the range of its shape."""
        engine = self._engines[0]
        found = []
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            is_input = engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
            shape = _plain(engine.get_tensor_shape(name))
            low = high = shape
            if is_input and -1 in shape:
                low, _, high = (_plain(dims) for dims in engine.get_tensor_profile_shape(name, 0))
            found.append((is_input, name, engine.get_tensor_dtype(name).name, shape, low, high))
        return found

    def _tensor(self, name: str, kind: str, *shapes: tuple[int, ...]) -> Tensor:
        if kind not in _DTYPES:
            raise self._foreign(f"{name!r} has type {kind}, which no array has")
        return Tensor(name, np.dtype(_DTYPES[kind]), *shapes)

    def _foreign(self, text: str) -> ArtifactError:
        """Return the error of a plan that is not what its sidecar states; its cure is to build it again."""
        return ArtifactError(f"{self.name}: {text}{unknown_folders(self._again)}", self._again)


def view(memory: NDArray[np.uint8], tensor: Tensor, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the beginning of ``memory`` as an array of the tensor's type."""
    return memory[: nbytes(tensor, shape)].view(tensor.dtype).reshape(shape)


def nbytes(tensor: Tensor, shape: tuple[int, ...]) -> int:
    """Return the size of the tensor in bytes for one shape."""
    return int(np.prod(shape, dtype=np.int64)) * tensor.dtype.itemsize


def _plain(dims: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in dims)
