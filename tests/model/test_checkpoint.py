"""Weights files: what loads, what is refused, and that nothing in them is executed."""

from __future__ import annotations

import os
import pickle

import pytest
import torch

from hasn_edge.errors import CheckpointError
from hasn_edge.model.checkpoint import infer_spec, load_checkpoint, save_checkpoint, save_pth
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import ModelSpec

SPEC = ModelSpec(features=8, blocks=2, scale=2)


@pytest.fixture(scope="module")
def model() -> HASN:
    torch.manual_seed(0)
    return HASN(SPEC)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_safetensors_round_trip(model, tmp_path):
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, model, provenance={"recipe": "r"})
    loaded = load_checkpoint(path)
    assert loaded.spec == SPEC
    assert loaded.provenance == {"recipe": "r"}
    assert same(loaded.model().state_dict(), model.state_dict())
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("key", ["params", "params_ema", "params-ema", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_pth_dialects(model, tmp_path, key, prefix):
    weights = {prefix + k: v for k, v in model.state_dict().items()}
    torch.save(weights if key is None else {key: weights}, tmp_path / "m.pth")
    loaded = load_checkpoint(tmp_path / "m.pth", spec=SPEC)
    assert same(loaded.model().state_dict(), model.state_dict())


def test_averaged_weights_win(model, tmp_path):
    averaged = {k: v + 1 for k, v in model.state_dict().items()}
    save_pth(tmp_path / "m.pth", model, ema=averaged)
    assert same(load_checkpoint(tmp_path / "m.pth").weights, averaged)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"scale": 3, "features": 48, "cab_compression": 3, "cab_reduction": 6},
        {"blocks": 3, "esa": False, "norm": False},
        {"cab": False, "kernel_size": 9, "expansion": 2, "esa_channels": 8},
    ],
)
def test_spec_is_read_off_the_shapes(fields):
    spec = ModelSpec(**fields)
    inferred = infer_spec(HASN(spec).state_dict())
    assert parameters_of(inferred) == parameters_of(spec)


def parameters_of(spec):
    with torch.device("meta"):
        return {k: tuple(v.shape) for k, v in HASN(spec).state_dict().items()}


def test_official_checkpoint(shared_data):
    loaded = load_checkpoint(shared_data / "upstream" / "HASN.pth")
    assert loaded.spec == ModelSpec()
    assert sum(v.numel() for v in loaded.weights.values()) == 435_272


class Bomb:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_pickle_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"params": Bomb()}, tmp_path / "evil.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Bomb()))
    for name in ("evil.pth", "raw.pth"):
        with pytest.raises(CheckpointError, match="refused: it holds more than tensors"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_damaged_files(model, tmp_path):
    save_pth(tmp_path / "m.pth", model)
    save_checkpoint(tmp_path / "m.safetensors", model)
    for name in ("m.pth", "m.safetensors"):
        data = (tmp_path / name).read_bytes()
        for cut in (0, 7, len(data) // 2, len(data) - 1):
            (tmp_path / name).write_bytes(data[:cut])
            with pytest.raises(CheckpointError, match="m\\."):
                load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["text.pth", "text.safetensors"])
def test_text_is_no_checkpoint(tmp_path, name):
    (tmp_path / name).write_text("hello there, this is no checkpoint")
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(tmp_path / name)


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="no such weights file"):
        load_checkpoint(tmp_path / "none.pth")


def test_another_network(tmp_path):
    torch.save({"params": {"conv_first.weight": torch.zeros(3)}}, tmp_path / "edsr.pth")
    with pytest.raises(CheckpointError, match="not a HASN checkpoint: its tensors are conv_first.weight"):
        load_checkpoint(tmp_path / "edsr.pth")


def test_left_over_and_missing_tensors_are_named(model, tmp_path):
    weights = dict(model.state_dict())
    del weights["conv_2.bias"]
    torch.save({**weights, "extra": torch.zeros(1)}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="missing conv_2.bias; unexpected extra"):
        load_checkpoint(tmp_path / "m.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(model, tmp_path, value):
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    weights["block_2.g.conv.weight"][0, 0] = value
    torch.save(weights, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="block_2.g.conv.weight has values that are not finite"):
        load_checkpoint(tmp_path / "m.pth")
