"""Durations over time in bounded memory: exact for the last seconds, a fine histogram for the whole run."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import numpy as np

from hasn_edge.live.snapshot import Times

WINDOW_S = 5.0
"""What *now* means, in seconds."""

_KEPT = 1024  # values of the window, at most
_AT_LEAST = 3  # a slow machine's window reaches further back, so that it is never empty
_LOWEST, _RATIO = 1e-6, 1.01  # the histogram's first edge in seconds, and the growth of its cells


class Series:
    """Values with the time they came; not thread-safe.

    Percentiles of the last :data:`WINDOW_S` seconds are exact; those of the whole run come from a histogram
    whose cells are 1 % wide, which bounds both their error and the memory of a run of days.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._recent: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._cells: dict[int, int] = {}
        self.count = 0
        self.total = 0.0
        self.largest = 0.0

    def add(self, value: float) -> None:
        """Add a value of at least 0 that came just now."""
        now = self._clock()
        if len(self._recent) > 1 and self.stale(now):
            self._recent.clear()  # what came before the silence says nothing of now
        self._recent.append((now, value))
        self._trim(now)
        cell = 0 if value <= _LOWEST else 1 + int(math.log(value / _LOWEST) / math.log(_RATIO))
        self._cells[cell] = self._cells.get(cell, 0) + 1
        self.count += 1
        self.total += value
        self.largest = max(self.largest, value)

    def rate(self, now: float) -> float | None:
        """Return how many values a second came lately; ``None`` before the second one."""
        self._trim(now)
        if len(self._recent) < 2:
            return None
        first, last = self._recent[0][0], self._recent[-1][0]
        if last <= first:
            return None
        spacing = (last - first) / (len(self._recent) - 1)
        # When nothing comes any more, the silence counts as soon as it is longer than usual.
        silence = now - last
        if silence > 2 * spacing:
            return len(self._recent) / max(1e-9, now - first)
        return 1 / max(1e-9, spacing)

    def stale(self, now: float) -> bool:
        """Return whether the newest value is older than the window and than what is usual between two."""
        self._trim(now)
        if not self._recent:
            return True
        first, last = self._recent[0][0], self._recent[-1][0]
        spacing = (last - first) / max(1, len(self._recent) - 1)
        return now - last > max(WINDOW_S, 2 * spacing)

    def busy(self, now: float, running_since: float | None, begin: float, *, recent: bool) -> float:
        """Return which fraction of the time the values, as durations that ended when they came, cover.

        Args:
            now: The time.
            running_since: When the value under way began, if one is.
            begin: When the run began.
            recent: Of the last seconds; otherwise since ``begin``.
        """
        under_way = 0.0 if running_since is None else now - running_since
        if not recent:
            return min(1.0, (self.total + under_way) / max(1e-9, now - begin))
        self._trim(now)
        since = min((at - value for at, value in self._recent), default=now)
        since = min(since, now if running_since is None else running_since)
        covered = sum(value for _, value in self._recent) + under_way
        return min(1.0, covered / max(1e-9, now - since))

    def times(self, now: float, *, recent: bool) -> Times:
        """Return the values as milliseconds; of the last seconds, there are none once the newest is stale."""
        values: tuple[float | None, ...] = (None, None, None)
        count = self.count
        if recent:
            kept = [] if self.stale(now) else [value for _, value in self._recent]
            count = len(kept)
            if kept:
                values = *map(float, np.quantile(kept, (0.5, 0.95))), max(kept)
        elif count:
            values = self.quantile(0.5), self.quantile(0.95), self.largest
        p50, p95, most = (None if value is None else value * 1e3 for value in values)
        return {"p50": p50, "p95": p95, "max": most, "count": count}

    def quantile(self, q: float) -> float | None:
        """Return the ``q`` quantile of the whole run to 0.5 %; ``None`` without values."""
        wanted, seen = q * (self.count - 1), 0
        for cell in sorted(self._cells):
            seen += self._cells[cell]
            if seen > wanted:
                return min(self.largest, 0.0 if cell == 0 else _LOWEST * _RATIO ** (cell - 0.5))
        return None

    def _trim(self, now: float) -> None:
        while len(self._recent) > _AT_LEAST and self._recent[0][0] < now - WINDOW_S:
            self._recent.popleft()
