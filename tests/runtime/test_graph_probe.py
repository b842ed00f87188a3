"""Graphs of somebody else's: what probing finds, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from hasn_edge.data.likeness import sample
from hasn_edge.errors import ArtifactError, UnsupportedError
from hasn_edge.files import file_sha256
from hasn_edge.images.arrays import to_tensor
from hasn_edge.model.zoo import is_foreign_network
from hasn_edge.runtime import graph_probe
from hasn_edge.runtime.choice import source_of
from hasn_edge.runtime.graph_probe import probe_graph, source_sha256
from hasn_edge.runtime.open import open_model
from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.spec import GraphSpec, NetworkSpec
from tests.support.foreign_networks import Halving, Pooling, Residual, foreign_onnx


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "options", "expected"),
    [
        (Residual(2), {}, {"scale": 2}),
        (Residual(3, peak=255.0), {"opset": 13}, {"scale": 3, "peak": 255.0}),
        (Halving(3), {}, {"scale": 3, "multiple": 2, "minimum": 2}),
        (Pooling(2), {}, {"scale": 2, "minimum": 9}),
        (Residual(2), {"side": 48}, {"scale": 2}),
    ],
)
def test_what_a_graph_takes_is_found(tmp_path, monkeypatch, network, options, expected):
    monkeypatch.chdir(tmp_path)
    Path("numpy.py").touch()  # a file of the user's, which is not the package of that name
    path = foreign_onnx(Path("net.onnx"), network, **options)
    assert is_foreign_network(path)
    assert probe_graph(path) == GraphSpec(**expected)
    with pytest.MonkeyPatch.context() as patch:  # the same bytes under another name are not run again
        patch.setattr(graph_probe, "_Probe", None)
        assert probe_graph(path.rename("other.onnx")) == GraphSpec(**expected)


@pytest.mark.slow
def test_weights_beside_a_graph_are_found_by_the_graphs_own_name(tmp_path):
    """Caches of downloads link names to files that are called by their hashes."""
    graph = onnx.load(str(foreign_onnx(tmp_path / "net.onnx", Pooling(2))))
    beside = {"save_as_external_data": True, "location": "net.onnx_data", "size_threshold": 0}
    onnx.save_model(graph, str(tmp_path / "net.onnx"), **beside)
    (tmp_path / "snapshot").mkdir()
    for name, digest in (("net.onnx", "1f"), ("net.onnx_data", "2e")):
        (tmp_path / name).rename(tmp_path / digest)
        (tmp_path / "snapshot" / name).symlink_to(tmp_path / digest)
    assert probe_graph(tmp_path / "snapshot" / "net.onnx") == GraphSpec(scale=2, minimum=9)


@pytest.mark.parametrize("name", ["net.onnx.data", "weights of the net.bin", "x" * 200])
def test_a_graph_is_known_by_the_weights_beside_it_too(tmp_path, name):
    """Of two trainings the graphs are equal byte by byte."""
    path, other = foreign_onnx(tmp_path / "net.onnx"), tmp_path / "other" / "net.onnx"
    whole = source_sha256(path)
    assert whole == file_sha256(path)
    other.parent.mkdir()
    for target, seed in ((path, 0), (other, 1)):
        graph = onnx.load(str(foreign_onnx(tmp_path / "plain.onnx", seed=seed)))
        onnx.save_model(graph, str(target), save_as_external_data=True, location=name, size_threshold=0)
    assert file_sha256(path) == file_sha256(other)
    known = source_sha256(path)
    assert source_of(path) == known != source_sha256(other)
    (other.parent / name).write_bytes((tmp_path / name).read_bytes())
    assert source_sha256(other) == known
    (other.parent / name).unlink()
    assert source_sha256(other) == file_sha256(other)  # which no runtime opens


@pytest.mark.slow
def test_sessions_take_and_give_values_up_to_one(tmp_path):
    network = Residual(2, peak=255.0)
    path = foreign_onnx(tmp_path / "net.onnx", network)
    x = sample(20, 30)
    with torch.no_grad():
        expected = network(torch.from_numpy(x * 255)).numpy() / 255
    with open_model(path) as session:
        assert np.abs(session.run(x) - expected).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("tile", [None, 24])
def test_any_size_is_padded_to_what_divides_it(tmp_path, tile):
    network = Halving(2)
    path = foreign_onnx(tmp_path / "net.onnx", network)
    rng = np.random.default_rng(0)
    with open_model(path) as session, Upscaler(session, tile=tile, overlap=8) as upscaler:
        for height, width in ((1, 1), (31, 45), (40, 26)):
            image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            result = upscaler.upscale(image)
            assert result.shape == (2 * height, 2 * width, 3)
            if tile is None:
                rows, columns = height % 2, width % 2
                padded = np.pad(to_tensor(image), ((0, 0), (0, 0), (0, rows), (0, columns)), mode="edge")
                with torch.no_grad():
                    y = network(torch.from_numpy(padded)).numpy()[0, :, : 2 * height, : 2 * width]
                levels = np.rint(y.clip(0, 1) * 255).transpose(1, 2, 0)
                assert np.abs(result - levels).max() <= 1


def two_inputs(path):
    proto = onnx.load(path)
    extra = onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, [1])
    proto.graph.input.append(extra)
    onnx.save(proto, path)


def own_operator(path):
    proto = onnx.load(path)
    next(node for node in proto.graph.node if node.op_type == "Conv").domain = "com.example"
    proto.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    onnx.save(proto, path)


class Cropping(Residual):
    def forward(self, x):
        return super().forward(x)[:, :, 2:, 2:]


class Inverting(Residual):
    def forward(self, x):
        return 1 - super().forward(x)


@pytest.mark.parametrize(
    ("network", "spoil", "message"),
    [
        (Residual(2), two_inputs, r"it has 2 inputs \(lr: float nx3xhxw, mask: float 1\) and 1 output "),
        (Residual(2), own_operator, "ONNX Runtime cannot load it: .*com.example"),
        (Cropping(2), lambda path: None, "an image of 1x3x64x64 becomes 1x3x126x126"),
        (Inverting(2), lambda path: None, "does not resemble its input"),
    ],
)
def test_what_is_no_such_graph_is_refused(tmp_path, network, spoil, message):
    path = foreign_onnx(tmp_path / "net.onnx", network)
    spoil(str(path))
    with pytest.raises(UnsupportedError, match=message):
        probe_graph(path)


def test_missing_weights_are_named(tmp_path):
    path = foreign_onnx(tmp_path / "net.onnx")
    graph = onnx.load(path)
    onnx.save_model(graph, str(path), save_as_external_data=True, location="net.data", size_threshold=0)
    (tmp_path / "net.data").unlink()
    with pytest.raises(ArtifactError, match=r"of which there is no .*net\.data; copy the graph"):
        probe_graph(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"gone\.onnx: no such file"):
        probe_graph(tmp_path / "gone.onnx")


def test_pytorch_runs_no_graph(tmp_path):
    path = foreign_onnx(tmp_path / "net.onnx")
    with pytest.raises(UnsupportedError, match="PyTorch runs weights, and this is a graph"):
        open_model(path, backend="pytorch")


def test_a_spec_is_read_as_what_it_was_written():
    for spec in (GraphSpec(scale=3, multiple=4, minimum=8), NetworkSpec.from_dict({"features": 8})):
        assert NetworkSpec.from_dict(spec.to_dict()) == spec
