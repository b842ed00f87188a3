"""What NVIDIA's management library says about a card: power, clocks, temperature, throttling. Read-only."""

from __future__ import annotations

from typing import Any

from hasn_edge.device.facts import Facts
from hasn_edge.device.power import Sample
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

    Args:
        index: Number of the card as the management library counts them: by bus address.
        name: Name of the card that CUDA uses; another of that name is taken where ``index`` has another.

    Raises:
        MissingDependencyError: ``nvidia-ml-py`` is not installed.
        LookupError: no driver, or no such card.
    """

    rails: tuple[str, ...] = (_RAIL,)
    total: tuple[str, ...] = (_RAIL,)

    def __init__(self, index: int = 0, *, name: str | None = None) -> None:
        self._nvml = require("pynvml", extra="nvml", needed_for="Reading power and clocks of a card")
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as exc:
            raise LookupError(f"NVIDIA's management library: {exc}") from exc
        self._open = True
        try:
            self._card = self._find(index, name)
        except BaseException:
            self.close()
            raise

    def facts(self) -> Facts:
        """Return name, driver, limits, clocks and what holds the clocks down."""
        nvml, card = self._nvml, self._card
        facts = Facts()
        for key, read in {
            "name": lambda: _text(nvml.nvmlDeviceGetName(card)),
            "driver": lambda: _text(nvml.nvmlSystemGetDriverVersion()),
            "power_limit_watts": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(card) / 1000,
            "gpu_hz": lambda: nvml.nvmlDeviceGetClockInfo(card, nvml.NVML_CLOCK_SM) * 1_000_000,
            "gpu_max_hz": lambda: nvml.nvmlDeviceGetMaxClockInfo(card, nvml.NVML_CLOCK_SM) * 1_000_000,
            "memory_clock_hz": lambda: nvml.nvmlDeviceGetClockInfo(card, nvml.NVML_CLOCK_MEM) * 1_000_000,
            "performance_state": lambda: f"P{nvml.nvmlDeviceGetPerformanceState(card)}",
            "celsius.gpu": lambda: float(nvml.nvmlDeviceGetTemperature(card, nvml.NVML_TEMPERATURE_GPU)),
            "held_down_by": self.held_down_by,
        }.items():
            facts.ask(key, lambda read=read: self._ask(read))  # type: ignore[misc]
        return facts

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

    def _find(self, index: int, name: str | None) -> Any:
        nvml = self._nvml
        cards = []
        for number in range(self._ask(nvml.nvmlDeviceGetCount, LookupError)):
            cards.append(
                self._ask(lambda number=number: nvml.nvmlDeviceGetHandleByIndex(number), LookupError)
            )
        if not 0 <= index < len(cards):
            raise LookupError(f"no card number {index}; NVIDIA's management library sees {len(cards)}")
        if name is None or _text(nvml.nvmlDeviceGetName(cards[index])) == name:
            return cards[index]
        same = [card for card in cards if _text(nvml.nvmlDeviceGetName(card)) == name]
        if len(same) != 1:
            raise LookupError(f"cannot tell which of {len(cards)} cards CUDA's {name} is")
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
