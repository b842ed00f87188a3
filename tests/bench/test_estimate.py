"""The report of an estimate: every board has one, and the word ESTIMATE stands at every figure."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from unittest.mock import Mock

import pytest
from click.testing import CliRunner

from hasn_edge.bench.estimate import boards, estimate_model, markdown
from hasn_edge.cli import cli
from hasn_edge.errors import ConfigError, InputError, UnsupportedError
from hasn_edge.model.zoo import DEFAULT_MODEL


@pytest.mark.slow
def test_every_board_has_an_estimate():
    assert len(boards()) == 21
    times = {}
    for board in boards():
        report = estimate_model("hasn-x4-small", board)
        fp32, fp16, int8 = (e.seconds for e in report.estimates)
        assert int8 < fp16 < fp32, board
        times[board] = fp16
    assert times["rtx-4090"] < times["rtx-4070"] < times["rtx-4060"] < times["a2"]
    assert times["rtx-5090"] < times["rtx-4090"] < times["thor"] < times["agx-orin"] < times["orin-nano"]


@pytest.mark.slow
def test_a_bundled_model_is_estimated_with_the_base_packages_alone():
    code = f"""
import sys
from unittest.mock import Mock
for name in ("torch", "onnx", "onnxruntime", "safetensors"):
    sys.modules[name] = None
from hasn_edge.bench.estimate import estimate_model
print(len(estimate_model({DEFAULT_MODEL!r}, "orin-nano").estimates))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_the_word_stands_wherever_a_figure_does(tmp_path):
    files = {"json": tmp_path / "e.json", "markdown": tmp_path / "e.md"}
    result = CliRunner().invoke(
        cli,
        ["bench", "--estimate", "orin-nano", "--size", "640x360", "--precision", "fp16,int8"]
        + [part for kind, path in files.items() for part in (f"--{kind}", str(path))],
    )
    assert result.exit_code == 0, result.output
    content = json.loads(files["json"].read_text())
    assert content["estimate"] is True
    begin = f"ESTIMATE, not a measurement: {DEFAULT_MODEL}, 640x360 -> 2560x1440 on "
    assert content["title"].startswith(begin)
    for one in content["precisions"]:
        assert one["estimate"] is True
        assert all(part["estimate"] is True for part in one["layers"])
        assert one["milliseconds"] == pytest.approx(
            sum(max(part["memory_ms"], part["compute_ms"]) for part in one["layers"])
        )
    assert set(content["sources"]) == set(content["device"])
    text = files["markdown"].read_text()
    heads = [line for line in text.splitlines() if line.startswith("|  ") or line.startswith("| layer")]
    assert len(heads) == 2
    assert all(
        cell.endswith("ESTIMATE") for head in heads for cell in head.strip(" |").split(" | ") if "," in cell
    )
    assert all(head.count("ESTIMATE") == 2 for head in heads)
    assert text.startswith("# ESTIMATE, not a measurement")
    assert "\n## ESTIMATE by kind of layer" in text
    assert "ESTIMATE, not a measurement" in result.output
    assert result.output.count("ESTIMATE  ") >= 2, "two columns, in two tables"
    assert [line.split() for line in result.output.splitlines()].count(["fp16", "int8"]) == 2
    assert "unconfirmed" in result.output


def test_the_command_that_it_names_can_be_typed_again(tmp_path, monkeypatch):
    page = tmp_path / "my page.md"
    arguments = ["bench", "--estimate", "orin-nano", "--markdown", str(page)]
    monkeypatch.setattr(sys, "argv", ["hasn-edge", *arguments])
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    (line,) = (line for line in page.read_text().splitlines() if line.startswith("Printed by `"))
    assert shlex.split(line.split("`")[1]) == ["hasn-edge", *arguments]


def test_80_columns_hold_both_tables_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(os, "get_terminal_size", Mock(side_effect=OSError))
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = CliRunner().invoke(cli, ["bench", "--estimate", "orin-nano"]).output.splitlines()
    table = [line for line in lines if not line.startswith("- ")]
    assert max(map(len, table)) == 80, "the lines between headings and figures"
    place = next(number for number, line in enumerate(table) if line.startswith("block_*.cab.cab.3. "))
    assert [line.split()[0] for line in table[place : place + 2]] == ["block_*.cab.cab.3.", "attention.0"]


def test_what_a_recipe_freezes_costs_nothing(tmp_path):
    """By hand: a tensor is 32 x 180 x 320 in FP16. The convolution's own is not written, and neither read by
    pooling nor by the gate; the rest is attention's means, weights and gate.
    """
    (tmp_path / "frozen.toml").write_text('freeze = ["block_1.*.gate", "block_3.*.gate"]\n')
    plain = estimate_model("hasn-x4-small", "orin-nano")
    frozen = estimate_model("hasn-x4-small", "orin-nano", recipe=str(tmp_path / "frozen.toml"))
    tensor, rest = 2 * 32 * 180 * 320, 2 * (32 + (32 + 264 + 8) + (8 + 288 + 32) + 32)
    saved = [a.bytes - b.bytes for a, b in zip(plain.estimates, frozen.estimates, strict=True)]
    assert saved == [0, 0, 2 * (3 * tensor + rest)]
    assert frozen.estimates[2].seconds < plain.estimates[2].seconds
    said = "; channel attention frozen: block_1.cab.cab.2.gate, block_3.cab.cab.2.gate\n"
    assert said in markdown(frozen)
    (tmp_path / "all.toml").write_text('freeze = ["*"]\n')
    recipe = str(tmp_path / "all.toml")
    text = markdown(estimate_model("hasn-x4-small", "orin-nano", recipe=recipe, precisions=("int8", "fp16")))
    (line,) = [line for line in text.splitlines() if "cab.cab.3 (x3)" in line]
    assert line.split("|")[2] == " frozen "


@pytest.mark.slow
def test_what_cannot_be_estimated_is_refused():
    with pytest.raises(
        UnsupportedError,
        match="no profile of a board called 'nano'; choose one of: a2, agx-orin-32gb, agx-orin, ",
    ):
        estimate_model("hasn-x4-small", "nano")
    with pytest.raises(UnsupportedError, match="no profile of a board called 'rtx'"):
        estimate_model("hasn-x4-small", "rtx")
    with pytest.raises(ConfigError, match=r"gone.toml: no such file"):
        estimate_model("hasn-x4-small", "gone.toml")
    with pytest.raises(InputError, match="320x8 pixels is below the network's minimum side of 15"):
        estimate_model("hasn-x4-small", "thor", size=(8, 320))
    with pytest.raises(UnsupportedError, match="unknown precision 'fp8'"):
        estimate_model("hasn-x4-small", "thor", precisions=["fp8"])
    assert "| fp16, ESTIMATE |" in markdown(estimate_model("hasn-x4-small", "thor", precisions=["fp16"]))
