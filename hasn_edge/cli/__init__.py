"""The command line: one file per verb, loaded only when that verb is used."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any

import click

from hasn_edge import interrupt
from hasn_edge.errors import HasnEdgeError

VERBS = {
    "doctor": "Say what this machine can build and run, what is missing, and the cure.",
    "models": "Show the bundled models: what each is for, its quality and its size.",
    "upscale": "Upscale images, videos and folders of them.",
    "demo": "Upscale a camera, stream or file live: window, browser or recording, honestly measured.",
    "eval": "Measure PSNR-Y and SSIM on a set of images, as the literature does.",
    "export": "Write a model as ONNX, for PyTorch or for Triton, checked against PyTorch.",
    "build": "Build an FP32, FP16 or INT8 artifact or engine within a quality budget.",
    "inspect": "Show what a built engine or graph does, layer by layer; compare two.",
    "sensitivity": "Measure what INT8 costs each group of convolutions.",
    "bench": "Measure latency, memory, quality and drift; print one table.",
    "data": "Prepare, draw and degrade images for training.",
    "train": "Train a network; resume a run.",
}
"""Every verb with its one-line help, so that ``--help`` loads none of them."""


_OF_A_PATH = {
    errno.EACCES: "choose one that you may read and write",
    errno.EPERM: "choose one that you may read and write",
    errno.EROFS: "choose one that is not read-only",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead to each other; repair them",
}
"""What helps where the operating system refuses a path, whichever line of ours asks for it first."""


class _Failure(click.ClickException):
    """One of our errors, as click shows it: a message, and the error's own exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it off the instance


class _Verbs(click.Group):
    """Loads a verb's module when it is asked for; prints our errors as messages."""

    _chosen: click.Command | None = None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module = importlib.import_module(f"hasn_edge.cli.{name}")
        from hasn_edge.cli.terminal import add_common_options

        self._chosen = add_common_options(module.command)
        return self._chosen

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            import difflib  # 3 ms, which every call would pay

            near = difflib.get_close_matches(args[0].lower(), VERBS, n=1) if args else []
            hint = f" Did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"{exc.message}{hint} Verbs: {', '.join(VERBS)}.", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with interrupt.working():
                return super().invoke(ctx)
        except HasnEdgeError as exc:
            from hasn_edge.cli.cures import message_of

            raise _Failure(message_of(exc, self._chosen), exc.exit_code) from exc
        except OSError as exc:
            if exc.errno not in _OF_A_PATH or not isinstance(exc.filename, str | os.PathLike):
                raise
            message = f"cannot use {os.fspath(exc.filename)}: {exc.strerror}; {_OF_A_PATH[exc.errno]}"
            raise _Failure(message, 1) from exc
        except (KeyboardInterrupt, click.Abort):
            # click would say "Aborted!" and return 1, which is a failure's code.
            click.echo("Interrupted; nothing half-written was kept", err=True)
            raise SystemExit(interrupt.EXIT_CODE) from None


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="hasn-edge")
def cli() -> None:
    """Put HASN x4 super-resolution on Jetsons, GPUs and CPUs, and know what it costs in dB.

    \b
    hasn-edge upscale photo.jpg -o out/
    hasn-edge build --precision int8
    hasn-edge bench
    """


def main() -> None:
    """Entry point of the ``hasn-edge`` command."""
    if hasattr(sys.stdout, "reconfigure"):  # names of files need not be UTF-8: they go out as they are
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        cli(prog_name="hasn-edge")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
