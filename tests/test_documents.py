"""The documents: their commands, links and images are those of this repository."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md"))
    if path.name != "CHANGELOG.md"
]


def commands() -> list[str]:
    return [
        block for block in re.findall(r"```\n(.*?)```", README, re.S) if block.startswith("python3 -m venv")
    ]


def test_the_readme_is_short_and_has_two_commands_of_one_line():
    assert README.count("\n") <= 150
    assert len(commands()) == 2
    assert all(block.count("\n") == 1 for block in commands())
    assert all("-c constraints.txt" in block for block in commands())


def test_continuous_integration_runs_the_second():
    assert commands()[1].strip() in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_exists(path):
    text = re.sub(r"```python.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (path.parent / link.partition("#")[0]).exists()]
    for name in re.findall(
        r"(?<![\w./-])(?:calibration|benchmarks|engines|hasn_edge|tests|docs)/[\w./-]+\w", text
    ):
        if not (ROOT / name).exists() and "*" not in text[text.index(name) :][: len(name) + 2]:
            missing.append(name)
    missing = [name for name in missing if not re.search(r"NAME|cache|\.(onnx|engine|ts)$", name)]
    assert missing == []


@pytest.mark.slow
def test_the_floors_are_drawn_as_the_code_has_them():
    spec = importlib.util.spec_from_file_location("make_images", ROOT / "docs" / "make_images.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    drawn = (ROOT / "docs" / "images" / "floors.svg").read_text(encoding="utf-8")
    assert drawn == module.floors_svg(), "the rooms changed; run: python docs/make_images.py"
    assert max(module.floors().values()) <= 12
    rooms = {path.name.removesuffix(".py") for path in module.PACKAGE.iterdir() if path.suffix in ("", ".py")}
    assert rooms - set(module.SAYS) == {"__init__", "__main__", "__pycache__"} & rooms | {
        "__init__",
        "__main__",
    }


def test_torch_is_pinned():
    assert re.search(r"^torch==[\d.]+$", (ROOT / "constraints.txt").read_text(), re.M)
