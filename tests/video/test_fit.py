"""Frames are cut around their middle and resized; what is resized is what OpenCV makes of the part."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from hasn_edge.errors import InputError
from hasn_edge.video.fit import fitted, self_test_size
from hasn_edge.video.frame import Frame


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_nothing_to_do_is_nothing_done():
    pixels = picture(18, 32)
    assert fitted(pixels, (18, 32)) is pixels


def test_the_middle_is_cut_out():
    pixels = picture(20, 20)
    np.testing.assert_array_equal(fitted(pixels, (10, 20)), pixels[5:15])
    assert fitted(pixels, (10, 20)).flags.c_contiguous


def test_shrinking_averages():
    pixels = picture(54, 96)
    expected = pixels.reshape(18, 3, 32, 3, 3).astype(float).mean(axis=(1, 3))
    np.testing.assert_allclose(fitted(pixels, (18, 32)), expected, atol=0.5)


def test_growing_is_bicubic():
    pixels = picture(9, 16)
    np.testing.assert_array_equal(
        fitted(pixels, (18, 32)), cv2.resize(pixels, (32, 18), interpolation=cv2.INTER_CUBIC)
    )


@pytest.mark.parametrize("size", [(1, 1), (7, 500), (500, 7), (48, 64), (180, 320)])
@pytest.mark.parametrize("captured", [(1, 1), (480, 640), (37, 200), (200, 3)])
def test_every_size_becomes_every_size(captured, size):
    assert fitted(picture(*captured), size).shape == (*size, 3)


def test_self_test_needs_a_pixel():
    assert self_test_size((67, 90), 4) == (16, 22)
    with pytest.raises(InputError, match="3x100 pixels are too small"):
        self_test_size((100, 3), 4)


def test_bicubic_is_opencvs_and_made_once():
    frame = Frame(index=0, pixels=picture(10, 12), time_s=None, captured=0.0)
    expected = cv2.resize(frame.pixels, (48, 40), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(frame.bicubic(4), expected)
    assert frame.bicubic(4) is frame.bicubic(4)
    assert frame.bicubic(2).shape == (20, 24, 3)
