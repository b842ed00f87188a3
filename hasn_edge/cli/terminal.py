"""What the command line prints, where, and how much of it: ``-v``, ``-q`` and ``--json`` of every verb."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hasn_edge import interrupt
from hasn_edge.progress import Progress, Step, ignore

if TYPE_CHECKING:
    from rich.console import Console

LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
"""What of the library's log is shown: with ``-q``, by default, with ``-v`` and with ``-vv``."""

_STDOUT = "-"
"""What ``--json`` takes for standard output."""

_quiet = False
_json: str | None = None
_taken = False  # standard output, by what is neither JSON nor for people
_drawn: Console | None = None
"""Where a progress bar or a spinner is drawn just now."""


class _Lines(logging.Handler):
    """Prints log records above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record as a line: its level, its module and its text."""
        say(f"{record.levelname.lower()}: {record.name}: {record.getMessage()}", err=True)


def set_verbosity(verbose: int, quiet: bool) -> None:
    """Show more or less from now on.

    Args:
        verbose: How many times ``-v`` was given.
        quiet: Print results, warnings and errors only: no progress and no notes.
    """
    global _quiet
    _quiet = quiet
    logger = logging.getLogger("hasn_edge")
    logger.setLevel(LEVELS[0] if quiet else LEVELS[min(verbose + 1, 3)])
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines())
    logger.propagate = False


def json_on_stdout() -> bool:
    """Whether standard output is to hold JSON and nothing else."""
    return _json == _STDOUT


def take_stdout() -> None:
    """Keep standard output for what a verb writes there itself: what people read goes to standard error."""
    global _taken
    _taken = True


def _release() -> None:
    """Give standard output back to what people read: the verb that took it has ended."""
    global _json, _taken
    _json, _taken = None, False


def _is_taken() -> bool:
    return _taken or json_on_stdout()


def write_results(
    content: Callable[[], Mapping[str, Any]],
    show: Callable[[], None],
    pages: Sequence[tuple[Path | None, Callable[[], str]]] = (),
) -> None:
    """End a verb: write the files that the user asked for, then print its results and the files' names.

    In this order, as whoever reads standard output may have left, and all that is printed is true by then.

    Args:
        content: Returns the results as JSON values, for ``--json``.
        show: Prints them for people, with and without ``--json``, and where a file could not be written too.
        pages: Further files and what returns their text, such as that of ``--markdown``; those whose path is
            ``None`` were not asked for.

    Raises:
        OutputError: a file could not be written.
    """

    def figures() -> str:
        return json.dumps(content(), indent=1, allow_nan=False) + "\n"

    wanted = [(None if _json is None or json_on_stdout() else Path(_json), figures), *pages]
    files = [(path, text) for path, text in wanted if path is not None]
    try:
        for path, text in files:
            from hasn_edge.files import writing

            with writing(path) as temporary:
                temporary.write_text(text(), encoding="utf-8")
        if json_on_stdout():
            click.echo(figures(), nl=False)
    finally:
        show()
    for path, _ in files:
        say(str(path))


def _set_json(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Note where JSON goes, and refuse at once where it cannot."""
    global _json
    value = _STDOUT if value == "/dev/stdout" else value  # a file would take its place
    _json = value
    ctx.call_on_close(_release)
    if value is None or value == _STDOUT:
        return
    command = ctx.command
    takes_it = isinstance(command, click.Group) and value in command.commands
    takes_it |= any(isinstance(each, click.Argument) for each in command.params)
    if takes_it and not value.lower().endswith(".json"):
        raise click.UsageError(
            f"--json {value}: expected a file's name that ends in .json, or -; --json alone stands at the end"
        )
    from hasn_edge.files import require_writable

    require_writable(Path(value))


class _HelpFormatter(click.HelpFormatter):
    """Breaks lines between words: click would also break names at their hyphens, such as ``orin-nano``."""

    _HYPHEN = "\u2011"  # one that does not break

    def write_text(self, text: str) -> None:
        super().write_text(text.replace("-", self._HYPHEN))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        whole = [(term, text.replace("-", self._HYPHEN)) for term, text in rows]
        super().write_dl(whole, col_max, col_spacing)

    def write(self, string: str) -> None:
        super().write(string.replace(self._HYPHEN, "-"))


class _Context(click.Context):
    formatter_class = _HelpFormatter


def add_common_options(command: click.Command) -> click.Command:
    """Give a verb, and the verbs below it, the options ``--json``, ``-v`` and ``-q``, and their help."""

    def apply(ctx: click.Context, parameter: click.Parameter, value: int) -> None:
        ctx.meta[f"{__name__}.{parameter.name}"] = value
        verbose, quiet = (ctx.meta.get(f"{__name__}.{name}", 0) for name in ("verbose", "quiet"))
        if verbose and quiet:
            raise click.UsageError("-v and -q exclude each other")
        set_verbosity(verbose, bool(quiet))

    if isinstance(command, click.Group):
        for each in command.commands.values():
            add_common_options(each)
    command.context_class = _Context
    bare = isinstance(command, click.Group) and not command.invoke_without_command
    if not bare and not any(parameter.name == "verbose" for parameter in command.params):
        command.params += [
            click.Option(
                ["--json"],
                is_flag=False,
                flag_value=_STDOUT,
                metavar="[FILE]",
                default=None,
                expose_value=False,
                callback=_set_json,
                help="Write all figures to FILE, or as the only thing to standard output.",
            ),
            click.Option(
                ["-v", "--verbose"],
                count=True,
                expose_value=False,
                callback=apply,
                help="Also print what the library logs; -vv for all of it.",
            ),
            click.Option(
                ["-q", "--quiet"],
                is_flag=True,
                expose_value=False,
                callback=apply,
                help="Print results, warnings and errors only.",
            ),
        ]
    return command


def console() -> Console:
    """Return the console for results: standard output, as wide as the terminal; without one 80 columns.

    Where that holds something else it is standard error, and with ``-q`` nothing.
    """
    from rich.console import Console

    return Console(stderr=_is_taken(), quiet=_is_taken() and _quiet)


def messages() -> Console:
    """Return the console for progress: standard error."""
    from rich.console import Console

    return Console(stderr=True)


def is_quiet() -> bool:
    """Whether ``-q`` was given."""
    return _quiet


@contextmanager
def progress(description: str, *, show: bool = True) -> Iterator[Progress]:
    """Show a progress bar on standard error where that is a terminal; yield what takes the steps."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    out = messages()
    # At 80 columns a text that is wider would push the bar and the count out of the line.
    room = Column(no_wrap=True, max_width=max(8, out.width - len(description) - 42))
    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[current]}", markup=False, table_column=room),
        console=out,
        transient=True,
        disable=_quiet or not show or not out.is_interactive,  # else an empty line in a pipe
    )
    with bar, _drawn_on(bar.console):
        task = bar.add_task(description, total=None, current="")
        yield lambda step: bar.update(task, completed=step.done, total=step.total, current=step.text)


@contextmanager
def status(text: str) -> Iterator[Progress]:
    """Show a spinner with what is under way on standard error; yield what takes the steps."""
    if _quiet:
        yield ignore
        return
    from rich.text import Text  # a string would be read as markup, and names of files have brackets

    out = messages()
    with out.status(Text(text)) as spinner, _drawn_on(out):

        def show(step: Step) -> None:
            count = "" if step.total is None else f" ({step.done} of {step.total})"
            spinner.update(Text(step.text + count))

        yield show


@contextmanager
def _drawn_on(out: Console) -> Iterator[None]:
    """Print lines above what is drawn on a console until the block ends."""
    global _drawn
    _drawn = out
    try:
        yield
    finally:
        _drawn = None


def say(text: str, *, err: bool = False) -> None:
    """Print a result, or a warning or error on standard error, above a progress bar on the terminal.

    Where standard output holds something else, results go to standard error, and with ``-q`` nowhere.

    click.echo writes past the stream that rich puts in the place of a terminal's; a pipe must get the plain
    line. Rich breaks lines at the terminal's width by default: a path must stay whole.
    """
    if not err and _is_taken():
        if _quiet:
            return
        err = True
    stream, own = (sys.stderr, sys.__stderr__) if err else (sys.stdout, sys.__stdout__)
    if own is None or not own.isatty() or stream is own:
        click.echo(text, err=err)
    elif _drawn is None:
        stream.write(f"{text}\n")
    else:
        _drawn.print(text, soft_wrap=True, markup=False, highlight=False, emoji=False)


def note(text: str) -> None:
    """Print a line that explains a result on standard error; nothing with ``-q``."""
    if not _quiet:
        say(text, err=True)


@dataclass
class Interruption:
    """What is printed when a signal ends a verb; the verb changes it while it works."""

    sentence: str = "Interrupted"


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Let Ctrl-C and SIGTERM end the block, whatever library hangs, with a sentence and the shell's code."""
    last = Interruption()

    def say_last() -> None:
        say(last.sentence, err=True)
        if sys.__stderr__ is not None and sys.__stderr__.isatty():
            sys.__stderr__.write("\r\x1b[2K")  # the progress bar, which is drawn below it once more
            sys.__stderr__.flush()

    with interrupt.ending_in_time(lambda: say("Stopping; Ctrl-C again leaves at once", err=True), say_last):
        yield last
