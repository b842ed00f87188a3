"""The README's two commands are the ones that continuous integration and a newcomer run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    return [
        block for block in re.findall(r"```\n(.*?)```", README, re.S) if block.startswith("python3 -m venv")
    ]


def test_two_commands_of_one_line():
    assert len(commands()) == 2
    assert all(block.count("\n") == 1 for block in commands())
    assert all("-c constraints.txt" in block for block in commands())


def test_continuous_integration_runs_the_second():
    assert commands()[1].strip() in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_every_path_that_the_readme_names_exists():
    text = re.sub(r"```python.*?```", "", README, flags=re.S)
    for path in re.findall(r"(?:calibration|benchmarks|engines|hasn_edge|tests)/[\w./-]+\w", text):
        assert (ROOT / path).exists() or "*" in text[text.index(path) :][: len(path) + 2], path


def test_torch_is_pinned():
    assert re.search(r"^torch==[\d.]+$", (ROOT / "constraints.txt").read_text(), re.M)
