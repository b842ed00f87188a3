"""GPUs and engine files for the tests of compatibility and cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hasn_edge.artifact import Artifact, Kind, publish
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.spec import ModelSpec, Precision

NANO = GpuFacts(
    name="Orin",
    compute_capability="8.7",
    total_memory_bytes=8 << 30,
    driver="540.4.0",
    cuda="12.6",
    integrated=True,
    l4t="36.4.3",
    sm_count=8,
)
AGX = replace(NANO, sm_count=16)
ADA = replace(NANO, name="NVIDIA GeForce RTX 4090", compute_capability="8.9", sm_count=128, l4t=None)
HOPPER = replace(ADA, name="NVIDIA H200", compute_capability="9.0", sm_count=132)
TURING = replace(ADA, name="NVIDIA GeForce RTX 2080 Ti", compute_capability="7.5", sm_count=68)


def plan(magic: bytes, version: tuple[int, ...], size: int = 4096) -> bytes:
    head = magic + bytes(12) + size.to_bytes(8, "little") + bytes(version)
    return head + bytes(size - len(head))


def engine(folder: Path, *, content: bytes | None = None, **details: Any) -> Artifact:
    made = {
        "size": [180, 320],
        "target": "tensorrt",
        "runtime": "tensorrt",
        "version": "10.3.0.30",
        "gpu": "Orin",
        "compute_capability": "8.7",
        "sm_count": 8,
        "flags": {"version_compatible": False, "hardware_compatibility": None},
        "inputs": [{"name": "input", "dtype": "float32", "shape": [1, 3, 180, 320]}],
        "model": "hasn-x4-small",
        **details,
    }
    return publish(
        plan(b"ftrt", (10, 3, 0, 30)) if content is None else content,
        folder / "a.engine",
        kind=Kind.ENGINE,
        spec=ModelSpec(),
        precision=Precision.INT8,
        source="0" * 64,
        details={key: value for key, value in made.items() if value is not None},
    )
