"""Checks of boards and containers: GPUs that do not answer, power modes, clocks, memory that runs out."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hasn_edge.doctor.commands import on_board, start_container
from hasn_edge.doctor.environment import Environment
from hasn_edge.doctor.match import mode_name
from hasn_edge.doctor.result import CheckResult, State
from hasn_edge.errors import call, say, shell
from hasn_edge.hardware.jetson import Jetson

SMALL_MEMORY = 9 * 2**30
"""Jetsons of 8 GB: compiling an engine there needs memory that other programs hold."""


def no_gpu_in_container(environment: Environment) -> Iterator[CheckResult]:
    """The driver's library is here and no GPU answers it, or a Jetson has no library."""
    if environment.gpu is not None:
        return
    board = environment.jetson is not None
    start = start_container(environment)
    if environment.driver:
        look = (
            "see that this user is in the groups video and render"
            if board
            else "see that nvidia-smi works and that CUDA_VISIBLE_DEVICES is not empty"
        )
        yield CheckResult(
            name="GPU",
            state=State.MISSING,
            detail="NVIDIA's driver library is here, and no GPU answers",
            cures=(start,) if environment.container else (say(look), say(f"for a container {start}")),
        )
    elif board:
        install = shell("sudo apt install nvidia-l4t-cuda")
        yield CheckResult(
            name="GPU",
            state=State.MISSING,
            detail="a Jetson without NVIDIA's driver library (libcuda.so.1)",
            cures=(start if environment.container else install,),
        )


def power_mode(environment: Environment) -> Iterator[CheckResult]:
    """A Jetson in a power mode that is not its fastest."""
    if environment.jetson is None or not environment.jetson.get("power_mode"):
        return
    mode = str(environment.jetson["power_mode"])
    fastest = _fastest_mode(environment)
    if fastest is None or mode_name(fastest[1]) == mode_name(mode):
        return
    if not mode_name(fastest[1]).startswith("MAXN") and _watts(mode) == _watts(fastest[1]):
        return  # the same budget over another number of cores
    number, name = fastest
    yield CheckResult(
        name="power mode",
        state=State.WARNING,
        detail=f"{mode}; the fastest is {name}",
        cures=(on_board(environment, f"sudo nvpmodel -m {number}; sudo jetson_clocks"),),
    )


def clocks(environment: Environment) -> Iterator[CheckResult]:
    """A Jetson whose GPU clock follows the load: frames take longer after a pause, figures vary."""
    facts = environment.jetson or {}
    if facts.get("clocks_locked") is not False:
        return
    yield CheckResult(
        name="clocks",
        state=State.WARNING,
        detail=f"the GPU's clock floats between {facts['gpu_min_hz'] / 1e6:.0f} and "
        f"{facts['gpu_max_hz'] / 1e6:.0f} MHz",
        cures=(on_board(environment, "sudo jetson_clocks"), call("bench", set_clocks=True)),
    )


def swap(environment: Environment) -> Iterator[CheckResult]:
    """A small Jetson without swap on disk: the compiler is killed when memory runs out."""
    memory = environment.memory_bytes
    if environment.jetson is None or memory is None or memory > SMALL_MEMORY:
        return
    compressed = sum(size for name, size in environment.swaps if "zram" in name)
    if any("zram" not in name for name, _ in environment.swaps):
        return
    what = (
        f"only zram ({compressed / 2**30:.1f} GiB), which is memory itself"
        if compressed
        else "no swap at all"
    )
    off = "; sudo systemctl disable nvzramconfig" if compressed else ""
    yield CheckResult(
        name="swap",
        state=State.WARNING,
        detail=f"{what}, on {memory / 2**30:.1f} GiB: compiling an engine may be killed",
        cures=(
            on_board(
                environment,
                "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && "
                f"sudo swapon /swapfile{off}",
            ),
        ),
    )


def _fastest_mode(environment: Environment) -> tuple[int, str] | None:
    """Return number and name of nvpmodel's fastest mode: MAXN where there is one, else the most watts."""
    try:
        modes = list(Jetson(environment.root).power_modes().items())
    except OSError:
        return None
    unlimited = [mode for mode in modes if mode_name(mode[1]).startswith("MAXN")]
    if unlimited:
        return unlimited[0]
    return max(modes, key=lambda mode: _watts(mode[1]), default=None)


def _watts(name: str) -> int:
    found = re.search(r"(\d+)W", name)
    return int(found[1]) if found else 0
