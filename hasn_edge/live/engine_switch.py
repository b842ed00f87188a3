"""Changing the engine while frames keep coming: the new one is opened beside the old one, then they swap."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from hasn_edge.errors import InputError
from hasn_edge.live.fit import describe_misfit
from hasn_edge.live.notices import Notice, RunState, trouble, words_of
from hasn_edge.runtime.session import Session
from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.video.runner import Runner

NOTICE_S = 8.0
"""How long the notice that an engine computes now, or could not be opened, is shown."""


class EngineSwitch:
    """Holds the runner that computes. :meth:`current` is the computing thread's, the rest is thread-safe.

    Args:
        runner: The first one; its owner closes it.
        name: What it is called.
        engines: How to open the others by name. The first one stays open and is never opened again.
        tell: Receives what the user should know, ``None`` when it is over.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        runner: Runner,
        name: str,
        engines: Mapping[str, Callable[[], Session | Upscaler]],
        tell: Callable[[Notice | None], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scale = runner.scale
        self._first = self._runner = runner
        self._first_name = self._name = self._target = name
        self._asked: str | None = None
        self._engines = dict(engines)
        self._tell = tell
        self._lock = threading.Lock()
        self._next: tuple[Runner, str] | None = None
        self._opener: threading.Thread | None = None
        self._closed = False
        self._clock = clock
        self._opening: str | None = None
        self._shown_since: float | None = None
        """Since when a notice is shown that is over after a while."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every engine's name, the first one's included."""
        return tuple(dict.fromkeys((*self._engines, self._first_name)))

    @property
    def name(self) -> str:
        """The engine that computes now."""
        return self._name

    @property
    def runner(self) -> Runner:
        """The engine that computes now."""
        return self._runner

    @property
    def pending(self) -> bool:
        """Whether another one is open and waits to take over."""
        return self._next is not None

    def select(self, name: str) -> None:
        """Open an engine in a thread of its own; the last one asked for wins.

        Raises:
            InputError: no such engine.
        """
        if name not in self.names:
            raise InputError(f"no engine called {name!r}; choose one of {', '.join(self.names)}")
        with self._lock:
            asked = not self._closed and name != self._target
            if asked:
                self._target = self._asked = name
                if self._opener is None:
                    self._opener = threading.Thread(target=self._open, name="hasn-edge open", daemon=True)
                    self._opener.start()
        if not asked:
            self._forget()

    def tend(self) -> None:
        """Take back, after a while, the notice of a change that was made or failed; call it often."""
        shown_since = self._shown_since
        if shown_since is not None and self._clock() - shown_since > NOTICE_S:
            self._forget()

    def _forget(self) -> None:
        with self._lock:
            shown_since, self._shown_since = self._shown_since, None
        if shown_since is not None:
            self._tell(None)

    def current(self, *, swap: bool, size: tuple[int, int] | None = None) -> tuple[Runner, str]:
        """Return the runner for the next frame and its name; first change to the new one if ``swap``.

        Args:
            swap: Whether it may change now.
            size: (height, width) of the next frame, for the notice where the new one takes only another size.
        """
        with self._lock:
            change = self._next if swap else None
            if change is not None:
                old, (self._runner, self._name), self._next = self._runner, change, None
        if change is not None:
            self._close_unless_first(old)
            self._tell_change(size)
        return self._runner, self._name

    def _tell_change(self, size: tuple[int, int] | None) -> None:
        with self._lock:
            opening = self._opening  # the user asked for yet another one meanwhile
        misfits = describe_misfit(self._name, self._runner.session.size, size)
        texts = [f"{self._name} computes now", misfits, opening and f"opening {opening}"]
        state = RunState.RUNNING if opening is None else RunState.OPENING
        self._tell(Notice(state=state, text="; ".join(text for text in texts if text), opening=opening))
        if opening is None:
            self._shown_since = self._clock()

    def close(self, deadline: float, *, keep: bool) -> None:
        """Close what was opened here, unless it is to be kept because a thread is still inside it.

        Args:
            deadline: ``time.monotonic()`` until which an engine that is just being opened is waited for.
            keep: Leave the runner that computes open.
        """
        with self._lock:
            self._closed = True
            waiting, self._next = self._next, None
        if waiting is not None:
            self._close_unless_first(waiting[0])
        if self._opener is not None:
            self._opener.join(max(0.0, deadline - time.monotonic()))
        if not keep:
            self._close_unless_first(self._runner)

    def _open(self) -> None:
        while True:
            with self._lock:
                self._opening = name = self._asked
                self._asked = None
                if self._closed or name is None:
                    self._opener = None
                    return
                self._shown_since = None
            self._tell(Notice(state=RunState.OPENING, text=f"Opening {name}", opening=name))
            try:
                runner = self._opened(name)
            except Exception as exc:  # whatever it is, the frames go on and the user reads the reason
                with self._lock:
                    self._opening = None
                    if self._target == name:
                        self._target = self._name if self._next is None else self._next[1]
                reason, cures = words_of(exc)
                text = f"{name} could not be opened, {self._name} goes on: {reason}"
                self._tell(trouble(text, *cures))
                self._shown_since = self._clock()
                continue
            with self._lock:
                self._opening = None
                late, replaced = self._closed, self._next
                self._next = None if late else (runner, name)
            if late:
                self._close_unless_first(runner)
            if replaced is not None:
                self._close_unless_first(replaced[0])

    def _opened(self, name: str) -> Runner:
        if name == self._first_name:
            return self._first
        runner = Runner(self._engines[name]())
        if runner.scale != self.scale:
            runner.close()
            raise InputError(f"it enlarges {runner.scale} times, the image is made for {self.scale}")
        return runner

    def _close_unless_first(self, runner: Runner) -> None:
        if runner is not self._first:
            runner.close()
