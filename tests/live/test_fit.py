"""Frames are cut around their middle and resized; what is resized is what OpenCV makes of the part."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from hasn_edge.errors import InputError
from hasn_edge.live.fit import find_part, fit, keep_shape, square_pixels
from hasn_edge.live.frame import Frame
from hasn_edge.live.self_test import check_self_test, measure_quality, self_test_size, shrink_for_self_test


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_nothing_to_do_is_nothing_done():
    pixels = image(18, 32)
    assert fit(pixels, (18, 32)) is pixels


def test_the_middle_is_cut_out():
    pixels = image(20, 20)
    np.testing.assert_array_equal(fit(pixels, (10, 20)), pixels[5:15])
    assert fit(pixels, (10, 20)).flags.c_contiguous


def test_one_row_is_rather_cut_off_than_resized():
    pixels = image(35, 63)
    np.testing.assert_array_equal(fit(pixels, (34, 62)), pixels[:34, :62])
    assert find_part((35, 63), (34, 62)) == (34, 62)


def test_shrinking_averages():
    pixels = image(54, 96)
    expected = pixels.reshape(18, 3, 32, 3, 3).astype(float).mean(axis=(1, 3))
    np.testing.assert_allclose(fit(pixels, (18, 32)), expected, atol=0.5)


def test_growing_is_bicubic():
    pixels = image(9, 16)
    np.testing.assert_array_equal(
        fit(pixels, (18, 32)), cv2.resize(pixels, (32, 18), interpolation=cv2.INTER_CUBIC)
    )


@pytest.mark.parametrize("size", [(1, 1), (7, 500), (500, 7), (48, 64), (180, 320)])
@pytest.mark.parametrize("captured", [(1, 1), (480, 640), (37, 200), (200, 3)])
def test_every_size_becomes_every_size(captured, size):
    assert fit(image(*captured), size).shape == (*size, 3)


def test_a_self_test_needs_a_pixel_inside_the_border_that_is_cut():
    assert self_test_size((67, 90), 4) == (16, 22)
    assert self_test_size((12, 90), 4) == (3, 22)
    with pytest.raises(InputError, match="frames of 11x100 pixels are too small .* 3x3, of .* 12x12"):
        self_test_size((100, 11), 4)
    with pytest.raises(InputError, match="20x2 is too small for a self-test at x4"):
        check_self_test((2, 20), 4)
    truth = image(12, 12)
    small = shrink_for_self_test(Frame(index=0, pixels=truth, time_s=None, captured=0.0), (3, 3), 4)
    assert np.isfinite(measure_quality(small, image(12, 12)[::-1], 4).hasn_db)


@pytest.mark.parametrize("aspect", [2.0, 64 / 45, 0.5])
@pytest.mark.parametrize("captured", [(36, 40), (40, 36)])
def test_pixels_that_are_not_square_are_stretched(captured, aspect):
    """A frame that is stretched by a whole number has each pixel that often, to bicubic's accuracy."""
    shown = square_pixels(captured, aspect)
    assert shown[1] / shown[0] == pytest.approx(captured[1] * aspect / captured[0], rel=0.02)
    assert min(shown[0] - captured[0], shown[1] - captured[1]) == 0, "nothing of the frame is lost"
    assert find_part(captured, shown, aspect) == captured
    height, width = captured
    disc = np.hypot(*(np.mgrid[0:height, 0:width] - np.array([height // 2, width // 2])[:, None, None]))
    pixels = np.repeat(np.uint8(255 * (disc < 12))[..., None], 3, axis=2)
    rows, columns = (np.ptp(np.nonzero(fit(pixels, shown, aspect)[..., 0] > 127)[axis]) for axis in (0, 1))
    assert columns / rows == pytest.approx(aspect, rel=0.1), "a round disc is as wide as it is shown"
    # Cut to a square, it is the middle that is kept, whatever its pixels are.
    assert fit(pixels, (20, 20), aspect).shape == (20, 20, 3)
    high, wide = find_part(captured, (20, 20), aspect)
    assert wide * aspect / high == pytest.approx(1, rel=0.05)


def test_what_is_stretched_and_shrunk_averages_what_it_shrinks():
    pixels = image(40, 10)
    half = pixels.reshape(20, 2, 10, 3).astype(float).mean(axis=1)
    expected = cv2.resize(np.rint(half).astype(np.uint8), (20, 20), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(fit(pixels, (20, 20), 4.0).astype(int), expected, atol=3)


@pytest.mark.parametrize(
    ("captured", "size"),
    [
        ((1080, 1920), (180, 320)),
        ((1920, 1080), (320, 180)),
        ((480, 640), (208, 276)),
        ((36, 64), (36, 64)),
        ((35, 63), (34, 62)),
        ((1, 1), (1, 1)),
    ],
)
def test_a_shape_is_kept_and_never_grows(captured, size):
    height, width = keep_shape(captured, (180, 320))
    assert (height, width) == size
    assert height * width <= 180 * 320


def test_bicubic_is_opencvs_and_made_once():
    frame = Frame(index=0, pixels=image(10, 12), time_s=None, captured=0.0)
    expected = cv2.resize(frame.pixels, (48, 40), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(frame.bicubic(4), expected)
    assert frame.bicubic(4) is frame.bicubic(4)
    assert frame.bicubic(2).shape == (20, 24, 3)
