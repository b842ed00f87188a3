"""Weights files: what loads, what is refused, and that nothing in them is executed."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import resource
import struct
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from hasn_edge.errors import CheckpointError, OutputError
from hasn_edge.model import checkpoint
from hasn_edge.model.checkpoint import infer_spec, load_checkpoint, save_checkpoint, save_pth
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import SPEC_KEY, ModelSpec

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


@pytest.mark.slow
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


def test_a_full_disk_is_said(model, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*m\.pth: .* MB free"):
            save_pth(tmp_path / "m.pth", model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_an_average_on_a_gpu_is_written_from_the_cpu(model, tmp_path):
    """PyTorch's meta device stands for a GPU: a copy to the CPU is all that it refuses here."""
    averaged = {name: tensor.to("meta") for name, tensor in model.state_dict().items()}
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        save_pth(tmp_path / "m.pth", model, ema=averaged)


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


@pytest.mark.slow
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
        with pytest.raises(CheckpointError, match="refused: it holds more than tensors") as caught:
            load_checkpoint(tmp_path / name)
        assert "weights_only" not in str(caught.value), "how to execute it all the same"
    assert not (tmp_path / "executed").exists()


def test_what_a_pickle_refers_to_is_named(tmp_path):
    torch.save({"params": Bomb()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=rf"\(it refers to {os.name}\.system\)"):
        load_checkpoint(tmp_path / "evil.pth")


def test_a_flipped_bit_among_the_weights_is_found(model, tmp_path):
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    weights["conv_2.weight"][:] = 0.7109375
    torch.save(weights, tmp_path / "m.pth")
    data = bytearray((tmp_path / "m.pth").read_bytes())
    place = data.index(struct.pack("<f", 0.7109375) * 4)
    data[place + 2] ^= 1
    (tmp_path / "m.pth").write_bytes(data)
    changed = torch.load(tmp_path / "m.pth", weights_only=True)["conv_2.weight"]
    assert torch.isfinite(changed).all(), "PyTorch takes it for good"
    assert not torch.equal(changed, weights["conv_2.weight"])
    with pytest.raises(CheckpointError, match=r"m.pth: damaged: the checksum of m/data/\d+ in it is wrong"):
        load_checkpoint(tmp_path / "m.pth")


def test_a_checkpoint_from_before_there_were_checksums(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    loaded = load_checkpoint(tmp_path / "m.pth", spec=SPEC)
    assert same(loaded.model().state_dict(), model.state_dict())


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


ALL_WAYS = {
    "plain": lambda w: w,
    "DataParallel": lambda w: {f"module.{k}": v for k, v in w.items()},
    "compiled": lambda w: {f"_orig_mod.{k}": v for k, v in w.items()},
    "compiled and parallel": lambda w: {f"module._orig_mod.{k}": v for k, v in w.items()},
    "compiled blocks": lambda w: {k.replace("block_1.", "block_1._orig_mod."): v for k, v in w.items()},
    "model": lambda w: {"model": w, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}, "epoch": 3},
    "model_state_dict": lambda w: {"epoch": 7, "model_state_dict": w, "loss": 0.02},
    "net_g": lambda w: {"net_g": w, "net_d": {"conv0.weight": torch.zeros(3)}},
    "ema wins": lambda w: {"state_dict": {k: v + 1 for k, v in w.items()}, "ema": w},
    "ema deeper": lambda w: {"model": {k: v + 1 for k, v in w.items()}, "ema": {"module": w, "decay": 0.9}},
    "state_dict_ema": lambda w: {"state_dict": {k: v + 1 for k, v in w.items()}, "state_dict_ema": w},
    "Lightning": lambda w: {
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {**{f"net.{k}": v for k, v in w.items()}, "loss.vgg.0.weight": torch.zeros(3)},
        "hyper_parameters": {"lr": 1e-4},
    },
    "Lightning with an average": lambda w: {
        "state_dict": {
            **{f"model.{k}": v + 1 for k, v in w.items()},
            **{f"model_ema.module.{k}": v for k, v in w.items()},
            "model_ema.n_averaged": torch.tensor(5),
        }
    },
    "AveragedModel": lambda w: {"n_averaged": torch.tensor(9), **{f"module.{k}": v for k, v in w.items()}},
    "parameters": lambda w: {k: torch.nn.Parameter(v.clone()) for k, v in w.items()},
    "twice the same": lambda w: {"model": w, "best": dict(w)},
}


@pytest.mark.slow
@pytest.mark.parametrize("wrap", ALL_WAYS.values(), ids=list(ALL_WAYS))
def test_whatever_wraps_the_tensors_is_taken_off(model, tmp_path, wrap):
    # What saving loses is passed in here; test_probe.py has the files without it.
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wrapped = wrap(weights)
    torch.save(wrapped, tmp_path / "m.ckpt")
    loaded = load_checkpoint(tmp_path / "m.ckpt", spec=SPEC)
    assert same(loaded.weights, weights)
    assert not any(tensor.requires_grad for tensor in loaded.weights.values())
    flat = all(isinstance(value, torch.Tensor) for value in wrapped.values())
    if flat:
        save_file({k: v.detach().contiguous() for k, v in wrapped.items()}, tmp_path / "m.safetensors")
        assert same(load_checkpoint(tmp_path / "m.safetensors", spec=SPEC).weights, weights)


@pytest.mark.parametrize("ending", ["pth", "bin", "safetensors"])
def test_the_content_decides_how_a_file_is_read(model, tmp_path, ending):
    save_checkpoint(tmp_path / "a.safetensors", model)
    save_pth(tmp_path / "b.pth", model)
    for made in ("a.safetensors", "b.pth"):
        renamed = tmp_path / f"renamed.{ending}"
        renamed.write_bytes((tmp_path / made).read_bytes())
        assert same(load_checkpoint(renamed).weights, model.state_dict())


def test_two_networks_in_one_file_are_named(model, tmp_path):
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save({"stage1": weights, "stage2": {k: v + 1 for k, v in weights.items()}}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"m.pth: holds 2 networks \('stage1', 'stage2'\)"):
        load_checkpoint(tmp_path / "m.pth", spec=SPEC)


def test_what_pytorch_saves_of_a_network_names_it(tmp_path):
    # nothing of this is in the tensors, and the file stays one that every project reads
    spec = ModelSpec(features=8, blocks=2, residual=True, skip=False, gate="add", activation="leaky_relu")
    network = HASN(spec)
    parallel = torch.nn.DataParallel(network)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    torch.save({"params": parallel.state_dict(), "iteration": 3}, tmp_path / "b.pth")
    for name in ("a.pth", "b.pth"):
        assert load_checkpoint(tmp_path / name).spec == spec
    assert all(
        isinstance(v, torch.Tensor) for v in torch.load(tmp_path / "a.pth", weights_only=True).values()
    )
    fresh = HASN(spec)
    fresh.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True))
    assert same(fresh.state_dict(), network.state_dict())
    with pytest.raises(
        CheckpointError, match="a.pth: the file states another network than the one asked for"
    ):
        load_checkpoint(tmp_path / "a.pth", spec=ModelSpec(features=8, blocks=2))


def zipped(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


OTHERS = {
    "page.pth": (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "an HTML page"),
    "page.safetensors": (b"\n  <html lang='en'>", "an HTML page"),
    "lfs.pth": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
        "a Git LFS pointer",
    ),
    "lfs.safetensors": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "train.py.pth": (b"import torch\nprint(1)\n", "a script"),
    "get.pth": (b"#!/bin/sh\ncurl\n", "a script"),
    "index.pth": (b'{"metadata": {"total_size": 1}}', "JSON text"),
    "empty.pth": (b"", "the file is empty"),
    "a.pth": (gzip.compress(b"x"), "a gzip archive"),
    "b.pth": (b"7z\xbc\xaf\x27\x1c1234", "a 7z archive"),
    "c.pth": (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    "d.h5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_weights_file_is_named(tmp_path, name):
    data, message = OTHERS[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / name)


def test_archives_and_programs_are_named(tmp_path):
    zipped(tmp_path / "release.pth", ["weights/a.pth", "README.md"])
    zipped(
        tmp_path / "program.pt", ["program/code/__torch__.py", "program/data.pkl", "program/constants.pkl"]
    )
    with tarfile.open(tmp_path / "release.tar", "w") as archive:
        archive.add(tmp_path / "release.pth")
    for name, message in (
        ("release.pth", "a ZIP archive of weights/a.pth, README.md"),
        ("program.pt", "a TorchScript program"),
        ("release.tar", "a tar archive"),
    ):
        with pytest.raises(CheckpointError, match=f"{name}: not weights but {message}"):
            load_checkpoint(tmp_path / name)


def test_a_dictionary_without_tensors_is_described(tmp_path):
    torch.save({"lr": 1e-4, "epoch": 3}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="no dictionary of tensors but a dictionary of 'lr', 'epoch'"):
        load_checkpoint(tmp_path / "m.pth")


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


def test_a_large_number_that_float32_cannot_hold_is_not_finite(model, tmp_path):
    weights = dict(model.state_dict())
    weights["conv_1.bias"] = torch.full((8,), 1e300, dtype=torch.float64)
    assert torch.isfinite(weights["conv_1.bias"]).all()
    torch.save(weights, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="conv_1.bias has values that are not finite"):
        load_checkpoint(tmp_path / "m.pth")


@pytest.mark.slow
def test_a_spec_of_a_gigantic_network_allocates_nothing(model, tmp_path, monkeypatch):
    spec = {**SPEC.to_dict(), "features": 1024, "blocks": 64, "expansion": 16}
    save_file(dict(model.state_dict()), tmp_path / "m.safetensors", metadata={SPEC_KEY: json.dumps(spec)})
    built = []

    def only_shapes(spec):
        network = HASN(spec)
        built.append((spec.blocks, {p.device.type for p in network.parameters()}))
        assert built[-1][1] == {"meta"}, "a network of 13 GB"
        return network

    monkeypatch.setattr(checkpoint, "HASN", only_shapes)
    with pytest.raises(CheckpointError, match="m.safetensors: weights do not fit hasn: missing block_3"):
        load_checkpoint(tmp_path / "m.safetensors")
    assert built == [(64, {"meta"})]


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (1 << 31, "its tensors have 2147[0-9]* values"),
        (1 << 29, r"conv_1.bias is \(536870912,\), expected \(8,\)"),
    ],
)
def test_a_small_file_of_a_huge_tensor_is_never_spread_out(model, tmp_path, monkeypatch, count, message):
    torch.save({**model.state_dict(), "conv_1.bias": torch.zeros(1).expand(count)}, tmp_path / "m.pth")
    assert (tmp_path / "m.pth").stat().st_size < 100_000
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda tensor: pytest.fail("2 GB or more of memory"))
    with pytest.raises(CheckpointError, match=f"m.pth: .*{message}"):
        load_checkpoint(tmp_path / "m.pth")


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("block_1.cab.cab.3.attention.1.weight"),
        lambda weights: weights.update({"conv_1.weight": torch.tensor(1.0)}),
        lambda weights: weights.update({"conv_1.weight": torch.zeros(0, 0, 3, 3)}),
        lambda weights: weights.update({name: torch.tensor(1.0) for name in weights}),
        lambda weights: weights.update({f"block_{i}.x": torch.zeros(1) for i in range(70)}),
        lambda weights: (weights.clear(), weights.update({"bn.num_batches_tracked": torch.tensor(3)})),
    ],
    ids=["attention is missing", "no dimensions", "no channels", "all 0-d", "too many blocks", "batch norm"],
)
def test_tensors_of_other_shapes_are_no_hasn(model, tmp_path, change):
    weights = dict(model.state_dict())
    change(weights)
    torch.save(weights, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="m.pth: (not a HASN checkpoint|model.blocks is 70)"):
        load_checkpoint(tmp_path / "m.pth")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "change",
    [torch.Tensor.to_sparse, lambda tensor: tensor.to(torch.complex64), lambda tensor: tensor.to("meta")],
    ids=["sparse", "complex", "meta"],
)
def test_a_tensor_without_plain_numbers_is_refused(model, tmp_path, change):
    weights = dict(model.state_dict())
    weights["conv_1.weight"] = change(weights["conv_1.weight"])
    torch.save(weights, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="m.pth: conv_1.weight is no plain tensor of real numbers"):
        load_checkpoint(tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "recursion"),
        ("null", "NoneType"),
        (json.dumps({**SPEC.to_dict(), "scale": 2.0}), r"model.scale is 2.0; expected one of \(2, 3, 4\)"),
        (json.dumps({**SPEC.to_dict(), "kernel_size": 7.0}), "model.kernel_size is 7.0; expected one of"),
        (json.dumps({**SPEC.to_dict(), "arch": ["hasn"]}), r"model.arch is \['hasn'\]; expected one of"),
    ],
)
def test_a_damaged_spec_is_refused(model, tmp_path, text, message):
    save_file(dict(model.state_dict()), tmp_path / "m.safetensors", metadata={SPEC_KEY: text})
    with pytest.raises(CheckpointError, match=f"m.safetensors: .*{message}"):
        load_checkpoint(tmp_path / "m.safetensors")
