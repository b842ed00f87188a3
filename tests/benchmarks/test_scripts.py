"""Benchmarks as they are started: those of the live pipeline run to their ends, and sizes are checked."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from tests.support.scripts import load_script

MODEL = ("--model", "hasn-x4-small", "--size", "32x24", "--threads", "1")


@pytest.mark.slow
def test_the_overhead_of_the_pipeline_is_stated():
    script = load_script("benchmarks/live_overhead.py")
    result = CliRunner().invoke(script.main, [*MODEL, "--rounds", "1", "--frames", "2"])
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert "\n- Overhead a frame beyond the network: " in result.output
    assert [line.split(" | ")[0] for line in result.output.splitlines() if line.startswith("| ")][1:] == [
        f"| {case}" for case in script.CASES
    ]


@pytest.mark.slow
def test_a_soak_judges_memory_frames_and_latency(monkeypatch):
    script = load_script("benchmarks/soak.py")
    monkeypatch.setattr(script, "EVERY_S", 0.1)
    result = CliRunner().invoke(script.main, [*MODEL, "--minutes", "0.05"])
    assert isinstance(result.exception, SystemExit | None), result.exception
    found = [line.partition(": ")[2] for line in result.output.splitlines() if line[2:6] in ("good", "BAD:")]
    assert [line.partition(":")[0] for line in found] == ["memory", "frames", "latency p50"]
    assert found[1].endswith(", 0 unexplained")


@pytest.mark.parametrize("name", ["fusion", "live_overhead", "openvino_profile", "soak"])
def test_a_size_that_is_none_is_one_message(name):
    model = ("net",) if name == "openvino_profile" else ()
    result = CliRunner().invoke(load_script(f"benchmarks/{name}.py").main, [*model, "--size", "32"])
    assert result.exit_code == 2
    assert result.output.endswith(
        "Error: Invalid value for '--size': '32' is no size; expected WIDTHxHEIGHT in pixels, for example "
        "320x180\n"
    )
