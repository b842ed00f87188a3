"""The ``doctor`` verb."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from hasn_edge.doctor.result import Finding


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option(
    "--engines",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("engines"),
    show_default=True,
    help="Folder whose engines are checked against this GPU.",
)
def command(as_json: bool, engines: Path) -> None:
    """Say what this machine can build and run, which known traps it is in, and the cure of each.

    Nothing is changed, and no heavy library is loaded.

    \b
    Example:
      hasn-edge doctor
    """
    from hasn_edge.doctor.report import can_do, facts, find_traps, look

    machine = look(engines=engines)
    found, traps, abilities = facts(machine), find_traps(machine), can_do(machine)
    if as_json:
        content = {
            "findings": [finding.to_dict() for finding in found],
            "traps": [trap.to_dict() for trap in traps],
            "can": [{"what": what, "can": can, "cure": "" if can else cure} for what, can, cure in abilities],
        }
        click.echo(json.dumps(content, indent=1))
        return
    from hasn_edge.cli.terminal import console

    out = console()
    out.print(_findings("This machine", found))
    if traps:
        out.print(_findings("Known traps that it is in", traps))
    else:
        out.print(
            "It is in none of the known traps of TensorRT, CUDA packages and Jetsons.\n", highlight=False
        )
    out.print(_abilities(abilities))


def _findings(title: str, findings: Sequence[Finding]) -> Table:
    """Return three columns; the cure stands below the detail, where there is room for a command."""
    from rich.markup import escape

    from hasn_edge.doctor.result import State

    colour = {State.OK: "green", State.MISSING: "red", State.WARNING: "yellow", State.INFO: "cyan"}
    table = _table(title, columns=3)
    for finding in findings:
        text = escape(finding.detail)
        if finding.cure:
            text += f"\n[bold]cure:[/] {escape(finding.cure)}"
        table.add_row(f"[{colour[finding.state]}]{finding.state.value}[/]", escape(finding.name), text)
    return table


def _abilities(abilities: Sequence[tuple[str, bool, str]]) -> Table:
    from rich.markup import escape

    table = _table("What hasn-edge can do here", columns=2)
    for what, can, cure in abilities:
        lack = "" if can else f"\n[bold]needs:[/] {escape(cure)}"
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
