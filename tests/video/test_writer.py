"""Recording: times by a clock or a rate, a file that is whole or none."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")
from hasn_edge.errors import InputError, OutputError, ShapeError, UnsupportedError
from hasn_edge.video.writer import VideoWriter, check_writer
from tests.support.clips import frames, tags, times

SIZE = (48, 64)


def image(index: int) -> np.ndarray:
    pixels = np.full((*SIZE, 3), (200, 60, 90), np.uint8)
    pixels[:, 4 * index : 4 * index + 8] = 20 * index
    return pixels


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_images_come_back(tmp_path, suffix):
    path = tmp_path / "deep" / f"record{suffix}"
    with VideoWriter(path, SIZE, 25, quality=10) as writer:
        for index in range(5):
            writer.write(image(index))
    assert writer.frames == 5
    base, shown = times(path)
    assert [t * base for t in shown] == [Fraction(i, 25) for i in range(5)]
    for index, frame in enumerate(frames(path)):
        difference = frame.to_ndarray(format="rgb24").astype(int) - image(index)
        assert np.abs(difference).mean() < 5
    assert tags(path)[1] == 1
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_times_of_a_clock(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", SIZE, 30) as writer:
        for index, time_s in enumerate((1000.0, 1000.033, 1000.5, 1000.5, 1000.4, 1003.25)):
            writer.write(image(index), time_s)
    base, shown = times(tmp_path / "a.mp4")
    assert shown == [round(t / base) for t in (0, 0.033, 0.5)] + [30_001, 30_002, 195_000]


def test_ntsc_rate_is_exact(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", SIZE, Fraction(30_000, 1001)) as writer:
        for index in range(4):
            writer.write(image(index))
    base, shown = times(tmp_path / "a.mp4")
    assert [t * base for t in shown] == [Fraction(1001 * i, 30_000) for i in range(4)]


@pytest.mark.parametrize("codec", ["mpeg4", "libx265", "libsvtav1", "hevc"])
def test_encoders(tmp_path, codec, capfd):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    with VideoWriter(tmp_path / "a.mp4", SIZE, 30, codec=codec) as writer:
        for index in range(3):
            writer.write(image(index))
    assert len(frames(tmp_path / "a.mp4")) == 3
    with av.open(str(tmp_path / "a.mp4")) as container:
        # Apple's players refuse HEVC under its other name.
        assert container.streams.video[0].codec_tag in ("mp4v", "hvc1", "av01")
    said = capfd.readouterr()
    assert "[info]" not in said.err + said.out


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_clips_shorter_than_the_delay_of_x265(tmp_path, count):
    """It leaves their decoding times uninitialised: the muxer refused them, or not, as the memory was."""
    if "libx265" not in av.codecs_available:
        pytest.skip("this FFmpeg has no libx265")
    for trial in range(4):
        path = tmp_path / f"{trial}.mp4"
        with VideoWriter(path, SIZE, 30, codec="libx265", quality=30) as writer:
            for index in range(count):
                writer.write(image(index))
        assert times(path)[1] == [2000 * i for i in range(count)]


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="camera"), VideoWriter(tmp_path / "a.mp4", SIZE, 30) as writer:
        writer.write(image(0))
        raise RuntimeError("camera")
    assert not list(tmp_path.iterdir())


def test_no_image_no_file(tmp_path):
    (tmp_path / "a.mp4").write_text("an older recording")
    with VideoWriter(tmp_path / "a.mp4", SIZE, 30) as writer:
        assert len(list(tmp_path.iterdir())) == 2
    assert writer.frames == 0
    assert [p.read_text() for p in tmp_path.iterdir()] == ["an older recording"]


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("a.avi", {}, InputError, "unknown ending"),
        ("a.mp4", {"fps": 0}, InputError, "expected 0.001 to 1000"),
        ("a.mp4", {"fps": float("nan")}, InputError, "nan images per second"),
        ("a.mp4", {"codec": "nothing"}, UnsupportedError, "no video encoder 'nothing'"),
        ("a.mp4", {"quality": -1}, InputError, "quality is -1"),
        ("a.mp4", {"size": (20_000, 20_000)}, InputError, "20000 x 20000, more than the 134 megapixels"),
        ("a.mp4", {"size": (16, 20_000)}, OutputError, "libx264 does not start for 20000 x 16"),
        ("file/a.mp4", {}, OutputError, "cannot write"),
    ],
)
def test_what_is_wrong_is_said_on_opening(tmp_path, name, options, error, words):
    (tmp_path / "file").write_text("")
    settings = {"size": SIZE, "fps": 30} | options
    size, fps = settings.pop("size"), settings.pop("fps")
    with pytest.raises(error, match=words), VideoWriter(tmp_path / name, size, fps, **settings):
        pytest.fail("it opened")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("a.avi", {}, InputError, "unknown ending"),
        ("a.mp4", {"quality": 99}, InputError, "quality is 99"),
        ("a.webm", {"codec": "libx264"}, UnsupportedError, r"\.webm file cannot hold what libx264 makes"),
        ("a.mp4", {"codec": "h264_nvenc"}, OutputError, r"h264_nvenc does not start.*choose another codec"),
    ],
)
def test_what_can_be_known_to_fail_is_said_without_a_image(tmp_path, name, options, error, words):
    absent = "h264_nvenc" in av.codecs_available and not Path("/dev/nvidiactl").exists()
    if options.get("codec") == "h264_nvenc" and not absent:
        pytest.skip("needs an FFmpeg that has NVENC on a machine that has none")
    with pytest.raises(error, match=words):
        check_writer(tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm"])
def test_what_works_is_not_refused(tmp_path, name):
    check_writer(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_misuse(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", SIZE, 30)
    with pytest.raises(InputError, match="not open"):
        writer.write(image(0))
    with pytest.raises(ShapeError, match=r"expected images of \(48, 64, 3\), got \(64, 48, 3\)"), writer:
        writer.write(np.zeros((64, 48, 3), np.uint8))


def test_odd_sizes(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", (31, 45), 30) as writer:
        writer.write(np.full((31, 45, 3), 128, np.uint8))
    (frame,) = frames(tmp_path / "a.mp4")
    assert (frame.height, frame.width) == (31, 45)
