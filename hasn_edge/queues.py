"""How threads hand items to each other: the newest one, as of cameras, or every one in order, as of files."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):  # noqa: N818 - an end, not an error
    """Nothing will come any more: the giving side finished and all is taken, or it was closed."""


class StageQueue(ABC, Generic[T]):
    """One stage puts, one stage gets. All methods may be called from any thread; none polls."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: deque[T] = deque()
        self._finished = False
        self.dropped = 0
        """How many were replaced before they were taken."""
        self.discarded = 0
        """How many were still here when it was closed, or came after that."""

    @abstractmethod
    def put(self, item: T) -> bool:
        """Hand over ``item``; ``False`` once it is finished or closed: the giver may stop."""

    def get(self, timeout: float | None = None) -> T | None:
        """Take the next item.

        Args:
            timeout: Seconds to wait for one; ``None`` for as long as it takes, 0 for not at all.

        Returns:
            The item; ``None`` when the time is over.

        Raises:
            Closed: it was closed, or finished and everything is taken.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._items:
                if self._finished:
                    raise Closed
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def __iter__(self) -> Iterator[T]:
        """Take every item until nothing comes any more."""
        with suppress(Closed):
            while True:
                item = self.get()
                assert item is not None
                yield item

    def finish(self) -> None:
        """Say that nothing more will be put; what is here can still be taken."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def close(self) -> None:
        """End at once: forget what is here and wake both sides."""
        with self._changed:
            self._finished = True
            self.discarded += len(self._items)
            self._items.clear()
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._items)


class LatestOnly(StageQueue[T]):
    """Holds the newest item only: :meth:`put` never waits, so a slow taker never falls behind."""

    def put(self, item: T) -> bool:
        """Replace an item that was not taken yet; it counts as dropped."""
        with self._changed:
            if self._finished:
                self.discarded += 1
                return False
            self.dropped += len(self._items)
            self._items.clear()
            self._items.append(item)
            self._changed.notify_all()
            return True


class BoundedQueue(StageQueue[T]):
    """Keeps every item in order; :meth:`put` waits while it is full, so memory is bounded.

    Args:
        capacity: How many items may wait, at least 1.
    """

    def __init__(self, capacity: int = 2) -> None:
        super().__init__()
        if capacity < 1:
            raise ValueError(f"a queue holds at least 1 item, got {capacity}")
        self.capacity = capacity

    def put(self, item: T) -> bool:
        """Wait for a free place, then add ``item``."""
        with self._changed:
            while len(self._items) >= self.capacity and not self._finished:
                self._changed.wait()
            if self._finished:
                self.discarded += 1
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True


def take_ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """Yield items in order, each when ``count`` later ones are taken already, or there are no more.

    So much work is under way where taking an item begins it.
    """
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
