"""The ``demo`` verb."""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hasn_edge import interrupt
from hasn_edge.cli.common import (
    SizeParam,
    chosen_model,
    cuda_option,
    device_option,
    engines_option,
    model_of_source,
    options_given,
    source_model_option,
    threads_option,
)
from hasn_edge.cli.cures import cure_text, message_of
from hasn_edge.cli.terminal import console, is_quiet, messages, say, write_results
from hasn_edge.errors import Cure, HasnEdgeError, with_cures

if TYPE_CHECKING:
    from hasn_edge.live.launch import DemoOptions
    from hasn_edge.live.pipeline import Live
    from hasn_edge.live.stats import Stats

_OF_THE_PAGE = ("host", "port", "allow_hosts", "allow_origins", "token")


class _InputSize(SizeParam):
    """A size, or ``native`` for the source's own."""

    name = "WxH|native"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse ``320x180`` or ``native``."""
        return value if value == "native" else super().convert(value, param, ctx)


@click.command("demo")
@click.option(
    "--source",
    metavar="SOURCE",
    default=None,
    help="0, /dev/video0, csi:0, csi:0?flip=2 (nvvidconv's flip-method: upside down), rtsp://..., "
    "http://..., a video file, 'pattern'.  [default: the first camera that gives images, else the pattern]",
)
@click.option(
    "--size",
    type=_InputSize(),
    default=None,
    help="What the network gets; frames are cut to its shape, resized.  [default: the engine's, else 320x180 "
    "for cameras, as many pixels at most for files and streams, in their own shape]",
)
@click.option(
    "--view",
    type=click.Choice(["auto", "window", "web", "none"]),
    default="auto",
    show_default=True,
    help="auto: web where an option of the page is given, else a window where there is a display, else the "
    "browser.",
)
@click.option(
    "--record",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Also write what is shown to a video file (.mp4, .mov, .mkv, .webm), without audio; of files, "
    "upscale keeps it.",
)
@click.option("--codec", default=None, metavar="NAME", help="Encoder of --record.  [default: H.264]")
@click.option("--quality", type=float, default=None, help="Of --record, on the encoder's own scale.")
@click.option(
    "--self-test",
    is_flag=True,
    help="Make each frame smaller and upscale it back: live PSNR of HASN, and of bicubic beside it.",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=None, help="Stop after so long."
)
@source_model_option
@click.option(
    "--artifact",
    "artifacts",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A file that export or build made, instead of --model; repeatable, to choose from while it runs.",
)
@click.option(
    "--engine",
    default=None,
    metavar="NAME",
    help="Begin with this file of ./engines, or of --artifact, such as hasn-x4-int8-cpu.onnx; 'hasn-x4 fp32' "
    "is the model itself.  [default: best for this machine]",
)
@engines_option
@device_option("best for this machine")
@cuda_option
@threads_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that serves the web page.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="Its port.")
@click.option(
    "--allow-host",
    "allow_hosts",
    metavar="NAME",
    multiple=True,
    help="A further name under which browsers may reach the page, as a reverse proxy passes it on; "
    "repeatable.",
)
@click.option(
    "--allow-origin",
    "allow_origins",
    metavar="ORIGIN",
    multiple=True,
    help="A further origin whose page may watch, such as https://demo.example.com: a reverse proxy's; "
    "repeatable.",
)
@click.option("--token", default=None, help="What viewers must know.  [default: made up where it is needed]")
def command(model: str | None, artifacts: tuple[Path, ...], **options: Any) -> None:
    """Upscale a camera, stream or file live, and show what it takes.

    The newest frame of a camera is upscaled whenever the network is free; a file loses no frame,
    and begins, with --view web, when somebody opens the page.
    Ends with the source, after --seconds or by Ctrl-C (exit code 130); finishes the recording,
    which a second Ctrl-C drops, and prints what was measured.

    Without --engine and --device it begins with the best for this machine, and says what that
    is: an engine of ./engines, else a GPU by ONNX Runtime or PyTorch, else on the CPU what
    build --precision auto measured to be best, else the model itself.

    \b
    Examples:
      hasn-edge demo
      hasn-edge demo --device cuda
      hasn-edge demo --source rtsp://camera.local/stream --view web --host 0.0.0.0
      hasn-edge demo --source clip.mp4 --record clip_x4.mp4
      hasn-edge demo --view web --allow-origin https://demo.example.com
      hasn-edge demo --source pattern --self-test --seconds 10
    """
    if artifacts and model is not None:
        raise click.UsageError("--model and --artifact exclude each other: an artifact holds its model")
    if options["record"] is None and (options["codec"], options["quality"]) != (None, None):
        raise click.UsageError("--codec and --quality belong to --record")
    given = options_given(click.get_current_context(), _OF_THE_PAGE)
    if given and options["view"] in ("window", "none"):
        raise click.UsageError(f"{given[0]} is for the web page, and --view {options['view']} serves none")
    if given:  # a window, which auto prefers, would have no use for it
        options["view"] = "web"
    from hasn_edge.live.launch import DemoOptions

    hint = None
    if not artifacts:
        from hasn_edge.live.sources.opening import display_name

        source = options["source"]
        name = display_name(source) if "://" in (source or "") else source or "the camera"
        real = source != "pattern" and not options["self_test"]  # whose LR is bicubic
        model, hint = model_of_source(model, name, lossy=real)
    chosen = DemoOptions(model=chosen_model(model), artifacts=artifacts, **options)
    try:
        code = _run(chosen, hint)
    except HasnEdgeError as exc:
        if not _lingering():
            raise
        click.echo(f"Error: {message_of(exc, command)}", err=True)
        code = exc.exit_code
    if _lingering():
        interrupt.leave(code)
    sys.exit(code)


def _run(options: DemoOptions, hint: str | None) -> int:
    """Run and report; return the exit code: 128 and the signal's number where one ended it.

    ``hint`` is printed when all is open.
    """
    from hasn_edge.live.launch import open_live
    from hasn_edge.live.views.terminal_view import TerminalView

    received: list[int] = []
    try:
        with ExitStack() as stack:
            drawn = () if is_quiet() else (TerminalView(messages()),)
            live = open_live(options, stack, _tell, drawn, cure_text=_cure_text)
            if hint is not None:
                _tell(hint, note=True)
            stop = partial(_stop, live, options.record, received)
            with interrupt.catching(stop, signals=interrupt.ENDS):
                whole = False
                try:
                    live.run()
                    whole = True
                finally:
                    _report(live.stats)
                    if options.record is not None:
                        _say_recording(live, options.record, whole=whole)
    except KeyboardInterrupt:  # before the run began, or a second one after it ended
        received.append(signal.SIGINT)
    return 128 + received[0] if received else 0


def _stop(live: Live, record: Path | None, received: list[int], number: int) -> None:
    """End the run at a signal as its own end would: recordings are finished, figures printed."""
    if received and number in interrupt.HANG_UP:
        return  # the shell sends it, and the system once more: it is one wish
    received.append(number)
    live.stop()
    texts = (f"Stopping: {record} is being finished; Ctrl-C again drops it", "Dropping the recording")
    if record is not None and len(received) <= len(texts):
        with suppress(RuntimeError, OSError):  # it interrupted this very stream, or its terminal is gone
            say(texts[len(received) - 1], err=True)


def _say_recording(live: Live, path: Path, *, whole: bool) -> None:
    """Print what became of the recording; one that was given up leaves nothing on disk."""
    from hasn_edge.files import abandon

    stuck = "record" in live.stuck
    if stuck:
        abandon()
        _lingering()  # what was finished just before is known after this
    if live.recorded:
        say(str(path))
    elif not live.stats.snapshot()["frames"]["shown"]:
        if whole:
            say(f"Nothing to record: no frame was shown, and {path} was not written", err=True)
    elif stuck:
        say(f"The recording was dropped: nothing of {path} was kept", err=True)


def _report(stats: Stats) -> None:
    """Write the figures where they were asked for; print the table, or why there is none."""
    from hasn_edge.hardware.host import describe_host
    from hasn_edge.live.summary import explain_no_frames, summary_table

    snapshot = stats.snapshot()

    def show() -> None:
        if snapshot["frames"]["shown"]:
            console().print(summary_table(snapshot))
        else:
            reason, cures = explain_no_frames(snapshot)
            _tell(reason, *cures)

    write_results(lambda: {**snapshot, "environment": describe_host()}, show)


def _tell(text: str, *cures: Cure, note: bool = False) -> None:
    """Print a sentence, and what helps, on standard error; a note not with ``-q``."""
    if note and is_quiet():
        return
    click.echo(with_cures(text, map(_cure_text, cures)), err=True)


def _cure_text(cure: Cure) -> str:
    return cure_text(cure, command)


def _lingering() -> bool:
    from hasn_edge.live.pipeline import lingering_threads

    return bool(lingering_threads())
