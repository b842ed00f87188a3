"""The ``doctor`` verb."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hasn_edge.cli.terminal import console, write_results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from hasn_edge.doctor.describe import Ability
    from hasn_edge.doctor.environment import Environment
    from hasn_edge.doctor.result import CheckResult


@click.command("doctor")
@click.option(
    "--engines",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("engines"),
    show_default=True,
    help="Folder whose engines are checked against this GPU.",
)
def command(engines: Path) -> None:
    """Show what this machine can build and run, which known problems it has, and what helps.

    Nothing is changed, and no heavy library is loaded.

    \b
    Example:
      hasn-edge doctor
    """
    from hasn_edge.doctor.environment import collect_environment

    here = collect_environment(engines=engines)
    write_results(lambda: json_content(here), lambda: print_tables(here, console()))


def json_content(environment: Environment) -> dict[str, Any]:
    """Return what is found on a machine; its parts have the names that version 0.1 gave them."""
    from hasn_edge.doctor.checks import run_checks
    from hasn_edge.doctor.describe import describe_environment, list_abilities

    step = _step(environment)
    return {
        "findings": [_values(result) for result in describe_environment(environment)],
        "traps": [_values(result) for result in run_checks(environment)],
        "can": [
            {"what": what, "can": can, "cure": needs} for what, can, needs in list_abilities(environment)
        ],
        "next": step or None,
    }


def print_tables(environment: Environment, out: Console) -> None:
    """Print what is found on a machine."""
    from hasn_edge.doctor.checks import run_checks
    from hasn_edge.doctor.describe import describe_environment, list_abilities

    out.print(_results("This machine", describe_environment(environment)))
    problems = run_checks(environment)
    if problems:
        out.print(_results("Known problems that it has", problems))
    else:
        out.print(
            "It has none of the known problems of TensorRT, CUDA packages and Jetsons.\n", highlight=False
        )
    out.print(_abilities(list_abilities(environment)))
    step = _step(environment)
    if step:
        out.print(f"Next: {step}", highlight=False, markup=False)


def _step(environment: Environment) -> str:
    """Return the one command to type next; nothing where there is none."""
    from hasn_edge.cli.cures import cure_text
    from hasn_edge.doctor.describe import next_step

    cure = next_step(environment)
    return "" if cure is None else cure_text(cure).removeprefix("run: ")


def _cures(result: CheckResult) -> str:
    from hasn_edge.cli.cures import cure_text

    return ", or ".join(cure_text(cure) for cure in result.cures)


def _values(result: CheckResult) -> dict[str, str]:
    return {
        "name": result.name,
        "state": result.state.value,
        "detail": result.detail,
        "cure": _cures(result),
    }


def _results(title: str, results: Sequence[CheckResult]) -> Table:
    """Return three columns; the cure stands below the detail, where there is room for a command."""
    from rich.markup import escape

    from hasn_edge.doctor.result import State

    colour = {State.OK: "green", State.MISSING: "red", State.WARNING: "yellow", State.INFO: "cyan"}
    table = _table(title, columns=3)
    for result in results:
        text = escape(result.detail)
        if result.cures:
            label = "" if result.state is State.OK else "[bold]cure:[/] "
            text += f"\n{label}{escape(_cures(result))}"
        table.add_row(f"[{colour[result.state]}]{result.state.value}[/]", escape(result.name), text)
    return table


def _abilities(abilities: Sequence[Ability]) -> Table:
    from rich.markup import escape

    table = _table("What hasn-edge can do here", columns=2)
    for what, can, needs in abilities:
        lack = "" if can else f"\n[bold]needs:[/] {escape(needs)}"
        table.add_row("[green]yes[/]" if can else "[red]no[/]", what + lack)
    return table


def _table(title: str, *, columns: int) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, show_header=False)
    table.add_column(no_wrap=True)
    for _ in range(columns - 2):
        table.add_column(overflow="fold", max_width=24)
    table.add_column(overflow="fold", ratio=1)
    return table
