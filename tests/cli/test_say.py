"""Lines that are printed while a progress bar is drawn."""

from __future__ import annotations

import io
import sys

import pytest

from hasn_edge.cli.common import say


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_on_a_terminal_a_line_goes_through_what_draws_the_bar(monkeypatch, name):
    terminal, bar = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, f"__{name}__", terminal)
    monkeypatch.setattr(sys, name, bar)
    say("out/[1]_x4.png", err=name == "stderr")
    assert (bar.getvalue(), terminal.getvalue()) == ("out/[1]_x4.png\n", "")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_pipe_gets_the_plain_line_though_the_bar_replaced_the_stream(monkeypatch, capfd, name):
    monkeypatch.setattr(sys, f"__{name}__", io.StringIO())
    say("out/a_x4.png", err=name == "stderr")
    assert getattr(capfd.readouterr(), name[3:]) == "out/a_x4.png\n"
