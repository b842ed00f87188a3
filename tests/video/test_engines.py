"""Which engine a run begins with, and what it can change to."""

from __future__ import annotations

from pathlib import Path

import pytest

from hasn_edge.artifact import Artifact, Kind, load_artifact, publish
from hasn_edge.errors import ArtifactError, BuildError, InputError
from hasn_edge.model.zoo import DEFAULT_MODEL, bundled_onnx
from hasn_edge.runtime.fake import FakeSession
from hasn_edge.spec import ModelSpec, Precision
from hasn_edge.video import engines
from hasn_edge.video.engines import Engine, engines_of, open_first

OWN = f"{DEFAULT_MODEL} fp32"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(engines, "has_integer_dot_product", lambda: True)
    return tmp_path


def built(folder: Path, name: str, kind: Kind, precision: Precision, *, source: str | None = None, size=None):
    shipped = bundled_onnx(DEFAULT_MODEL)
    assert shipped is not None
    return publish(
        b"bytes of " + name.encode(),
        folder / f"{name}{kind.suffix}",
        kind=kind,
        spec=ModelSpec(),
        precision=precision,
        source=load_artifact(shipped).source if source is None else source,
        details={"size": size},
    )


def test_without_built_files_it_is_the_model(folder):
    assert list(engines_of(DEFAULT_MODEL, folder=folder)) == [OWN]
    assert list(engines_of(DEFAULT_MODEL, folder=folder / "missing")) == [OWN]


def test_best_first(folder):
    for name, kind, precision in (
        ("a-ts", Kind.TORCHSCRIPT, Precision.FP32),
        ("b-onnx16", Kind.ONNX, Precision.FP16),
        ("c-onnx8", Kind.ONNX, Precision.INT8),
        ("d-trt8", Kind.ENGINE, Precision.INT8),
        ("e-trt16", Kind.ENGINE, Precision.FP16),
    ):
        built(folder, name, kind, precision)
    built(folder, "f-other-size", Kind.ENGINE, Precision.FP16, size=[90, 160])
    found = engines_of(DEFAULT_MODEL, folder=folder, size=(180, 320))
    assert list(found) == ["e-trt16", "d-trt8", "c-onnx8", OWN, "b-onnx16", "a-ts", "f-other-size"]
    assert found["f-other-size"].size == (90, 160)


def test_int8_on_a_processor_that_does_not_gain_stands_behind(folder, monkeypatch):
    monkeypatch.setattr(engines, "has_integer_dot_product", lambda: False)
    built(folder, "int8", Kind.ONNX, Precision.INT8)
    assert list(engines_of(DEFAULT_MODEL, folder=folder)) == [OWN, "int8"]


def test_files_of_other_models_and_damaged_ones_are_no_choice(folder):
    built(folder, "other", Kind.ONNX, Precision.INT8, source="0" * 64)
    built(folder, "damaged", Kind.ONNX, Precision.INT8)
    (folder / "damaged.onnx").write_bytes(b"changed")
    (folder / "stray.onnx").write_bytes(b"no sidecar")
    assert list(engines_of(DEFAULT_MODEL, folder=folder)) == [OWN]


def test_named_files_are_the_only_choice_in_their_order(folder):
    for name in ("b", "a"):
        built(folder, name, Kind.ONNX, Precision.FP32)
    assert list(engines_of(DEFAULT_MODEL, [folder / "b.onnx", folder / "a.onnx"])) == ["b", "a"]
    with pytest.raises(ArtifactError, match="no such file"):
        engines_of(DEFAULT_MODEL, [folder / "c.onnx"])


def test_files_are_opened_as_their_kind_wants(folder, monkeypatch):
    calls = []

    def open_session(artifact, **settings):
        calls.append((artifact.path.stem if isinstance(artifact, Artifact) else artifact.stem, settings))
        return FakeSession()

    monkeypatch.setattr(engines, "open_session", open_session)
    built(folder, "trt", Kind.ENGINE, Precision.FP16)
    built(folder, "static", Kind.ONNX, Precision.FP32, size=[90, 160])
    built(folder, "ts", Kind.TORCHSCRIPT, Precision.FP32)
    found = engines_of(DEFAULT_MODEL, folder=folder, threads=3)
    for engine in found.values():
        engine.open((180, 320))
    assert dict(calls) == {
        "trt": {"slots": 2},
        f"{DEFAULT_MODEL}-fp32-cpu": {"threads": 3, "frame": (180, 320)},
        "static": {"threads": 3, "frame": None},
        "ts": {"threads": 3, "frame": None},
    }


def working(name: str, opened: list) -> Engine:
    def open_(size):
        opened.append((name, size))
        return FakeSession()

    return Engine(open=open_)


def broken(size):
    raise BuildError("made for another GPU")


def test_what_does_not_work_here_is_left_out_and_said():
    opened, told = [], []
    choice = {"trt": Engine(open=broken), "own": working("own", opened)}
    name, session = open_first(choice, None, (180, 320), told.append)
    assert name == "own"
    assert isinstance(session, FakeSession)
    assert opened == [("own", (180, 320))]
    assert told == ["trt is left out: made for another GPU"]


def test_the_one_that_was_named_must_work():
    opened = []
    choice = {"trt": Engine(open=broken), "own": working("own", opened)}
    with pytest.raises(BuildError, match="another GPU"):
        open_first(choice, "trt", None, print)
    assert open_first(choice, "own", None, print)[0] == "own"
    with pytest.raises(InputError, match="no engine called 'x'; choose one of: trt, own"):
        open_first(choice, "x", None, print)


def test_the_last_one_must_work():
    with pytest.raises(BuildError, match="another GPU"):
        open_first({"trt": Engine(open=broken)}, None, None, print)
