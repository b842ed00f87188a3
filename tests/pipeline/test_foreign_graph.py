"""Graphs of somebody else's become FP32, FP16 and INT8 files, checked against the graph itself."""

from __future__ import annotations

import functools
import json

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

from hasn_edge.artifact import load_artifact
from hasn_edge.bench import benchmark as runner
from hasn_edge.cli import cli
from hasn_edge.data.likeness import sample
from hasn_edge.engine.target import load_target
from hasn_edge.errors import (
    CheckpointError,
    OutputError,
    ShapeError,
    UnsupportedError,
    VerificationError,
    use,
)
from hasn_edge.files import file_sha256
from hasn_edge.images.arrays import from_tensor
from hasn_edge.images.codec import write_image
from hasn_edge.model.comparators.ntire import RLFN
from hasn_edge.pipeline.api import build, export
from hasn_edge.pipeline.bundle import export_bundle, load_bundle
from hasn_edge.pipeline.context import load_context
from hasn_edge.pipeline.costs import TargetCost
from hasn_edge.pipeline.foreign_graph import load_foreign_graph
from hasn_edge.pipeline.variants import Variants
from hasn_edge.progress import ignore
from hasn_edge.quantize.graph import count_graph
from hasn_edge.quantize.recipe import Saving
from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession
from hasn_edge.runtime.open import open_model, open_session
from hasn_edge.sidecar import Form
from hasn_edge.spec import GraphSpec, Precision
from tests.support.bench_rig import Here
from tests.support.foreign_networks import Eighths, Halving, Residual, foreign_onnx


@pytest.fixture(scope="module")
def network():
    return Residual(2, peak=255.0)


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    return foreign_onnx(tmp_path_factory.mktemp("foreign") / "theirs.onnx", network, opset=13)


@pytest.mark.slow
def test_int8_of_a_network_whose_sides_are_multiples(tmp_path):
    path = foreign_onnx(tmp_path / "theirs.onnx", Halving(4))
    images = tmp_path / "mine"
    images.mkdir()
    write_image(images / "odd.png", np.random.default_rng(0).integers(0, 256, (4 * 37, 4 * 43, 3), np.uint8))
    built = build(path, precision="int8", target="cpu", output=tmp_path, force=True, evaluation=images)
    assert load_artifact(built.artifacts[0].path).spec.size.multiple == 2


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_one_size_that_is_no_multiple_is_refused_with_the_next_that_is(tmp_path, target):
    path = foreign_onnx(tmp_path / "theirs.onnx", Halving(2))
    with pytest.raises(ShapeError, match=r"sides that 2 divides, and 63x45 was asked for") as caught:
        build(path, precision="fp32", target=target, size=(45, 63), output=tmp_path)
    assert caught.value.cures == (use(size=(46, 64)),)


@pytest.mark.parametrize(
    ("sizes", "wrong", "fitting"),
    [
        (None, "320x180 and 960x540 were", ((32, 32), (184, 320), (544, 960))),  # the target's own
        (((32, 32), (41, 64), (64, 64)), "64x41 was", ((32, 32), (48, 64), (64, 64))),
        (((30, 33), (64, 64), (64, 65)), "33x30 and 65x64 were", ((32, 40), (64, 64), (64, 72))),
    ],
)
def test_a_range_of_sizes_that_are_no_multiples_is_refused_with_one_that_is(tmp_path, sizes, wrong, fitting):
    """The compiler would refuse the optimal size in words of its own, and take a largest that never runs."""
    path = foreign_onnx(tmp_path / "theirs.onnx", Eighths(2))
    with pytest.raises(ShapeError, match=rf"sides that 8 divides, and {wrong} asked for") as caught:
        build(path, precision="fp16", target="rtx", dynamic=sizes, output=tmp_path)
    assert caught.value.cures == (use(dynamic=fitting), use(size=fitting[1]))


@pytest.mark.slow
def test_what_takes_multiples_is_timed_at_the_next_size_that_it_takes(tmp_path, monkeypatch):
    """A CPU takes any size, and frames of a target's are padded to what the network takes."""
    path, shapes = foreign_onnx(tmp_path / "theirs.onnx", Eighths(2)), set()
    times = OnnxRuntimeSession.times
    monkeypatch.setattr(OnnxRuntimeSession, "times", lambda s, x: shapes.add(x.shape) or times(s, x))
    built = build(path, precision="auto", target="cpu", force=True, output=tmp_path)
    assert "onnxruntime fp32 " in "\n".join(built.artifacts[-1].details.autotune.candidates)
    assert shapes == {(1, 3, 184, 320)}
    shapes.clear()
    context = load_context(path, recipe="search", progress=ignore)
    cost = TargetCost(Variants(context, ignore), load_target("cpu"), None, Saving.MS)
    assert cost.base > 0
    assert shapes == {(1, 3, 184, 320)}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_network_that_overflows_in_fp16_is_refused_without_a_gpu(tmp_path, precision):
    network = Residual(4)
    with torch.no_grad():
        for parameter in (network.head.weight, network.body.weight, network.head.bias, network.body.bias):
            parameter.mul_(1000)
        network.tail.weight.mul_(1e-6)
        assert not torch.isfinite(network.half()(torch.from_numpy(sample(40, 50)).half())).all()
    path = foreign_onnx(tmp_path / "theirs.onnx", network.float())
    with pytest.raises(VerificationError, match="not finite .*a number format inside overflows"):
        build(path, precision=precision, target="portable", output=tmp_path / "out", force=True)
    assert not list(tmp_path.glob("out/*.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"batch": 3}, {"pixels": True}])
def test_several_images_and_pixels_of_a_network_whose_sides_are_multiples(tmp_path, options):
    network = Halving(4)
    path = foreign_onnx(tmp_path / "theirs.onnx", network)
    (made,) = build(path, precision="fp32", target="cpu", output=tmp_path, **options).artifacts
    x_NHWC = np.random.default_rng(0).integers(0, 256, (3, 16, 26, 3), np.uint8)
    x = torch.from_numpy(x_NHWC).permute(0, 3, 1, 2) / 255
    with torch.no_grad(), open_session(made) as session:
        if "batch" in options:
            assert np.abs(session.run(x.numpy()) - network(x).numpy()).max() < 1e-5
            return
        levels = (network(x[:1]).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
        assert np.abs(session.run_pixels(x_NHWC[:1]) - levels).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "apart"), [("fp32", 1e-5), ("fp16", 2e-3), ("int8", 0.02)])
def test_a_file_computes_what_the_network_does(path, network, tmp_path, precision, apart):
    built = build(path, precision=precision, target="cpu", output=tmp_path, force=True)
    (artifact,) = built.artifacts
    assert artifact.path.name == f"theirs-{precision}-cpu.onnx"
    assert load_artifact(artifact.path).spec == GraphSpec(scale=2)
    x = sample(40, 50)
    with torch.no_grad():
        expected = network(torch.from_numpy(x * 255)).numpy() / 255
    with open_session(artifact) as session:
        assert np.abs(session.run(x) - expected).max() < apart
    if precision == "int8":
        assert artifact.graph.int8_convolutions == ("body",), "the first and the last see the image"
        assert "the recipe names none of the 3 convolutions of this graph" in "\n".join(built.summary)
        kinds = [node.op_type for node in onnx.load(str(artifact.path)).graph.node]
        assert kinds.count("QuantizeLinear") == 2


@pytest.mark.parametrize("opset", [17, 20])
def test_a_graph_of_one_size_keeps_the_factors_that_it_interpolates_by(path, network, opset):
    """Skips and upsampling by factors have no target size that could be made a constant."""
    graph = load_foreign_graph(path).graph(opset, size=(48, 56), batch=1)
    x = sample(48, 56)
    with torch.no_grad():
        expected = network(torch.from_numpy(x * 255)).numpy() / 255
    with OnnxRuntimeSession(graph.SerializeToString()) as session:
        assert session.size == (48, 56)
        assert np.abs(session.run(x) - expected).max() < 1e-5


@pytest.mark.slow
def test_a_recipe_that_names_its_convolutions_is_followed(path, tmp_path):
    text = 'quantize = ["head", "body"]\nkeep_float = ["tial"]\nbudget_db = 1.0\n'
    (tmp_path / "own.toml").write_text(text)
    built = build(
        path, precision="int8", recipe=tmp_path / "own.toml", target="cpu", output=tmp_path, force=True
    )
    (artifact,) = built.artifacts
    warnings = [line for line in built.summary if line.startswith("warning: ")]
    said = "warning: no convolution of this network is called tial, as the recipe's keep_float has it"
    assert warnings == [said]
    assert set(artifact.graph.int8_convolutions) == {"head", "body"}


@pytest.mark.slow
def test_a_search_and_a_bundle_take_it(path, tmp_path):
    """A search chooses among all its convolutions, whatever they are called; a bundle has its graphs."""
    images = tmp_path / "mine"
    write_image(images / "a.png", from_tensor(sample(48, 56)))
    options = {"precision": "int8", "target": "cpu", "force": True, "evaluation": images}
    (found,) = build(path, max_drop=0.5, output=tmp_path / "a", **options).artifacts
    assert set(found.graph.int8_convolutions) == {"head", "body", "tail"}
    recipe = tmp_path / "a" / "theirs-int8-search.toml"
    (again,) = build(path, recipe=recipe, output=tmp_path / "b", **options).artifacts
    assert again.path.read_bytes() == found.path.read_bytes()
    bundle = export_bundle(path, tmp_path / "bundle", recipe=recipe, force=True)
    graphs = load_bundle(bundle).graphs
    assert set(graphs[Form.STRONGLY_TYPED, Precision.INT8].graph.int8_convolutions) == {
        "head",
        "body",
        "tail",
    }


@pytest.mark.slow
def test_portable_graphs_are_of_opset_17_and_20(path, tmp_path):
    built = build(path, precision="int8", target="portable", output=tmp_path, force=True)
    assert [one.graph.opset for one in built.artifacts] == [17, 20]
    halves = onnx.load(str(built.artifacts[1].path))
    assert {t.data_type for t in halves.graph.initializer} >= {onnx.TensorProto.FLOAT16}


@pytest.mark.slow
def test_counts_are_those_of_pytorch(path, network):
    graph = load_foreign_graph(path).graph(17, size=None, batch=1)
    counts = count_graph(graph, (24, 32))
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        network(torch.zeros(1, 3, 24, 32))
    assert 2 * counts.macs == flops.get_total_flops()
    assert counts.parameters == sum(p.numel() for p in network.parameters())
    assert counts.activations == 24 * 32 * (8 + 8 + 12)


@pytest.mark.slow
def test_sides_that_are_no_multiple_are_refused_by_files_too(tmp_path):
    path = foreign_onnx(tmp_path / "theirs.onnx", Halving(2))
    (artifact,) = build(path, precision="fp32", target="cpu", output=tmp_path).artifacts
    assert artifact.spec.size.padding(31, 44) == (1, 0)


def with_constants_of_numbers(graph):
    """As onnxscript writes them: an attribute that is no tensor."""
    graph.node.insert(0, onnx.helper.make_node("Constant", [], ["one"], name="one", value_float=1.0))
    graph.node.insert(1, onnx.helper.make_node("Constant", [], ["ones"], name="ones", value_ints=[1, 1]))
    graph.node.insert(2, onnx.helper.make_node("Expand", ["one", "ones"], ["wide"], name="wide"))
    graph.node.insert(3, onnx.helper.make_node("Mul", ["lr", "wide"], ["same"], name="same"))
    for node in list(graph.node)[4:]:
        node.input[:] = ["same" if name == "lr" else name for name in node.input]


def with_weights_among_its_inputs(graph):
    """As exporters wrote them before ONNX 1.4, here the image last."""
    image = graph.input.pop()
    for tensor in graph.initializer:
        graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    graph.input.append(image)


def with_nodes_called_like_tensors(graph):
    names = ["lr", "sr", *(tensor.name for tensor in graph.initializer)]
    for node, name in zip([node for node in graph.node if "sr" not in node.output], names, strict=False):
        node.name = name


@pytest.mark.parametrize(
    "change", [with_constants_of_numbers, with_weights_among_its_inputs, with_nodes_called_like_tensors]
)
def test_graphs_as_other_exporters_write_them(tmp_path, change):
    proto = onnx.load(str(foreign_onnx(tmp_path / "plain.onnx")))
    change(proto.graph)
    onnx.save(proto, str(tmp_path / "theirs.onnx"))
    made = load_foreign_graph(tmp_path / "theirs.onnx").graph(17, size=None, batch=1)  # which compares both
    assert [value.name for value in made.graph.input] == ["input"]


def test_other_weights_beside_an_equal_graph_replace_no_file(tmp_path):
    """Nor is an engine of the first ones taken for one of the second: what decides it is another."""
    beside = {"save_as_external_data": True, "location": "theirs.bin", "size_threshold": 0}
    known = []
    for seed in (0, 1):
        path = tmp_path / str(seed) / "theirs.onnx"
        path.parent.mkdir()
        graph = onnx.load(str(foreign_onnx(tmp_path / "plain.onnx", seed=seed)))
        onnx.save_model(graph, str(path), **beside)
        context = load_context(path, progress=ignore)
        known.append(context.identity(Form.STRONGLY_TYPED, Precision.FP16, None))
        if seed == 0:
            build(path, precision="fp32", target="cpu", output=tmp_path / "out")
    assert known[0] != known[1]
    with pytest.raises(OutputError, match="theirs-fp32-cpu.onnx was made of other weights"):
        build(path, precision="fp32", target="cpu", output=tmp_path / "out")


def test_weights_that_only_onnx_runtime_reads_are_named(tmp_path):
    """It follows links, which the package onnx does not, to files of the same folder."""
    path = foreign_onnx(tmp_path / "theirs.onnx")
    beside = {"save_as_external_data": True, "location": "theirs.bin", "size_threshold": 0}
    onnx.save_model(onnx.load(str(path)), str(path), **beside)
    (tmp_path / "theirs.bin").rename(tmp_path / "2e")
    (tmp_path / "theirs.bin").symlink_to("2e")
    with pytest.raises(UnsupportedError, match="theirs.onnx: its weights, which are in other files, cannot"):
        load_foreign_graph(path).graph(17, size=None, batch=1)


def test_what_cannot_be_built_is_refused(path, tmp_path):
    proto = onnx.load(str(path))
    body = next(node for node in proto.graph.node if "body" in node.name)
    body.op_type, name = "If", body.name
    from hasn_edge.pipeline.foreign_graph import _refuse_nodes

    with pytest.raises(UnsupportedError, match=f"node {name} \\(If\\) decides while it runs"):
        _refuse_nodes(proto)
    body.op_type = "QuantizeLinear"
    with pytest.raises(UnsupportedError, match=f"node {name} \\(QuantizeLinear\\) quantizes"):
        _refuse_nodes(proto)


@pytest.mark.slow
def test_one_size_and_torchscript_are_refused(path, tmp_path):
    fixed = foreign_onnx(tmp_path / "fixed.onnx", side=48)
    with pytest.raises(UnsupportedError, match="takes 48x48 pixels only"):
        build(fixed, precision="fp32", target="cpu", output=tmp_path)
    with pytest.raises(UnsupportedError, match="TorchScript is made of weights"):
        export(path, format="torchscript", output=tmp_path)


@pytest.mark.slow
def test_every_verb_takes_it(path, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "run_benchmark", functools.partial(runner.run_benchmark, worker=Here))
    out, images = tmp_path / "out.png", tmp_path / "set"
    images.mkdir()
    from hasn_edge.images.arrays import from_tensor
    from hasn_edge.images.codec import read_image, write_image

    write_image(images / "a.png", from_tensor(sample(48, 64)))

    def run(*arguments):
        result = CliRunner().invoke(cli, [*arguments, "--model", str(path)])
        assert result.exit_code == 0, result.output
        return result.output

    run("upscale", str(images / "a.png"), "-o", str(out))
    assert read_image(out).shape == (96, 128, 3)
    assert "theirs.onnx" in run("eval", "--data", f"S={images}")
    options = ("--size", "32x24", "--runs", "2", "--precision", "fp32,int8", "--data", f"S={images}")
    run("bench", *options, "--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html"))
    report = json.loads((tmp_path / "r.json").read_text())
    labels = [case["label"] for case in report["cases"]]
    assert labels == [
        "ONNX Runtime fp32, as given", "ONNX Runtime fp32", "ONNX Runtime int8", "INT8 emulated exactly"
    ]  # fmt: skip
    assert report["parameters"] == 1684
    assert all(case["failure"] is None for case in report["cases"])


# -- another paper's network, by its weights -----------------------------------------------------------------


@pytest.fixture(scope="module")
def rlfn(tmp_path_factory):
    """Weights in the published layout that make every pixel a square, and the network that they are of."""
    torch.manual_seed(0)
    network = RLFN(width=12, blocks=1).eval()
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.mul_(0.3 if tensor.ndim > 1 else 0)
        for channel in range(3):
            network.conv_1.weight[channel, channel, 1, 1] += 1
            network.upsampler[0].weight[16 * channel : 16 * channel + 16, channel, 1, 1] += 1
    path = tmp_path_factory.mktemp("rlfn") / "theirs.pth"
    torch.save({"params": network.state_dict()}, path)
    return path, network


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "apart"), [("fp32", 1e-5), ("fp16", 4e-3), ("int8", 0.06)])
def test_a_file_computes_what_another_papers_network_does(rlfn, tmp_path, precision, apart):
    path, network = rlfn
    options = {"target": "cpu", "output": tmp_path, "force": True}
    (artifact,) = build(f"rlfn={path}", precision=precision, **options).artifacts
    assert artifact.path.name == f"theirs-{precision}-cpu.onnx"
    assert artifact.source == file_sha256(path)
    assert artifact.spec.size.minimum == 15
    x = sample(40, 50)
    with torch.inference_mode():
        expected = network(torch.tensor(x)).numpy()
    with open_session(artifact) as session:
        assert np.abs(session.run(x) - expected).max() < apart
    with open_model(f"rlfn={path}") as session:
        assert np.abs(session.run(x) - expected).max() < 1e-6


@pytest.mark.slow
def test_random_weights_are_built_without_a_budget(tmp_path):
    options = {"target": "cpu", "output": tmp_path}
    (artifact,) = build("srmdnf=random", precision="fp16", **options).artifacts
    assert artifact.path.name == "srmdnf-fp16-cpu.onnx"
    assert artifact.details.measured.held_out is None


def test_another_network_needs_its_weights(tmp_path):
    with pytest.raises(CheckpointError, match=r"no model called 'span'; bundled: .*span=FILE"):
        open_model("span")
