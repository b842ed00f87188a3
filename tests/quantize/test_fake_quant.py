"""The network that trains as INT8 against its graph in ONNX Runtime, its gradients against differences."""

from __future__ import annotations

import copy
import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.fuse.apply import fuse
from hasn_edge.quantize.fake_quant import (
    RANGE_GAIN,
    FakeConv,
    FakeQuantHASN,
    InputPair,
    Tuner,
    TuneSettings,
    _cut,
    _flipped,
    fake_quantized,
)
from hasn_edge.quantize.int8 import int8_onnx_from_onnx
from hasn_edge.quantize.ranges import LEARNED, learned_ranges, ranges_from_onnx
from hasn_edge.quantize.recipe import Granularity, QuantRecipe, WeightRange
from tests.quantize.conftest import Images, run, tiny_model

SHIFTED = QuantRecipe(keep_float=("*.attention.*",), shift=("conv_1", "*.cab.cab.2"))
SPREAD = replace(SHIFTED, shift=("conv_1",), spread=("*.g.conv", "*.cab.cab.?", "*.dwconv2.conv", "conv_2"))
RULES = ("compose_esa", "pad_cab", "squeeze_first")


def photo(seed: int = 5) -> np.ndarray:
    """Noise of whole 8-bit levels, as an image has."""
    levels = np.random.default_rng(seed).integers(0, 256, (1, 3, 24, 24))
    return (levels / 255).astype(np.float32)


def rounded(recipe: QuantRecipe, rules: tuple[str, ...] = (), **changes: object):
    """Return a network, its FP32 graph, its ranges, and the same rounded."""
    model = tiny_model(**changes)
    proto = onnx_from_model(fuse(model, rules)[0] if rules else model, opset=17)
    ranges = ranges_from_onnx(proto, Images(), recipe)
    network = FakeQuantHASN(model, proto, ranges, recipe, composed="compose_esa" in rules)
    return model, proto, ranges, network


def levels_apart(network: torch.nn.Module, expected: np.ndarray, x: np.ndarray) -> float:
    with torch.no_grad():
        return float(np.abs(network(torch.from_numpy(x)).numpy() - expected).max()) * 255


@pytest.mark.parametrize(
    ("recipe", "rules", "changes"),
    [
        pytest.param(QuantRecipe(), (), {}, id="everything"),
        pytest.param(SHIFTED, ("compose_esa",), {"blocks": 2}, id="shifted, composed"),
        pytest.param(SHIFTED, RULES, {"features": 9}, id="as for TensorRT"),
        pytest.param(SPREAD, ("compose_esa",), {"blocks": 2}, id="spread"),
        pytest.param(
            QuantRecipe(weights=Granularity.PER_TENSOR, weight_range=WeightRange.MSE),
            ("compose_esa",),
            {"cab": False, "residual": True},
            id="one scale",
        ),
        pytest.param(QuantRecipe(quantize=("*.f?.conv", "conv_2")), (), {"esa": False}, id="some"),
    ],
)
def test_the_forward_pass_is_that_of_the_int8_graph(recipe, rules, changes):
    _, proto, ranges, network = rounded(recipe, rules, **changes)
    x = photo()
    exact, floats = run(int8_onnx_from_onnx(proto, ranges, recipe), x), run(proto, x)
    assert np.abs(exact - floats).max() * 255 > 0.05
    assert levels_apart(network, exact, x) < 1e-3
    found = network.ranges()
    assert found.values == pytest.approx({name: ranges.values[name] for name in found.values}, rel=1e-12)
    spread = {**ranges.spread, **found.spread}
    again = int8_onnx_from_onnx(
        proto, replace(ranges, lows={**ranges.lows, **found.lows}, spread=spread), recipe
    )
    assert run(again, x) == pytest.approx(exact, abs=1e-6)  # lows in whole steps have the same codes


@pytest.mark.parametrize("recipe", [SHIFTED, SPREAD], ids=["shifted", "spread"])
def test_moved_ranges_and_weights_are_those_of_the_exported_graph(recipe):
    model, _, ranges, network = rounded(recipe, ("compose_esa",))
    with torch.no_grad():
        for number, pair in enumerate(network.pairs):
            if pair.offset.requires_grad:
                pair.offset += (-1) ** number * 0.2 / RANGE_GAIN
        for parameter in network.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, dtype=parameter.dtype) * (parameter.ndim == 4)
        for factors in network.factors:
            factors += torch.linspace(-0.4, 0.4, len(factors)) / RANGE_GAIN
    network.rescale()
    plain = network.network()
    assert not torch.equal(plain.block_1.esa.conv1.weight, model.block_1.esa.conv1.weight)
    proto = onnx_from_model(fuse(plain, ("compose_esa",))[0], opset=17)
    moved = copy.deepcopy(network).requires_grad_(False).ranges()  # as an average has it
    # What is exact on 8-bit images is not learned.
    assert moved.values["conv_1"] == ranges.values["conv_1"] == 127 / 255
    assert moved.values["conv_2"] != pytest.approx(ranges.values["conv_2"], rel=0.1)
    x = photo(7)  # whose values are not half-way between two codes
    assert levels_apart(network, run(int8_onnx_from_onnx(proto, moved, recipe), x), x) < 1e-3


@pytest.mark.parametrize("changes", [{"blocks": 2}, {"residual": True, "cab": False}, {"skip": False}])
def test_factors_leave_the_fp32_network_as_it_was(changes):
    model, _, _, network = rounded(SHIFTED, ("compose_esa",), **changes)
    with torch.no_grad():
        for number, factors in enumerate(network.factors):
            factors += torch.linspace(-0.7, 0.4 + 0.1 * number, len(factors)) / RANGE_GAIN
    x = torch.from_numpy(photo()).double()
    assert torch.allclose(network.network().double()(x), model.double()(x), atol=1e-5)
    assert not torch.equal(network.network().conv_2.weight, model.conv_2.weight.float())


@pytest.mark.slow  # the first use of that device
def test_everything_stays_on_the_parameters_device(monkeypatch):
    """PyTorch's meta device stands for a GPU: it has no values, and refuses tensors of the CPU beside it."""
    monkeypatch.setattr(torch.__future__, "get_swap_module_params_on_conversion", lambda: True)
    _, _, _, network = rounded(SPREAD, ("compose_esa",))
    network.to("meta")  # in place, as to a GPU
    network(torch.empty(1, 3, 24, 24, device="meta")).sum().backward()
    assert {parameter.device.type for parameter in network.network().parameters()} == {"meta"}


def test_gradients_are_those_of_a_composed_network_where_nothing_rounds():
    # The stem alone is rounded: what follows is smooth in its parameters.
    _, _, _, network = rounded(QuantRecipe(quantize=("conv_1",)), ("compose_esa",))
    network.double()
    x = torch.from_numpy(photo()).double()
    weight = torch.randn(1, 3, 96, 96, dtype=torch.float64)
    loss = (network(x) * weight).sum()
    loss.backward()
    names = ("f3.conv.weight", "f3.conv.bias", "esa.conv1.weight", "ln.weight", "cab.cab.0.bias")
    for name in names:
        module, _, own = f"block_1.{name}".rpartition(".")
        parameter = network.get_parameter(f"{module}.inner.{own}")
        direction = torch.randn_like(parameter)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-6 * direction
                values.append(float((network(x) * weight).sum()))
                parameter -= sign * 1e-6 * direction
        assert parameter.grad is not None
        expected = (values[0] - values[1]) / 2e-6
        assert float((parameter.grad * direction).sum()) == pytest.approx(expected, rel=1e-5), name


def test_the_gradients_of_rounding_are_those_of_the_papers():
    pair = InputPair(1.27, None).double()
    x = torch.tensor([0.0249, -0.5, 3.0, -2.0], dtype=torch.float64, requires_grad=True)
    pair(x).backward(torch.ones(4, dtype=torch.float64))
    assert x.grad.tolist() == [1, 1, 0, 0]
    # One step is 0.01: 2.49 steps become 2, -50 stay, and what is cut off moves with the range.
    assert float(pair.offset.grad) == pytest.approx(RANGE_GAIN * 0.01 * ((2 - 2.49) + 0 + 127 - 128))
    assert pair.record() == (1.27, None, None)


def test_the_gradients_of_weights_are_those_of_the_papers():
    conv = torch.nn.Conv2d(1, 1, (1, 3))
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, 0.31, -0.2]).view(1, 1, 1, 3))
    fake = FakeConv(conv, InputPair(1.0, None)).double()
    fake.fractions.fill_(0.5)  # of the largest, which is cut off
    y = fake(torch.ones(1, 1, 1, 3, dtype=torch.float64))
    scale = 0.5 / 127
    codes = np.array([127, np.rint(0.31 / scale), np.rint(-0.2 / scale)])
    assert float((y - conv.bias).detach()) == pytest.approx((codes * scale).sum())
    y.sum().backward()
    # Each passes it on, and the largest decides the scale besides.
    errors = codes - np.array([1.0, 0.31, -0.2]) / scale
    assert conv.weight.grad.flatten().tolist() == pytest.approx([1 + errors.sum() * 0.5 / 127, 1, 1])


def test_a_checkpoint_states_its_ranges_for_the_images_that_they_were_learned_on():
    _, _, ranges, network = rounded(SHIFTED)
    stated = network.provenance()
    assert stated[LEARNED]["fingerprint"] == "noise"
    learned = learned_ranges(stated, Images())
    assert learned is not None
    other = Images()
    other.fingerprint = "other"
    assert learned_ranges(stated, other) is None
    assert learned_ranges({}, Images()) is None
    wider = {"values": {name: 2 * v for name, v in learned["values"].items()}, "lows": {"conv_1": -0.5}}
    taken = ranges.learned(wider)
    assert taken.values["conv_2"] == 2 * ranges.values["conv_2"]
    assert taken.lows["conv_1"] == -0.5
    # Shifted in one of them only: its own.
    assert taken.values["block_1.cab.cab.2"] == ranges.values["block_1.cab.cab.2"]


def test_a_step_sees_a_square_of_a_patch_in_one_of_eight_ways():
    x = torch.arange(24.0).reshape(1, 1, 4, 6)
    assert len({tuple(_flipped(x, way).flatten().tolist()) for way in range(8)}) == 8
    rng = np.random.default_rng(0)
    shapes = [tuple(_cut(np.zeros((1, 3, *size), np.float32), rng).shape) for size in ((150, 90), (33, 50))]
    assert shapes == [(1, 3, 40, 40), (1, 3, 33, 40)]


def tuner(network: FakeQuantHASN) -> Tuner:
    return Tuner(network, tiny_model(), list(Images()), TuneSettings(rate=2e-5, warmup=1))


def test_resuming_changes_nothing():
    network = rounded(SHIFTED, ("compose_esa",))[3]
    through, stopped = tuner(copy.deepcopy(network)), tuner(copy.deepcopy(network))
    losses = [through.step() for _ in range(4)]
    assert [stopped.step() for _ in range(2)] == losses[:2]
    buffer = io.BytesIO()
    torch.save(stopped.state(), buffer)
    resumed = tuner(copy.deepcopy(network))
    buffer.seek(0)
    resumed.restore(torch.load(buffer, weights_only=True))
    assert [resumed.step() for _ in range(2)] == losses[2:]
    for a, b in ((through.network, resumed.network), (through.averaged, resumed.averaged)):
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    # The average states its own ranges, not those of the start.
    start, stated = network.ranges().values, through.averaged.provenance()[LEARNED]["values"]
    for name, number in through.averaged._names.items():
        pair = through.averaged.pairs[number]
        assert stated[name] == pytest.approx(pair.base * np.exp(RANGE_GAIN * pair.offset.item()), rel=1e-12)
        assert pair.exact or pair.offset == 0 or stated[name] != start[name]
    assert max(stated[name] / start[name] for name in start) > 1.001


@pytest.mark.slow
def test_steps_bring_int8_nearer_to_fp32():
    network = fake_quantized(tiny_model(), Images(), replace(SHIFTED, equalize=0.5))
    with torch.no_grad():
        for pair in network.pairs:
            pair.base *= 1.0 if pair.exact else 0.14  # cuts off most values
    settings = TuneSettings(rate=2e-5, warmup=1)
    follower = Tuner(network, tiny_model(), list(Images()), settings)
    losses = [follower.step() for _ in range(40)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    offsets = [float(RANGE_GAIN * pair.offset.detach()) for pair in network.pairs]
    assert np.mean(offsets) > 0.2
    assert min(offsets) >= 0
