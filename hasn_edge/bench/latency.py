"""How long calls take: raw samples first, statistics derived from them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Wall-clock time of repeated calls, host to host, warm-up excluded."""

    turns: tuple[tuple[float, ...], ...]
    """Every sample in seconds, by turn, in the order measured."""

    @property
    def seconds(self) -> tuple[float, ...]:
        """Every sample."""
        return tuple(sample for turn in self.turns for sample in turn)

    def times(self, other: Latency) -> float:
        """Return how many times as long as ``other`` this took.

        The median over turns of the ratio of the turns' medians: both had their turn within seconds of
        each other, so that what slows the machine down for a while slows both.

        Raises:
            ValueError: they did not have the same number of turns.
        """
        pairs = zip(self.turns, other.turns, strict=True)
        return float(np.median([np.median(mine) / np.median(theirs) for mine, theirs in pairs]))

    def quantile_ms(self, q: float) -> float:
        """Return the ``q`` quantile in milliseconds, linearly interpolated; ``q`` from 0 to 1."""
        return float(np.quantile(self.seconds, q)) * 1e3

    @property
    def median_ms(self) -> float:
        """Median in milliseconds."""
        return self.quantile_ms(0.5)

    @property
    def fps(self) -> float:
        """Frames per second at the median."""
        return 1e3 / self.median_ms


def time_calls(call: Callable[[], object], *, at_least: int, seconds: float = 0.2) -> tuple[float, ...]:
    """Call repeatedly until ``at_least`` samples exist and ``seconds`` have passed; return each duration."""
    samples: list[float] = []
    begin = time.perf_counter()
    while len(samples) < at_least or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return tuple(samples)
