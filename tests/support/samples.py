"""GPUs and engine files for the tests of compatibility and cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from hasn_edge.artifact import Artifact, publish
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.sidecar import (
    Details,
    EngineDetails,
    GraphDetails,
    Kind,
    ProgramDetails,
    TorchScriptDetails,
)
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


USUAL: dict[Kind, tuple[type[Details], dict[str, Any]]] = {
    Kind.TORCHSCRIPT: (TorchScriptDetails, {}),
    Kind.PT2: (ProgramDetails, {"least_side": 21}),
    Kind.ONNX: (GraphDetails, {"form": "cpu", "opset": 17}),
    Kind.ENGINE: (
        EngineDetails,
        {
            "target": "tensorrt",
            "runtime": "tensorrt",
            "version": "10.3.0.30",
            "inputs": [{"name": "input", "dtype": "float32", "shape": [1, 3, -1, -1]}],
            "outputs": [{"name": "output", "dtype": "float32", "shape": [1, 3, -1, -1]}],
            "profile": {"min": [1, 3, 32, 32], "opt": [1, 3, 180, 320], "max": [1, 3, 540, 960]},
            "layers": {"all": 9, "convolution": 3, "half_convolution": 0, "quantize": 0},
            "flags": {"strongly_typed": False},
        },
    ),
}


def measured(dpsnr_db: float) -> dict[str, Any]:
    """Return what a sidecar states of a file that lost so much quality."""
    figures = dict.fromkeys(("max_abs", "psnr_db", "worst_psnr_db"), 1.0)
    return {
        "noise": {**figures, **dict.fromkeys(("worst", "images", "not_finite"), 0)},
        "against": "PyTorch",
        "held_out": {
            **dict.fromkeys(("psnr_y_db", "dssim", "fidelity_db", "worst_dpsnr_db", "budget_db"), 0.0),
            "dpsnr_db": dpsnr_db,
            "images": 8,
            "set": "shipped",
            "worst_image": "rocket",
        },
    }


def details_of(kind: Kind, **facts: Any) -> Details:
    """Return what a sidecar states of a file of one kind, with ``facts`` as its JSON has them."""
    cls, usual = USUAL[kind]
    if "flags" in facts:
        facts["flags"] = {**usual["flags"], **facts["flags"]}
    return msgspec.convert({**usual, **facts}, cls)


def as_json(details: Details) -> dict[str, Any]:
    """Return what a sidecar's JSON has of them."""
    values: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(details))
    return values


def engine(folder: Path, *, content: bytes | None = None, **facts: Any) -> Artifact:
    made = {
        "size": [180, 320],
        "gpu": "Orin",
        "compute_capability": "8.7",
        "sm_count": 8,
        "model": "hasn-x4-small",
        **facts,
    }
    return publish(
        plan(b"ftrt", (10, 3, 0, 30)) if content is None else content,
        folder / "a.engine",
        spec=ModelSpec(),
        precision=Precision.INT8,
        source="0" * 64,
        details=details_of(Kind.ENGINE, **made),
    )
