"""How long calls take: raw samples first, statistics derived from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hasn_edge.runtime.session import Session, Timing

TENTHS_FROM = 20
"""The fewest samples whose first and last tenth are reported."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """One duration of repeated calls, warm-up excluded: host to host, or a part of it."""

    rounds: tuple[tuple[float, ...], ...]
    """Every sample in seconds, by round, in the order measured."""

    @property
    def seconds(self) -> tuple[float, ...]:
        """Every sample."""
        return tuple(sample for each in self.rounds for sample in each)

    def ratios(self, other: Latency) -> tuple[float, ...]:
        """Return how many times as long as ``other`` this took, by round: the ratio of both medians.

        A round of both was measured within seconds, so that what slows the machine down for a while slows
        both.

        Raises:
            ValueError: they did not have the same number of rounds.
        """
        pairs = zip(self.rounds, other.rounds, strict=True)
        return tuple(float(np.median(mine) / np.median(theirs)) for mine, theirs in pairs)

    def times(self, other: Latency) -> float:
        """Return the median of :meth:`ratios`."""
        return float(np.median(self.ratios(other)))

    def quantile_ms(self, q: float) -> float:
        """Return the ``q`` quantile in milliseconds, linearly interpolated; ``q`` from 0 to 1."""
        return float(np.quantile(self.seconds, q)) * 1e3

    @property
    def median_ms(self) -> float:
        """Median in milliseconds."""
        return self.quantile_ms(0.5)

    @property
    def std_ms(self) -> float:
        """Standard deviation of the samples in milliseconds."""
        return float(np.std(self.seconds, ddof=1)) * 1e3 if len(self.seconds) > 1 else 0.0

    @property
    def tenths_ms(self) -> tuple[float, float] | None:
        """Median of the first and of the last tenth of the samples: they differ where a device throttles.

        ``None`` with fewer than :data:`TENTHS_FROM` samples.
        """
        tenth = len(self.seconds) // 10
        if len(self.seconds) < TENTHS_FROM:
            return None
        first, last = np.median(self.seconds[:tenth]), np.median(self.seconds[-tenth:])
        return float(first) * 1e3, float(last) * 1e3

    @property
    def fps(self) -> float:
        """Frames per second at the median."""
        return 1e3 / self.median_ms


@dataclass(frozen=True, kw_only=True)
class Round:
    """Samples in seconds of calls in a row, in order. Parts that the backend does not report are empty."""

    total: tuple[float, ...]
    """Host to host: array in, array out."""
    gpu: tuple[float, ...] = ()
    """The network on the GPU, between two events, no transfers."""
    enqueue: tuple[float, ...] = ()
    """The CPU's part of starting the network."""
    transfers: tuple[float, ...] = ()
    """To the GPU and back, between events; empty where its memory is the CPU's."""


PARTS = ("gpu", "enqueue", "transfers")
"""Fields of :class:`Round` beside the whole."""


def latency_of(rounds: Sequence[Round], part: str = "total") -> Latency | None:
    """Return one duration of all rounds; ``None`` where a round does not have it."""
    samples = tuple(getattr(each, part) for each in rounds)
    return Latency(rounds=samples) if samples and all(samples) else None


def noise_frame(session: Session, shape: tuple[int, int, int, int]) -> NDArray[Any]:
    """Return noise to time a session with, as its file takes it, the same each time.

    Args:
        session: What is timed.
        shape: ``(N, C, H, W)``.

    Returns:
        ``(N, C, H, W)`` float32 in [0, 1); ``(N, H, W, C)`` uint8 where the file takes 8-bit pixels.
    """
    batch, channels, height, width = shape
    rng = np.random.default_rng(0)
    if session.pixels:
        return rng.integers(0, 256, (batch, height, width, channels), np.uint8)
    return rng.random(shape, dtype=np.float32)


def time_session(
    session: Session,
    x: NDArray[Any],
    *,
    at_least: int,
    seconds: float,
    between: Callable[[], None] = lambda: None,
) -> Round:
    """Run one input until ``at_least`` samples exist and ``seconds`` have passed.

    Args:
        session: What is timed; its :meth:`~hasn_edge.runtime.session.Session.times` reports where the time
            of each call goes.
        x: As for the session's ``run``, or for ``run_pixels`` where it is uint8.
        at_least: Samples.
        seconds: Time to fill.
        between: Is called after each sample, outside of what is timed.
    """
    found: list[Timing] = []
    begin = time.perf_counter()
    while len(found) < at_least or time.perf_counter() - begin < seconds:
        found.append(session.times(x))
        between()
    moved = [(t.to_device_s, t.to_host_s) for t in found]
    return Round(
        total=tuple(t.total_s for t in found),
        gpu=tuple(t.gpu_s for t in found if t.gpu_s is not None),
        enqueue=tuple(t.enqueue_s for t in found if t.enqueue_s is not None),
        transfers=tuple(there + back for there, back in moved if there is not None and back is not None),
    )
