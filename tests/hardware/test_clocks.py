"""Clocks are set for a measurement and given back, whatever happens."""

from __future__ import annotations

import os
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


def test_clocks_need_the_script_and_root(program, tmp_path, monkeypatch):
    with pytest.raises(UnsupportedError, match="which a Jetson has"), full_clocks(program=tmp_path / "none"):
        pass
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UnsupportedError, match="needs root; run it with sudo"), full_clocks(program=program):
        pass
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(BuildError, match="--store .* failed: exit code 3"), full_clocks(program=program):
        pass
