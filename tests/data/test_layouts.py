import logging

import numpy as np
import pytest

from hasn_edge.data.layouts import find_pairs
from hasn_edge.data.pairs import load_eval_set
from hasn_edge.data.resize import imresize
from hasn_edge.errors import InputError
from hasn_edge.images.codec import write_image


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


@pytest.mark.parametrize("ending", ["", "x4"])
def test_case_decides_only_where_no_name_is_the_same(tmp_path, ending):
    names = (
        "HR/A.png",
        "HR/B.png",
        "HR/a.png",
        f"LR/A{ending}.png",
        f"LR/a{ending}.png",
        f"LR/b{ending}.png",
    )
    for name in names:
        write_image(tmp_path / name, np.zeros((16, 16, 3) if name.startswith("HR") else (4, 4, 3), np.uint8))
    wanted = [("A", "A"), ("B", "b"), ("a", "a")]
    assert [(pair.hr.stem, pair.lr.stem.removesuffix("x4")) for pair in find_pairs(tmp_path, 4)] == wanted
    found = load_eval_set(tmp_path, 4)
    assert [(pair.name, pair.lr_path.stem.removesuffix("x4")) for pair in found] == wanted
    (tmp_path / f"LR/A{ending}.png").unlink()  # what is left is the LR of another image
    for find in (find_pairs, load_eval_set):
        with pytest.raises(
            InputError, match=r"HR/A\.png has no counterpart in .*LR; expected A\.png or Ax4\.png"
        ):
            find(tmp_path, 4)


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


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("hr/a.png", "lr/a.png"),
        ("Hr/a.png", "Lr/a.png"),
        ("HR/a.png", "LR/x4/a.png"),
        ("HR/a.png", "LR/X4/ax4.png"),
        ("HR/a.png", "X4/LR/a.png"),
        ("hr/a.png", "lr_x4/a_x4.png"),
        ("HR/a.png", "LRx4/a.png"),
        ("HR/a.png", "LR-4x/a.png"),
        ("GT/a.png", "LQ/a.png"),
        ("gt/a.png", "lq/a_lq.png"),
        ("GTmod12/a.png", "LRbicx4/a.png"),
        ("high_res/a.png", "low_res/a.png"),
        ("HighRes/a.png", "LowRes/a.png"),
        ("high-resolution/a.png", "low-resolution/a.png"),
        ("ground_truth/a.png", "lr/a.png"),
        ("train/HR/a.png", "train/LR/a.png"),
        ("HR/train/a.png", "LR/train/a.png"),
        ("trainHR/a.png", "trainLR/a.png"),
        ("HR_train/a.png", "LR_train/a.png"),
        ("hr-images/a.png", "lr-images/a.png"),
        ("Urban100_HR/a.png", "Urban100_LR_x4/a.png"),
        ("Urban100/a.png", "Urban100_LR/a.png"),
        ("a.png", "LR/a.png"),
        ("photos/a.png", "lr/a.png"),
        ("DIV2K/DIV2K_train_HR/0001.png", "DIV2K/DIV2K_train_LR_bicubic/X4/0001x4.png"),
        ("div2k_train_hr/0001.png", "div2k_train_lr_bicubic/x4/0001x4.png"),
        ("DIV2K_train_HR/0001.png", "DIV2K_train_LR_unknown/X4/0001x4.png"),
        ("hr/cats/a.png", "lr/cats/a.png"),
        ("image_SRF_4/img_001_SRF_4_HR.png", "image_SRF_4/img_001_SRF_4_LR.png"),
        ("a_HR.png", "a_LR.png"),
        ("a.png", "a_lr.png"),
        ("0001.png", "0001x4.png"),
        ("hr/A.PNG", "lr/a.png"),
    ],
)
def test_usual_spellings(tmp_path, hr, lr):
    touch(tmp_path / "set", hr, lr)
    assert listed(tmp_path / "set") == [(hr, lr)]


def test_other_scales_and_ways_of_making_lr_are_left_alone(tmp_path):
    touch(tmp_path / "set", "hr/a.png", "lr/x2/a.png", "lr/x3/a.png")
    assert listed(tmp_path / "set") == [("hr/a.png", None)]
    touch(tmp_path / "set", "LR_unknown/x4/a.png", "LR_bicubic/x4/a.png")
    assert listed(tmp_path / "set") == [("hr/a.png", "LR_bicubic/x4/a.png")]
    touch(tmp_path / "set", "LR_bic/x4/a.png")
    with pytest.raises(InputError, match="are both LR images of .*hr at x4"):
        find_pairs(tmp_path / "set", 4)


def test_names_that_only_sound_so_are_no_roles(tmp_path):
    touch(tmp_path / "set", "Jahr/a.png", "Uhr/b.png", "Elroy/c.png", "Gtx/d.png", "photo_LR.jpg")
    assert [pair.lr for pair in find_pairs(tmp_path / "set", 4)] == [None] * 5


def test_lr_without_its_hr_is_refused(tmp_path):
    touch(tmp_path / "set", "one/a.png", "two/b.png", "lr/c.png")
    with pytest.raises(InputError, match="lr: by its name it holds LR images, and no folder of HR"):
        find_pairs(tmp_path / "set", 4)
    touch(tmp_path / "LR", "a.png")
    with pytest.raises(InputError, match="not to be trained on as HR"):
        find_pairs(tmp_path / "LR", 4)


def test_folders_beside_hr_that_say_nothing_are_named(tmp_path, caplog):
    touch(tmp_path / "set", "hr/a.png", "lr/a.png", "results/a.png")
    with caplog.at_level(logging.WARNING):
        assert listed(tmp_path / "set") == [("hr/a.png", "lr/a.png")]
    assert "set/results are not used" in caplog.text


def draw(path, height, width, seed):
    small = np.random.default_rng(seed).integers(256, size=(6, 8, 3), dtype=np.uint8)
    image = imresize(small, size=(height, width))
    write_image(path, image)
    return image


@pytest.mark.parametrize(
    ("large", "small", "ending"),
    [("a", "b", ""), ("original", "bicubic_x4", ""), ("target", "input", ""), ("", "thumbs", "_x4")],
)
def test_sizes_tell_lr_where_names_do_not(tmp_path, caplog, large, small, ending):
    for seed in range(4):
        image = draw(tmp_path / "set" / large / f"{seed}.png", 121 + seed, 162, seed)
        lr = imresize(image[: (121 + seed) // 4 * 4, :160], scale=0.25)
        write_image(tmp_path / "set" / small / f"{seed}{ending}.png", lr)
    with caplog.at_level(logging.WARNING):
        found = listed(tmp_path / "set")
    name = f"{large}/" if large else ""
    assert found == [(f"{name}{n}.png", f"{small}/{n}{ending}.png") for n in range(4)]
    assert "4 images are exactly 1/4" in caplog.text
    # at another scale they are no HR images either
    assert listed(tmp_path / "set", scale=2) == [(f"{name}{n}.png", None) for n in range(4)]


def test_two_photographs_of_one_name_may_be_of_such_sizes(tmp_path):
    draw(tmp_path / "set/a/IMG_1.png", 120, 160, 1)
    draw(tmp_path / "set/b/IMG_1.png", 60, 80, 2)
    assert listed(tmp_path / "set") == [("a/IMG_1.png", None), ("b/IMG_1.png", None)]


def test_an_edit_that_is_called_lr_is_as_large_as_its_original(tmp_path):
    draw(tmp_path / "set/IMG_1.png", 120, 160, 1)
    draw(tmp_path / "set/IMG_1_LR.png", 120, 160, 2)
    assert listed(tmp_path / "set") == [("IMG_1.png", None), ("IMG_1_LR.png", None)]


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("hr/{}.png", "lr/{}.png"),
        ("GT/{}.png", "LQ/{}x4.png"),
        ("{}_HR.png", "{}_LR.png"),
        ("{}.png", "{}x4.png"),
    ],
)
def test_sets_to_measure_on_know_the_same_spellings(tmp_path, hr, lr):
    for seed in range(2):
        image = draw(tmp_path / "set" / hr.format(seed), 80, 120, seed)
        write_image(tmp_path / "set" / lr.format(seed), imresize(image, scale=0.25))
    pairs = load_eval_set(tmp_path / "set", 4)
    assert [pair.hr_path.relative_to(tmp_path / "set").as_posix() for pair in pairs] == [
        hr.format(seed) for seed in range(2)
    ]
    assert [pair.lr_path.relative_to(tmp_path / "set").as_posix() for pair in pairs] == [
        lr.format(seed) for seed in range(2)
    ]
