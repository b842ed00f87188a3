"""A real benchmark of a tiny network: every case runs, is compared, and says what it could not measure."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from hasn_edge.bench.worker import CaseSpec, Worker
from hasn_edge.cli import cli
from hasn_edge.errors import ArtifactError, BuildError


@pytest.fixture(scope="module")
def content(tiny, tmp_path_factory):
    """The JSON of one benchmark through the command line."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "loose.toml").write_text("budget_db = 5.0\n")
    result = CliRunner().invoke(
        cli,
        [
            *("bench", "--model", str(tiny), "--precision", "fp32,int8", "--size", "48x32", "--runs", "5"),
            *("--recipe", str(folder / "loose.toml"), "--tile", "32"),
            *("--json", str(folder / "r.json"), "--markdown", str(folder / "r.md")),
        ],
    )
    assert result.exit_code == 0, result.output
    assert (folder / "r.md").read_text().startswith("# tiny.safetensors, 48x32 -> 192x128")
    return json.loads((folder / "r.json").read_text())


def test_cases(content):
    labels = [case["label"] for case in content["cases"]]
    assert labels == [
        "PyTorch fp32",
        "ONNX Runtime fp32",
        "TorchScript fp32",
        "ONNX Runtime int8",
        "INT8 emulated exactly",
        "PyTorch fp32, tiles of 32",
    ]
    for case in content["cases"]:
        assert case["quality"]["shipped"]["images"] == 8
        assert (case["latency"] is None) == bool(case["not_measured"])


def test_samples_are_kept_and_memory_is_each_cases_own(content):
    timed = [case for case in content["cases"] if case["latency"]]
    assert len(timed) == 4
    for case in timed:
        assert len(case["latency"]["rounds_seconds"]) == 5
        assert all(case["latency"]["rounds_seconds"])
        assert case["latency"]["median_ms"] > 0
    peaks = {case["label"]: case["peak_bytes"] for case in timed}
    assert peaks["ONNX Runtime fp32"] < peaks["PyTorch fp32"], "a process without PyTorch is smaller"


def test_drift_is_of_the_same_images(content):
    by_label = {case["label"]: case["quality"]["shipped"] for case in content["cases"]}
    reference = by_label["PyTorch fp32"]
    assert reference["dpsnr_db"] is None
    for label, quality in by_label.items():
        if label != "PyTorch fp32":
            expected = quality["psnr_y_db"] - reference["psnr_y_db"]
            assert quality["dpsnr_db"] == pytest.approx(expected, abs=1e-9)
    assert by_label["ONNX Runtime fp32"]["dpsnr_db"] == pytest.approx(0, abs=1e-3)
    tiles = by_label["PyTorch fp32, tiles of 32"]["fidelity_db"]
    assert tiles is not None
    assert tiles < by_label["INT8 emulated exactly"]["fidelity_db"] + 100


def test_worker_passes_our_errors_on(tmp_path):
    case = CaseSpec(label="gone", artifact=tmp_path / "none.onnx")
    with Worker(case) as worker, pytest.raises(ArtifactError, match="no such file"):
        worker.open((32, 32))


def test_killed_worker_is_a_message(tmp_path):
    with Worker(CaseSpec(label="case", artifact=tmp_path / "none.onnx")) as worker:
        worker._process.kill()
        with pytest.raises(
            BuildError, match="case: stopped while asked to open: it was killed by the system"
        ):
            worker.open((32, 32))
