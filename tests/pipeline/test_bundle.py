"""Bundles: whole or not there, checked where they are opened, and built from without PyTorch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from hasn_edge.artifact import load_artifact
from hasn_edge.engine.target import load_target
from hasn_edge.errors import (
    ArtifactError,
    InputError,
    OutputError,
    ShapeError,
    UnsupportedError,
    VerificationError,
)
from hasn_edge.files import file_sha256
from hasn_edge.model.zoo import bundled_onnx
from hasn_edge.pipeline.api import build
from hasn_edge.pipeline.autotune import autotune
from hasn_edge.pipeline.build import Built
from hasn_edge.pipeline.bundle import (
    FORMS,
    INDEX,
    SUMS,
    BundleVariants,
    export_bundle,
    is_bundle,
    is_finished,
    load_bundle,
    load_graph,
    name_and_source,
)
from hasn_edge.pipeline.context import BuildOptions, load_context, publish_file
from hasn_edge.pipeline.variants import Variants
from hasn_edge.progress import ignore
from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession
from hasn_edge.sidecar import Form, Kind
from hasn_edge.spec import Precision
from tests.support.fake_session import FakeSession

pytestmark = pytest.mark.slow

WITHOUT_TORCH = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
from hasn_edge.__main__ import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def bundle(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "loose.toml").write_text("budget_db = 5.0\n")
    recipe = folder / "loose.toml"
    return export_bundle(tiny, folder / "made" / "net", recipe=recipe, name="net", force=True)


def copied(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def test_it_has_all_that_a_board_needs_and_nothing_half_made(bundle, tiny):
    assert is_bundle(bundle)
    assert [path.name for path in bundle.parent.iterdir()] == ["net"]
    graphs = {path.name for path in bundle.glob("*.onnx")}
    assert len(graphs) == len(FORMS)
    assert {path.name for path in bundle.iterdir()} == {
        *graphs,
        *(f"{name}.json" for name in graphs),
        INDEX,
        SUMS,
        "README.md",
    }
    for artifact in map(load_artifact, bundle.glob("*.onnx")):
        assert (artifact.kind, artifact.source, artifact.size) == (Kind.ONNX, file_sha256(tiny), None)
    listed = dict(reversed(line.split("  ")) for line in (bundle / SUMS).read_text().splitlines())
    assert listed == {path.name: file_sha256(path) for path in bundle.iterdir() if path.name != SUMS}
    page = (bundle / "README.md").read_text()
    for command in ("sha256sum -c SHA256SUMS", "hasn-edge doctor", "hasn-edge build --from . "):
        assert command in page


@pytest.mark.parametrize("name", ["../net", "a/b", ""])
def test_a_name_of_no_file_is_refused_before_any_work(tiny, tmp_path, monkeypatch, name):
    monkeypatch.setattr("hasn_edge.pipeline.bundle.load_context", None)
    with pytest.raises(InputError, match="expected the start of a file's name"):
        export_bundle(tiny, tmp_path / "out", name=name)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("hasn_edge.pipeline.bundle.load_context", None)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write .*out"):
        export_bundle(tiny, tmp_path / "file" / "out")


def test_a_folder_with_something_in_it_is_left_alone(tiny, tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(OutputError, match="is not empty"):
        export_bundle(tiny, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(("form", "precision"), [FORMS[0], FORMS[3], FORMS[5]], ids=str)
def test_a_graph_of_one_size_computes_what_an_export_of_that_size_does(bundle, tiny, form, precision):
    target = load_target("tensorrt").with_size(32, 40)
    made = BundleVariants(BuildOptions(model=bundle), target, ignore).make_graph(
        form, precision, size=(32, 40)
    )
    recipe = bundle.parent.parent / "loose.toml" if precision is Precision.INT8 else None
    context = load_context(tiny, recipe=recipe, force=True, progress=ignore)
    exported = Variants(context, ignore).make_graph(form, precision, size=(32, 40))
    x = np.random.default_rng(0).random((1, 3, 32, 40), np.float32)
    with (
        OnnxRuntimeSession(made.data, context.checkpoint.spec, exact=True) as first,
        OnnxRuntimeSession(exported.data, context.checkpoint.spec, exact=True) as second,
    ):
        assert first.size == second.size == (32, 40)
        np.testing.assert_array_equal(first.run(x), second.run(x))
    ours, theirs = (onnx.load_from_string(file.data).graph.node for file in (made, exported))
    assert [node.op_type for node in ours] == [node.op_type for node in theirs]
    assert made.details.measured is not None


@pytest.mark.usefixtures("needs_rtx")
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_engine_is_built_without_pytorch(bundle, tiny, tmp_path, precision):
    (tmp_path / "ampere.toml").write_text(
        'runtime = "rtx"\ncompute_capabilities = ["ampere"]\n'
        "[shapes]\nmin = [1, 3, 32, 40]\nopt = [1, 3, 32, 40]\nmax = [1, 3, 32, 40]\n"
    )
    args = ["build", "--from", str(bundle), "--precision", precision, "--target", "ampere.toml", "-o", "out"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *args],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    engine = load_artifact(tmp_path / done.stdout.splitlines()[-1])
    assert (engine.kind, engine.precision, engine.size) == (Kind.ENGINE, Precision(precision), (32, 40))
    assert engine.source == file_sha256(tiny)
    assert engine.engine.golden is not None
    assert "torch" not in engine.made_by or engine.parent is not None


def test_changed_files_are_refused_with_what_helps(bundle, tmp_path):
    folder = copied(bundle, tmp_path)
    graph = next(folder.glob("*.onnx"))
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match="its bytes changed"):
        load_bundle(folder)
    graph.unlink()
    with pytest.raises(ArtifactError, match="no such file"):
        load_bundle(folder)
    (folder / INDEX).write_text("{}")
    with pytest.raises(ArtifactError, match=r"no readable bundle .*sha256sum -c SHA256SUMS"):
        load_bundle(folder)


def test_a_runtime_that_computes_something_else_is_found(bundle, tmp_path):
    folder = copied(bundle, tmp_path)
    index = json.loads((folder / INDEX).read_text())
    index["golden"]["points"] = [value + 0.5 for value in index["golden"]["points"]]
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(VerificationError, match="the golden image comes out wrong in ONNX Runtime"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("options", "left_out"),
    [
        ({"pixels": True}, "pixels"),
        ({"calibration": "photos"}, "calibration"),
        ({"recipe": "extensive"}, "recipe"),
        ({"evaluation": "photos"}, "evaluation"),
    ],
)
def test_what_a_bundle_does_not_have_is_refused(bundle, options, left_out):
    with pytest.raises(UnsupportedError, match=f"leave out {left_out}"):
        BundleVariants(BuildOptions(model=bundle, **options), load_target("tensorrt"), ignore)


def test_a_bundle_is_named_as_it_was_typed(bundle, tmp_path, monkeypatch):
    def kept(model: str) -> str:
        return BundleVariants(BuildOptions(model=model), load_target("tensorrt"), ignore).context.model

    (tmp_path / "current").symlink_to(bundle)
    assert kept(str(tmp_path / "current")) == "current/"
    monkeypatch.chdir(bundle)
    assert kept(".") == f"{bundle.name}/"


def test_it_is_for_engines(bundle):
    variants = BundleVariants(BuildOptions(model=bundle), load_target("tensorrt"), ignore)
    assert variants.context.model == f"{bundle.name}/", "what an engine is built from again"
    with pytest.raises(UnsupportedError, match=r"none of form cpu; use target='tensorrt'"):
        variants.make_graph(Form.CPU, Precision.FP32, size=None)


@pytest.mark.parametrize(
    ("target", "sizes"),
    [
        ("rtx", {"dynamic": ((8, 8), (32, 32), (64, 64))}),
        ("rtx", {"size": (8, 8)}),
        ("portable", {"size": (8, 8)}),
    ],
)
def test_a_size_that_the_network_does_not_take_is_refused(bundle, tmp_path, target, sizes):
    """The compiler only warns of a smallest one, and the sidecar would state it."""
    with pytest.raises(ShapeError, match="^net takes no less than 15x15 pixels, and 8x8 was asked for"):
        build(bundle, precision="fp16", target=target, output=tmp_path / "out", **sizes)
    assert not (tmp_path / "out").exists()


def test_files_of_other_weights_are_not_replaced_unasked(bundle, tmp_path):
    graph = next(bundle.glob("net-int8-strongly-typed*.onnx"))
    load_artifact(graph).publish_copy(b"x", tmp_path / "net-int8-rtx.onnx")
    assert name_and_source(graph) == name_and_source(bundle) == ("net", load_artifact(graph).source)
    side = tmp_path / "net-int8-rtx.onnx.json"
    side.write_text(side.read_text().replace(load_artifact(graph).source, "0" * 64))
    for model in (graph, bundle):
        with pytest.raises(OutputError, match="net-int8-rtx.onnx was made of other weights") as caught:
            build(model, precision="int8", target="rtx", output=tmp_path)
        assert "NAME" not in str(caught.value)  # finished graphs have theirs


# -- one graph alone ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("needs_rtx")
def test_one_graph_that_was_built_elsewhere_is_compiled_without_pytorch(bundle, tiny, tmp_path):
    made = copied(bundle, tmp_path)
    graph = next(made.glob("net-int8-strongly-typed*.onnx"))
    args = ["build", "--model", str(graph), "--precision", "int8", "--target", "rtx", "--size", "40x32"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *args, "-o", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    engine = load_artifact(tmp_path / done.stdout.splitlines()[-1])
    assert engine.path.name == "net-int8-rtx-40x32.engine"
    assert engine.source == file_sha256(tiny)
    assert engine.engine.golden is not None


@pytest.mark.parametrize(
    ("called", "name"),
    [("net-int8-x4-int8-strongly-typed.onnx", "net-int8-x4"), ("renamed.v2.onnx", "renamed.v2")],
)
def test_files_made_of_a_graph_are_called_after_its_whole_name(bundle, tmp_path, called, name):
    graph = load_artifact(next(bundle.glob("net-int8-strongly-typed*.onnx")))
    copy = graph.publish_copy(graph.path.read_bytes(), tmp_path / called)
    assert name_and_source(copy.path) == (name, graph.source)


def test_a_graph_goes_on_with_its_own_sidecar(bundle, tmp_path):
    graph = next(copied(bundle, tmp_path).glob("net-int8-weakly-typed.onnx"))
    side = Path(f"{graph}.json").read_bytes()
    variants = BundleVariants(BuildOptions(model=graph, precision="int8"), load_target("tensorrt"), ignore)
    made = variants.make_graph(Form.WEAKLY_TYPED, Precision.INT8, size=None)
    assert made.data == graph.read_bytes()
    there = publish_file(variants.context, made, graph.parent, ignore)
    assert (there.path, Path(f"{graph}.json").read_bytes()) == (graph, side)
    copy = publish_file(variants.context, made, tmp_path / "out", ignore)
    assert copy == replace(load_artifact(graph), path=tmp_path / "out" / graph.name)


def test_choosing_a_precision_in_its_own_folder_leaves_its_checksums_true(bundle, tmp_path):
    folder = copied(bundle, tmp_path)
    options = BuildOptions(model=folder, precision="auto", target="cpu", size=(32, 40), output=folder)

    def builds(one, **rest):
        """Stand in for an engine build: the bundle's graph of any size, and a file that runs."""
        variants, out = BundleVariants(one, load_target("tensorrt"), ignore), Path(one.output)
        file = variants.make_graph(Form.WEAKLY_TYPED, Precision(one.precision), size=None)
        graph = publish_file(variants.context, file, out, ignore)
        return Built(artifacts=(graph, graph.publish_copy(b"x", out / f"{one.precision}.onnx")), summary=())

    def opens(artifact, **how):
        return FakeSession(precision=artifact.precision)

    graph, runs = autotune(options, build=builds, open_one=opens, seconds=0.0).artifacts
    assert (graph.path.parent, graph.details.autotune) == (folder, None)
    assert load_artifact(runs.path).details.autotune is not None, "the file that runs states the choice"
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_a_graph_alone_does_not_have_is_refused(bundle, tmp_path):
    weak = next(bundle.glob("net-int8-weakly-typed.onnx"))
    assert is_finished(weak)
    assert not is_finished(tmp_path / "other.onnx")
    with pytest.raises(UnsupportedError, match="its precision is int8, and fp16 was asked for; use"):
        BundleVariants(BuildOptions(model=weak, precision="fp16"), load_target("tensorrt"), ignore)
    options = BuildOptions(model=weak, precision="int8")
    variants = BundleVariants(options, load_target("tensorrt"), ignore)
    assert variants.context.name == "net"
    assert variants.context.model == weak.name
    assert variants.context.makes(Form.WEAKLY_TYPED, Precision.INT8)
    with pytest.raises(UnsupportedError, match="its form is weakly typed, and what compiles here reads s"):
        variants.context.identity(Form.STRONGLY_TYPED, Precision.INT8, None)
    assert variants.context.makes(Form.WEAKLY_TYPED_TRT10, Precision.INT8), "TensorRT 10 reads it too"
    fixed = variants.make_graph(Form.WEAKLY_TYPED, Precision.INT8, size=(32, 40))
    one = publish_file(variants.context, fixed, tmp_path, ignore).path
    again = BundleVariants(BuildOptions(model=one, precision="int8"), load_target("tensorrt"), ignore)
    assert again.make_graph(Form.WEAKLY_TYPED, Precision.INT8, size=(32, 40)).data == fixed.data
    with pytest.raises(UnsupportedError, match=r"takes one size only; use size=\(32, 40\)"):
        again.make_graph(Form.WEAKLY_TYPED, Precision.INT8, size=None)
    with pytest.raises(UnsupportedError, match="a graph for ONNX Runtime on a CPU"):
        load_graph(bundled_onnx("hasn-x4-small"), Precision.FP32)
