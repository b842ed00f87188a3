"""Networks of other papers against their published counts, each with the convention that makes them agree."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hasn_edge.errors import InputError
from hasn_edge.model.comparators import NAMES, make_comparator


@pytest.mark.slow
def test_imdn_is_published_with_715_thousand_parameters_and_40_9_g():
    counts = make_comparator("imdn").counts(180, 320)  # 1280 x 720 output
    assert counts.parameters == 715_176
    assert counts.macs / 1e9 == pytest.approx(40.9, abs=0.05)


@pytest.mark.slow
def test_rfdn_is_the_baseline_of_ntire_2022():
    network = make_comparator("rfdn")
    counts = network.counts(256, 256)
    assert counts.parameters / 1e6 == pytest.approx(0.433, abs=5e-4)
    # The challenge's counter adds one for each value of a LeakyReLU.
    leaky = (4 * (3 * 25 + 3 * 50 + 25) + 50) * 256 * 256
    assert (counts.macs + leaky) / 1e9 == pytest.approx(27.10, abs=0.005)
    assert counts.activations / 1e6 == pytest.approx(112.03, abs=0.01)
    assert len(network.convolutions()) == 64


def test_span_is_the_winner_of_ntire_2024():
    counts = make_comparator("span").counts(256, 256)
    assert counts.parameters / 1e6 == pytest.approx(0.151, abs=5e-4)
    assert counts.macs / 1e9 == pytest.approx(9.83, abs=0.01)


def test_fsrcnn_is_published_without_biases_and_its_deconvolution_at_the_outputs_size():
    network = make_comparator("fsrcnn")
    assert sum(one.weight.numel() for one in network.convolutions()) == 12_464
    assert network.counts(180, 320).macs / 1e9 == pytest.approx(4.6, abs=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_each_upscales_by_four_and_counts_what_pytorch_counts(name):
    network = make_comparator(name)
    x = torch.rand(1, network.channels, 24, 20)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        y = network(x)
    assert y.shape == (1, network.channels, 96, 80)
    if name != "fsrcnn":  # PyTorch counts a transposed convolution at its input's size
        assert 2 * network.counts(24, 20).macs == flops.get_total_flops()


def test_another_name_is_refused():
    with pytest.raises(InputError, match="no network called 'edsr' to compare with; choose from: fsrcnn"):
        make_comparator("edsr")
