"""Degraded LR against SciPy's blur, Pillow's JPEG and the statistics that the noise is described with."""

import io
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.ndimage import gaussian_filter

from hasn_edge.cli import cli
from hasn_edge.data.degrade import Degradation, degrade, degrade_patch, degrade_set
from hasn_edge.data.pairs import load_eval_set
from hasn_edge.errors import ConfigError, InputError, OutputError
from hasn_edge.images.codec import read_image, write_image
from hasn_edge.train.recipe import load_recipe

NONE = Degradation(
    share=1.0, blur=(0.0, 0.0), read_noise=(0.0, 0.0), shot_noise=(0.0, 0.0), gray_noise=0.0, jpeg=(100, 100)
)


def generator(seed=0):
    return np.random.default_rng(seed)


def photo(height=64, width=96):
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(x / (5 + c)) * np.cos(y / (7 - c)) for c in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


class WithoutJpeg:
    """A generator whose first three draws do blur and noise and no JPEG; the rest is NumPy's."""

    def __init__(self, seed=0):
        self._random, self._first = np.random.default_rng(seed), True

    def random(self, size=None):
        if self._first:
            self._first = False
            return np.array([0.0, 0.0, 1.0])
        return self._random.random(size)

    def __getattr__(self, name):
        return getattr(self._random, name)


def test_blur_is_scipys_gaussian():
    settings = replace(NONE, blur=(0.7, 0.7))
    blurred = degrade(photo(), settings, WithoutJpeg())
    expected = np.rint(gaussian_filter(photo().astype(np.float64), (0.7, 0.7, 0), mode="mirror", radius=3))
    assert np.abs(blurred.astype(int) - expected).max() <= 1
    assert np.abs(photo().astype(int) - expected).max() > 3


@pytest.mark.parametrize(("level", "read", "shot"), [(128, 4.0, 0.0), (64, 0.0, 10.0), (200, 3.0, 8.0)])
def test_noise_has_the_variance_that_its_two_parts_add_up_to(level, read, shot):
    settings = replace(NONE, read_noise=(read, read), shot_noise=(shot, shot))
    flat = np.full((256, 256, 3), level, np.uint8)
    noise = degrade(flat, settings, WithoutJpeg()).astype(np.float64) - level
    expected = read**2 + shot**2 * level / 255 + 1 / 12  # rounding
    assert noise.var() == pytest.approx(expected, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.05)
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.02


def test_gray_noise_is_the_same_in_all_colours():
    settings = replace(NONE, read_noise=(5.0, 5.0), gray_noise=1.0)
    noisy = degrade(np.full((32, 32, 3), 100, np.uint8), settings, WithoutJpeg())
    assert np.array_equal(noisy[..., 0], noisy[..., 1])
    assert np.array_equal(noisy[..., 0], noisy[..., 2])
    assert noisy.std() > 4


@pytest.mark.parametrize("quality", [40, 75, 95])
def test_jpeg_loses_what_pillows_loses(quality):
    given, settings = photo(), replace(NONE, jpeg=(quality, quality))
    losses = []
    for subsampling in (0, 2):
        stream = io.BytesIO()
        Image.fromarray(given).save(stream, "JPEG", quality=quality, subsampling=subsampling)
        losses.append(np.asarray(Image.open(stream).convert("RGB"), int) - given)
    for seed in range(6):
        lost = degrade(given, settings, generator(seed)).astype(int) - given
        assert any(np.abs(lost - other).max() <= 2 for other in losses)
    assert np.abs(losses[0] - losses[1]).max() > 2  # the two could not be mistaken for each other


def test_each_step_is_as_frequent_as_it_is_told_to_be():
    settings = replace(NONE, share=0.3, read_noise=(8.0, 8.0), jpeg=(100, 100))
    flat = np.full((16, 16, 3), 90, np.uint8)
    changed = [degrade(flat, settings, generator(seed)).std() > 4 for seed in range(600)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.06)
    assert np.array_equal(degrade(photo(), replace(settings, share=0.0), generator()), photo())


def test_a_patch_is_degraded_together_with_what_lies_around_it():
    image = photo(64, 64)
    settings = replace(NONE, blur=(1.0, 1.0))
    whole = degrade(image, settings, WithoutJpeg())

    class Fixed(WithoutJpeg):
        def integers(self, *args, **kwargs):
            return np.array([3, 5]) if kwargs.get("size") == 2 else self._random.integers(*args, **kwargs)

    for top, left in ((0, 0), (20, 30), (40, 40)):
        patch = degrade_patch(image, top, left, 24, settings, Fixed())
        assert np.array_equal(patch, whole[top : top + 24, left : left + 24])


def test_jpegs_grid_lies_anywhere_in_a_patch():
    ramp = np.linspace(20, 235, 96)[None, :, None]
    image = np.broadcast_to(ramp, (96, 96, 3)).astype(np.uint8)
    settings = replace(NONE, jpeg=(1, 1))  # nothing is left but the mean of each block
    columns = np.zeros(8)
    for seed in range(200):
        patch = degrade_patch(image, 30, 30, 32, settings, generator(seed)).astype(int)
        steps = np.abs(np.diff(patch.mean(-1), axis=1)).mean(0)
        columns[int(np.argmax([steps[k::8].mean() for k in range(8)]))] += 1
    assert (columns > 0).all()


def test_a_set_has_the_names_and_sizes_of_its_source_and_is_decided_by_the_seed(tmp_path):
    for name, pixels in (("a", photo(62, 90)), ("b", photo(48, 48))):
        write_image(tmp_path / "set" / "HR" / f"{name}.png", pixels)
    settings = load_recipe("hasn-x4-camera").degradation
    for folder, seed in (("one", 0), ("same", 0), ("other", 1)):
        assert degrade_set(tmp_path / "set", tmp_path / folder, settings, scale=4, seed=seed) == ("a", "b")
    sets = [load_eval_set(tmp_path / name, 4) for name in ("set", "one", "same", "other")]
    for plain, one, same, other in zip(*sets, strict=True):
        assert np.array_equal(plain.hr(), one.hr())
        assert plain.lr().shape == one.lr().shape
        assert one.lr_path is not None
        assert np.array_equal(one.lr(), same.lr())
        assert not np.array_equal(one.lr(), other.lr())
        assert not np.array_equal(one.lr(), plain.lr())
    with pytest.raises(OutputError, match="not empty; expected a new folder"):
        degrade_set(tmp_path / "set", tmp_path / "one", settings, scale=4)
    with pytest.raises(InputError, match=r"degradation.share is 0"):
        degrade_set(tmp_path / "set", tmp_path / "two", Degradation(), scale=4)


def test_a_set_that_is_not_whole_leaves_nothing(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / "set" / "HR" / f"{name}.png", photo(48, 48))

    def stop(step):
        if step.done == 1:
            assert not (tmp_path / "out").exists()
            raise KeyboardInterrupt

    settings = load_recipe("hasn-x4-camera").degradation
    with pytest.raises(KeyboardInterrupt):
        degrade_set(tmp_path / "set", tmp_path / "out", settings, scale=4, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    (tmp_path / "out").mkdir()  # an empty folder may stand there
    degrade_set(tmp_path / "set", tmp_path / "out", settings, scale=4)
    assert sorted(path.name for path in tmp_path.glob("out/*/*")) == ["a.png", "a.png", "b.png", "b.png"]


def test_the_command_degrades_as_the_recipe_has_it(tmp_path):
    write_image(tmp_path / "set" / "a.png", photo())
    result = CliRunner().invoke(cli, ["data", "degrade", str(tmp_path / "set"), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "1 image, degraded as hasn-x4-camera has it, seed 0" in result.output
    assert read_image(tmp_path / "out" / "LRx4" / "a.png").shape == (16, 24, 3)
    refused = CliRunner().invoke(
        cli, ["data", "degrade", str(tmp_path / "set"), "-o", str(tmp_path / "o"), "--recipe", "hasn-x4"]
    )
    assert refused.exit_code == 1
    assert "expected a recipe with [degradation]" in refused.output
    assert not (tmp_path / "o").exists()


def test_bounds_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match=r"jpeg is \[95, 40\]; expected the smaller bound first"):
        Degradation(jpeg=(95, 40))
