"""Known traps of TensorRT, CUDA packages and Jetsons: each says whether a machine is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hasn_edge.doctor.checks import board, packages, tensorrt
from hasn_edge.doctor.environment import Machine
from hasn_edge.doctor.result import Finding

Trap = Callable[[Machine], Iterator[Finding]]

TRAPS: tuple[Trap, ...] = (
    board.no_gpu_in_container,
    board.power_mode,
    board.clocks,
    board.swap,
    tensorrt.not_visible,
    tensorrt.shadowed,
    tensorrt.missing_libraries,
    tensorrt.bad_version,
    tensorrt.not_for_this_board,
    tensorrt.too_old_gpu,
    tensorrt.lean_without_driver,
    tensorrt.old_driver,
    tensorrt.stale_engines,
    packages.cuda_backend,
    packages.torch_without_cuda,
    packages.opencv,
    packages.opencv_backends,
)
"""All of them, in the order in which they are mended: what stands first can be the cause of what follows."""


def find_traps(machine: Machine) -> tuple[Finding, ...]:
    """Return every trap that ``machine`` is in, with its cure."""
    return tuple(finding for trap in TRAPS for finding in trap(machine))
