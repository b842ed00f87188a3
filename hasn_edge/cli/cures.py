"""What helps against an error, written as commands and options of the command line."""

from __future__ import annotations

import importlib
import shlex
from itertools import chain
from typing import Any

import click

from hasn_edge.errors import Cure, HasnEdgeError, MissingDependencyError, with_cures


def message_of(error: HasnEdgeError, command: click.Command | None = None) -> str:
    """Return the error's message for the command line.

    Args:
        error: What was raised.
        command: The verb that raised it, whose options its cures name.
    """
    if isinstance(error, MissingDependencyError) and error.install is None:
        from hasn_edge.doctor.commands import board_install

        install = board_install(error.extra)
        if install is not None:  # a Jetson: the extra itself would bring what hides or breaks JetPack's
            given = {"extra": error.extra, "needed_for": error.needed_for}
            error = MissingDependencyError(error.module, **given, install=install)
    return with_cures(error.message, (cure_text(cure, command) for cure in error.cures))


def cure_text(cure: Cure, command: click.Command | None = None) -> str:
    """Return one cure in words: ``use --device cpu``, ``run: hasn-edge build --precision int8``.

    Nothing where the verb lacks an option of it: who raises an error does not know which verb runs.
    """
    if cure.action not in ("call", "use", "omit"):
        return str(cure)
    verb = _command(cure.text) if cure.action == "call" else command
    flags = {name: _flag(name, verb) for name in cure.arguments}
    if None in flags.values():
        return ""
    if cure.action == "omit":
        return f"leave out {', '.join(map(str, flags.values()))}"
    begin = f"run: hasn-edge {cure.text}" if cure.action == "call" else "use"
    words = (_words(flags[name], value) for name, value in cure.arguments.items())
    return " ".join(chain([begin], *words))


def _command(verb: str) -> click.Command | None:
    """Return the command of a verb, or of one below it: ``"data prepare"``."""
    first, *rest = verb.split()
    found: click.Command | None = importlib.import_module(f"hasn_edge.cli.{first}").command
    for name in rest:
        found = found.commands.get(name) if isinstance(found, click.Group) else None
    return found


def _words(flag: str | None, value: Any) -> list[str]:
    """Return what is typed for an option."""
    if value is False or value is None:
        return []
    return ([flag] if flag else []) + ([] if value is True else [shlex.quote(text) for text in _texts(value)])


def _texts(value: Any) -> list[str]:
    """Return what is typed for a value: sizes are (height, width) in Python, WIDTHxHEIGHT when typed."""
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return [f"{value[1]}x{value[0]}"]
    if isinstance(value, tuple | list):
        return [text for each in value for text in _texts(each)]
    return [str(value)]


def _flag(name: str, command: click.Command | None) -> str | None:
    """Return the option of an argument; ``""`` where its place gives it, ``None`` where the verb has none."""
    usual = "--" + name.replace("_", "-")
    if command is None:
        return usual
    below = command.commands.values() if isinstance(command, click.Group) else ()  # one of them may run
    for parameter in chain(command.params, *(each.params for each in below)):
        if parameter.name == name or usual in parameter.opts:
            return "" if isinstance(parameter, click.Argument) else max(parameter.opts, key=len)
    return None
