"""Clocks are set for a measurement and given back, whatever happens."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from hasn_edge.errors import BuildError, UnsupportedError
from hasn_edge.hardware.clocks import full_clocks


class Script:
    """Stands for jetson_clocks: remembers what it was called with."""

    def __init__(self, fails=()):
        self.calls = []
        self.fails = fails

    def __call__(self, argv):
        self.calls.append(tuple(argv))
        if len(self.calls) in self.fails:
            raise BuildError("jetson_clocks failed")


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "jetson_clocks"
    path.write_text("#!/bin/sh\nexit 3\n")
    path.chmod(0o755)
    return path


def test_clocks_are_given_back(program):
    script = Script()
    with full_clocks(program=program, run=script):
        assert [call[1:2] for call in script.calls] == [("--store",), ()]
        state = script.calls[0][2]
        assert not Path(state).exists(), "the script asks before it overwrites a file"
    assert script.calls[-1] == (str(program), "--restore", state)


def test_clocks_are_given_back_whatever_happens(program):
    script = Script()
    with pytest.raises(ZeroDivisionError), full_clocks(program=program, run=script):
        1 / 0  # noqa: B018
    assert script.calls[-1][1] == "--restore"
    script = Script(fails=(2,))
    with pytest.raises(BuildError), full_clocks(program=program, run=script):
        pytest.fail("the block must not run")
    assert script.calls[-1][1] == "--restore", "half of the clocks may have been set"
    script = Script(fails=(1,))
    with pytest.raises(BuildError), full_clocks(program=program, run=script):
        pytest.fail("the block must not run")
    assert len(script.calls) == 1, "without a stored state nothing is set"


@pytest.mark.parametrize("option", ["", "--restore"])
def test_what_the_script_only_prints_is_noticed(program, monkeypatch, caplog, option):
    """NVIDIA's, of 2023, ends with 0 in any case: "Error: Failed to max GPU frequency!", "... to restore"."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    program.write_text(f'#!/bin/sh\n[ "$1" = "{option}" ] && echo "Error: Failed to set it!"\nexit 0\n')
    done = []
    if option:
        with full_clocks(program=program):
            done.append("measured")
        assert "may not be as before" in caplog.text
    else:
        with (
            pytest.raises(BuildError, match="failed: Error: Failed to set it!"),
            full_clocks(program=program),
        ):
            done.append("measured")
        assert "may not be" not in caplog.text
    assert bool(done) is bool(option)
    assert caplog.text.count("Failed to set it!") == len(done)


def test_a_failure_to_restore_hides_nothing(program, caplog):
    script = Script(fails=(3,))
    with pytest.raises(ZeroDivisionError), full_clocks(program=program, run=script):
        1 / 0  # noqa: B018
    assert "until the board restarts: jetson_clocks failed" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_program_gives_the_clocks_back_first(program, number):
    """A scheduler ends a job by SIGTERM, a lost SSH connection by SIGHUP: the block must not just vanish."""
    script, before = Script(), signal.signal(number, lambda *_: pytest.fail("it came late"))
    try:
        with pytest.raises(SystemExit) as info, full_clocks(program=program, run=script):
            signal.raise_signal(number)
        assert info.value.code == 128 + number
        assert script.calls[-1][1] == "--restore"
        mine = signal.signal(number, signal.SIG_IGN)
        assert mine.__name__ == "<lambda>", "the handler before is back"
        with full_clocks(program=program, run=script):  # nohup
            signal.raise_signal(number)
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_interrupts_the_restoring(program, number):
    done: list[object] = []
    # A program in the background may ignore them, and then they end nothing.
    before = signal.signal(number, signal.default_int_handler)
    try:
        _interrupt_the_restoring(program, number, done)
    finally:
        signal.signal(number, before)


def _interrupt_the_restoring(program, number, done):
    def run(argv):
        if argv[1:2] == ("--restore",):
            signal.raise_signal(number)
            done.append(argv)

    with pytest.raises((KeyboardInterrupt, SystemExit)), full_clocks(program=program, run=run):
        pass
    assert done, "it was cut short"
    done.clear()
    with pytest.raises((KeyboardInterrupt, SystemExit)), full_clocks(program=program, run=run):
        raise KeyboardInterrupt
    assert done, "the second Ctrl-C cut it short"


def test_a_terminals_ctrl_c_does_not_reach_the_script(program, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    program.write_text(f"#!/bin/sh\ncat /proc/$$/stat >> {tmp_path}/log\n")
    with full_clocks(program=program):
        pass
    sessions = [int(line.split()[5]) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(sessions) == 3
    assert os.getsid(0) not in sessions


def test_other_threads_set_clocks_too(program):
    script = Script()

    def work():
        with full_clocks(program=program, run=script):
            pass

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert script.calls[-1][1] == "--restore"


def test_clocks_need_the_script_and_root(program, tmp_path, monkeypatch):
    with pytest.raises(UnsupportedError, match="which a Jetson has"), full_clocks(program=tmp_path / "none"):
        pass
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UnsupportedError, match="needs root; run it with sudo"), full_clocks(program=program):
        pass
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(BuildError, match="--store .* failed: exit code 3"), full_clocks(program=program):
        pass
