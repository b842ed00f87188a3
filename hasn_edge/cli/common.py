"""Options and helpers that several verbs share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

    from hasn_edge.runtime.session import Session

F = TypeVar("F", bound=Callable[..., Any])

MODEL_HELP = "Bundled name, or a .safetensors or .pth file.  [default: the bundled model]"


def model_option(function: F) -> F:
    """Add ``--model``."""
    return click.option("--model", metavar="NAME|FILE", default=None, help=MODEL_HELP)(function)


def artifact_option(function: F) -> F:
    """Add ``--artifact``."""
    return click.option(
        "--artifact",
        type=click.Path(path_type=Path),
        default=None,
        help="A file that export or build made (.onnx, .ts, .engine) instead of --model.",
    )(function)


def device_option(function: F, *, default: str = "cpu; cuda for an engine") -> F:
    """Add ``--device``; ``default`` is what its help says of the verb's."""
    return click.option(
        "--device",
        metavar="cpu|cuda[:N]|tensorrt[:N]",
        default=None,
        help=f"Where to run; tensorrt is ONNX Runtime's.  [default: {default}]",
    )(function)


def cuda_option(function: F) -> F:
    """Add ``--cuda``."""
    return click.option(
        "--cuda",
        type=click.Choice(["torch", "cuda-python", "pycuda"]),
        default=None,
        help="What gives an engine its memory and streams; pycuda has no CUDA graphs.  [default: the first "
        "that is installed and works: cuda-python, pycuda, torch]",
    )(function)


def threads_option(function: F) -> F:
    """Add ``--threads``."""
    return click.option(
        "--threads",
        type=click.IntRange(1, 1024),
        default=None,
        help="CPU threads.  [default: all cores]",
    )(function)


def output_option(function: F) -> F:
    """Add ``-o``."""
    return click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("engines"),
        show_default=True,
        help="Folder for the files.",
    )(function)


class Size(click.ParamType[Any]):
    """``WIDTHxHEIGHT`` in pixels, as everybody writes it; becomes ``(height, width)``."""

    name = "WxH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Parse ``320x180``."""
        if isinstance(value, tuple):
            return value
        width, cross, height = str(value).lower().partition("x")
        if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            self.fail(
                f"{value!r} is no size; expected WIDTHxHEIGHT in pixels, for example 320x180", param, ctx
            )
        if max(int(width), int(height)) > 16384:
            self.fail(f"{value!r} is too large; at most 16384 pixels a side", param, ctx)
        return int(height), int(width)


SIZE = Size()


def chosen_model(model: str | None) -> str:
    """Return the model to use where none may have been named."""
    from hasn_edge.model.zoo import DEFAULT_MODEL

    return DEFAULT_MODEL if model is None else model


def open_chosen(
    model: str | None,
    artifact: Path | None,
    *,
    threads: int | None = None,
    exact: bool = False,
    device: str | None = None,
    cuda: str | None = None,
    slots: int = 1,
) -> Session:
    """Open the session that ``--model`` or ``--artifact`` names; an engine with so many ``slots``."""
    from hasn_edge.artifact import Kind, load_artifact
    from hasn_edge.runtime.open import open_model, open_session

    if artifact is not None:
        if model is not None:
            raise click.UsageError("--model and --artifact exclude each other: an artifact holds its model")
        built = load_artifact(artifact)
        several = slots if built.kind is Kind.ENGINE else 1
        return open_session(built, threads=threads, exact=exact, device=device, cuda=cuda, slots=several)
    if cuda is not None:
        raise click.UsageError("--cuda is for engines: name one with --artifact FILE.engine")
    return open_model(chosen_model(model), threads=threads, device=device)


def console() -> Console:
    """Return the console for results: standard output, as wide as it is; at least 100 when piped."""
    from rich.console import Console

    plain = Console()
    return plain if plain.is_terminal else Console(width=max(plain.width, 120))


def messages() -> Console:
    """Return the console for progress and warnings: standard error."""
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def progress(description: str, total: int | None, *, show: bool = True) -> Iterator[Callable[..., None]]:
    """Show a progress bar on standard error; yield a function that advances it by one.

    It takes ``current``, a text for what is under way, and ``total`` where that becomes known later.

    On anything but a terminal nothing is drawn.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[current]}"),
        console=messages(),
        transient=True,
        disable=not show,
    )
    with bar:
        task = bar.add_task(description, total=total, current="")

        def advance(current: str = "", total: int | None = None) -> None:
            bar.update(task, advance=1, current=current, total=total)

        yield advance


@contextmanager
def status(text: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner with what is under way on standard error; yield a function that changes the text."""
    with messages().status(text) as spinner:
        yield spinner.update


def say(text: str, *, err: bool = False) -> None:
    """Print a line, above the progress bar where one is drawn on the terminal.

    click.echo writes past the stream that rich puts in the place of a terminal's; a pipe must get the plain
    line.
    """
    stream, own = (sys.stderr, sys.__stderr__) if err else (sys.stdout, sys.__stdout__)
    if own is not None and own.isatty() and stream is not own:
        stream.write(f"{text}\n")
    else:
        click.echo(text, err=err)
