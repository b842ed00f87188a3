"""A report as a table, on the terminal and as Markdown."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import pytest

from hasn_edge.bench.case_process import ComparedNetwork
from hasn_edge.bench.report import BenchReport, SetQuality
from hasn_edge.bench.table import FIRST, GAP, KEYS, MOST, caption, choose, columns, labels, markdown, notes
from hasn_edge.errors import Cure
from hasn_edge.evaluation.latency import Latency
from hasn_edge.model.complexity import NetworkCounts
from tests.support.bench_rig import make_row

QUALITY = (SetQuality(images=5, psnr_y_db=32.1, ssim_y=0.89, dpsnr_db=-0.1),)


def cells(report: BenchReport) -> dict[str, list[str]]:
    return {one.heading: one.cells for one in columns(report)}


def test_table_figures(report):
    table = cells(report)
    assert table["median, ms"] == ["300.0", "300.0", "650.0", GAP]
    assert table["p90, ms"][0] == "460.0"
    assert table["speed-up"] == ["1.00x", "1.00x", "0.50x", GAP]
    assert table["FPS"][0] == "3.33"
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
    assert text.startswith(
        "# net, 320x180 -> 1280x720\n\n435,272 parameters, 26.637 GMACs at 256x256, 23.410 at "
    )
    for note in notes(report):
        assert f"- {note}" in text
    assert "emulated: latency: a reason" in text
    assert "CPU P" in text
    assert "Printed by `hasn-edge bench` on 2026-11-23." in text


def test_what_holds_for_all_cases_stands_above_them(report):
    title, counts = caption(report)
    assert title == "net, 320x180 -> 1280x720"
    assert counts == "435,272 parameters, 26.637 GMACs at 256x256, 23.410 at 320x180"
    assert caption(replace(report, busy_cores=0.1)) == [title, counts]
    busy = caption(replace(report, busy_cores=1.26))
    assert busy[2].startswith("BUSY: other programs kept 1.3 of ")
    text = markdown(replace(report, busy_cores=1.26))
    assert text.index("BUSY") < text.index("| ")


def test_bicubic_is_the_last_row(report):
    bicubic = SetQuality(images=5, psnr_y_db=28.42, ssim_y=0.8104, dpsnr_db=-3.761)
    whole = replace(report, bicubic={"Set5": bicubic})
    assert labels(report) == ["eager", "same", "int8", "emulated"]
    assert labels(whole) == [*labels(report), "bicubic"]
    table = cells(whole)
    assert {len(each) for each in table.values()} == {5}
    assert table["Set5: PSNR-Y, dB"][-1] == "28.420"
    assert table["Set5: dPSNR, dB"][-1] == "-3.761"
    assert table["median, ms"][-1] == GAP
    assert whole.to_dict()["bicubic"]["Set5"]["psnr_y_db"] == 28.42


def test_the_most_important_figures_are_shown_unless_others_are_named(report):
    assert set(FIRST) <= set(KEYS)
    found = columns(report)
    assert {one.key for one in found} <= set(KEYS)
    order = [KEYS.index(one.key) for one in found]
    assert order == sorted(order), "in the order of the keys"
    keys = [one.key for one in choose(found)]
    assert keys == ["median", "speedup", "memory", "psnr", "ssim", "dpsnr", "fidelity"]
    assert len(keys) == MOST
    assert [one.key for one in choose(found, ("psnr", "p99"))] == ["p99", "psnr"]
    two = replace(
        report, cases=tuple(replace(c, quality={"A": q, "B": q}) for c in report.cases for q in QUALITY)
    )
    assert [one.heading for one in choose(columns(two))] == [
        *("median, ms", "speed-up", "peak memory, MB", "A: PSNR-Y, dB", "A: dPSNR, dB", "B: PSNR-Y, dB"),
        "B: dPSNR, dB",
    ]


def test_other_networks_have_their_own_counts_and_no_quality_without_weights(report):
    counts = {(256, 256): NetworkCounts(parameters=150_688, macs=9_834_000_000, activations=41_700_000)}
    other = ComparedNetwork(name="span", model="span=random", trained=False, counts=counts)
    row, own = make_row("span, PyTorch fp32", network=other), len(report.cases)
    both = replace(report, cases=(*report.cases, row))
    table = {one.heading: one.cells for one in columns(both)}
    assert table["parameters"] == ["435,272"] * own + ["150,688"]
    assert table["GMACs at 256x256"] == ["26.64"] * own + ["9.83"]
    assert table["M activations at 256x256"] == ["358.1"] * own + ["41.7"]
    assert table["Set5: PSNR-Y, dB"][-1] == GAP
    assert "macs" in [one.key for one in choose(columns(both))]
    assert "macs" not in [one.key for one in columns(report)]
    content = both.to_dict()["cases"]
    assert content[0]["network"] is None
    assert content[-1]["network"]["counts"]["256x256"]["parameters"] == 150_688
    assert any("networks of other papers: MACs of" in text for text in notes(both))


def test_rounds_that_disagree_give_no_speed_up_but_the_reason(report):
    steady = make_row("a", latency=Latency(rounds=((0.1,), (0.1,), (0.1,))))
    near, far = (make_row("b", latency=Latency(rounds=((0.1,), (0.1,), (x,)))) for x in (0.119, 0.13))
    assert cells(replace(report, cases=(steady, near)))["speed-up"] == ["1.00x", "1.00x"]
    wild = replace(report, cases=(steady, far))
    assert cells(wild)["speed-up"] == ["1.00x", GAP]
    reason = (
        "speed-up: the rounds disagree, from 0.77x to 1.00x: something else ran, or the device changed its"
    )
    assert any(note.startswith(f"b: {reason}") for note in notes(wild))
    latency = wild.to_dict()["cases"][1]["latency"]
    assert latency["speedup"] is None
    assert latency["no_speedup"].startswith(reason)
    assert report.to_dict()["cases"][0]["latency"]["no_speedup"] is None


def test_a_report_prints_its_most_important_figures(report):
    text = str(report)
    assert "median, ms | 300.0 | 300.0 | 650.0" in text
    assert len(text.splitlines()) < 16
    assert report._repr_html_() == f"<pre>{html.escape(text)}</pre>"


def test_a_name_does_not_move_the_figures_of_a_markdown_table(report):
    cases = tuple(
        replace(case, quality={"a|b": one}) for case in report.cases for one in case.quality.values()
    )
    lines = markdown(replace(report, cases=cases)).splitlines()
    (line,) = (line for line in lines if line.startswith(r"| a\|b: PSNR-Y, dB | 32.181 | "))
    assert len(re.split(r"(?<!\\)\|", line)) == len(cases) + 3
