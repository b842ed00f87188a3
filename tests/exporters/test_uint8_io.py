"""Graphs of pixels: the levels that the float graph gives with the conversion around it, computed inside."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from hasn_edge.errors import ShapeError, UnsupportedError
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.exporters.onnx_graph import metadata
from hasn_edge.exporters.uint8_io import with_pixels
from hasn_edge.model.hasn import HASN
from hasn_edge.quantize.fp16 import fp16_onnx_from_onnx
from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession
from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.spec import ModelSpec, Precision
from tests.support.fake_session import FakeSession

SPEC = ModelSpec(features=8, blocks=1, esa_channels=4)


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    torch.manual_seed(0)
    return onnx_from_model(HASN(SPEC).eval(), opset=20)


def opened(graph, **options) -> OnnxRuntimeSession:
    return OnnxRuntimeSession(graph.SerializeToString(), SPEC, threads=1, **options)


def levels(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, shape, np.uint8)


def test_the_graph_takes_and_gives_pixels(graph):
    before = graph.SerializeToString()
    made = with_pixels(graph)
    assert graph.SerializeToString() == before
    (taken,), (given,) = made.graph.input, made.graph.output
    assert [taken.name, given.name] == ["input", "output"]
    for end, sides in ((taken, ["height", "width"]), (given, None)):
        kind = end.type.tensor_type
        assert kind.elem_type == onnx.TensorProto.UINT8
        assert [kind.shape.dim[i].dim_value for i in (0, 3)] == [1, 3]
        assert sides is None or [kind.shape.dim[i].dim_param for i in (1, 2)] == sides
    # TensorRT takes UINT8 at the border only: nothing but the two casts may touch it.
    assert [n.op_type for n in made.graph.node if "input" in n.input] == ["Cast"]
    assert [n.op_type for n in made.graph.node if "output" in n.output] == ["Cast"]
    assert metadata(made)["hasn_edge.color"] == "RGB, 0 to 255, NHWC"
    assert metadata(made)["hasn_edge.spec"] == metadata(graph)["hasn_edge.spec"]


@pytest.mark.parametrize("size", [(15, 15), (17, 31), (64, 33)])
def test_levels_are_float64_arithmetic_around_the_network(graph, size):
    x_NHWC = levels(1, *size, 3)
    with opened(graph) as floats, opened(with_pixels(graph)) as session:
        assert session.pixels
        got = session.run_pixels(x_NHWC)
        y_NCHW = floats.run((x_NHWC.transpose(0, 3, 1, 2) / 255).astype(np.float32))
    exact = np.clip(y_NCHW.astype(np.float64), 0, 1).transpose(0, 2, 3, 1) * 255
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    assert np.abs(got - exact).max() <= 0.5 + 1e-3
    assert np.unique(got).size > 30  # not one constant image


def test_fp16_and_static_graphs_too(graph):
    half = with_pixels(fp16_onnx_from_onnx(graph))
    torch.manual_seed(0)
    static = with_pixels(onnx_from_model(HASN(SPEC).eval(), opset=20, size=(20, 24)))
    x = levels(1, 20, 24, 3)
    with opened(graph) as floats, opened(half, precision=Precision.FP16) as a, opened(static) as b:
        assert (a.size, b.size) == (None, (20, 24))
        expected = floats.run_pixels(x).astype(int)
        assert np.abs(a.run_pixels(x) - expected).max() <= 2
        assert np.abs(b.run_pixels(x) - expected).max() <= 1
        with pytest.raises(ShapeError, match="exactly 20 x 24"):
            b.run_pixels(levels(1, 24, 20, 3))


def test_images_come_out_the_same_by_either_way_in(graph):
    image = levels(21, 18, 3)
    with opened(with_pixels(graph)) as session:
        inside = session.run_pixels(image[None])[0]
        np.testing.assert_array_equal(Upscaler(session).upscale(image), inside)
        y = session.run((image.transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32))
    assert y.shape == (1, 3, 84, 72)
    np.testing.assert_array_equal(np.rint(y[0].transpose(1, 2, 0) * 255).astype(np.uint8), inside)


def test_another_graph_is_refused(graph):
    with pytest.raises(UnsupportedError, match="pixels replace one float32 input .* of UINT8"):
        with_pixels(with_pixels(graph))


def test_every_session_takes_pixels():
    x = levels(2, 16, 17, 3)
    y = FakeSession(SPEC).run_pixels(x)
    np.testing.assert_array_equal(y, x.repeat(4, axis=1).repeat(4, axis=2))
    for wrong in (x[0], x.astype(np.float32), x[..., :2], x[:0], [1]):
        with pytest.raises(ShapeError, match=r"expected uint8 \(N, H, W, 3\)"):
            FakeSession(SPEC).run_pixels(wrong)
