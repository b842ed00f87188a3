"""PSNR, SSIM and SQNR against scikit-image and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from hasn_edge.errors import ShapeError
from hasn_edge.images import metrics


def _image(shape, *, seed=0):
    rng = np.random.default_rng(seed)
    smooth = np.add.outer(np.linspace(0, 150, shape[0]), np.linspace(0, 80, shape[1]))
    noise = rng.normal(0, 12, shape)
    return np.clip((smooth[..., None] if len(shape) == 3 else smooth) + noise, 0, 255)


@pytest.mark.parametrize("shape", [(11, 11), (11, 40), (23, 12), (75, 64), (200, 31)])
def test_psnr_and_ssim_equal_scikit_image(shape):
    a, b = _image(shape, seed=1), _image(shape, seed=2)
    assert metrics.psnr(a, b, data_range=255) == pytest.approx(
        peak_signal_noise_ratio(a, b, data_range=255), abs=1e-10
    )
    # scikit-image averages the map inside a border of half the window: the positions of a "valid" filter.
    expected = structural_similarity(
        a, b, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert metrics.ssim(a, b, data_range=255) == pytest.approx(expected, abs=1e-10)


def test_ssim_scales_with_the_data_range():
    a, b = _image((30, 30), seed=1), _image((30, 30), seed=2)
    assert metrics.ssim(a / 255, b / 255, data_range=1) == pytest.approx(metrics.ssim(a, b, data_range=255))


def test_luma_metrics_equal_scikit_image_on_its_own_luma():
    from skimage.color import rgb2ycbcr

    a = np.rint(_image((60, 47, 3), seed=1)).astype(np.uint8)
    b = np.rint(_image((60, 47, 3), seed=2)).astype(np.uint8)
    ya, yb = (rgb2ycbcr(x)[4:-4, 4:-4, 0] for x in (a, b))
    assert metrics.psnr_y(a, b, border=4) == pytest.approx(
        peak_signal_noise_ratio(ya, yb, data_range=255), abs=1e-6
    )
    expected = structural_similarity(
        ya, yb, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert metrics.psnr_and_ssim_y(a, b, border=4)[1] == pytest.approx(expected, abs=1e-7)
    assert metrics.psnr_and_ssim_y(a, b, border=4) == (
        metrics.psnr_y(a, b, border=4),
        metrics.psnr_and_ssim_y(a, b, border=4)[1],
    )


def test_the_border_is_cut_from_all_four_sides():
    a = np.zeros((20, 20, 3), np.uint8)
    b = a.copy()
    b[0], b[-1], b[:, 0], b[:, -1] = 255, 255, 255, 255
    assert metrics.psnr_y(a, b, border=1) == math.inf
    assert metrics.psnr_y(a, b, border=0) < 20


def test_unsigned_differences_do_not_wrap_around():
    a, b = np.full((4, 4, 3), 10, np.uint8), np.full((4, 4, 3), 12, np.uint8)
    assert metrics.psnr_rgb(a, b) == pytest.approx(10 * math.log10(255**2 / 4))
    assert metrics.psnr_rgb(b, a) == metrics.psnr_rgb(a, b)


def test_identical_images():
    a = np.rint(_image((20, 20, 3))).astype(np.uint8)
    assert metrics.psnr_rgb(a, a) == math.inf
    assert metrics.psnr_and_ssim_y(a, a, border=0)[1] == pytest.approx(1.0, abs=1e-12)


def test_mean_leaves_identical_images_out():
    assert metrics.mean_db([30.0, math.inf, 32.0]) == 31.0
    assert metrics.mean_db([math.inf, math.inf]) == math.inf
    assert math.isnan(metrics.mean_db([]))


def test_float16_inputs_are_not_squared_in_float16():
    big = np.full(10, 60000, np.float16)
    assert metrics.psnr(big, big * np.float16(0.9), data_range=60000) == pytest.approx(20, abs=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.psnr(np.ones(3), np.ones(4), data_range=1), r"one size, got \(3,\) and \(4,\)"),
        (lambda: metrics.ssim(np.ones((10, 30)), np.ones((10, 30)), data_range=1), "at least 11 x 11"),
        (lambda: metrics.ssim(np.ones((20, 30, 3)), np.ones((20, 30, 3)), data_range=1), "one channel"),
        (lambda: metrics.psnr_rgb(np.ones((2, 2, 3)), np.ones((2, 2, 3))), "uint8, got .* of float64"),
        (lambda: metrics.psnr_y(*[np.ones((8, 8, 3), np.uint8)] * 2, border=4), "at least one pixel"),
        (lambda: metrics.psnr_y(*[np.ones((8, 8, 3), np.uint8)] * 2, border=-1), "border is -1"),
        (lambda: metrics.psnr_y(*[np.ones((8, 8, 1), np.uint8)] * 2, border=0), "RGB image"),
        (lambda: metrics.psnr(np.ones(0), np.ones(0), data_range=1), "at least one"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, message):
    with pytest.raises(ShapeError, match=message):
        call()
