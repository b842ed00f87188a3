"""Operation counts against the paper, fvcore and PyTorch's own counter."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hasn_edge.model.complexity import Op, complexity
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import ModelSpec


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


def test_too_small():
    with pytest.raises(ValueError, match="minimum side 15"):
        complexity(ModelSpec(), 14, 64)
