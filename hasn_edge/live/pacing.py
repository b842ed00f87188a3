"""When the next live frame is prepared: late enough to be fresh, early enough for the network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_FOLLOW = 0.3  # how fast the expected durations follow the measured ones
EARLY = 0.25
"""Where every frame counts: ready so early, in parts of the network's duration, that it hardly ever waits."""

_EARLY = 0.05  # where the newest frame counts: just enough that jitter seldom makes the network wait
_EARLY_S = 0.002


class Pacing:
    """Lets the preparing thread begin shortly before the network becomes free.

    A frame that was prepared as soon as it arrived would be old by the time a slow network takes it;
    preparing every frame of a fast camera would waste the CPU that the network computes on.

    Args:
        clock: Monotonic seconds.
        early: In parts of the network's duration, how early a frame is to be ready.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, early: float = _EARLY) -> None:
        self._clock = clock
        self._early = early
        self._changed = threading.Condition()
        self._in_flight = 1
        self._began: list[float] = []
        self._ready = False
        self._closed = False
        self._last_end = 0.0
        self._network_s = 0.0
        self._prepare_s = 0.0

    @property
    def network_s(self) -> float:
        """How long the network is expected to take for a frame; 0 before the first one."""
        return self._network_s

    def wait(self) -> None:
        """Wait in the preparing thread until it is time to take the newest frame, or all is over."""
        with self._changed:
            while not self._closed:
                left = None if self._ready else self._due() - self._clock()
                if left is not None and left <= 0:
                    return
                self._changed.wait(left)

    def ready(self, seconds: float) -> None:
        """Say that a frame was prepared in ``seconds`` and will be handed to the network."""
        with self._changed:
            self._prepare_s += _FOLLOW * (seconds - self._prepare_s)
            self._ready = True

    def began(self, in_flight: int) -> None:
        """Say that the network took it, and how many frames it works on at a time."""
        with self._changed:
            self._in_flight = in_flight
            self._ready = False
            self._began.append(self._clock())
            self._changed.notify_all()

    def ended(self) -> float:
        """Say that the oldest frame is computed; return how long the network was busy with it alone."""
        with self._changed:
            now = self._clock()
            seconds = now - max(self._began.pop(0), self._last_end)
            self._last_end = now
            follow = _FOLLOW if self._network_s else 1.0
            self._network_s += follow * (seconds - self._network_s)
            self._changed.notify_all()
            return seconds

    def close(self) -> None:
        """End every wait, now and later."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _due(self) -> float:
        """Return when the network can take another frame, less what preparing takes."""
        if len(self._began) < self._in_flight:
            return 0.0
        begin = max(self._began[0], self._last_end)
        return begin + (1 - self._early) * self._network_s - 1.5 * self._prepare_s - _EARLY_S
