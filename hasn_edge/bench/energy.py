"""Power and energy of a benched case, from the traces of its rounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hasn_edge.hardware.power import PowerSampler, PowerSource, PowerTrace

IDLE_SECONDS = 2.0
"""How long power and the CPUs' work are read before the first round, with nothing running."""


@dataclass(frozen=True, kw_only=True)
class Energy:
    """What a case drew while it ran. Figures that could not be read are ``None``."""

    rail: str | None
    """The rail, or the rails whose sum it is, that watts and joules are of."""
    watts: float | None
    """Mean over the rounds, warm-up included."""
    idle_watts: float | None
    """Mean of the same rail before the first round."""
    joules_per_frame: float | None
    """Everything that the rail delivered during the rounds over every frame computed in them."""
    frames: int
    gpu_hertz: float | None = None
    """Mean clock of the GPU."""
    rails: Mapping[str, float] = field(default_factory=dict)
    """Mean watts of every rail."""
    celsius: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    """First, last and highest temperature of each zone."""
    not_read: str | None = None
    """Why reading ended early."""

    @property
    def joules_above_idle(self) -> float | None:
        """Part of :attr:`joules_per_frame` that was drawn above :attr:`idle_watts`."""
        if self.joules_per_frame is None or self.idle_watts is None or not self.watts:
            return None
        return self.joules_per_frame * (1 - self.idle_watts / self.watts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            **vars(self),
            "joules_above_idle": self.joules_above_idle,
            "rails": dict(self.rails),
            "celsius": {
                zone: {"first": first, "last": last, "highest": highest}
                for zone, (first, last, highest) in self.celsius.items()
            },
        }


class EnergyMeter:
    """Collects the traces of one case's rounds."""

    def __init__(self, source: PowerSource | None) -> None:
        self._source = source
        self._traces: list[PowerTrace] = []
        self._frames = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read power while the block runs; without a source nothing is read."""
        if self._source is None:
            yield
            return
        with PowerSampler(self._source) as sampler:
            yield
        self._traces.append(sampler.trace())

    def count(self, frames: int) -> None:
        """Add the number of frames that were computed in a block."""
        self._frames += frames

    def result(self, idle: PowerTrace | None = None) -> Energy | None:
        """Return the figures; ``None`` without a source."""
        if self._source is None or not self._traces:
            return None
        watts = _weighted_mean(self._traces, [trace.total_watts for trace in self._traces])
        spans = [_span(trace) for trace in self._traces]
        stopped = next((trace.stopped_by for trace in self._traces if trace.stopped_by), None)
        # Frames after the sensor failed were not paid for in the trace.
        joules = None if watts is None or stopped else watts * sum(spans)
        rails = {
            rail: mean
            for rail in self._source.rails
            if (mean := _weighted_mean(self._traces, [trace.watts(rail) for trace in self._traces]))
            is not None
        }
        return Energy(
            rail=self._traces[0].rail,
            watts=watts,
            idle_watts=idle.total_watts if idle is not None else None,
            joules_per_frame=joules / self._frames if joules and self._frames else None,
            frames=self._frames,
            gpu_hertz=_weighted_mean(self._traces, [trace.gpu_hertz for trace in self._traces]),
            rails=rails,
            celsius=_temperatures(self._traces),
            not_read=stopped,
        )


def _span(trace: PowerTrace) -> float:
    return trace.seconds[-1] - trace.seconds[0] if trace.seconds else 0.0


def _weighted_mean(traces: Sequence[PowerTrace], means: Sequence[float | None]) -> float | None:
    known = [(_span(trace), mean) for trace, mean in zip(traces, means, strict=True) if mean is not None]
    if len(known) < len(traces):
        return None
    total = sum(span for span, _ in known)
    if total <= 0:
        return sum(mean for _, mean in known) / len(known)
    return sum(span * mean for span, mean in known) / total


def _temperatures(traces: Sequence[PowerTrace]) -> dict[str, tuple[float, float, float]]:
    zones: dict[str, tuple[float, float, float]] = {}
    for trace in traces:
        for zone, (first, last, highest) in trace.celsius().items():
            begun = zones.get(zone, (first, last, highest))
            zones[zone] = (begun[0], last, max(begun[2], highest))
    return zones
