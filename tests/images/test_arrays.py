"""RGB arrays and tensors: values, layout, rounding, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from hasn_edge.errors import InputError, ShapeError
from hasn_edge.images import arrays

NOISE = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
RGBA = np.random.default_rng(1).integers(0, 256, (20, 30, 4), dtype=np.uint8)
RGB = np.ascontiguousarray(RGBA[..., :3])
GRAY = np.ascontiguousarray(RGBA[..., 0])
GRAY_ALPHA = np.ascontiguousarray(RGBA[..., [0, 3]])


def test_tensors_are_the_value_over_255_and_come_back():
    x = arrays.to_tensor(NOISE)
    assert (x.shape, x.dtype, x.flags.c_contiguous) == ((1, 3, 50, 60), np.float32, True)
    np.testing.assert_array_equal(x[0].transpose(1, 2, 0), NOISE.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(arrays.from_tensor(x), NOISE)
    everything = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(3, axis=2)
    np.testing.assert_array_equal(arrays.from_tensor(arrays.to_tensor(everything), np.uint16), everything)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_outputs_are_clipped_and_rounded_to_nearest(dtype):
    values = np.array(
        [-1, -0.001, 0.4 / 255, 0.6 / 255, 100.4 / 255, 254.6 / 255, 1.0, 7, 60000, -60000], dtype
    )
    y = np.broadcast_to(values[None, None, None], (1, 3, 130, 10))
    out = arrays.from_tensor(y)
    assert out.shape == (130, 10, 3)
    assert out.flags.c_contiguous
    assert (out == np.array([0, 0, 0, 1, 100, 255, 255, 255, 255, 0], np.uint8)[None, :, None]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_outputs_that_are_not_numbers_are_not_made_into_images(dtype, value):
    y = np.zeros((1, 3, 200, 4), dtype)
    y[0, 1, 150, 2] = value
    with pytest.raises(InputError, match="not numbers .*precision=.fp32"):
        arrays.from_tensor(y)


def test_luma_equals_scikit_image():
    from skimage.color import rgb2ycbcr

    np.testing.assert_allclose(arrays.luma(NOISE), rgb2ycbcr(NOISE)[..., 0], atol=1e-9)
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    np.testing.assert_allclose(arrays.luma(ends), [[16, 235]], atol=1e-2)


def test_channels():
    np.testing.assert_array_equal(arrays.to_rgb(RGBA), RGB)
    np.testing.assert_array_equal(arrays.to_rgb(GRAY_ALPHA), np.repeat(GRAY[..., None], 3, axis=2))
    assert arrays.to_rgb(RGB) is RGB
    for pixels in (RGBA, GRAY_ALPHA, RGB, GRAY[..., None]):
        colour, alpha = arrays.split_alpha(pixels)
        assert (alpha is None) == (pixels.shape[2] in (1, 3))
        joined = colour if alpha is None else np.concatenate([colour, alpha], axis=2)
        np.testing.assert_array_equal(joined, pixels)


def test_hidden_colours_give_way_to_the_visible_ones_around_them():
    colour = np.zeros((37, 50, 3), np.uint8)
    alpha = np.zeros((37, 50, 1), np.uint8)
    colour[10:20, 12:30], alpha[10:20, 12:30] = (255, 160, 0), 255
    assert (arrays.bleed_colours(colour, alpha) == (255, 160, 0)).all()
    colour[10:20, 30:40], alpha[10:20, 30:40] = (0, 0, 200), 1
    filled = arrays.bleed_colours(colour, alpha)
    np.testing.assert_array_equal(filled[10:20, 12:40], colour[10:20, 12:40])
    assert (filled.reshape(-1, 3).max(axis=1) > 110).all()  # nothing darker than any mixture of the two
    assert filled[14, 9, 2] == 0  # near the orange one all is orange
    for values in (np.full_like(alpha, 255), np.zeros_like(alpha)):
        assert arrays.bleed_colours(colour, values) is colour
    assert arrays.visible_window(alpha, 5) == (slice(5, 25), slice(7, 45))
    assert arrays.visible_window(alpha, 16) == (slice(0, 36), slice(0, 56))
    assert colour[arrays.visible_window(np.zeros_like(alpha), 16)].size == 0


def test_the_middle_of_an_image_and_the_same_of_a_larger_one():
    window = arrays.middle_window((9, 20, 3), (4, 50))
    assert window == (slice(2, 6), slice(0, 20))
    assert arrays.middle_window((9, 20), (9, 5)) == (slice(0, 9), slice(7, 12))
    assert arrays.enlarge_window(window, 4) == (slice(8, 24), slice(0, 80))


def test_sixteen_bits_become_eight_by_rounding():
    values = np.array([0, 128, 129, 257, 65535, 65535 - 128, 65535 - 129], np.uint16).reshape(1, -1, 1)
    expected = np.rint(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(arrays.to_uint8(values), expected)
    assert arrays.to_uint8(RGB) is RGB


@pytest.mark.parametrize(
    "call",
    [
        lambda: arrays.to_tensor(GRAY[..., None]),
        lambda: arrays.to_tensor(RGB.astype(np.int32)),
        lambda: arrays.to_tensor(np.zeros((0, 4, 3), np.uint8)),
        lambda: arrays.from_tensor(np.zeros((2, 3, 4, 4), np.float32)),
        lambda: arrays.from_tensor(np.zeros((1, 3, 4, 4), np.uint8)),
        lambda: arrays.from_tensor(np.zeros((1, 3, 4, 4)), np.int16),
        lambda: arrays.luma(RGBA),
        lambda: arrays.to_rgb(np.zeros((4, 4, 5), np.uint8)),
    ],
)
def test_arrays_of_another_kind_are_refused(call):
    with pytest.raises(ShapeError):
        call()
