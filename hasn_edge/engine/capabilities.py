"""Which TensorRT is here and what it can do: asked once, with ``hasattr``."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import msgspec

from hasn_edge.engine.target import EngineRuntime, EngineTarget
from hasn_edge.engine.worker_process import ask_worker
from hasn_edge.errors import BuildError, Cure, MissingDependencyError, UnsupportedError, say, shell
from hasn_edge.hardware.gpu import gpu_facts, l4t_release, tensorrt_extra
from hasn_edge.optional import require, version_tuple
from hasn_edge.sidecar import Form

NAMES = {EngineRuntime.RTX: "TensorRT for RTX", EngineRuntime.TENSORRT: "TensorRT"}

# The wheel of TensorRT for RTX's bindings has the second name; NVIDIA's meta package adds the first.
_MODULES = {
    EngineRuntime.RTX: ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    EngineRuntime.TENSORRT: ("tensorrt",),
}

_UNSET = say("leave it unset in the target")
_JETPACK_6 = (36,)
"""Its line of Jetson Linux. Before, the system's Python, which TensorRT's module is for, is too old."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What one TensorRT module offers beyond the core that every version from 8.5 to 11 shares."""

    runtime: EngineRuntime
    version: str
    """As the module states it, e.g. ``"1.7.1.116"``."""
    strong_typing: bool
    """Types are best taken from the graph, which must be the strongly typed one (FP16 tensors, Q/DQ scales in
    the tensors' type): TensorRT for RTX, and TensorRT from 10.12 on, where precision flags are
    deprecated. Like the next answer from the version number; all others are names that exist or do not."""
    native_normalization: bool
    """LayerNormalization is read as one layer: TensorRT 10 and newer. 8.5 does not read it, and 8.6 is
    reported to fail where sizes change."""
    strong_typing_flag: bool
    """A network must be created with ``STRONGLY_TYPED`` to be so (TensorRT 10; 11 accepts and ignores it)."""
    explicit_batch_flag: bool
    """A network must be created with ``EXPLICIT_BATCH`` (TensorRT 8; 10 ignores it, 11 has no such name)."""
    precision_flags: bool
    """Weakly typed graphs compile: precision comes from ``BuilderFlag.FP16`` and ``INT8``, and a layer can
    be pinned to one (TensorRT before 11)."""
    calibrator: bool
    """INT8 ranges can come from TensorRT's own entropy calibrator (TensorRT before 11)."""
    calibration_profile: bool
    """The calibrator's shape can be set apart from the engine's (TensorRT before 11)."""
    compute_capabilities: tuple[str, ...]
    """GPUs that it can compile for without having them, e.g. ``"8.6"``; empty where only for the one here."""
    optimization_level: bool
    """Of the builder, 0 to 5 (from 8.6 on)."""
    hardware_compatibility: tuple[str, ...]
    """Levels of compatibility with other GPUs than the one here, e.g. ``"ampere_plus"`` (from 8.6 on;
    TensorRT for RTX has compute capabilities instead)."""
    version_compatible: bool
    """Engines can be made that a newer TensorRT runs (from 8.6 on; never with TensorRT for RTX)."""
    timing_cache: bool
    """Timings of one build help the next. Not TensorRT for RTX, where asking for it needs a GPU."""
    progress_monitor: bool
    """From 9 on."""
    parser_names_nodes: bool
    """A parser error knows the node's name and operator (TensorRT 10 and newer)."""

    @property
    def title(self) -> str:
        """Product name and version, for messages."""
        return f"{NAMES[self.runtime]} {self.version}"

    @property
    def form(self) -> Form:
        """The form of graph that this TensorRT is given."""
        return Form.STRONGLY_TYPED if self.strong_typing else self.weakly_typed_form

    @property
    def weakly_typed_form(self) -> Form:
        """The form where builder flags, or a calibrator, shall decide the precision."""
        return Form.WEAKLY_TYPED_TRT10 if self.native_normalization else Form.WEAKLY_TYPED


def ask_capabilities(runtime: EngineRuntime) -> Capabilities:
    """Ask the installed TensorRT what it can do, in a process of its own: this one never imports it.

    Raises:
        MissingDependencyError: it is not installed.
        UnsupportedError: it is TensorRT, and there is no NVIDIA GPU or driver.
        BuildError: it is installed but broken, or the process died.
    """
    find_module(runtime)
    answer = ask_worker("--ask", runtime.value).outcome(NAMES[runtime])
    return msgspec.convert(answer, Capabilities)


def find_module(runtime: EngineRuntime, *, needed_for: str = "Building an engine") -> str:
    """Return the import name of the installed TensorRT; imports nothing.

    Raises:
        MissingDependencyError: it is not installed; the message names the extra.
        UnsupportedError: this is a Jetson, whose TensorRT comes with JetPack, and Python does not see it.
    """
    for name in _MODULES[runtime]:
        if importlib.util.find_spec(name) is not None:
            return name
    l4t = l4t_release()
    if runtime is EngineRuntime.TENSORRT and l4t is not None:
        raise UnsupportedError(
            f"{needed_for} needs JetPack's TensorRT, which this Python does not see; pip has none for Jetson",
            say(
                "install it with 'sudo apt install python3-libnvinfer', and use the system's Python or a "
                "virtual environment made by 'python3 -m venv --system-site-packages'"
            )
            if version_tuple(l4t) >= _JETPACK_6
            else _newer(runtime),
        )
    raise MissingDependencyError(
        _MODULES[runtime][0],
        extra=tensorrt_extra(runtime.value, gpu_facts()),
        needed_for=f"{needed_for} with {NAMES[runtime]}",
    )


def load_tensorrt(
    runtime: EngineRuntime, *, needed_for: str = "Building an engine"
) -> tuple[ModuleType, Capabilities]:
    """Import TensorRT (0.2 s and 230 MB of libraries) and ask what it can do. Needs no GPU and no driver.

    Raises:
        MissingDependencyError: it is not installed.
        BuildError: it is installed but cannot be loaded, for example because a library is missing.
        UnsupportedError: it is older than 8.5.
    """
    name = find_module(runtime, needed_for=needed_for)
    try:
        trt = require(name, extra=runtime.value, needed_for=needed_for)
    except (ImportError, OSError) as exc:
        again = f"pip install --force-reinstall 'hasn-edge[{tensorrt_extra(runtime.value, gpu_facts())}]'"
        if l4t_release() is not None:
            again = "sudo apt install --reinstall python3-libnvinfer libnvinfer-bin"
        raise BuildError(
            f"{NAMES[runtime]} is installed (package '{name}') but cannot be loaded: {exc}",
            say(f"install it again with: {again}"),
        ) from exc
    # With this name came the calls that run an engine in every version since.
    if not hasattr(getattr(trt, "ICudaEngine", None), "num_io_tensors"):
        raise UnsupportedError(
            f"{needed_for} needs at least {NAMES[runtime]} 8.5, and {trt.__version__} is here",
            _newer(runtime),
        )
    return trt, probe(trt, runtime)


def probe(trt: ModuleType, runtime: EngineRuntime) -> Capabilities:
    """Ask a loaded TensorRT module what it can do."""
    network = getattr(trt, "NetworkDefinitionCreationFlag", None)
    flags = getattr(trt, "BuilderFlag", None)
    config = getattr(trt, "IBuilderConfig", None)
    levels = dir(getattr(trt, "HardwareCompatibilityLevel", None))
    sm = [re.fullmatch(r"SM(\d+)(\d)", name) for name in dir(getattr(trt, "ComputeCapability", None))]
    version = str(trt.__version__)
    rtx = runtime is EngineRuntime.RTX
    return Capabilities(
        runtime=runtime,
        version=version,
        strong_typing=rtx or version_tuple(version) >= (10, 12),
        native_normalization=rtx or version_tuple(version) >= (10,),
        strong_typing_flag=hasattr(network, "STRONGLY_TYPED"),
        explicit_batch_flag=hasattr(network, "EXPLICIT_BATCH"),
        precision_flags=_all(flags, "FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS")
        and _all(getattr(trt, "ILayer", None), "precision", "set_output_type"),
        calibrator=hasattr(trt, "IInt8EntropyCalibrator2") and hasattr(config, "int8_calibrator"),
        calibration_profile=hasattr(config, "set_calibration_profile"),
        compute_capabilities=tuple(
            f"{major}.{minor}" for major, minor in sorted((int(m[1]), int(m[2])) for m in sm if m)
        ),
        optimization_level=hasattr(config, "builder_optimization_level"),
        hardware_compatibility=tuple(
            level.lower() for level in ("AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY") if level in levels
        )
        if not rtx and hasattr(config, "hardware_compatibility_level")
        else (),
        version_compatible=not rtx and hasattr(flags, "VERSION_COMPATIBLE"),
        timing_cache=not rtx and hasattr(config, "create_timing_cache"),
        progress_monitor=hasattr(trt, "IProgressMonitor") and hasattr(config, "progress_monitor"),
        parser_names_nodes=hasattr(getattr(trt, "ParserError", None), "node_name"),
    )


def check_target(capabilities: Capabilities, target: EngineTarget) -> None:
    """Refuse a target that this TensorRT cannot compile, before any work for it.

    Raises:
        UnsupportedError: it lacks an option of the target, or GPUs; the message lists what it has.
    """
    able = capabilities.compute_capabilities
    unknown = [capability for capability in target.compute_capabilities if capability not in able]
    if unknown:
        raise UnsupportedError(
            f"{capabilities.title} cannot compile for compute capability {', '.join(unknown)}; "
            f"it can for {', '.join(able) or 'the GPU in this machine only'}"
        )
    for name, wish, has in (
        ("optimization_level", target.optimization_level is not None, capabilities.optimization_level),
        ("version_compatible", target.version_compatible, capabilities.version_compatible),
    ):
        if wish and not has:
            raise UnsupportedError(f"{capabilities.title} has no {name}", _UNSET)
    level = target.hardware_compatibility
    if level is not None and level not in capabilities.hardware_compatibility:
        known = ", ".join(capabilities.hardware_compatibility) or "none"
        raise UnsupportedError(
            f"{capabilities.title} has no hardware_compatibility {level!r}; it has: {known}", _UNSET
        )


def _newer(runtime: EngineRuntime) -> Cure:
    """Return where a TensorRT that is new enough comes from."""
    if l4t_release() is None:
        return shell(f"pip install --upgrade 'hasn-edge[{tensorrt_extra(runtime.value, gpu_facts())}]'")
    return say(
        "install JetPack 6 or newer; a board that stays on JetPack 5 (Xavier) needs 5.1, and one of the two "
        "ways around its Python 3.8 that engines/README.md describes"
    )


def _all(owner: Any, *names: str) -> bool:
    return all(hasattr(owner, name) for name in names)
