"""Audio and subtitles travel beside the images where the new file holds them; what is lost is said."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

av = pytest.importorskip("av")
from hasn_edge.errors import OutputError
from hasn_edge.video import tracks, transcode
from hasn_edge.video.tracks import output_suffix
from tests.support.clips import make, packets, upscale

SECONDS = Fraction(1, 1000)


def with_audio(path: Path, codec: str) -> Path:
    base = SECONDS if path.suffix == ".mkv" else Fraction(1, 30)
    return make(path, 10, codec="mpeg4", time_base=base, audio=codec)


def with_subtitles(path: Path, folder: Path) -> Path:
    """A clip and two texts, one of them in italics, in the kind that its container has."""
    (folder / "words.srt").write_text(
        "1\n00:00:00,100 --> 00:00:00,200\nHello\nthere\n\n2\n00:00:00,250 --> 00:00:00,300\n<i>Bye</i>\n\n",
        encoding="utf-8",
    )
    video = make(folder / "video.mkv", time_base=SECONDS, codec="libvpx-vp9", rate=25)
    with (
        av.open(str(video)) as a,
        av.open(str(folder / "words.srt")) as b,
        av.open(str(path), "w") as out,
    ):
        images = out.add_stream_from_template(a.streams.video[0])
        track = tracks.add_track(out, b.streams.subtitles[0])
        assert track is not None
        for packet in a.demux(video=0):
            if packet.size:
                packet.stream = images
                out.mux(packet)
        for packet in b.demux(subtitles=0):
            if packet.size:
                out.mux(track(packet))
    return path


def said(path: Path) -> list[tuple[Fraction, str]]:
    """When each text is shown, and the text."""
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        return [
            (packet.pts * packet.time_base, event.ass.decode().split(",,", 1)[1].split(",,")[-1])
            for packet in container.demux(stream)
            if packet.size
            for event in packet.decode()
        ]


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".avi", "pcm_s16le"), (".mkv", "pcm_s16le"), (".mkv", "pcm_s24le")]
)
def test_stereo_pcm_goes_into_mp4(tmp_path, suffix, codec):
    """Its source says two channels, and not that they are left and right, which MP4 wants to know."""
    source = with_audio(tmp_path / f"clip{suffix}", codec)
    with av.open(str(source)) as container:
        assert container.streams.audio[0].layout.name == "2 channels"
    report = upscale(source, tmp_path / "out.mp4")
    assert report.losses == ()
    before, after = (b"".join(p[4] for p in packets(path, "audio")) for path in (source, report.path))
    assert after == before
    with av.open(str(report.path)) as container:
        assert container.streams.audio[0].layout.name == "stereo"


def test_what_only_the_end_of_a_file_refuses_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(tracks, "_LAYOUTS", {})
    source = with_audio(tmp_path / "clip.avi", "pcm_s16le")
    report = upscale(source, tmp_path / "out.mp4")
    assert report.losses == (
        "stream 1 (audio, pcm_s16le) is left out: the new container cannot hold it; .mkv can",
    )
    monkeypatch.setattr(tracks, "_accepts", lambda *args: True)
    with pytest.raises(OutputError, match=r"could not end the file .* another ending, such as \.mkv"):
        upscale(source, tmp_path / "late.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.avi", "out.mp4"]


@pytest.mark.parametrize(
    ("name", "codec", "suffix"),
    [
        ("clip.avi", "pcm_u8", ".mkv"),
        ("clip.avi", "pcm_s16le", ".mp4"),
        ("clip.avi", "wmav2", ".mp4"),
        ("clip.mov", "pcm_u8", ".mov"),
    ],
)
def test_the_ending_is_one_that_holds_the_audio(tmp_path, name, codec, suffix):
    source = with_audio(tmp_path / name, codec)
    assert output_suffix(source) == suffix
    assert output_suffix(source, audio="none") == (".mp4" if suffix == ".mkv" else suffix)
    if codec != "wmav2":
        assert upscale(source, tmp_path / f"out{suffix}").losses == ()


@pytest.mark.parametrize(
    ("codec", "target", "cure"), [("pcm_u8", "out.mp4", "; .mkv can"), ("wmav2", "out.mkv", "")]
)
def test_lost_audio_is_said_with_a_cure_that_is_one(tmp_path, codec, target, cure):
    source = with_audio(tmp_path / "clip.avi", codec)
    sentence = f"stream 1 (audio, {codec}) is left out: the new container cannot hold it{cure}"
    assert upscale(source, tmp_path / target).losses == (sentence,)
    assert upscale(source, tmp_path / target, audio="none").losses == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "target", "codec"),
    [
        ("a.mkv", "b.mp4", "mov_text"),
        ("a.mkv", "b.mov", "mov_text"),
        ("a.mp4", "b.mkv", "subrip"),
        ("a.mp4", "b.webm", "webvtt"),
    ],
)
def test_subtitles_of_text_are_converted(tmp_path, source, target, codec):
    clip = with_subtitles(tmp_path / source, tmp_path)
    report = upscale(clip, tmp_path / target)
    assert report.losses == ()
    assert f"its subtitles (stream 1) were converted to {codec}" in report.notes
    (first, words), (second, italics) = said(report.path)
    assert (first, second) == (Fraction(1, 10), Fraction(1, 4))
    assert words == "Hello\\Nthere"
    assert italics.startswith("{\\i1}Bye")
    same = upscale(clip, tmp_path / f"same{clip.suffix}")
    assert not [note for note in same.notes if "converted" in note]


@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv"])
def test_hevc_has_the_tag_that_every_player_knows(tmp_path, name):
    if "libx265" not in av.codecs_available:
        pytest.skip("this FFmpeg has no libx265")
    report = upscale(make(tmp_path / "clip.mp4", 3), tmp_path / name, codec="libx265")
    with av.open(str(report.path)) as container:
        assert (container.streams.video[0].codec_tag == "hvc1") == (name != "out.mkv")
        assert len(list(container.decode(video=0))) == 3


def test_a_damaged_packet_says_nothing_of_its_track(tmp_path, monkeypatch):
    """A broadcast may begin in the middle of one."""
    source = make(tmp_path / "clip.ts", 10, audio="aac")
    for module in (tracks, transcode):
        monkeypatch.setattr(
            module, "first_packets", lambda path, streams: {s.index: b"\xff\xf1\xff" for s in streams}
        )
    assert output_suffix(source) == ".mp4"
    report = upscale(source, tmp_path / "out.mp4")
    assert report.losses == ()
    assert len(packets(report.path, "audio")) == len(packets(source, "audio"))


def test_packets_that_are_refused_count_as_lost(tmp_path, monkeypatch):
    def refuse(self, packet):
        raise ValueError("not this one")

    monkeypatch.setattr(tracks.CopiedTrack, "__call__", refuse)
    monkeypatch.setattr(tracks, "_accepts", lambda kind, *args: kind is tracks.CopiedTrack)
    report = upscale(make(tmp_path / "clip.mp4", 10, audio="aac"), tmp_path / "out.mp4")
    count = len(packets(tmp_path / "clip.mp4", "audio"))
    assert report.losses == (f"{count} packets of audio or subtitles could not be copied",)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["aac", "libmp3lame"])
def test_audio_is_copied_byte_by_byte(tmp_path, codec):
    source = make(tmp_path / "clip.mp4", 20, audio=codec)
    assert len(packets(source, "audio")) > 20
    assert packets(upscale(source, tmp_path / "out.mp4").path, "audio") == packets(source, "audio")
    silent = upscale(source, tmp_path / "silent.mp4", audio="none")
    with av.open(str(silent.path)) as container:
        assert [s.type for s in container.streams] == ["video"]


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
    report = upscale(source, tmp_path / "out.mkv")
    assert packets(report.path, "subtitle") == packets(source, "subtitle")
    with av.open(str(report.path)) as container:
        assert container.metadata["title"] == "Holiday"
        assert container.streams.subtitles[0].metadata["language"] == "deu"
        assert [(c["start"], c["end"]) for c in container.chapters()] == [(0, 200_000_000)]
    moved = upscale(source, tmp_path / "out.mp4")
    assert "its subtitles (stream 1) were converted to mov_text" in moved.notes
