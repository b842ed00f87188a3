"""Which device profile fits a machine: the doctor's advice goes by it."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hasn_edge.doctor.environment import Environment
from hasn_edge.engine.target import load_target, shipped_targets
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.hardware.profiles import DeviceProfile

LEAST_SHARE = 0.75
"""What the system has of a Jetson's memory at least, as a share of the module's: firmware and the GPU's
carve-outs take 2 to 20 %. Another module of the same name has half or twice as much. On a card, the driver
and error correction take less than that."""


@dataclass(frozen=True)
class ProfileMatch:
    """A target and the profile of its device."""

    target: str
    profile: DeviceProfile
    exact: bool = True
    """It is this very module. Otherwise another of its name with more or less memory, whose multiprocessors
    and clocks may be others too: an AGX Orin 32GB where the profile is of the 64GB."""


def match_profile(environment: Environment) -> ProfileMatch | None:
    """Return the profile of this machine's device, or ``None`` where there is none.

    A Jetson is known by the model in its device tree, for the driver calls every Orin "Orin", and by its
    memory: power modes switch multiprocessors off, and no mode takes memory away. Where only the memory does
    not fit, the profile is the nearest and not exact. A card is known by the driver's name, capability,
    number of multiprocessors and memory: an RTX 3060 with 8 GB has another bandwidth. Of two profiles of one
    Jetson, that which has its power mode is taken.
    """
    if environment.jetson is None:
        return next((entry for entry in _profiles() if _is_card(entry, environment.gpu)), None)
    nearest = _nearest_jetson(environment.jetson, environment.memory_bytes)
    if nearest is None or _has_memory(environment.memory_bytes, nearest):
        return nearest
    return replace(nearest, exact=False)


@functools.cache
def _profiles() -> tuple[ProfileMatch, ...]:
    """Read the targets that ship: files that do not change while a program runs."""
    targets = {name: load_target(name) for name in shipped_targets()}
    return tuple(
        ProfileMatch(name, target.device) for name, target in targets.items() if target.device is not None
    )


def _nearest_jetson(jetson: Mapping[str, Any], memory: int | None) -> ProfileMatch | None:
    model = str(jetson.get("model") or "").lower()
    mode = mode_name(str(jetson.get("power_mode") or ""))
    # "super" names a power mode of the same module, which older device trees do not have; no tree names the
    # memory.
    fitting = [
        entry
        for entry in _profiles()
        if entry.profile.integrated
        and all(word in model for word in entry.target.split("-") if not re.fullmatch(r"super|\d+gb", word))
    ]

    def rank(entry: ProfileMatch) -> tuple[bool, bool, bool, int]:
        has_mode = any(mode_name(known_mode.name) == mode for known_mode in entry.profile.power_modes)
        other_kit = ("super" in entry.target) != ("super" in model)
        # The shortest name is that of the module which developer kits carry.
        return not _has_memory(memory, entry), not has_mode, other_kit, len(entry.target)

    return min(fitting, key=rank, default=None)


def _has_memory(memory: int | None, entry: ProfileMatch) -> bool:
    """Whether so many bytes are the memory of a profile; where they are not known, they may be."""
    return memory is None or LEAST_SHARE * entry.profile.memory_bytes <= memory <= entry.profile.memory_bytes


def _is_card(entry: ProfileMatch, gpu: GpuFacts | None) -> bool:
    profile = entry.profile
    return (
        gpu is not None
        and not profile.integrated
        and profile.title.startswith(gpu.name)
        and (profile.compute_capability, profile.sm_count) == (gpu.compute_capability, gpu.sm_count)
        and _has_memory(gpu.total_memory_bytes, entry)
    )


def mode_name(mode: str) -> str:
    """Return a power mode's name as all sources write it: nvpmodel's ``MODE_15W`` is elsewhere ``15W``."""
    return mode.upper().replace("_", " ").removeprefix("MODE ").strip()
