"""The verb ``doctor``: tables and JSON say the same, and fit the terminal."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from hasn_edge.cli import cli
from hasn_edge.cli.doctor import json_content, print_tables
from hasn_edge.doctor import environment
from hasn_edge.doctor.checks import run_checks
from hasn_edge.doctor.describe import describe_environment, list_abilities
from hasn_edge.doctor.environment import Environment, collect_environment
from hasn_edge.hardware.gpu import gpu_facts
from hasn_edge.hardware.jetson import Jetson
from tests.support.environments import ORIN, make_jetson


def tables(machine: Environment, *, width: int = 100) -> str:
    out = Console(width=width, file=io.StringIO())
    print_tables(machine, out)
    return out.file.getvalue()


@pytest.mark.slow
def test_tables_and_json_say_the_same():
    shown = CliRunner().invoke(cli, ["doctor"])
    content = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).stdout)
    assert shown.exit_code == 0
    here = collect_environment()
    assert [item["name"] for item in content["findings"]] == [r.name for r in describe_environment(here)]
    assert [item["name"] for item in content["traps"]] == [result.name for result in run_checks(here)]
    assert content["next"] is None or gpu_facts() is not None
    assert [item["what"] for item in content["can"]] == [what for what, _, _ in list_abilities(here)]
    for item in content["findings"]:
        assert item["name"].split()[0] in shown.output


@pytest.mark.parametrize("width", [80, 100, 200])
def test_tables_fit_the_terminal(orin_nano, width):
    bare = Environment(
        root=orin_nano, python=(3, 10), driver=True, gpu=ORIN, memory_bytes=7_990_000_000,
        jetson=Jetson(orin_nano).facts().values, engines=orin_nano,
    )  # fmt: skip
    output = tables(bare, width=width)
    assert max(map(len, output.splitlines())) <= width
    text = " ".join(output.split())
    assert "Known problems that it has" in text
    for problem in ("swap", "clocks", "tensorrt"):
        assert problem in text
    assert "cure: sudo apt install python3-libnvinfer" in text
    assert text.endswith("Next: sudo apt install python3-libnvinfer")
    assert "cure: run: hasn-edge build --target" not in text, "what to do next is no cure"
    assert "run: hasn-edge build --target orin-nano-super" in text


def test_json_has_the_cures_as_commands(orin_nano):
    clocks = {"clocks_locked": False, "gpu_min_hz": 306_000_000, "gpu_max_hz": 1_020_000_000}
    nano = make_jetson(orin_nano)
    (found,) = json_content(replace(nano, jetson={**nano.jetson, **clocks}))["traps"]
    assert found == {
        "name": "clocks",
        "state": "warning",
        "detail": "the GPU's clock floats between 306 and 1020 MHz",
        "cure": "sudo jetson_clocks, or run: hasn-edge bench --set-clocks",
    }


def test_a_machine_without_problems_is_said_to_have_none():
    output = tables(Environment(root=Path("/nowhere"), engines=Path("/nowhere")))
    assert "none of the known problems" in output
    assert "pip install 'hasn-edge[export]'" in output, "brackets are not taken for markup"
    assert "Next" not in output
    assert "Known problems that" not in output


def test_engines_of_another_folder(tmp_path, monkeypatch):
    seen = []

    def collect(**given):
        seen.append(given)
        return Environment(root=tmp_path)

    monkeypatch.setattr(environment, "collect_environment", collect)
    CliRunner().invoke(cli, ["doctor", "--engines", str(tmp_path)])
    assert seen == [{"engines": tmp_path}]
