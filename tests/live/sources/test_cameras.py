"""Cameras that open, refuse, hang and give nothing: which one is taken, and what is said of the others."""

from __future__ import annotations

import os
import re
import sys
import threading
from functools import partial

import cv2
import pytest

from hasn_edge.errors import InputError, SourceError, UnsupportedError
from hasn_edge.live.launch import _source
from hasn_edge.live.pipeline import lingering_threads
from hasn_edge.live.sources import cameras
from hasn_edge.live.sources import opening as sources
from hasn_edge.live.sources.cameras import covering, csi_pipeline, open_camera, possible_cameras
from hasn_edge.live.sources.capture import has_backend
from hasn_edge.live.sources.opening import first_camera, open_source
from hasn_edge.live.sources.remote import Remote
from tests.support.fake_opencv import FakeCapture
from tests.support.live_rig import Told


def test_a_camera_gives_rgb(fake_opencv, tmp_path):
    with open_camera(str(tmp_path / "video0")) as source:
        frame = source.read()
        assert frame.pixels[0, 0].tolist() == [255, 0, 0]
        assert (source.live, source.size, source.fps) == (True, (48, 64), 30.0)
        assert frame.time_s is None
        assert [source.read().index, source.read().index] == [1, 2]
        with pytest.raises(SourceError, match="no image came; it may have been unplugged"):
            source.read()
    assert fake_opencv.opened[0].released
    assert source.read() is None


def test_closing_during_a_read_lets_the_read_release(fake_opencv, tmp_path):
    source = open_camera(str(tmp_path / "video0"))
    opened = fake_opencv.opened[0]
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


def test_a_camera_is_asked_for_little_and_the_newest(fake_opencv, tmp_path):
    device = str(tmp_path / "video0")
    open_camera(device, (180, 320))
    assert fake_opencv.opened[0].options == ("CAP_V4L2",)
    settings = dict(fake_opencv.opened[0].settings)
    assert settings == {
        "CAP_PROP_FRAME_WIDTH": 320,
        "CAP_PROP_FRAME_HEIGHT": 180,
        "CAP_PROP_BUFFERSIZE": 1,
    }
    open_camera(device, (720, 1280))
    assert fake_opencv.opened[1].settings[0] == ("CAP_PROP_FOURCC", "MJPG")


def test_a_camera_in_use_names_the_others(fake_opencv, tmp_path):
    device = str(tmp_path / "video2")
    fake_opencv.refused.add(device)
    with pytest.raises(
        SourceError, match=r"another program may be using it.*video0, .*video2, .*video10\); try its"
    ):
        open_camera(device)


def test_a_missing_camera(fake_opencv, tmp_path):
    with pytest.raises(SourceError, match="no such camera; found: .*video0.*use source='pattern'"):
        open_camera(str(tmp_path / "video7"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_camera_without_permission(fake_opencv, tmp_path):
    (tmp_path / "video0").chmod(0)
    with pytest.raises(SourceError, match="usermod -aG video"):
        open_camera(str(tmp_path / "video0"))


def test_permission_is_asked_for(fake_opencv, tmp_path, monkeypatch):
    monkeypatch.setattr(cameras.os, "access", lambda path, mode: False)
    with pytest.raises(SourceError, match="no permission; add yourself to its group"):
        open_camera(str(tmp_path / "video0"))


@pytest.fixture
def at_once(monkeypatch) -> None:
    """What was lost is opened again without a pause."""
    monkeypatch.setattr(sources, "Remote", partial(Remote, backoff_s=(0.01,)))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("fault", ["refused", "silent"])
def test_the_first_camera_that_gives_images_is_taken_and_kept(fake_opencv, tmp_path, fault):
    first, second = (str(tmp_path / name) for name in ("video0", "video2"))
    getattr(fake_opencv, fault).add(first)
    with first_camera(stall_s=1) as source:
        assert source.name == second
        while not source.reconnects:  # the fake is lost after three images, and opened again
            assert source.read().pixels.shape == (48, 64, 3)
    assert [one.target for one in fake_opencv.opened][:3] == [first, second, second]


def test_a_camera_that_hangs_is_passed_over_in_time(fake_opencv, tmp_path):
    fake_opencv.hung.add(str(tmp_path / "video0"))
    with first_camera(probe_s=0.2) as source:
        assert source.name == str(tmp_path / "video2")
    fake_opencv.release.set()
    assert lingering_threads(5) == ()
    assert fake_opencv.opened[0].released


def test_a_damaged_first_image_does_not_pass_a_camera_over(fake_opencv, tmp_path, monkeypatch):
    reads = []
    read = FakeCapture.read

    def damaged(self):
        reads.append(self)
        return (False, None) if len(reads) == 1 else read(self)

    monkeypatch.setattr(FakeCapture, "read", damaged)
    with first_camera() as source:
        assert source.name == str(tmp_path / "video0")


@pytest.mark.usefixtures("at_once")
def test_a_camera_that_comes_back_under_another_number_is_found(fake_opencv, tmp_path):
    with first_camera() as source:
        source.read()
        (tmp_path / "video0").unlink()
        (tmp_path / "video11").touch()
        for _ in range(3):
            assert source.read() is not None
    assert fake_opencv.opened[-1].target == str(tmp_path / "video11")


def test_no_camera_is_none(fake_opencv, tmp_path, monkeypatch):
    monkeypatch.setattr(cameras, "DEVICES", tmp_path / "nothing")
    assert first_camera() is None


def test_cameras_that_all_refuse_say_why(fake_opencv, tmp_path):
    fake_opencv.refused.update(str(tmp_path / f"video{n}") for n in (0, 10))
    fake_opencv.silent.add(str(tmp_path / "video2"))
    why = r"video0: cannot be opened.*video2: it can be opened and gives no image.*video10: cannot be"
    with pytest.raises(SourceError, match=why):
        first_camera()
    told = Told()
    with _source(None, (32, 64), told) as source:
        assert source.name == "pattern"
    assert len(told) == 1
    first = tmp_path / "video0"
    assert told[0].startswith(f"no camera works: showing the test pattern; tried {first}: cannot be opened")


def test_a_camera_that_was_named_must_give_an_image(fake_opencv, tmp_path):
    fake_opencv.silent.add(str(tmp_path / "video0"))
    with pytest.raises(SourceError, match="video0: it can be opened and gives no image"):
        open_source("0")
    fake_opencv.hung.add(str(tmp_path / "video2"))
    with pytest.raises(SourceError, match=r"video2: no answer within 0.1 s; check its cable and"):
        open_source("2", open_s=0.1)


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_numbers_go_to_opencv_on_other_systems(fake_opencv, monkeypatch, system):
    monkeypatch.setattr(sys, "platform", system)
    with open_source("01") as source:
        assert source.name == "camera 1"
        assert source.read() is not None
    assert (fake_opencv.opened[0].target, fake_opencv.opened[0].options) == (1, ())
    with first_camera() as source:
        assert source.name == "camera 0"
    assert fake_opencv.opened[1].target == 0
    with pytest.raises(InputError, match="/dev/video0: cameras have numbers on this system; use source='0'"):
        open_source("/dev/video0")
    fake_opencv.refused.add(0)
    with pytest.raises(SourceError, match="camera 0: cannot be opened; there may be none, .*privacy"):
        first_camera()


def test_an_opencv_without_v4l2_is_not_another_programs_fault(fake_opencv, tmp_path):
    fake_opencv.backends.remove("V4L2")
    fake_opencv.refused.add(str(tmp_path / "video0"))
    with pytest.raises(UnsupportedError, match=r"video0: OpenCV 4.10.0 was built without V4L2, which"):
        open_source("0")


def test_csi_without_gstreamer_tells_the_cure(fake_opencv):
    with pytest.raises(UnsupportedError, match=r"csi:0: .* 4.10.0 has none.*--system-site-packages"):
        open_source("csi:0")
    assert fake_opencv.opened == []


def test_csi_with_gstreamer(fake_opencv):
    fake_opencv.backends.add("GSTREAMER")
    with open_source("csi:1", (180, 320)) as source:
        assert source.name == "csi:1"
        assert source.read().pixels[0, 0].tolist() == [255, 0, 0]
    opened = fake_opencv.opened[0]
    assert opened.options == ("CAP_GSTREAMER",)
    assert opened.target == csi_pipeline(1, (180, 320))


def test_csi_camera_upside_down(fake_opencv):
    fake_opencv.backends.add("GSTREAMER")
    with open_source("csi:0?flip=2", (180, 320)):
        assert "nvvidconv flip-method=2 !" in fake_opencv.opened[0].target


def test_csi_camera_that_does_not_answer(fake_opencv):
    fake_opencv.backends.add("GSTREAMER")
    fake_opencv.refused.add(csi_pipeline(0, (720, 1280)))
    with pytest.raises(SourceError, match="nvargus-daemon"):
        open_source("csi:0")


def test_a_jetson_whose_only_camera_is_a_csi_sensor(fake_opencv, tmp_path, monkeypatch):
    """The sensor is a device too, whose raw images OpenCV cannot take."""
    monkeypatch.setattr(cameras, "is_jetson", lambda: True)
    fake_opencv.backends.add("GSTREAMER")
    fake_opencv.refused.update(str(tmp_path / f"video{n}") for n in (0, 2, 10))
    assert possible_cameras()[-1] == "csi:0"
    with first_camera((180, 320)) as source:
        assert source.name == "csi:0"
    with pytest.raises(
        SourceError, match="video0: cannot be opened.*; try its neighbour, or use source='csi:0'"
    ):
        open_source("0")
    fake_opencv.backends.remove("GSTREAMER")
    with pytest.raises(SourceError, match=r"video0: .*; csi:0: CSI cameras need an OpenCV with GStreamer"):
        first_camera()


def test_csi_pipeline_scales_before_the_frame_leaves_and_keeps_only_the_newest():
    elements = [element.strip() for element in csi_pipeline(0, (180, 320), flip=2).split("!")]
    assert elements == [
        "nvarguscamerasrc sensor-id=0",
        "video/x-raw(memory:NVMM),format=NV12,framerate=30/1",
        "nvvidconv flip-method=2",
        "video/x-raw,format=BGRx,width=320,height=180",
        "videoconvert",
        "video/x-raw,format=BGR",
        "appsink drop=true max-buffers=1 sync=false",
    ]


@pytest.mark.parametrize(
    ("size", "flip", "covered"),
    [
        ((240, 320), 0, (252, 448)),
        ((720, 1280), 0, (720, 1280)),
        ((100, 1280), 0, (720, 1280)),
        ((1, 1), 0, (18, 32)),
        ((240, 320), 1, (576, 324)),
        ((240, 320), 6, (252, 448)),
    ],
)
def test_csi_images_keep_the_sensors_shape(size, flip, covered):
    """What is wanted of them is cut out afterwards, as with every other source."""
    assert f"width={covered[1]},height={covered[0]} " in csi_pipeline(0, size, flip=flip)


def test_the_smallest_size_of_a_shape_is_taken():
    """Against trying all of them."""
    sizes = [(9 * k, 16 * k) for k in range(2, 400, 2)]
    for size in ((1, 2), (17, 33), (180, 320), (181, 320), (180, 321), (1080, 1000)):
        assert covering(size) == next(s for s in sizes if s[0] >= size[0] and s[1] >= size[1])


def test_the_installed_opencv_captures_through_ffmpeg_and_v4l2():
    build = cv2.getBuildInformation()
    for backend, line in (("FFMPEG", r"FFMPEG: +YES"), ("V4L2", r"v4l/v4l2: +YES")):
        assert has_backend(cv2, backend) == bool(re.search(line, build))
