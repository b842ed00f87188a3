"""``inspect``: tables that 80 columns hold, and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hasn_edge.cli import cli
from tests.support import samples

LINE = ("block_1.esa.conv4_U11_myl0", True, "Half", "Half", 20_000_000, 18_000_000)


@pytest.fixture
def engines(tmp_path: Path) -> list[str]:
    paths = []
    for name, count in (("first", 12), ("second", 11)):
        lines = [
            [*LINE, " ".join(f"block_{i}.esa.{node}" for node in ("conv4", "Sigmoid", "Mul"))]
            for i in range(count)
        ]
        kernels = {
            "all": count,
            "convolutions": {"Half -> Half": count},
            "read_bytes": 20_000_000 * count,
            "written_bytes": 18_000_000 * count,
            "activation_bytes": 86_113_280,
            "size": [180, 320],
            "lines": lines,
        }
        (tmp_path / name).mkdir()
        paths.append(str(samples.engine(tmp_path / name, kernels=kernels).path))
    return paths


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, ["inspect", *arguments], prog_name="hasn-edge")
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    from rich.console import Console

    from hasn_edge.cli import inspect

    monkeypatch.setattr(inspect, "console", lambda: Console(width=80))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("more", [[], ["--layers"]])
@pytest.mark.parametrize("count", [1, 2])
def test_80_columns_hold_it(engines, count, more):
    out = run(*engines[:count], *more).stdout
    assert max(map(len, (line for line in out.splitlines() if "a.engine" not in line))) <= 80
    assert "…" not in out
    assert "456.0 MB" in out
    assert ("418.0 MB" in out and "-38.0 MB (-8.3%)" in out) == (count == 2)


def test_the_heaviest_or_all(engines):
    few, every = run(engines[0]), run(engines[0], "--layers")
    assert few.stdout.count("conv4, Sigmoid, Mul") == 8
    assert "the 8 heaviest of 12 kernels" in few.stdout
    assert "--layers prints all 12" in few.stderr
    assert every.stdout.count("conv4, Sigmoid, Mul") == 12
    two = run(*engines, "--layers").stdout
    assert two.count("block_11") == 1
    assert "block_3" not in two


def test_json(engines, tmp_path):
    file = tmp_path / "a.json"
    assert run(engines[0], "--json", str(file)).stdout.endswith(f"{file}\n")
    content = json.loads(file.read_text())
    assert content["figures"]["moved"] == 456_000_000
    assert content["layers"][0]["name"] == "block_0.esa: conv4, Sigmoid, Mul"
    assert len(content["layers"]) == 12
    run(*engines, "--json", str(file))
    content = json.loads(file.read_text())
    assert content["difference"]["moved"] == -38_000_000
    assert [one["figures"]["kernels"] for one in content["files"]] == [12, 11]


def test_what_it_says_of_a_contradiction(engines):
    assert "- a.engine: it is called INT8, and none of its 12 convolutions is" in run(engines[0]).stdout


def test_cures_are_options(engines):
    result = CliRunner().invoke(cli, ["inspect", engines[0], "--target", "rtx"], prog_name="hasn-edge")
    assert result.exit_code == 1
    assert "leave out --target" in result.stderr
