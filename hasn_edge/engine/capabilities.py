"""Which TensorRT is here and what it can do: asked once, with ``hasattr``."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
from dataclasses import dataclass
from types import ModuleType

from hasn_edge.engine.target import EngineRuntime
from hasn_edge.errors import BuildError, MissingDependencyError, UnsupportedError
from hasn_edge.optional import require

NAMES = {EngineRuntime.RTX: "TensorRT for RTX", EngineRuntime.TENSORRT: "TensorRT"}

# The wheel of TensorRT for RTX's bindings has the second name; NVIDIA's meta package adds the first.
_MODULES = {
    EngineRuntime.RTX: ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    EngineRuntime.TENSORRT: ("tensorrt",),
}


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What one TensorRT module offers beyond the core that every version from 8.5 to 11 shares."""

    runtime: EngineRuntime
    version: str
    """As the module says it, e.g. ``"1.7.1.116"``."""
    strong_typing: bool
    """Types are taken from the graph, which must be the strong artefact (typed FP16 tensors, Q/DQ scales in
    the tensors' type): TensorRT for RTX, and TensorRT from 10.12 on, where builder flags are deprecated."""
    strong_typing_flag: bool
    """A network must be created with ``STRONGLY_TYPED`` to be so (TensorRT 10; 11 accepts and ignores it)."""
    explicit_batch_flag: bool
    """A network must be created with ``EXPLICIT_BATCH`` (TensorRT 8; 10 ignores it, 11 has no such name)."""
    compute_capabilities: tuple[str, ...]
    """GPUs that it can compile for without having them, e.g. ``"8.6"``; empty where only for the one here."""
    optimization_level: bool
    progress_monitor: bool
    parser_names_nodes: bool
    """A parser error knows the node's name and operator (TensorRT 10 and newer)."""

    @property
    def title(self) -> str:
        """Product name and version, for messages."""
        return f"{NAMES[self.runtime]} {self.version}"


def driver_present() -> bool:
    """Return whether NVIDIA's driver library can be loaded; loads nothing else.

    Without it TensorRT's ``Runtime`` may crash the process instead of raising, and so must not be made.
    """
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def find_module(runtime: EngineRuntime, *, needed_for: str = "Building an engine") -> str:
    """Return the import name of the installed TensorRT; imports nothing.

    Raises:
        MissingDependencyError: it is not installed; the message names the extra.
    """
    for name in _MODULES[runtime]:
        if importlib.util.find_spec(name) is not None:
            return name
    raise MissingDependencyError(
        _MODULES[runtime][0], extra=runtime.value, needed_for=f"{needed_for} with {NAMES[runtime]}"
    )


def load_tensorrt(
    runtime: EngineRuntime, *, needed_for: str = "Building an engine"
) -> tuple[ModuleType, Capabilities]:
    """Import TensorRT (0.2 s and 230 MB of libraries) and ask what it can do. Needs no GPU and no driver.

    Raises:
        MissingDependencyError: it is not installed.
        BuildError: it is installed but cannot be loaded, for example because a library is missing.
    """
    name = find_module(runtime, needed_for=needed_for)
    try:
        trt = require(name, extra=runtime.value, needed_for=needed_for)
    except (ImportError, OSError) as exc:
        raise BuildError(
            f"{NAMES[runtime]} is installed (package '{name}') but cannot be loaded: {exc}; "
            f"install it again with: pip install --force-reinstall 'hasn-edge[{runtime.value}]'"
        ) from exc
    return trt, probe(trt, runtime)


def probe(trt: ModuleType, runtime: EngineRuntime) -> Capabilities:
    """Ask a loaded TensorRT module what it can do."""
    flags = getattr(trt, "NetworkDefinitionCreationFlag", None)
    config = getattr(trt, "IBuilderConfig", None)
    sm = [re.fullmatch(r"SM(\d+)(\d)", name) for name in dir(getattr(trt, "ComputeCapability", None))]
    version = str(trt.__version__)
    return Capabilities(
        runtime=runtime,
        version=version,
        strong_typing=runtime is EngineRuntime.RTX or version_tuple(version) >= (10, 12),
        strong_typing_flag=hasattr(flags, "STRONGLY_TYPED"),
        explicit_batch_flag=hasattr(flags, "EXPLICIT_BATCH"),
        compute_capabilities=tuple(
            f"{major}.{minor}" for major, minor in sorted((int(m[1]), int(m[2])) for m in sm if m)
        ),
        optimization_level=hasattr(config, "builder_optimization_level"),
        progress_monitor=hasattr(trt, "IProgressMonitor") and hasattr(config, "progress_monitor"),
        parser_names_nodes=hasattr(getattr(trt, "ParserError", None), "node_name"),
    )


def version_tuple(version: str) -> tuple[int, ...]:
    """Return the numbers of ``"10.13.3.9"``; what follows them (``"dev0"``) does not count."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])


def check_target_capabilities(capabilities: Capabilities, wanted: tuple[str, ...]) -> None:
    """Refuse GPUs that this TensorRT cannot compile for.

    Raises:
        UnsupportedError: names those it cannot, and those that it can.
    """
    unknown = [c for c in wanted if c not in capabilities.compute_capabilities]
    if unknown:
        raise UnsupportedError(
            f"{capabilities.title} cannot compile for compute capability {', '.join(unknown)}; "
            f"it can for {', '.join(capabilities.compute_capabilities) or 'the GPU in this machine only'}"
        )
