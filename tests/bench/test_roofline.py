"""The roofline against layers computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hasn_edge.bench.roofline import MEMORY, estimate
from hasn_edge.engine.target import load_target
from hasn_edge.hardware.profiles import Rates
from hasn_edge.model.complexity import complexity
from hasn_edge.spec import ModelSpec, Precision

INT8_NAMES = [
    *(f"block_{b}.{c}" for b in range(1, 7) for c in (
        "f1.conv", "f2.conv", "f3.conv", "g.conv", "cab.cab.0",
        "esa.conv1", "esa.conv2", "esa.conv3", "esa.conv_f", "esa.conv4",
    )),
    "conv_2",
]  # fmt: skip


@pytest.fixture(scope="module")
def nano():
    device = load_target("orin-nano").device
    assert device is not None
    return device


@pytest.fixture(scope="module")
def network():
    return complexity(ModelSpec(), 180, 320)


def layer(network, device, precision, name):
    return {one.name: one for one in estimate(network, device, precision, INT8_NAMES).layers}[name]


# By hand, at 320 x 180 = 57,600 pixels: bytes read, bytes written, bytes of weights; multiply-accumulates
# and the board's units for them. Orin Nano: 68 GB/s; 8 multiprocessors at 625 MHz make 5e9 clocks a second,
# each 128 multiply-accumulates by CUDA cores, 1024 in FP16 and 2048 in INT8 by tensor cores.
BY_HAND = [
    # 52 channels in, 52 out, 49 taps and a bias each
    (Precision.FP32, "block_1.dwconv.conv", 11_980_800 + 11_980_800 + 10_400, 146_764_800, 128, MEMORY),
    (Precision.FP16, "block_1.dwconv.conv", 5_990_400 + 5_990_400 + 5_200, 146_764_800, 128, "CUDA cores"),
    # 52 in, 156 out, 52 x 156 weights and 156 biases
    (Precision.FP16, "block_3.f1.conv", 5_990_400 + 17_971_200 + 16_536, 467_251_200, 1024, MEMORY),
    (Precision.FP32, "block_3.f1.conv", 11_980_800 + 35_942_400 + 33_072, 467_251_200, 128, "CUDA cores"),
    # 52 in as INT8 from LayerNorm, f1's 156 in FP16 for the product, 156 out in FP16
    (Precision.INT8, "block_2.f2.conv", 2_995_200 + 35_942_400 + 8_268, 467_251_200, 2048, MEMORY),
    # 156 in as INT8, 52 out in FP16, since the depthwise convolution is not quantized
    (Precision.INT8, "block_6.g.conv", 8_985_600 + 5_990_400 + 8_164, 467_251_200, 2048, MEMORY),
    # 16 in as INT8; f3 and the product of f1 and f2, 156 each in FP16; 156 out as INT8 for g
    (Precision.INT8, "block_1.esa.conv4", 921_600 + 35_942_400 + 8_985_600 + 2_652, 143_769_600,
     2048, MEMORY),
    # every second pixel without padding: 159 x 89 of 16 channels, out of 320 x 180
    (Precision.FP16, "block_1.esa.conv2", 1_843_200 + 452_832 + 4_640, 32_603_904, 1024, MEMORY),
    # LayerNorm: 5 operations an element
    (Precision.FP16, "block_1.ln", 5_990_400 + 5_990_400 + 208, 14_976_000, 128, MEMORY),
    # float32 images at both ends
    (Precision.FP16, "conv_1", 691_200 + 5_990_400 + 2_912, 80_870_400, 1024, MEMORY),
    (Precision.FP16, "pixel_shuffle", 5_529_600 + 11_059_200, 0, 128, MEMORY),
    # 52 in, the stem's 52 for the sum, 52 out
    (Precision.FP32, "conv_2", 35_942_400 + 97_552, 1_401_753_600, 128, "CUDA cores"),
    (Precision.FP16, "upsampler.0", 5_990_400 + 5_529_600 + 45_024, 1_293_926_400, 1024, "tensor cores"),
    # every channel times its gate
    (Precision.FP16, "block_1.cab.cab.3", 5_990_400 + 104 + 5_990_400, 0, 128, MEMORY),
    # the skip is added behind the second depthwise convolution, whose result only CAB's first one takes
    (Precision.INT8, "block_1.dwconv2.conv", 5_990_400 + 5_990_400 + 2_995_200 + 5_200, 146_764_800, 128,
     "CUDA cores"),
]  # fmt: skip


@pytest.mark.parametrize(("precision", "name", "moved", "macs", "per_clock", "bound"), BY_HAND)
def test_layers_computed_by_hand(network, nano, precision, name, moved, macs, per_clock, bound):
    one = layer(network, nano, precision, name)
    assert (one.bytes, one.operations, one.bound) == (moved, macs, bound)
    assert one.memory_seconds == pytest.approx(moved / 68e9)
    assert one.compute_seconds == pytest.approx(macs / (per_clock * 5e9))
    assert one.seconds == max(one.memory_seconds, one.compute_seconds)


def test_the_whole_is_the_sum_and_names_what_bounds_it(network, nano):
    whole = estimate(network, nano, Precision.FP16)
    assert whole.seconds == pytest.approx(sum(one.seconds for one in whole.layers))
    assert whole.bound == MEMORY
    assert sum(whole.shares.values()) == pytest.approx(1)
    # A board with fifty times the bandwidth computes instead of waiting; with none of the rest changed.
    rich = replace(nano, bandwidth_bytes_per_s=3.4e12)
    assert estimate(network, rich, Precision.FP32).bound == "CUDA cores"
    assert estimate(network, rich, Precision.FP32).seconds < estimate(network, nano, Precision.FP32).seconds


def test_a_board_without_integer_units_computes_int8_in_fp32(network, nano):
    old = replace(
        nano,
        tensor_cores_macs_per_s=Rates(),
        cuda_cores_macs_per_s=Rates(fp32=1e9),
        sources={
            k: v for k, v in nano.sources.items() if "macs" not in k or k == "cuda_cores_macs_per_s.fp32"
        },
    )
    assert layer(network, old, Precision.INT8, "block_1.g.conv").compute_seconds == pytest.approx(0.4672512)
