"""Ctrl-C at many moments of real processes: exit code 130, no traceback, nothing half-done on disk."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from hasn_edge import interrupt
from hasn_edge.cli import cli, doctor
from hasn_edge.errors import BuildError
from hasn_edge.images.codec import write_image

COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started by
class Ready:
    def find_spec(self, name, path=None, target=None):
        if name == "hasn_edge.cli":
            sys.meta_path.remove(self)
            print("READY", file=sys.stderr, flush=True)
sys.meta_path.insert(0, Ready())
from hasn_edge.__main__ import main
main()
"""
"""The command, which says when it begins to load; until then Python itself starts, and Ctrl-C is Python's."""

VERBS = {
    "help": ["--help"],
    "doctor": ["doctor"],
    "upscale": ["upscale", "-q", "photo.png"],  # what it notes of its work is not looked at here
    "demo": ["demo", "--source", "pattern", "--view", "none", "--size", "32x32", "--seconds", "0.2"],
}
MOMENTS = 4
"""How often each is interrupted, spread over the time that it takes."""

LOADING = """
import os, pathlib, signal, sys, time
from hasn_edge import files, interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
interrupt.leave_at_once()
with interrupt.working(), files.writing(pathlib.Path("half.txt")):
    try:
        import slow
    finally:
        os.write(1, b"loaded\\n" if "slow" in sys.modules else b"not loaded\\n")  # whole, or not at all
        time.sleep(900)
"""
SLOW = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range({turns}):
        time.sleep(0.01)
except BaseException:
    raise ImportError("as libraries say it of any error")
"""


def command(folder: Path, verb: str) -> subprocess.Popen[str]:
    """Start it; return when it begins to load."""
    child = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *VERBS[verb]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )
    assert child.stderr is not None
    assert child.stderr.readline() == "READY\n"
    return child


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_at_any_moment_it_ends_quietly_with_130(tmp_path, verb):
    write_image(tmp_path / "photo.png", np.zeros((20, 20, 3), np.uint8))
    begin = time.monotonic()
    whole = command(tmp_path, verb)
    errors = whole.communicate(timeout=120)[1]
    assert whole.returncode == 0, errors
    takes_s = time.monotonic() - begin
    codes = []
    for moment in range(MOMENTS):
        child = command(tmp_path, verb)
        time.sleep(moment * takes_s / MOMENTS)
        child.send_signal(signal.SIGINT)
        errors = child.communicate(timeout=60)[1]
        codes.append(child.returncode)
        # upscale says that it stops, and what it kept.
        assert (
            len(errors.splitlines()) <= (2 if verb in ("upscale", "demo") else 1) or child.returncode == 0
        ), errors
        assert "Traceback" not in errors
        assert "Aborted" not in errors
    # Where it was late, the command had ended; after Python's own handlers are gone, the signal ends it.
    assert set(codes) <= {130, 0, -signal.SIGINT}
    assert codes[0] == 130
    assert not list(tmp_path.rglob(".*")), "a file under its temporary name"


def loading(folder: Path, turns: int) -> subprocess.CompletedProcess[str]:
    """Load a module that is interrupted, and that makes something else of it, while a file is written."""
    (folder / "slow.py").write_text(SLOW.format(turns=turns))
    done = subprocess.run(
        [sys.executable, "-c", LOADING],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
    )
    assert not [path.name for path in folder.iterdir() if "half" in path.name]
    return done


def test_what_comes_while_a_module_is_loaded_waits_for_it(tmp_path):
    done = loading(tmp_path, 2)
    assert done.stdout == "loaded\n"
    assert "ImportError" not in done.stderr
    assert done.stderr.endswith("KeyboardInterrupt\n"), "raised in the work, as this is no command"


@pytest.mark.slow
def test_it_does_not_wait_for_ever(tmp_path):
    done = loading(tmp_path, 10_000)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted\n")


def test_what_comes_under_a_library_waits_for_it(tmp_path):
    """In a function that C calls, as TensorRT does its logger, it would be printed and lost."""
    code = (
        "import ctypes, os, signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from hasn_edge import interrupt\n"
        "from hasn_edge.engine.messages import logger_of\n"
        "from tests.support.fake_builder import fake_tensorrt\n"
        "logger = logger_of(fake_tensorrt('10.3.0'))\n"
        "logger.listeners.append(lambda *_: os.kill(os.getpid(), signal.SIGINT))\n"
        "severity = type('Severity', (), {'name': 'INFO'})\n"
        "library = ctypes.CFUNCTYPE(None)(lambda: logger.log(severity, 'text'))\n"
        "interrupt.leave_at_once()\n"
        "with interrupt.working():\n"
        "    library()\n"
        "    print('back', flush=True)\n"
        "    for _ in range(1000): signal.sigtimedwait([], 0.01)\n"
    )
    root = Path(interrupt.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    assert done.stdout == "back\n"
    assert "ctypes" not in done.stderr
    assert done.stderr.endswith("KeyboardInterrupt\n")


def test_a_job_in_the_background_goes_on(tmp_path):
    """A shell lets it ignore Ctrl-C, which is for the job in front."""
    code = (
        "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from hasn_edge import interrupt\n"
        "interrupt.leave_at_once()\n"
        "with interrupt.working(): os.kill(os.getpid(), signal.SIGINT)\n"
        "print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_child_that_its_parent_ends_hears_nothing_from_its_first_moment_on(tmp_path):
    """The child interrupts itself before it could have said that it ignores it."""
    (tmp_path / "child.py").write_text(
        "import os, signal\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "from hasn_edge import interrupt\n"
        "interrupt.ignore()\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with interrupt.hold():
        child = subprocess.Popen(
            [sys.executable, tmp_path / "child.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert child.communicate(timeout=60) == ("set()\n", "")


def test_what_fails_while_an_interrupt_waits_fails_by_it(monkeypatch):
    monkeypatch.setattr(interrupt, "_waiting", 1.0)
    handler = signal.signal(signal.SIGINT, interrupt._leave)
    try:
        with pytest.raises(KeyboardInterrupt), interrupt.working():
            raise BuildError("the child ended with code -2")
        assert signal.getsignal(signal.SIGINT) is interrupt._leave
    finally:
        signal.signal(signal.SIGINT, handler)


def test_results_that_were_printed_are_not_lost_after_the_work():
    code = (
        "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from hasn_edge import interrupt\n"
        "interrupt.leave_at_once()\n"
        "with interrupt.working(): print('result')\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "for _ in range(100): pass"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "result\n", "Interrupted\n")


def test_in_another_program_it_is_130_too_and_its_handler_stays(monkeypatch):
    def interrupted(**options):
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(doctor.command, "callback", interrupted)
    result = CliRunner().invoke(cli, ["doctor"])
    assert (result.exit_code, result.output) == (130, "Interrupted; nothing half-written was kept\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_signals_go_to_a_function_and_afterwards_where_they_went_before():
    before = signal.signal(signal.SIGINT, lambda number, frame: received.append("before"))
    received: list = []
    try:
        with interrupt.catching(received.append) as numbers:
            assert set(numbers) == {signal.SIGINT, signal.SIGTERM}
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                signal.raise_signal(number)
        signal.raise_signal(signal.SIGINT)
        with interrupt.catching(received.append, once=True):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert received == [2, 15, 2, "before", 2, "before"]


def test_what_is_ignored_and_other_threads_are_left_alone():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    received: list[int] = []
    try:
        with interrupt.catching(received.append) as numbers:
            signal.raise_signal(signal.SIGINT)
        assert (received, list(numbers)) == ([], [signal.SIGTERM])
    finally:
        signal.signal(signal.SIGINT, before)

    def elsewhere() -> None:
        with interrupt.catching(received.append) as numbers:
            received.append(len(numbers))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert received == [0]
