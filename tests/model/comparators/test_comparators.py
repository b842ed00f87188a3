"""Networks of other papers against their published counts, each with the convention that makes them agree."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from hasn_edge.data.resize import imresize
from hasn_edge.errors import CheckpointError, InputError
from hasn_edge.images.arrays import Float32
from hasn_edge.model.comparators import NETWORKS, load_comparator, make_comparator, split_name
from hasn_edge.model.comparators.cascade import CARN
from hasn_edge.model.comparators.comparator import Comparator, Enlarge, RgbNetwork
from hasn_edge.model.comparators.distillation import IDN
from hasn_edge.model.comparators.early import SRCNN, LapSRN
from hasn_edge.model.comparators.ntire import SPAN, HASNOfSPAB

HD, SQUARE = (180, 320), (256, 256)
"""1280 x 720 pixels of output, and the input of challenges: the paper's Table 1 mixes both."""

TABLE_1 = (
    ("vdsr", 666, 612.6, HD),
    ("drrn", 298, 6796.9, HD),
    ("memnet", 678, 2662.4, HD),
    ("srmdnf", 1552, 89.3, HD),
    ("imdn", 715, 40.9, HD),
    ("rlfn", 543, 33.9, SQUARE),
    ("span", 498, None, HD),
    ("dipnet", 543, None, HD),
)
"""Those of its rows whose two figures are of one network, counted with its biases and by our rules."""


@pytest.mark.parametrize(("name", "thousands", "giga", "size"), TABLE_1)
def test_table_1_gives_parameters_with_biases_and_macs(name, thousands, giga, size):
    counts = make_comparator(name).counts(*size)
    assert counts.parameters / 1e3 == pytest.approx(thousands, abs=1)
    if giga is not None:
        assert counts.macs / 1e9 == pytest.approx(giga, abs=0.06)


def weights_of(network):
    return sum(one.weight.numel() for one in network.modules() if isinstance(one, CONVOLUTION))


CONVOLUTION = (nn.Conv2d, nn.ConvTranspose2d)


def test_srcnn_is_published_with_the_parameters_of_9_1_5_and_the_macs_of_9_5_5():
    assert weights_of(SRCNN(middle=1)) == 8_032  # 8K
    assert make_comparator("srcnn").counts(*HD).macs / 1e9 == pytest.approx(52.7, abs=0.05)


def test_fsrcnn_is_published_without_biases_and_its_deconvolution_at_the_outputs_size():
    network = make_comparator("fsrcnn")
    assert weights_of(network) == 12_464
    assert network.counts(*HD).macs / 1e9 == pytest.approx(4.6, abs=0.05)


def test_drcn_is_published_without_biases_and_with_an_image_rebuilt_after_each_recursion():
    network = make_comparator("drcn")
    assert weights_of(network) == 1_774_080
    assert network.counts(*HD).macs / 1e9 == pytest.approx(17_974.0, abs=0.5)


def test_lapsrn_is_published_with_the_parameters_of_half_its_depth():
    """149.4 G are of ten convolutions a level and 3x3 transposed ones, 502K of five and of 4x4."""
    network = make_comparator("lapsrn")
    assert network.counts(*HD).macs / 1e9 == pytest.approx(149.4, abs=0.06)
    assert weights_of(network) / 1e3 == pytest.approx(812, abs=1)  # what LapSRN's own paper states
    half = LapSRN(depth=5, kernel=4).counts(*HD)
    assert half.parameters / 1e3 == pytest.approx(502, abs=1)


def test_idn_is_published_with_the_parameters_on_luma_and_the_macs_on_rgb():
    assert make_comparator("idn").counts(*HD).parameters / 1e3 == pytest.approx(553, abs=1)
    # Its transposed convolution counted at the output's size.
    assert IDN(channels=3).counts(*HD).macs / 1e9 == pytest.approx(81.8, abs=0.1)


def test_carn_is_published_with_the_upsamplers_of_other_scales():
    counts = make_comparator("carn").counts(*HD)
    by_two, by_three, means = 256 * 577, 576 * 577, 24
    assert (counts.parameters + by_two + by_three + means) / 1e3 == pytest.approx(1592, abs=1)
    assert counts.macs / 1e9 == pytest.approx(90.9, abs=0.05)


def test_rfdn_is_published_without_what_its_attention_convolves_in_low_resolution():
    network = make_comparator("rfdn")
    counts = network.counts(*HD)
    inner = [one for name, one in network.named_modules() if "esa." in name and one.kernel_size == (3, 3)]
    assert len(inner) == 6 * 4
    parameters = counts.parameters - sum(p.numel() for one in inner for p in one.parameters())
    assert int(parameters / 1e3) == 550  # cut off, as 534 at x2 and 541 at x3
    strided, pooled = 89 * 159, 28 * 51
    macs = counts.macs - 6 * 12 * 12 * 9 * (strided + 3 * pooled)
    assert macs / 1e9 == pytest.approx(31.6, abs=0.05)


def test_challenges_publish_parameters_macs_activations_and_convolutions_at_256():
    rfdn, dipnet, span = (
        make_comparator(name) for name in ("rfdn-aim2020", "dipnet-ntire2023", "span-ntire2024")
    )
    counts = rfdn.counts(*SQUARE)
    assert counts.parameters / 1e6 == pytest.approx(0.433, abs=5e-4)
    # The challenge's counter adds one for each value of a LeakyReLU.
    leaky = (4 * (3 * 25 + 3 * 50 + 25) + 50) * 256 * 256
    assert (counts.macs + leaky) / 1e9 == pytest.approx(27.10, abs=0.005)
    assert counts.activations / 1e6 == pytest.approx(112.03, abs=0.01)
    assert sum(isinstance(one, CONVOLUTION) for one in rfdn.modules()) == 64
    counts = dipnet.counts(*SQUARE)
    assert counts.parameters / 1e6 == pytest.approx(0.243, abs=5e-4)
    leaky = 4 * (38 + 38 + 44) * 256 * 256
    assert (counts.macs + leaky) / 1e9 == pytest.approx(14.90, abs=0.005)
    assert counts.activations / 1e6 == pytest.approx(72.97, abs=0.01)
    assert sum(isinstance(one, CONVOLUTION) for one in dipnet.modules()) == 39
    counts = span.counts(*SQUARE)
    assert counts.parameters / 1e6 == pytest.approx(0.151, abs=5e-4)
    assert counts.macs / 1e9 == pytest.approx(9.83, abs=0.01)


def trained_form(width: int) -> int:
    """Return the parameters of one convolution of SPAN while it trains, the merged copy included."""
    inner = 2 * width
    chain = width * inner + inner + inner * inner * 9 + inner + inner * width + width
    return chain + (width * width + width) + (width * width * 9 + width)


def test_table_6_counts_spab_at_30_channels_and_in_the_form_that_trains():
    """836K, against 435K of HASN; at HASN's 52 channels and merged it has 487K."""
    width = 30
    merged = HASNOfSPAB(width).counts(*SQUARE).parameters
    one = width * width * 9 + width
    assert merged + 18 * (trained_form(width) - one) == 835_758
    assert HASNOfSPAB().counts(*SQUARE).parameters == 487_340


NARROW = {"drcn": 16, "drrn": 16, "memnet": 16}
"""Channels of those that would take seconds at their own width."""


@pytest.mark.parametrize("name", NETWORKS)
def test_each_upscales_by_four_and_counts_what_fvcore_counts(name):
    network = make_comparator(name)
    if name in NARROW:
        network = type(network)(width=NARROW[name])
    height, width = 15, 19
    x = torch.rand(1, network.channels, height, width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

        counted = FlopCountAnalysis(network, x).unsupported_ops_warnings(enabled=False)
        by_module = counted.by_module_and_operator()
    # fvcore counts a transposed convolution at its input's size, and the convolution that enlarges.
    macs = by_module[""]["conv"] - by_module.get("enlarge", {}).get("conv", 0)
    for called, module in network.named_modules():
        if isinstance(module, nn.ConvTranspose2d):
            macs += (module.stride[0] * module.stride[1] - 1) * by_module[called]["conv"]
    assert network.counts(height, width).macs == macs
    with torch.inference_mode():
        assert network(x).shape == (1, network.channels, 4 * height, 4 * width)


def test_images_are_enlarged_as_matlab_does():
    image = np.random.default_rng(0).random((7, 5, 3)).astype(np.float32)
    x = torch.tensor(image.transpose(2, 0, 1)[None])
    expected = imresize(image, scale=4.0).transpose(2, 0, 1)
    assert Enlarge(3)(x)[0].numpy() == pytest.approx(expected, abs=1e-6)


class OnlyLuma(Comparator):
    channels = 1

    def __init__(self) -> None:
        super().__init__()
        self.enlarge = Enlarge()

    def forward(self, x):
        return self.enlarge(x) + 0.1


def test_colour_comes_from_bicubic_where_a_network_computes_luma():
    """Against the matrices of BT.601, in float64."""
    matrix = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
    image: Float32 = np.random.default_rng(0).random((1, 3, 6, 5), dtype=np.float32)
    with torch.inference_mode():
        found = RgbNetwork(OnlyLuma())(torch.tensor(image))[0].numpy()
    large = imresize(image[0].transpose(1, 2, 0).astype(np.float64), scale=4.0)
    ycbcr = large @ matrix.T
    ycbcr[..., 0] += 0.1
    assert found.transpose(1, 2, 0) == pytest.approx(ycbcr @ np.linalg.inv(matrix).T, abs=1e-5)


def test_another_name_is_refused():
    with pytest.raises(InputError, match="no network called 'edsr' to compare with; choose from: carn, dip"):
        make_comparator("edsr")
    assert split_name("span=a.pth") == ("span", "a.pth")
    assert split_name("other=a.pth") is split_name("span") is None


# -- checkpoints -------------------------------------------------------------------------------------------


def nearest(name: str, **options) -> Comparator:
    """Return a network whose weights make every pixel a square, with some of its own that are not used."""
    network = make_comparator(name) if not options else type(make_comparator(name))(**options)
    with torch.no_grad():
        for key, tensor in network.named_parameters():
            tensor.copy_(torch.randn_like(tensor) * 1e-4 if "blocks" in key else torch.zeros_like(tensor))
        first = network.fea_conv if hasattr(network, "fea_conv") else network.conv_1
        for channel in range(3):
            first.weight[channel, channel, 1, 1] = 1
            network.upsampler[0].weight[16 * channel : 16 * channel + 16, channel, 1, 1] = 1
    return network


@pytest.mark.parametrize(
    ("name", "options", "some"),
    [
        ("imdn", {"width": 32, "blocks": 2}, ("IMDB2.cca.conv_du.2.weight", "IMDB1.c5.bias", "c.0.weight")),
        ("rfdn", {"width": 20, "blocks": 3}, ("B3.esa.conv3_.weight", "B1.c3_d.weight", "B2.c4.bias")),
        ("rlfn", {"width": 20, "blocks": 2}, ("block_2.esa.conv_f.weight", "block_1.c5.bias", "conv_2.bias")),
        ("dipnet", {"width": 20, "blocks": 1, "inner": 12, "bias": False}, ("block_1.esa.conv4.bias",)),
    ],
)  # fmt: skip
def test_a_checkpoint_in_the_published_layout_is_read_with_its_own_widths(tmp_path, name, options, some):
    network = nearest(name, **options)
    assert set(some) <= set(network.state_dict())
    path = tmp_path / "net.pth"
    random = {key: torch.randn_like(tensor) for key, tensor in network.state_dict().items()}
    torch.save({"params": random, "params_ema": network.state_dict()}, path)
    read = load_comparator(name, path)
    assert read.spec.scale == 4
    assert read.spec.size.minimum == network.least_side
    x = torch.rand(1, 3, 16, 17)
    with torch.inference_mode():
        assert torch.equal(read(x), network.eval()(x))


def test_what_a_checkpoint_takes_for_white_is_found(tmp_path):
    network = nearest("rlfn", width=20, blocks=1)
    with torch.no_grad():
        network.upsampler[0].bias.fill_(2.0)  # nothing beside 255, everything beside 1
    torch.save(network.state_dict(), tmp_path / "net.pth")
    read = load_comparator("rlfn", tmp_path / "net.pth")
    assert read.peak == 255
    x = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        assert read(x) == pytest.approx(network.eval()(255 * x) / 255)


class Chain(nn.Module):
    """SPAN's convolution as it trains, by its description: the frame is padded before the chain."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.sk = nn.Conv2d(inputs, outputs, 1)
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, 2 * inputs, 1),
            nn.Conv2d(2 * inputs, 2 * outputs, 3),
            nn.Conv2d(2 * outputs, outputs, 1),
        )
        self.eval_conv = nn.Conv2d(inputs, outputs, 3, padding=1)  # stale

    def forward(self, x):
        return self.conv(nn.functional.pad(x, (1, 1, 1, 1))) + self.sk(x)


def test_spans_chains_are_merged_exactly():
    chain = Chain(5, 7).double()
    published = {f"block_1.c1_r.{key}": tensor for key, tensor in chain.state_dict().items()}
    own = SPAN.own_weights({**published, "conv_cat.weight": torch.zeros(1)})
    assert sorted(own) == ["block_1.c1_r.bias", "block_1.c1_r.weight", "conv_cat.weight"]
    x = torch.rand(1, 5, 6, 9, dtype=torch.float64)
    weight, bias = own["block_1.c1_r.weight"].double(), own["block_1.c1_r.bias"].double()
    with torch.inference_mode():
        merged = nn.functional.conv2d(x, weight, bias, padding=1)
        assert merged.numpy() == pytest.approx(chain(x).numpy(), abs=1e-6)


def test_carns_file_is_read_without_the_upsamplers_of_other_scales():
    own = CARN(width=8).state_dict()
    published = {}
    for key, tensor in own.items():
        key = key.removeprefix("cascade.")
        published[f"upsample.up4.body.{key[3:]}" if key.startswith("up.") else key] = tensor
    for extra in ("upsample.up2.body.0.weight", "upsample.up3.body.0.bias", "sub_mean.shifter.weight"):
        published[extra] = torch.zeros(1)
    assert {"b2.c3.body.0.weight", "b1.b3.body.2.bias", "c2.body.0.weight"} <= set(published)
    read = CARN.own_weights(published)
    assert read.keys() == own.keys()
    assert all(read[key] is own[key] for key in own)
    assert CARN.arguments(read) == {"width": 8}


def test_what_is_no_such_checkpoint_is_refused(tmp_path):
    path = tmp_path / "net.pth"
    torch.save(nearest("rlfn", width=20, blocks=1).state_dict(), path)
    with pytest.raises(
        CheckpointError, match=r"net\.pth: not a checkpoint of imdn: it has no 'c\.0\.weight'"
    ):
        load_comparator("imdn", path)
    with pytest.raises(CheckpointError, match=r"net\.pth: the authors of vdsr published no weights for PyTo"):
        load_comparator("vdsr", path)
    with pytest.raises(CheckpointError, match=r"absent\.pth: no such weights file"):
        load_comparator("rlfn", tmp_path / "absent.pth")
    network = nearest("rlfn", width=20, blocks=1)
    with torch.no_grad():
        network.upsampler[0].weight.neg_()
    torch.save(network.state_dict(), path)
    with pytest.raises(CheckpointError, match=r"net\.pth: its output does not resemble its input"):
        load_comparator("rlfn", path)
    del (state := network.state_dict())["conv_2.bias"]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"net\.pth: weights do not fit rlfn: missing conv_2\.bias"):
        load_comparator("rlfn", path)
