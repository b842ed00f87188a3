"""Files that do not name their network: what shapes do not tell is found by what comes out, or refused."""

from __future__ import annotations

import logging

import pytest
import torch
from safetensors.torch import save_file

from hasn_edge.errors import CheckpointError
from hasn_edge.model.checkpoint import load_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.model.zoo import load_model
from hasn_edge.spec import ModelSpec


def tensors_alone(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_the_bundled_network_is_recognized_without_its_spec(tmp_path, caplog, ending):
    model = load_model("hasn-x4-small")
    assert model.spec.residual, "the published network is without, and 1.6 dB worse with these weights"
    path = tmp_path / f"m.{ending}"
    (torch.save if ending == "pth" else save_file)(tensors_alone(model), path)
    with caplog.at_level(logging.WARNING):
        assert load_checkpoint(path).spec == model.spec
    assert "residual = true" in caplog.text
    assert "bicubic" in caplog.text


@pytest.mark.slow
def test_the_published_network_is_recognized(shared_data, tmp_path, caplog):
    loaded = load_checkpoint(shared_data / "upstream" / "HASN.pth")
    assert loaded.spec == ModelSpec()
    assert "residual = false" in caplog.text


@pytest.mark.slow
def test_weights_that_no_network_makes_an_image_of_are_refused(tmp_path):
    torch.manual_seed(0)
    spec = ModelSpec(features=8, blocks=2, scale=2, residual=True)
    torch.save(tensors_alone(HASN(spec)), tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="is clearly better than bicubic") as caught:
        load_checkpoint(tmp_path / "m.pth")
    assert "load_model(FILE, spec=" in str(caught.value)
    model = load_model(tmp_path / "m.pth", spec=spec)  # what it recommends
    torch.save(model.state_dict(), tmp_path / "named.pth")
    assert load_checkpoint(tmp_path / "named.pth").spec == spec


def test_networks_that_cannot_be_tried_are_refused(tmp_path):
    spec = ModelSpec(features=8, blocks=2, channels=1)
    torch.save(tensors_alone(HASN(spec)), tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="one or four channels cannot be tried"):
        load_checkpoint(tmp_path / "m.pth")
    assert load_checkpoint(tmp_path / "m.pth", spec=spec).spec == spec
