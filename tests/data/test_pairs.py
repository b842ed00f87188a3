"""Evaluation sets in the layouts that people have on disk, and the ways such a folder can be wrong."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest

from hasn_edge.data.pairs import (
    absolute_source,
    bicubic_baseline,
    held_out_sets,
    linear_baseline,
    load_eval_set,
    load_eval_sets,
    shipped_eval_set,
)
from hasn_edge.data.resize import imresize
from hasn_edge.errors import InputError
from hasn_edge.evaluation.evaluate import score_images
from hasn_edge.images.arrays import from_tensor, to_tensor
from hasn_edge.images.codec import write_image


def _image(size=(26, 35), channels=3, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(
        0, np.iinfo(dtype).max, (*size, channels), dtype, endpoint=True
    )


def _make(folder, hr="HR", lr="LRbicx4", lr_name="{}.png", names=("b", "a"), scale=4):
    for seed, name in enumerate(names):
        pixels = _image(seed=seed)
        write_image(folder / hr / f"{name}.png", pixels)
        if lr:
            cut = pixels[: 26 // scale * scale, : 35 // scale * scale]
            small = imresize(cut, scale=1 / scale)
            small[0, 0] = 1, 2, 3  # so that a test can tell a file from what imresize makes
            write_image(folder / lr / lr_name.format(name), small)
    return folder


@pytest.mark.parametrize(
    ("hr", "lr", "lr_name"),
    [
        ("HR", "LRbicx4", "{}.png"),
        ("HR", "LR_bicubic/X4", "{}x4.png"),
        ("GTmod12", "LRbicx4", "{}.png"),
        ("DIV2K_valid_HR", "DIV2K_valid_LR_bicubic/X4", "{}x4.png"),
        ("Flickr2K_HR", "Flickr2K_LR_bicubic/X4", "{}x4.png"),
        ("HR", "LRbicx4", "{}.BMP"),
    ],
)
def test_layouts_with_lr_files(tmp_path, hr, lr, lr_name):
    eval_set = load_eval_set(f"mine={_make(tmp_path, hr, lr, lr_name)}", 4)
    assert (eval_set.name, eval_set.scale, len(eval_set)) == ("mine", 4, 2)
    assert [pair.name for pair in eval_set] == ["a", "b"]
    for seed, pair in zip((1, 0), eval_set, strict=True):
        np.testing.assert_array_equal(pair.hr(), _image(seed=seed)[:24, :32])
        assert pair.lr().shape == (6, 8, 3)
        assert pair.lr()[0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_without_lr_for_the_scale_it_is_made(tmp_path, scale):
    folder = _make(tmp_path / "photos", lr="LRbicx8")
    for source in (folder, folder / "HR"):
        pair = load_eval_set(source, scale).pairs[1]
        hr = pair.hr()
        assert hr.shape == (26 // scale * scale, 35 // scale * scale, 3)
        np.testing.assert_array_equal(pair.lr(), imresize(hr, scale=1 / scale))


def test_the_published_sets(shared_data):
    for name, count in (("Set5", 5), ("Set14", 14)):
        eval_set = load_eval_set((name, shared_data / "eval" / name), 4)
        assert len(eval_set) == count
        for pair in eval_set:
            assert pair.lr_path is not None
            assert pair.hr().shape[:2] == tuple(4 * side for side in pair.lr().shape[:2])


def test_gray_alpha_and_sixteen_bit_images_become_8_bit_rgb(tmp_path):
    write_image(tmp_path / "gray.png", _image(channels=1))
    write_image(tmp_path / "alpha.png", _image(channels=4))
    write_image(tmp_path / "deep.png", _image(dtype=np.uint16))
    for pair in load_eval_set(tmp_path, 4):
        assert (pair.hr().shape, pair.hr().dtype) == ((24, 32, 3), np.uint8)
        assert (pair.lr().shape, pair.lr().dtype) == ((6, 8, 3), np.uint8)


def test_names(tmp_path, monkeypatch):
    _make(tmp_path / "My Set")
    monkeypatch.chdir(tmp_path)
    assert load_eval_set("My Set", 4).name == "My Set"
    assert load_eval_set("Short=My Set", 4).name == "Short"
    assert load_eval_set(("Tuple", "My Set"), 4).name == "Tuple"
    _make(tmp_path / "a=b")
    assert load_eval_set("a=b", 4).name == "a=b"
    sources = ["My Set", "Short=My Set", "a=b", "Short=a=b"]
    names, absolute = ["My Set", "Short", "a=b", "Short"], [absolute_source(text) for text in sources]
    monkeypatch.chdir(tmp_path / "My Set")
    assert load_eval_set(".", 4).name == "My Set"
    assert [load_eval_set(text, 4).name for text in absolute] == names
    shutil.rmtree(tmp_path / "a=b")
    with pytest.raises(InputError, match=f"{tmp_path}/a=b: no such folder for the set a=b"):
        load_eval_set(absolute[2], 4)


def test_a_set_travels_to_another_process(tmp_path):
    eval_set = load_eval_set(_make(tmp_path), 4)
    assert pickle.loads(pickle.dumps(eval_set)) == eval_set


def _empty(folder):
    (folder / "HR").mkdir(parents=True)


def _no_counterpart(folder):
    (_make(folder) / "LRbicx4" / "a.png").unlink()


def _extra(folder):
    write_image(_make(folder) / "LRbicx4" / "c.png", _image())


def _wrong_scale(folder):
    _make(folder, lr="LRbicx4", scale=3)


def _two_of_a_name(folder):
    write_image(_make(folder) / "HR" / "a.bmp", _image())


def _too_small(folder):
    write_image(folder / "dot.png", _image((3, 9)))


def _broken(folder):
    (_make(folder) / "HR" / "a.png").write_text("not an image")


def _several(folder):
    _make(_make(folder, "A_HR", None), "B_HR", None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_empty, r"set mine: .*HR: no image directly inside it.*expected HR beside LRbicx4, or images"),
        (
            _no_counterpart,
            r"HR/a\.png has no counterpart in .*LRbicx4; expected a\.png or ax4\.png.*; add it, or",
        ),
        (_extra, r"LRbicx4/c\.png has no counterpart among the HR"),
        (_wrong_scale, r"LRbicx4/a\.png is 11 x 8 pixels, expected 8 x 6 at x4 since .*HR/a\.png is 35 x 26"),
        (_two_of_a_name, r"a\.bmp and .*a\.png have one name; remove one"),
        (_too_small, r"dot\.png is 9 x 3 pixels, too small for x4"),
        (_broken, r"a\.png: not an image that can be read: it is text"),
        (_several, r"has several sets \(A_HR, B_HR\); name one, e\.g\. NAME=.*A_HR"),
    ],
)
def test_a_wrong_folder_is_refused_before_anything_is_computed(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(InputError, match=message):
        load_eval_set(f"mine={tmp_path}", 4)


def test_a_misspelt_folder_is_named_with_its_neighbour(tmp_path):
    _make(tmp_path / "Set14")
    with pytest.raises(InputError, match=r"Set41: no such folder for the set S; did you mean .*Set14\?"):
        load_eval_set(f"S={tmp_path}/Set41", 4)
    with pytest.raises(InputError, match=r"no such folder for .*check the spelling.*nowhere is missing too"):
        load_eval_set(tmp_path / "nowhere" / "Set5", 4)
    with pytest.raises(InputError, match=r"'=x': expected NAME=DIR"):
        load_eval_set("=x", 4)


@pytest.mark.parametrize(("scale", "least"), [(2, 16), (3, 18), (4, 20)])
def test_what_is_too_small_for_ssim_is_refused_before_anything_is_measured(tmp_path, scale, least):
    def sets(size):
        write_image(tmp_path / "set" / "a.png", _image(size))
        return load_eval_sets([f"mine={tmp_path / 'set'}"], scale)

    def measure(eval_set):
        return score_images(bicubic_baseline(scale), eval_set)

    assert len(measure(*sets((least, 2 * least))).images) == 1
    message = (
        rf"mine: .*a\.png is {2 * least} x {least - 1} pixels, .*SSIM at x{scale} needs {least} x {least}"
    )
    with pytest.raises(InputError, match=message):
        sets((least - 1, 2 * least))
    with pytest.raises(InputError, match=message):
        held_out_sets(scale, f"mine={tmp_path / 'set'}")
    with pytest.raises(InputError, match="SSIM needs"):
        measure(load_eval_set(tmp_path / "set", scale))


def test_both_div2k_halves_in_one_folder_mean_the_validation_half(tmp_path):
    _make(_make(tmp_path, "DIV2K_train_HR", None, names=("t",)), "DIV2K_valid_HR", None, names=("v",))
    assert [pair.name for pair in load_eval_set(tmp_path, 4)] == ["v"]


def test_the_images_that_ship():
    for scale in (2, 4):
        eval_set = shipped_eval_set(scale)
        assert len(eval_set) >= 4
        assert all(pair.lr().shape[0] * scale == pair.hr().shape[0] for pair in eval_set)


def test_the_baseline_is_imresize_of_the_8_bit_image():
    x = _image((9, 7))
    y = bicubic_baseline(3)(to_tensor(x))
    np.testing.assert_array_equal(from_tensor(y), imresize(x, scale=3))


def test_the_linear_baseline_is_the_best_filter_of_its_size(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(2):
        noise = cv2_blur(rng.random((96, 120, 3)))
        write_image(tmp_path / f"{index}.png", np.rint(255 * noise).astype(np.uint8))
    images = load_eval_set(("S", tmp_path), 2)
    run = linear_baseline(images)

    # scikit-learn is not here: NumPy's solver on all rows at once, of colour and place 0 alone.
    rows, values = [], []
    for pair in images:
        x = np.pad(to_tensor(pair.lr())[0], ((0, 0), (2, 2), (2, 2)), mode="edge")
        y = to_tensor(pair.hr())[0, :, ::2, ::2]
        for c, i, j in np.ndindex(y.shape):
            rows.append([*x[c, i : i + 5, j : j + 5].ravel(), 1.0])
            values.append(y[c, i, j])
    weights = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    expected = np.array(rows) @ weights
    got = np.concatenate([run(to_tensor(pair.lr()))[0, :, ::2, ::2].ravel() for pair in images])
    assert np.abs(got - expected).max() < 1e-4

    def error(run):
        return sum(float(np.square(run(to_tensor(p.lr())) - to_tensor(p.hr())).sum()) for p in images)

    assert error(run) < error(bicubic_baseline(2))


def cv2_blur(noise):
    import cv2

    return cv2.GaussianBlur(noise, (0, 0), 1.5)
