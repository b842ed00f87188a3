"""TensorRT over a fake GPU: repeats pixels instead of running a network, and enforces the rules around one.

A "plan" is a real header followed by JSON that says what the engine takes. Only the names that TensorRT 8.5
to 11 share are here, and those of TensorRT for RTX where the plan is one of its: a test compares them with
the recorded names of each version.
"""
# ruff: noqa: C901 - a module made by one function

from __future__ import annotations

import enum
import importlib.machinery
import json
import struct
import types
import weakref
from typing import Any

import numpy as np

from tests.support.fake_gpu import FakeGpu, Op

KERNEL_SECONDS = 2e-3
"""What one image takes on the fake GPU's clock."""

_NUMPY = {"FLOAT": np.float32, "UINT8": np.uint8, "HALF": np.float16}


def make_plan(
    *,
    minimum: tuple[int, ...] = (1, 3, 15, 15),
    maximum: tuple[int, ...] = (4, 3, 64, 80),
    dtype: str = "FLOAT",
    scale: int = 4,
    behaviour: str = "nearest",
    version: tuple[int, int, int, int] = (10, 3, 0, 26),
    rtx: bool = False,
    **more: Any,
) -> bytes:
    """Return a plan; ``behaviour``: nearest, zeros, nan, dark or foreign (does not load)."""
    shape = [low if low == high else -1 for low, high in zip(minimum, maximum, strict=True)]
    facts = {
        "shape": shape,
        "minimum": minimum,
        "maximum": maximum,
        "dtype": dtype,
        "scale": scale,
        "behaviour": behaviour,
        **more,
    }
    body = json.dumps(facts).encode().ljust(2000)
    total = 64 + len(body)
    header = bytearray(64)
    header[:4] = b"vtrt" if rtx else b"ftrt"
    struct.pack_into("<Q", header, 16, total)
    if version[:2] == (8, 5):  # which does not say so
        header[:4], header[8] = b"ptrt", 232
    else:
        header[24:28] = bytes(version)
    return bytes(header) + body


def make_tensorrt(gpu: FakeGpu, *, version: str = "10.3.0", rtx: bool = False) -> Any:
    """Return a module. Knobs: ``refuse`` (names of calls that return false), ``contexts`` (how many there is
    memory for), ``live`` (objects)."""
    trt: Any = types.ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    trt.__spec__ = importlib.machinery.ModuleSpec(trt.__name__, None)  # who looks for it finds it
    trt.__version__ = version
    trt.refuse = set()
    trt.contexts = 100
    trt.live = []
    trt.capture_attempts = 0
    trt.kernels_compiled = 0
    trt.specialization = []
    trt.made = 0
    trt.first_logger = None
    numbers = tuple(map(int, version.split(".")))
    old = numbers[0] == 8 and not rtx
    lends = rtx or numbers >= (10, 3)

    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class ILogger:
        def __init__(self) -> None:
            self.made = True

    def log(logger: Any, severity: Severity, text: str) -> None:
        assert logger.made, "ILogger.__init__ was not called"
        logger.log(severity, text)

    def use_logger(logger: Any) -> None:
        """Keep a plain pointer to the first one, as the library does."""
        if trt.first_logger is None:
            trt.first_logger = weakref.ref(logger)
        if trt.first_logger() is None:
            gpu.violations.append("the first logger was freed: the next call that uses it is a crash")
        elif trt.first_logger() is not logger:
            log(
                logger, Severity.WARNING, "The logger passed into createInferRuntime differs from one already"
            )

    class Counted:
        """Know what is alive; refuse to die before the children."""

        def __init__(self, *parents: Any) -> None:
            gpu.require_current(type(self).__name__)
            self._parents = tuple(parent.name for parent in parents)
            trt.made += 1
            self.name = f"{type(self).__name__}{trt.made}"
            trt.live.append((self.name, self._parents))

        def __del__(self) -> None:
            if not hasattr(self, "name"):
                return
            if any(self.name in parents for _, parents in trt.live):
                gpu.violations.append(f"{self.name} is destroyed before what was made of it")
            gpu_current = gpu._current.get(__import__("threading").get_ident())
            if not gpu_current:
                gpu.violations.append(f"{self.name} is destroyed without a current context")
            trt.live.remove((self.name, self._parents))

    class Runtime(Counted):
        def __init__(self, logger: Any) -> None:
            if "Runtime" in trt.refuse:
                raise TypeError("pybind11::init(): factory function returned nullptr")
            super().__init__()
            use_logger(logger)
            self._logger = logger
            self._host_code = False

        @property
        def engine_host_code_allowed(self) -> bool:
            return self._host_code

        @engine_host_code_allowed.setter
        def engine_host_code_allowed(self, value: bool) -> None:
            self._host_code = value

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            log(self._logger, Severity.INFO, "Loaded engine size: 0 MiB")
            facts = json.loads(plan[64:])
            if facts["behaviour"] == "foreign":
                log(
                    self._logger,
                    Severity.ERROR,
                    "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is "
                    "generated on an incompatible device, expecting compute 8.9 got compute 8.7)",
                )
                return None
            if facts.get("host_code") and not self._host_code:
                log(self._logger, Severity.ERROR, "engine_host_code_allowed is not set")
                return None
            return ICudaEngine(self, facts)

    class ICudaEngine(Counted):
        def __init__(self, runtime: Any, facts: dict[str, Any]) -> None:
            super().__init__(runtime)
            self._facts, self._logger = facts, runtime._logger
            self._profile_taken = False
            scale, shape = facts["scale"], facts["shape"]
            rows = (1, 2) if facts["dtype"] == "UINT8" else (2, 3)
            out = [n * scale if i in rows and n > 0 else n for i, n in enumerate(shape)]
            self._tensors = [("input", shape), ("output", facts.get("output_shape", out))]
            self._tensors += [("more", shape)] * facts.get("more_outputs", 0)

        @property
        def num_io_tensors(self) -> int:
            return len(self._tensors)

        def get_tensor_name(self, index: int) -> str:
            return self._tensors[index][0]

        def get_tensor_mode(self, name: str) -> Any:
            return trt.TensorIOMode.INPUT if name == "input" else trt.TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name: str) -> Any:
            key = "dtype" if name == "input" else "output_dtype"
            return trt.DataType[self._facts.get(key, self._facts["dtype"])]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(dict(self._tensors)[name])

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
            assert name == "input", "only inputs have a profile"
            assert profile_index == 0
            low, high = self._facts["minimum"], self._facts["maximum"]
            return [tuple(low), tuple(low), tuple(high)]

        if lends:

            @property
            def device_memory_size_v2(self) -> int:
                return activations(self._facts, self._facts["maximum"])

        def create_execution_context(self, how: Any = None) -> Any:
            config = how if rtx and isinstance(how, IRuntimeConfig) else None
            strategy = how if config is None else config._allocation
            if strategy is None and lends:
                strategy = trt.ExecutionContextAllocationStrategy.STATIC
            lent = strategy is not None and strategy.name == "USER_MANAGED"
            assert lent or strategy is None or strategy.name == "STATIC"
            if self._facts.get("require_user_allocation") and not lent:
                text = "Engine was built with kREQUIRE_USER_ALLOCATION. Execution context creation requires"
                log(self._logger, Severity.ERROR, f"{text} ExecutionContextAllocationStrategy::kUSER_MANAGED")
                return None
            if "USER_MANAGED" in trt.refuse and lent:
                log(self._logger, Severity.ERROR, "kUSER_MANAGED is not supported")
                return None
            there = sum(name.startswith("IExecutionContext") for name, _ in trt.live)
            if "create_execution_context" in trt.refuse or there == trt.contexts:
                log(self._logger, Severity.ERROR, "Requested amount of GPU memory could not be allocated")
                return None
            own = None if lent else gpu.reserve(activations(self._facts, self._facts["maximum"]))
            if own is None and not lent:
                log(self._logger, Severity.ERROR, "Requested amount of GPU memory could not be allocated")
                return None
            profile = -1 if old and self._profile_taken and -1 in self._facts["shape"] else 0
            if profile < 0:
                text = "Profile 0 has been chosen by another IExecutionContext. Use another profileIndex"
                log(self._logger, Severity.ERROR, text)
            self._profile_taken = True
            strategy = getattr(config, "_kernels", None)
            trt.specialization.append(strategy and strategy.name)
            return IExecutionContext(self, profile, config, own)

        if rtx:

            def create_runtime_config(self) -> Any:
                return IRuntimeConfig(self)

    class IRuntimeConfig(Counted):
        _strategy = 0
        _allocation: Any = None
        _kernels: Any = None
        _cache: Any = None

        def __init__(self, engine: Any) -> None:
            super().__init__(engine)
            self._engine = engine

        def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
            assert isinstance(strategy, trt.ExecutionContextAllocationStrategy)
            self._allocation = strategy

        def create_runtime_cache(self) -> Any:
            return IRuntimeCache(self._engine)

        def set_runtime_cache(self, cache: Any = None) -> bool:
            assert isinstance(cache, IRuntimeCache)
            self._cache = cache
            return True

        @property
        def dynamic_shapes_kernel_specialization_strategy(self) -> Any:
            return self._kernels

        @dynamic_shapes_kernel_specialization_strategy.setter
        def dynamic_shapes_kernel_specialization_strategy(self, value: Any) -> None:
            assert isinstance(value, trt.DynamicShapesKernelSpecializationStrategy)
            self._kernels = value

        @property
        def cuda_graph_strategy(self) -> Any:
            return self._strategy

        @cuda_graph_strategy.setter
        def cuda_graph_strategy(self, value: Any) -> None:
            assert isinstance(value, trt.CudaGraphStrategy)
            if "cuda_graph_strategy" not in trt.refuse:
                self._strategy = value

    class IRuntimeCache(Counted):
        """Kernels of the fake are the shapes that ran."""

        def __init__(self, engine: Any) -> None:
            super().__init__(engine)
            self.kernels: list[str] = []

        def deserialize(self, blob: bytes) -> bool:
            head, _, shapes = bytes(blob).partition(b"|")
            if head != b"fake " + version.encode():
                return False
            self.kernels = shapes.decode().split(";")
            return True

        def reset(self) -> bool:
            self.kernels = []
            return True

        def serialize(self) -> Any:
            gpu.require_current("IRuntimeCache.serialize")
            return memoryview(b"fake %s|%s" % (version.encode(), ";".join(self.kernels).encode()))

    class IExecutionContext(Counted):
        def __init__(self, engine: Any, profile: int, config: Any, own: Any) -> None:
            cache = getattr(config, "_cache", None)
            super().__init__(engine, *([] if cache is None else [cache]))
            self._own, self._lent, self._needs = own, None, 0
            self._kernels = [] if cache is None else cache.kernels
            self._facts, self._logger, self._profile = engine._facts, engine._logger, profile
            self._config = config
            self._shape: tuple[int, ...] | None = None
            self._addresses: dict[str, int] = {}
            self._ran: set[tuple[int, ...]] = set()
            self._stream: int | None = None

        def __del__(self) -> None:
            if getattr(self, "_own", None) is not None:
                gpu.free(self._own)
            super().__del__()

        @property
        def active_optimization_profile(self) -> int:
            return self._profile

        if lends:

            def update_device_memory_size_for_shapes(self) -> int:
                self._idle("update_device_memory_size_for_shapes")
                assert self._own is None, "the context has memory of its own"
                assert self._shape is not None, "all shapes come first"
                self._needs = activations(self._facts, self._shape)
                return self._needs

            def set_device_memory(self, memory: int, size: int) -> None:
                self._idle("set_device_memory")
                assert self._own is None, "the context has memory of its own"
                assert memory % 256 == 0
                gpu.find(memory, size, host=False)
                full = activations(self._facts, self._facts["maximum"])
                if "set_device_memory" in trt.refuse and size < full:
                    text = f"{size} is less than the engine's device memory size {full}"
                    log(self._logger, Severity.ERROR, text)
                    return
                self._lent = (memory, size)

        def _refuses(self, name: str, text: str = "") -> bool:
            gpu.require_current(name)
            if name in trt.refuse or text:
                log(self._logger, Severity.ERROR, f"IExecutionContext::{name}: {text or 'Internal Error'}")
                return True
            return False

        def _idle(self, what: str) -> None:
            if self._stream is not None and self._stream in gpu.streams and gpu.streams[self._stream].ops:
                raise gpu.wrong(f"{what} while the context has work under way")

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            self._idle("set_input_shape")
            assert name == "input"
            assert type(shape) is tuple
            low, high = self._facts["minimum"], self._facts["maximum"]
            good = len(shape) == len(low) and all(
                a <= n <= b for a, n, b in zip(low, shape, high, strict=True)
            )
            if self._profile < 0 or not good:
                self._refuses("set_input_shape", f"{shape} does not satisfy the optimization profile")
                return False
            if self._refuses("set_input_shape"):
                return False
            self._shape = shape
            return True

        def infer_shapes(self) -> list[str]:
            gpu.require_current("infer_shapes")
            if "infer_shapes raises" in trt.refuse:
                raise RuntimeError("Failed to infer shapes")
            return ["input"] if self._shape is None or "infer_shapes" in trt.refuse else []

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            if self._shape is None:
                return (-1,) * 4
            if name == "input":
                return self._shape
            rows = (1, 2) if self._facts["dtype"] == "UINT8" else (2, 3)
            scale = self._facts["scale"]
            return tuple(n * scale if i in rows else n for i, n in enumerate(self._shape))

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self._idle("set_tensor_address")
            assert type(memory) is int, "an address is an int"
            if memory % 256:
                self._refuses("set_tensor_address", "address is not aligned to 256 bytes")
                return False
            if self._refuses("set_tensor_address"):
                return False
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            assert type(stream_handle) is int, "a stream handle is an int"
            stream = gpu.stream(stream_handle)
            capturing = stream.capture is not None
            trt.capture_attempts += capturing
            if self._shape is None or set(self._addresses) != {"input", "output"}:
                self._refuses("execute_async_v3", "shapes or addresses are not set")
                return False
            if gpu.last_error:
                self._refuses("execute_async_v3", f"Cuda Runtime ({gpu.last_error})")
                return False
            if capturing and self._shape not in self._ran:
                stream.invalid = True  # the first run of a shape allocates, which a recording forbids
                self._refuses("execute_async_v3", "first enqueue of a shape inside a stream capture")
                return False
            if capturing and "execute_async_v3 in capture" in trt.refuse:
                self._refuses("execute_async_v3", "unjoined work, cannot be captured")
                return False
            if self._refuses("execute_async_v3"):
                return False
            if self._own is None and (self._lent is None or self._lent[1] < self._needs or not self._needs):
                self._refuses("execute_async_v3", "Device memory of the context is not set")
                return False
            self._stream = stream_handle
            shape, out_shape = self._shape, self.get_tensor_shape("output")
            dtype = _NUMPY[self._facts["dtype"]]
            size, out_size = (int(np.prod(s)) * np.dtype(dtype).itemsize for s in (shape, out_shape))
            a, source = gpu.find(self._addresses["input"], size, host=False)
            b, target = gpu.find(self._addresses["output"], out_size, host=False)

            scratch = self._own or gpu.find(*self._lent, host=False)[0]
            if str(shape) not in self._kernels:
                self._kernels.append(str(shape))
                trt.kernels_compiled += 1

            facts, ran = self._facts, self._ran  # a graph may outlive its context

            def run() -> None:
                if a.freed or b.freed or scratch.freed:
                    raise gpu.wrong("the network runs with memory that was freed")
                x = source.view(dtype).reshape(shape)
                target.view(dtype).reshape(out_shape)[...] = _compute(x, facts)
                ran.add(shape)

            gpu.queue(stream_handle, Op(run, KERNEL_SECONDS * shape[0], (a, b, scratch), "network"))
            gpu.calls.append("network")
            return True

        if rtx:

            def is_stream_capturable(self, stream: int) -> bool:
                gpu.stream(stream)
                return "is_stream_capturable" not in trt.refuse

    trt.ILogger, trt.Runtime, trt.ICudaEngine = ILogger, Runtime, ICudaEngine
    trt.IExecutionContext = IExecutionContext
    trt.TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT")
    trt.DataType = enum.Enum("DataType", "FLOAT HALF INT8 INT32 BOOL UINT8 FP8")
    if numbers >= (10,) or rtx:
        trt.ExecutionContextAllocationStrategy = enum.Enum(
            "ExecutionContextAllocationStrategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED"
        )
    if rtx:
        trt.CudaGraphStrategy = enum.Enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")
        trt.DynamicShapesKernelSpecializationStrategy = enum.Enum(
            "DynamicShapesKernelSpecializationStrategy", "LAZY EAGER NONE"
        )
        trt.IRuntimeConfig, trt.IRuntimeCache = IRuntimeConfig, IRuntimeCache
    return trt


def activations(facts: dict[str, Any], shape: tuple[int, ...]) -> int:
    """Return the bytes that the fake's network takes between input and output."""
    return int(np.prod(shape)) * int(facts.get("activation_bytes", 8))


def _compute(x: np.ndarray, facts: dict[str, Any]) -> np.ndarray:
    first = 1 if facts["dtype"] == "UINT8" else 2
    y = x.repeat(facts["scale"], axis=first).repeat(facts["scale"], axis=first + 1)
    if facts["behaviour"] == "zeros":
        return np.zeros_like(y)
    if facts["behaviour"] == "nan":
        return np.full_like(y, np.nan)
    return (
        y // 2
        if facts["behaviour"] == "dark" and y.dtype == np.uint8
        else (y * np.float32(0.9) if facts["behaviour"] == "dark" else y)
    )
