"""One ONNX graph into one plan with a loaded TensorRT: the calls that TensorRT 8.5 to 11 and RTX share."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

from hasn_edge.engine.capabilities import Capabilities, check_target_capabilities
from hasn_edge.engine.target import EngineTarget, Shape
from hasn_edge.errors import BuildError, UnsupportedError

OnMessage = Callable[[str, str], object]
"""Called with a severity (``"ERROR"``, ``"WARNING"``, ``"INFO"``) and TensorRT's text, from any thread."""
OnStep = Callable[[str, int, int], bool]
"""Called with a phase, the steps done and the steps in all, from any thread; ``False`` cancels the build."""

_DTYPES = {"float": "float32", "half": "float16"}
_STEP_SECONDS = 0.1
"""Progress is reported at most this often: a phase may have thousands of steps."""


def compile_plan(
    trt: ModuleType,
    capabilities: Capabilities,
    onnx: bytes,
    target: EngineTarget,
    *,
    on_message: OnMessage,
    on_step: OnStep,
) -> tuple[bytes, dict[str, Any]]:
    """Parse ``onnx`` and compile it for ``target``.

    Returns:
        The plan, and facts about it as plain JSON values: inputs, outputs, layer counts, flags, profile.

    Raises:
        BuildError: the parser or the compiler refused; its messages went to ``on_message``.
        UnsupportedError: this TensorRT cannot do what the target asks for.
    """
    if not capabilities.strong_typing:
        raise UnsupportedError(
            f"{capabilities.title} reads precision from builder flags; engines are built with TensorRT 10.12 "
            "or newer, or with TensorRT for RTX, which read it from the graph"
        )
    check_target_capabilities(capabilities, target.compute_capabilities)
    # TensorRT keeps plain pointers to logger and monitor: both live until this function returns.
    logger = _make_logger(trt, on_message)
    monitor = _make_monitor(trt, on_step) if capabilities.progress_monitor else None
    builder = _make_builder(trt, logger, capabilities)
    network = builder.create_network(_creation_flags(trt, capabilities))
    _parse(trt, capabilities, network, logger, onnx)
    facts = _describe(network)
    config = builder.create_builder_config()
    facts["profile"] = _add_profile(builder, config, network, target)
    facts["flags"] = _configure(trt, capabilities, config, target)
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"{capabilities.title} could not compile the graph")
    return bytes(plan), facts


def _make_builder(trt: Any, logger: object, capabilities: Capabilities) -> Any:
    try:
        return trt.Builder(logger)
    except TypeError as exc:  # pybind's word for a null pointer
        raise BuildError(
            f"{capabilities.title} cannot start its compiler; it compiles on the device, and needs an NVIDIA "
            "GPU and its driver"
        ) from exc


def _creation_flags(trt: Any, capabilities: Capabilities) -> int:
    flags = 0
    if capabilities.explicit_batch_flag:
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if capabilities.strong_typing_flag:
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return flags


def _parse(trt: Any, capabilities: Capabilities, network: Any, logger: object, onnx: bytes) -> None:
    parser = trt.OnnxParser(network, logger)
    if parser.parse(onnx):
        return
    lines = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        where = f"node {error.node()}"
        if capabilities.parser_names_nodes and error.node_operator():
            where = f"node {error.node_name() or error.node()!r} ({error.node_operator()})"
        lines.append(f"{where}: {error.desc()}".replace("\n", "\n    "))
    raise BuildError("\n  ".join([f"{capabilities.title} cannot read the ONNX graph:", *lines]))


def _describe(network: Any) -> dict[str, Any]:
    kinds = Counter(network.get_layer(i).type.name for i in range(network.num_layers))
    return {
        "inputs": [_tensor(network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [_tensor(network.get_output(i)) for i in range(network.num_outputs)],
        "layers": {
            "all": network.num_layers,
            "convolution": kinds["CONVOLUTION"],
            "quantize": kinds["QUANTIZE"],
        },
    }


def _tensor(tensor: Any) -> dict[str, Any]:
    dtype = tensor.dtype.name.lower()
    return {"name": tensor.name, "dtype": _DTYPES.get(dtype, dtype), "shape": [int(n) for n in tensor.shape]}


def _add_profile(builder: Any, config: Any, network: Any, target: EngineTarget) -> dict[str, list[int]]:
    """Set the input's range; return it as it was set."""
    if network.num_inputs == 0:  # the parser takes bytes of anything for an empty graph
        raise BuildError("the bytes given are not an ONNX graph, or one without an input")
    if network.num_inputs != 1:
        raise BuildError(f"the graph has {network.num_inputs} inputs; expected one, (N, C, H, W)")
    tensor = network.get_input(0)
    fixed = tuple(int(n) for n in tensor.shape)
    if len(fixed) != 4:
        raise BuildError(f"the graph's input {tensor.name!r} has shape {fixed}; expected (N, C, H, W)")
    low, typical, high = (
        _fit(shape, fixed, tensor.name)
        for shape in (target.shapes.minimum, target.shapes.typical, target.shapes.maximum)
    )
    if -1 in fixed:  # a static graph has no profile
        profile = builder.create_optimization_profile()
        profile.set_shape(tensor.name, low, typical, high)
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(
                f"TensorRT refused the input range {low} / {typical} / {high} of {tensor.name!r}"
            )
    return {"minimum": list(low), "typical": list(typical), "maximum": list(high)}


def _fit(shape: Shape, fixed: tuple[int, ...], name: str) -> Shape:
    """Return ``shape`` with the graph's channels; its other fixed dimensions must be the target's."""
    wanted = (shape[0], fixed[1] if fixed[1] > 0 else shape[1], shape[2], shape[3])
    if any(have not in (-1, want) for have, want in zip(fixed, wanted, strict=True)):
        raise UnsupportedError(
            f"the graph's input {name!r} is fixed to {fixed}, but the target asks for {wanted}; export the "
            "graph with a dynamic size, or choose a target of the graph's size"
        )
    return wanted


def _configure(trt: Any, capabilities: Capabilities, config: Any, target: EngineTarget) -> dict[str, Any]:
    """Set the builder's options; return those that decide what the engine is."""
    if target.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)  # it is on by default
    # Layer names and types stay readable in the engine; the cost is some kilobytes.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if target.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, target.workspace_bytes)
    if target.optimization_level is not None:
        if not capabilities.optimization_level:
            raise UnsupportedError(f"{capabilities.title} has no optimization_level; leave it unset")
        config.builder_optimization_level = target.optimization_level
    if target.compute_capabilities:
        config.num_compute_capabilities = len(target.compute_capabilities)
        for i, capability in enumerate(target.compute_capabilities):
            member = getattr(trt.ComputeCapability, "SM" + capability.replace(".", ""))
            if not config.set_compute_capability(member, i):
                raise BuildError(f"{capabilities.title} refused compute capability {capability}")
    return {
        "strongly_typed": True,
        "tf32": target.tf32,
        "optimization_level": target.optimization_level,
        "workspace_bytes": target.workspace_bytes,
    }


def _make_logger(trt: Any, on_message: OnMessage) -> object:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # without this call a pybind subclass crashes

        def log(self, severity: Any, text: str) -> None:
            if severity.name != "VERBOSE":
                on_message(severity.name, text.strip())

    return Logger()


def _make_monitor(trt: Any, on_step: OnStep) -> object:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._lock = threading.Lock()
            self._steps: dict[str, int] = {}
            self._reported = 0.0
            self._go_on = True

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            with self._lock:
                self._steps[phase] = steps
                self._report(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            with self._lock:
                if time.monotonic() - self._reported >= _STEP_SECONDS:
                    self._report(phase, step + 1)
                return self._go_on

        def phase_finish(self, phase: str) -> None:
            with self._lock:
                self._report(phase, self._steps.pop(phase, 0))

        def _report(self, phase: str, done: int) -> None:
            self._reported = time.monotonic()
            self._go_on = on_step(phase, done, self._steps.get(phase, done)) and self._go_on

    return Monitor()
