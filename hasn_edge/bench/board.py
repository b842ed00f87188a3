"""The device that a benchmark runs on: whether it is here, what it is, and where its power is read."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hasn_edge.errors import MissingDependencyError, UnsupportedError, call, say, use
from hasn_edge.hardware import host
from hasn_edge.hardware.gpu import GpuFacts, gpu_facts
from hasn_edge.hardware.jetson import Ina3221, Jetson
from hasn_edge.hardware.nvml import Nvml
from hasn_edge.hardware.power import PowerSource
from hasn_edge.hardware.readings import reason
from hasn_edge.hardware.tegrastats import Tegrastats

DEVICES = ("cpu", "cuda", "rtx", "jetson")
"""What a benchmark can run on."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """A device that is here."""

    kind: str
    """One of :data:`DEVICES`."""
    title: str
    gpu: GpuFacts | None = None
    jetson: Jetson | None = None

    def facts(self) -> dict[str, Any]:
        """Return what the device reports now: versions, power mode, clocks, temperatures; JSON values."""
        found: dict[str, Any] = {"title": self.title}
        if self.gpu is not None:
            found["gpu"] = dict(vars(self.gpu))
        if self.jetson is not None:
            found["jetson"] = self.jetson.facts().to_dict()
        elif self.gpu is not None:
            card, why = self._card()
            found["card"] = card.facts().to_dict() if card else {"not_read": {"card": why}}
            if card:
                card.close()
        return found

    def power(self) -> tuple[PowerSource | None, str]:
        """Return where power is read, or ``None`` and the reason. Close it after use."""
        if self.jetson is not None:
            return _jetson_power(self.jetson)
        if self.gpu is not None:
            card, why = self._card()
            if card is not None and card.divided:
                card.close()
                return None, (
                    f"power: {self.gpu.name} is one of several instances (MIG) of a card, and the card's "
                    "sensor measures all of them together"
                )
            return card, why
        return None, "power: not read on a CPU"

    def _card(self) -> tuple[Nvml | None, str]:
        assert self.gpu is not None
        try:
            return Nvml(bus_id=self.gpu.pci_bus_id, name=self.gpu.name), ""
        except MissingDependencyError as exc:
            return None, f"power: {exc}"
        except LookupError as exc:
            return None, f"power: {reason(exc)}"


def find_board(kind: str, *, root: Path = Path("/"), gpu: Callable[[], GpuFacts | None] = gpu_facts) -> Board:
    """Return the device of one kind.

    Args:
        kind: One of :data:`DEVICES`.
        root: Where the file system starts.
        gpu: Asks the driver.

    Raises:
        UnsupportedError: it is not here; the message names what is, the cures how to estimate instead.
    """
    if kind not in DEVICES:
        raise UnsupportedError(f"unknown device {kind!r}; expected one of: {', '.join(DEVICES)}")
    if kind == "cpu":
        return Board(kind=kind, title=host.cpu_name())
    jetson = Jetson(root)
    facts = gpu()
    if kind == "jetson" and not jetson.present:
        raise UnsupportedError(
            f"device 'jetson': this machine is no Jetson, it is {_this_machine(facts)}",
            say("run it on the Jetson"),
            call("bench", estimate="orin-nano"),
        )
    if kind == "rtx" and jetson.present:
        raise UnsupportedError(
            "device 'rtx': TensorRT for RTX is for desktop GPUs and this machine is a Jetson",
            use(device="jetson"),
        )
    if facts is None:
        raise UnsupportedError(
            f"device {kind!r}: no NVIDIA GPU with its driver answers here; this machine is "
            f"{_this_machine(facts)}",
            say("give a container the GPU"),
            call("bench", estimate="orin-nano" if kind == "jetson" else "rtx-4090"),
        )
    if not jetson.present:
        return Board(kind=kind, title=facts.name, gpu=facts)
    model = jetson.facts().values["model"]
    return Board(kind=kind, title=model or facts.name, gpu=facts, jetson=jetson)


def _this_machine(facts: GpuFacts | None) -> str:
    gpu = "without an NVIDIA driver" if facts is None else f"with {facts.title}"
    return f"{platform.system()} on {platform.machine()} ({host.cpu_name()}) {gpu}"


def _jetson_power(jetson: Jetson) -> tuple[PowerSource | None, str]:
    try:
        sensor = Ina3221(jetson)
        sensor.read()  # the files exist everywhere, and cannot be read in some containers
        return sensor, ""
    except (OSError, ValueError, LookupError) as exc:
        why = reason(exc)
    try:
        return Tegrastats(), ""
    except (OSError, LookupError) as exc:
        return None, f"power: {why}; tegrastats: {reason(exc)}"
