import numpy as np
import pytest

from hasn_edge.data import prepare as preparation
from hasn_edge.data.prepare import prepare
from hasn_edge.data.resize import imresize
from hasn_edge.errors import InputError
from hasn_edge.images.arrays import to_rgb
from hasn_edge.images.codec import read_image, read_rgb8, write_image
from hasn_edge.progress import Step


def image(height, width, seed=0):
    random = np.random.default_rng(seed)
    return imresize(random.integers(256, size=(8, 8, 3), dtype=np.uint8), size=(height, width))


def test_images_are_cut_to_whole_lr_pixels_and_lr_is_matlabs(tmp_path):
    write_image(tmp_path / "in/a.png", image(99, 121))
    write_image(tmp_path / "in/b.png", image(64, 80, 1))
    calls = []
    report = prepare([tmp_path / "in"], tmp_path / "out", min_side=60, progress=calls.append)
    hr = report.shards.hr(0)
    assert np.array_equal(hr, image(99, 121)[:96, :120])
    assert np.array_equal(report.shards.lr(0), imresize(hr, scale=0.25))
    assert (report.images, report.made_lr, report.skipped) == (2, 2, ())
    assert report.hr_megapixels == pytest.approx((96 * 120 + 64 * 80) / 1e6)
    assert calls == [Step("a.png", 1, 2), Step("b.png", 2, 2)]


def test_published_lr_images_are_what_is_made_from_their_hr(tmp_path, shared_data):
    """Set5's HR through our preparation equals the LR that the benchmark publishes."""
    report = prepare([shared_data / "eval/Set5/HR"], tmp_path / "out", min_side=60)
    for number, entry in enumerate(report.shards.entries):
        theirs = to_rgb(read_image(shared_data / "eval/Set5/LRbicx4" / entry.name))
        assert np.array_equal(report.shards.lr(number), theirs), entry.name


def test_downscaling_first(tmp_path):
    write_image(tmp_path / "in/a.png", image(203, 177))
    report = prepare([tmp_path / "in"], tmp_path / "out", downscale=2, min_side=60)
    hr = imresize(image(203, 177)[:200, :176], scale=0.5)
    assert np.array_equal(report.shards.hr(0), hr)
    assert np.array_equal(report.shards.lr(0), imresize(hr, scale=0.25))


def test_lr_that_is_there_is_used(tmp_path):
    hr = image(80, 96)
    lr = np.clip(imresize(hr, scale=0.25).astype(int) + 1, 0, 255).astype(np.uint8)  # as another tool made it
    write_image(tmp_path / "in/HR/a.png", hr)
    write_image(tmp_path / "in/LRbicx4/a.png", lr)
    report = prepare([tmp_path / "in"], tmp_path / "out", min_side=60)
    assert np.array_equal(report.shards.lr(0), lr)
    assert report.made_lr == 0


def bad_folder(root):
    """One good image, and one of everything that can be wrong."""
    for name, seed in (
        ("good", 0),
        ("tiny", 1),
        ("other", 2),
        ("wrong_scale", 3),
        ("odd", 4),
        ("twin", 0),
        ("cut", 5),
    ):
        write_image(root / f"HR/{name}.png", image(*((80, 96) if name != "tiny" else (80, 40)), seed))
        write_image(root / f"LRbicx4/{name}.png", imresize(image(80, 96, seed), scale=0.25))
    write_image(root / "LRbicx4/tiny.png", imresize(image(80, 40, 1), scale=0.25))
    write_image(root / "LRbicx4/other.png", 255 - imresize(image(80, 96, 2), scale=0.25))
    write_image(root / "LRbicx4/wrong_scale.png", imresize(image(80, 96, 3), scale=0.5))
    write_image(root / "LRbicx4/odd.png", image(23, 20))
    cut = root / "HR/cut.png"
    cut.write_bytes(cut.read_bytes()[:-200])


REASONS = {
    "tiny": "40 x 80 pixels; the shortest side must be 60",
    "other": "does not show the same image",
    "wrong_scale": "that is x2, not x4",
    "odd": "it belongs to another image",
    "twin": "the same image as HR/good.png",
    "cut": "cut.png",
}


def test_every_unusable_image_is_named_and_left_out_when_asked(tmp_path):
    bad_folder(tmp_path / "in")
    report = prepare([tmp_path / "in"], tmp_path / "out", min_side=60, skip_bad=True)
    assert [entry.name for entry in report.shards.entries] == ["HR/good.png"]
    found = {problem.name: problem.reason for problem in report.skipped}
    assert found.keys() == {f"HR/{name}.png" for name in REASONS}
    for name, reason in REASONS.items():
        assert reason in found[f"HR/{name}.png"]


def test_one_unusable_image_refuses_all_and_writes_nothing(tmp_path):
    bad_folder(tmp_path / "in")
    # What headers and file structure say comes first, before anything is decoded ...
    with pytest.raises(InputError, match=r"4 of 7 images cannot be used:\n  HR/cut\.png: ") as got:
        prepare([tmp_path / "in"], tmp_path / "out", min_side=60)
    assert str(got.value).count("\n  ") == 4
    assert str(got.value).endswith("repair or remove them, or use skip_bad=True")
    for name in ("tiny", "odd", "wrong_scale", "cut"):
        (tmp_path / f"in/HR/{name}.png").unlink()
        (tmp_path / f"in/LRbicx4/{name}.png").unlink()
    # ... then what pixels say.
    with pytest.raises(InputError, match="2 of 3 images cannot be used"):
        prepare([tmp_path / "in"], tmp_path / "out", min_side=60)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_several_roots_share_the_search_for_duplicates(tmp_path):
    write_image(tmp_path / "a/x.png", image(80, 96))
    write_image(tmp_path / "b/y.png", image(80, 96))
    with pytest.raises(InputError, match=r"y\.png: the same image as x\.png"):
        prepare([tmp_path / "a", tmp_path / "b"], tmp_path / "out", min_side=60)


def test_images_of_the_same_bytes_and_other_sides_are_two(tmp_path):
    for name, shape in (("wide", (80, 96, 3)), ("high", (96, 80, 3))):
        write_image(tmp_path / f"in/{name}.png", np.full(shape, 200, np.uint8))
    report = prepare([tmp_path / "in"], tmp_path / "out", min_side=60)
    assert [report.shards.hr(index).shape for index in range(2)] == [(96, 80, 3), (80, 96, 3)]
    assert report.skipped == ()


def test_nothing_usable(tmp_path):
    write_image(tmp_path / "in/a.png", image(20, 20))
    with pytest.raises(InputError, match="1 of 1 images cannot be used") as got:
        prepare([tmp_path / "in"], tmp_path / "out")
    assert str(got.value).endswith("repair or remove them")  # leaving them out would leave nothing
    with pytest.raises(InputError, match=r"no image of 1 is usable; first: a\.png"):
        prepare([tmp_path / "in"], tmp_path / "out", skip_bad=True)
    with pytest.raises(InputError, match="downscale 0"):
        prepare([tmp_path / "in"], tmp_path / "out", downscale=0)


def test_the_result_does_not_depend_on_the_number_of_threads(tmp_path):
    for seed in range(6):
        write_image(tmp_path / f"in/{seed}.png", image(80, 96, seed))
    prints = {
        prepare([tmp_path / "in"], tmp_path / f"out{n}", min_side=60, workers=n).shards.fingerprint
        for n in (1, 4)
    }
    assert len(prints) == 1


def test_what_is_there_is_not_prepared_twice(tmp_path, monkeypatch):
    # 96 x 120 is whole LR pixels at both scales, 98 x 122 at 2 only
    for number, size in enumerate([(96, 120), (98, 122)]):
        write_image(tmp_path / f"in/{number}.png", image(*size, seed=number))
    decoded = []

    def read(path):
        decoded.append(path.name)
        return read_rgb8(path)

    monkeypatch.setattr(preparation, "read_rgb8", read)
    first = prepare([tmp_path / "in"], tmp_path / "x4", min_side=60, workers=1)
    assert (sorted(decoded), first.reused) == (["0.png", "1.png"], 0)
    decoded.clear()
    before = (tmp_path / "x4/hr.u8").stat().st_mtime_ns
    again = prepare([tmp_path / "in"], tmp_path / "x4", min_side=60, workers=1)
    assert (decoded, again.reused, again.images) == ([], 2, 2)
    assert (tmp_path / "x4/hr.u8").stat().st_mtime_ns == before
    assert again.hr_megapixels == first.hr_megapixels
    assert again.shards.fingerprint == first.shards.fingerprint
    other = prepare([tmp_path / "in"], tmp_path / "x2", scale=2, min_side=60, workers=1)
    assert (decoded, other.reused) == (["1.png"], 1)
    alone = prepare([tmp_path / "in"], tmp_path / "elsewhere/x2", scale=2, min_side=60)
    assert alone.reused == 0
    assert alone.shards.fingerprint == other.shards.fingerprint, "the same pixels either way"
    # a file that changed, another reduction, or one file more, is prepared
    decoded.clear()
    write_image(tmp_path / "in/0.png", image(96, 120, seed=7))
    changed = prepare([tmp_path / "in"], tmp_path / "x4", min_side=60, workers=1)
    assert decoded == ["0.png"]
    assert np.array_equal(changed.shards.hr(0), image(96, 120, seed=7))
    assert prepare([tmp_path / "in"], tmp_path / "x4", downscale=2, min_side=40, workers=1).reused == 0
