"""Sources that may stall, vanish and come back: read in a thread of their own, opened again with back-off."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from hasn_edge.errors import Cure, HasnEdgeError, SourceError, say
from hasn_edge.live.frame import Frame
from hasn_edge.live.notices import trouble, words_of
from hasn_edge.live.sources.frame_source import FrameSource
from hasn_edge.queues import BoundedQueue, Closed, LatestOnly, StageQueue

OPEN_S = 10.0
"""How long opening may take."""

STALL_S = 5.0
"""Without a frame for so long, a source counts as lost."""

BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses before each attempt to open it again; the last one repeats."""

_CHECK = say("check the address, the network and that it is on")

HANGING = 3
"""Connections that may hang in a library at a time, given up; there is no further attempt before one ends."""


@dataclass(frozen=True)
class _End:
    """What a connection puts last: why there are no more frames."""

    error: BaseException | None


class _Connection:
    """One opening of a source: opened, read and closed in one daemon thread, which may hang by itself.

    Libraries block in open and read, some for longer than a user waits. A connection that is given
    up ends once the library returns.
    """

    def __init__(self, open_: Callable[[], FrameSource]) -> None:
        self._open = open_
        self._opened: LatestOnly[FrameSource | _End] = LatestOnly()
        self._source: FrameSource | None = None
        self._frames: StageQueue[Frame] | None = None
        self._end = _End(None)
        self._given_up = False
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="hasn-edge connection", daemon=True)
        self._thread.start()

    def opened(self, timeout: float) -> FrameSource | None:
        """Wait until it is open; ``None`` when the time is over.

        Raises:
            Closed: it was given up.
        """
        found = self._opened.get(timeout)
        if isinstance(found, _End):
            assert found.error is not None
            raise found.error
        return found

    def read(self, timeout: float) -> Frame | _End | None:
        """Return the next frame, or why there is none; ``None`` when the time is over."""
        assert self._frames is not None
        try:
            return self._frames.get(timeout)
        except Closed:
            return self._end

    @property
    def dropped(self) -> int:
        """Frames that were lost because they were not read in time."""
        return self._lost + (0 if self._frames is None else self._frames.dropped)

    @property
    def ended(self) -> bool:
        """Whether its thread has left the library."""
        return not self._thread.is_alive()

    def give_up(self) -> None:
        """Let it go; wakes whoever waits for it."""
        self._given_up = True
        self._opened.close()
        if self._frames is not None:
            self._frames.close()
        if self._source is not None:
            self._source.close()

    def _run(self) -> None:
        try:
            source = self._open()
        except BaseException as exc:
            self._opened.put(_End(exc))
            return
        self._source = source
        with source:
            frames: StageQueue[Frame] = LatestOnly() if source.live else BoundedQueue()
            self._frames = frames
            if self._given_up or not self._opened.put(source):
                return
            try:
                while (frame := source.read()) is not None:
                    self._lost = source.dropped
                    if not frames.put(frame):
                        return
            except BaseException as exc:
                self._end = _End(exc)
            frames.finish()  # a live source's last image stays: the end is no frame in its place


class Remote(FrameSource):
    """A camera or stream that is reported when it is lost, opened again with back-off, and resumed.

    What cannot be opened the first time is an error: a wrong address would stay unnoticed otherwise. A
    recording that comes over the network (not :attr:`live`) loses no frame, ends where it ends, and is not
    opened again.

    Args:
        open_: Opens it; runs in another thread, again for every attempt.
        name: For people.
        open_s: How long the first opening may take.
        stall_s: Without a frame for so long, it counts as lost.
        backoff_s: Pauses before the attempts; the last one repeats.
        cure: What to check where the first opening is not answered.

    Raises:
        SourceError: it cannot be opened, or not in time.
    """

    def __init__(
        self,
        open_: Callable[[], FrameSource],
        name: str,
        *,
        open_s: float = OPEN_S,
        stall_s: float = STALL_S,
        backoff_s: tuple[float, ...] = BACKOFF_S,
        cure: Cure = _CHECK,
    ) -> None:
        self.name = name
        self._open = open_
        self._open_s = open_s
        self._stall_s = stall_s
        self._backoff_s = backoff_s
        self._closed = threading.Event()
        self._index = 0
        self._lost_before = 0
        self._failures = 0
        self._hanging: list[_Connection] = []
        self.reconnects = 0
        """How often it came back."""
        self._connection = _Connection(open_)
        try:
            source = self._connection.opened(open_s)
        except BaseException:
            self._connection.give_up()
            raise
        if source is None:
            self._connection.give_up()
            raise SourceError(f"{name}: no answer within {open_s:g} s", cure)
        self.live, self.size, self.fps = source.live, source.size, source.fps
        self.aspect = source.aspect

    def read(self) -> Frame | None:
        """Return the next frame, however long it takes; ``None`` at the end and once it is closed.

        Raises:
            SourceError: a recording was lost in the middle.
        """
        while not self._closed.is_set():
            item = self._connection.read(self._stall_s)
            if self._closed.is_set():
                return None
            if isinstance(item, Frame):
                self.dropped = self._lost_before + self._connection.dropped
                if self._failures:
                    self._failures = 0
                    self.reconnects += 1
                    self.report(None)
                self._index += 1
                return replace(item, index=self._index - 1 + self.dropped)
            cures: tuple[Cure, ...] = ()
            if item is None:
                reason = f"{self.name}: no frame for {self._stall_s:g} s"
            elif item.error is None:
                if not self.live:
                    return None
                reason = f"{self.name}: the stream ended"
            elif isinstance(item.error, HasnEdgeError | OSError):
                reason, cures = self._describe(item.error)
            else:
                raise item.error
            if not self.live:
                raise SourceError(f"{reason}; it was lost at frame {self._index}", *cures, say("start again"))
            self._reopen(reason, cures)
        return None

    def close(self) -> None:
        """Stop at once, whatever it waits for."""
        self._closed.set()
        self._connection.give_up()

    def _reopen(self, reason: str, cures: tuple[Cure, ...]) -> None:
        """Try until it is open again or closed."""
        while not self._closed.is_set():
            self._connection.give_up()
            pause_s = self._backoff_s[min(self._failures, len(self._backoff_s) - 1)]
            self._failures += 1
            again = f"trying again in {pause_s:g} s (attempt {self._failures})"
            self.report(trouble(f"{reason}; {again}", *cures))
            if self._closed.wait(pause_s):
                return
            hanging = [c for c in (*self._hanging, self._connection) if not c.ended]
            if len(hanging) >= HANGING:
                reason, cures = f"{self.name}: {len(hanging)} earlier attempts still hang", ()
                continue
            self._hanging = hanging
            self._lost_before += self._connection.dropped
            connection = self._connection = _Connection(self._open)
            if self._closed.is_set():
                connection.give_up()
                return
            try:
                source = connection.opened(max(self._open_s, self._stall_s))
                if source is not None:  # it may send other images than before
                    self.size, self.fps, self.aspect = source.size, source.fps, source.aspect
                    return
                reason, cures = f"{self.name}: no answer", ()
            except Closed:
                return
            except (HasnEdgeError, OSError) as exc:
                reason, cures = self._describe(exc)

    def _describe(self, error: HasnEdgeError | OSError) -> tuple[str, tuple[Cure, ...]]:
        """Return why it is lost and what helps; a source's own errors name it, the system's do not."""
        reason, cures = words_of(error)
        return reason if isinstance(error, HasnEdgeError) else f"{self.name}: {reason}", cures
