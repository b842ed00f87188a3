"""Tables on terminals of any width: figures stay whole, names fold."""

from __future__ import annotations

import io
import re

import pytest
from click.testing import CliRunner
from rich.console import Console

from hasn_edge.cli import models
from hasn_edge.cli.tables import print_table
from hasn_edge.model import zoo

NAMES = ("PyTorch fp32", "hasn-x4-small-int8-weakly-typed-trt10-320x180-b8.onnx, emulated exactly", "bicubic")


def printed(width: int, headings: list[str], rows: list[list[str]]) -> list[str]:
    out = Console(width=width, record=True, file=io.StringIO())
    print_table(out, ["net", "435,272 parameters"], headings, rows)
    return out.export_text().splitlines()


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("count", [1, 7, 30])
def test_figures_are_never_folded(width, count):
    headings = ["", *(f"Set{index}: PSNR-Y, dB" for index in range(count))]
    rows = [
        [name, *(f"{line}{index:02}5.{index:03}" for index in range(count))]
        for line, name in enumerate(NAMES)
    ]
    lines = printed(width, headings, rows)
    assert lines[:2] == ["net", "435,272 parameters"]
    assert max(map(len, lines)) <= width
    tables = "\n".join(lines[2:])
    assert "…" not in tables
    for name, *figures in rows:
        found = [figure for figure in re.findall(r"(?<![\d.-])\d+\.\d+", tables) if figure in figures]
        assert found == figures, "each once, whole, in order"
        places = [tables.index(part) for part in re.split(r"[-. /]", name)]
        assert places == sorted(places), "its parts whole, one after the other"
    if count != 7:
        assert (tables.count("PyTorch fp32") > 1) == (count == 30), (
            "what does not fit is below, with the names"
        )


@pytest.mark.parametrize("width", [80, 100, 120])
def test_seven_usual_figures_stand_side_by_side(width):
    headings = ["", "median, ms", "speed-up", "peak memory, MB"]
    headings += [f"Set5: {what}" for what in ("PSNR-Y, dB", "SSIM-Y", "dPSNR, dB", "fidelity, dB")]
    lines = printed(
        width,
        headings,
        [[name, "1657.1", "10.23x", "1512", "32.181", "0.8948", "-0.032", "47.3"] for name in NAMES],
    )
    assert sum("10.23x" in line for line in lines) == 3
    assert all(
        line.split()[-7:] == ["1657.1", "10.23x", "1512", "32.181", "0.8948", "-0.032", "47.3"]
        for line in lines
        if "10.23x" in line
    )


def test_words_of_headings_are_whole_where_there_is_room():
    headings = ["", *(f"hasn-x4-small (onnxruntime fp{n}): SSIM-Y" for n in (16, 32))]
    rows = [["coffee-0", "0.8512", "0.8513"]]
    assert any("hasn-x4-small  hasn-x4-small" in line for line in printed(80, headings, rows))
    assert "coffee-0" in printed(30, headings, rows)[-2]


def test_lines_of_headings_are_whole_where_there_is_room():
    headings, rows = ["", "share of MACs", "peak memory, MB"], [["conv_1", "6.2%", "512"]]
    assert printed(80, headings, rows)[2:4] == [
        "                       peak memory",
        "        share of MACs           MB",
    ]
    assert printed(22, headings, rows)[2:5] == [
        "         share    peak",
        "            of  memory",
        "          MACs      MB",
    ]


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("block_*.cab.cab.3.attention.0 (x6)", ["block_*.cab.cab.3.", "attention.0 (x6)"]),
        ("runs/hasn-x4-small/best.safetensors", ["runs/hasn-x4-small/", "best.safetensors"]),
        ("Averylongwordthathasnopartsatall", ["Averylongwordthathas", "nopartsatall"]),
    ],
)
def test_a_name_is_folded_between_its_parts(name, folded):
    lines = printed(32, ["layer", "ms"], [[name, "123456.789"], ["conv_1", "2"]])
    begin = next(number for number, line in enumerate(lines) if "123456.789" in line)
    assert [line[:20].rstrip() for line in lines[begin : begin + len(folded)]] == folded


def test_a_long_heading_folds_and_its_figures_do_not():
    lines = printed(
        40, ["", "hasn-x4-int8-cpu.onnx (onnxruntime int8): PSNR-Y, dB"], [["coffee-0", "29.215"]]
    )
    assert [line.split() for line in lines if "coffee-0" in line] == [["coffee-0", "29.215"]]


@pytest.mark.parametrize("width", [80, 120])
def test_models_shows_every_bundled_model_whole(monkeypatch, width):
    monkeypatch.setattr(models, "console", lambda: Console(width=width))
    out = CliRunner().invoke(models.command, []).output
    table, _, text = out.partition("\n\n")
    assert max(map(len, table.splitlines())) <= 80
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()[5:]}
    assert next(iter(rows)) == zoo.DEFAULT_MODEL
    assert set(rows) == set(zoo.bundled_models())
    for name, row in rows.items():
        scores = zoo.bundled_provenance(name)["scores"]
        assert row[2:4] == [f"{scores[each]['psnr_y']:.2f}" for each in ("Set5", "Set14")]
        assert re.search(rf"^{name}( \(default\))?: \w", text, re.M)
