"""What a new file is: its times, sizes, pixel aspect, quality; nothing where it cannot be written."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import pytest

av = pytest.importorskip("av")
from hasn_edge.errors import OutputError, UnsupportedError
from hasn_edge.spec import ModelSpec
from tests.support import clips
from tests.support.clips import VFR, frames, make, planes_in, psnr, times, upscale
from tests.support.fake_session import FakeSession


@pytest.mark.slow
def test_milliseconds_of_matroska_are_said(tmp_path):
    source = make(tmp_path / "clip.mp4", pts=VFR)
    report = upscale(source, tmp_path / "out.mkv")
    assert "keeps times in milliseconds" in " ".join(report.notes)
    assert times(report.path)[1] == [round(t / 90) for t in VFR]


def test_lossy_result_is_close_to_the_upscaled_frames(tmp_path):
    source = make(tmp_path / "clip.mp4", 4)
    lossless = upscale(source, tmp_path / "a.mkv", codec="ffv1")
    good, bad = upscale(source, tmp_path / "b.mp4"), upscale(source, tmp_path / "c.mp4", quality=45)
    levels = {}
    for report in (good, bad):
        pairs = zip(frames(lossless.path), frames(report.path), strict=True)
        levels[report.path.name] = min(psnr(planes_in(a)[0], planes_in(b)[0]) for a, b in pairs)
    assert levels["b.mp4"] > 42
    assert levels["c.mp4"] < levels["b.mp4"] - 8
    assert bad.path.stat().st_size < good.path.stat().st_size


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux lists a process's threads")
def test_av1_leaves_the_machine_to_others(tmp_path):
    """For root it would run in real time, before everything else, and so would what this process starts."""
    source = make(tmp_path / "clip.mp4", 2)
    upscale(source, tmp_path / "out.mp4", codec="libsvtav1")
    policies = {os.sched_getscheduler(int(task.name)) for task in Path("/proc/self/task").iterdir()}
    assert policies == {os.SCHED_OTHER}


def test_odd_sizes(tmp_path):
    source = make(tmp_path / "odd.mkv", 3, width=33, height=25, codec="ffv1", time_base=Fraction(1, 1000))
    report = upscale(source, tmp_path / "out.mp4", session=FakeSession())
    assert report.size == (100, 132)
    assert [(f.height, f.width) for f in frames(report.path)] == [(100, 132)] * 3
    thrice = frames(upscale(source, tmp_path / "x3.mp4", session=FakeSession(ModelSpec(scale=3))).path)[0]
    assert (thrice.height, thrice.width, thrice.format.name) == (75, 99, "yuv444p")


def test_pixel_aspect_is_kept_and_turned(tmp_path):
    source = make(tmp_path / "wide.mp4", 2, aspect=Fraction(16, 11))
    for quarter, expected in ((False, Fraction(16, 11)), (True, Fraction(11, 16))):
        if quarter:
            clips.patch_matrix(source, (0, 1, -1, 0))
        for suffix in (".mp4", ".mkv"):
            with av.open(str(upscale(source, tmp_path / f"out{suffix}").path)) as container:
                assert container.streams.video[0].sample_aspect_ratio == expected


def test_a_folder_that_is_a_file_is_refused_before_anything_is_computed(tmp_path):
    source, session = make(tmp_path / "clip.mp4", 2), FakeSession()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as refused:
        upscale(source, tmp_path / "file" / "out.mp4", session)
    place = tmp_path / "file" / "out.mp4"
    assert str(refused.value) == (f"cannot write {place}: File exists; choose a folder that you may write to")
    assert not session.calls
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "file"]


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9", "vc2"])
def test_what_a_container_refuses_with_the_first_packet_is_said_before_anything_is_computed(tmp_path, codec):
    session = FakeSession()
    with pytest.raises(UnsupportedError, match=rf"a \.mov file cannot hold what {codec} makes; .* or \.mkv"):
        upscale(make(tmp_path / "clip.mp4", 2), tmp_path / "out.mov", session, codec=codec)
    assert not session.calls
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
