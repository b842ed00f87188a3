"""Ctrl-C at any moment of the command: exit code 130 and no traceback, whatever is being loaded."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

EXIT_CODE = 130
"""What shells return for a command that SIGINT ended: 128 and its number."""

_AGAIN_S = 0.02  # how long an interrupt waits before it looks again whether modules are still being loaded
_PATIENCE_S = 1.0  # how long it waits for them at most

_waiting: float | None = None  # since when an interrupt waits, by the monotonic clock


def leave_at_once() -> None:
    """Let Ctrl-C end the process without a word from now on, but in :func:`working`. For the main thread.

    Only where Python would raise ``KeyboardInterrupt``: a job in a shell's background ignores Ctrl-C.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


@contextmanager
def working() -> Iterator[None]:
    """Let Ctrl-C raise ``KeyboardInterrupt`` meanwhile, so that what was begun is undone.

    Not into a module that is being loaded: there it would get lost, in the import system's callbacks, or a
    library would make an ``ImportError`` of it. It is raised as soon as the module is there; where that takes
    long, the process ends, and only files under a temporary name are removed.

    Does nothing where :func:`leave_at_once` did nothing.
    """
    if signal.getsignal(signal.SIGINT) is not _leave:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    except Exception as exc:
        if _waiting is not None:  # of it, most likely: a child received Ctrl-C too, and ended
            raise KeyboardInterrupt from exc
        raise
    finally:
        with suppress(OSError, ValueError):  # said again when the process ends
            sys.stdout.flush()  # what comes after this may not
        signal.signal(signal.SIGINT, _leave)


@contextmanager
def held() -> Iterator[None]:
    """Keep Ctrl-C from processes that are started meanwhile, until they call :func:`ignore`.

    A terminal sends it to all of them, and Python's start takes it with a traceback. Nothing on Windows.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore() -> None:
    """Ignore Ctrl-C from now on, in a process that its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _leave(number: int, frame: FrameType | None, leave: Callable[[int], None] = os._exit) -> None:
    leave(130)  # by no name of this module: they are gone when the interpreter ends


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _waiting
    if not _is_loading(frame):
        _waiting = None
        raise KeyboardInterrupt
    if _waiting is None:
        _waiting = time.monotonic()
        # Not by threading, whose locks this may have interrupted.
        _thread.start_new_thread(_interrupt_again, (_waiting, _thread.get_ident()))
    elif time.monotonic() - _waiting > _PATIENCE_S:
        _give_up()


def _interrupt_again(mine: float, main: int) -> None:
    """Come back until it is raised, or a verb's own handler has it."""
    global _waiting
    while _waiting == mine:
        time.sleep(_AGAIN_S)
        if _waiting != mine:
            return
        if signal.getsignal(signal.SIGINT) is not _interrupt:
            _waiting = None
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(main, signal.SIGINT)  # a real signal also ends what it sleeps in
        else:
            _thread.interrupt_main()


def _give_up() -> None:
    """Leave in the middle of a large package; such are loaded before anything is begun."""
    files = sys.modules.get("hasn_edge.files")
    if files is not None and hasattr(files, "abandon"):
        files.abandon()
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h")  # a spinner has hidden the cursor
    os._exit(EXIT_CODE)


def _is_loading(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
