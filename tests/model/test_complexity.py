"""Operation counts against the paper, fvcore, PyTorch's own counter and the exported graph."""

from __future__ import annotations

import math
import warnings

import onnx
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.model.complexity import Op, complexity
from hasn_edge.model.hasn import HASN
from hasn_edge.quantize.graph import conv_macs
from hasn_edge.spec import Activation, Gate, ModelSpec


@pytest.mark.parametrize(
    ("blocks", "giga"), [(2, 10.985), (4, 18.811), (6, 26.637), (8, 34.462), (10, 42.288), (12, 50.114)]
)
def test_paper_table_3(blocks, giga):
    assert complexity(ModelSpec(blocks=blocks), 256, 256).total / 1e9 == pytest.approx(giga, abs=5e-4)


def test_720p_output():
    counted = complexity(ModelSpec(), 180, 320)
    assert counted.total / 1e9 == pytest.approx(23.410, abs=5e-4)
    assert counted.conv_macs / 1e9 == pytest.approx(23.280, abs=5e-4)


@pytest.mark.parametrize(("kernel", "giga"), [(3, 13.09), (5, 13.75), (7, 14.73), (9, 16.04)])
def test_paper_table_4(kernel, giga):
    spec = ModelSpec(kernel_size=kernel, esa=False, cab=False, norm=False)
    assert complexity(spec, 256, 256).total / 1e9 == pytest.approx(giga, abs=0.01)


VARIANTS = [
    {},
    {"esa": False},
    {"cab": False},
    {"norm": False, "scale": 2},
    {"features": 48, "expansion": 2, "esa_channels": 8, "cab_reduction": 6, "scale": 3, "kernel_size": 3},
]


@pytest.mark.slow
@pytest.mark.parametrize("fields", VARIANTS)
@pytest.mark.parametrize("size", [(15, 15), (31, 64)])
def test_equal_to_fvcore(fields, size):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

        spec = ModelSpec(blocks=2, **fields)
        analysis = FlopCountAnalysis(HASN(spec), torch.zeros(1, 3, *size)).unsupported_ops_warnings(False)
        expected = analysis.total()
    assert complexity(spec, *size).total == expected


@pytest.mark.slow
@pytest.mark.parametrize("fields", VARIANTS)
def test_convolutions_equal_to_torch(fields):
    spec = ModelSpec(blocks=2, **fields)
    model = HASN(spec)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 33, 40))
    assert 2 * complexity(spec, 33, 40).conv_macs == counter.get_total_flops()


@pytest.mark.parametrize("fields", VARIANTS)
def test_layers_are_the_modules(fields):
    spec = ModelSpec(blocks=2, **fields)
    model = HASN(spec)
    counted = complexity(spec, 64, 64)
    assert counted.parameters == sum(p.numel() for p in model.parameters())
    with_weights = {layer.name: layer.parameters for layer in counted.layers if layer.parameters}
    actual = {
        name: sum(p.numel() for p in module.parameters(recurse=False))
        for name, module in model.named_modules()
        if list(module.parameters(recurse=False))
    }
    assert with_weights == actual
    assert {layer.op for layer in counted.layers} <= set(Op)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"residual": True},
        {"esa": False, "gate": Gate.ADD},
        {"cab": False, "residual": True, "skip": False},
        {"norm": False, "scale": 2, "activation": Activation.RELU},
        {"features": 20, "expansion": 2, "scale": 3, "kernel_size": 3, "cab_reduction": 4, "esa_channels": 8},
    ],
)
def test_layers_and_tensors_are_those_of_the_exported_graph(fields):
    spec = ModelSpec(**{"features": 12, "blocks": 2, **fields})
    size = (37, 50)
    proto = onnx_from_model(HASN(spec).eval(), size=size)
    counted = complexity(spec, *size)
    convolutions = {layer.name: layer.count for layer in counted.layers if layer.is_convolution}
    assert convolutions == conv_macs(proto, size)

    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    elements = {}
    for info in (*inferred.value_info, *inferred.output, *inferred.input):
        dims = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        elements[info.name] = int(math.prod(dims))
    weights = {t.name: int(math.prod(t.dims)) for t in inferred.initializer}
    layers = {layer.name: layer for layer in counted.layers}
    for node in (n for n in inferred.node if n.op_type == "Conv"):
        layer = layers[node.name]
        assert counted.elements[layer.reads[0]] == elements[node.input[0]], node.name
        assert counted.elements[layer.writes] == elements[node.output[0]], node.name
        assert layer.parameters == sum(weights[name] for name in node.input[1:]), node.name
    assert counted.elements["output"] == elements["output"]
    # Everything that is made is used, once as some layer's own input or operand at least.
    for layer in counted.layers[:-1]:
        assert counted.readers(layer.writes), layer.name
    last = "block_1.cab.cab.3" if spec.cab else "block_1.dwconv2.conv"
    assert len(counted.readers(last)) == 1 + spec.skip + spec.residual * (spec.cab or not spec.skip)


def test_too_small():
    with pytest.raises(ValueError, match="minimum side 15"):
        complexity(ModelSpec(), 14, 64)
