"""What results of benchmarks have in common: the machine in words, what printed a page, and its files."""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hasn_edge.files import writing
from hasn_edge.hardware.host import describe_host


def machine_words(machine: Mapping[str, str] | None = None) -> str:
    """Return a machine as one line; this one, as it is now, where ``None``."""
    return "; ".join(f"{name} {value}" for name, value in (machine or describe_host()).items())


def origin(command: str | None = None, machine: Mapping[str, str] | None = None) -> list[str]:
    """Return the notes that a page ends with: where it was measured, and what printed it.

    Args:
        command: What follows ``python``; :func:`typed_command` where ``None``.
        machine: As for :func:`machine_words`.
    """
    printed = f"Printed by `python {command or typed_command()}` on {datetime.date.today()}."
    return [f"Machine: {machine_words(machine)}.", printed]


def typed_command() -> str:
    """Return this script and its arguments as they were typed, but for the folders of somebody's machine."""

    def bare(argument: str) -> str:
        name, equals, value = argument.rpartition("=")
        return argument if "://" in value else f"{name}{equals}{Path(value).name or value}"

    return shlex.join([f"benchmarks/{Path(sys.argv[0]).name}", *map(bare, sys.argv[1:])])


def publish(text: str, folder: Path | None, name: str, figures: Any = None) -> None:
    """Print a page and, where there is a folder, :func:`write` it."""
    click.echo(text)
    if folder is not None:
        write(text, folder, name, figures)


def write(text: str, folder: Path, name: str, figures: Any = None) -> None:
    """Write a page to ``NAME.md``, and its figures, where there are some, to ``NAME.json``."""
    contents = {} if figures is None else {".json": json.dumps(figures, indent=1) + "\n"}
    for suffix, content in {**contents, ".md": text}.items():
        with writing(folder / f"{name}{suffix}") as path:
            path.write_text(content, encoding="utf-8")
