"""Equalized networks against the networks they came from, in float64, for every variant of the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hasn_edge.data.calibration import load_calibration
from hasn_edge.model.checkpoint import load_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.quantize.equalize import equalize, input_maxima, links, rescale
from hasn_edge.spec import ModelSpec

VARIANTS = (
    {},
    {"residual": True},
    {"skip": False},
    {"skip": False, "residual": True},
    {"cab": False},
    {"cab": False, "residual": True},
    {"cab": False, "skip": False, "residual": True},
    {"esa": False},
    {"norm": False},
    {"gate": "add"},
    {"gate": "add", "activation": "leaky_relu", "residual": True},
    {"activation": "relu", "kernel_size": 3},
)


def network(**fields):
    torch.manual_seed(0)
    small = {"features": 6, "blocks": 2, "scale": 2, "esa_channels": 4, "cab_reduction": 3}
    model = HASN(ModelSpec(**{**small, **fields})).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def random_maxima(model):
    random = np.random.default_rng(1)
    return {
        name: torch.from_numpy(random.uniform(0.01, 30, module.in_channels))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    }


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_the_network_stays_the_same_in_float64(fields):
    model = network(**fields)
    x = torch.rand(2, 3, 23, 17, dtype=torch.float64)
    changed = rescale(model, random_maxima(model), alpha=0.6)
    with torch.no_grad():
        before, after = model(x), changed(x)
    assert float((before - after).abs().max()) < 1e-12 * float(before.abs().max())
    moved = {
        name
        for (name, old), new in zip(model.named_parameters(), changed.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    # Everything but what GELU and the gate's activation keep apart, and the upsampler's own output.
    assert {f"{link}.weight" for each in links(model.spec) for link in each.writers} <= moved
    assert "upsampler.0.bias" not in moved
    if model.spec.cab:
        assert "block_1.cab.cab.0.bias" not in moved


def test_every_tensor_is_written_and_read_once():
    found = links(ModelSpec())
    writers = [name for link in found for name in link.writers]
    readers = [name for link in found for name in link.readers]
    assert len(writers) == len(set(writers))
    assert len(readers) == len(set(readers))
    model = HASN(ModelSpec())
    every = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)}
    after_gelu = {f"block_{n}.cab.cab.2" for n in range(1, 7)}
    squeezed = {f"block_{n}.cab.cab.3.attention.3" for n in range(1, 7)}
    assert every - set(readers) == {"conv_1"} | after_gelu | squeezed


def test_channels_of_a_depthwise_convolution_get_one_size():
    """With exponent 1 the measured maxima of what it reads become equal: that is what one scale wants."""
    model = network(residual=False, skip=False)
    images = [np.random.default_rng(n).random((1, 3, 24, 24), np.float32) for n in range(3)]
    name = "block_1.dwconv2.conv"
    before = input_maxima(model, images, [name])[name].numpy()
    after = input_maxima(equalize(model, images, alpha=1.0), images, [name])[name].numpy()
    assert np.ptp(before) / before.mean() > 0.1
    np.testing.assert_allclose(after, after.mean(), rtol=1e-9)


def test_a_channel_that_is_always_zero_keeps_its_weights():
    model = network()
    changed = rescale(model, {"block_1.dwconv2.conv": torch.tensor([0.0, 1, 2, 4, 8, 16])}, alpha=0.5)
    old, new = model.block_1.dwconv2.conv.weight, changed.block_1.dwconv2.conv.weight
    assert torch.equal(old[0], new[0])
    assert not torch.equal(old[1], new[1])
    assert all(torch.isfinite(parameter).all() for parameter in changed.parameters())


def test_the_input_model_is_left_alone_and_the_dtype_kept():
    model = network().float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed = rescale(model, random_maxima(model), alpha=0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {parameter.dtype for parameter in changed.parameters()} == {torch.float32}


@pytest.mark.slow
def test_published_weights_agree_in_float64(shared_data):
    model = load_checkpoint(shared_data / "upstream" / "HASN.pth").model().double()
    batches = [batch[:1, :, :48, :48] for batch in list(load_calibration())[:4]]
    x = torch.from_numpy(batches[-1]).double()
    with torch.no_grad():
        assert float((equalize(model, batches, alpha=0.6)(x) - model(x)).abs().max()) < 1e-12
