"""Known problems of TensorRT, CUDA packages and Jetsons: one check finds one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hasn_edge.doctor.checks import packages, system, tensorrt
from hasn_edge.doctor.environment import Environment
from hasn_edge.doctor.result import CheckResult

Check = Callable[[Environment], Iterator[CheckResult]]
"""Yields a result for each problem that it finds."""

CHECKS: tuple[Check, ...] = (
    system.no_gpu_in_container,
    tensorrt.not_visible,
    tensorrt.shadowed,
    tensorrt.missing_libraries,
    tensorrt.bad_version,
    tensorrt.not_for_this_board,
    tensorrt.too_old_gpu,
    tensorrt.lean_without_driver,
    tensorrt.old_driver,
    packages.cuda_backend,
    packages.torch,
    packages.opencv,
    packages.opencv_backends,
    system.swap,
    system.power_mode,
    system.clocks,
    tensorrt.stale_engines,
)
"""All of them, in the order in which they are repaired: the first can be the cause of those that follow, and
what only a build or a measurement needs comes last."""


def run_checks(environment: Environment) -> tuple[CheckResult, ...]:
    """Return every problem that is found, with what helps."""
    return tuple(result for check in CHECKS for result in check(environment))
