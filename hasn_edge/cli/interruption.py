"""Ctrl-C and SIGTERM end a verb in time, whichever call of a library it is in."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, TypeVar

from hasn_edge.cli.terminal import messages, say

Self = TypeVar("Self", bound="Interruption")

LEAVE_S = 1.5
"""Seconds after which the process is left while a thread still hangs."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context manager: the first signal raises ``KeyboardInterrupt`` in it, and it ends by ``SystemExit``.

    Python's handlers run in the main thread, between two of its own steps; a network or an encoder may take
    long over one. So a thread of its own hears of the signal at once, says so, and leaves the process when
    that takes too long, or at the second signal: temporary files are removed first. Outside the main thread,
    and for signals that are ignored, nothing changes.
    """

    def __init__(self) -> None:
        self.sentence = "Interrupted"
        """What is said at the end."""
        self._received: list[int] = []
        self._ending = threading.Lock()
        self._before: dict[int, Any] = {}
        self._wakeup = -1
        self._pipe: tuple[int, int] | None = None

    def __enter__(self: Self) -> Self:
        """Listen."""
        if threading.current_thread() is not threading.main_thread():
            return self
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        threading.Thread(target=self._listen, args=(self._pipe[0],), name="signals", daemon=True).start()
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End with the sentence and the shell's exit code where a signal came."""
        if self._pipe is None:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._pipe[1])
        if self._received and kind is not None:  # KeyboardInterrupt, or what a library made of it
            self._ending.acquire()  # the process is being left where this does not return
            say(self.sentence, err=True)
            raise SystemExit(128 + self._received[0]) from None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)
        if len(self._received) == 1:
            raise KeyboardInterrupt

    def _listen(self, pipe: int) -> None:
        received: list[int] = []
        while data := os.read(pipe, 1):
            if data[0] not in self._before:
                continue
            received.append(data[0])
            if len(received) == 2:
                self._leave(received[0])
            elif len(received) == 1:
                timer = threading.Timer(LEAVE_S, self._leave, (received[0],))
                timer.daemon = True
                timer.start()
                say("Stopping; Ctrl-C again leaves at once", err=True)
        os.close(pipe)
        if received:
            timer.cancel()

    def _leave(self, number: int) -> None:
        """Leave the process under whatever hangs."""
        from hasn_edge.files import abandon

        if not self._ending.acquire(blocking=False):
            return  # it ended by itself
        abandon()
        messages().show_cursor()
        say(self.sentence, err=True)
        if sys.__stderr__ is not None and sys.__stderr__.isatty():
            sys.__stderr__.write("\r\x1b[2K")  # the progress bar, which is drawn below it once more
            sys.__stderr__.flush()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + number)
