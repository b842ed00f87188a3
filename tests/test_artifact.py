"""Sidecars: what a file states of itself is read back, and refused when it or the file changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from hasn_edge.artifact import Artifact, load_artifact, publish, sidecar_path
from hasn_edge.errors import ArtifactError
from hasn_edge.pipeline.build import Built
from hasn_edge.sidecar import Form, GraphDetails, InputProfile, Kind, TensorInfo
from hasn_edge.spec import ModelSpec, Precision

OLD = Path(__file__).parent / "support" / "sidecars_0_1"


@pytest.fixture
def published(tmp_path):
    folder = tmp_path / "engines"
    return publish(
        b"graph" * 1000,
        folder / "net.onnx",
        spec=ModelSpec(scale=2),
        precision=Precision.INT8,
        source="ab" * 32,
        made_by={"onnx": "1"},
        details=GraphDetails(form=Form.CPU, opset=17, size=(180, 320)),
    )


def test_round_trip(published):
    loaded = load_artifact(published.path)
    assert loaded == published
    assert loaded.sha256 == hashlib.sha256(b"graph" * 1000).hexdigest()
    assert loaded.size == (180, 320)
    assert sorted(p.name for p in published.path.parent.iterdir()) == ["net.onnx", "net.onnx.json"]


def test_changed_bytes_are_refused(published):
    with published.path.open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(
        ArtifactError, match=r"its bytes changed since it was made .*; call hasn_edge.build\(\)"
    ):
        load_artifact(published.path)


def test_missing_sidecar_is_refused(published):
    sidecar_path(published.path).unlink()
    with pytest.raises(ArtifactError, match="its sidecar net.onnx.json is missing"):
        load_artifact(published.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "sidecar schema is 99, this version of hasn-edge reads 1 and 2"),
        ({"kind": "banana"}, "damaged sidecar"),
        ({"spec": {"feature": 1}}, "did you mean 'features'"),
        ({"spec": 3}, "damaged sidecar"),
        ({"details": None}, "damaged sidecar"),
        ({"details": {"form": "cpu"}}, "damaged sidecar .*missing required field `opset`"),
        ({"details": {"form": "magic", "opset": 17}}, r"damaged sidecar .*'magic' - at `\$\.form`"),
        ({"details": {"form": "cpu", "opset": 17, "size": "large"}}, r"damaged sidecar .*at `\$\.size`"),
    ],
)
def test_a_damaged_sidecar_is_refused_in_one_message(published, change, message):
    side = sidecar_path(published.path)
    side.write_text(json.dumps({**json.loads(side.read_text()), **change}))
    with pytest.raises(ArtifactError, match=message):
        load_artifact(published.path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\x01"])
def test_sidecar_that_is_no_object(published, text):
    sidecar_path(published.path).write_text(text)
    with pytest.raises(ArtifactError, match="sidecar"):
        load_artifact(published.path)


def test_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match="is a folder, expected a built file"):
        load_artifact(tmp_path)
    with pytest.raises(ArtifactError, match="no such file"):
        load_artifact(tmp_path / "none.onnx")


def load_0_1(name: str, tmp_path: Path) -> Artifact:
    """Load a file whose sidecar version 0.1 wrote, shortened."""
    values = json.loads((OLD / f"{name}.json").read_text())
    path = tmp_path / f"net{Kind(values['kind']).suffix}"
    path.write_bytes(b"a file")
    text = json.dumps({**values, "sha256": hashlib.sha256(b"a file").hexdigest()})
    sidecar_path(path).write_text(text)
    return load_artifact(path)


def test_a_graph_of_version_0_1(tmp_path):
    artifact = load_0_1("graph", tmp_path)
    details = artifact.graph
    assert (artifact.precision, details.form, details.opset) == (Precision.INT8, Form.WEAKLY_TYPED, 17)
    assert details.builder_flags == ("INT8", "FP16")
    assert details.ranges is not None
    assert details.ranges.images == 32
    assert details.ranges.values["block_1.f1.conv"] == pytest.approx(1.7741, abs=1e-4)
    assert details.measured is not None
    assert details.measured.held_out is not None
    assert details.measured.held_out.dpsnr_db == pytest.approx(-0.0068, abs=1e-4)
    old = json.loads((OLD / "graph.json").read_text())["details"]["measured"]
    assert (details.measured.noise.psnr_db, details.measured.noise.images) == (old["psnr_db"], old["images"])
    assert list(artifact.to_dict()["details"]["measured"]) == ["against", "held_out", "noise"]


def test_an_engine_of_version_0_1(tmp_path):
    artifact = load_0_1("engine", tmp_path)
    details = artifact.engine
    assert artifact.pixels
    assert (details.target, details.runtime, details.version) == ("rtx", "rtx", "1.7.1.116")
    assert details.compute_capabilities[:2] == ("8.0", "8.6")
    assert details.profile == InputProfile(min=(1, 32, 32, 3), opt=(1, 48, 64, 3), max=(1, 96, 96, 3))
    assert details.inputs == (TensorInfo(name="input", dtype="uint8", shape=(1, -1, -1, 3)),)
    assert details.layers.quantize == 53
    assert details.flags.strongly_typed
    assert details.gpu is None
    assert details.calibration is not None
    assert details.calibration.images == 32
    assert details.golden is not None
    assert details.golden.shape == (1, 3, 48, 64)


@pytest.mark.parametrize(
    ("old", "form"),
    [
        ("weak", Form.WEAKLY_TYPED),
        ("weak-10", Form.WEAKLY_TYPED_TRT10),
        ("strong", Form.STRONGLY_TYPED),
        ("cpu", Form.CPU),
    ],
)
def test_forms_of_version_0_1(old, form):
    values = json.loads((OLD / "graph.json").read_text())
    values["details"]["form"] = old
    assert Artifact.from_dict(Path("net.onnx"), values).graph.form is form


def test_other_files_of_version_0_1(tmp_path):
    assert load_0_1("torchscript", tmp_path).kind is Kind.TORCHSCRIPT
    record = load_0_1("auto", tmp_path).details.autotune
    assert record is not None
    assert record.why.startswith("fp32 is kept")


@pytest.mark.parametrize("name", ["graph", "engine", "torchscript", "auto"])
def test_what_version_0_1_wrote_is_published_again_in_the_words_of_today(tmp_path, name):
    old = load_0_1(name, tmp_path)
    again = Artifact.from_dict(old.path, json.loads(json.dumps(old.to_dict())))
    assert again == old


def test_an_artifact_prints_a_few_lines(published):
    text = str(published)
    assert text == f"{published.path}: int8 onnx, x2, takes 320x180 pixels"
    assert published._repr_html_() == f"<pre>{text}</pre>"
    built = Built(artifacts=(published,), summary=("18 convolutions < 20",))
    assert str(built) == f"18 convolutions < 20\n{published.path}"
    assert "18 convolutions &lt; 20" in built._repr_html_()
