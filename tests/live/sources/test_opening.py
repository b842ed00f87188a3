"""What a user writes becomes a source or a message with its cure; files by OpenCV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hasn_edge.errors import InputError, SourceError, UnsupportedError
from hasn_edge.live.sources.capture import open_file
from hasn_edge.live.sources.opening import display_name, open_source
from tests.support.live_rig import number_of


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", InputError, "the source is empty; expected a camera"),
        ("ftp://host/clip.mp4", InputError, "ftp://host/clip.mp4: no such kind of source; expected a camera"),
        ("rtsp://", InputError, "no such kind of source"),
        ("clip.mp4", SourceError, "clip.mp4: no such file; a source is a camera, .*source='pattern'"),
        (
            "csi:x",
            InputError,
            r"csi:x: no CSI camera; expected the sensor's number, as in csi:0, or",
        ),
        ("csi:0?flip=8", InputError, r"csi:0\?flip=8: no CSI camera; .*flip is 0 to 7"),
        ("csi:0?turn=2", InputError, "no CSI camera"),
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


def test_an_opencv_without_ffmpeg_is_not_the_files_or_the_servers_fault(fake_opencv, tmp_path):
    """Neither the address nor the file is wrong."""
    fake_opencv.backends.remove("FFMPEG")
    clip, url = tmp_path / "clip.mp4", "rtsp://user:pass@host/stream"
    clip.touch()
    fake_opencv.refused |= {str(clip), url}
    without = r"OpenCV 4.10.0 was built without FFmpeg, .*; install one that has it: pip install"
    for text, name in ((str(clip), str(clip)), (url, "rtsp://host/stream")):
        with pytest.raises(UnsupportedError, match=f"^{name}: {without}"):
            open_source(text)


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
    from hasn_edge.live.sources.frame_source import PatternSource
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


def test_images_without_a_time_come_at_the_rate_that_the_file_states():
    """Raw H.264 of 10 images a second; OpenCV takes it for 25, and gives time 0 for each of them."""
    pytest.importorskip("av")
    with open_file(Path(__file__).parents[2] / "video" / "cases" / "ten-fps.h264") as source:
        found = [source.read().time_s for _ in range(20)]
    np.testing.assert_allclose(found, np.arange(20) / 10, atol=1e-9)


def damaged(clip: Path, path: Path, *, cut: bool) -> Path:
    """Copy a clip with one image destroyed, or cut off in the middle."""
    data = bytearray(clip.read_bytes())
    starts = [i for i in range(len(data)) if data[i : i + 4] == b"00dc"][:40]
    if cut:
        del data[starts[20] :]
    else:
        data[starts[10] + 8 : starts[11]] = bytes(starts[11] - starts[10] - 8)
    path.write_bytes(data)
    return path


def test_a_damaged_image_is_counted_and_the_rest_is_shown(clip, tmp_path):
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
        source.report = lambda notice: told.append(notice and notice.text)
        count = 0
        while source.read() is not None:
            count += 1
    assert 15 <= count <= 20
    assert told == [f"cut.avi: damaged or cut off: it ends at {(count - 1) / 25:.1f} of 1.6 s"]
