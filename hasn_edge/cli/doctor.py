"""The ``doctor`` verb."""

from __future__ import annotations

import json

import click


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def command(as_json: bool) -> None:
    """Say what this machine can build and run, what is missing, and the cure.

    Nothing is changed, and no heavy library is loaded.

    \b
    Example:
      hasn-edge doctor
    """
    from hasn_edge.device.doctor import State, can_do, diagnose

    findings, abilities = diagnose(), can_do()
    if as_json:
        content = {
            "findings": [finding.to_dict() for finding in findings],
            "can": [{"what": what, "can": can, "cure": "" if can else cure} for what, can, cure in abilities],
        }
        click.echo(json.dumps(content, indent=1))
        return
    from rich.markup import escape
    from rich.table import Table

    from hasn_edge.cli.common import console

    colour = {State.OK: "green", State.MISSING: "red", State.WARNING: "yellow", State.INFO: "cyan"}
    table = Table(title="This machine", title_justify="left")
    for heading in ("what", "state", "detail", "cure"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        state = f"[{colour[finding.state]}]{finding.state.value}[/]"
        table.add_row(finding.name, state, escape(finding.detail), escape(finding.cure))
    console().print(table)
    summary = Table(title="What hasn-edge can do here", title_justify="left")
    for heading in ("can", "what", "cure"):
        summary.add_column(heading, overflow="fold")
    for what, can, cure in abilities:
        summary.add_row("[green]yes[/]" if can else "[red]no[/]", what, "" if can else escape(cure))
    console().print(summary)
