"""A report as a table, on the terminal and as Markdown."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from hasn_edge.bench.report import BenchReport
from hasn_edge.bench.table import GAP, markdown, notes, rows, terminal_table
from hasn_edge.errors import Cure
from hasn_edge.evaluation.latency import Latency
from tests.support.bench_rig import make_row


def cells(report: BenchReport) -> dict[str, list[str]]:
    return dict(rows(report))


def test_table_figures(report):
    table = cells(report)
    assert table["median, ms"] == ["300.0", "300.0", "650.0", GAP]
    assert table["p90, ms"][0] == "460.0"
    assert table["speed-up"] == ["1.00x", "1.00x", "0.50x", GAP]
    assert table["FPS"][0] == "3.33"
    assert table["parameters"] == ["435,272"] * 4
    assert table["GMACs at 256x256"][0] == "26.637"
    assert table["GMACs at 320x180"][0] == "23.410"
    assert table["file, MB"] == [GAP, "1.75", "1.75", "1.75"]
    assert table["peak memory, MB"] == ["512", "512", "512", GAP]
    assert table["Set5: PSNR-Y, dB"] == ["32.181", "32.181", "32.131", GAP]
    assert table["Set5: dPSNR, dB"] == [GAP, "+0.000", "-0.050", GAP]
    assert table["Set5: fidelity, dB"] == [GAP, "equal", "47.3", GAP]
    assert table["Set5: worst image"] == [GAP, GAP, "butterfly -0.091", GAP]


@pytest.mark.parametrize(
    ("milliseconds", "written"),
    [
        (0.0123, "0.012"),
        (1.2344, "1.234"),
        (9.9999, "10.00"),
        (23.456, "23.46"),
        (99.999, "100.0"),
        (1657.13, "1657.1"),
    ],
)
def test_milliseconds_have_digits_enough_to_compare_engines(report, milliseconds, written):
    latency = Latency(rounds=((milliseconds / 1e3,) * 3,))
    table = cells(replace(report, cases=(make_row("one", latency=latency),)))
    assert table["median, ms"] == table["p90, ms"] == table["p99, ms"] == [written]
    assert table["std, ms"] == ["0.000"]


def test_what_helps_is_written_as_the_reader_wants_it(report):
    jetson = {"jetson": {"clocks_locked": False, "power_mode": "15W"}}
    floating = replace(report, before=jetson)
    assert any(note.endswith("; use set_clocks=True") for note in notes(floating))

    def words(cure: Cure) -> str:
        return f"type {', '.join(cure.arguments)}"

    assert any(note.endswith("; type set_clocks") for note in notes(floating, words))
    assert "; type set_clocks" in markdown(floating, words)


def test_markdown_is_one_table_with_its_conventions(report):
    text = markdown(report)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {6}
    for note in notes(report):
        assert f"- {note}" in text
    assert "emulated: latency: a reason" in text
    assert "CPU P" in text
    assert "Printed by `hasn-edge bench` on 2026-11-23." in text


def test_terminal_table_fits_a_hundred_columns(report):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal_table(report))
    text = console.export_text()
    assert "butterfly" in text
    assert max(len(line) for line in text.splitlines()) <= 100
