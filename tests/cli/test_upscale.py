"""The ``upscale`` verb: what it takes, what results are called, and what it says beside them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from hasn_edge.cli import cli
from hasn_edge.cli.upscale_files import is_video
from hasn_edge.data.resize import imresize
from hasn_edge.errors import BuildError, InputError
from hasn_edge.images.codec import read_image, write_image
from hasn_edge.images.listing import USUAL_VIDEOS, folders_inside
from hasn_edge.model.checkpoint import save_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.spec import ModelSpec
from hasn_edge.video.formats import VIDEO_SUFFIXES
from tests.support.fake_session import FakeSession, PixelSession

USUAL = re.compile(r"--skip-existing leaves them$|^\S+, [\w ]+ by \w+ on \S+: x\d")
"""Lines that have tests of their own."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(path, HASN(ModelSpec(features=8, blocks=1)))
    return path


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder, with an image of 20x24 in it."""
    monkeypatch.chdir(tmp_path)
    image("photo.png")
    return tmp_path


def image(name: str, height: int = 24, width: int = 20) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    write_image(name, pixels)


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in args], prog_name="hasn-edge")


def said(result: Result, code: int = 0) -> str:
    """Standard error in one line, after checking how the verb ended; without what every run says."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(" ".join(line for line in result.stderr.splitlines() if not USUAL.search(line)).split())


def test_what_the_format_cannot_hold_is_said(here, model):
    pixels = np.random.default_rng(0).integers(0, 65536, (24, 20, 4), np.uint16)
    write_image("deep.png", pixels)
    message = said(run("upscale", "deep.png", "-o", "out.jpg", "--model", model))
    assert "JPEG holds 8 bits: the image's 16 were rounded" in message
    assert "JPEG has no transparency: the image was laid on white" in message
    assert "8 bits" not in said(run("upscale", "deep.png", "-o", "out.tiff", "--model", model))


def test_16_bits_that_a_file_of_8_bit_pixels_rounds_are_said(here, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 65536, (24, 20, 3), np.uint16)
    write_image("deep.png", pixels)
    rounds = "the network's file takes 8-bit pixels: the image's 16 bits were rounded"
    for session, name, expected in (
        (PixelSession, "deep.png", rounds),
        (PixelSession, "photo.png", ""),
        (FakeSession, "deep.png", ""),
    ):
        monkeypatch.setattr("hasn_edge.cli.upscale.open_chosen", lambda *_, made=session, **__: made())
        result = run("upscale", name, "-o", "out/", "--artifact", "model.onnx")
        assert said(result) == expected
        assert len(np.unique(read_image("out/deep_x4.png"))) <= 256 or not expected


def test_a_video_is_known_by_its_name():
    assert is_video(Path("a/B.MKV"))
    assert not is_video(Path("a.png"))


@pytest.mark.parametrize(
    ("name", "begin"),
    [
        ("big.png", b"\x89PNG"),
        ("new/big.JPG", b"\xff\xd8"),
        ("big.jpeg", b"\xff\xd8"),
        ("big.webp", b"RIFF"),
        ("big.bmp", b"BM"),
        ("big.tif", b"II*"),
        ("big.tiff", b"II*"),
    ],
)
def test_one_image_can_become_a_file(here, model, name, begin):
    for _ in range(2):  # the second time over the first
        result = run("upscale", "photo.png", "-o", name, "--model", model)
        assert said(result) == ""
        assert result.stdout == f"{name}\n"
        assert Path(name).read_bytes().startswith(begin)
        assert cv2.imread(name).shape == (96, 80, 3)


def test_a_folder_may_be_called_like_a_image(here, model):
    Path("big.png").mkdir()
    image("b.png")
    result = run("upscale", "photo.png", "b.png", "-o", "big.png", "--format", "jpg", "--model", model)
    assert said(result) == ""
    assert sorted(p.name for p in Path("big.png").iterdir()) == ["b_x4.jpg", "photo_x4.jpg"]


@pytest.mark.parametrize(
    ("files", "options", "runs", "note"),
    [
        (
            ["a.jpg"],
            ["--model", "auto"],
            "hasn-x4-camera",
            "a.jpg: hasn-x4-camera, which was trained for blur,",
        ),
        (
            ["a.jpg", "b.JPEG"],
            ["--model", "auto"],
            "hasn-x4-camera",
            "a.jpg and 1 more: hasn-x4-camera, which",
        ),
        (
            ["a.jpg", "c.png"],
            ["--model", "auto"],
            "hasn-x4",
            "a.jpg and 1 more: hasn-x4, which was trained for cl",
        ),
        (
            ["a.jpg"],
            [],
            "hasn-x4",
            "a.jpg: hasn-x4 keeps noise and JPEG's blocks; --model auto takes hasn-x4-camera",
        ),
        (["c.png"], [], "hasn-x4", None),
        (["a.jpg"], ["--model", "hasn-x4"], "hasn-x4", None),
    ],
)
def test_the_model_for_cameras_is_named_where_all_files_are_of_cameras(here, files, options, runs, note):
    for name in files:
        image(name, 16, 16)
    result = run("upscale", *files, *options)
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert [line for line in lines if line.startswith(f"{runs}, fp32 by")]
    named = [line for line in lines if "hasn-x4" in line and " by " not in line]
    assert [line.startswith(note) for line in named] == [True] if note else named == []


def test_names_of_files_that_results_cannot_have(here, model):
    image("b.png")
    before = Path("photo.png").read_bytes()
    one = "-o big.png is the name of an image file, which one image can become; name a folder"
    assert one in said(run("upscale", "photo.png", "b.png", "-o", "big.png", "--model", model), 2)
    assert one in said(run("upscale", "clip.mp4", "-o", "big.png", "--model", model), 2)
    for suffix, name in (("png", "big.jpg"), ("webp", "big.tif"), ("tiff", "big.png")):
        message = said(run("upscale", "photo.png", "-o", name, "--format", suffix, "--model", model), 2)
        assert f"--format {suffix} contradicts -o {name}; leave --format out" in message
    message = said(run("upscale", "photo.png", "-o", "photo.png", "--model", model), 1)
    assert (
        "photo.png is one of the images to upscale and would be overwritten; choose another name" in message
    )
    assert Path("photo.png").read_bytes() == before
    assert sorted(p.name for p in here.iterdir()) == ["b.png", "photo.png"]
    for suffix, name in (("jpg", "big.jpeg"), ("tiff", "big.tif")):
        said(run("upscale", "photo.png", "-o", name, "--format", suffix, "--model", model))


def test_messages_name_the_usual_endings_only(here, model):
    Path("notes.txt").write_text("no image")
    Path("empty").mkdir()
    message = said(run("upscale", "notes.txt", "--model", model), 1)
    usual = ".mp4, .mov, .mkv, .avi, .webm, .ts and others that FFmpeg reads"
    assert message.endswith(f"a video is known by its ending: {usual}")
    message = said(run("upscale", "empty", "--model", model), 1)
    assert message.endswith(f"looked for .png, .jpg, .jpeg, .jfif, .jpe, .webp, .bmp, .tif, .tiff, {usual}")
    assert {word.strip(",") for word in USUAL_VIDEOS.split() if word.startswith(".")} < set(VIDEO_SUFFIXES)


def test_subfolders_that_are_not_entered_are_named(here, model):
    for name in ("trip/a.png", "trip/day1/raw/b.png", "trip/day2/c.jpg", "trip/.cache/d.png"):
        image(name)
    Path("trip/notes").mkdir()
    Path("trip/notes/n.txt").write_text("")
    result = run("upscale", "trip", "-o", "trip/out", "--model", model)
    assert said(result) == (
        "2 subfolders with images or videos in them were not entered: trip/day1/raw, trip/day2; to include "
        "them, name them as well, or use --recursive"
    )
    assert result.stdout == "trip/out/a_x4.png\n"
    # What came of it is not what was forgotten, nor is what was named.
    result = run("upscale", "trip", "trip/day2", "-o", "trip/out", "--model", model)
    assert "1 subfolder with images or videos in it was not entered: trip/day1/raw; to" in said(result)
    result = run("upscale", "trip", "trip/day2", "trip/day1/raw", "-o", "trip/out", "--model", model)
    assert said(result) == ""
    # Said also where there is nothing to upscale but what is in them.
    message = said(run("upscale", "trip/day1", "--model", model), 1)
    assert "not entered: trip/day1/raw; to include it, name it as well, or use --rec" in message
    assert "Error: trip/day1: no image" in message


def test_many_subfolders_are_counted(here, model):
    for number in range(5):
        image(f"trip/{number}/a.png")
    image("trip/a.png")
    message = said(run("upscale", "trip", "--model", model))
    assert "5 subfolders with" in message
    assert "not entered: trip/0, trip/1, trip/2 and 2 more; to" in message


def test_folders_inside_follows_no_links(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c.MP4").touch()
    (tmp_path / "a/b/again").symlink_to(tmp_path / "a", target_is_directory=True)
    assert folders_inside([tmp_path / "a"], also=(".mp4",)) == [tmp_path / "a/b"]
    assert folders_inside([tmp_path / "a"]) == []
    assert folders_inside([tmp_path / "a"], also=(".mp4",), without=tmp_path / "a/b") == []


def test_addresses_are_refused_before_any_work(here, model):
    message = said(run("upscale", "photo.png", "https://me:secret@example.com/x.jpg", "--model", model), 2)
    assert "Error: https://example.com/x.jpg is an address, and upscale takes files: download the" in message
    assert "'hasn-edge demo --source'" in message
    message = said(run("upscale", "file:///home/x.jpg", "--model", model), 2)
    assert "name the file without file://" in message
    assert [p.name for p in here.iterdir()] == ["photo.png"]


def test_results_of_the_same_name_are_told_apart(here, model):
    image("odd.jpg")
    image("odd.png")
    result = run("upscale", "odd.jpg", "odd.png", "photo.png", "-o", "out", "--model", model)
    assert said(result) == "odd.jpg -> out/odd_jpg_x4.png odd.png -> out/odd_png_x4.png"
    assert result.stdout == "out/odd_jpg_x4.png\nout/odd_png_x4.png\nout/photo_x4.png\n"


def test_no_result_is_taken_for_that_of_another_file(here, model):
    image("p.png")
    said(run("upscale", "p.png", "-o", "out", "--model", model))
    image("p.jpg")
    run("upscale", "p.jpg", "p.png", "-o", "out", "--model", model, "--skip-existing")
    assert {path.name for path in Path("out").iterdir()} == {"p_x4.png", "p_jpg_x4.png", "p_png_x4.png"}
    for folder in ("a", "b"):
        Path(folder).mkdir()
        image(f"{folder}/same.png")
    said(run("upscale", "b/same.png", "-o", "two", "--model", model))
    both = run("upscale", "a/same.png", "b/same.png", "-o", "two", "--model", model, "--skip-existing")
    assert both.stdout == "two/same_x4.png\ntwo/same_x4_2.png\n", "whose the first one was is not known"


@pytest.mark.parametrize(
    "options", [("--quality", "80"), ("--codec", "libx265"), ("--audio", "none"), ("--end", "3")]
)
def test_options_of_videos_are_refused_without_one(here, model, options):
    message = said(run("upscale", "photo.png", "--model", model, *options), 2)
    assert f"{options[0]} is for videos, and none is among the files" in message


def test_a_folder_that_may_not_be_read_is_named(here, model, monkeypatch):
    Path("closed").mkdir()

    def refuse(path, *_: object):
        raise PermissionError(13, "Permission denied", str(path))

    # As root reads everything, what asks the system is refused instead.
    monkeypatch.setattr(Path, "iterdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    for more in ((), ("--recursive",)):
        assert "closed: cannot be listed" in said(run("upscale", "closed", "--model", model, *more), 1)


def test_results_that_are_there_are_named_or_left_alone(here, model):
    for name in ("a.png", "b.png", "c.png"):
        image(name)
    assert "there already" not in said(run("upscale", "a.png", "-o", "out", "--model", model))
    before = Path("out/a_x4.png").stat().st_mtime_ns
    again = said(run("upscale", "a.png", "b.png", "c.png", "-o", "out", "--model", model, "--skip-existing"))
    assert "1 result is there already and stay" in again
    assert Path("out/a_x4.png").stat().st_mtime_ns == before
    assert Path("out/c_x4.png").exists()
    replaced = run("upscale", "a.png", "b.png", "photo.png", "-o", "out", "--model", model)
    assert (
        "2 of 3 results are there already and will be replaced: out/a_x4.png, out/b_x4.png" in replaced.stderr
    )
    assert Path("out/a_x4.png").stat().st_mtime_ns > before
    everything = run("upscale", "a.png", "b.png", "-o", "out", "--model", model, "--skip-existing")
    assert "2 of 2 results are there already" in said(everything)
    assert everything.stdout == ""


def test_one_file_that_cannot_be_written_ends_nothing(here, model):
    for name in ("a.png", "b.png", "c.png"):
        image(name)
    Path("out/b_x4.png").mkdir(parents=True)
    result = run("upscale", "a.png", "b.png", "c.png", "-o", "out", "--model", model)
    text = said(result, 1)
    assert "Skipped: b.png: cannot write out/b_x4.png: Is a directory" in text
    assert "1 of 3 images could not be upscaled" in text
    assert result.stdout.split() == ["out/a_x4.png", "out/c_x4.png"]


def test_a_size_that_a_format_cannot_hold_is_refused_before_computing(here, model, monkeypatch):
    image("wide.png", height=16, width=4096)  # 16,384 pixels, one more than WebP has
    monkeypatch.setattr(Upscaler, "upscale", lambda *_: pytest.fail("computed for nothing"))
    text = said(run("upscale", "wide.png", "-o", "wide.webp", "--model", model), 1)
    assert "Skipped: wide.png: cannot write wide.webp: WebP holds at most 16383 pixels a side" in text


@pytest.mark.parametrize(
    "error", [BuildError("onnxruntime: failed"), MemoryError(), InputError("not finite")]
)
def test_a_skipped_image_is_named_whatever_failed(here, model, monkeypatch, error):
    image("a.png")

    def fail(self, pixels):
        if not done:
            done.append(pixels)
            raise error
        return np.repeat(np.repeat(pixels, 4, 0), 4, 1)

    done: list[np.ndarray] = []
    monkeypatch.setattr(Upscaler, "upscale", fail)
    result = run("upscale", "a.png", "photo.png", "-o", "out", "--model", model)
    assert "Skipped: a.png: " in said(result, 1)
    assert result.stdout.split() == ["out/photo_x4.png"]


def test_folders_inside_folders_keep_their_places(here, model):
    for name in ("trip/a.png", "trip/day1/raw/a.png", "trip/day2/c.jpg", "trip/.cache/d.png", "photo.png"):
        image(name)
    for _ in range(2):  # results inside the folder are not upscaled once more
        result = run("upscale", "trip", "photo.png", "-r", "-o", "trip/out", "--model", model)
        assert said(result) == ""
        assert sorted(result.stdout.split()) == [
            "trip/out/a_x4.png",
            "trip/out/day1/raw/a_x4.png",
            "trip/out/day2/c_x4.png",
            "trip/out/photo_x4.png",
        ]
    assert said(run("upscale", "trip/day1", "-r", "-o", "o", "--model", model)) == ""
    assert Path("o/raw/a_x4.png").exists()


def test_results_of_another_size_are_resampled_and_that_is_said(here, model):
    assert said(run("upscale", "photo.png", "-o", "out", "--model", model)) == ""
    whole = read_image("out/photo_x4.png")
    result = run("upscale", "photo.png", "-o", "out", "--outscale", "2", "--model", model)
    assert result.stdout == "out/photo_x2.png\n"
    np.testing.assert_array_equal(read_image("out/photo_x2.png"), imresize(whole, size=(48, 40)))
    assert result.stderr.splitlines()[0] == (
        f"{model}, fp32 by pytorch on cpu: x4, then resampled to x2 (MATLAB bicubic)"
    )
    result = run("upscale", "photo.png", "-o", "out", "--size", "60x60", "--model", model)  # from 20 x 24
    assert result.stdout == "out/photo_60x60.png\n"
    assert read_image("out/photo_60x60.png").shape == (60, 50, 3)
    assert "exclude each other" in said(run("upscale", "photo.png", "--outscale", "2", "--size", "9x9"), 2)


def test_one_line_names_model_precision_and_device(here, model):
    result = run("upscale", "photo.png", "-o", "out", "--model", model)
    assert result.stderr == f"{model}, fp32 by pytorch on cpu: x4\n"
    assert run("upscale", "photo.png", "-o", "new", "--model", model, "-q").stderr == ""


@pytest.mark.slow
def test_colour_profiles_are_kept_or_converted_and_that_is_said(here, model):
    source = Path(__file__).parents[1] / "images" / "cases" / "display-p3.jpg"
    with Image.open(source) as opened:
        profile = opened.info["icc_profile"]
    for name in ("a.png", "a.jpg", "a.webp", "a.tif"):
        assert said(run("upscale", source, "-o", name, "--model", model)) == ""
        with Image.open(name) as opened:
            assert opened.info["icc_profile"] == profile
    converted = "its colour profile (Display P3) was converted to sRGB"
    assert said(run("upscale", source, "-o", "a.bmp", "--model", model)) == converted
    assert said(run("upscale", source, "-o", "b.png", "--srgb", "--model", model)) == converted
    assert (read_image("b.png") == read_image("a.bmp")).all()
    assert (read_image("b.png") != read_image("a.png")).any()


def test_transparent_surroundings_leave_no_rim(here):
    """Orange on black that is wholly transparent, with the model that ships."""
    source = Path(__file__).parents[1] / "images" / "cases" / "alpha-halo.png"
    said(run("upscale", source, "-o", "out.png"))
    pixels = read_image("out.png")
    visible = pixels[pixels[..., 3] > 0][:, :3].astype(int)
    assert len(visible) > 1000
    assert np.abs(visible - (255, 160, 0)).max() <= 6


def test_what_is_left_out_is_said_once(here, model):
    cases = Path(__file__).parents[1] / "images" / "cases"
    for name in ("anim.png", "anim.webp"):
        message = said(run("upscale", cases / name, "-o", "out.png", "--model", model))
        assert message.endswith(f"{name}: 3 further frames are left out: the result is the first one")
    Image.new("L", (9, 9)).save("two.tif", save_all=True, append_images=[Image.new("L", (9, 9))])
    message = said(run("upscale", "two.tif", "-o", "out.png", "--model", model))
    assert message == "Warning: two.tif: 1 further page is left out: the result is the first one"
    Path("mixed").mkdir()
    image("mixed/a.png")
    for name in ("b.heic", "c.txt", "d", "e.psd", ".hidden"):
        Path("mixed", name).write_text("")
    message = said(run("upscale", "mixed", "-o", "out", "--model", model))
    assert message.endswith("here: mixed/b.heic, mixed/c.txt, mixed/d and 1 more")
    assert message.startswith("4 files were left out: their endings are not of an image or video")


def test_a_still_gif_is_an_image(here, model):
    still = Path(__file__).parents[1] / "images" / "cases" / "still.gif"
    assert said(run("upscale", still, "-o", "out", "--model", model)) == ""
    assert [p.name for p in Path("out").iterdir()] == ["still_x4.png"]
    assert said(run("upscale", still, "-o", "out.png", "--model", model)) == ""
    assert read_image("out.png").shape[:2] == (192, 192)
    assert not is_video(still)


@pytest.mark.parametrize(
    "name", ["x.avif", "k.tga", "a.HEIC", "b.jxl", "c.ppm", "out.xyz", "big.pmg", "a.mp3"]
)
def test_the_name_of_an_image_that_cannot_be_written_is_no_folder(here, model, name):
    message = said(run("upscale", "photo.png", "-o", name, "--model", model), 2)
    ending = Path(name).suffix
    assert f"-o {name}: {ending} cannot be written; name a folder, as {name}/, or a file in .png, " in message
    assert not Path(name).exists()
    Path(name).mkdir()
    assert said(run("upscale", "photo.png", "-o", name, "--model", model)) == ""


def test_which_name_is_a_folder(here, model):
    image("b.png")
    Path("set").mkdir()
    Path("photo.png").rename("set/photo.png")
    for name in ("out.xyz/", "big.png/", "a.heic/", "out.v2", "run.2024", "x4.0", "new.upscaled"):
        assert said(run("upscale", "b.png", "-o", name, "--model", model)) == ""
        assert [p.name for p in Path(name).iterdir()] == ["b_x4.png"]
    for sources in (["set"], ["b.png", "set/photo.png"]):  # a loop does not end where a folder holds one
        assert said(run("upscale", *sources, "-o", f"of{len(sources)}.xyz", "--model", model)) == ""
    assert len(list(Path("of2.xyz").iterdir())) == 2


def test_other_endings_of_jpeg(here, model):
    for name in ("a.jfif", "b.jpe"):
        assert said(run("upscale", "photo.png", "-o", name, "--model", model)) == ""
        assert Path(name).read_bytes().startswith(b"\xff\xd8")
    result = run("upscale", ".", "-o", "out", "--model", model)
    assert sorted(p.name for p in Path("out").iterdir()) == ["a_x4.png", "b_x4.png", "photo_x4.png"], (
        result.stderr
    )


@pytest.fixture(scope="module")
def fixed(model, tmp_path_factory) -> str:
    """A file that takes 32x24 only."""
    made = run("export", "--model", model, "--size", "32x24", "-o", tmp_path_factory.mktemp("fixed"))
    assert made.exit_code == 0, made.output
    return made.stdout.splitlines()[-1]


@pytest.mark.slow
def test_padding_to_a_file_of_one_size_is_said_once(here, fixed, model):
    padded = (
        "padded to 32x24, the size this --artifact takes; channel attention sees the padding, which "
        "changes the result; a file of any size gives that of the whole frame: leave out --artifact, or "
        "build without --size"
    )
    result = run("upscale", "photo.png", "-o", "out", "--artifact", fixed)
    assert said(result) == f"photo.png was {padded}"
    said(run("upscale", "photo.png", "-o", "whole.png", "--model", model))
    assert (read_image("out/photo_x4.png") != read_image("whole.png")).any()
    image("b.png")
    image("exact.png", 24, 32)
    result = run("upscale", "exact.png", "photo.png", "b.png", "-o", "out", "--artifact", fixed)
    assert said(result) == f"photo.png and 1 more were {padded}"
    assert said(run("upscale", "exact.png", "-o", "out", "--artifact", fixed)) == ""
    # What every file of this network pads changes nothing against the whole frame.
    image("dot.png", 3, 3)
    assert said(run("upscale", "dot.png", "-o", "out", "--model", model)) == ""


def test_drift_that_a_file_of_one_size_cannot_tell_has_a_cure(here, fixed):
    image("wide.png", 24, 60)
    message = said(run("upscale", "wide.png", "-o", "out", "--artifact", fixed))
    assert "tiles of 32x24 because the file has one size; drift from the whole frame: not measured" in message
    assert message.endswith("computes the whole frame: leave out the artifact, or build without a size)")
