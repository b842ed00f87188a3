"""Programs of torch.export: no size is frozen into them, FP16 costs what half precision costs."""

from __future__ import annotations

import io

import pytest
import torch

from hasn_edge.errors import BuildError, UnsupportedError
from hasn_edge.exporters.pt2 import _errors, least_side, program_bytes, program_from_model
from hasn_edge.fuse.apply import RULES, fuse
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import ModelSpec, Precision

SPEC = ModelSpec(features=8, blocks=1, esa_channels=4)


def network(**fields) -> HASN:
    torch.manual_seed(0)
    spec = ModelSpec(**{"features": 8, "blocks": 1, "esa_channels": 4, **fields})
    return HASN(spec).eval().requires_grad_(False)


def loaded(model, **options):
    return torch.export.load(io.BytesIO(program_bytes(program_from_model(model, **options)))).module()


@pytest.mark.slow
@pytest.mark.parametrize("rules", [(), tuple(RULES)], ids=["unfused", "fused"])
def test_fp32_equals_the_network_at_every_size_and_batch(rules):
    model = network()
    program = loaded(fuse(model, rules)[0])
    for shape in ((1, 3, 21, 21), (2, 3, 23, 37), (1, 3, 40, 21), (3, 3, 22, 64)):
        x = torch.rand(shape)
        y = program(x)
        assert y.dtype is torch.float32
        torch.testing.assert_close(y, model(x), rtol=0, atol=2e-6)


@pytest.mark.slow
def test_the_least_side_is_what_the_program_takes():
    program = loaded(network())
    with pytest.raises(AssertionError, match="Guard failed"):
        program(torch.rand(1, 3, 20, 30))
    # The first side with a second element in ESA's grid: a convolution of stride 2, a 7x7 pool of stride 3.
    side = next(n for n in range(15, 99) if len(range(0, len(range(0, n - 2, 2)) - 6, 3)) == 2)
    assert least_side(SPEC) == side
    plain = network(esa=False)
    assert least_side(plain.spec) == 2
    x = torch.rand(1, 3, 2, 3)
    torch.testing.assert_close(loaded(plain)(x), plain(x), rtol=0, atol=2e-6)


@pytest.mark.slow
def test_fp16_is_half_the_bytes_and_float32_outside():
    model = network(features=32)
    program = program_from_model(model, precision=Precision.FP16)
    kinds = {name: value.dtype for name, value in program.state_dict.items()}
    assert {kind for name, kind in kinds.items() if ".ln." not in name} == {torch.float16}
    assert {kind for name, kind in kinds.items() if ".ln." in name} == {torch.float32}
    x = torch.rand(1, 3, 24, 24)
    y = program.module()(x)
    assert y.dtype is torch.float32
    torch.testing.assert_close(y, model(x), rtol=0, atol=5e-3)
    assert model.conv_1.weight.dtype is torch.float32


def test_int8_is_refused():
    with pytest.raises(UnsupportedError, match=r"torch\.export in int8 is not possible"):
        program_from_model(network(), precision=Precision.INT8)


def test_errors_of_pytorch_are_one_of_ours():
    with (
        pytest.raises(BuildError, match="cannot compile this network: no compiler; .*install g") as caught,
        _errors("compile"),
    ):
        raise RuntimeError("\nno compiler\nand a hundred lines")
    assert "hundred" not in str(caught.value)
