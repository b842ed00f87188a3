"""Builder and configuration of the fake TensorRT: the rules that TensorRT keeps, and nothing compiled."""

from __future__ import annotations

import json
import os
import signal
import weakref
from typing import Any

from tests.support.fake_network import Layer, Network, Parser, ParserError, Tensor
from tests.support.fake_strict import Strict


def _call(function: Any, *args: Any) -> Any:
    """Call a method of ours as the real bindings do: what it raises is lost, and the answer a false one."""
    try:
        return function(*args)
    except BaseException:
        return None


class Logger(Strict):
    def __init__(self) -> None:
        self._ready = True


class Monitor(Strict):
    def __init__(self) -> None:
        self._ready = True


class Calibrator(Strict):
    def __init__(self) -> None:
        self._ready = True


class Builder(Strict):
    def __init__(self, logger: Any) -> None:
        assert getattr(logger, "_ready", False), "the logger's own __init__ was not called"
        if not self._trt.device:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = weakref.ref(logger)
        if self._trt.first_logger is None:
            self._trt.first_logger = self._logger  # the library keeps a plain pointer, for all that follow
        first = self._trt.first_logger()
        assert first is not None, "the first logger was freed: the next call that uses it is a crash"
        if first is not logger:
            text = "The logger passed into createInferBuilder differs from one already registered"
            logger.log(self._trt.ILogger.Severity.WARNING, text)

    def _do_create_network(self, flags: int = 0) -> Any:
        known = {int(flag) for flag in getattr(self._trt, "NetworkDefinitionCreationFlag", ())}
        assert all(bit in known for bit in range(8) if flags >> bit & 1), f"unknown flags {flags:b}"
        self._trt.calls.append(("create_network", flags))
        return self._trt.INetworkDefinition(flags)

    def _do_create_builder_config(self) -> Any:
        return self._trt.IBuilderConfig()

    def _do_create_optimization_profile(self) -> Any:
        return self._trt.IOptimizationProfile()

    def _do_build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        logger = self._logger()
        assert logger is not None, "the logger was freed before the build"
        self._trt.calls.append(("build", config._flags.copy()))
        for severity, text in self._trt.chatter:
            _call(logger.log, self._trt.ILogger.Severity[severity], text)
        problem = network._problem(config) or config._problem() or self._trt.refuses
        if problem is None and config._calibrator is not None:
            problem = config._calibrate(network)
        if problem is not None:
            _call(logger.log, self._trt.ILogger.Severity.ERROR, problem)
            return None
        if config._timing is not None:
            config._timing._bytes += b"+timings"
        if config._monitor is not None and not _run(config._monitor):
            return None
        return bytes(self._trt.plan)


class Profile(Strict):
    def __init__(self) -> None:
        self._shapes: dict[str, Any] = {}

    def _do_set_shape(self, name: str, low: Any, middle: Any, high: Any) -> None:
        assert all(1 <= a <= b <= c for a, b, c in zip(low, middle, high, strict=True))
        assert all(type(n) is int for shape in (low, middle, high) for n in shape)
        self._shapes[name] = (low, middle, high)


class TimingCache(Strict):
    def __init__(self, content: bytes) -> None:
        self._bytes = content

    def _do_serialize(self) -> bytes:
        return self._bytes


class Config(Strict):
    def __init__(self) -> None:
        self._flags = [self._trt.BuilderFlag.TF32]
        self._profiles: list[Any] = []
        self._pools: dict[str, int] = {}
        self._timing: Any = None
        self._monitor: Any = None
        self._calibrator: Any = None
        self._calibration_profile: Any = None
        self._capabilities: dict[int, Any] = {}
        self._count = 1
        self._trt.config = self

    def _do_set_flag(self, flag: Any) -> None:
        assert isinstance(flag, self._trt.BuilderFlag)
        if flag not in self._flags:
            self._flags.append(flag)

    def _do_clear_flag(self, flag: Any) -> None:
        self._flags = [f for f in self._flags if f is not flag]

    def _do_set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        assert isinstance(pool, self._trt.MemoryPoolType)
        self._pools[pool.name] = pool_size

    def _do_add_optimization_profile(self, profile: Any) -> int:
        assert profile._shapes, "a profile must have its shapes before it is added"
        if self._trt.refuses_profiles:
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def _do_set_calibration_profile(self, profile: Any) -> bool:
        self._calibration_profile = profile
        return True

    def _do_create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        assert self._trt.runs_on_device, "timings need a GPU with TensorRT for RTX"
        damaged = serialized_timing_cache not in (b"", *self._trt.good_timings)
        return None if damaged else self._trt.ITimingCache(serialized_timing_cache)

    def _do_set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        self._timing = cache
        return True

    def _do_get_timing_cache(self) -> Any:
        return self._timing

    def _do_set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        assert index < self._count, "num_compute_capabilities comes first"
        self._capabilities[index] = compute_capability
        return True

    def _set_num_compute_capabilities(self, value: int) -> None:
        self._count = value

    def _set_progress_monitor(self, value: Any) -> None:
        assert value._ready
        self._monitor = value

    def _set_int8_calibrator(self, value: Any) -> None:
        assert value._ready, "the calibrator's own __init__ was not called"
        self._calibrator = value

    def _problem(self) -> str | None:
        if self._calibrator is not None and self._trt.BuilderFlag.INT8 not in self._flags:
            return "a calibrator without the INT8 flag"
        return None

    def _calibrate(self, network: Any) -> str | None:
        calibrator, tensor = self._calibrator, network._inputs[0]
        assert calibrator.get_batch_size() > 0
        if -1 in tensor._shape and self._calibration_profile is None:
            return "Calibration Profile is not defined"
        known = _call(calibrator.read_calibration_cache)
        if known is not None:
            return None
        taken = []
        while (addresses := _call(calibrator.get_batch, [tensor._name])) is not None:
            assert [type(a) for a in addresses] == [int], "a list of one device address for each input"
            taken += addresses
        if not taken:
            return "Calibration failure occurred with no scaling factors detected"
        written = memoryview(f"TRT-EntropyCalibration2 {len(taken)}".encode())
        _call(calibrator.write_calibration_cache, written)
        return None


class Runtime(Strict):
    def __init__(self, logger: Any) -> None:
        if self._trt.first_logger is None:
            self._trt.first_logger = weakref.ref(logger)
        assert logger is self._trt.first_logger()
        self._host_code = False

    def _set_engine_host_code_allowed(self, value: bool) -> None:
        self._host_code = value

    def _do_deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        assert bytes(serialized_engine) == self._trt.plan
        if self._trt.crashes_when_it_loads:
            os.kill(os.getpid(), signal.SIGKILL)
        flags = self._trt.config._flags if self._trt.config is not None else ()
        compatible = "VERSION_COMPATIBLE" in [flag.name for flag in flags]
        if (compatible or self._trt.host_code) and not self._host_code:
            return None
        return None if self._trt.layers is None else self._trt.ICudaEngine()


class Engine(Strict):
    def _do_create_engine_inspector(self) -> Any:
        return self._trt.EngineInspector()

    def _do_get_tensor_name(self, index: int) -> str:
        return ("input", "output")[index]

    def _do_create_execution_context(self) -> Any:
        return self._trt.IExecutionContext()


class Context(Strict):
    _shape: tuple[int, ...] | None = None

    def _do_set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "input"
        self._shape = tuple(shape)
        return True


class Inspector(Strict):
    """Sizes that an engine leaves open are -1, but with a context whose input has its shape."""

    execution_context: Any = None

    def _do_get_engine_information(self, format: Any) -> str:
        assert format is self._trt.LayerInformationFormat.JSON
        text = json.dumps({"Layers": self._trt.layers, "Bindings": ["input", "output"]})
        if self.execution_context is not None:
            text = text.replace("-1, -1", "{}, {}".format(*self.execution_context._shape[2:]))
        return text


def _run(monitor: Any) -> bool:
    _call(monitor.phase_start, "Building", None, 2)
    for step in range(2):
        if not _call(monitor.step_complete, "Building", step):
            return False
    _call(monitor.phase_finish, "Building")
    return True


MODELLED = {
    "ILogger": Logger,
    "IProgressMonitor": Monitor,
    "IInt8EntropyCalibrator2": Calibrator,
    "ITensor": Tensor,
    "ILayer": Layer,
    "Builder": Builder,
    "OnnxParser": Parser,
    "ParserError": ParserError,
    "INetworkDefinition": Network,
    "IOptimizationProfile": Profile,
    "ITimingCache": TimingCache,
    "IBuilderConfig": Config,
    "Runtime": Runtime,
    "ICudaEngine": Engine,
    "IExecutionContext": Context,
    "EngineInspector": Inspector,
}
