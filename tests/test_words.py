"""The words of the product: the field's terms, one thing for each name, options in ``cli/`` only."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hasn_edge.cli import VERBS, cli

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hasn_edge"

SAY = {
    r"[Pp]ictures?": "image",
    r"[Pp]rocessors?": "CPU",
    r"[Ss]ounds?": "audio",
    r"[Aa]rtefacts?": "artifact",
    r"(weak|strong)(?!ly)( |-)(form|graph|network|one)s?": "weakly typed, strongly typed",
    r"weak-10": "weakly typed with LayerNormalization as a node (trt10)",
    r"[Mm]ended|[Mm]ends?|[Rr]eckon(s|ed)?|[Nn]obody": "repair, estimate, a subject",
    r"of the very same|by name only|(is|are|be) told|[Hh]eard": "plain words: receives, reports",
    r"[Kk]nown[ _]bad": "known issues",
}
"""What may not stand in any text or name of the product (see docs/glossary.md), and what to write instead."""

NAMES = {
    "Job", "GraphMaker", "tried", "SHELF", "Kernels", "Finding", "converse", "hear", "Conversation", "Course",
    "Ran", "Wanted", "Effort", "Stopwatch", "World", "Lane", "Mailbox", "Shown", "build_fastest", "slots",
    "Slot", "typical", "turn", "turns", "Turn", "trap", "traps", "Trap", "TRAPS",
}  # fmt: skip
"""Names that the code no longer uses, for classes, functions, attributes, variables and arguments."""

TWICE: set[str] = {"Self"}
"""Class and alias names that may be defined in several modules: the same thing each time."""

FOREIGN = {"--interval", "--store", "--restore"}
"""Options of other programs that happen to be called like ours."""


def sources() -> list[Path]:
    kinds = ("*.py", "*.toml", "*.js", "*.html", "*.css", "*.md")
    found = [path for kind in kinds for path in PACKAGE.rglob(kind)]
    texts = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        *ROOT.glob("*/README.md"),
        *(path for folder in ("calibration", "engines") for path in (ROOT / folder).rglob("*.toml")),
    ]
    return sorted({*found, *texts} - {ROOT / "docs" / "glossary.md"})


def test_words_of_the_field():
    banned = {re.compile(rf"(?<![A-Za-z]){word}(?![A-Za-z])"): instead for word, instead in SAY.items()}
    wrong = []
    for path in sources():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if "version 0.1" in line or "platform.processor" in line:
                continue  # what older files say, and Python's own name
            wrong += [
                f"{path.relative_to(ROOT)}:{number}: {match[0]!r}; write {instead}"
                for pattern, instead in banned.items()
                if (match := pattern.search(line))
            ]
    assert wrong == []


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno


@pytest.mark.slow
def test_names_of_the_glossary():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name, line in names(ast.parse(path.read_text(encoding="utf-8")))
        if name in NAMES
    ]
    assert wrong == []


def test_no_class_stands_for_two_things():
    homes = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(path)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name):
                    homes[name].append(path)
    wrong = {
        name: [str(path.relative_to(PACKAGE)) for path in paths]
        for name, paths in homes.items()
        if len(paths) > 1 and name not in TWICE
    }
    assert wrong == {}


def options() -> set[str]:
    """Return every option of every verb."""
    found: set[str] = set()
    pending: list[click.Command] = [cli.get_command(click.Context(cli), verb) for verb in VERBS]
    while pending:
        command = pending.pop()
        pending += command.commands.values() if isinstance(command, click.Group) else ()
        found |= {text for parameter in command.params for text in parameter.opts if text.startswith("--")}
    return found


@pytest.mark.slow
def test_no_option_is_named_outside_the_command_line():
    known = options() - FOREIGN
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.is_relative_to(PACKAGE / "cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                wrong += [
                    f"{path.relative_to(ROOT)}:{node.lineno}: {flag}"
                    for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", node.value)
                    if flag in known
                ]
    assert wrong == []


MANY = "convolutions|files|frames|images|iterations|layers|patches|steps|threads|warnings"
"""What is counted at run time, where there may be one of it."""

SEVERAL = {
    "doctor/describe.py: {images} images",  # what the bundled models were trained on
    "doctor/describe.py: {iterations} iterations",
    "pipeline/inspection.py: {count} images",
}
"""Counts that are never one."""


def test_what_is_counted_is_one_or_many():
    """``f"{count} images"`` reads "1 images" where there is one. It may stand after "5 of", and in a rate."""
    number = re.compile(
        rf"(?<!of )(?<!the )(?<!its )(?<!to )\{{[a-z][^{{}}]*\}} (?:{MANY})\b(?!/| at a time| per)"
    )
    found = {
        f"{path.relative_to(PACKAGE)}: {count}"
        for path in PACKAGE.rglob("*.py")
        for count in number.findall(path.read_text(encoding="utf-8"))
    }
    assert found == SEVERAL, "errors.counted() writes both"
