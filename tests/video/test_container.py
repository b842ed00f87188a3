"""Files that hold no video are refused with the reason; names and playlists reach nothing else."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")
from hasn_edge.errors import InputError
from hasn_edge.video.container import move_timecode
from hasn_edge.video.decode import Decoder
from tests.support.clips import make, times, upscale


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
        upscale(source, tmp_path / "out" / "result.mp4")
    assert name in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_playlist_may_not_reach_the_network(tmp_path):
    source = tmp_path / "list.mp4"
    source.write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(InputError, match=r"list\.mp4"):
        upscale(source, tmp_path / "out.mp4")


def test_names_are_no_protocols(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "clip.mp4", 2).rename("http:clip.mp4")
    assert upscale(Path("http:clip.mp4"), Path("pipe:1.mp4")).images == 2
    assert Path("pipe:1.mp4").is_file()


def test_titles_in_any_encoding(tmp_path):
    source = make(tmp_path / "clip.mp4", 2, metadata={"title": "AAAA"})
    source.write_bytes(source.read_bytes().replace(b"AAAA", b"\xe9\xff\xfeA"))
    assert upscale(source, tmp_path / "out.mp4").whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.h264", "libx264", Fraction(10)),
        ("b.h264", "libx264", Fraction(24_000, 1001)),
        ("c.hevc", "libx265", Fraction(10)),
        ("d.hevc", "libx265", Fraction(60)),
        ("e.m2v", "mpeg2video", Fraction(60)),
        ("g.dv", "dvvideo", Fraction(25)),
        ("h.mp4", "libx264", Fraction(15)),
        ("i.mp4", "libx264", Fraction(30_000, 1001)),
    ],
)
def test_the_rate_is_the_one_of_the_stream(tmp_path, name, codec, rate):
    """FFmpeg gives 25 for all raw streams as their average, and 60,000 for DV."""
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    size = {"width": 720, "height": 576} if codec == "dvvideo" else {}
    source = make(tmp_path / name, 25, codec=codec, rate=rate, time_base=1 / rate, **size)
    report = upscale(source, tmp_path / "out.mp4", codec="libx264")
    unit, shown = times(report.path)
    with Decoder(source) as decoder:
        assert decoder.rate == rate
    assert float((shown[-1] - shown[0]) * unit) == pytest.approx(float(24 / rate), abs=0.0011)


def test_a_raw_stream_of_ten_images_a_second_lasts_two_seconds(tmp_path):
    report = upscale(Path(__file__).parent / "cases" / "ten-fps.h264", tmp_path / "out.mp4")
    with av.open(str(report.path)) as container:
        assert container.duration == 2_000_000


def test_a_clock_in_the_header_is_no_rate(tmp_path):
    """Four images, one each three seconds, in an AVI of a thousand a second."""
    source = make(
        tmp_path / "clip.avi",
        4,
        codec="mpeg4",
        rate=1000,
        time_base=Fraction(1, 1000),
        pts=[0, 3000, 6000, 9000],
    )
    with Decoder(source) as decoder:
        assert decoder.rate == Fraction(1, 3)


def labels(fps: int, left_out: int, minutes: int) -> list[str]:
    """Every timecode of the first minutes, as SMPTE 12M counts them."""
    return [
        f"{m // 60:02}:{m % 60:02}:{s:02}{';' if left_out else ':'}{f:02}"
        for m in range(minutes)
        for s in range(60)
        for f in range(fps)
        if not (s == 0 and f < left_out and m % 10)
    ]


@pytest.mark.parametrize(
    ("rate", "fps", "left_out"),
    [
        (Fraction(25), 25, 0),
        (Fraction(24_000, 1001), 24, 0),
        (Fraction(30_000, 1001), 30, 0),
        (Fraction(30_000, 1001), 30, 2),
        (Fraction(60_000, 1001), 60, 4),
    ],
)
def test_timecodes_count_images(rate, fps, left_out):
    every = labels(fps, left_out, 73)
    for first in (0, 1, 59, 29 * 60 + 1, 1799, 1800, 17_981, 17_982, 35_963, 40_000):
        for images in (0, 1, 2, 1798, 1800, 17_982, 41_234):
            assert move_timecode(every[first], images, rate) == every[first + images]
    last = f"23:59:59{';' if left_out else ':'}{fps - 1}"
    assert move_timecode(last, 1, rate) == every[0]


@pytest.mark.parametrize("text", ["", "1 o'clock", "01:00:00", "01:00:00:25", "01:00:00;00"])
def test_what_is_no_timecode_of_a_rate_is_none(text):
    assert move_timecode(text, 1, Fraction(25)) is None
