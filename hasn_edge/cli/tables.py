"""Tables of figures on the terminal: a row a thing that was measured, numbers that are never folded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_NAME, _HEADING = 16, 12
"""Characters of a name, and of a column's heading, that stay on one line where the terminal is narrow."""

_GAP = 2
"""Spaces between columns."""


def print_table(
    out: Console, caption: Sequence[str], headings: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Print a caption and a table.

    Where it is narrow, names in the first column fold between their parts, and headings between their words.
    Figures that do not fit beside each other at all go into further tables below, with the names again.

    Args:
        out: Where to.
        caption: Lines above the table; the first one is its title.
        headings: Of all columns; a comma or a colon in one is a place to fold it.
        rows: A name, and the figures.
    """
    from rich.text import Text

    for number, line in enumerate(caption):
        out.print(Text(line, style="bold" if number == 0 else ""))
    texts = [heading.replace(", ", "\n").replace(": ", "\n") for heading in headings]
    longest = max((len(row[0]) for row in rows), default=0)
    widths = [
        max(min(_HEADING, max(map(len, text.split()), default=0)), *(len(row[index]) for row in rows))
        for index, text in enumerate(texts)
    ]
    first = 1
    while first < len(texts):
        last, room = first, out.width - min(longest, _NAME)
        while last < len(texts) and (room := room - widths[last] - _GAP) >= 0:
            last += 1
        last = max(last, first + 1)
        taken = sum(width + _GAP for width in widths[first:last])
        name = max(min(longest, out.width - taken), 1)
        left, wide = out.width - taken - name, widths[first:last]
        for parts in (str.split, _short_lines):  # room for whole words first
            for place, text in enumerate(texts[first:last]):
                more = max(0, min(max(map(len, parts(text)), default=0) - wide[place], left))
                left -= more
                wide[place] += more
        _print_part(out, texts, rows, [name, *wide], [0, *range(first, last)])
        first = last


def _short_lines(heading: str) -> list[str]:
    return [line for line in heading.splitlines() if len(line) <= _NAME]


def _print_part(
    out: Console,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    widths: Sequence[int],
    chosen: Sequence[int],
) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # The box's line between columns is a space, and the other one is on the right of each column.
    table = Table(box=box.SIMPLE_HEAD, padding=(0, _GAP - 1, 0, 0), pad_edge=False, show_edge=False)
    table.show_header = any(headings)
    for index, width in zip(chosen, widths, strict=True):
        heading = Text(headings[index])
        table.add_column(heading, justify="right" if index else "left", overflow="fold", width=width)
    for row in rows:
        table.add_row(_fold_name(row[0], widths[0]), *(Text(row[index]) for index in chosen[1:]))
    out.print(table)
    out.print()


def _fold_name(name: str, width: int) -> Text:
    """Fold a name between its words and parts, where all of these have room: ``block.`` / ``attention``."""
    from rich.text import Text

    lines = [""]
    for part in re.findall(r"[^\s./_-]*[\s./_-]*", name):
        lines += [""] if lines[-1] and len((lines[-1] + part).rstrip()) > width else []
        lines[-1] += part
    return Text("\n".join(line.rstrip() for line in lines))
