"""Graphs of any size take small images: run in a child process, because one that does not ends its host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from hasn_edge.engine.compile import engine_from_onnx
from hasn_edge.engine.target import EngineTarget, ShapeRange
from hasn_edge.exporters.least_side import PADDING, with_padding, without_padding
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.exporters.onnx_graph import Emulator, metadata
from hasn_edge.exporters.uint8_io import with_pixels
from hasn_edge.model.hasn import HASN
from hasn_edge.quantize.check_qdq import check_qdq
from hasn_edge.spec import ModelSpec, Precision
from tests.support.compiling import MakeOnnx

SPEC = ModelSpec(features=8, blocks=1, esa_channels=4)
LEAST = 15
SIZES = ((8, 8), (1, 1), (3, 40), (33, 14), (15, 15), (17, 29))
RUN = """
import sys, numpy as np, onnxruntime as ort
graph, given, made, level = sys.argv[1:]
options = ort.SessionOptions()
options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
options.log_severity_level = 4
session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
images = np.load(given)
np.savez(made, **{name: session.run(None, {"input": images[name]})[0] for name in images})
"""


def network() -> HASN:
    torch.manual_seed(0)
    return HASN(SPEC).eval().requires_grad_(False)


def run_in_child(graph: onnx.ModelProto, images: list[np.ndarray], folder: Path, *, exact: bool = False):
    """Return what ONNX Runtime makes of the images, or the child's exit status where it died."""
    onnx.save(graph, folder / "graph.onnx")
    np.savez(folder / "given.npz", **{str(i): x for i, x in enumerate(images)})
    level = "ORT_DISABLE_ALL" if exact else "ORT_ENABLE_ALL"
    files = [str(folder / name) for name in ("graph.onnx", "given.npz", "made.npz")]
    done = subprocess.run([sys.executable, "-c", RUN, *files, level], timeout=300)
    if done.returncode:
        return done.returncode
    made = np.load(folder / "made.npz")
    return [made[str(i)] for i in range(len(images))]


def padded(x: np.ndarray) -> np.ndarray:
    """Return ``x`` with its last row and column repeated up to the least side, by PyTorch."""
    more = [max(0, LEAST - side) for side in x.shape[2:]]
    return torch.nn.functional.pad(torch.from_numpy(x), (0, more[1], 0, more[0]), mode="replicate").numpy()


def noise(count: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.random((count, 3, *size), dtype=np.float32) for size in SIZES]


def test_it_is_the_network_on_an_image_with_repeated_edges(tmp_path):
    model = network()
    graph = with_padding(onnx_from_model(model), LEAST, 4)
    images = noise()
    made = run_in_child(graph, images, tmp_path)
    assert isinstance(made, list), f"the child ended with status {made}"
    for x, y in zip(images, made, strict=True):
        height, width = x.shape[2] * 4, x.shape[3] * 4
        expected = model(torch.from_numpy(padded(x)))[:, :, :height, :width].numpy()
        assert y.shape == expected.shape
        assert np.abs(y - expected).max() < 1e-5


def test_measuring_a_graph_pads_as_files_do():
    model = network()
    emulator = Emulator(onnx_from_model(model), exact=True)
    for x in noise():
        expected = model(torch.from_numpy(padded(x)))[:, :, : x.shape[2] * 4, : x.shape[3] * 4].numpy()
        y = emulator.run(x)
        assert y.shape == expected.shape
        assert np.abs(y - expected).max() < 1e-5
    pixels = Emulator(with_pixels(onnx_from_model(model)), exact=True)
    for x in noise():
        codes = np.rint(x.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
        floats = emulator.run(codes.transpose(0, 3, 1, 2) / np.float32(255)).transpose(0, 2, 3, 1)
        y = pixels.run(codes)
        assert y.shape == floats.shape
        assert np.abs(y - np.clip(floats, 0, 1) * 255).max() < 0.51  # half a level of rounding


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "form"),
    [("fp16", "strongly-typed"), ("int8", "strongly-typed"), ("int8", "weakly-typed"), ("int8", "trt10")],
)
def test_every_precision_is_exact_around_its_own_graph(hasn_onnx: MakeOnnx, tmp_path, precision, form):
    plain = onnx.load_from_string(hasn_onnx(precision, form=form))
    graph = with_padding(plain, LEAST, 4)
    check_qdq(graph)
    # What TensorRT 8.5 reads is of opset 17; what it calls by name must stay.
    assert graph.opset_import[0].version == plain.opset_import[0].version
    assert [node.name for node in plain.graph.node] == [
        node.name for node in graph.graph.node if not node.name.startswith("least_side.")
    ]
    images = noise()
    made = run_in_child(graph, images, tmp_path, exact=True)
    expected = run_in_child(plain, [padded(x) for x in images], tmp_path, exact=True)
    for x, y, whole in zip(images, made, expected, strict=True):
        np.testing.assert_array_equal(y, whole[:, :, : x.shape[2] * 4, : x.shape[3] * 4])


@pytest.mark.slow
def test_any_number_of_images_at_a_time(tmp_path):
    plain = onnx_from_model(network(), batch=None)
    images = noise(count=3)
    made = run_in_child(with_padding(plain, LEAST, 4), images, tmp_path)
    expected = run_in_child(plain, [padded(x) for x in images], tmp_path)
    for x, y, whole in zip(images, made, expected, strict=True):
        np.testing.assert_array_equal(y, whole[:, :, : x.shape[2] * 4, : x.shape[3] * 4])


@pytest.mark.slow
def test_pixels_are_padded_as_pixels(tmp_path):
    graph = with_pixels(with_padding(onnx_from_model(network()), LEAST, 4))
    rng = np.random.default_rng(2)
    images = [rng.integers(0, 256, (1, *size, 3), np.uint8) for size in SIZES]
    more = [[(0, max(0, LEAST - side)) for side in x.shape[1:3]] for x in images]
    whole = [np.pad(x, ((0, 0), *sides, (0, 0)), "edge") for x, sides in zip(images, more, strict=True)]
    made, expected = (run_in_child(graph, given, tmp_path) for given in (images, whole))
    for x, y, big in zip(images, made, expected, strict=True):
        np.testing.assert_array_equal(y, big[:, : x.shape[1] * 4, : x.shape[2] * 4])


def test_it_comes_off_again_without_a_trace():
    plain = onnx_from_model(network())
    before = plain.SerializeToString()
    graph = with_padding(plain, LEAST, 4)
    assert plain.SerializeToString() == before
    assert PADDING in metadata(graph)
    assert metadata(graph)["hasn_edge.least_side"] == "15"
    assert without_padding(graph).SerializeToString() == before
    assert without_padding(plain).SerializeToString() == before
    pixels = with_pixels(plain)
    bare = without_padding(with_pixels(graph))
    assert [node.name for node in bare.graph.node] == [node.name for node in pixels.graph.node]
    onnx.checker.check_model(bare, full_check=True)


def test_a_network_that_takes_one_pixel_stays_as_it_is():
    plain = onnx_from_model(HASN(ModelSpec(features=8, blocks=1, esa=False)).eval())
    assert with_padding(plain, 1, 4).SerializeToString() == plain.SerializeToString()


@pytest.mark.slow
@pytest.mark.usefixtures("needs_rtx")
@pytest.mark.parametrize(("precision", "form"), [("fp32", "weakly-typed"), ("int8", "strongly-typed")])
def test_tensorrt_reads_it_and_builds_it(hasn_onnx: MakeOnnx, precision, form):
    graph = with_padding(onnx.load_from_string(hasn_onnx(precision, form=form)), LEAST, 4)
    shapes = ShapeRange(min=(1, 3, 4, 4), opt=(1, 3, 48, 64), max=(1, 3, 96, 96))
    target = EngineTarget(name="test", shapes=shapes, compute_capabilities=("ampere",))
    built = engine_from_onnx(graph.SerializeToString(), target, precision=Precision(precision))
    assert built.details().profile.min == (1, 3, 4, 4)
