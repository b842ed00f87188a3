"""Train, fuse, quantize, build and measure HASN super-resolution for NVIDIA devices.

Importing this package loads nothing heavy; each public name is imported when it is first used.
"""

from __future__ import annotations

import importlib
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hasn_edge.artifact import Artifact, load_artifact
    from hasn_edge.bench.benchmark import benchmark
    from hasn_edge.errors import HasnEdgeError
    from hasn_edge.evaluation.evaluate import evaluate
    from hasn_edge.images.codec import read_image, write_image
    from hasn_edge.model.zoo import load_model
    from hasn_edge.pipeline.api import build, export
    from hasn_edge.runtime.open import open_model, open_session
    from hasn_edge.runtime.upscaler import Upscaler
    from hasn_edge.spec import ModelSpec, Precision

_HOMES = {
    "Artifact": "artifact",
    "HasnEdgeError": "errors",
    "ModelSpec": "spec",
    "Precision": "spec",
    "Upscaler": "runtime.upscaler",
    "benchmark": "bench.benchmark",
    "build": "pipeline.api",
    "evaluate": "evaluation.evaluate",
    "export": "pipeline.api",
    "load_artifact": "artifact",
    "load_model": "model.zoo",
    "open_model": "runtime.open",
    "open_session": "runtime.open",
    "read_image": "images.codec",
    "write_image": "images.codec",
}

__all__ = [
    "Artifact",
    "HasnEdgeError",
    "ModelSpec",
    "Precision",
    "Upscaler",
    "benchmark",
    "build",
    "evaluate",
    "export",
    "load_artifact",
    "load_model",
    "open_model",
    "open_session",
    "read_image",
    "write_image",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"hasn_edge.{_HOMES[name]}"), name)
        if isinstance(value, types.FunctionType):
            from hasn_edge.pipeline.arguments import checked

            value = checked(value)
        globals()[name] = value
        return value
    if name == "__version__":
        from hasn_edge.optional import installed_version

        return installed_version("hasn-edge") or "unknown"
    raise AttributeError(f"module 'hasn_edge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
