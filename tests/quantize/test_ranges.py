"""Ranges against hooks on the network in PyTorch, and what they survive: batching, disk, broken weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hasn_edge.errors import ArtifactError, CheckpointError, ConfigError, InputError
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.images.arrays import from_tensor, to_tensor
from hasn_edge.quantize.observers import Observer
from hasn_edge.quantize.ranges import input_histograms, ranges_from_onnx, shares_outside
from hasn_edge.quantize.recipe import QuantRecipe

MINMAX = QuantRecipe(observer=Observer.MINMAX)


def test_ranges_are_the_largest_inputs_that_pytorch_sees(tiny, images):
    seen: dict[str, float] = {}

    def watch(name):
        def hook(module, inputs, output):
            seen[name] = max(seen.get(name, 0.0), float(inputs[0].abs().max()))

        return hook

    convs = [(n, m) for n, m in tiny.model.named_modules() if isinstance(m, torch.nn.Conv2d)]
    handles = [module.register_forward_hook(watch(name)) for name, module in convs]
    with torch.no_grad():
        for batch in images():
            tiny.model(torch.from_numpy(batch))
    for handle in handles:
        handle.remove()
    found = ranges_from_onnx(tiny.weakly_typed, images(), MINMAX)
    assert set(found.values) == set(seen)
    for name, value in seen.items():
        assert found.values[name] == pytest.approx(value, rel=1e-5), name
        assert found.peaks[name] == found.values[name]


def test_every_graph_of_a_network_gives_the_same_ranges(tiny, images):
    reference = ranges_from_onnx(tiny.weakly_typed, images(), MINMAX).values
    for graph in (tiny.strongly_typed, tiny.decomposed):
        found = ranges_from_onnx(graph, images(), MINMAX).values
        assert found == pytest.approx(reference, rel=1e-5)


def test_only_what_the_recipe_selects_is_measured(tiny, images):
    recipe = QuantRecipe(quantize=("*.f1.conv", "*.f2.conv", "conv_1"))
    found = ranges_from_onnx(tiny.weakly_typed, images(), recipe)
    assert set(found.values) == {"block_1.f1.conv", "block_1.f2.conv", "conv_1"}
    # Both read the same tensor.
    assert found.values["block_1.f1.conv"] == found.values["block_1.f2.conv"]
    with pytest.raises(ArtifactError, match=r"no range was measured for convolution block_1.g.conv.*another"):
        found.of("block_1.g.conv")
    with pytest.raises(ConfigError, match="quantizes no convolution"):
        ranges_from_onnx(tiny.weakly_typed, images(), QuantRecipe(quantize=("nothing",)))


def test_two_measurements_are_identical(tiny, images):
    assert ranges_from_onnx(tiny.weakly_typed, images(), QuantRecipe()) == tiny.ranges


def test_a_histogram_holds_every_value_of_the_tensor(tiny, images):
    found = input_histograms(tiny.weakly_typed, images(count=3, side=24), ["block_1.g.conv", "conv_1"])
    assert found["conv_1"].total == 3 * 3 * 24 * 24
    assert found["block_1.g.conv"].total == 3 * 24 * 24 * 24


def test_a_sidecar_states_the_ranges(tiny):
    record = tiny.ranges.to_record()
    assert (record.observer, record.percentile) == (tiny.ranges.observer.value, tiny.ranges.percentile)
    assert (record.fingerprint, record.images) == (tiny.ranges.fingerprint, tiny.ranges.images)
    assert record.values == tiny.ranges.values
    assert record.peaks == tiny.ranges.peaks


def test_a_network_that_overflows_is_named_by_its_convolution(images, make_model):
    model = make_model()
    model.conv_1.weight.fill_(1e38)
    proto = onnx_from_model(model, opset=17, simplify=False)
    with pytest.raises(CheckpointError, match=r"convolution block_1\.\S+ .*calibration image 1.*overflows"):
        ranges_from_onnx(proto, images(), MINMAX)


def test_no_images_is_refused(tiny, images):
    with pytest.raises(InputError, match="no calibration image"):
        ranges_from_onnx(tiny.weakly_typed, images(count=0), MINMAX)


def test_the_graph_is_left_as_it_was(tiny, images):
    before = tiny.weakly_typed.SerializeToString()
    ranges_from_onnx(tiny.weakly_typed, images(), MINMAX)
    assert tiny.weakly_typed.SerializeToString() == before


def test_a_dead_tensor_has_range_zero(images, make_model):
    model = make_model()
    model.block_1.cab.cab[3].attention[1].weight.zero_()
    model.block_1.cab.cab[3].attention[1].bias.fill_(-1.0)
    found = ranges_from_onnx(onnx_from_model(model, opset=17, simplify=False), images(), MINMAX)
    assert found.values["block_1.cab.cab.3.attention.3"] == 0.0
    assert np.isfinite(list(found.values.values())).all()


def test_the_share_outside_is_what_pytorch_counts(tiny, images):
    limits = {"conv_1": 0.5, "block_1.g.conv": 0.01}
    ranges = replace(tiny.ranges, values={**tiny.ranges.values, **limits}, lows={"upsampler.0": 0.0})
    pixels = [from_tensor(batch) for batch in images(count=2)]
    outside: dict[str, list[int]] = {}

    def watch(name):
        def hook(module, inputs, output):
            x = inputs[0]
            if name == "upsampler.0":  # shifted: from 0 to 255 steps above it
                out = (x < 0) | (x > ranges.values[name] * 255 / 127)
            else:
                out = x.abs() > ranges.values[name]
            outside.setdefault(name, []).append(int(out.sum()))
            outside.setdefault(f"{name} of", []).append(x.numel())

        return hook

    handles = [
        tiny.model.get_submodule(name).register_forward_hook(watch(name)) for name in (*limits, "upsampler.0")
    ]
    with torch.no_grad():
        for image in pixels:
            tiny.model(torch.from_numpy(to_tensor(image)))
    for handle in handles:
        handle.remove()
    found = shares_outside(tiny.weakly_typed, ranges, pixels)
    for name in (*limits, "upsampler.0"):
        share = sum(outside[name]) / sum(outside[f"{name} of"])
        assert 0 < share < 1
        assert found[name] == pytest.approx(share, abs=2e-4), name
