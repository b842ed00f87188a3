"""Which precision a benchmark says to ship."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hasn_edge.bench.case_process import ComparedNetwork
from hasn_edge.bench.report import SetQuality
from hasn_edge.bench.verdict import verdict
from hasn_edge.evaluation.latency import Latency
from tests.support.bench_rig import REFERENCE, make_row

FAST = Latency(rounds=((0.05, 0.15, 0.1), (0.2, 0.25)))
"""Half of what the reference takes, in each round."""


def quality(dpsnr: float, worst: float | None = None) -> dict[str, SetQuality]:
    worst = dpsnr if worst is None else worst
    return {
        "Set5": SetQuality(
            images=5,
            psnr_y_db=32 + dpsnr,
            ssim_y=0.9,
            dpsnr_db=dpsnr,
            worst_image="baby",
            worst_dpsnr_db=worst,
        )
    }


@pytest.fixture
def with_cases(report):
    first = replace(report.cases[0], label="FP32")
    return lambda *cases: replace(report, cases=(first, *cases))


def test_the_fastest_that_keeps_the_budget_is_shipped(with_cases):
    int8 = make_row("INT8", precision="int8", latency=FAST, quality=quality(-0.05, -0.2))
    found = verdict(with_cases(make_row("FP16", precision="fp16", quality=quality(0.0)), int8))
    assert found.case == int8
    assert found.sentence == (
        "Ship INT8 (INT8.onnx): 150 ms a frame, 31.950 dB on Set5, 2.00x as fast as FP32, the fastest in "
        "FP32, for -0.050 dB on Set5 (worst image -0.200)."
    )


def test_what_loses_too_much_is_not(with_cases):
    found = verdict(with_cases(make_row("INT8", precision="int8", latency=FAST, quality=quality(-0.061))))
    assert found.case.label == "FP32"
    assert found.sentence.endswith("INT8 loses 0.061 dB, more than 0.06.")


def test_a_file_keeps_the_budget_that_it_was_built_for(with_cases):
    loose = make_row("INT8", precision="int8", latency=FAST, quality=quality(-0.08), budget_db=0.1)
    assert verdict(with_cases(loose)).case == loose
    strict = replace(loose, quality=quality(-0.05), budget_db=0.01)
    assert verdict(with_cases(strict)).sentence.endswith("INT8 loses 0.050 dB, more than 0.01.")


def test_one_image_that_loses_too_much_is_too_much(with_cases):
    row = make_row("INT8", precision="int8", latency=FAST, quality=quality(-0.05, -1.2), budget_db=0.06)
    said = "INT8 loses 1.200 dB on one image, baby, more than {}."
    five_times_the_mean = said.format("0.3")
    assert verdict(with_cases(row)).sentence.endswith(five_times_the_mean)
    assert verdict(with_cases(replace(row, budget_db=None))).sentence.endswith(five_times_the_mean)
    assert verdict(with_cases(replace(row, budget_worst_db=1.1))).sentence.endswith(said.format("1.1"))
    assert verdict(with_cases(replace(row, budget_worst_db=1.3))).case.label == "INT8"


def test_another_papers_network_is_not(with_cases):
    other = ComparedNetwork(name="span", model="span=a.pth", trained=True, counts={})
    fast = make_row("SPAN", precision="fp16", latency=FAST, quality=quality(0.2), network=other)
    assert verdict(with_cases(fast)).sentence.endswith("No other precision was measured.")


def test_a_file_alone_has_nothing_to_be_compared_with(report):
    alone = make_row("INT8", precision="int8", quality={"Set5": report.cases[0].quality["Set5"]})
    found = verdict(replace(report, cases=(alone,), own_reference=True))
    assert found.case == alone
    assert found.sentence == (
        "Ship INT8 (INT8.onnx): 300 ms a frame, 32.181 dB on Set5. No other precision was measured."
    )


def test_what_is_hardly_faster_is_not(with_cases):
    slow = Latency(rounds=tuple(tuple(0.97 * one for one in each) for each in REFERENCE.rounds))
    found = verdict(with_cases(make_row("INT8", precision="int8", latency=slow, quality=quality(0.0))))
    assert found.case.label == "FP32"
    assert found.sentence.endswith("INT8 is only 1.03x as fast.")


@pytest.mark.parametrize(("cores", "doubt"), [(None, False), (0.1, False), (1.4, True)])
def test_a_busy_machine_is_stated(with_cases, cores, doubt):
    report = replace(with_cases(make_row("INT8", precision="int8", latency=FAST)), busy_cores=cores)
    found = verdict(report)
    assert ("machine was busy: times of a free one may choose another case." in found.sentence) == doubt
    assert bool(report.busy) == doubt


def test_doubt_is_stated(with_cases):
    torn = Latency(rounds=((0.02, 0.02), (0.3, 0.3)))
    found = verdict(with_cases(make_row("INT8", precision="int8", latency=torn, quality=quality(0.0))))
    assert found.case.label == "FP32"
    assert found.sentence.endswith("rounds disagree by more than 20%: measure again on a quiet machine.")


def test_nothing_timed_is_nothing_to_ship(report):
    untimed = replace(report, cases=tuple(replace(case, latency=None) for case in report.cases))
    assert verdict(untimed).case is None
    assert verdict(replace(untimed, busy_cores=1.4)) == verdict(untimed)
