"""Video files: every frame at its time, pixels of the network, failures that leave nothing."""

from __future__ import annotations

import os
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")
from hasn_edge.data.resize import imresize
from hasn_edge.errors import OutputError
from hasn_edge.progress import Step
from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.spec import ModelSpec
from hasn_edge.video.encode import Encoder
from hasn_edge.video.runner import Runner
from hasn_edge.video.tracks import output_suffix
from hasn_edge.video.transcode import upscale_video
from tests.support.clips import VFR, frames, make, packets, planes_in, psnr, tags, times, upscale
from tests.support.fake_session import FakeSession, PixelSession, RecordingSession


@pytest.mark.parametrize("session", [FakeSession, PixelSession])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_bits_that_a_file_of_8_bit_pixels_rounds_are_said(tmp_path, pix_fmt, session):
    source = make(tmp_path / "clip.mp4", 2, pix_fmt=pix_fmt)
    lost = session is PixelSession and pix_fmt != "yuv420p"
    text = "it has more than 8 bits, and the network's file takes 8-bit pixels"
    assert upscale(source, tmp_path / "out.mp4", session=session()).notes == ((text,) if lost else ())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("b-frames.mp4", {"options": {"bf": "3"}, "pts": VFR}),
        ("later.mp4", {"pts": [91_237 + t for t in VFR], "container": {"movie_timescale": "90000"}}),
        ("broadcast.ts", {"pts": VFR, "audio": "aac"}),
        ("ntsc.mp4", {"time_base": Fraction(1, 30_000), "rate": Fraction(30_000, 1001)}),
        ("coarse.mp4", {"time_base": Fraction(1, 25), "rate": 25}),
        ("quicktime.mov", {"pts": VFR}),
        ("matroska.mkv", {"time_base": Fraction(1, 1000), "pts": [t // 90 for t in VFR]}),
        ("web.webm", {"codec": "libvpx-vp9", "time_base": Fraction(1, 1000), "pts": [t // 90 for t in VFR]}),
    ],
)
def test_every_frame_keeps_its_time(tmp_path, name, options):
    source = make(tmp_path / name, **options)
    report = upscale(source, tmp_path / f"out{output_suffix(source)}")
    assert times(report.path) == times(source)
    assert report.images == len(times(source)[1]) == 10
    assert report.whole
    assert report.notes == ()


def test_last_frame_keeps_its_duration(tmp_path):
    slow = make(tmp_path / "slow.mp4", 4, last=180_000, options={"bf": "0"})
    out = upscale(slow, tmp_path / "out.mp4").path
    with av.open(str(slow)) as a, av.open(str(out)) as b:
        assert b.duration == a.duration == 2_100_000  # three of 1/30 s, one of 2 s
    assert [f.duration for f in frames(out)] == [3000, 3000, 3000, 180_000]


def test_pixels_are_those_of_the_upscaled_frames(tmp_path):
    """Every plane on its own: the fake network repeats pixels, so each plane is repeated as well."""
    source = make(tmp_path / "clip.mp4", 4, options={"crf": "1"})
    report = upscale(source, tmp_path / "out.mkv", codec="ffv1", session=FakeSession())
    for before, after in zip(frames(source), frames(report.path), strict=True):
        for plane, (a, b) in enumerate(zip(planes_in(before), planes_in(after), strict=True)):
            large = np.repeat(np.repeat(a, 4, axis=0), 4, axis=1)
            assert b.shape == large.shape
            # Luma comes back exactly. Chroma lies on the left of two pixels and was interpolated between
            # them, so that the ramp of U, 1.6 levels a sample, moves by a quarter of one.
            assert np.array_equal(large, b) if plane == 0 else psnr(large, b) > 50
            assert abs(float((b - large).mean())) < 0.45


@pytest.mark.slow
def test_reading_ahead_is_bounded_and_the_session_stays_in_one_thread(tmp_path):
    seen = []

    class Watching(RecordingSession):
        def _run(self, x_NCHW):
            threading.Event().wait(0.02)  # let the reader run ahead as far as it may
            seen.append(decoded[0])
            return super()._run(x_NCHW)

    decoded = [0]
    source = make(tmp_path / "clip.mp4", 20)
    upscaler, original = Upscaler(Watching()), Runner.prepare

    def prepare(self, image):
        decoded[0] += 1
        return original(self, image)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "prepare", prepare)
        upscale_video(source, tmp_path / "out.mp4", upscaler)
    ahead = [count - index for index, count in enumerate(seen, start=1)]
    assert max(ahead) == 3  # two in the lane, one in the reader's hands
    assert upscaler.session.threads == {threading.current_thread().name}


def test_progress_counts_to_the_end(tmp_path):
    calls = []
    upscale(make(tmp_path / "clip.mp4", 5), tmp_path / "out.mp4", progress=calls.append)
    assert calls == [Step("clip.mp4", i, 5) for i in range(1, 6)]


@pytest.mark.parametrize("link", [None, Path.symlink_to, Path.hardlink_to])
def test_the_video_itself_is_never_overwritten(tmp_path, link):
    source = make(tmp_path / "clip.mp4", 2)
    before = source.read_bytes()
    target = source
    if link is not None:
        target = tmp_path / "other.mp4"
        link(target, source)
    with pytest.raises(OutputError, match="is the video to upscale and would be overwritten"):
        upscale(source, target)
    assert source.read_bytes() == before


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at open files as Linux shows them")
@pytest.mark.parametrize("stage", ["network", "writer", "reader", "interrupt"])
def test_a_failure_leaves_nothing_and_stops_all_threads(tmp_path, monkeypatch, stage):
    class Failing(FakeSession):
        def _run(self, x_NCHW):
            if len(self.calls) == 5:
                raise KeyboardInterrupt if stage == "interrupt" else RuntimeError("network at 5")
            return super()._run(x_NCHW)

    def broken(*args):
        raise RuntimeError(f"{stage} fails")

    source = make(tmp_path / "clip.mp4", 20, audio="aac")
    session = (
        Failing(ModelSpec(scale=2)) if stage in ("network", "interrupt") else FakeSession(ModelSpec(scale=2))
    )
    if stage == "writer":
        write = Encoder.write

        def fails_at_the_second_image(encoder, rgb_HWC, pts, duration=0):
            return broken() if pts else write(encoder, rgb_HWC, pts, duration)

        monkeypatch.setattr(Encoder, "write", fails_at_the_second_image)
    if stage == "reader":
        monkeypatch.setattr("hasn_edge.video.runner.Runner.prepare", broken)
    error = KeyboardInterrupt if stage == "interrupt" else RuntimeError
    with pytest.raises(error, match=None if stage == "interrupt" else stage) as caught:
        upscale(source, tmp_path / "out" / "result.mp4", session=session)
    assert not list((tmp_path / "out").iterdir())
    assert caught.tb  # which keeps everything alive that was not closed
    assert not [
        name for name in map(os.path.realpath, Path("/proc/self/fd").iterdir()) if str(tmp_path) in name
    ]
    assert not [t for t in threading.enumerate() if t.name.startswith("hasn-edge-video")]


def excerpt(source: Path, target: Path, seconds: float) -> Path:
    """The beginning of a real clip, its packets as they are."""
    with av.open(str(source)) as a, av.open(str(target), "w") as out:
        copies = {s.index: out.add_stream_from_template(s, opaque=True) for s in a.streams}
        for packet in a.demux():
            if packet.size and packet.dts * packet.time_base < seconds:
                packet.stream = copies[packet.stream.index]
                out.mux(packet)
    return target


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "seconds"), [("intel_bottle-detection.mp4", 0.3), ("intel_car-detection.mp4", 0.5)]
)
def test_real_clips(shared_data, tmp_path, name, seconds):
    source = excerpt(shared_data / "video" / name, tmp_path / "clip.mp4", seconds)
    report = upscale(source, tmp_path / "out.mp4", quality=30)
    assert report.whole
    assert report.images >= 6
    assert times(report.path) == times(source)
    before, after = tags(source), tags(report.path)
    # The first says nothing of its matrix: small as it is, players take BT.601, and would not for the result.
    assert after == (before if before[1] != 2 else (1, 6, *before[2:]))
    if "car" in name:
        assert packets(report.path, "audio") == packets(source, "audio")
    large = [np.repeat(np.repeat(p, 2, axis=0), 2, axis=1) for p in planes_in(frames(source)[5])]
    small = planes_in(frames(report.path)[5])
    assert all(psnr(a, b) > 33 for a, b in zip(large, small, strict=True))


def test_results_of_another_size_are_resampled_to_even_sides(tmp_path):
    source = make(tmp_path / "clip.mp4", 3)
    report = upscale(source, tmp_path / "out.mp4", final=lambda height, width: (height * 2 - 7, width + 3))
    assert report.size == (88, 66), "of 89x67: never larger"
    assert "the sides of videos are even: 66x88 in the place of 67x89" in report.notes
    doubled = frames(upscale(source, tmp_path / "whole.mp4").path)[1].to_ndarray(format="rgb24")
    shown = frames(report.path)[1]
    assert (shown.height, shown.width, shown.format.name) == (88, 66, "yuv420p")
    expected = imresize(doubled, size=(88, 66)).astype(int)
    assert np.abs(shown.to_ndarray(format="rgb24").astype(int) - expected).mean() < 4
    same = upscale(source, tmp_path / "same.mp4", final=lambda h, w: (2 * h, 2 * w))
    assert (same.size, [note for note in same.notes if "even" in note]) == ((96, 128), [])
