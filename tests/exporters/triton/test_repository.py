"""Model repositories of real graphs: their content, versions side by side, nothing half-made, the README."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hasn_edge.artifact import Artifact, load_artifact, publish
from hasn_edge.errors import ArtifactError, ConfigError, OutputError, UnsupportedError
from hasn_edge.exporters.triton import repository
from hasn_edge.exporters.triton.repository import triton_repository
from hasn_edge.sidecar import Kind
from hasn_edge.spec import ModelSpec, Precision
from tests.support.samples import details_of

torch = pytest.importorskip("torch")

SPEC = ModelSpec(features=8, blocks=1, esa_channels=4)
SOURCE = "ab" * 32


@pytest.fixture(scope="module")
def graphs():
    """Graphs of small networks by name: any size, fixed size, any batch, pixels, another network."""
    from hasn_edge.exporters.onnx import onnx_from_model
    from hasn_edge.exporters.uint8_io import with_pixels
    from hasn_edge.model.hasn import HASN

    made = {}
    for seed, suffix in ((0, ""), (1, "-other")):
        torch.manual_seed(seed)
        model = HASN(SPEC).eval()
        made["any" + suffix] = onnx_from_model(model, source=SOURCE, simplify=False)
    torch.manual_seed(0)
    model = HASN(SPEC).eval()
    made["fixed"] = onnx_from_model(model, size=(32, 48), simplify=False)
    made["batched"] = onnx_from_model(model, batch=None, simplify=False)
    made["pixels"] = with_pixels(made["any"])
    return {name: graph.SerializeToString() for name, graph in made.items()}


@pytest.fixture
def artifact(tmp_path, graphs):
    def make(graph="any", *, name=None, kind=Kind.ONNX, precision=Precision.FP32, spec=SPEC, **details):
        return publish(
            graphs.get(graph, b"x" * 4096),
            tmp_path / "made" / f"{name or graph}{kind.suffix}",
            spec=spec,
            precision=precision,
            source=SOURCE,
            details=details_of(kind, **details),
        )

    return make


def engine_details(batch=1, **changes):
    shape = [-1 if batch > 1 else 1, 3, -1, -1]
    return {
        "version": "10.3.0.26",
        "inputs": [{"name": "input", "dtype": "float32", "shape": shape}],
        "outputs": [{"name": "output", "dtype": "float32", "shape": shape}],
        "profile": {"min": [1, 3, 32, 32], "opt": [1, 3, 90, 160], "max": [batch, 3, 540, 960]},
        **changes,
    }


def text_of(version: Path) -> str:
    return (version.parent / "config.pbtxt").read_text(encoding="utf-8")


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_graph(tmp_path, artifact):
    made = artifact("any")
    version = triton_repository(made, tmp_path / "repo")
    assert version == tmp_path / "repo" / "any" / "1"
    assert names(tmp_path / "repo") == {
        "any",
        "any/config.pbtxt",
        "any/README.md",
        "any/1",
        "any/1/model.onnx",
        "any/1/model.onnx.json",
    }
    text = text_of(version)
    assert 'platform: "onnxruntime_onnx"' in text
    assert "max_batch_size: 0" in text
    assert text.count("dims: [ 1, 3, -1, -1 ]") == 2
    assert "dims: [ 1, 3, 180, 320 ]" in text
    assert "kind: KIND_AUTO" in text
    assert "dynamic_batching" not in text
    assert made.sha256 in text
    assert SOURCE in text
    copy = load_artifact(version / "model.onnx")
    assert (copy.sha256, copy.spec, copy.source) == (made.sha256, made.spec, made.source)
    assert {entry.name for entry in tmp_path.iterdir()} == {"made", "repo"}, "no temporary folder stays"


def test_parameters_are_of_the_version(tmp_path, artifact):
    pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs tritonclient, an extra of dev")
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    triton_repository(artifact("any"), tmp_path / "repo", name="net")
    version = triton_repository(artifact("any-other"), tmp_path / "repo", name="net")
    config = text_format.Parse(text_of(version), ModelConfig())
    assert ModelSpec.from_dict(json.loads(config.parameters["hasn_edge.2.spec"].string_value)) == SPEC
    assert config.parameters["hasn_edge.1.source"].string_value == SOURCE
    one, two = (config.parameters[f"hasn_edge.{n}.sha256"].string_value for n in (1, 2))
    assert one != two
    assert config.parameters["hasn_edge.2.least_side"].string_value == "15"


def test_the_readme_states_what_becomes_of_small_images(tmp_path, artifact):
    def page(name: str, **details) -> str:
        version = triton_repository(artifact("any", name=name, **details), tmp_path / "repo")
        return (version.parent / "README.md").read_text(encoding="utf-8")

    assert "a side below 15 pixels is padded" in page("new", padded=True, least_side=15)
    assert "**No side below 15 pixels**" in page("old")


def test_a_fixed_size(tmp_path, artifact):
    text = text_of(triton_repository(artifact("fixed", size=[32, 48]), tmp_path / "repo"))
    assert text.count("dims: [ 1, 3, 32, 48 ]") == 2  # the input, and what warms it up
    assert "dims: [ 1, 3, 128, 192 ]" in text


def test_a_dynamic_batch(tmp_path, artifact):
    text = text_of(triton_repository(artifact("batched"), tmp_path / "repo"))
    assert "max_batch_size: 8" in text
    assert text.count("dims: [ 3, -1, -1 ]") == 2
    assert "dynamic_batching {" in text
    assert "dims: [ 3, 180, 320 ]" in text


def test_pixels(tmp_path, artifact):
    version = triton_repository(artifact("pixels"), tmp_path / "repo")
    text = text_of(version)
    assert text.count("data_type: TYPE_UINT8") == 3
    assert text.count("dims: [ 1, -1, -1, 3 ]") == 2
    assert "dims: [ 1, 180, 320, 3 ]" in text


def test_int8_graphs_for_cpus_stay_there(tmp_path, artifact):
    made = artifact("any", precision=Precision.INT8, form="cpu")
    assert "kind: KIND_CPU" in text_of(triton_repository(made, tmp_path / "a"))
    strong = artifact("any", name="strong", precision=Precision.INT8, form="strongly-typed")
    assert "kind: KIND_AUTO" in text_of(triton_repository(strong, tmp_path / "a"))


def test_engines(tmp_path, artifact):
    plan = artifact("plan", kind=Kind.ENGINE, precision=Precision.FP16, **engine_details())
    version = triton_repository(plan, tmp_path / "repo")
    text = text_of(version)
    assert (version / "model.plan").read_bytes() == plan.path.read_bytes()
    assert 'platform: "tensorrt_plan"' in text
    assert "max_batch_size: 0" in text
    assert "kind: KIND_GPU" in text
    assert "dims: [ 1, 3, 90, 160 ]" in text, "the profile's opt shape warms it up"
    page = (version.parent / "README.md").read_text(encoding="utf-8")
    assert "TensorRT 10.3.0.26, exactly" in page
    batched = artifact("b", kind=Kind.ENGINE, **engine_details(batch=4))
    text = text_of(triton_repository(batched, tmp_path / "repo"))
    assert "max_batch_size: 4" in text
    assert "dims: [ 3, 90, 160 ]" in text


@pytest.mark.parametrize("kind", list(Kind))
def test_the_python_backend_runs_any_file_at_any_size(tmp_path, artifact, kind):
    details = engine_details() if kind is Kind.ENGINE else {}
    made = artifact("fixed", kind=kind, **details)
    version = triton_repository(made, tmp_path / "repo", name="net", backend="python")
    assert {path.name for path in version.iterdir()} == {
        "model.py",
        f"model{kind.suffix}",
        f"model{kind.suffix}.json",
    }
    text = text_of(version)
    assert 'backend: "python"' in text
    assert "platform" not in text
    assert text.count("dims: [ 3, -1, -1 ]") == 2
    assert ("KIND_GPU" if kind is Kind.ENGINE else "KIND_CPU") in text
    compile((version / "model.py").read_text(encoding="utf-8"), "model.py", "exec")
    assert "Images of any size from 1 x 1" in (version.parent / "README.md").read_text(encoding="utf-8")
    # A second export is the same version, and no version of another backend may stand beside it.
    assert triton_repository(made, tmp_path / "repo", name="net", backend="python") == version


def test_backends_are_not_mixed_and_take_their_files(tmp_path, artifact):
    triton_repository(artifact("any"), tmp_path / "repo", name="net", backend="python")
    with pytest.raises(ArtifactError, match="backend of the one is"):
        triton_repository(artifact("any-other"), tmp_path / "repo", name="net")
    with pytest.raises(UnsupportedError, match=r"'tensorrt' does not run; use backend='onnxruntime', or"):
        triton_repository(artifact("any"), tmp_path / "other", backend="tensorrt")
    with pytest.raises(UnsupportedError, match="choose one of: python, onnxruntime, tensorrt"):
        triton_repository(artifact("any"), tmp_path / "other", backend="torch")


def test_what_was_measured_to_be_fastest_is_what_the_session_runs(tmp_path, artifact):
    record = {"candidates": [], "left_out": [], "why": "", "backend": "openvino", "machine": "", "when": ""}
    version = triton_repository(artifact("any", autotune=record), tmp_path / "repo", backend="python")
    assert 'key: "hasn_edge.1.session_backend"\n  value {\n    string_value: "openvino"' in text_of(version)


def test_what_triton_cannot_run(tmp_path, artifact):
    rtx = artifact("r", kind=Kind.ENGINE, **engine_details(runtime="rtx"))
    with pytest.raises(UnsupportedError, match="TensorRT for RTX, which Triton has no backend for"):
        triton_repository(rtx, tmp_path / "repo")
    with pytest.raises(UnsupportedError, match="a torchscript file"):
        triton_repository(artifact("t", kind=Kind.TORCHSCRIPT), tmp_path / "repo")
    assert not (tmp_path / "repo").exists()


def test_the_next_version(tmp_path, artifact):
    first = triton_repository(artifact("any"), tmp_path / "repo", name="net")
    edited = text_of(first).replace("count: 1", "count: 3  # measured") + "# mine\n"
    (first.parent / "config.pbtxt").write_text(edited, encoding="utf-8")
    second = triton_repository(artifact("any-other"), tmp_path / "repo", name="net")
    assert second == first.parent / "2"
    assert text_of(second).startswith(edited.rstrip("\n")), "a person's edits stay"
    assert "hasn_edge.2.sha256" in text_of(second)
    assert (first / "model.onnx").read_bytes() != (second / "model.onnx").read_bytes()
    assert triton_repository(artifact("any-other"), tmp_path / "repo", name="net") == second, "already there"
    shutil.rmtree(second)
    first.rename(first.parent / "7")
    assert triton_repository(artifact("any-other"), tmp_path / "repo", name="net").name == "8"


@pytest.mark.parametrize(
    ("graph", "spec", "what"),
    [
        ("fixed", SPEC, "inputs"),
        ("pixels", SPEC, "inputs"),
        ("batched", SPEC, "inputs"),
        ("any-other", replace(SPEC, scale=2), "scale"),
    ],
)
def test_versions_are_exchangeable(tmp_path, artifact, graph, spec, what):
    triton_repository(artifact("any"), tmp_path / "repo", name="net")
    before = names(tmp_path / "repo")
    with pytest.raises(ArtifactError, match=f"{what} of the one is .* choose another name"):
        triton_repository(artifact(graph, spec=spec), tmp_path / "repo", name="net")
    assert names(tmp_path / "repo") == before


def test_an_engine_is_no_version_of_a_graph(tmp_path, artifact):
    triton_repository(artifact("any"), tmp_path / "repo", name="net")
    plan = artifact("plan", kind=Kind.ENGINE, **engine_details())
    with pytest.raises(ArtifactError, match="backend of the one is tensorrt, of the other onnxruntime"):
        triton_repository(plan, tmp_path / "repo", name="net")


def test_changed_files_are_refused(tmp_path, artifact):
    made = artifact("any")
    made.path.write_bytes(made.path.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match="changed since it was made"):
        triton_repository(made, tmp_path / "repo")
    made.path.unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        triton_repository(made, tmp_path / "repo")


def test_a_damaged_version_is_not_joined(tmp_path, artifact):
    version = triton_repository(artifact("any"), tmp_path / "repo", name="net")
    (version / "model.onnx").write_bytes(b"half")
    with pytest.raises(ArtifactError, match="its bytes changed"):
        triton_repository(artifact("any-other"), tmp_path / "repo", name="net")


def test_folders_that_are_no_repository(tmp_path, artifact):
    made = artifact("any")
    (tmp_path / "engines" / "targets").mkdir(parents=True)
    with pytest.raises(OutputError, match="would take its folder 'targets' for a model"):
        triton_repository(made, tmp_path / "engines")
    (tmp_path / "repo" / "any").mkdir(parents=True)
    with pytest.raises(OutputError, match="is no model of hasn-edge"):
        triton_repository(made, tmp_path / "repo")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        triton_repository(made, tmp_path / "file")
    with pytest.raises(ConfigError, match="letters, digits"):
        triton_repository(made, tmp_path / "new", name="../elsewhere")


@pytest.mark.parametrize("step", ["publish_copy", "readme", "_append"])
def test_nothing_half_made(tmp_path, artifact, monkeypatch, step):
    repo = tmp_path / "repo"
    if step == "_append":
        triton_repository(artifact("any-other"), repo, name="net")

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Artifact if step == "publish_copy" else repository, step, fail)
    with pytest.raises(OutputError, match="No space left on device"):
        triton_repository(artifact("any"), repo, name="net")
    assert {entry.name for entry in tmp_path.iterdir()} == {"made", "repo"}
    if step != "_append":
        assert names(repo) == set()
    else:  # the version is whole and served; its description is missing
        assert load_artifact(repo / "net" / "2" / "model.onnx")


def test_staging_inside_where_the_parent_is_closed(tmp_path, artifact, monkeypatch):
    made = artifact("any")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    seen = []
    monkeypatch.setattr(repository, "readme", lambda *_: seen.extend((tmp_path / "repo").iterdir()) or "")
    triton_repository(made, tmp_path / "repo")
    assert [path.name.startswith(".") for path in seen] == [True]
    assert {entry.name for entry in (tmp_path / "repo").iterdir()} == {"any"}


@pytest.mark.parametrize("graph", ["any", "pixels"])
def test_the_readmes_client_computes_the_image(tmp_path, artifact, graph, monkeypatch):
    """The client as printed, against a server whose answer comes from ONNX Runtime."""
    cv2 = pytest.importorskip("cv2")
    ort = pytest.importorskip("onnxruntime")
    from hasn_edge.images.codec import read_image, write_image
    from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession
    from hasn_edge.runtime.upscaler import Upscaler

    version = triton_repository(artifact(graph), tmp_path / "repo", name="net")
    page = (version.parent / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.S)[1]
    ast.parse(code)

    class InferInput:
        def __init__(self, name, shape, datatype):
            self.said = (name, shape, datatype)

        def set_data_from_numpy(self, x):
            kinds = {"FP32": np.float32, "UINT8": np.uint8}
            assert (self.said[1], kinds[self.said[2]]) == (list(x.shape), x.dtype)
            self.x = x

    class InferenceServerClient:
        def __init__(self, url, **options):
            assert url == "localhost:8000"

        def infer(self, model, tensors):
            assert model == "net"
            session = ort.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
            feeds = {tensor.said[0]: tensor.x for tensor in tensors}
            answers = dict(
                zip((o.name for o in session.get_outputs()), session.run(None, feeds), strict=True)
            )
            return types.SimpleNamespace(as_numpy=answers.__getitem__)

    http = types.ModuleType("tritonclient.http")
    http.InferInput, http.InferenceServerClient = InferInput, InferenceServerClient
    package = types.ModuleType("tritonclient")
    package.http = http
    monkeypatch.setitem(sys.modules, "tritonclient", package)
    monkeypatch.setitem(sys.modules, "tritonclient.http", http)
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    write_image(tmp_path / "photo.png", image)
    exec(compile(code, "README", "exec"), {})
    assert cv2.imread("upscaled.png").shape == (80, 96, 3)
    with OnnxRuntimeSession(artifact("any", name="reference").path, SPEC, threads=1) as session:
        expected = Upscaler(session)(image)
    difference = np.abs(read_image(tmp_path / "upscaled.png").astype(int) - expected)
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.999
