"""What a build leaves for the next one: engines, found again by their key, and timings of kernels."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from hasn_edge.artifact import Artifact, load_artifact, read_sidecar
from hasn_edge.engine.capabilities import Capabilities
from hasn_edge.engine.target import EngineRuntime, EngineTarget
from hasn_edge.errors import ArtifactError
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.optional import installed_version
from hasn_edge.sidecar import Kind
from hasn_edge.spec import Precision

_INERT = ("name", "device")
"""What of a target changes nothing in the engine."""


def engine_key(
    graph: str,
    target: EngineTarget,
    *,
    precision: Precision,
    capabilities: Capabilities,
    gpu: GpuFacts | None,
    calibration: str | None = None,
) -> str:
    """Return the key of the engine that a build would make.

    Args:
        graph: SHA-256 of the ONNX bytes, or of all that decides them.
        target: What it would be built for. The workspace that free memory decides is not part of the key.
        precision: What it computes in.
        capabilities: Of the compiler: its version and the form of graph it takes.
        gpu: The GPU it would be built on; not looked at for TensorRT for RTX, whose engines are not bound to
            the machine that builds them.
        calibration: Fingerprint of the images, where TensorRT's calibrator chooses the ranges.
    """
    wanted = {k: v for k, v in msgspec.to_builtins(target).items() if k not in _INERT}
    facts: dict[str, Any] = {
        "hasn-edge": installed_version("hasn-edge"),
        "graph": graph,
        "target": wanted,
        "precision": precision.value,
        "runtime": capabilities.runtime.value,
        "version": capabilities.version,
        "form": (capabilities.form if calibration is None else capabilities.weakly_typed_form).value,
        "calibration": calibration,
    }
    if capabilities.runtime is EngineRuntime.TENSORRT and gpu is not None:
        facts["gpu"] = [gpu.name, gpu.compute_capability, gpu.sm_count, gpu.driver, gpu.cuda, gpu.l4t]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def lookup(folder: Path, key: str, *, start: str = "") -> Artifact | None:
    """Return the published engine in ``folder`` that has ``key`` and a name with this start, or ``None``.

    A file that was changed, cut short or lost its sidecar is not found: it will be built again.
    """
    for path in sorted(folder.glob(f"{glob.escape(start)}*{Kind.ENGINE.suffix}")):
        with suppress(ArtifactError):
            if read_sidecar(path).engine.cache_key == key:
                return load_artifact(path)
    return None


def graph_of(engine: Artifact) -> Path | None:
    """Return the ONNX file beside an engine that it was compiled from, by its hash; ``None`` without one."""
    if engine.parent is None:
        return None
    for path in sorted(engine.path.parent.glob(f"*{Kind.ONNX.suffix}")):
        with suppress(ArtifactError):
            if read_sidecar(path).sha256 == engine.parent:
                return path
    return None


def timing_cache_name(gpu: GpuFacts, version: str, mode: str | None = None) -> str:
    """Return the file name of TensorRT's timings of kernels, which hold for this GPU, driver and version.

    Args:
        gpu: The GPU that compiles.
        version: TensorRT's.
        mode: A Jetson's power mode: its clocks of GPU and memory decide which kernel is the fastest.
    """
    facts = (
        gpu.name,
        f"sm{gpu.compute_capability}",
        f"{gpu.sm_count}x",
        gpu.driver or gpu.cuda,
        version,
        mode,
    )
    return "timing-" + "-".join(re.sub(r"[^\w.]+", "_", fact) for fact in facts if fact) + ".cache"


def use_timing_cache(config: Any, path: Path | None) -> str | None:
    """Let the builder start from the timings at ``path`` and collect new ones.

    Timings that are absent, damaged or refused are no error: they only make the build slow.

    Returns:
        SHA-256 of the timings used, ``None`` where there are none.
    """
    for known in (_bytes_of(path), b""):
        cache = config.create_timing_cache(known)
        # False: never the timings of another device; they would choose the wrong kernels.
        if cache is not None and config.set_timing_cache(cache, False):
            return hashlib.sha256(known).hexdigest() if known else None
    return None


def read_timings(config: Any) -> bytes:
    """Return the timings after a build; nothing where there are none."""
    cache = config.get_timing_cache()
    if cache is None:
        return b""
    serialized = cache.serialize()
    return b"" if serialized is None else bytes(serialized)


def _bytes_of(path: Path | None) -> bytes:
    try:
        return b"" if path is None else path.read_bytes()
    except OSError:
        return b""
