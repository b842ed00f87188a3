"""How much memory a frame takes and how much an upscaler may take: why large images are tiled."""

from __future__ import annotations

from pathlib import Path

from hasn_edge.hardware.host import available_memory_bytes
from hasn_edge.runtime.session import Session
from hasn_edge.spec import ModelSpec, NetworkSpec

DEFAULT_LIMIT_BYTES = 2_000_000_000
"""What one call of an upscaler takes at most by default, its result included. With what the
interpreter and the libraries take (0.1 GB with ONNX Runtime, 0.3 GB with PyTorch) it stays below 3 GB."""

NO_LIMIT_BYTES = 1 << 62
"""For whole frames whatever is free: tiles would count as a difference between two forms of a network."""

_WIDE_TENSORS = {"onnxruntime": 5.5, "torchscript": 5.5, "pytorch": 7.0}
"""Tensors of the expanded width (156 channels) that are alive together at the worst moment.

Measured with benchmarks/memory.py as growth of the peak resident memory over that of a 16 x 16 frame. At
480 x 360 and 640 x 480 the published network takes 3.8 to 4.2 kB a pixel in ONNX Runtime, 3.1 in TorchScript,
4.7 in PyTorch; at 320 x 180 up to 4.4 in TorchScript and 6.3 in PyTorch, because freed blocks below 32 MB
stay with the process. Rounded up."""


GRAPH_FEATURES = 64
"""Channels of a network that comes as a graph, three tensors of which are thought to be alive together at the
output's size: more than networks need that compute at the input's."""


def bytes_per_pixel(spec: NetworkSpec, backend: str) -> int:
    """Return the working memory in bytes that a frame needs for each of its input pixels, as an estimate.

    The widest part of a block, three tensors of the body's width and two copies of the output are counted
    together although they are not all alive at once: an upper bound for narrow networks. On a CPU, FP16 and
    INT8 save nothing: ONNX Runtime took 3 and 5 % more for them than for FP32.
    """
    output = spec.channels * spec.scale**2
    if backend == "tensorrt":  # what lies between input and output was allocated when the engine was opened
        return 2 * 4 * (spec.channels + output)
    if not isinstance(spec, ModelSpec):
        return 4 * (3 * GRAPH_FEATURES * spec.scale**2 + 2 * output)
    expanded = spec.features * spec.expansion
    return round(4 * (_WIDE_TENSORS.get(backend, 7.0) * expanded + 3 * spec.features + 2 * output))


def largest_frame(session: Session, limit_bytes: int) -> int:
    """Return how many input pixels a frame may have so that running it takes no more than ``limit_bytes``."""
    return limit_bytes // bytes_per_pixel(session.spec, session.backend)


def default_limit_bytes(root: Path = Path("/")) -> int:
    """Return the smaller of :data:`DEFAULT_LIMIT_BYTES` and half of the memory that is free.

    Args:
        root: Where the file system starts.
    """
    free = available_memory_bytes(root)
    return DEFAULT_LIMIT_BYTES if free is None else min(DEFAULT_LIMIT_BYTES, free // 2)
