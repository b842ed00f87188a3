"""Power, temperature and clock over time: a source that can be read, and a thread that reads it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import Protocol

INTERVAL_SECONDS = 0.1
"""Between readings. The sensors of a Jetson average over some tens of milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a source reported at one moment."""

    watts: Mapping[str, float]
    """Power of each rail."""
    celsius: Mapping[str, float] = field(default_factory=dict)
    gpu_hertz: float | None = None


class PowerSource(Protocol):
    """Something that knows how much power is drawn. Reading changes nothing."""

    rails: tuple[str, ...]
    """Every rail that it reads."""
    total: tuple[str, ...]
    """The rails whose sum is the power of the whole module or card; empty where that is not known."""

    def read(self) -> Sample:
        """Return the present values.

        Raises:
            OSError: they cannot be read.
        """

    def close(self) -> None:
        """Free what it holds; safe to call twice."""


@dataclass(frozen=True, kw_only=True)
class PowerTrace:
    """Samples of one stretch of time, in order."""

    seconds: Sequence[float]
    """When each sample was taken, by a clock that does not jump."""
    samples: Sequence[Sample]
    total: tuple[str, ...]
    """See :attr:`PowerSource.total`."""
    stopped_by: str | None = None
    """Why the last reading failed; ``None`` where it did not."""

    @property
    def rail(self) -> str | None:
        """Name of the rail that totals are of, or of the sum; ``None`` where no total is known."""
        return " + ".join(self.total) or None

    def watts(self, rail: str) -> float | None:
        """Return the mean power of one rail, weighted by time; ``None`` without samples of it."""
        return self._mean([sample.watts.get(rail) for sample in self.samples])

    @property
    def total_watts(self) -> float | None:
        """Mean power of the whole, weighted by time; ``None`` where it is not known."""
        if not self.total:
            return None
        sums = []
        for sample in self.samples:
            parts = [sample.watts.get(rail) for rail in self.total]
            sums.append(None if None in parts else sum(part for part in parts if part is not None))
        return self._mean(sums)

    @property
    def gpu_hertz(self) -> float | None:
        """Mean GPU clock, weighted by time."""
        return self._mean([sample.gpu_hertz for sample in self.samples])

    def celsius(self) -> dict[str, tuple[float, float, float]]:
        """Return each thermal zone's first, last and highest temperature."""
        zones: dict[str, list[float]] = {}
        for sample in self.samples:
            for zone, value in sample.celsius.items():
                zones.setdefault(zone, []).append(value)
        return {zone: (values[0], values[-1], max(values)) for zone, values in zones.items()}

    def _mean(self, values: Sequence[float | None]) -> float | None:
        known = [(t, v) for t, v in zip(self.seconds, values, strict=True) if v is not None]
        if not known:
            return None
        span = known[-1][0] - known[0][0]
        if span <= 0:
            return sum(v for _, v in known) / len(known)
        # Trapezoids: readings are late when the machine is busy, which is when power is highest.
        pairs = pairwise(known)
        return sum((t1 - t0) * (v0 + v1) / 2 for (t0, v0), (t1, v1) in pairs) / span


class PowerSampler:
    """Reads a source in a thread while a block runs.

    >>> with PowerSampler(source) as sampler:  # doctest: +SKIP
    ...     work()
    >>> sampler.trace().total_watts  # doctest: +SKIP
    """

    def __init__(self, source: PowerSource, *, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._source = source
        self._interval = interval_seconds
        self._seconds: list[float] = []
        self._samples: list[Sample] = []
        self._stopped_by: str | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="power sampler", daemon=True)

    def __enter__(self) -> PowerSampler:
        """Take the first sample, then go on in the background."""
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take a last sample and stop."""
        self._end.set()
        self._thread.join()
        self._take()

    def trace(self) -> PowerTrace:
        """Return what was read; call it after the block."""
        return PowerTrace(
            seconds=tuple(self._seconds),
            samples=tuple(self._samples),
            total=self._source.total,
            stopped_by=self._stopped_by,
        )

    def _loop(self) -> None:
        while not self._end.wait(self._interval):
            self._take()

    def _take(self) -> None:
        try:
            sample = self._source.read()
        except (OSError, ValueError) as exc:
            self._stopped_by = str(exc)  # a busy sensor may answer the next time
            return
        self._stopped_by = None
        self._seconds.append(time.monotonic())
        self._samples.append(sample)
