"""The report's figures, what it remarks, and its gaps as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hasn_edge.bench.report import BenchReport
from hasn_edge.errors import UnsupportedError, say
from hasn_edge.evaluation.latency import Latency
from tests.support.bench_rig import REFERENCE, SLOW, make_row


def texts(report: BenchReport) -> list[str]:
    return [str(remark) for remark in report.remarks]


def parts(gpu: float, enqueue: float) -> dict[str, Latency]:
    return {name: Latency(rounds=((s / 1e3,) * 5,)) for name, s in (("gpu", gpu), ("enqueue", enqueue))}


@pytest.mark.parametrize(
    ("gpu", "enqueue", "graphs", "said"),
    [(1.5, 1.4, False, True), (1.5, 1.3, False, False), (1.5, 1.6, True, False), (1.5, 1.6, None, True)],
)
def test_a_gpu_that_waits_for_launches_is_reported(report, gpu, enqueue, graphs, said):
    one = make_row("engine", precision="fp16", parts=parts(gpu, enqueue), facts={"graphs": graphs})
    found = [text for text in texts(replace(report, cases=(one,))) if "waits for launches" in text]
    assert len(found) == said
    if said:
        assert f"start the network ({enqueue:.3f} ms) as the GPU to run it (1.500 ms)" in found[0]


def test_on_a_device_trtexecs_defaults_are_named(report):
    assert not [text for text in report.conventions if "trtexec" in text]
    engine = replace(report, cases=(make_row("engine", parts=parts(1, 1)),))
    (text,) = (text for text in engine.conventions if text.startswith("trtexec of TensorRT 8 and 10"))
    for word in ("CUDA graph", "spins", "copies", "--useCudaGraph", "--noCudaGraph"):
        assert word in text
    assert "gaps in which the GPU waits for the next launch" in "\n".join(engine.conventions)


def test_without_tensorrt_the_report_says_so(report):
    found = replace(report, without_engines=UnsupportedError("TensorRT is not seen", say("install it")))
    assert texts(found)[0] == "no engine was benched: TensorRT is not seen; install it"


def test_slower_int8_is_reported(report):
    assert "INT8 is slower than FP32 here: int8 took 2.00x the time of eager" in texts(report)


def test_a_faster_precision_is_reported_too(report):
    fast = BenchReport(
        **{
            **vars(report),
            "cases": (
                make_row("eager"),
                make_row("f", precision="fp16", latency=Latency(rounds=((0.1,), (0.225,)))),
            ),
        }
    )
    assert texts(fast) == ["FP16 is faster than FP32 here: f took 1/2.00 of the time of eager"]


def test_medians_that_show_the_opposite_are_explained(report):
    """As on a machine that something else slowed down in most of one case's rounds."""
    slow_machine = make_row("eager", latency=Latency(rounds=((1.0,), (1.0,), (0.1,))))
    other = make_row("f", precision="fp16", latency=Latency(rounds=((0.9,), (0.9, 0.9), (0.1,))))
    found = texts(replace(report, cases=(slow_machine, other)))
    assert found == ["FP16 is faster than FP32 here: f took 1/1.11 of the time of eager"]
    wild = make_row("f", precision="fp16", latency=Latency(rounds=((0.9,), (0.9,), (0.12,))))
    assert texts(replace(report, cases=(slow_machine, wild))) == [
        "FP16 may be slower or faster than FP32 here: f took 0.90x to 1.20x the time of eager, 0.90x in the "
        "median; the rounds disagree, measure again on a quiet machine"
    ]
    other = make_row("f", precision="fp16", latency=Latency(rounds=((1.1,), (1.1,), (0.11,) * 9)))
    found = texts(replace(report, cases=(slow_machine, other)))
    assert len(found) == 1
    assert found[0].startswith(
        "FP16 is slower than FP32 here: f took 1.10x the time of eager within a round; "
    )
    assert "their medians show the opposite" in found[0]


def test_int8_is_compared_with_fp32_of_another_backend_where_its_own_has_none(report):
    """As ``--precision int8`` times it, and a file of its own."""
    base = make_row("PyTorch fp32", backend="pytorch")
    slow = make_row("f", precision="int8", backend="onnxruntime", latency=SLOW)
    said = "INT8 is slower than FP32 here: f took 2.00x the time of "
    assert texts(replace(report, cases=(base, slow))) == [f"{said}PyTorch fp32"]
    own = make_row("ONNX Runtime fp32", backend="onnxruntime")
    assert texts(replace(report, cases=(base, own, slow))) == [f"{said}ONNX Runtime fp32"]
    elsewhere = replace(base, device="cuda")
    assert texts(replace(report, cases=(elsewhere, slow))) == []


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ((0.15, 0.24, 0.3), "INT8 is slower than FP32 here: f took 1.50x to 3.00x the time of eager, "),
        ((0.05, 0.09, 0.06), "INT8 is faster than FP32 here: f took 0.50x to 0.90x the time of eager, "),
        ((0.09, 0.12, 0.108), "INT8 may be slower or faster than FP32 here: f took 0.90x to 1.20x the time "),
    ],
)
def test_a_slower_int8_is_said_where_rounds_disagree_too(report, times, said):
    base = make_row("eager", latency=Latency(rounds=((0.1,),) * 3))
    other = make_row("f", precision="int8", latency=Latency(rounds=tuple((one,) for one in times)))
    (text,) = texts(replace(report, cases=(base, other)))
    assert text.startswith(said)
    assert text.endswith("in the median; the rounds disagree, measure again on a quiet machine")


def test_json_keeps_samples_and_has_no_infinity(report):
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["cases"][0]["latency"]["rounds_seconds"] == [list(one) for one in REFERENCE.rounds]
    assert content["cases"][2]["latency"]["speedup"] == pytest.approx(0.5)
    assert content["cases"][1]["quality"]["Set5"]["fidelity_db"] is None
    assert content["cases"][3]["latency"] is None
    assert content["cases"][3]["not_measured"] == ["latency: a reason"]
    assert content["macs"] == {"256x256": 26_636_504_688, "320x180": pytest.approx(23.41e9, rel=1e-3)}


def test_the_convention_of_times_states_where_pixels_go_in_and_out(report):
    def said(*labels):
        cases = (replace(case, pixels=case.label in labels) for case in report.cases)
        return replace(report, cases=tuple(cases)).conventions[0]

    floats, pixels = "float32 array in to float32 array out", "8-bit pixels in to 8-bit pixels out"
    timed = [case.label for case in report.cases if case.latency]
    assert f" {floats}, " in said()
    assert f" {floats} (same, int8: {pixels}), " in said("same", "int8")
    assert f" {pixels}, " in said(*timed)
    assert "float32" not in said(*timed)
