"""The report's figures and its gaps, as JSON and as a table."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from hasn_edge.bench.options import TimingOptions
from hasn_edge.bench.report import BenchCase, BenchReport, SetQuality
from hasn_edge.bench.table import GAP, markdown, notes, rows, terminal_table
from hasn_edge.evaluation.latency import Latency
from hasn_edge.spec import ModelSpec

REFERENCE = Latency(rounds=((0.1, 0.3, 0.2), (0.4, 0.5)))
SLOW = Latency(rounds=((0.4, 0.4), (0.9, 0.9)))


def case(label: str, **fields) -> BenchCase:
    values = {
        "backend": "onnxruntime",
        "precision": "fp32",
        "file": f"{label}.onnx",
        "sha256": "0" * 64,
        "file_bytes": 1_750_000,
        "latency": REFERENCE,
        "peak_bytes": 512_000_000,
    }
    return BenchCase(label=label, **{**values, **fields})


@pytest.fixture
def report() -> BenchReport:
    base = SetQuality(images=5, psnr_y_db=32.181, ssim_y=0.8948)
    equal = SetQuality(
        images=5, psnr_y_db=32.181, ssim_y=0.8948, dpsnr_db=0.0, dssim=0.0, fidelity_db=math.inf
    )
    worse = SetQuality(
        images=5, psnr_y_db=32.131, ssim_y=0.8938, dpsnr_db=-0.05, dssim=-0.001, fidelity_db=47.3,
        worst_image="butterfly", worst_dpsnr_db=-0.091,
    )  # fmt: skip
    cases = (
        case("eager", file=None, sha256=None, file_bytes=None, quality={"Set5": base}),
        case("same", quality={"Set5": equal}),
        case("int8", precision="int8", latency=SLOW, quality={"Set5": worse}),
        case(
            "emulated", precision="int8", latency=None, peak_bytes=None, not_measured=("latency: a reason",)
        ),
    )
    return BenchReport(
        model="net",
        spec=ModelSpec(),
        size=(180, 320),
        cases=cases,
        environment={"CPU": "P"},
        date="2026-11-23",
        timing=TimingOptions(runs=20, seconds=1.0, warmup=2),
        threads=None,
        command="hasn-edge bench",
    )


def texts(report: BenchReport) -> list[str]:
    return [str(remark) for remark in report.remarks]


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
    table = cells(replace(report, cases=(case("one", latency=latency),)))
    assert table["median, ms"] == table["p90, ms"] == table["p99, ms"] == [written]
    assert table["std, ms"] == ["0.000"]


def parts(gpu: float, enqueue: float) -> dict[str, Latency]:
    return {name: Latency(rounds=((s / 1e3,) * 5,)) for name, s in (("gpu", gpu), ("enqueue", enqueue))}


@pytest.mark.parametrize(
    ("gpu", "enqueue", "graphs", "said"),
    [(1.5, 1.4, False, True), (1.5, 1.3, False, False), (1.5, 1.6, True, False), (1.5, 1.6, None, True)],
)
def test_a_gpu_that_waits_for_launches_is_reported(report, gpu, enqueue, graphs, said):
    one = case("engine", precision="fp16", parts=parts(gpu, enqueue), facts={"graphs": graphs})
    found = [text for text in texts(replace(report, cases=(one,))) if "waits for launches" in text]
    assert len(found) == said
    if said:
        assert f"start the network ({enqueue:.3f} ms) as the GPU to run it (1.500 ms)" in found[0]


def test_on_a_device_trtexecs_defaults_are_named(report):
    assert not [text for text in report.conventions if "trtexec" in text]
    engine = replace(report, cases=(case("engine", parts=parts(1, 1)),))
    (text,) = (text for text in engine.conventions if text.startswith("trtexec of TensorRT 8 and 10"))
    for word in ("CUDA graph", "spins", "copies", "--useCudaGraph", "--noCudaGraph"):
        assert word in text
    assert "gaps in which the GPU waits for the next launch" in "\n".join(engine.conventions)


def test_slower_int8_is_reported(report):
    assert "INT8 is slower than FP32 here: int8 took 2.00x the time of eager" in texts(report)


def test_a_faster_precision_is_reported_too(report):
    fast = BenchReport(
        **{
            **vars(report),
            "cases": (case("eager"), case("f", precision="fp16", latency=Latency(rounds=((0.1,), (0.225,))))),
        }
    )
    assert texts(fast) == ["FP16 is faster than FP32 here: f took 1/2.00 of the time of eager"]


def test_medians_that_show_the_opposite_are_explained(report):
    """As on a machine that something else slowed down in most of one case's rounds."""
    slow_machine = case("eager", latency=Latency(rounds=((1.0,), (1.0,), (0.1,))))
    other = case(
        "f", precision="fp16", latency=Latency(rounds=((0.9,), (0.9, 0.9), (0.12, 0.12, 0.12, 0.12)))
    )
    found = texts(replace(report, cases=(slow_machine, other)))
    assert found == ["FP16 is faster than FP32 here: f took 1/1.11 of the time of eager"]
    other = case("f", precision="fp16", latency=Latency(rounds=((1.1,), (1.1,), (0.12,) * 9)))
    found = texts(replace(report, cases=(slow_machine, other)))
    assert len(found) == 1
    assert found[0].startswith(
        "FP16 is slower than FP32 here: f took 1.10x the time of eager within a round; "
    )
    assert "their medians show the opposite" in found[0]


def test_json_keeps_samples_and_has_no_infinity(report, tmp_path):
    report.write_json(tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["cases"][0]["latency"]["rounds_seconds"] == [list(one) for one in REFERENCE.rounds]
    assert content["cases"][2]["latency"]["speedup"] == pytest.approx(0.5)
    assert content["cases"][1]["quality"]["Set5"]["fidelity_db"] is None
    assert content["cases"][3]["latency"] is None
    assert content["cases"][3]["not_measured"] == ["latency: a reason"]
    assert content["macs"] == {"256x256": 26_636_504_688, "320x180": pytest.approx(23.41e9, rel=1e-3)}


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
