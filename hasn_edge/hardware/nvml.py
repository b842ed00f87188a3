"""What NVIDIA's management library reports about a card: power, clocks, temperature. It only reads."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hasn_edge.hardware.power import Sample
from hasn_edge.hardware.readings import Readings
from hasn_edge.optional import require

THROTTLE_REASONS = {
    0x0002: "clocks set by the application",
    0x0004: "power cap",
    0x0008: "hardware slowdown",
    0x0010: "sync boost",
    0x0020: "temperature (driver)",
    0x0040: "temperature (hardware)",
    0x0080: "external power brake",
    0x0100: "display clocks",
}
"""Bits of nvml.h's ``nvmlClocksEventReason*``; bit 0 is an idle GPU."""

_RAIL = "board"


class Nvml:
    """One card, through the package ``nvidia-ml-py``.

    The library counts cards by bus address, and CUDA by ``CUDA_VISIBLE_DEVICES`` and ``CUDA_DEVICE_ORDER``:
    a number or a name that both know may be two cards. The address is one card's only.

    Args:
        bus_id: Address of the card that CUDA uses (:attr:`~hasn_edge.hardware.gpu.GpuFacts.pci_bus_id`).
        name: Its name, for a card without a known address: taken where exactly one card has it.

    Raises:
        MissingDependencyError: ``nvidia-ml-py`` is not installed.
        LookupError: no driver, or several cards may be meant.
    """

    rails: tuple[str, ...] = (_RAIL,)
    total: tuple[str, ...] = (_RAIL,)

    def __init__(self, *, bus_id: str | None, name: str) -> None:
        self._nvml = require("pynvml", extra="nvml", needed_for="Reading power and clocks of a card")
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as exc:
            raise LookupError(f"NVIDIA's management library: {exc}") from exc
        self._open = True
        try:
            self._card = self._find(bus_id, name)
        except BaseException:
            self.close()
            raise

    def facts(self) -> Readings:
        """Return name, driver, limits, clocks and what holds the clocks down."""
        nvml, card = self._nvml, self._card
        facts = Readings()
        for key, read in {
            "name": lambda: _text(nvml.nvmlDeviceGetName(card)),
            "driver": lambda: _text(nvml.nvmlSystemGetDriverVersion()),
            "power_limit_watts": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(card) / 1000,
            "gpu_hz": lambda: nvml.nvmlDeviceGetClockInfo(card, nvml.NVML_CLOCK_SM) * 1_000_000,
            "gpu_max_hz": lambda: nvml.nvmlDeviceGetMaxClockInfo(card, nvml.NVML_CLOCK_SM) * 1_000_000,
            "memory_clock_hz": lambda: nvml.nvmlDeviceGetClockInfo(card, nvml.NVML_CLOCK_MEM) * 1_000_000,
            "performance_state": lambda: f"P{nvml.nvmlDeviceGetPerformanceState(card)}",
            "celsius.gpu": lambda: float(nvml.nvmlDeviceGetTemperature(card, nvml.NVML_TEMPERATURE_GPU)),
            "divided": lambda: self.divided,
            "held_down_by": self.held_down_by,
        }.items():
            facts.ask(key, lambda read=read: self._ask(read))  # type: ignore[misc]
        return facts

    @property
    def divided(self) -> bool:
        """Whether the card is divided into instances (MIG): its sensor measures all of them together."""
        mode = self._maybe(lambda: self._nvml.nvmlDeviceGetMigMode(self._card))
        return mode is not None and mode[0] == 1

    def held_down_by(self) -> list[str]:
        """Return what keeps the clocks below their maximum now."""
        reasons = int(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._card))
        return [text for bit, text in THROTTLE_REASONS.items() if reasons & bit]

    def read(self) -> Sample:
        """Return the card's power, temperature and clock."""
        nvml, card = self._nvml, self._card
        watts = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(card) / 1000)
        celsius = self._maybe(lambda: float(nvml.nvmlDeviceGetTemperature(card, nvml.NVML_TEMPERATURE_GPU)))
        clock = self._maybe(lambda: nvml.nvmlDeviceGetClockInfo(card, nvml.NVML_CLOCK_SM) * 1e6)
        return Sample(
            watts={_RAIL: watts}, celsius={} if celsius is None else {"gpu": celsius}, gpu_hertz=clock
        )

    def close(self) -> None:
        """Leave the library; safe to call twice."""
        if self._open:
            self._open = False
            self._nvml.nvmlShutdown()

    def _find(self, bus_id: str | None, name: str) -> Any:
        nvml = self._nvml
        if bus_id is not None:
            with suppress(nvml.NVMLError):
                return nvml.nvmlDeviceGetHandleByPciBusId(bus_id.encode())
        cards = [
            self._ask(lambda number=number: nvml.nvmlDeviceGetHandleByIndex(number), LookupError)
            for number in range(self._ask(nvml.nvmlDeviceGetCount, LookupError))
        ]
        names = [
            _text(self._ask(lambda card=card: nvml.nvmlDeviceGetName(card), LookupError)) for card in cards
        ]
        same = [card for card, its in zip(cards, names, strict=True) if its == name]
        if len(same) != 1:
            where = f"at {bus_id}" if bus_id else "at an address that CUDA does not give"
            raise LookupError(
                f"cannot tell which of the {len(cards)} cards of NVIDIA's management library is CUDA's "
                f"{name} {where}: {len(same)} of them have that name"
            )
        return same[0]

    def _ask(self, read: Any, error: type[Exception] = OSError) -> Any:
        try:
            return read()
        except self._nvml.NVMLError as exc:
            raise error(f"NVIDIA's management library: {exc}") from exc

    def _maybe(self, read: Any) -> Any:
        try:
            return read()
        except self._nvml.NVMLError:
            return None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
