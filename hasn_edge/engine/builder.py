"""One ONNX graph into one plan with a loaded TensorRT: the calls that TensorRT 8.5 to 11 and RTX share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from hasn_edge.engine import network as networks
from hasn_edge.engine.caches import read_timings, use_timing_cache
from hasn_edge.engine.calibrator import require_calibrator
from hasn_edge.engine.capabilities import Capabilities, check_target
from hasn_edge.engine.kernels import (
    ACTIVATIONS,
    LIST_START,
    Kernel,
    kernels_of_inspector,
    kernels_of_log,
)
from hasn_edge.engine.messages import Kept, OnMessage, listening
from hasn_edge.engine.precision import set_precision
from hasn_edge.engine.target import EngineTarget
from hasn_edge.errors import BuildError, UnsupportedError, call, omit, say
from hasn_edge.sidecar import Shape
from hasn_edge.spec import Precision

OnStep = Callable[[str, int, int], bool]
"""Called with a phase, the steps done and the steps in all, from any thread; ``False`` cancels the build."""

_STEP_SECONDS = 0.1
"""Progress is reported at most this often: a phase may have thousands of steps."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """TensorRT's own calibrator, ready to be used."""

    shape: Shape
    """Of every batch, ``(N, C, H, W)``."""
    float_layers: tuple[str, ...]
    make: Callable[[Any], Any]
    """Makes the calibrator of :mod:`hasn_edge.engine.calibrator` from the loaded module."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What decides an engine beside graph and target."""

    precision: Precision | None = None
    """``None``: as the graph states it."""
    workspace_bytes: int | None = None
    timings: Path | None = None
    """Timings to start from."""
    collect_timings: bool = False
    calibration: Calibration | None = None
    verbose: bool = False
    """Whether TensorRT's most detailed messages are wanted."""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A plan and what is known of it."""

    plan: bytes
    facts: dict[str, Any] = field(repr=False)
    """Inputs, outputs, layer counts, flags and profile as plain JSON values."""
    timings: bytes = b""
    """For the next build; nothing where none were collected."""
    kernels: tuple[Kernel, ...] = ()
    """As TensorRT for RTX lists them while it compiles; :func:`inspect_plan` gives those of TensorRT."""
    activation_bytes: int | None = None
    """Scratch memory of one execution of the largest shape; ``None`` where the compiler does not state it."""


def compile_plan(
    trt: ModuleType,
    capabilities: Capabilities,
    onnx: bytes,
    target: EngineTarget,
    options: Options = Options(),
    *,
    on_message: OnMessage,
    on_step: OnStep,
) -> Compiled:
    """Parse ``onnx`` and compile it for ``target``.

    Raises:
        BuildError: the parser or the compiler refused; its messages went to ``on_message``.
        UnsupportedError: this TensorRT cannot do what is asked for.
        Exception: what ``on_message`` or ``on_step`` raised, which also cancels the build.
    """
    check_target(capabilities, target)
    if options.calibration is not None:
        require_calibrator(capabilities)

    listed: list[str] = []
    scratch: list[int] = []

    def on_any(severity: str, text: str) -> None:
        if severity == "VERBOSE" and text.startswith(LIST_START):
            listed.append(text)
        if text.startswith(ACTIVATIONS):
            with suppress(ValueError, IndexError):  # the compiler calls this; versions word it anew
                scratch.append(int(text.removeprefix(ACTIVATIONS).split()[0]))
        if options.verbose or severity != "VERBOSE":
            on_message(severity, text)

    with listening(trt, on_any) as logger:
        compiled = _compile(trt, capabilities, logger, onnx, target, options, on_step)
    return replace(
        compiled,
        kernels=kernels_of_log(listed[-1]) if listed else (),
        activation_bytes=scratch[-1] if scratch else None,
    )


def inspect_plan(
    trt: Any, plan: bytes, shape: Shape | None = None, *, host_code: bool = False
) -> tuple[Kernel, ...]:
    """Load a plan for the GPU here and list its kernels; nothing where TensorRT does not load it.

    Args:
        trt: The loaded module.
        plan: Of this TensorRT, for this GPU.
        shape: Of the input that sizes shall be of, where the plan takes several.
        host_code: The plan may hold code for the CPU, as version-compatible ones do.
    """
    with listening(trt, lambda severity, text: None) as logger:
        runtime = trt.Runtime(logger)
        if host_code:
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            return ()
        inspector = engine.create_engine_inspector()
        if shape is not None:
            context = engine.create_execution_context()
            if context is not None and context.set_input_shape(engine.get_tensor_name(0), shape):
                inspector.execution_context = context
        return kernels_of_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _compile(
    trt: Any,
    capabilities: Capabilities,
    logger: object,
    onnx: bytes,
    target: EngineTarget,
    options: Options,
    on_step: OnStep,
) -> Compiled:
    strongly_typed = capabilities.strong_typing and options.calibration is None
    on_step("reading the graph", 0, 1)
    # TensorRT keeps plain pointers to monitor and calibrator: they live until this function returns.
    kept = Kept()
    monitor = _make_monitor(trt, on_step, kept) if capabilities.progress_monitor else None
    builder = _make_builder(trt, logger, capabilities)
    network = networks.make_network(trt, capabilities, builder, strongly_typed=strongly_typed)
    networks.parse(trt, capabilities, network, logger, onnx)
    facts = networks.describe(network)
    precision = networks.check_precision(
        facts,
        options.precision,
        strongly_typed=strongly_typed,
        calibrated=options.calibration is not None,
        title=capabilities.title,
    )
    on_step("reading the graph", 1, 1)
    config = builder.create_builder_config()
    shapes = networks.input_range(network, target.shapes)
    facts["precision"] = precision.value
    facts["profile"] = dict(zip(("min", "opt", "max"), map(list, shapes), strict=True))
    if networks.is_dynamic(network):  # a static graph has no profile
        profile = networks.make_profile(builder, network, shapes)
        if config.add_optimization_profile(profile) < 0:
            raise BuildError("TensorRT refused the input range {} / {} / {}".format(*shapes))
    facts["flags"] = {
        "strongly_typed": strongly_typed,
        **_configure(trt, capabilities, config, target, options),
    }
    calibrator = None
    if not strongly_typed:
        floats = options.calibration.float_layers if options.calibration else ()
        facts["flags"].update(set_precision(trt, network, config, precision, floats))
    if options.calibration is not None:
        calibrator = _calibrate(trt, capabilities, builder, network, config, options.calibration)
    if options.collect_timings and capabilities.timing_cache:
        facts["timing_cache"] = use_timing_cache(config, options.timings)
    if monitor is not None:
        config.progress_monitor = monitor
    else:
        on_step("compiling", 0, 1)
    plan = builder.build_serialized_network(network, config)
    kept.raise_first()
    if calibrator is not None:
        try:
            calibrator.kept.raise_first()
        except Exception as exc:
            raise BuildError(f"calibration failed: {exc}") from exc
    if plan is None:
        raise BuildError(f"{capabilities.title} could not compile the graph")
    if monitor is None:
        on_step("compiling", 1, 1)
    timings = read_timings(config) if "timing_cache" in facts else b""
    return Compiled(plan=bytes(plan), facts=facts, timings=timings)


def _make_builder(trt: Any, logger: object, capabilities: Capabilities) -> Any:
    try:
        return trt.Builder(logger)
    except TypeError as exc:  # pybind's word for a null pointer
        raise BuildError(
            f"{capabilities.title} cannot start its compiler; it compiles on the device, and needs an NVIDIA "
            "GPU, its driver and libnvinfer_builder_resource of the same version",
            call("doctor"),
        ) from exc


def _calibrate(
    trt: Any, capabilities: Capabilities, builder: Any, network: Any, config: Any, calibration: Calibration
) -> Any:
    tensor = network.get_input(0)
    if tensor.dtype.name != "FLOAT":
        raise UnsupportedError(
            f"TensorRT's calibrator takes float images, and the graph's input is {tensor.dtype.name.lower()}",
            omit("pixels"),
        )
    have, want = calibration.shape, tuple(int(n) for n in tensor.shape)
    if any(w not in (-1, h) for h, w in zip(have, want, strict=True)):
        raise UnsupportedError(
            f"the calibration images have shape {have}, and the graph is fixed to {want}",
            say("cut them to that"),
            say("calibrate a graph of any size"),
        )
    if networks.is_dynamic(network):
        if not capabilities.calibration_profile:
            raise UnsupportedError(
                f"{capabilities.title} calibrates graphs of one size only", say("fix the size")
            )
        config.set_calibration_profile(networks.make_profile(builder, network, (have, have, have)))
    calibrator = calibration.make(trt)
    config.int8_calibrator = calibrator
    return calibrator


def _configure(
    trt: Any, capabilities: Capabilities, config: Any, target: EngineTarget, options: Options
) -> dict[str, Any]:
    """Set the builder's options but for precision; return those that decide what the engine is."""
    if target.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)  # it is on by default
    # Layer names and types stay readable in the engine; the cost is some kilobytes.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if target.optimization_level is not None:
        config.builder_optimization_level = target.optimization_level
    _set_compatibility(trt, capabilities, config, target)
    return {
        "tf32": target.tf32,
        "optimization_level": target.optimization_level,
        "workspace_bytes": options.workspace_bytes,
        "hardware_compatibility": target.hardware_compatibility,
        "version_compatible": target.version_compatible,
    }


def _set_compatibility(trt: Any, capabilities: Capabilities, config: Any, target: EngineTarget) -> None:
    """Say where else than here the engine shall run."""
    if target.hardware_compatibility is not None:
        level = getattr(trt.HardwareCompatibilityLevel, target.hardware_compatibility.upper())
        config.hardware_compatibility_level = level
    if target.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if target.compute_capabilities:
        config.num_compute_capabilities = len(target.compute_capabilities)
        for i, capability in enumerate(target.compute_capabilities):
            member = getattr(trt.ComputeCapability, "SM" + capability.replace(".", ""))
            if not config.set_compute_capability(member, i):
                raise BuildError(f"{capabilities.title} refused compute capability {capability}")


def _make_monitor(trt: Any, on_step: OnStep, kept: Kept) -> object:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._lock = threading.Lock()
            self._steps: dict[str, int] = {}
            self._reported = 0.0
            self._go_on = True

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            with kept.keeping(), self._lock:
                self._steps[phase] = steps
                self._report(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            with kept.keeping(), self._lock:
                if time.monotonic() - self._reported >= _STEP_SECONDS:
                    self._report(phase, step + 1)
            return self._go_on and kept.error is None

        def phase_finish(self, phase: str) -> None:
            with kept.keeping(), self._lock:
                self._report(phase, self._steps.pop(phase, 0))

        def _report(self, phase: str, done: int) -> None:
            self._reported = time.monotonic()
            self._go_on = on_step(phase, done, self._steps.get(phase, done)) and self._go_on

    return Monitor()
