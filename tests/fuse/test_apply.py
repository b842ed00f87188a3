"""Fused networks equal the networks they came from, for every rule, variant and size."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hasn_edge.engine.compile import kernels_from_onnx
from hasn_edge.engine.target import EngineTarget, ShapeRange
from hasn_edge.errors import UnsupportedError
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.fuse.apply import DEFAULT_RULES, RULES, FusedHASN, fuse
from hasn_edge.model.checkpoint import load_checkpoint, save_checkpoint, save_pth
from hasn_edge.model.hasn import HASN
from hasn_edge.model.zoo import load_model
from hasn_edge.quantize.fp16 import fp16_onnx_from_onnx
from hasn_edge.spec import Activation, Gate, ModelSpec

SUBSETS = [rules for count in range(len(RULES) + 1) for rules in itertools.combinations(RULES, count)]
SOME = [*SUBSETS[: 1 + len(RULES)], *dict.fromkeys(DEFAULT_RULES.values()), tuple(RULES)]
"""Each rule alone, those of each backend, and all."""


def network(spec: ModelSpec, seed: int = 0, *, dtype: torch.dtype = torch.float64) -> HASN:
    """A network in evaluation mode, its norms and biases far from identity and zero."""
    torch.manual_seed(seed)
    model = HASN(spec).to(dtype).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if ".ln." in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


def tiny(**fields) -> ModelSpec:
    return ModelSpec(**{"features": 6, "blocks": 2, "scale": 2, "esa_channels": 4, **fields})


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    rules=st.sampled_from(SUBSETS),
    height=st.integers(15, 24),
    width=st.integers(15, 24),
    seed=st.integers(0, 1000),
    fields=st.fixed_dictionaries(
        {
            "features": st.sampled_from([1, 3, 8]),
            "blocks": st.integers(1, 2),
            "expansion": st.integers(1, 3),
            "norm": st.booleans(),
            "esa": st.booleans(),
            "cab": st.booleans(),
            "gate": st.sampled_from(Gate),
            "activation": st.sampled_from(Activation),
            "residual": st.booleans(),
        }
    ),
)
def test_fusion_is_exact_in_float64(rules, height, width, seed, fields):
    model = network(tiny(**fields), seed)
    x = torch.rand(2, 3, height, width, dtype=torch.float64)
    expected = model(x)
    fused, _ = fuse(model, rules)
    # The whole frame counts, the border too; relative because a random network's range is not [0, 1].
    assert float((fused(x) - expected).abs().max()) <= 1e-12 * max(1.0, float(expected.abs().max()))


@pytest.mark.slow
def test_every_rule_on_the_published_weights(shared_data):
    model = load_checkpoint(shared_data / "upstream/HASN.pth").model().double()
    x = torch.rand(1, 3, 17, 29, dtype=torch.float64)
    expected = model(x)
    for rules in SOME:
        assert float((fuse(model, rules)[0](x) - expected).abs().max()) < 1e-12


def test_the_norm_keeps_its_epsilon():
    model = network(tiny())
    for block in model.blocks:
        block.ln.eps = 0.5
    x = torch.rand(1, 3, 16, 15, dtype=torch.float64)
    assert float((fuse(model, ("norm_affine",))[0](x) - model(x)).abs().max()) < 1e-12


@pytest.mark.slow
def test_the_published_weights_in_float32(shared_data):
    model = load_checkpoint(shared_data / "upstream/HASN.pth").model()
    x = torch.rand(1, 3, 40, 31)
    expected = model.double()(x.double())
    fused, _ = fuse(model.float(), tuple(RULES))
    assert float((fused(x) - expected).abs().max()) < 1e-5


@pytest.mark.slow
def test_parameters_say_what_was_done():
    spec = ModelSpec()
    model = HASN(spec)
    names = {rules: set(fuse(model, rules)[0].state_dict()) for rules in SOME}
    assert names[()] == set(model.state_dict())
    assert {"block_1.ln.weight"} == names[()] & {"block_1.ln.weight"} - names[("norm_affine",)]
    merged = names[("merge_branches",)]
    assert "block_6.f123.conv.weight" in merged
    assert not {f"block_1.f{i}.conv.weight" for i in (1, 2, 3)} & merged
    shape = {rules: fuse(model, rules)[0].state_dict() for rules in SOME}
    assert shape[("merge_branches",)]["block_1.f123.conv.weight"].shape == (468, 52, 1, 1)
    assert shape[("compose_esa",)]["block_1.esa.conv1.weight"].shape == (16, 52, 1, 1)
    padded = shape[("pad_cab",)]
    assert padded["block_1.cab.cab.0.weight"].shape == (18, 52, 3, 3)
    assert padded["block_1.cab.cab.2.weight"].shape == (52, 18, 3, 3)
    assert shape[("squeeze_first",)]["block_1.cab.cab.3.attention.1.weight"].shape == (1, 17, 3, 3)
    assert not any("conv_f" in name for name in names[("fold_esa",)])
    assert not any(".ln." in name for name in names[("norm_factor",)])
    assert "block_1.f1.bias" in names[("norm_factor",)]


def test_the_model_stays_as_it_was():
    model = network(tiny()).train()
    before = copy.deepcopy(model.state_dict())
    fused, _ = fuse(model, tuple(RULES))
    for parameter in fused.parameters():
        parameter.data.fill_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not isinstance(model, FusedHASN)
    assert model.training
    assert fused.training
    assert not fused.eval().training


def test_what_was_done_is_returned_and_recorded():
    fused, done = fuse(network(tiny()), ("compose_esa", "norm_affine"))
    assert fused.fused == ("norm_affine", "compose_esa")
    assert fused.spec == tiny()
    assert [line.split(":")[0] for line in done] == ["norm_affine", "compose_esa"]
    assert all("in 2 blocks" in line for line in done)


@pytest.mark.parametrize(
    ("fields", "rule", "reason"),
    [
        ({"norm": False}, "norm_affine", "no LayerNorm"),
        ({"norm": False}, "norm_factor", "no LayerNorm"),
        ({"esa": False}, "compose_esa", "no ESA"),
        ({"esa": False}, "fold_esa", "no ESA"),
        ({"cab": False}, "pad_cab", "no CAB"),
        ({"cab": False}, "split_cab", "no CAB"),
        ({"cab": False}, "squeeze_first", "no CAB"),
    ],
)
def test_a_rule_with_nothing_to_fuse_is_skipped_with_the_reason(fields, rule, reason):
    fused, done = fuse(network(tiny(**fields)), (rule,))
    assert done == [f"{rule}: skipped, this network has {reason}"]
    assert fused.fused == ()


def test_channels_that_are_even_already_are_not_called_padded():
    fused, done = fuse(network(tiny(features=32, cab_compression=2)), ("pad_cab",))
    assert (fused.fused, done) == ((), ["pad_cab: skipped, CAB's 16 hidden channels need no padding"])


@pytest.mark.parametrize(("hidden", "left"), [(17, 1), (18, 2), (33, 1), (16, 0), (19, 0), (2, 0)])
def test_only_one_or_two_hidden_channels_over_whole_blocks_are_split_off(hidden, left):
    model = network(tiny(blocks=1, features=2 * hidden, expansion=1, cab_compression=2))
    x = torch.rand(1, 3, 17, 15, dtype=torch.float64)
    fused, done = fuse(model, ("split_cab",))
    assert float((fused(x) - model(x)).abs().max()) <= 1e-12 * float(model(x).abs().max())
    if not left:
        assert f"split_cab: skipped, CAB's {hidden} hidden channels" in done[0]
        return
    weights = {name: tuple(tensor.shape) for name, tensor in fused.state_dict().items()}
    first = "block_1.cab.cab.0"
    assert weights[f"{first}.wide.weight"] == (hidden - left, 2 * hidden, 3, 3)
    assert weights[f"{first}.taps.weight"] == (9 * left, 2 * hidden, 1, 1)
    assert weights[f"{first}.narrow.weight"] == (left, 9 * left, 3, 3)


def test_weights_without_an_inverse_are_left_as_they_are():
    model = network(tiny())
    model.blocks[1].esa.conv_f.weight[0] = model.blocks[1].esa.conv_f.weight[1]
    fused, done = fuse(model, ("fold_esa", "squeeze_first"))
    assert "fold_esa: skipped, ESA's conv_f has no inverse to compute with (condition number" in done[0]
    assert fused.fused == ("squeeze_first",)


def test_unknown_rules_are_refused():
    with pytest.raises(UnsupportedError, match="unknown fusion rule 'conv_bn'; choose from: norm_affine, "):
        fuse(network(tiny()), ("conv_bn",))


def test_a_fused_network_is_not_fused_again():
    fused, _ = fuse(network(tiny()), ("norm_affine",))
    with pytest.raises(UnsupportedError, match=r"fused already \(norm_affine\)"):
        fuse(fused, ("compose_esa",))


def test_a_fused_network_is_not_stored(tmp_path):
    fused, _ = fuse(network(tiny()), ("norm_affine",))
    for save in (save_checkpoint, save_pth):
        with pytest.raises(UnsupportedError, match="checkpoints hold unfused networks; save the network"):
            save(tmp_path / "weights", fused)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("needs_rtx")
def test_engines_move_no_more_bytes_than_they_did():
    """What NVIDIA's compiler lists for hasn-x4 in FP16, 320 x 180, compute capability 8.6, in MB."""
    target = EngineTarget(shapes=ShapeRange.static(180, 320), compute_capabilities=("8.6",))
    for rules, megabytes in (
        ((), 1733.4),
        (DEFAULT_RULES["tensorrt"], 1548.3),
        (DEFAULT_RULES["rtx"], 1493.7),
    ):
        network, _ = fuse(load_model("hasn-x4"), rules)
        graph = fp16_onnx_from_onnx(onnx_from_model(network, opset=20, size=(180, 320), simplify=False))
        moved = kernels_from_onnx(graph.SerializeToString(), target).moved_bytes / 1e6
        assert megabytes - 20 < moved <= megabytes, (
            rules,
            "fewer are better: state them here and in the table",
        )


def test_default_rules_exist_for_every_backend():
    assert set(DEFAULT_RULES) == {"pytorch", "torchscript", "onnxruntime", "tensorrt", "rtx"}
    assert all(set(rules) <= set(RULES) for rules in DEFAULT_RULES.values())
