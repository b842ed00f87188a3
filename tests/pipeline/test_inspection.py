"""What is found of files: counts against PyTorch's own, bytes by hand, differences."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from hasn_edge.engine.kernels import Kernel, KernelTensor, describe_kernels
from hasn_edge.errors import ArtifactError, InputError, UnsupportedError
from hasn_edge.model.hasn import HASN
from hasn_edge.pipeline.inspection import (
    Change,
    compare_files,
    compare_layers,
    engine_lines,
    inspect_file,
    shorten_nodes,
)
from hasn_edge.sidecar import KernelRecord
from hasn_edge.spec import ModelSpec, Precision
from tests.support import samples
from tests.support.engine_fixtures import SMALL


def tensor(kind: str, *shape: int) -> KernelTensor:
    return KernelTensor(kind, shape)


def kernels(*kinds: str, images: int = 1) -> KernelRecord:
    """A convolution of each pair of types, and a kernel that rounds alone."""
    made = [
        Kernel(
            name=f"conv_{index}",
            kind="correlation",
            reads=(tensor(kind.split()[0], 1, 4, 10, 10),),
            writes=(tensor(kind.split()[-1], 1, 4, 10, 10),),
            nodes=(f"block_1.f{index}.conv", f"block_1.f{index}.act"),
        )
        for index, kind in enumerate(kinds)
    ]
    half = (tensor("Half", 1, 4, 10, 10),)
    made.append(Kernel(name="__myl_MulMinMaxRounCast_0", kind="kgen", reads=half, writes=half, nodes=()))
    return describe_kernels(made, size=(10, 10), images=images, activation_bytes=1_500_000)


def engine(folder: Path, found: KernelRecord, images: int = 1) -> Path:
    folder.mkdir()
    shape = {name: [images, 3, 10, 10] for name in ("min", "opt", "max")}
    return samples.engine(folder, kernels=samples.msgspec.to_builtins(found), profile=shape).path


def values(path: Path) -> dict[str, float | None]:
    return {figure.name: figure.value for figure in inspect_file(path).figures}


def test_an_engines_kernels(tmp_path):
    path = engine(tmp_path / "a", kernels("Int8 -> Float", "Int8 -> Float", "Half -> Half"))
    assert values(path) == {
        "kernels": 4,
        "convolutions": 3,
        "convolutions Half -> Half": 1,
        "convolutions Int8 -> Float": 2,
        "Q/DQ kernels (unfused)": 1,
        "read": 400 + 400 + 800 + 800,
        "written": 1600 + 1600 + 800 + 800,
        "moved": 7200,
        "activation memory": 1_500_000,
    }
    found = inspect_file(path)
    assert found.title == "a.engine: INT8 engine for tensorrt, at 10x10"
    assert [layer.name for layer in found.layers] == [
        "block_1.f0: conv, act", "block_1.f1: conv, act", "block_1.f2: conv, act", "__myl_MulMinMaxRounCast_0"
    ]  # fmt: skip
    assert [layer.weight for layer in found.layers] == [2000, 2000, 1600, 1600]
    assert found.remarks == ("2 of its 3 convolutions read INT8 and write FP32: what follows is not fused",)
    assert engine_lines(kernels("Int8 -> Float", "Half -> Half"), Precision.INT8, "rtx") == (
        "rtx: 3 kernels read and write 0.0 MB for 1 image of 10x10, 1.5 MB of scratch",
        "INT8: 1 of 2 convolutions read INT8, 1 write FP32 (unfused)",
    )
    assert engine_lines(kernels("Half -> Half"), Precision.FP16, "rtx")[1] == (
        "FP16: 1 convolution Half -> Half"
    )


def test_bytes_of_several_images_are_not_said_to_be_of_one(tmp_path):
    """Kernels are listed at the profile's optimum, which is the largest batch; older sidecars miss it."""
    found = kernels("Half -> Half", images=4)
    assert engine_lines(found, Precision.FP16, "rtx")[0].endswith(" for 4 images of 10x10, 1.5 MB of scratch")
    one = inspect_file(engine(tmp_path / "one", kernels("Half -> Half")))
    for name, record in (("new", found), ("old", kernels("Half -> Half"))):
        four = inspect_file(engine(tmp_path / name, record, images=4))
        assert four.title.endswith(", at 10x10, 4 images at a time: bytes moved are of one")
        assert four.figure("moved").value == one.figure("moved").value / 4
        assert sum(layer.weight for layer in four.layers) == four.figure("moved").value
        assert four.figure("activation memory").value == 1_500_000


def test_an_engine_that_is_not_what_it_is_called(tmp_path):
    found = inspect_file(engine(tmp_path / "a", kernels("Half -> Half", "Float -> Float")))
    assert found.remarks == ("it is called INT8, and none of its 2 convolutions is",)


def test_the_difference_of_two_engines(tmp_path):
    before = inspect_file(engine(tmp_path / "a", kernels("Half -> Half", "Half -> Half")))
    after = inspect_file(engine(tmp_path / "b", kernels("Half -> Half", "Int8 -> Float")))
    changes = {change.name: change for change in compare_files(before, after)}
    assert changes["moved"] == Change(name="moved", before=4800, after=5200, unit="bytes")
    assert changes["moved"].difference == 400
    assert changes["convolutions Int8 -> Float"].difference == 1
    assert [(one.name, one.before, one.after) for one in compare_layers(before, after)] == [
        ("block_1.f1: conv, act", 1600, 2000)
    ]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory, hasn_onnx) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    for precision in ("fp32", "fp16", "int8"):
        (folder / f"{precision}.onnx").write_bytes(hasn_onnx(precision))
    (folder / "sized.onnx").write_bytes(hasn_onnx("int8", size=(40, 56)))
    (folder / "pixels.onnx").write_bytes(hasn_onnx("int8", pixels=True))
    return folder


def test_a_graphs_convolutions_against_pytorch(graphs):
    """Its counts are what hooks on every convolution of the network count."""
    network, macs, written = HASN(SMALL).eval(), {}, {}

    def count(name: str):
        def hook(module: torch.nn.Conv2d, inputs: object, output: torch.Tensor) -> None:
            macs[name] = output.numel() * module.weight[0].numel()
            written[name] = output.numel()

        return hook

    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count(name))
    with torch.inference_mode():
        network(torch.zeros(1, 3, 180, 320))
    for name in ("fp32", "int8", "pixels"):
        found = values(graphs / f"{name}.onnx")
        assert found["convolutions"] == len(macs)
        assert found["multiply-accumulates"] == sum(macs.values())
        assert found["activations (convolutions)"] == sum(written.values())
    integer = {node.name for node in onnx.load(graphs / "int8.onnx").graph.node if node.op_type == "Conv"}
    integer -= {"conv_1", "upsampler.0"}  # the recipe's
    found = inspect_file(graphs / "int8.onnx")
    share = sum(macs[name] for name in integer) / sum(macs.values())
    assert found.figure("share in INT8").value == pytest.approx(share, abs=1e-12)
    assert found.figure("convolutions INT8").value == len(integer)
    assert {layer.name.split()[0] for layer in found.layers if layer.types == "INT8"} == integer
    assert values(graphs / "sized.onnx")["multiply-accumulates"] < sum(macs.values()) / 20


def test_graphs_compared(graphs):
    before, after = (inspect_file(graphs / f"{name}.onnx") for name in ("fp32", "fp16"))
    changes = {change.name: change for change in compare_files(before, after)}
    assert changes["multiply-accumulates"].difference == 0
    assert changes["convolutions FP32"].after == 0
    assert 0.4 < changes["weights"].after / changes["weights"].before < 0.6
    assert compare_layers(before, after) == ()


@pytest.mark.slow
@pytest.mark.usefixtures("needs_rtx")
def test_the_kernels_that_a_graph_would_become(graphs):
    found = inspect_file(graphs / "sized.onnx", target="rtx")
    assert found.title == "sized.onnx: compiled for rtx, at 56x40"
    assert found.figure("convolutions Int8 -> Float").value > 10
    assert sum(layer.weight for layer in found.layers) == found.figure("moved").value


def test_what_is_refused(graphs, tmp_path):
    built = engine(tmp_path / "a", kernels("Half -> Half"))
    with pytest.raises(UnsupportedError, match="is an engine, whose target is its own"):
        inspect_file(built, target="rtx")
    with pytest.raises(UnsupportedError, match=r"sized\.onnx takes 56x40 pixels only"):
        inspect_file(graphs / "sized.onnx", size=(32, 32))
    with pytest.raises(InputError, match="has kernels and .* has convolutions"):
        compare_files(inspect_file(built), inspect_file(graphs / "fp32.onnx"))
    with pytest.raises(UnsupportedError, match="'cpu' runs the graph itself"):
        inspect_file(graphs / "fp32.onnx", target="cpu")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ArtifactError, match=r"text\.onnx: not a readable ONNX graph"):
        inspect_file(tmp_path / "text.onnx")
    for name in ("none.onnx", "none.engine"):
        with pytest.raises(ArtifactError, match="no such file"):
            inspect_file(tmp_path / name)
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ArtifactError, match="folder.onnx: a folder; expected an ONNX"):
        inspect_file(tmp_path / "folder.onnx")
    with pytest.raises(ArtifactError, match=r"expected an \.engine or an \.onnx file"):
        inspect_file(tmp_path / "a.ts")


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ("block_1.esa.conv4 block_1.esa.Sigmoid block_1.esa.Mul", "block_1.esa: conv4, Sigmoid, Mul"),
        ("block_1.ln.Transpose block_1.f1.conv", "block_1: ln.Transpose, f1.conv"),
        ("conv_1 conv_1", "conv_1"),
        ("input.fp16/Cast conv_1", "input.fp16/Cast, conv_1"),
        ("", ""),
    ],
)
def test_names_of_nodes_are_joined(nodes, text):
    assert shorten_nodes(nodes.split()) == text


@pytest.mark.slow
def test_the_published_counts():
    """Of the paper's network at 256 x 256, by the convention of the NTIRE challenges: 358 M activations."""
    from hasn_edge.exporters.onnx import onnx_from_model
    from hasn_edge.quantize.graph import conv_costs

    graph = onnx_from_model(HASN(ModelSpec()).eval(), simplify=False)
    costs = conv_costs(graph, (256, 256))
    assert len(costs) == 93
    assert round(sum(cost.activations for cost in costs) / 1e6) == 358
