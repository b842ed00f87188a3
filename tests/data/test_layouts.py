import pytest

from hasn_edge.data.layouts import find_pairs
from hasn_edge.errors import InputError


def touch(root, *paths):
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


def listed(root, scale=4):
    return [
        (pair.name, None if pair.lr is None else pair.lr.relative_to(root).as_posix())
        for pair in find_pairs(root, scale)
    ]


def test_div2k_as_it_is_unpacked(tmp_path):
    touch(
        tmp_path,
        "DIV2K_train_HR/0001.png",
        "DIV2K_train_HR/0002.png",
        "DIV2K_train_LR_bicubic/X4/0001x4.png",
        "DIV2K_train_LR_bicubic/X4/0002x4.png",
        "DIV2K_train_LR_bicubic/X2/0001x2.png",
        "DIV2K_valid_HR/0801.png",  # for validation: not trained on
    )
    assert listed(tmp_path) == [
        ("DIV2K_train_HR/0001.png", "DIV2K_train_LR_bicubic/X4/0001x4.png"),
        ("DIV2K_train_HR/0002.png", "DIV2K_train_LR_bicubic/X4/0002x4.png"),
    ]
    assert listed(tmp_path, scale=3)[0] == ("DIV2K_train_HR/0001.png", None)


def test_the_hr_folder_itself_may_be_named(tmp_path):
    touch(tmp_path, "DIV2K_train_HR/0001.png", "DIV2K_train_LR_bicubic/X4/0001x4.png")
    (pair,) = find_pairs(tmp_path / "DIV2K_train_HR", 4)
    assert (pair.name, pair.lr.name) == ("0001.png", "0001x4.png")


def test_flickr2k_without_lr(tmp_path):
    touch(tmp_path, "Flickr2K_HR/000001.png", "Flickr2K_HR/000002.png")
    assert listed(tmp_path) == [("Flickr2K_HR/000001.png", None), ("Flickr2K_HR/000002.png", None)]


@pytest.mark.parametrize("lr", ["DIV2K_train_LR_bicubic_sub", "DIV2K_train_LR_bicubic/X4_sub"])
def test_cut_images_in_both_layouts(tmp_path, lr):
    touch(tmp_path, "DIV2K_train_HR_sub/0001_s001.png", f"{lr}/0001_s001.png")
    assert listed(tmp_path) == [("DIV2K_train_HR_sub/0001_s001.png", f"{lr}/0001_s001.png")]


def test_hr_beside_lrbicx4(tmp_path):
    touch(tmp_path, "HR/a.png", "LRbicx4/a.png")
    assert listed(tmp_path) == [("HR/a.png", "LRbicx4/a.png")]


def test_plain_folders_are_searched_through(tmp_path):
    touch(tmp_path, "b.jpg", "holiday/a.JPG", "holiday/notes.txt", ".hidden/c.png")
    assert listed(tmp_path) == [("b.jpg", None), ("holiday/a.JPG", None)]


def test_a_missing_counterpart_is_named(tmp_path):
    touch(tmp_path, "HR/a.png", "HR/b.png", "LRbicx4/a.png")
    with pytest.raises(
        InputError, match=r"b\.png has no counterpart in .*LRbicx4; expected b\.png or bx4\.png"
    ):
        find_pairs(tmp_path, 4)


def test_no_folder_and_no_images(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        find_pairs(tmp_path / "nowhere", 4)
    with pytest.raises(InputError, match="no image"):
        find_pairs(tmp_path, 4)
