"""Video files: every frame at its time, what travels beside it, what is said of damage, nothing half-done."""

from __future__ import annotations

import itertools
import os
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")
from hasn_edge.errors import InputError, OutputError, UnsupportedError
from hasn_edge.runtime.session import Pending
from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.spec import ModelSpec
from hasn_edge.video import transcode as transcode_module
from hasn_edge.video.files import VideoReport, is_video, output_suffix, upscale_video
from tests.support import clips
from tests.support.clips import TB, VFR, frames, make, packets, planes_in, psnr, tags, times
from tests.support.fake_session import FakeSession

X2 = ModelSpec(scale=2)


def run(source: Path, target: Path, **options: object) -> VideoReport:
    spec = options.pop("spec", X2)
    session = options.pop("session", None) or FakeSession(spec)
    return upscale_video(source, target, Upscaler(session), **options)


class Recording(FakeSession):
    """Keeps the inputs, and the threads they came in."""

    def __init__(self, spec: ModelSpec = X2) -> None:
        super().__init__(spec)
        self.inputs: list[np.ndarray] = []
        self.threads: set[str] = set()

    def _run(self, x_NCHW):
        self.inputs.append(x_NCHW[0].transpose(1, 2, 0).copy())
        self.threads.add(threading.current_thread().name)
        return super()._run(x_NCHW)


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
    report = run(source, tmp_path / f"out{output_suffix(source)}")
    assert times(report.path) == times(source)
    assert report.images == len(times(source)[1]) == 10
    assert report.whole
    assert report.notes == ()


def test_last_frame_keeps_its_duration(tmp_path):
    slow = make(tmp_path / "slow.mp4", 4, last=180_000, options={"bf": "0"})
    out = run(slow, tmp_path / "out.mp4").path
    with av.open(str(slow)) as a, av.open(str(out)) as b:
        assert b.duration == a.duration == 2_100_000  # three of 1/30 s, one of 2 s
    assert [f.duration for f in frames(out)] == [3000, 3000, 3000, 180_000]


def test_what_an_edit_list_hides_stays_hidden(tmp_path):
    """Frames before time zero are in the file for the decoder only."""
    source = make(tmp_path / "edit.mp4", pts=[t - 9001 for t in VFR])
    shown = times(source)
    assert len(shown[1]) == 6
    assert times(run(source, tmp_path / "out.mp4").path) == shown


def test_milliseconds_of_matroska_are_said(tmp_path):
    source = make(tmp_path / "clip.mp4", pts=VFR)
    report = run(source, tmp_path / "out.mkv")
    assert "keeps times in milliseconds" in " ".join(report.notes)
    assert times(report.path)[1] == [round(t / 90) for t in VFR]


def test_frames_without_times_get_the_rate(tmp_path):
    source = make(tmp_path / "raw.h264", 5)
    report = run(source, tmp_path / "out.mp4")
    base, shown = times(report.path)
    assert {b - a for a, b in itertools.pairwise(shown)} == {Fraction(1, 25) / base}
    assert "5 of its images had no time" in " ".join(report.notes)


@pytest.mark.parametrize("codec", ["aac", "libmp3lame"])
def test_audio_is_copied_byte_by_byte(tmp_path, codec):
    source = make(tmp_path / "clip.mp4", 20, audio=codec)
    assert len(packets(source, "audio")) > 20
    assert packets(run(source, tmp_path / "out.mp4").path, "audio") == packets(source, "audio")
    silent = run(source, tmp_path / "silent.mp4", audio="none")
    with av.open(str(silent.path)) as container:
        assert [s.type for s in container.streams] == ["video"]


@pytest.mark.parametrize("offset", [1.4, 60_000])
def test_a_broadcast_begins_at_zero_and_its_audio_keeps_its_times(tmp_path, offset):
    """Into MP4 audio goes in units of its sample rate, and without the headers that each packet repeats."""
    source = make(tmp_path / "clip.ts", pts=VFR, audio="aac", container={"output_ts_offset": str(offset)})
    report = run(source, tmp_path / "out.mp4")
    with av.open(str(source)) as container:
        start_s = Fraction(container.start_time, 1_000_000)
    assert offset - 0.1 < start_s < offset + 0.1
    assert report.notes == (f"its times begin at {float(start_s):.3f} s; those of the result at 0",)
    (base, old), (same, new) = times(source), times(report.path)
    assert base == same == TB
    first = round(start_s / TB)
    assert new == [pts - first for pts in old]
    before, after = (packets(p, "audio") for p in (source, report.path))
    assert len(before) == len(after) > 10
    for a, b in zip(before, after, strict=True):
        assert abs(a[0] * a[-1] - first * TB - b[0] * b[-1]) <= Fraction(1, 48_000)
        assert a[4].endswith(b[4])
    with av.open(str(report.path)) as container:
        assert container.start_time == 0


def test_a_recording_that_begins_late_begins_at_zero_with_its_chapters(tmp_path):
    """Matroska of a live stream, in milliseconds."""
    base = Fraction(1, 1000)
    video = make(tmp_path / "video.mkv", time_base=base, pts=[75_000_040 + t // 90 for t in VFR])
    source = tmp_path / "clip.mkv"
    with av.open(str(video)) as a, av.open(str(source), "w") as out:
        copy = out.add_stream_from_template(a.streams.video[0])
        out.set_chapters(
            [{"id": 1, "start": 75_000_100, "end": 75_000_300, "time_base": base, "metadata": {}}]
        )
        for packet in a.demux(video=0):
            if packet.size:
                packet.stream = copy
                out.mux(packet)
    report = run(source, tmp_path / "out.mp4")
    assert "its times begin at 75000.040 s; those of the result at 0" in report.notes
    assert times(report.path) == (base, [t // 90 for t in VFR])
    with av.open(str(report.path)) as container:
        assert [c["start"] * c["time_base"] for c in container.chapters()] == [Fraction(60, 1000)]


def test_titles_in_any_encoding(tmp_path):
    source = make(tmp_path / "clip.mp4", 2, metadata={"title": "AAAA"})
    source.write_bytes(source.read_bytes().replace(b"AAAA", b"\xe9\xff\xfeA"))
    assert run(source, tmp_path / "out.mp4").whole


def test_subtitles_chapters_and_descriptions_are_kept(tmp_path):
    (tmp_path / "words.srt").write_text("1\n00:00:00,100 --> 00:00:00,300\nHello\n\n", encoding="utf-8")
    video = make(tmp_path / "video.mkv", time_base=Fraction(1, 1000))
    source = tmp_path / "clip.mkv"
    with (
        av.open(str(video)) as a,
        av.open(str(tmp_path / "words.srt")) as b,
        av.open(str(source), "w") as out,
    ):
        streams = [(a, a.streams.video[0]), (b, b.streams.subtitles[0])]
        copies = [out.add_stream_from_template(stream) for _, stream in streams]
        copies[1].metadata["language"] = "deu"
        out.metadata["title"] = "Holiday"
        out.set_chapters([{"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000), "metadata": {}}])
        for (container, stream), copy in zip(streams, copies, strict=True):
            for packet in container.demux(stream):
                if packet.size:
                    packet.stream = copy
                    out.mux(packet)
    report = run(source, tmp_path / "out.mkv")
    assert packets(report.path, "subtitle") == packets(source, "subtitle")
    with av.open(str(report.path)) as container:
        assert container.metadata["title"] == "Holiday"
        assert container.streams.subtitles[0].metadata["language"] == "deu"
        assert [(c["start"], c["end"]) for c in container.chapters()] == [(0, 200_000_000)]
    moved = run(source, tmp_path / "out.mp4")
    assert "its subtitles (stream 1) were converted to mov_text" in moved.notes


def test_pixels_are_those_of_the_upscaled_frames(tmp_path):
    """Every plane on its own: the fake network repeats pixels, so each plane is repeated as well."""
    source = make(tmp_path / "clip.mp4", 4, options={"crf": "1"})
    report = run(source, tmp_path / "out.mkv", codec="ffv1", spec=ModelSpec())
    for before, after in zip(frames(source), frames(report.path), strict=True):
        for plane, (a, b) in enumerate(zip(planes_in(before), planes_in(after), strict=True)):
            large = np.repeat(np.repeat(a, 4, axis=0), 4, axis=1)
            assert b.shape == large.shape
            # Luma comes back exactly. Chroma lies on the left of two pixels and was interpolated between
            # them, so that the ramp of U, 1.6 levels a sample, moves by a quarter of one.
            assert np.array_equal(large, b) if plane == 0 else psnr(large, b) > 50
            assert abs(float((b - large).mean())) < 0.45


def test_lossy_result_is_close_to_the_upscaled_frames(tmp_path):
    source = make(tmp_path / "clip.mp4", 4)
    lossless = run(source, tmp_path / "a.mkv", codec="ffv1")
    good, bad = run(source, tmp_path / "b.mp4"), run(source, tmp_path / "c.mp4", quality=45)
    levels = {}
    for report in (good, bad):
        pairs = zip(frames(lossless.path), frames(report.path), strict=True)
        levels[report.path.name] = min(psnr(planes_in(a)[0], planes_in(b)[0]) for a, b in pairs)
    assert levels["b.mp4"] > 42
    assert levels["c.mp4"] < levels["b.mp4"] - 8
    assert bad.path.stat().st_size < good.path.stat().st_size


def test_odd_sizes(tmp_path):
    source = make(tmp_path / "odd.mkv", 3, width=33, height=25, codec="ffv1", time_base=Fraction(1, 1000))
    report = run(source, tmp_path / "out.mp4", spec=ModelSpec())
    assert report.size == (100, 132)
    assert [(f.height, f.width) for f in frames(report.path)] == [(100, 132)] * 3
    thrice = frames(run(source, tmp_path / "x3.mp4", spec=ModelSpec(scale=3)).path)[0]
    assert (thrice.height, thrice.width, thrice.format.name) == (75, 99, "yuv444p")


def test_pixel_aspect_is_kept_and_turned(tmp_path):
    source = make(tmp_path / "wide.mp4", 2, aspect=Fraction(16, 11))
    for quarter, expected in ((False, Fraction(16, 11)), (True, Fraction(11, 16))):
        if quarter:
            clips.patch_matrix(source, (0, 1, -1, 0))
        for suffix in (".mp4", ".mkv"):
            with av.open(str(run(source, tmp_path / f"out{suffix}").path)) as container:
                assert container.streams.video[0].sample_aspect_ratio == expected


@pytest.mark.parametrize("count", [1, 3])
def test_sessions_with_frames_in_flight_keep_the_order(tmp_path, count):
    class Concurrent(FakeSession):
        in_flight = count

        def __init__(self):
            super().__init__(X2)
            self.under_way = self.most = 0

        def _begin(self, x_NCHW):
            self.under_way += 1
            self.most = max(self.most, self.under_way)

            def wait():
                self.under_way -= 1
                return self._run(x_NCHW)

            return Pending(wait)

    source = make(tmp_path / "clip.mp4", 8)
    plain = run(source, tmp_path / "plain.mkv", codec="ffv1")
    session = Concurrent()
    slotted = run(source, tmp_path / "slotted.mkv", codec="ffv1", session=session)
    assert packets(slotted.path, "video") == packets(plain.path, "video")
    assert session.most == count


def test_sessions_of_pixels_and_tiles_give_the_same(tmp_path, monkeypatch):
    class OfPixels(FakeSession):
        pixels = True

        def _run_pixels(self, x_NHWC):
            return np.repeat(np.repeat(x_NHWC, 2, axis=1), 2, axis=2)

    source = make(tmp_path / "clip.mp4", 3)
    expected = packets(run(source, tmp_path / "plain.mkv", codec="ffv1").path, "video")
    pixels = run(source, tmp_path / "pixels.mkv", codec="ffv1", session=OfPixels(X2))
    assert packets(pixels.path, "video") == expected
    monkeypatch.setattr(transcode_module, "_LARGE", 0)
    tiled = upscale_video(
        source, tmp_path / "tiled.mkv", Upscaler(FakeSession(X2), tile=32, overlap=8), codec="ffv1"
    )
    assert packets(tiled.path, "video") == expected
    assert "each image was computed in 6 tiles" in " ".join(tiled.notes)


def test_reading_ahead_is_bounded_and_the_session_stays_in_one_thread(tmp_path):
    seen = []

    class Watching(Recording):
        def _run(self, x_NCHW):
            threading.Event().wait(0.02)  # let the reader run ahead as far as it may
            seen.append(decoded[0])
            return super()._run(x_NCHW)

    decoded = [0]
    source = make(tmp_path / "clip.mp4", 20)
    upscaler, original = Upscaler(Watching()), transcode_module.Network.prepare

    def prepare(self, image):
        decoded[0] += 1
        return original(self, image)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transcode_module.Network, "prepare", prepare)
        upscale_video(source, tmp_path / "out.mp4", upscaler)
    ahead = [count - index for index, count in enumerate(seen, start=1)]
    assert max(ahead) == 3  # two in the lane, one in the reader's hands
    assert upscaler.session.threads == {threading.current_thread().name}


def test_progress_counts_to_the_end(tmp_path):
    calls = []
    run(make(tmp_path / "clip.mp4", 5), tmp_path / "out.mp4", progress=lambda *a: calls.append(a))
    assert calls == [(i, 5) for i in range(1, 6)]


def test_corrupt_frames_are_counted_and_decoding_goes_on(tmp_path):
    source = make(tmp_path / "clip.mp4", 40, options={"g": "10", "bf": "0"})
    with av.open(str(source)) as container:
        whole = [(p.pos, p.size, p.pts) for p in container.demux(video=0) if p.size]
    data = bytearray(source.read_bytes())
    for position, size, _ in whole[12:15]:
        data[position : position + size] = np.random.default_rng(1).bytes(size)
    source.write_bytes(bytes(data))
    report = run(source, tmp_path / "out.mp4")
    assert report.lost + report.damaged >= 3
    assert report.images == 40 - report.lost
    assert not report.whole
    shown = times(report.path)[1]
    assert set(shown) <= {pts for *_, pts in whole}
    assert shown[-1] == whole[-1][2]  # to the end, at the right times
    assert f"{report.lost} of its images could not be decoded" in " ".join(report.notes)


def test_frames_decoded_with_errors_are_counted(tmp_path):
    """Part of a large frame is overwritten: the decoder conceals it and says so."""
    noise = np.random.default_rng(0)
    images = [
        [noise.integers(40, 200, (p.shape), np.uint8) for p in clips.planes_of(0, 160, 96)] for _ in range(4)
    ]
    source = make(
        tmp_path / "clip.mp4",
        4,
        width=160,
        height=96,
        images=images,
        options={"g": "1", "x264-params": "slices=1"},
    )
    with av.open(str(source)) as container:
        position, size = [(p.pos, p.size) for p in container.demux(video=0) if p.size][2]
    data = bytearray(source.read_bytes())
    data[position + size // 2 : position + size // 2 + 64] = bytes(64)
    source.write_bytes(bytes(data))
    report = run(source, tmp_path / "out.mp4")
    assert (report.images, report.damaged, report.lost) == (4, 1, 0)
    assert not report.whole
    assert "1 of its images were decoded with errors" in " ".join(report.notes)


def test_a_stream_that_begins_between_key_frames(tmp_path):
    whole = make(tmp_path / "whole.ts", 60, options={"g": "30", "bf": "0"})
    data = whole.read_bytes()
    source = tmp_path / "tail.ts"
    source.write_bytes(data[len(data) // 188 // 4 * 188 :])
    report = run(source, tmp_path / "out.mp4")
    assert report.images == 30
    assert 1 <= report.lost < 30
    assert not report.whole


def test_a_file_that_was_cut_off(tmp_path):
    whole = make(tmp_path / "whole.mp4", 120, container={"movflags": "faststart"})
    data = whole.read_bytes()
    source = tmp_path / "cut.mp4"
    source.write_bytes(data[: len(data) // 2])
    report = run(source, tmp_path / "out.mp4")
    assert 10 < report.images < 90
    assert not report.whole
    assert "it ends too early: it says that it lasts 4.0 s" in " ".join(report.notes)


def audio_only(path: Path) -> None:
    """Audio, and a cover, which is a stream of video to FFmpeg."""
    full = make(path.with_name("full.mp4"), 10, audio="aac")
    with av.open(str(full)) as a, av.open(str(path), "w") as out:
        copy = out.add_stream_from_template(a.streams.audio[0])
        cover = out.add_stream("png", rate=1, width=8, height=8, pix_fmt="rgb24")
        cover.disposition = 1 << 10
        out.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8))))
        for packet in a.demux(audio=0):
            if packet.size:
                packet.stream = copy
                out.mux(packet)


def all_broken(path: Path) -> None:
    whole = make(path, options={"bf": "0"})
    data = bytearray(whole.read_bytes())
    with av.open(str(whole)) as container:
        for packet in container.demux(video=0):
            data[packet.pos or 0 : (packet.pos or 0) + packet.size] = bytes(packet.size)
    path.write_bytes(bytes(data))


def no_frames(path: Path) -> None:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30)
        stream.width, stream.height = 64, 48
        out.start_encoding()


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("missing.mp4", lambda p: None, "no such file"),
        ("folder.mp4", lambda p: p.mkdir(), "is a folder"),
        ("text.mp4", lambda p: p.write_text("this is no video\n" * 100), "not a video that FFmpeg can read"),
        ("empty.mp4", lambda p: p.write_bytes(b""), "not a video that FFmpeg can read"),
        ("noindex.mp4", lambda p: p.write_bytes(make(p.with_name("w.mp4")).read_bytes()[:900]), "cut off"),
        ("audio.mp4", audio_only, "no video in it, only audio and cover"),
        ("none.mp4", no_frames, "no video in it, nothing at all"),
        ("broken.mp4", all_broken, "no image of it could be decoded: 10 of its packets are damaged"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, name, write, words):
    source = tmp_path / name
    write(source)
    with pytest.raises(InputError, match=words) as caught:
        run(source, tmp_path / "out" / "result.mp4")
    assert name in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_playlist_may_not_reach_the_network(tmp_path):
    source = tmp_path / "list.mp4"
    source.write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(InputError, match=r"list\.mp4"):
        run(source, tmp_path / "out.mp4")


def test_names_are_no_protocols(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "clip.mp4", 2).rename("http:clip.mp4")
    assert run(Path("http:clip.mp4"), Path("pipe:1.mp4")).images == 2
    assert Path("pipe:1.mp4").is_file()


def test_a_size_that_changes_is_refused(tmp_path):
    small, large = make(tmp_path / "a.h264", 3), make(tmp_path / "b.h264", 3, width=96)
    source = tmp_path / "both.h264"
    source.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(InputError, match="its size changes from 64x48 to 96x48 at image 4"):
        run(source, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_sizes_are_checked_before_anything_is_computed(tmp_path, monkeypatch):
    source = make(tmp_path / "clip.mp4", 2)
    session = FakeSession(X2)
    monkeypatch.setattr("hasn_edge.video.encoders.MAX_OUTPUT_PIXELS", 96 * 128 - 1)
    with pytest.raises(InputError, match="its images would be 128 x 96"):
        run(source, tmp_path / "out.mp4", session=session)
    monkeypatch.setattr("hasn_edge.video.container.MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(InputError, match="it says that its images are 64 x 48"):
        run(source, tmp_path / "out.mp4", session=session)
    assert not session.calls


@pytest.mark.parametrize(
    ("target", "options", "error", "words"),
    [
        ("out.mp4", {"codec": "libx999"}, UnsupportedError, "no video encoder 'libx999'; .* libx264"),
        ("out.mp4", {"codec": "aac"}, UnsupportedError, "no video encoder 'aac'"),
        ("out.webm", {"codec": "libx264"}, UnsupportedError, r"cannot hold what libx264 makes; .* or \.mkv"),
        (
            "out.mkv",
            {"codec": "png"},
            UnsupportedError,
            "cannot hold what png makes; choose another codec$",
        ),
        ("out.avi", {}, InputError, r"unknown ending '\.avi'.*\.mp4, \.mov, \.mkv, \.webm"),
        ("out.mp4", {"quality": 52.0}, InputError, r"quality is 52; libx264 takes 0 \(best\) to 51"),
        ("out.mp4", {"quality": float("nan")}, InputError, "quality is nan"),
        ("out.mkv", {"codec": "ffv1", "quality": 3}, InputError, "ffv1 takes no quality"),
        ("out.mp4", {"codec": "mpeg4"}, OutputError, "mpeg4 does not start .* 65535"),
        ("out.mov", {"codec": "png"}, UnsupportedError, "png takes .* choose another codec"),
    ],
)
def test_what_cannot_be_written_is_said_first(tmp_path, target, options, error, words):
    source = make(tmp_path / "clip.mp4", 2)
    session = FakeSession(X2)
    with pytest.raises(error, match=words):
        run(source, tmp_path / "new" / target, session=session, **options)
    assert not session.calls
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("link", [None, Path.symlink_to, Path.hardlink_to])
def test_the_video_itself_is_never_overwritten(tmp_path, link):
    source = make(tmp_path / "clip.mp4", 2)
    before = source.read_bytes()
    target = source
    if link is not None:
        target = tmp_path / "other.mp4"
        link(target, source)
    with pytest.raises(OutputError, match="is the video to upscale and would be overwritten"):
        run(source, target)
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
        raise RuntimeError(f"{stage} at once")

    source = make(tmp_path / "clip.mp4", 20, audio="aac")
    session = Failing(X2) if stage in ("network", "interrupt") else FakeSession(X2)
    if stage == "writer":
        monkeypatch.setattr("hasn_edge.video.encode.Encoder.write", broken)
    if stage == "reader":
        monkeypatch.setattr("hasn_edge.video.transcode.Network.prepare", broken)
    error = KeyboardInterrupt if stage == "interrupt" else RuntimeError
    with pytest.raises(error, match=None if stage == "interrupt" else stage) as caught:
        run(source, tmp_path / "out" / "result.mp4", session=session)
    assert not list((tmp_path / "out").iterdir())
    assert caught.tb  # which keeps everything alive that was not closed
    assert not [
        name for name in map(os.path.realpath, Path("/proc/self/fd").iterdir()) if str(tmp_path) in name
    ]
    assert not [t for t in threading.enumerate() if t.name.startswith("hasn-edge-video")]


def test_interlaced_video_is_said(tmp_path):
    source = make(tmp_path / "clip.mp4", 3, options={"flags": "+ildct+ilme", "x264-params": "tff=1"})
    assert frames(source)[0].interlaced_frame
    report = run(source, tmp_path / "out.mp4")
    assert "it is interlaced" in " ".join(report.notes)
    assert not frames(report.path)[0].interlaced_frame


def test_names():
    assert is_video("a/B.MKV")
    assert not is_video("a.png")
    assert [output_suffix(f"a{s}") for s in (".mp4", ".MKV", ".avi", ".ts", ".mov")] == [
        *(".mp4", ".mkv", ".mp4", ".mp4", ".mov")
    ]


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
    report = run(source, tmp_path / "out.mp4", quality=30)
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


def test_disk_and_rights(tmp_path):
    source = make(tmp_path / "clip.mp4", 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        run(source, tmp_path / "file" / "out.mp4")
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(OutputError, match="Permission denied"):
            run(source, tmp_path / "locked" / "out.mp4")
    assert TB
