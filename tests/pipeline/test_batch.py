"""Several images at a time: graphs and engines that take them, and what they are checked for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import hasn_edge
from hasn_edge.artifact import load_artifact
from hasn_edge.errors import UnsupportedError, VerificationError
from hasn_edge.pipeline.acceptance import check_batch, check_static
from hasn_edge.runtime.open import open_session
from hasn_edge.runtime.upscaler import Upscaler
from tests.support.fake_session import FakeSession


def images(count: int, height: int = 24, width: int = 33) -> np.ndarray:
    return np.random.default_rng(1).random((count, 3, height, width), dtype=np.float32)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_exported_graph_takes_any_number_and_computes_each_alone(tiny, tmp_path, precision):
    artifact = hasn_edge.export(tiny, precision=precision, batch=4, output=tmp_path)
    assert artifact.path.name == f"tiny-{precision}-b4.onnx"
    assert artifact.details.batch == (1, 4)
    shape = onnx.load(artifact.path).graph.input[0].type.tensor_type.shape
    assert [dim.dim_param != "" for dim in shape.dim] == [True, False, True, True]
    x = images(5)
    with open_session(artifact) as session:
        together = session.run(x)
        alone = np.concatenate([session.run(one[None]) for one in x])
        assert Upscaler(session).upscale(np.zeros((20, 20, 3), np.uint8)).shape == (80, 80, 3)
    np.testing.assert_allclose(together, alone, atol=1e-5 if precision == "fp32" else 1e-3)


def test_the_server_is_told_the_limit(tiny, tmp_path):
    made = hasn_edge.pipeline.api.export_triton(tiny, batch=4, output=tmp_path)
    config = (made.path.parents[1] / "config.pbtxt").read_text()
    assert "max_batch_size: 4" in config
    assert "dynamic_batching" in config
    assert "dims: [ 3, -1, -1 ]" in config


@pytest.mark.parametrize(("size", "pixels"), [((48, 64), False), (None, True)])
def test_an_engine_takes_up_to_so_many(tiny, tmp_path, size, pixels):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed: extra [rtx]")
    built = hasn_edge.build(
        tiny, precision="fp16", target="rtx", size=size, batch=3, pixels=pixels, output=tmp_path
    )
    graph, engine = (load_artifact(artifact.path) for artifact in built.artifacts)
    assert engine.size == size
    assert engine.path.name == f"tiny-fp16-rtx{'-u8' * pixels}{'-64x48' if size else ''}-b3.engine"
    profile = engine.engine.profile
    assert (profile.min[0], profile.opt[0], profile.max[0]) == (1, 3, 3)
    assert graph.size is None
    assert engine.engine.inputs[0].shape[0] == -1
    if size and not pixels:
        other = hasn_edge.build(tiny, precision="fp16", target="rtx", size=size, output=tmp_path)
        assert other.artifacts[-1].engine.cache_key != engine.engine.cache_key


def test_a_target_file_may_fix_the_number(tiny, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed: extra [rtx]")
    target = tmp_path / "pair.toml"
    shape = "[2, 3, 48, 64]"
    target.write_text(f'runtime = "rtx"\n[shapes]\nmin = {shape}\nopt = {shape}\nmax = {shape}\n')
    graph, engine = hasn_edge.build(tiny, precision="fp32", target=target, output=tmp_path).artifacts
    assert engine.path.name == "tiny-fp32-pair-64x48-b2.engine"
    assert engine.engine.inputs[0].shape == (2, 3, 48, 64)
    assert engine.engine.golden.shape == (2, 3, 48, 64)
    x = images(2, 48, 64)
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
def test_what_does_not_go_together(tiny, tmp_path, call, message):
    with pytest.raises(UnsupportedError, match=message):
        call(tiny, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Mixing(FakeSession):
    """Lets images that come together see each other, as an average over the wrong axes would."""

    def _run(self, x_NCHW):
        return super()._run(x_NCHW) * np.float32(0.5) + np.float32(0.5) * x_NCHW.mean(dtype=np.float32)


def test_images_that_see_each_other_are_refused():
    check_batch(FakeSession())
    with pytest.raises(VerificationError, match="three images at a time come out other than each alone"):
        check_batch(Mixing())
    check_static(FakeSession, FakeSession, (20, 20), count=2)
    with pytest.raises(VerificationError, match=r"\(20x20, 2 at a time\) is too far"):
        check_static(FakeSession, Mixing, (20, 20), count=2)
