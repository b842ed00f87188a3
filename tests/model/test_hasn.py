"""The network against the published outputs, counts and conventions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hasn_edge.errors import ConfigError
from hasn_edge.model.checkpoint import load_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import ModelSpec

CONV_ONLY = {"esa": False, "cab": False, "norm": False}


def parameters(**fields) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in HASN(ModelSpec(**fields)).parameters())


@pytest.mark.slow
def test_published_outputs(shared_data):
    model = load_checkpoint(shared_data / "upstream" / "HASN.pth").model()
    golden = np.load(shared_data / "upstream" / "golden.npz")
    for name in ("15x15", "16x21", "33x32", "64x48", "butterfly"):
        out = model(torch.from_numpy(golden[f"lr_{name}"]).float() / 255).numpy()
        tolerance = 2e-5 if golden[f"sr_{name}"].dtype == np.float32 else 1e-3  # float16 stores 11 bits
        np.testing.assert_allclose(out, golden[f"sr_{name}"], rtol=0, atol=tolerance)


def test_parameters_of_the_published_network():
    assert parameters() == 435_272


@pytest.mark.parametrize(
    ("blocks", "thousands"), [(2, 177), (4, 306), (6, 435), (8, 564), (10, 693), (12, 822)]
)
def test_parameters_by_blocks(blocks, thousands):
    assert parameters(blocks=blocks) // 1000 == thousands


@pytest.mark.parametrize(("features", "thousands"), [(30, 90), (52, 227), (90, 610)])
def test_parameters_by_width(features, thousands):
    # The paper mixes rounding (89,838 -> 90k) and truncation (227,756 -> 227k).
    assert parameters(features=features, **CONV_ONLY) / 1000 == pytest.approx(thousands, abs=0.8)


@pytest.mark.parametrize(("kernel", "thousands"), [(3, 202), (5, 212), (7, 227), (9, 247)])
def test_parameters_by_kernel(kernel, thousands):
    assert parameters(kernel_size=kernel, **CONV_ONLY) // 1000 == thousands


@pytest.mark.parametrize(
    "fields",
    [
        {"scale": 2},
        {"scale": 3, "kernel_size": 9},
        {"activation": "relu", "gate": "add"},
        {"activation": "leaky_relu", "esa": False},
        {"cab": False, "norm": False},
        {"residual": True, "skip": False},
        {"features": 7, "expansion": 1, "cab_compression": 9},
    ],
)
def test_variants_run_at_their_smallest_size(fields):
    spec = ModelSpec(**{"features": 8, "blocks": 2, **fields})
    side = spec.size.minimum
    x = torch.rand(2, 3, side, side + 3)
    y = HASN(spec)(x)
    assert tuple(y.shape) == spec.output_shape(tuple(x.shape))
    assert torch.isfinite(y).all()


def test_fourteen_pixels_are_too_few():
    with pytest.raises(RuntimeError):
        HASN(ModelSpec(features=8, blocks=1))(torch.rand(1, 3, 14, 32))


def test_residual_adds_the_blocks_input():
    plain, with_residual = (HASN(ModelSpec(features=8, blocks=1, residual=r)).double() for r in (False, True))
    with_residual.load_state_dict(plain.state_dict())
    x = torch.rand(1, 8, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(with_residual.block_1(x), plain.block_1(x) + x, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": 5}, "model.scale is 5; expected one of"),
        ({"features": 0}, "model.features is 0; expected an integer"),
        ({"blocks": True}, "model.blocks is True"),
        ({"feature": 52}, "did you mean 'features'"),
        ({"gate": "divide"}, "divide"),
        ({"esa": 1}, "model.esa is 1; expected true or false"),
    ],
)
def test_bad_spec_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        ModelSpec.from_dict(fields)


def test_spec_survives_the_disk():
    spec = ModelSpec(scale=2, activation="relu", gate="add", residual=True)
    assert ModelSpec.from_dict(spec.to_dict()) == spec
