"""The doctor's findings on this machine and on machines that lack something."""

from __future__ import annotations

import importlib.util
import json

from click.testing import CliRunner

from hasn_edge import machine
from hasn_edge.cli import cli
from hasn_edge.device import doctor
from hasn_edge.device.doctor import State, can_do, diagnose, honest_state
from hasn_edge.model import zoo


def findings() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in diagnose()}


def test_everything_missing_has_a_cure():
    for finding in diagnose():
        assert finding.detail
        if finding.state is State.MISSING:
            assert finding.cure


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    real = importlib.util.find_spec
    absent = {"torch", "tensorrt_rtx", "tensorrt_rtx_bindings"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else real(name))
    found = findings()
    assert found["torch"].state is State.MISSING
    assert found["torch"].cure == "pip install 'hasn-edge[export]'"
    assert found["tensorrt-rtx-cu13-bindings"].cure == "pip install 'hasn-edge[rtx]'"
    abilities = {what: (can, cure) for what, can, cure in can_do()}
    assert abilities["export ONNX and TorchScript"] == (False, "pip install 'hasn-edge[export]'")
    assert abilities["run .onnx files and the bundled model on the processor"][0]


def test_slow_int8_is_announced(monkeypatch):
    monkeypatch.setattr(machine, "vector_units", lambda: ("avx2",))
    assert findings()["INT8 on this processor"].state is State.WARNING
    monkeypatch.setattr(machine, "vector_units", lambda: ("avx2", "avx512_vnni"))
    assert findings()["INT8 on this processor"].state is State.INFO


def test_engines_are_not_promised_to_run(monkeypatch):
    assert not {what: can for what, can, _ in can_do()}["run TensorRT engines"]
    monkeypatch.setattr(doctor, "cuda_driver", lambda: None)
    assert "not run" in findings()["NVIDIA driver"].detail
    monkeypatch.setattr(doctor, "cuda_driver", lambda: "13.0")
    assert findings()["NVIDIA driver"].detail == "CUDA 13.0"


def test_bundled_models_say_their_honest_state():
    found = findings()[f"{zoo.DEFAULT_MODEL} (default)"]
    assert found.detail == honest_state(zoo.bundled_provenance(zoo.DEFAULT_MODEL))
    assert "63 photographs" in found.detail
    assert "the paper's x4 network 32.17 dB on Set5" in found.detail


def test_tables_and_json_say_the_same():
    tables = CliRunner().invoke(cli, ["doctor"])
    content = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).output)
    assert tables.exit_code == 0
    names = [finding["name"] for finding in content["findings"]]
    assert names == [finding.name for finding in diagnose()]
    for name in names:
        assert name.split()[0] in tables.output
    assert "[export]" in tables.output or all(item["can"] for item in content["can"][:4])


def test_machine_facts():
    facts = machine.environment()
    assert facts["python"].count(".") == 2
    assert int(facts["cores"]) >= 1
    assert machine.memory_bytes() > machine.available_memory_bytes() > 0
    assert machine.peak_memory_bytes() > 10_000_000
