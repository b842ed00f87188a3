"""Frames in order, at their times, upright; what is said of damage, of late beginnings and of early ends."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av")
from hasn_edge.errors import InputError
from hasn_edge.video import container as container_module
from tests.support import clips
from tests.support.clips import TB, VFR, frames, make, packets, times, upscale


def test_what_an_edit_list_hides_stays_hidden(tmp_path):
    """Frames before time zero are in the file for the decoder only."""
    source = make(tmp_path / "edit.mp4", pts=[t - 9001 for t in VFR])
    shown = times(source)
    assert len(shown[1]) == 6
    assert times(upscale(source, tmp_path / "out.mp4").path) == shown


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_audio_that_an_edit_list_hides_is_not_heard(tmp_path, name):
    """What MP4 hides of images and audio alike would be heard before the first image in Matroska."""
    whole, source = make(tmp_path / "whole.mp4", 60, audio="aac"), tmp_path / "edit.mp4"
    with av.open(str(whole)) as a, av.open(str(source), "w") as out:
        copies = {stream.index: out.add_stream_from_template(stream) for stream in a.streams}
        for packet in a.demux():
            if packet.size:
                second = round(1 / packet.time_base)
                packet.pts, packet.dts = packet.pts - second, packet.dts - second
                packet.stream = copies[packet.stream.index]
                out.mux(packet)
    hidden = [p[0] * p[-1] for p in packets(source, "audio")]
    assert hidden[0] <= -1
    report = upscale(source, tmp_path / name)
    base, shown = times(report.path)
    heard = [p[0] * p[-1] for p in packets(report.path, "audio")]
    assert report.images == len(shown) == 30
    assert 0.08 < shown[0] * base - heard[0] <= 0.101, "a tenth of a second is for the decoder"
    assert shown[0] * base - heard[-1] == pytest.approx(-float(hidden[-1]), abs=0.002)
    assert len(heard) == sum(at >= -0.1 for at in hidden)


def test_frames_without_times_get_the_rate(tmp_path):
    source = make(tmp_path / "raw.h264", 5)
    report = upscale(source, tmp_path / "out.mp4")
    base, shown = times(report.path)
    assert {b - a for a, b in itertools.pairwise(shown)} == {Fraction(1, 25) / base}
    assert "5 of its images had no time" in " ".join(report.notes)


def test_two_frames_of_the_same_time_are_shown_one_after_the_other(tmp_path):
    """Matroska has milliseconds: 33.3 and 33.4 are the same there."""
    source = make(tmp_path / "clip.mkv", 4, pts=[0, 3000, 3010, 6000], options={"bf": "0"})
    assert times(source) == (Fraction(1, 1000), [0, 33, 33, 67])
    report = upscale(source, tmp_path / "out.mkv")
    assert times(report.path) == (Fraction(1, 1000), [0, 33, 34, 67])
    assert "1 of its images had no time, or none later than the one before" in " ".join(report.notes)


WRAP_S = 2**33 / 90_000
"""When the clock of a transport stream begins anew; FFmpeg counts the last minute before that backwards."""


@pytest.mark.parametrize("offset", [1.4, 60_000, WRAP_S - 13, WRAP_S - 0.2])
def test_a_broadcast_begins_at_zero_and_its_audio_keeps_its_times(tmp_path, offset):
    """Into MP4 audio goes in units of its sample rate, and without the headers that each packet repeats."""
    source = make(tmp_path / "clip.ts", pts=VFR, audio="aac", container={"output_ts_offset": str(offset)})
    report = upscale(source, tmp_path / "out.mp4")
    with av.open(str(source)) as container:
        start_s = Fraction(container.start_time, 1_000_000)
    offset -= WRAP_S if offset > WRAP_S - 60 else 0
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
    report = upscale(source, tmp_path / "out.mp4")
    assert "its times begin at 75000.040 s; those of the result at 0" in report.notes
    assert times(report.path) == (base, [t // 90 for t in VFR])
    with av.open(str(report.path)) as container:
        assert [c["start"] * c["time_base"] for c in container.chapters()] == [Fraction(60, 1000)]


def test_corrupt_frames_are_counted_and_decoding_goes_on(tmp_path):
    source = make(tmp_path / "clip.mp4", 40, options={"g": "10", "bf": "0"})
    with av.open(str(source)) as container:
        whole = [(p.pos, p.size, p.pts) for p in container.demux(video=0) if p.size]
    data = bytearray(source.read_bytes())
    for position, size, _ in whole[12:15]:
        data[position : position + size] = np.random.default_rng(1).bytes(size)
    source.write_bytes(bytes(data))
    report = upscale(source, tmp_path / "out.mp4")
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
    report = upscale(source, tmp_path / "out.mp4")
    assert (report.images, report.damaged, report.lost) == (4, 1, 0)
    assert not report.whole
    assert "1 of its images were decoded with errors" in " ".join(report.notes)


def test_a_stream_that_begins_between_key_frames(tmp_path):
    whole = make(tmp_path / "whole.ts", 60, options={"g": "30", "bf": "0"})
    data = whole.read_bytes()
    source = tmp_path / "tail.ts"
    source.write_bytes(data[len(data) // 188 // 4 * 188 :])
    report = upscale(source, tmp_path / "out.mp4")
    assert report.images == 30
    assert 1 <= report.lost < 30
    assert not report.whole


@pytest.mark.slow
def test_a_file_that_was_cut_off(tmp_path):
    whole = make(tmp_path / "whole.mp4", 120, container={"movflags": "faststart"})
    data = whole.read_bytes()
    source = tmp_path / "cut.mp4"
    source.write_bytes(data[: len(data) // 2])
    report = upscale(source, tmp_path / "out.mp4")
    assert 10 < report.images < 90
    assert not report.whole
    assert "it ends too early: it says that it lasts 4.0 s" in " ".join(report.notes)


def test_a_size_that_changes_is_refused(tmp_path):
    small, large = make(tmp_path / "a.h264", 3), make(tmp_path / "b.h264", 3, width=96)
    source = tmp_path / "both.h264"
    source.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(InputError, match="its size changes from 64x48 to 96x48 at image 4"):
        upscale(source, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_interlaced_video_is_said(tmp_path):
    source = make(tmp_path / "clip.mp4", 3, options={"flags": "+ildct+ilme", "x264-params": "tff=1"})
    assert frames(source)[0].interlaced_frame
    report = upscale(source, tmp_path / "out.mp4")
    assert "it is interlaced" in " ".join(report.notes)
    assert not frames(report.path)[0].interlaced_frame


NO_B = {"bf": "0"}
"""Without images that wait for later ones, the last packet is the last image, with its duration."""


def seconds(path) -> list[float]:
    base, shown = times(path)
    return [float(pts * base) for pts in shown]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts", "clip.avi"])
def test_a_part_has_the_frames_and_the_audio_of_its_time(tmp_path, name):
    """At 10 frames a second a frame's number is its time; the images in it say which it is."""
    codec = {"codec": "mpeg4", "time_base": Fraction(1, 10)} if name.endswith(".avi") else {}
    options = {"g": "7", "bf": "0" if codec else "2"}
    source = make(tmp_path / name, 40, rate=10, audio="mp2", options=options, **codec)
    report = upscale(source, tmp_path / "part.mkv", start_s=1.45, end_s=2.5)
    assert (report.images, report.whole) == (10, True)
    shown, wanted = frames(report.path), frames(source)[15:25]
    first = 0.1 if codec else 0.05  # an AVI has no times between its frames
    np.testing.assert_allclose(seconds(report.path), [k / 10 + first for k in range(10)], atol=0.012)
    for got, original in zip(shown, wanted, strict=True):
        small = got.to_ndarray(format="gray")[::2, ::2].astype(int)
        assert np.abs(small - original.to_ndarray(format="gray")).mean() < 3
    heard = [p[0] * p[-1] for p in packets(report.path, "audio")]
    assert 0 <= heard[0] - first + 0.05 < 0.03
    assert 1 - 0.03 < heard[-1] - first < 1
    assert [p[4] for p in packets(report.path, "audio")][3] in {p[4] for p in packets(source, "audio")}


def test_a_part_of_frames_without_times_is_counted(tmp_path):
    source = make(tmp_path / "raw.h264", 10, options={"bf": "0"})
    report = upscale(source, tmp_path / "out.mp4", start_s=0.12, end_s=0.28)
    assert report.images == 4, "of 25 a second, those at 0.12, 0.16, 0.20 and 0.24"


def test_a_long_image_is_cut_at_the_end(tmp_path):
    source = make(tmp_path / "slides.mp4", 2, pts=[0, 900_000], last=900_000)
    part = upscale(source, tmp_path / "part.mp4", end_s=4).path
    with av.open(str(part)) as container:
        assert container.duration == 4_000_000


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        ({"start_s": 7}, [(0, 3), (3, 5), (8, 1)]),
        ({"start_s": 7, "end_s": 9}, [(0, 2)]),
        ({"start_s": 5}, [(0, 5), (5, 5), (10, 1)]),
        ({"start_s": 15.25}, [(0, 0.75)]),
    ],
)
def test_a_part_begins_with_the_image_that_is_shown_then(tmp_path, part, wanted):
    """A slide each five seconds, the last one for one: whatever the part, it lasts from its start to 16 s."""
    source = make(tmp_path / "slides.mp4", 4, pts=[0, 450_000, 900_000, 1_350_000], last=90_000, options=NO_B)
    found = frames(upscale(source, tmp_path / "part.mp4", **part).path)
    assert [(frame.pts / 90_000, frame.duration / 90_000) for frame in found] == wanted
    slide = int(part["start_s"] // 5)
    seen = found[0].to_ndarray(format="gray")[::2, ::2].astype(int)
    assert np.abs(seen - frames(source)[slide].to_ndarray(format="gray")).mean() < 3


def test_a_part_of_a_file_that_is_cut_off(tmp_path):
    source = make(tmp_path / "clip.mkv", 40)
    source.write_bytes(source.read_bytes()[:1000])
    with pytest.raises(InputError, match="no image of the part"):
        upscale(source, tmp_path / "part.mp4", start_s=0.2, end_s=0.3)


def test_a_part_that_is_none(tmp_path):
    source = make(tmp_path / "clip.mp4", 5)
    with pytest.raises(InputError, match="nothing of it begins at -1 s and ends before its end"):
        upscale(source, tmp_path / "part.mp4", start_s=-1)
    with pytest.raises(InputError, match=r"nothing of it begins at 2 s and ends before 1\.5 s"):
        upscale(source, tmp_path / "part.mp4", start_s=2, end_s=1.5)
    with pytest.raises(InputError, match="no image of the part that was asked for could be decoded"):
        upscale(source, tmp_path / "part.mp4", start_s=60)


def test_chapters_of_a_part(tmp_path):
    chapter = {"id": 0, "time_base": Fraction(1, 10), "metadata": {}}
    chapters = [{**chapter, "start": a, "end": b} for a, b in ((0, 9), (9, 30), (30, 50), (50, 60))]
    moved = container_module.move_chapters(chapters, Fraction(2), Fraction(4))
    assert [(each["start"], each["end"]) for each in moved] == [(0, 10), (10, 20)]
    assert container_module.move_chapters(chapters, Fraction(0)) == chapters


@pytest.mark.parametrize(
    ("name", "options", "start_s", "said", "moved"),
    [
        ("a.mkv", {"rate": 25}, 0.0, "10:00:00:00", "10:00:00:00"),
        ("a.mkv", {"rate": 25}, 1.21, "10:00:00:00", "10:00:01:06"),  # the image of 1.24 s is the first one
        ("a.mov", {"rate": Fraction(30_000, 1001)}, 1.0, "00:00:59;29", "00:01:01;01"),
        ("a.mov", {"rate": 25}, 1.0, "soon", None),
    ],
)
def test_a_part_has_the_timecode_of_its_first_image(tmp_path, name, options, start_s, said, moved):
    base = Fraction(1, 90_000 if options["rate"] == 25 else 30_000)
    source = make(tmp_path / "in.mkv", 60, time_base=base, metadata={"timecode": said}, **options)
    report = upscale(source, tmp_path / name, start_s=start_s)
    with av.open(str(report.path)) as container:
        found = {**container.metadata, **container.streams.video[0].metadata}
    assert {key.lower(): value for key, value in found.items()}.get("timecode") == moved
    note = "its timecode soon is left out: the part begins later"
    assert (note in report.notes) == (moved is None)
