"""Which built file a model runs as by itself: only what was measured on this machine, and is still whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from hasn_edge.artifact import publish
from hasn_edge.model.zoo import DEFAULT_MODEL
from hasn_edge.runtime.choice import describe_machine, find_choice, source_of
from hasn_edge.sidecar import AutotuneRecord, Kind
from hasn_edge.spec import ModelSpec, Precision
from tests.support.samples import details_of

HERE = "a CPU, avx2, 2 cores, onnxruntime 1, openvino 2, no GPU"


def built(folder: Path, name: str, *, precision=Precision.INT8, **facts):
    record = {"machine": HERE, "backend": "openvino", "when": "2026"}
    record |= {key: facts.pop(key) for key in record.keys() & facts.keys()}
    autotune = AutotuneRecord(candidates=(), left_out=(), why=f"{name} is kept", **record)
    return publish(
        b"graph " + name.encode(),
        folder / f"{name}.onnx",
        spec=ModelSpec(),
        precision=precision,
        source=source_of(DEFAULT_MODEL),
        details=details_of(Kind.ONNX, **{"autotune": autotune, **facts}),
    )


def chosen(folder: Path, **options) -> str | None:
    choice = find_choice(DEFAULT_MODEL, folder, machine=HERE, **options)
    return None if choice is None else choice.artifact.path.stem


def test_the_newest_that_was_measured_here_is_chosen(tmp_path):
    assert chosen(tmp_path / "absent") is None
    built(tmp_path, "unmeasured", autotune=None)
    assert chosen(tmp_path) is None
    built(tmp_path, "old", when="2026-01-01T00:00:00+00:00")
    built(tmp_path, "new", when="2026-02-01T00:00:00+00:00")
    built(tmp_path, "a-older", when="2025-12-01T00:00:00+00:00")
    built(tmp_path, "elsewhere", machine="another", when="2027")
    choice = find_choice(DEFAULT_MODEL, tmp_path, machine=HERE)
    assert (choice.artifact.path.name, choice.backend, choice.why) == ("new.onnx", "openvino", "new is kept")
    assert find_choice("hasn-x4-small", tmp_path, machine=HERE) is None
    assert find_choice("span=random", tmp_path, machine=HERE) is None, "which no file was made of"


def test_a_file_of_one_size_is_chosen_for_that_size_only(tmp_path):
    built(tmp_path, "fixed", size=[180, 320])
    assert chosen(tmp_path) is None
    assert chosen(tmp_path, size=(90, 160)) is None
    assert chosen(tmp_path, size=(180, 320)) == "fixed"


def test_what_the_model_runs_as_anyway_is_no_choice(tmp_path):
    built(tmp_path, "fp32", precision=Precision.FP32, backend="onnxruntime", when="2027")
    built(tmp_path, "int8", when="2026")
    assert chosen(tmp_path) is None  # and the older one lost since


@pytest.mark.parametrize("damage", ["bytes", "sidecar"])
def test_a_damaged_file_is_no_choice(tmp_path, damage):
    path = built(tmp_path, "int8").path
    (path if damage == "bytes" else path.with_name(path.name + ".json")).write_bytes(b"{}")
    assert chosen(tmp_path) is None


def test_a_machine_is_named_by_what_decides_speed():
    text = describe_machine()
    assert "onnxruntime 1." in text
    assert "openvino 20" in text
    assert "core" in text
    assert "power mode" not in text


def test_what_was_measured_in_another_power_mode_is_no_choice(tmp_path, orin_nano):
    """Its clocks of CPU, GPU and memory decide what is fastest."""
    here = describe_machine(orin_nano)
    assert here.endswith(", power mode MAXN_SUPER")
    built(tmp_path, "int8", machine=here)
    assert find_choice(DEFAULT_MODEL, tmp_path, machine=here) is not None
    (orin_nano / "var/lib/nvpmodel/status").write_text("pmode:0001")
    other = describe_machine(orin_nano)
    assert other.endswith(", power mode 25W")
    assert find_choice(DEFAULT_MODEL, tmp_path, machine=other) is None
    (orin_nano / "var/lib/nvpmodel/status").unlink()
    assert other == f"{describe_machine(orin_nano)}, power mode 25W"
