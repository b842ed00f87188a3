"""Calibration images: the same every time, from every source, and clear words where nothing is usable."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from hasn_edge.data import calibration
from hasn_edge.data.calibration import (
    CalibrationData,
    load_calibration,
    load_crops,
    load_folder,
    read_manifest,
)
from hasn_edge.data.pairs import held_out_sets, shipped_eval_set
from hasn_edge.data.resize import imresize
from hasn_edge.errors import InputError
from hasn_edge.files import shipped_path
from hasn_edge.images.codec import read_image, write_image


def image(height: int = 100, width: int = 150, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(5):
        write_image(tmp_path / "photos" / f"p {index}é.png", image(seed=index))
    return tmp_path / "photos"


def test_what_ships_is_forty_four_patches_and_eighteen_held_out_images():
    data = load_calibration()
    assert len(data) == 44
    assert all(batch.shape == (1, 3, 64, 64) and batch.dtype == np.float32 for batch in data)
    assert data.skipped == ()
    photographs, drawn = held_out_sets(4)
    assert (photographs.name, len(photographs), drawn.name, len(drawn)) == ("shipped", 8, "drawn", 10)
    assert {pair.hr().shape for pair in drawn} == {(192, 192, 3)}
    size = sum(path.stat().st_size for path in shipped_path("calibration").rglob("*") if path.is_file())
    assert size < 3e6


def test_every_image_that_ships_says_where_it_is_from_and_no_photograph_is_in_both_sets():
    origins = []
    for name, pattern in (("patches", "*.png"), ("heldout", "HR/*.png"), ("heldout-drawn", "HR/*.png")):
        root = shipped_path("calibration", name)
        lines = (root / "SOURCES.txt").read_text(encoding="utf-8").splitlines()
        rows = [line.split("\t") for line in lines if not line.startswith("#")]
        assert sorted(row[0] for row in rows) == sorted(path.name for path in root.glob(pattern))
        assert {row[4] for row in rows} <= {"CC0 1.0", "public domain", "MIT"}
        # A photograph, or what was drawn with its seed.
        origins.append({row[1] if row[4] != "MIT" else (row[1], row[2]) for row in rows})
    assert not origins[0] & (origins[1] | origins[2])


def test_the_held_out_lr_is_the_reduced_hr():
    for pair in shipped_eval_set(4):
        assert np.array_equal(pair.lr(), imresize(pair.hr(), scale=1 / 4)), pair.name
    for scale in (2, 3):
        assert len(shipped_eval_set(scale)) == 8


def test_iterating_twice_gives_the_same_and_the_values_are_the_pixels():
    data = load_calibration()
    first, second = list(data), list(data)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    path = sorted(shipped_path("calibration", "patches").glob("*.png"))[0]
    assert np.array_equal(first[0][0].transpose(1, 2, 0), read_image(path).astype(np.float32) / 255)


def test_the_fingerprint_is_that_of_the_pixels():
    a, b = image(64, 64, 1), image(64, 64, 2)
    fingerprint = CalibrationData("x", (a, b)).fingerprint
    assert fingerprint == CalibrationData("elsewhere", (a.copy(), b.copy())).fingerprint
    changed = a.copy()
    changed[3, 4, 1] ^= 1
    others = [(b, a), (a,), (changed, b), (a.astype(np.uint16), b), (a.reshape(32, 128, 3), b)]
    prints = {CalibrationData("x", patches).fingerprint for patches in others}
    assert len(prints) == len(others)
    assert fingerprint not in prints
    assert len(fingerprint) == hashlib.sha256().digest_size * 2


def test_a_folder_is_cut_into_a_bounded_number_of_crops(folder):
    data = load_calibration(folder)
    # 100 x 150 pixels have room for two crops of 64 side by side.
    assert len(data) == 10
    assert all(batch.shape == (1, 3, 64, 64) for batch in data)
    assert load_calibration(folder).fingerprint == data.fingerprint
    assert load_calibration(folder, seed=1).fingerprint != data.fingerprint
    assert len(load_folder(folder, limit=3)) == 3
    assert str(folder) in data.source


def test_the_choice_depends_on_names_not_on_where_the_folder_is(folder, tmp_path):
    moved = tmp_path / "elsewhere" / "deep"
    moved.parent.mkdir()
    before = load_calibration(folder).fingerprint
    folder.rename(moved)
    assert load_calibration(moved).fingerprint == before


def test_folders_inside_a_folder_and_single_images_are_found(folder, tmp_path):
    assert len(load_calibration(tmp_path)) == 10
    assert len(load_calibration(folder / "p 1é.png")) == 2


def test_small_and_unreadable_images_are_left_out_and_listed(folder):
    write_image(folder / "tiny.png", image(20, 200))
    write_image(folder / "whole.png", image(40, 50))
    (folder / "fake.png").write_text("not an image")
    data = load_calibration(folder)
    assert len(data) == 11
    assert (40, 50, 3) in {patch.shape for patch in data.patches}
    assert len(data.skipped) == 2
    assert any("tiny.png: 200 x 20 pixels, the least is 32" in line for line in data.skipped)
    assert any("fake.png" in line for line in data.skipped)


def test_gray_alpha_and_sixteen_bit_images_become_rgb(tmp_path):
    gray = image()[..., :1]
    write_image(tmp_path / "gray.png", gray)
    write_image(tmp_path / "alpha.png", np.dstack([image(), np.full((100, 150), 128, np.uint8)]))
    write_image(tmp_path / "deep.png", image().astype(np.uint16) * 257)
    for batch in load_calibration(tmp_path):
        assert batch.shape == (1, 3, 64, 64)
        assert 0 <= batch.min() < 0.05
        assert 0.95 < batch.max() <= 1


def test_nothing_usable_is_refused_with_the_reason(tmp_path):
    with pytest.raises(InputError, match="no such folder or manifest"):
        load_calibration(tmp_path / "absent")
    with pytest.raises(InputError, match="no image"):
        load_calibration(tmp_path)
    (tmp_path / "fake.png").write_text("not an image")
    (tmp_path / "more.png").write_text("not an image")
    with pytest.raises(InputError, match=r"no image to calibrate with: .*(fake|more).png.*\(and 1 more\)"):
        load_calibration(tmp_path)


def manifest_of(folder: Path, *lines: str) -> Path:
    path = folder / "list.txt"
    path.write_text("\n".join(("# comment", "", *lines)), encoding="utf-8")
    return path


def test_a_manifest_says_exactly_which_pixels(folder):
    manifest = manifest_of(folder, "p 0é.png 10 20 40", "p 1é.png 0% 100% 64")
    data = load_calibration(manifest)
    assert [patch.shape for patch in data.patches] == [(40, 40, 3), (64, 64, 3)]
    assert np.array_equal(data.patches[0], image(seed=0)[20:60, 10:50])
    assert np.array_equal(data.patches[1], image(seed=1)[36:100, 0:64])


def test_a_manifest_may_begin_with_the_mark_that_editors_on_windows_write(folder):
    manifest = folder / "list.txt"
    manifest.write_text("p 0é.png 10 20 40", encoding="utf-8-sig")
    assert len(load_calibration(manifest)) == 1


def test_a_manifest_may_list_images_elsewhere(folder, tmp_path):
    manifest = manifest_of(tmp_path, "p 0é.png 50% 50% 64")
    crops = read_manifest(manifest, root=folder)
    assert np.array_equal(load_crops(crops, source="x").patches[0], image(seed=0)[18:82, 43:107])


@pytest.mark.parametrize(
    "line",
    [
        "p.png",
        "p.png 1 2",
        "p.png a 2 64",
        "p.png 1 2 x",
        "p.png 101% 2 64",
        "p.png -1 2 64",
        "p.png 1.5 2 64",
        "1 2 64",
    ],
)
def test_a_malformed_line_is_quoted_with_its_number(tmp_path, line):
    with pytest.raises(InputError, match=r"list.txt, line 3: .*path left top side"):
        load_calibration(manifest_of(tmp_path, line))


def test_a_manifest_that_does_not_fit_its_images_is_refused(folder):
    with pytest.raises(InputError, match=r"1 of 2 images are missing, the first is .*gone.png"):
        load_calibration(manifest_of(folder, "p 0é.png 0 0 64", "gone.png 0 0 64"))
    with pytest.raises(InputError, match=r"150 x 100 pixels have no crop of 64 at 100, 0"):
        load_calibration(manifest_of(folder, "p 0é.png 100 0 64"))
    with pytest.raises(InputError, match="no crop of 16"):
        load_calibration(manifest_of(folder, "p 0é.png 0 0 16"))
    with pytest.raises(InputError, match="lists no crop"):
        load_calibration(manifest_of(folder))
    (folder / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as a manifest"):
        load_calibration(folder / "binary.txt")


@pytest.fixture
def div2k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder as people have it, cut down to what three lines of the manifest need."""
    crops = read_manifest(shipped_path("calibration", "manifests", "div2k-x4.txt"))
    folder = tmp_path / "DIV2K" / "DIV2K_train_LR_bicubic" / "X4"
    for crop, size in zip(crops[:3], ((162, 510), (510, 162), (339, 510)), strict=True):
        write_image(folder / crop.path.name, image(*size))
    short = tmp_path / "three.txt"
    lines = shipped_path("calibration", "manifests", "div2k-x4.txt").read_text(encoding="utf-8").splitlines()
    short.write_text("\n".join([line for line in lines if not line.startswith("#")][:3]), encoding="utf-8")
    real = calibration.shipped_path

    def path_of(*parts):
        return short if parts[-1] == "div2k-x4.txt" else real(*parts)

    monkeypatch.setattr(calibration, "shipped_path", path_of)
    return tmp_path / "DIV2K"


def test_the_div2k_manifest_fits_images_of_any_size_that_div2k_has(div2k):
    expected = load_calibration(div2k)
    assert [patch.shape for patch in expected.patches] == [(64, 64, 3)] * 3
    for inside in ("DIV2K_train_LR_bicubic", "DIV2K_train_LR_bicubic/X4"):
        assert load_calibration(div2k / inside).fingerprint == expected.fingerprint


def test_the_div2k_manifest_is_a_fixed_list_of_its_training_images():
    crops = read_manifest(shipped_path("calibration", "manifests", "div2k-x4.txt"))
    numbers = [int(crop.path.name.removesuffix("x4.png")) for crop in crops]
    assert len(crops) == len(set(numbers)) == 128
    assert min(numbers) >= 1
    assert max(numbers) <= 800
    assert {crop.side for crop in crops} == {64}


def test_a_recipe_whose_images_do_not_ship_asks_for_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"do not ship.*calibration='datasets/DIV2K'"):
        load_calibration("div2k-x4.txt")
    with pytest.raises(InputError, match=r"no such manifest; those that ship: div2k-x4.txt"):
        load_calibration("df2k.txt")


def test_a_folder_called_patches_is_not_mistaken_for_what_ships(tmp_path, monkeypatch):
    write_image(tmp_path / "patches" / "mine.png", image(64, 64))
    monkeypatch.chdir(tmp_path)
    assert len(load_calibration(Path("patches"))) == 1
    assert len(load_calibration("patches")) == 44


def noise(side: int) -> np.ndarray:
    """White noise, whose spectrum is flat."""
    values = np.random.default_rng(side).integers(0, 256, (side, side, 1), np.uint8)
    return np.repeat(values, 3, axis=2)


def warnings(data: CalibrationData) -> list[str]:
    return [note for note in data.describe() if note.startswith("warning")]


def test_what_ships_gives_no_warning():
    assert load_calibration().describe() == ("calibration: 44 patches, the patches that ship",)


def test_few_small_large_and_soft_images_are_named(tmp_path):
    several = CalibrationData("several", tuple(noise(64) for _ in range(16)), sizes=((64, 64),) * 4)
    assert warnings(several) == []
    few = CalibrationData("few", several.patches[:15], sizes=((64, 64),) * 4)
    (text,) = warnings(few)
    assert text.startswith("warning: 15 patches of 4 images: few")
    (text,) = warnings(CalibrationData("one", several.patches, sizes=((64, 64),)))
    assert "16 patches of 1 image: few" in text
    (text,) = warnings(CalibrationData("small", tuple(noise(47) for _ in range(16))))
    assert text.startswith("warning: 16 calibration patches with a side below 48 pixels")
    (text,) = warnings(CalibrationData("large", several.patches, sizes=((1080, 1920),) * 3 + ((64, 64),)))
    assert text.startswith("warning: 3 of 4 calibration images have more than 1024 pixels")
    enlarged = tuple(imresize(noise(16), scale=4.0) for _ in range(16))
    (text,) = warnings(CalibrationData("soft", enlarged))
    assert "the calibration images are soft" in text


def test_a_folder_knows_the_sizes_of_its_images(folder):
    assert load_folder(folder).sizes == (image(seed=0).shape[:2],) * 5


def test_originals_are_left_out_beside_lr_images_and_named_alone(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(4):
        write_image(tmp_path / "Set" / "HR" / f"{number}.png", rng.integers(0, 256, (256, 256, 3), np.uint8))
        write_image(
            tmp_path / "Set" / "LRbicx4" / f"{number}x4.png", rng.integers(0, 256, (64, 64, 3), np.uint8)
        )
    both = load_folder(tmp_path / "Set")
    assert both.sizes == ((64, 64),) * 4
    assert len(both.skipped) == 4
    assert "originals by" not in " ".join(both.describe())
    alone = load_folder(tmp_path / "Set" / "HR")
    assert (alone.sizes, alone.skipped) == (((256, 256),) * 4, ())
    assert "4 of 4 calibration images are high-resolution originals by" in " ".join(alone.describe())
