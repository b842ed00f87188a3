"""Which files are meant by the files and folders that a user names."""

from __future__ import annotations

import pytest

from hasn_edge.errors import InputError
from hasn_edge.images.listing import SUFFIXES, files_left_out, find_images, usual_suffix


def test_find_images(tmp_path):
    for name in (
        "b.JPG",
        "a.png",
        "c.tiff",
        "notes.txt",
        "._a.png",
        ".hidden.png",
        "deep/d.webp",
        ".git/e.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = ["a.png", "b.JPG", "c.tiff"]
    assert find_images([tmp_path]) == [tmp_path / n for n in names]
    assert find_images([tmp_path], recursive=True) == [tmp_path / n for n in [*names, "deep/d.webp"]]
    given = [tmp_path / "notes.txt", str(tmp_path / "b.JPG"), tmp_path, tmp_path / "missing.png"]
    expected = ["notes.txt", "b.JPG", "a.png", "c.tiff", "missing.png"]
    assert find_images(given) == [tmp_path / n for n in expected]
    with pytest.raises(InputError, match=r"empty: no image directly inside it; looked for \.png"):
        (tmp_path / "empty").mkdir()
        find_images([tmp_path / "empty"])


def test_files_that_are_left_out_for_their_ending(tmp_path):
    for name in ("a.png", "b.heic", "c", ".d.heic", "deep/e.heic", "f.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files_left_out([tmp_path]) == [tmp_path / name for name in ("b.heic", "c", "f.mp4")]
    assert files_left_out([tmp_path, tmp_path / "c"], also=(".mp4",)) == [tmp_path / "b.heic"]


def test_every_ending_has_a_usual_form(tmp_path):
    usual = {usual_suffix(tmp_path / f"A{suffix.upper()}") for suffix in SUFFIXES}
    assert usual == {".png", ".jpg", ".webp", ".bmp", ".tiff"}
