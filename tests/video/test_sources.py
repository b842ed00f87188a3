"""What a user writes becomes a source or a message with its cure; files by OpenCV, cameras by a fake one."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from live_rig import number_of

from hasn_edge.errors import InputError, SourceError, UnsupportedError
from hasn_edge.video import cameras, capture
from hasn_edge.video.cameras import csi_pipeline, has_gstreamer, open_camera
from hasn_edge.video.capture import open_file
from hasn_edge.video.sources import display_name, first_camera, open_source

PIP = "  Video I/O:\n    FFMPEG:             YES\n    GStreamer:          NO\n    v4l/v4l2:    YES\n"
JETPACK = "  Video I/O:\n    FFMPEG:             YES\n    GStreamer:          YES (1.20.3)\n"


class FakeCapture:
    def __init__(self, rig: FakeCv2, target: Any, *options: Any) -> None:
        self.rig, self.target, self.options = rig, target, options
        self.settings: list[tuple[str, float]] = []
        self.frames = list(rig.frames)
        self.released = False
        rig.opened.append(self)

    def isOpened(self) -> bool:
        return self.target not in self.rig.refused

    def set(self, name: str, value: float) -> bool:
        self.settings.append((name, value))
        return True

    def get(self, name: str) -> float:
        return {"HEIGHT": 48.0, "WIDTH": 64.0, "FPS": 30.0}.get(name.rsplit("_", 1)[-1], 0.0)

    def read(self):
        assert not self.released, "read after release"
        if not self.frames:
            return False, None
        return True, self.frames.pop(0)

    def release(self) -> None:
        self.released = True


class FakeCv2:
    """What a camera needs of OpenCV; every constant is its own name."""

    COLOR_BGR2RGB = cv2.COLOR_BGR2RGB
    cvtColor = staticmethod(cv2.cvtColor)  # noqa: N815 - OpenCV's name
    __version__ = "4.10.0"

    class VideoWriter:
        @staticmethod
        def fourcc(*letters: str) -> str:
            return "".join(letters)

    def __init__(self) -> None:
        self.opened: list[FakeCapture] = []
        self.refused: set[str] = set()
        red = np.zeros((48, 64, 3), np.uint8)
        red[..., 2] = 255  # OpenCV's order is blue, green, red
        self.frames = [red, red]
        self.information = PIP

    def getBuildInformation(self) -> str:
        return self.information

    def VideoCapture(self, *args: Any) -> FakeCapture:
        return FakeCapture(self, *args)

    def __getattr__(self, name: str) -> str:
        if name.startswith("CAP_"):
            return name
        raise AttributeError(name)


@pytest.fixture
def fake(monkeypatch, tmp_path) -> FakeCv2:
    """A machine with /dev/video0 and /dev/video2, and an OpenCV that remembers what it was told."""
    fake = FakeCv2()
    monkeypatch.setattr(cameras, "opencv", lambda: fake)
    monkeypatch.setattr(capture, "opencv", lambda: fake)
    monkeypatch.setattr(cameras, "DEVICES", tmp_path)
    monkeypatch.setattr(cameras.sys, "platform", "linux")
    for name in ("video10", "video0", "video2", "videodev"):
        (tmp_path / name).touch()
    return fake


def test_a_camera_gives_rgb(fake, tmp_path):
    with open_camera(str(tmp_path / "video0")) as source:
        frame = source.read()
        assert frame.pixels[0, 0].tolist() == [255, 0, 0]
        assert (source.live, source.size, source.fps) == (True, (48, 64), 30.0)
        assert frame.time_s is None
        assert source.read().index == 1
        with pytest.raises(SourceError, match="no picture came; it may have been unplugged"):
            source.read()
    assert fake.opened[0].released
    assert source.read() is None


def test_closing_during_a_read_lets_the_read_release(fake, tmp_path):
    source = open_camera(str(tmp_path / "video0"))
    opened = fake.opened[0]
    read = opened.read

    def closed_meanwhile():
        closer = threading.Thread(target=source.close)
        closer.start()
        closer.join(2)
        assert not closer.is_alive(), "close does not wait for the library"
        assert not opened.released, "released under a read"
        return read()

    opened.read = closed_meanwhile
    assert source.read() is None
    assert opened.released


def test_a_camera_is_asked_for_little_and_the_newest(fake, tmp_path):
    device = str(tmp_path / "video0")
    open_camera(device, (180, 320), 60)
    assert fake.opened[0].options == ("CAP_V4L2",)
    settings = dict(fake.opened[0].settings)
    assert settings == {
        "CAP_PROP_FRAME_WIDTH": 320,
        "CAP_PROP_FRAME_HEIGHT": 180,
        "CAP_PROP_FPS": 60,
        "CAP_PROP_BUFFERSIZE": 1,
    }
    open_camera(device, (720, 1280))
    assert fake.opened[1].settings[0] == ("CAP_PROP_FOURCC", "MJPG")


def test_a_camera_in_use_names_the_others(fake, tmp_path):
    device = str(tmp_path / "video2")
    fake.refused.add(device)
    with pytest.raises(SourceError, match=r"another program may be using it.*video0, .*video2, .*video10$"):
        open_camera(device)


def test_a_missing_camera(fake, tmp_path):
    with pytest.raises(SourceError, match="no such camera; found: .*video0.*--source pattern"):
        open_camera(str(tmp_path / "video7"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_camera_without_permission(fake, tmp_path):
    (tmp_path / "video0").chmod(0)
    with pytest.raises(SourceError, match="usermod -aG video"):
        open_camera(str(tmp_path / "video0"))


def test_permission_is_asked_for(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(cameras.os, "access", lambda path, mode: False)
    with pytest.raises(SourceError, match="no permission; add yourself to its group"):
        open_camera(str(tmp_path / "video0"))


def test_the_first_camera_that_works_is_taken(fake, tmp_path):
    fake.refused.add(str(tmp_path / "video0"))
    with first_camera() as source:
        assert source.read().pixels.shape == (48, 64, 3)
    works = next(one.target for one in fake.opened if one.target not in fake.refused)
    assert works == str(tmp_path / "video2")


def test_no_camera_is_none(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(cameras, "DEVICES", tmp_path / "nothing")
    assert first_camera() is None


def test_cameras_that_all_refuse_say_why(fake, tmp_path):
    fake.refused.update(str(tmp_path / f"video{n}") for n in (0, 2, 10))
    with pytest.raises(SourceError, match=r"video0: cannot be opened.*video10: cannot be opened"):
        first_camera()


def test_csi_without_gstreamer_tells_the_cure(fake):
    with pytest.raises(UnsupportedError, match=r"csi:0: .* 4.10.0 has none.*--system-site-packages"):
        open_source("csi:0")
    assert fake.opened == []


def test_csi_with_gstreamer(fake):
    fake.information = JETPACK
    with open_source("csi:1", (180, 320), fps=60) as source:
        assert source.read().pixels[0, 0].tolist() == [255, 0, 0]
    opened = fake.opened[0]
    assert opened.options == ("CAP_GSTREAMER",)
    assert opened.target == csi_pipeline(1, (180, 320), 60)


def test_csi_camera_that_does_not_answer(fake):
    fake.information = JETPACK
    fake.refused.add(csi_pipeline(0, (720, 1280), 30))
    with pytest.raises(SourceError, match="nvargus-daemon"):
        open_source("csi:0")


def test_csi_pipeline_scales_before_the_frame_leaves_and_keeps_only_the_newest():
    elements = [element.strip() for element in csi_pipeline(0, (180, 320), 29.97, flip=2).split("!")]
    assert elements == [
        "nvarguscamerasrc sensor-id=0",
        "video/x-raw(memory:NVMM),format=NV12,framerate=30/1",
        "nvvidconv flip-method=2",
        "video/x-raw,format=BGRx,width=320,height=180",
        "videoconvert",
        "video/x-raw,format=BGR",
        "appsink drop=true max-buffers=1 sync=false",
    ]


def test_gstreamer_is_read_off_the_build_information():
    assert not has_gstreamer(PIP)
    assert has_gstreamer(JETPACK)
    assert not has_gstreamer("")
    assert isinstance(has_gstreamer(cv2.getBuildInformation()), bool)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", InputError, "the source is empty; expected a camera"),
        ("ftp://host/clip.mp4", InputError, "ftp://host/clip.mp4: no such kind of source; expected a camera"),
        ("rtsp://", InputError, "no such kind of source"),
        ("clip.mp4", SourceError, "clip.mp4: no such file; --source takes a camera"),
        ("csi:x", SourceError, "csi:x: no such file"),
    ],
)
def test_what_is_no_source(text, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        open_source(text)


def test_a_folder_is_no_video(tmp_path):
    with pytest.raises(SourceError, match="a folder, not a video"):
        open_source(str(tmp_path))


def test_text_is_no_video(tmp_path, capfd):
    (tmp_path / "notes.mp4").write_text("nothing to see")
    with pytest.raises(SourceError, match="not a video that OpenCV's FFmpeg can read"):
        open_source(str(tmp_path / "notes.mp4"))
    assert capfd.readouterr().err == "", "FFmpeg's own words"


def test_names_keep_secrets():
    assert display_name("rtsp://admin:pass@10.0.0.5:554/s?key=1") == "rtsp://10.0.0.5:554/s?..."
    assert display_name("http://host/a.mjpg") == "http://host/a.mjpg"
    assert display_name("http://u:p@host:nan/x") == "host:nan/x"


def test_a_file_is_read_whole_in_order_with_its_times(clip):
    with open_file(clip) as source:
        assert (source.live, source.size, source.fps) == (False, (96, 160), 25.0)
        frames = []
        while (frame := source.read()) is not None:
            frames.append(frame)
    assert [number_of(frame.pixels) for frame in frames] == list(range(40))
    assert [frame.index for frame in frames] == list(range(40))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(40) / 25, atol=1e-6)


def test_times_of_a_variable_rate_are_kept(tmp_path):
    pytest.importorskip("av")
    from hasn_edge.video.source import PatternSource
    from hasn_edge.video.writer import VideoWriter

    times = [0.0, 0.04, 0.1, 0.5, 0.52, 1.0]
    with (
        PatternSource((96, 160), frames=6, live=False) as pattern,
        VideoWriter(tmp_path / "vfr.mp4", (96, 160), 25) as writer,
    ):
        for time_s in times:
            writer.write(pattern.read().pixels, time_s)
    with open_file(tmp_path / "vfr.mp4") as source:
        found = [source.read().time_s for _ in times]
    np.testing.assert_allclose(found, times, atol=1e-3)


def damaged(clip: Path, path: Path, *, cut: bool) -> Path:
    """Copy a clip with one picture destroyed, or cut off in the middle."""
    data = bytearray(clip.read_bytes())
    starts = [i for i in range(len(data)) if data[i : i + 4] == b"00dc"][:40]
    if cut:
        del data[starts[20] :]
    else:
        data[starts[10] + 8 : starts[11]] = bytes(starts[11] - starts[10] - 8)
    path.write_bytes(data)
    return path


def test_a_damaged_picture_is_counted_and_the_rest_is_shown(clip, tmp_path):
    with open_file(damaged(clip, tmp_path / "damaged.avi", cut=False)) as source:
        numbers = []
        while (frame := source.read()) is not None:
            numbers.append((frame.index, number_of(frame.pixels)))
    assert len(numbers) == 39
    assert all(index == number for index, number in numbers)
    assert source.dropped == 1


def test_a_file_that_was_cut_off_says_so(clip, tmp_path):
    told = []
    with open_file(damaged(clip, tmp_path / "cut.avi", cut=True)) as source:
        source.report = told.append
        count = 0
        while source.read() is not None:
            count += 1
    assert 15 <= count <= 20
    assert told == [f"cut.avi: damaged or cut off: it ends at {(count - 1) / 25:.1f} of 1.6 s"]
