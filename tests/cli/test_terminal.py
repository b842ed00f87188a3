"""What is printed, where, and how much of it."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hasn_edge.cli import VERBS, cli, main, terminal
from hasn_edge.cli.terminal import say
from hasn_edge.errors import OutputError
from hasn_edge.progress import Step


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_name_that_is_no_utf8_is_printed_as_its_bytes(monkeypatch):
    """As archives of other systems leave them: ``Stra\\xdfe.jpg``."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "argv", ["hasn-edge", "--version"])
    with pytest.raises(SystemExit):
        main()
    say(os.fsdecode(b"out/Stra\xdfe_x4.png"))
    out.flush()
    assert out.buffer.getvalue().endswith(b"out/Stra\xdfe_x4.png\n")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_on_a_terminal_a_line_goes_through_what_draws_the_bar(monkeypatch, name):
    terminal, bar = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, f"__{name}__", terminal)
    monkeypatch.setattr(sys, name, bar)
    say("out/[1]_x4.png", err=name == "stderr")
    assert (bar.getvalue(), terminal.getvalue()) == ("out/[1]_x4.png\n", "")


@pytest.mark.parametrize("context", [terminal.progress, terminal.status])
def test_a_line_above_a_bar_is_not_broken_at_the_width(monkeypatch, context):
    from rich.console import Console

    screen = Terminal()
    out = Console(file=screen, force_terminal=True, width=40, color_system=None)
    monkeypatch.setattr(terminal, "messages", lambda: out)
    monkeypatch.setattr(sys, "__stderr__", screen)
    path = "a folder/" * 12 + "[red]photo_x4.png"
    with context("working") as update:
        update(Step("more", 1, 2))
        say(path, err=True)
    assert f"{path}\n" in screen.getvalue()


@pytest.mark.parametrize("context", [terminal.progress, terminal.status])
def test_brackets_of_a_name_are_no_markup(monkeypatch, context):
    from rich.console import Console

    screen = Terminal()
    out = Console(file=screen, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(terminal, "messages", lambda: out)
    with context("working") as update:
        update(Step("writing a[/b]/[red]x.onnx", 1, 2))
        time.sleep(0.15)  # a spinner is drawn every 0.08 s
    assert "writing a[/b]/[red]x.onnx" in screen.getvalue()


@pytest.mark.parametrize("description", ["", "intel_car-detection.mp4"])
def test_a_long_text_leaves_the_bar_and_the_count_on_80_columns(monkeypatch, description):
    from rich.console import Console

    screen = Terminal()
    out = Console(file=screen, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(terminal, "messages", lambda: out)
    with terminal.progress(description) as update:
        update(
            Step("loss 0.76373  lr 1.50e-03  0.32 it/s  ETA 0:00 h  patches/s: network 3, loader 4", 150, 300)
        )
    assert re.search(r"━ +150/300 .* loss 0\.", screen.getvalue())


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_pipe_gets_the_plain_line_though_the_bar_replaced_the_stream(monkeypatch, capfd, name):
    monkeypatch.setattr(sys, f"__{name}__", io.StringIO())
    say("out/a_x4.png", err=name == "stderr")
    assert getattr(capfd.readouterr(), name[3:]) == "out/a_x4.png\n"


@pytest.mark.parametrize("context", [terminal.progress, terminal.status])
def test_a_pipe_gets_no_empty_line_of_a_bar(capfd, context):
    with context("working") as update:
        update(Step("more", 1, 2))
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def logger():
    """The package's logger, put back as it was."""
    found = logging.getLogger("hasn_edge")
    level, handlers, propagate = found.level, list(found.handlers), found.propagate
    yield found
    found.level, found.handlers, found.propagate = level, handlers, propagate
    terminal.set_verbosity(0, quiet=False)


def test_every_verb_takes_v_and_q():
    for verb in VERBS:
        command = cli.get_command(click.Context(cli), verb)
        below = command.commands.values() if isinstance(command, click.Group) else [command]
        for each in below:
            flags = [text for parameter in each.params for text in parameter.opts]
            assert {"-v", "--verbose", "-q", "--quiet"} <= set(flags), each.name
            assert len(flags) == len(set(flags)), each.name


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], ["a warning", "a note"]),
        (["-v"], ["some news", "a warning", "a note"]),
        (["-vv"], ["a detail", "some news", "a warning", "a note"]),
        (["-q"], []),
    ],
)
def test_v_and_q_choose_what_is_printed_beside_results(logger, options, shown):
    @click.command()
    def verb() -> None:
        child = logging.getLogger("hasn_edge.engine.builder")
        child.debug("a %s", "detail")
        child.info("some news")
        child.warning("a warning")
        terminal.note("a note")
        with terminal.status("working") as update:
            update(Step("more", 1, 2))
        click.echo("a result")

    done = CliRunner().invoke(terminal.add_common_options(verb), options)
    assert (done.exit_code, done.stdout) == (0, "a result\n")
    lines = [line.removeprefix("warning: hasn_edge.engine.builder: ") for line in done.stderr.splitlines()]
    lines = [line.split("builder: ")[-1] for line in lines if "working" not in line and "more" not in line]
    assert lines == shown


def test_v_and_q_exclude_each_other(logger):
    done = CliRunner().invoke(
        terminal.add_common_options(click.Command("verb", callback=lambda: None)), ["-q", "-v"]
    )
    assert done.exit_code == 2
    assert "-v and -q exclude each other" in done.stderr


def test_all_files_are_written_before_the_results_are_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found: list[list[str]] = []

    @click.command()
    def verb() -> None:
        def show() -> None:
            found.append(sorted(path.name for path in Path().iterdir()))
            say("a table")

        pages = [(Path("page.html"), lambda: "<p>"), (None, lambda: 1 / 0), (Path("table.md"), lambda: "| |")]
        terminal.write_results(lambda: {"ms": 1.5}, show, pages)

    command = terminal.add_common_options(verb)
    done = CliRunner().invoke(command, ["--json", "figures.json"])
    assert done.output == "a table\nfigures.json\npage.html\ntable.md\n"
    assert json.loads(Path("figures.json").read_text()) == {"ms": 1.5}
    assert (Path("page.html").read_text(), Path("table.md").read_text()) == ("<p>", "| |")
    assert CliRunner().invoke(command, ["--json"]).stdout == '{\n "ms": 1.5\n}\n'
    assert found == [["figures.json", "page.html", "table.md"]] * 2


def test_results_are_printed_though_a_file_cannot_be_written(tmp_path):
    @click.command()
    def verb() -> None:
        pages = [(tmp_path / "file.md/inside.md", lambda: "| |")]
        terminal.write_results(lambda: {"ms": 1.5}, lambda: say("a table"), pages)

    (tmp_path / "file.md").touch()
    done = CliRunner().invoke(terminal.add_common_options(verb), ["--json", str(tmp_path / "figures.json")])
    assert (done.output, type(done.exception)) == ("a table\n", OutputError)
    assert json.loads((tmp_path / "figures.json").read_text()) == {"ms": 1.5}
