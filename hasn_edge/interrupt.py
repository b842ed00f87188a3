"""Ctrl-C, SIGTERM, SIGHUP: no traceback, an end in time, whatever is being loaded, whichever library hangs.

:func:`leave_at_once` and :func:`working` are for every moment of the command, :func:`catching` for work that
ends in an order of its own, :func:`ending_in_time` for work that may hang in a library, and :func:`leave` for
the end under a thread that does.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from types import CodeType, FrameType
from typing import NoReturn

EXIT_CODE = 130
"""What shells return for a command that SIGINT ended: 128 and its number."""

LEAVE_S = 1.5
"""Seconds after which :func:`ending_in_time` leaves the process while a thread still hangs."""

CALLED_BACK: set[CodeType] = set()
"""Code of functions that a library calls which prints what they raise, and goes on. While it works, they are
all of Python that runs, so that Ctrl-C would be raised there."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

HANG_UP: tuple[signal.Signals, ...] = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()
"""What the end of a terminal or of an SSH connection sends; Windows has none."""

ENDS = (*_SIGNALS, *HANG_UP)
"""What ends a verb that writes for long: nothing half-written may stay."""

_AGAIN_S = 0.02  # how long an interrupt waits before it looks again whether modules are still being loaded
_PATIENCE_S = 1.0  # how long it waits for them, or for a library, at most

_waiting: float | None = None  # since when an interrupt waits, by the monotonic clock


def leave_at_once() -> None:
    """Let Ctrl-C end the process at once from now on, but in :func:`working`. For the main thread.

    Only where Python would raise ``KeyboardInterrupt``: a job in a shell's background ignores Ctrl-C.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


@contextmanager
def working() -> Iterator[None]:
    """Let Ctrl-C raise ``KeyboardInterrupt`` meanwhile, so that what was begun is undone.

    Not into a module that is being loaded: there it would get lost, in the import system's callbacks, or a
    library would make an ``ImportError`` of it. Nor into :data:`CALLED_BACK`. It is raised as soon as the
    module is there, or the library is done; where that takes long, the process ends, and only files under a
    temporary name are removed.

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
def hold() -> Iterator[None]:
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


def die_with_parent(platform: str = sys.platform) -> None:
    """Let the system kill this process when its parent dies, however it does; Linux only."""
    if platform != "linux":  # Windows does not even know the name None
        return
    import ctypes  # which only such processes need

    set_parent_death_signal = 1
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


@contextmanager
def catching(
    handle: Callable[[int], None], *, once: bool = False, signals: Collection[signal.Signals] = _SIGNALS
) -> Iterator[Collection[int]]:
    """Give signals to a function meanwhile; yield the numbers of those that it receives.

    What is ignored stays ignored, and in any but the main thread nothing changes: yields nothing then.

    Args:
        handle: Receives the signal's number, in the main thread, between two steps of Python's.
        once: Let the second one of each kind do what it did before.
        signals: Which; SIGINT and SIGTERM by default.
    """

    def receive(number: int, frame: FrameType | None) -> None:
        if once:
            signal.signal(number, before[number])
        handle(number)

    main = threading.current_thread() is threading.main_thread()
    before = {
        int(number): handler
        for number in signals
        if main and (handler := signal.getsignal(number)) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, receive)
    try:
        yield before.keys()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ending_in_time(announce: Callable[[], None], last_words: Callable[[], None]) -> Iterator[None]:
    """Let the first of :data:`ENDS` raise ``KeyboardInterrupt`` in the block, and end it by ``SystemExit``.

    Python's handlers run in the main thread, between two of its own steps; a network or an encoder may take
    long over one. So a thread of its own receives the signal at once, and leaves the process when that takes
    longer than :data:`LEAVE_S`, or at the second signal.

    Args:
        announce: Is called at the first signal, in that thread.
        last_words: Is called right before the end, in either thread, when nothing unfinished is on disk.
    """
    received: list[int] = []
    ending = threading.Lock()

    def interrupt(number: int) -> None:
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt

    def announce_it() -> None:
        if not ending.locked():  # otherwise it has ended already
            announce()

    def leave_under_it(number: int) -> None:
        if ending.acquire(blocking=False):  # otherwise it ended by itself
            leave(128 + number, last_words)

    try:
        with catching(interrupt, signals=ENDS) as numbers, _listening(numbers, announce_it, leave_under_it):
            yield
    except BaseException:  # KeyboardInterrupt, or what a library made of it
        if not received:
            raise
        ending.acquire()  # the process is being left where this does not return
        with suppress(OSError):  # the terminal, or what read the pipe, is gone
            last_words()
        raise SystemExit(128 + received[0]) from None


@contextmanager
def _listening(
    numbers: Collection[int], announce: Callable[[], None], leave_by: Callable[[int], None]
) -> Iterator[None]:
    """Receive signals in a thread of its own, besides whatever handles them."""
    if not numbers:
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def listen() -> None:
        received: list[int] = []
        while data := os.read(reading, 1):
            if data[0] not in numbers:
                continue
            received.append(data[0])
            if len(received) == 2:
                leave_by(received[0])
            elif len(received) == 1:
                timer = threading.Timer(LEAVE_S, leave_by, (received[0],))
                timer.daemon = True
                timer.start()
                with suppress(OSError):
                    announce()
        os.close(reading)
        if received:
            timer.cancel()

    threading.Thread(target=listen, name="signals", daemon=True).start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)


def leave(code: int, last_words: Callable[[], None] = lambda: None) -> NoReturn:
    """End the process at once under whatever hangs; what is not whole on disk is removed first.

    For when a library's call does not return: ending the interpreter under it may crash.

    Args:
        code: Exit code.
        last_words: Is called when nothing unfinished is on disk any more.
    """
    files = sys.modules.get("hasn_edge.files")
    if files is not None and hasattr(files, "abandon"):
        files.abandon()
    with suppress(OSError, ValueError, RuntimeError):  # the terminal, or what read the pipe, is gone
        last_words()
    if sys.__stderr__ is not None and sys.__stderr__.isatty():
        _write(b"\x1b[?25h")  # a spinner or a progress bar has hidden the cursor
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, RuntimeError, AttributeError):  # closed, or this interrupted it
            stream.flush()
    os._exit(code)


def _leave(
    number: int,
    frame: FrameType | None,
    write: Callable[[int, bytes], int] = os.write,
    leave: Callable[[int], None] = os._exit,
) -> None:
    # By no name of this module: they are gone when the interpreter ends.
    try:
        write(2, b"Interrupted\n")
    finally:
        leave(130)


def _write(words: bytes) -> None:
    """Write on standard error past Python's streams, whose locks this may have interrupted."""
    with suppress(OSError):  # closed
        os.write(2, words)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _waiting
    if not _would_be_lost(frame):
        _waiting = None
        raise KeyboardInterrupt
    if _waiting is None:
        _waiting = time.monotonic()
        # Not by threading, whose locks this may have interrupted.
        _thread.start_new_thread(_interrupt_again, (_waiting, _thread.get_ident()))
    elif time.monotonic() - _waiting > _PATIENCE_S:
        # In the middle of a large package, which are loaded before anything is begun, or under a library.
        leave(EXIT_CODE, lambda: _write(b"Interrupted\n"))


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


def _would_be_lost(frame: FrameType | None) -> bool:
    """Whether an exception that is raised here does not reach the command."""
    while frame is not None:
        if frame.f_code in CALLED_BACK or frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
