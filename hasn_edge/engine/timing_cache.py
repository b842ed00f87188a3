"""TensorRT's timings of kernels, kept from build to build: one file per GPU and TensorRT version."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from hasn_edge.hardware.gpu import GpuFacts


def timing_cache_name(gpu: GpuFacts, version: str) -> str:
    """Return the file name of the timings that hold for this GPU, driver and TensorRT."""
    facts = (gpu.name, f"sm{gpu.compute_capability}", f"{gpu.sm_count}x", gpu.driver or gpu.cuda, version)
    return "timing-" + "-".join(re.sub(r"[^\w.]+", "_", fact) for fact in facts) + ".cache"


def use_timing_cache(config: Any, path: Path | None) -> str | None:
    """Let the builder start from the timings at ``path`` and collect new ones.

    Timings that are absent, damaged or refused are no error: they only make the build slow.

    Returns:
        SHA-256 of the timings used, ``None`` where there are none.
    """
    for known in (_read(path), b""):
        cache = config.create_timing_cache(known)
        # False: never the timings of another device; they would choose the wrong kernels.
        if cache is not None and config.set_timing_cache(cache, False):
            return hashlib.sha256(known).hexdigest() if known else None
    return None


def collected_timings(config: Any) -> bytes:
    """Return the timings after a build; nothing where there are none."""
    cache = config.get_timing_cache()
    if cache is None:
        return b""
    serialized = cache.serialize()
    return b"" if serialized is None else bytes(serialized)


def _read(path: Path | None) -> bytes:
    try:
        return b"" if path is None else path.read_bytes()
    except OSError:
        return b""
