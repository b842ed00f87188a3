"""imresize against published LR images, against Pillow's kernel, and at the sizes where indexing breaks."""

from __future__ import annotations

import numpy as np
import pytest

from hasn_edge.data.resize import imresize
from hasn_edge.errors import InputError, ShapeError
from hasn_edge.images import metrics


def _images(shared_data, name):
    import cv2

    for path in sorted((shared_data / "eval" / name / "HR").glob("*.png")):
        hr = cv2.imread(str(path))[..., ::-1]
        lr = cv2.imread(str(path.parents[1] / "LRbicx4" / path.name))[..., ::-1]
        yield path.stem, hr[: hr.shape[0] // 4 * 4, : hr.shape[1] // 4 * 4], lr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "psnr", "ssim"), [("Set5", 5, 28.43, 0.811), ("Set14", 14, 26.09, 0.705)]
)
def test_published_lr_images_bit_for_bit_and_the_bicubic_baseline(shared_data, name, count, psnr, ssim):
    scores = []
    for stem, hr, lr in _images(shared_data, name):
        np.testing.assert_array_equal(imresize(hr, scale=1 / 4), lr, err_msg=stem)
        scores.append(metrics.psnr_and_ssim_y(imresize(lr, scale=4), hr, border=4))
    assert len(scores) == count
    mean = np.mean(scores, axis=0)
    assert mean[0] == pytest.approx(psnr, abs=0.005)
    assert mean[1] == pytest.approx(ssim, abs=0.0005)


@pytest.mark.parametrize("size", [(20, 31), (33, 45), (25, 100), (160, 24), (53, 77), (61, 90), (122, 180)])
def test_the_inside_equals_pillows_bicubic(size):
    # Pillow has the same kernel and antialiasing but cuts the kernel at the edge instead of mirroring.
    from PIL import Image

    x = np.random.default_rng(0).normal(100, 40, (61, 90))
    resized = Image.fromarray(x.astype(np.float32)).resize(size[::-1], Image.Resampling.BICUBIC)
    expected = np.asarray(resized)
    ours = imresize(x, size=size)
    rows = int(np.ceil(2 * max(1, size[0] / 61))) + 2
    columns = int(np.ceil(2 * max(1, size[1] / 90))) + 2
    inside = (slice(rows, -rows), slice(columns, -columns))
    np.testing.assert_allclose(ours[inside], expected[inside], rtol=0, atol=2e-4)


@pytest.mark.parametrize("scale", [4, 2, 0.5])
def test_the_edge_mirrors_with_the_edge_sample_repeated(scale):
    x = np.random.default_rng(1).normal(0, 1, (8, 10))
    cut = int(8 * scale)
    mirrored = imresize(np.pad(x, 8, mode="symmetric"), scale=scale)
    np.testing.assert_allclose(imresize(x, scale=scale), mirrored[cut:-cut, cut:-cut], rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (1, 7, 3), (5, 1, 1), (2, 3, 4)])
@pytest.mark.parametrize("scale", [4, 3, 2, 1, 0.5, 1 / 3, 0.25, 0.01])
def test_a_constant_stays_constant_at_any_size(shape, scale):
    for dtype in (np.uint8, np.uint16, np.float64):
        out = imresize(np.full(shape, 173, dtype), scale=scale)
        assert out.dtype == dtype
        assert out.shape == (*(int(np.ceil(scale * s)) for s in shape[:2]), *shape[2:])
        assert out.flags.c_contiguous
        np.testing.assert_allclose(out, 173, rtol=1e-12)


def test_a_straight_ramp_stays_straight():
    # Cubic convolution reproduces linear functions: sample centres are at (i + 0.5) / scale - 0.5.
    x = np.arange(64, dtype=np.float64)[None].repeat(12, axis=0)
    for scale in (2, 4, 0.5, 0.25):
        out = imresize(x, scale=scale)
        expected = (np.arange(out.shape[1]) + 0.5) / scale - 0.5
        inside = slice(9, -9) if scale > 1 else slice(3, -3)
        np.testing.assert_allclose(out[2, inside], expected[inside], atol=1e-12)


def test_uint16_overshoot_is_clipped_and_rounds_like_uint8():
    x = np.zeros((8, 8), np.uint16)
    x[:, 4:] = 65535
    out = imresize(x, scale=4)
    assert (out.min(), out.max()) == (0, 65535)
    assert imresize(x.astype(np.float64), scale=4).max() > 65535


def test_the_input_is_left_alone_and_views_work():
    x = np.random.default_rng(2).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    before = x.copy()
    np.testing.assert_array_equal(imresize(x[::-1, ::-1], scale=0.5), imresize(x, scale=0.5)[::-1, ::-1])
    np.testing.assert_array_equal(x, before)
    assert imresize(x, scale=1) is not x
    np.testing.assert_array_equal(imresize(x, scale=1), x)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ShapeError, r"got shape \(0, 4\)", {"image": np.zeros((0, 4)), "scale": 2}),
        (ShapeError, r"got shape \(4,\)", {"image": np.zeros(4), "scale": 2}),
        (ShapeError, "got int64", {"image": np.zeros((4, 4), np.int64), "scale": 2}),
        (InputError, "scale is nan", {"image": np.zeros((4, 4)), "scale": float("nan")}),
        (InputError, "scale is -1", {"image": np.zeros((4, 4)), "scale": -1}),
        (InputError, "at least 1 x 1", {"image": np.zeros((4, 4)), "size": (0, 4)}),
        (InputError, "either size", {"image": np.zeros((4, 4))}),
        (InputError, "either size", {"image": np.zeros((4, 4)), "size": (2, 2), "scale": 0.5}),
    ],
)
def test_what_cannot_be_resized_is_refused(error, message, arguments):
    with pytest.raises(error, match=message):
        imresize(arguments.pop("image"), **arguments)
