"""How much scratch memory the compiler may let a layer use."""

from __future__ import annotations

from collections.abc import Callable

from hasn_edge.engine.target import EngineTarget
from hasn_edge.hardware import host
from hasn_edge.hardware.gpu import GpuFacts

INTEGRATED_SHARE = 4
"""On a Jetson a quarter of the free memory: compiler, weights and all other programs live in the same."""
DISCRETE_SHARE = 2
"""On a card half of the free memory: weights and the tensors being timed need the rest."""

_LEAST = 64 << 20
"""Below this hardly any convolution has a kernel; running out then is the better message."""


def choose_workspace(
    target: EngineTarget, gpu: GpuFacts | None, device_free: Callable[[], int]
) -> tuple[int | None, str]:
    """Return the limit in bytes and where it is from.

    Args:
        target: Its own ``workspace_bytes`` decides where it is set.
        gpu: The GPU that compiles; ``None`` for TensorRT for RTX, which need not have one.
        device_free: Asks for the free memory of a GPU that has its own.

    Returns:
        ``None`` where the compiler's default stands, which is all memory of the GPU.
    """
    if target.workspace_bytes is not None:
        return target.workspace_bytes, "target"
    if gpu is None:
        return None, "the compiler's default"
    if gpu.integrated:
        free = host.available_memory_bytes()
        share = None if free is None else free // INTEGRATED_SHARE
    else:
        share = device_free() // DISCRETE_SHARE
    if share is None:
        return None, "the compiler's default"
    return max(share, _LEAST) >> 20 << 20, "free memory"
