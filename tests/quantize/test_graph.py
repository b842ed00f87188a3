"""Costs of convolutions against the published figures, and what cannot be quantized is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hasn_edge.errors import BuildError, UnsupportedError
from hasn_edge.exporters.least_side import with_padding
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.exporters.onnx_graph import Emulator
from hasn_edge.fuse.apply import fuse
from hasn_edge.model.hasn import HASN
from hasn_edge.quantize.graph import conv_macs, convolutions, mac_share
from hasn_edge.quantize.recipe import load_quant_recipe


@pytest.fixture(scope="module")
def published() -> onnx.ModelProto:
    return onnx_from_model(HASN().eval(), opset=17, simplify=False)


def test_macs_are_the_published_ones(published):
    assert sum(conv_macs(published, (180, 320)).values()) == pytest.approx(23.280e9, rel=5e-5)
    assert len(conv_macs(published)) == len(convolutions(published)) == 93


def test_macs_are_those_of_the_network_inside_a_graph_that_pads_itself(published):
    assert conv_macs(with_padding(published, 15, 4), (180, 320)) == conv_macs(published, (180, 320))


@pytest.mark.parametrize(
    ("patterns", "share"),
    [
        (("block_*.f?.conv",), 0.36),
        (("block_*.cab.*",), 0.236),
        (("block_*.g.conv",), 0.12),
        (("block_*.esa.*",), 0.087),
        (("block_*.dwconv*",), 0.076),
        (("conv_2",), 0.06),
        (("upsampler.*",), 0.056),
        (("conv_1",), 0.0035),
    ],
)
def test_shares_are_the_published_ones(published, patterns, share):
    names = load_quant_recipe(overrides=[f"quantize={list(patterns)}"]).select(
        c.name for c in convolutions(published)
    )
    assert mac_share(published, names) == pytest.approx(share, abs=0.003)


def test_the_default_recipe_covers_seventy_percent(published):
    names = load_quant_recipe().select(c.name for c in convolutions(published))
    assert mac_share(published, names) >= 0.70
    # Depthwise convolutions of 52 channels have no INT8 kernels; the stem reads the image itself.
    assert not any("dwconv" in name or name in ("conv_1", "upsampler.0") for name in names)


def test_the_default_recipe_covers_fused_networks_as_well(make_model):
    rules = ("norm_affine", "merge_branches", "compose_esa")
    fused, _ = fuse(make_model(), rules)
    graph = onnx_from_model(fused, opset=17, simplify=False)
    names = load_quant_recipe().select(c.name for c in convolutions(graph))
    assert {"block_1.f123.conv", "block_1.esa.conv1", "block_1.cab.cab.0"} <= set(names)


def conv_graph(*, name: str = "c", weights: np.ndarray | None = None, count: int = 1) -> onnx.ModelProto:
    weights = np.ones((2, 3, 1, 1), np.float32) if weights is None else weights
    nodes = [helper.make_node("Conv", ["x", "w"], [f"y{i}"], name=name) for i in range(count)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 4, 4))],
        [helper.make_tensor_value_info("y0", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_convolutions_without_a_name_of_their_own_are_refused():
    with pytest.raises(UnsupportedError, match="more than once or not at all"):
        convolutions(conv_graph(name=""))
    with pytest.raises(UnsupportedError, match="'c' more than once"):
        convolutions(conv_graph(count=2))


def test_computed_weights_are_refused():
    proto = conv_graph()
    proto.graph.node.insert(0, helper.make_node("Identity", ["w"], ["v"]))
    proto.graph.node[1].input[1] = "v"
    with pytest.raises(UnsupportedError, match="convolution c takes its weights from 'v'"):
        convolutions(proto)


def test_a_graph_that_onnxruntime_refuses_is_a_clear_error():
    proto = conv_graph()
    proto.graph.node[0].op_type = "Convolve"
    with pytest.raises(BuildError, match="ONNX Runtime cannot load the graph"):
        Emulator(proto, exact=True)
