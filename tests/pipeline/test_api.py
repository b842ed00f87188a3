"""From a checkpoint to published files: what is written, what it says of itself, and what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import hasn_edge
from hasn_edge.artifact import load_artifact, sidecar_path
from hasn_edge.cli import cli
from hasn_edge.errors import ArtifactError, HasnEdgeError, UnsupportedError, VerificationError
from hasn_edge.evaluation.compare import Budget
from hasn_edge.files import file_sha256
from hasn_edge.images.codec import write_image
from hasn_edge.model.checkpoint import load_checkpoint, save_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.pipeline import acceptance
from hasn_edge.pipeline import api as pipeline
from hasn_edge.pipeline import build as builder
from hasn_edge.pipeline.build import build_one
from hasn_edge.pipeline.context import BuildOptions
from hasn_edge.pipeline.variants import Variants
from hasn_edge.runtime.golden import check_golden
from hasn_edge.runtime.open import open_session
from hasn_edge.runtime.pytorch import PyTorchSession
from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.sidecar import BuildAskedFor, Form, InputProfile, Kind
from hasn_edge.spec import ModelSpec, Precision
from tests.support.fake_session import FakeSession

INT8 = {"precision": "int8", "force": True}
"""INT8 of a network without training."""


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).random((1, 3, 40, 33), dtype=np.float32)


def files(folder) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torchscript", "pt2"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 5e-3)])
def test_export_equals_pytorch(tiny, tmp_path, x, format, precision, tolerance):
    artifact = hasn_edge.export(tiny, format=format, precision=precision, output=tmp_path)
    assert files(tmp_path) == [artifact.path.name, artifact.path.name + ".json"]
    assert artifact.source == file_sha256(tiny)
    assert artifact.precision is Precision(precision)
    with PyTorchSession(load_checkpoint(tiny).model()) as reference, open_session(artifact.path) as session:
        np.testing.assert_allclose(session.run(x), reference.run(x), rtol=0, atol=tolerance)


@pytest.mark.slow
def test_static_export_takes_one_size(tiny, tmp_path, x):
    artifact = hasn_edge.export(tiny, size=(40, 33), output=tmp_path)
    assert artifact.path.name == "tiny-fp32-33x40.onnx"
    named = hasn_edge.export(tiny, size=(40, 33), output=tmp_path, name="mine")
    assert named.path.name == "mine-fp32-33x40.onnx"
    assert artifact.size == (40, 33)
    with open_session(artifact.path) as session:
        assert session.run(x).shape == (1, 3, 160, 132)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torchscript", "pt2"])
def test_failed_comparison_leaves_nothing(tiny, tmp_path, monkeypatch, format):
    monkeypatch.setattr(acceptance, "BUDGETS", {p: Budget(max_abs=-1.0) for p in Precision})
    with pytest.raises(VerificationError, match="is too far from its reference"):
        hasn_edge.export(tiny, format=format, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_new_file_replaces_the_old_only_if_it_passed(tiny, tmp_path, monkeypatch):
    first = hasn_edge.export(tiny, output=tmp_path)
    monkeypatch.setattr(acceptance, "BUDGETS", {p: Budget(max_abs=-1.0) for p in Precision})
    with pytest.raises(VerificationError):
        hasn_edge.export(tiny, output=tmp_path)
    assert load_artifact(first.path) == first


@pytest.mark.slow
def test_missed_budget_names_the_costliest_layers(tiny, tmp_path):
    recipe = tmp_path / "strict.toml"
    recipe.write_text('observer = "percentile"\npercentile = 60.0\nbudget_db = 0.0\n')
    out, one = tmp_path / "out", tmp_path / "one"
    one.mkdir()
    write_image(one / "a.png", np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8))
    result = CliRunner().invoke(
        cli,
        [
            "build",
            "--model",
            str(tiny),
            "--precision",
            "int8",
            "--recipe",
            str(recipe),
            "--calibration",
            str(one),
            "-o",
            str(out),
            "--force",
        ],
    )
    assert result.exit_code == 3, result.output
    message = " ".join(result.output.split())
    assert "over the budget of 0 dB, nothing was written. 1 patch of 1 image: few to measure" in message
    assert ". The costliest layers:" in message
    assert "keep_float" in message
    assert not out.exists()


@pytest.mark.slow
def test_an_int8_sidecar_states_recipe_ranges_and_quality(tiny, tmp_path):
    recipe = tmp_path / "loose.toml"
    recipe.write_text("budget_db = 5.0\n")
    built = hasn_edge.build(tiny, precision="int8", force=True, recipe=recipe, output=tmp_path / "out")
    (artifact,) = built.artifacts
    details = json.loads((tmp_path / "out" / "tiny-int8-cpu.onnx.json").read_text())["details"]
    assert details["ranges"]["observer"] == details["recipe"]["observer"] == "mse"
    assert details["recipe"]["spread"] == ["*.g.conv", "*.cab.cab.0", "conv_2"]
    assert len(details["ranges"]["fingerprint"]) == 64
    assert details["ranges"]["images"] >= 30
    assert set(details["ranges"]["values"]) == set(details["int8_convolutions"])
    assert 0 < details["int8_mac_share"] <= 1
    assert list(details["measured"]) == ["against", "held_out", "further", "noise"]
    assert details["measured"]["held_out"]["images"] == 8
    assert details["measured"]["held_out"]["dpsnr_db"] >= -5
    (drawn,) = details["measured"]["further"]
    assert (drawn["set"], drawn["images"], drawn["budget_worst_db"]) == ("drawn", 10, 25.0)
    assert drawn["optimized_dpsnr_db"] == pytest.approx(drawn["dpsnr_db"], abs=0.5)
    assert 0 <= drawn["outside"] < 0.05
    assert artifact.precision is Precision.INT8
    assert any("held-out images" in line for line in built.summary)


@pytest.mark.slow
def test_portable_graphs_are_for_old_and_new_tensorrt(tiny, tmp_path):
    recipe = tmp_path / "loose.toml"
    recipe.write_text("budget_db = 5.0\n")
    built = hasn_edge.build(
        tiny, precision="int8", force=True, target="portable", recipe=recipe, output=tmp_path, size=(48, 64)
    )
    weakly_typed, strongly_typed = (onnx.load(a.path) for a in built.artifacts)
    assert [a.path.name for a in built.artifacts] == [
        "tiny-int8-weakly-typed-64x48.onnx",
        "tiny-int8-strongly-typed-64x48.onnx",
    ]
    assert (weakly_typed.opset_import[0].version, strongly_typed.opset_import[0].version) == (17, 20)
    assert "LayerNormalization" not in {node.op_type for node in weakly_typed.graph.node}
    assert "LayerNormalization" in {node.op_type for node in strongly_typed.graph.node}
    for graph in (weakly_typed, strongly_typed):
        assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.graph.node}
        assert graph.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert built.artifacts[0].graph.builder_flags == ("INT8", "FP16")


@pytest.mark.slow
def test_engine_for_gpus_that_are_not_here(tiny, ada, tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed: extra [rtx]")
    recipe = tmp_path / "loose.toml"
    recipe.write_text("budget_db = 5.0\n")
    built = hasn_edge.build(
        tiny,
        precision="int8",
        force=True,
        target=ada,
        recipe=recipe,
        output=tmp_path / "out",
        size=(48, 64),
    )
    graph, engine = (load_artifact(a.path) for a in built.artifacts)
    assert engine.kind is Kind.ENGINE
    assert engine.parent == graph.sha256
    assert engine.source == graph.source == file_sha256(tiny)
    assert engine.size == (48, 64)
    assert engine.details.measured == graph.details.measured
    assert engine.engine.emulated_as == "strongly typed graph, int8"
    assert engine.engine.model == tiny.name
    assert engine.engine.asked == BuildAskedFor(recipe="loose.toml")
    assert engine.engine.calibration.fingerprint == graph.graph.ranges.fingerprint
    kernels = engine.engine.kernels
    assert kernels.size == (48, 64)
    moved, types = (next(line for line in built.summary if word in line) for word in ("kernels", "read INT8"))
    assert moved.startswith(f"rtx: {kernels.all} kernels read and write {kernels.moved_bytes / 1e6:.1f} MB")
    assert types == (
        f"INT8: {kernels.integer} of {kernels.convolutions_all} convolutions read INT8, {kernels.wide} write "
        "FP32 (unfused)"
    )
    assert not any(line.startswith("norm_factor") for line in built.summary), "only FP16 has it"
    warning = r"INT8 moves [\d.]+ MB where FP16 moves [\d.]+ MB, 1\.\d\d times as much: .*FP16 is advised"
    assert re.match(warning, engine.engine.warnings[0])
    for path in (graph.path, engine.path):  # it goes to other people: no folder of this machine is in it
        assert str(tmp_path.parent) not in sidecar_path(path).read_text()
    # What this engine must compute is known before a GPU is: the exact arithmetic of its graph.
    with open_session(graph, exact=True) as session:
        check_golden(session, engine.engine.golden)
    with FakeSession(size=(48, 64)) as other, pytest.raises(ArtifactError, match="computes something else"):
        check_golden(other, engine.engine.golden)
    with pytest.raises(HasnEdgeError, match="NVIDIA"):
        open_session(engine)

    def never(*args, **options):
        raise AssertionError("compiled again")

    monkeypatch.setattr(builder, "engine_from_onnx", never)
    again = hasn_edge.build(
        tiny,
        precision="int8",
        force=True,
        target=ada,
        recipe=recipe,
        output=tmp_path / "out",
        size=(48, 64),
    )
    assert again.artifacts == (graph, engine)
    assert "nothing changed" in again.summary[0]
    elsewhere = build_one(
        BuildOptions(
            model=tiny,
            precision="int8",
            target=ada,
            recipe=recipe,
            size=(48, 64),
            force=True,
            output=tmp_path / "new",
        ),
        known=(tmp_path / "out",),
    )
    assert elsewhere.artifacts == again.artifacts
    graph.path.unlink()  # the engine runs without it
    assert hasn_edge.build(
        tiny,
        precision="int8",
        force=True,
        target=ada,
        recipe=recipe,
        output=tmp_path / "out",
        size=(48, 64),
    ).artifacts == (engine,)
    for change in (
        {"rebuild": True}, {"size": (64, 64)}, {"pixels": True}, {"precision": "fp32"}, {"name": "mine"}
    ):  # fmt: skip
        options = {"precision": "int8", "size": (48, 64), "force": True, **change}
        options |= {"recipe": recipe} if options["precision"] == "int8" else {}
        with pytest.raises(AssertionError, match="compiled again"):
            hasn_edge.build(tiny, target=ada, output=tmp_path / "out", **options)


@pytest.mark.slow
def test_a_range_of_sizes_is_the_engines(tiny, ada, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed: extra [rtx]")
    (tmp_path / "own").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    write_image(tmp_path / "own" / "one.png", image)
    built = hasn_edge.build(
        tiny,
        precision="fp32",
        target=ada,
        dynamic=((32, 32), (48, 64), (96, 128)),
        output=tmp_path,
        name="door",
        evaluation=f"mine={tmp_path}/own",
    )
    engine = built.artifacts[-1]
    assert engine.path.name.startswith("door-")
    assert engine.engine.asked == BuildAskedFor(name="door", evaluation="own")
    assert engine.size is None
    assert engine.engine.profile == InputProfile(min=(1, 3, 32, 32), opt=(1, 3, 48, 64), max=(1, 3, 96, 128))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (48, 64), "dynamic": ((32, 32), (48, 64), (96, 96))}, "exclude each other"),
        ({"dynamic": ((32, 32), (48, 64), (96, 96))}, "takes any size as it is"),
        ({"int8_method": "magic"}, "unknown INT8 method 'magic'; choose one of: qdq, calibrator"),
        ({"int8_method": "calibrator"}, "the calibrator is TensorRT's"),
        ({"int8_method": "calibrator", "target": "rtx", "precision": "int8"}, "has no calibrator"),
    ],
)
def test_builds_that_cannot_be(tiny, tmp_path, options, message):
    if options.get("target") == "rtx":
        pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed: extra [rtx]")
    with pytest.raises(UnsupportedError, match=message):
        hasn_edge.build(tiny, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_shape_of_a_scale_2_network(tmp_path):
    path = tmp_path / "x2.safetensors"
    save_checkpoint(path, HASN(ModelSpec(features=8, blocks=1, scale=2)))
    artifact = hasn_edge.export(path, output=tmp_path)
    assert artifact.spec.scale == 2
    scores = hasn_edge.evaluate(artifact=artifact.path)
    assert len(scores.images) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "INT8 needs calibration"),
        ({"format": "tflite"}, "unknown format 'tflite'"),
        ({"precision": "fp16", "opset": 17}, "FP16 tensors need opset 20"),
        ({"format": "torchscript", "size": (32, 32)}, "TorchScript files take any size"),
        ({"format": "torchscript", "opset": 17}, "TorchScript files have no opset"),
    ],
)
def test_export_refuses(tiny, tmp_path, options, message):
    with pytest.raises(UnsupportedError, match=message):
        pipeline.export(tiny, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"recipe": "conservative"}, {"calibration": "."}])
def test_what_is_for_int8_is_refused_without_it(tiny, tmp_path, options):
    with pytest.raises(
        UnsupportedError, match=f"only INT8 takes {next(iter(options))}; the precision asked for is fp16"
    ):
        pipeline.build(tiny, precision="fp16", output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_there_is_no_weakly_typed_fp16_graph(tiny, tmp_path):
    built = hasn_edge.build(tiny, precision="fp16", target="portable", output=tmp_path)
    assert files(tmp_path) == ["tiny-fp16-strongly-typed.onnx", "tiny-fp16-strongly-typed.onnx.json"]
    assert [a.path.name for a in built.artifacts] == ["tiny-fp16-strongly-typed.onnx"]


@pytest.mark.slow
def test_nothing_is_published_when_a_later_form_fails(tiny, tmp_path, monkeypatch):
    real = Variants.make_graph

    def second_fails(variants, form, *args, **options):
        if form is Form.STRONGLY_TYPED:
            raise VerificationError("the strongly typed one is wrong")
        return real(variants, form, *args, **options)

    monkeypatch.setattr(Variants, "make_graph", second_fails)
    with pytest.raises(VerificationError, match="the strongly typed one"):
        hasn_edge.build(tiny, precision="fp32", target="portable", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, (40, 33)])
def test_a_file_of_pixels_states_it_and_runs(tiny, tmp_path, size):
    built = hasn_edge.build(tiny, precision="fp32", size=size, pixels=True, output=tmp_path)
    (artifact,) = (load_artifact(a.path) for a in built.artifacts)
    assert artifact.path.name == ("tiny-fp32-cpu-u8-33x40.onnx" if size else "tiny-fp32-cpu-u8.onnx")
    assert artifact.pixels
    side = json.loads((tmp_path / f"{artifact.path.name}.json").read_text())
    assert side["tensors"] == "NHWC, RGB, uint8"
    assert side["details"]["measured"]["pixels"]["largest"] <= 1
    pixels = np.random.default_rng(4).integers(0, 256, (1, 40, 33, 3), np.uint8)
    with open_session(artifact) as session, PyTorchSession(load_checkpoint(tiny).model()) as reference:
        difference = session.run_pixels(pixels) - reference.run_pixels(pixels).astype(int)
    assert np.abs(difference).max() <= 1
    assert np.mean(difference != 0) < 1e-3


@pytest.mark.slow
def test_recipe_budget_is_the_one_that_counts(tiny, monkeypatch, tmp_path):
    """A candidate that loses more than the budget is refused; one that loses less passes."""
    real = acceptance.drift

    def worse(reference, candidate):
        lost = real(reference, candidate)
        images = tuple(replace(image, dpsnr=-0.02) for image in lost.images)
        return replace(lost, images=images)

    monkeypatch.setattr(acceptance, "drift", worse)
    (tmp_path / "a.toml").write_text("budget_db = 0.03\n")
    (tmp_path / "b.toml").write_text("budget_db = 0.01\n")
    hasn_edge.build(tiny, precision="int8", force=True, recipe=tmp_path / "a.toml", output=tmp_path / "a")
    with pytest.raises(VerificationError, match="-0.0200 dB against FP32"):
        hasn_edge.build(tiny, precision="int8", force=True, recipe=tmp_path / "b.toml", output=tmp_path / "b")
    assert files(tmp_path / "a") == ["tiny-int8-cpu.onnx", "tiny-int8-cpu.onnx.json"]
    assert not (tmp_path / "b").exists()


def batch_of(count: int, height: int = 24, width: int = 33) -> np.ndarray:
    return np.random.default_rng(1).random((count, 3, height, width), dtype=np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_exported_graph_takes_any_number_and_computes_each_alone(tiny, tmp_path, precision):
    artifact = hasn_edge.export(tiny, precision=precision, batch=4, output=tmp_path)
    assert artifact.path.name == f"tiny-{precision}-b4.onnx"
    assert artifact.details.batch == (1, 4)
    shape = onnx.load(artifact.path).graph.input[0].type.tensor_type.shape
    assert [dim.dim_param != "" for dim in shape.dim] == [True, False, True, True]
    x = batch_of(5)
    with open_session(artifact) as session:
        together = session.run(x)
        alone = np.concatenate([session.run(one[None]) for one in x])
        assert Upscaler(session).upscale(np.zeros((20, 20, 3), np.uint8)).shape == (80, 80, 3)
    np.testing.assert_allclose(together, alone, atol=1e-5 if precision == "fp32" else 1e-3)


@pytest.mark.slow
def test_a_graph_takes_the_batch_of_its_target_file(tiny, tmp_path):
    target = tmp_path / "four.toml"
    target.write_text('runtime = "cpu"\n[shapes]\nmin=[1,3,48,48]\nopt=[4,3,48,48]\nmax=[4,3,48,48]\n')
    artifact = hasn_edge.build(tiny, precision="fp32", target=target, output=tmp_path / "out").artifacts[-1]
    assert artifact.details.batch == (1, 4)
    with open_session(artifact) as session:
        assert session.run(batch_of(4)).shape == (4, 3, 96, 132)
    one = {"target": target, "size": (24, 33), "output": tmp_path / "one"}
    with pytest.raises(UnsupportedError, match="one image at a time"):
        hasn_edge.build(tiny, **one)
    artifact = hasn_edge.build(tiny, precision="fp32", batch=1, **one).artifacts[-1]
    assert artifact.details.batch == (1, 1)


@pytest.mark.slow
def test_a_server_takes_the_batch_as_its_limit(tiny, tmp_path):
    made = hasn_edge.pipeline.api.export_triton(tiny, batch=4, output=tmp_path)
    config = (made.path.parents[1] / "config.pbtxt").read_text()
    assert "max_batch_size: 4" in config
    assert "dynamic_batching" in config
    assert "dims: [ 3, -1, -1 ]" in config


@pytest.mark.slow
@pytest.mark.parametrize(("size", "pixels"), [((48, 64), False), (None, True)])
def test_an_engine_takes_up_to_so_many(tiny, ada, tmp_path, size, pixels):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed: extra [rtx]")
    built = hasn_edge.build(
        tiny, precision="fp16", target=ada, size=size, batch=3, pixels=pixels, output=tmp_path
    )
    graph, engine = (load_artifact(artifact.path) for artifact in built.artifacts)
    assert engine.size == size
    assert engine.path.name == f"tiny-fp16-rtx{'-u8' * pixels}{'-64x48' if size else ''}-b3.engine"
    profile = engine.engine.profile
    assert (profile.min[0], profile.opt[0], profile.max[0]) == (1, 3, 3)
    assert graph.size is None
    assert engine.engine.inputs[0].shape[0] == -1
    if size and not pixels:
        other = hasn_edge.build(tiny, precision="fp16", target=ada, size=size, output=tmp_path)
        assert other.artifacts[-1].engine.cache_key != engine.engine.cache_key


@pytest.mark.slow
def test_a_target_file_may_fix_the_number(tiny, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed: extra [rtx]")
    target = tmp_path / "pair.toml"
    shape = "[2, 3, 48, 64]"
    target.write_text(f'runtime = "rtx"\n[shapes]\nmin = {shape}\nopt = {shape}\nmax = {shape}\n')
    graph, engine = hasn_edge.build(tiny, precision="fp32", target=target, output=tmp_path).artifacts
    assert engine.path.name == "tiny-fp32-pair-64x48-b2.engine"
    assert engine.engine.inputs[0].shape == (2, 3, 48, 64)
    assert engine.engine.golden.shape == (2, 3, 48, 64)
    x = batch_of(2, 48, 64)
    with open_session(graph) as pair, open_session(hasn_edge.export(tiny, output=tmp_path)) as one:
        np.testing.assert_allclose(pair.run(x), one.run(x), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda tiny, out: hasn_edge.export(tiny, size=(48, 64), batch=2, output=out),
            "leave out size, or",
        ),
        (lambda tiny, out: hasn_edge.export(tiny, format="torchscript", batch=2, output=out), "any number"),
        (
            lambda tiny, out: hasn_edge.build(tiny, target="cpu", size=(48, 64), batch=2, output=out),
            "one image at a time",
        ),
    ],
)
def test_batches_that_a_file_cannot_take(tiny, tmp_path, call, message):
    with pytest.raises(UnsupportedError, match=message):
        call(tiny, tmp_path / "out")
    assert not (tmp_path / "out").exists()
