"""Which device profile a machine is: what the doctor, builds and estimates go by."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace

from hasn_edge.doctor.environment import Machine
from hasn_edge.engine.target import load_target, shipped_targets
from hasn_edge.hardware.profiles import DeviceProfile

LEAST_SHARE = 0.75
"""What the system has of a Jetson's memory at least, as a share of the module's: firmware and the GPU's
carve-outs take 2 to 20 %. Another module of the same name has half or twice as much."""


@dataclass(frozen=True)
class Known:
    """A target and the profile of its device."""

    target: str
    profile: DeviceProfile
    exact: bool = True
    """It is this very module. Otherwise another of its name with more or less memory, whose multiprocessors
    and clocks may be others too: an AGX Orin 32GB where the profile is of the 64GB."""


def recognise(machine: Machine) -> Known | None:
    """Return the profile of this machine's device, or ``None`` where there is none.

    A Jetson is told by the model in its device tree, for the driver calls every Orin "Orin", and by its
    memory: power modes switch multiprocessors off, and no mode takes memory away. Where only the memory does
    not fit, the profile is the nearest and says so. A card is told by the driver's name, capability and
    number of multiprocessors. Of two profiles of one Jetson, that which has its power mode is taken.
    """
    known = _profiles()
    if machine.jetson is None:
        return next(iter(_cards(machine, known)), None)
    fitting = _jetsons(machine, known)
    if not fitting:
        return None
    return fitting[0] if _has_memory(machine, fitting[0]) else replace(fitting[0], exact=False)


@functools.cache
def _profiles() -> tuple[Known, ...]:
    """Read the targets that ship: files that do not change while a program runs."""
    targets = {name: load_target(name) for name in shipped_targets()}
    return tuple(Known(name, target.device) for name, target in targets.items() if target.device is not None)


def _jetsons(machine: Machine, known: tuple[Known, ...]) -> list[Known]:
    """Return the fitting profiles, the best first."""
    assert machine.jetson is not None
    model = str(machine.jetson.get("model") or "").lower()
    mode = plain(str(machine.jetson.get("power_mode") or ""))
    # "super" names a power mode of the same module, which older device trees do not have; no tree names the
    # memory.
    fitting = [
        entry
        for entry in known
        if entry.profile.integrated
        and all(word in model for word in entry.target.split("-") if not re.fullmatch(r"super|\d+gb", word))
    ]

    def rank(entry: Known) -> tuple[bool, bool, bool, int]:
        has_mode = any(plain(known_mode.name) == mode for known_mode in entry.profile.power_modes)
        other_kit = ("super" in entry.target) != ("super" in model)
        # The shortest name is that of the module which developer kits carry.
        return not _has_memory(machine, entry), not has_mode, other_kit, len(entry.target)

    return sorted(fitting, key=rank)


def _has_memory(machine: Machine, entry: Known) -> bool:
    """Whether the machine has the memory of a profile; where it is not known, it may."""
    memory = machine.memory_bytes
    return memory is None or LEAST_SHARE * entry.profile.memory_bytes <= memory <= entry.profile.memory_bytes


def _cards(machine: Machine, known: tuple[Known, ...]) -> list[Known]:
    gpu = machine.gpu
    if gpu is None:
        return []
    return [
        entry
        for entry in known
        if not entry.profile.integrated
        and entry.profile.title.startswith(gpu.name)
        and (entry.profile.compute_capability, entry.profile.sm_count)
        == (gpu.compute_capability, gpu.sm_count)
    ]


def plain(mode: str) -> str:
    """Return a power mode's name as all sources write it: nvpmodel's ``MODE_15W`` is elsewhere ``15W``."""
    return mode.upper().replace("_", " ").removeprefix("MODE ").strip()
