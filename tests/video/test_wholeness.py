"""Whole files are whole wherever they begin and however long an image is shown; cut ones never are."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

av = pytest.importorskip("av")
from hasn_edge.errors import InputError
from hasn_edge.video.decode import Decoder, Tally
from tests.support.clips import make, planes_of, upscale

CASES = Path(__file__).parent / "cases"
MS = Fraction(1, 1000)
KINDS = {
    ".mp4": {"time_base": MS},
    ".mov": {"time_base": MS},
    ".mkv": {"time_base": MS},
    ".webm": {"time_base": MS, "codec": "libvpx-vp9"},
    ".avi": {"time_base": Fraction(1, 10), "codec": "mpeg4"},
    ".flv": {"time_base": MS, "codec": "flv"},
    ".wmv": {"time_base": MS, "codec": "wmv2"},
    ".ogv": {"time_base": Fraction(1, 10), "codec": "libtheora"},
    ".gif": {"time_base": Fraction(1, 100), "codec": "gif", "pix_fmt": "gray"},
    ".ts": {},
    ".y4m": {"time_base": Fraction(1, 10), "codec": "wrapped_avframe"},
    ".mxf": {"time_base": Fraction(1, 25), "codec": "mpeg2video", "rate": 25, "width": 128, "height": 96},
}
TIMED = [suffix for suffix in KINDS if suffix not in (".y4m", ".ts", ".mxf")]
"""Those whose images may be shown at any time."""
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
AUDIO = {
    ".avi": "libmp3lame",
    ".flv": "libmp3lame",
    ".wmv": "wmav2",
    ".mp4": "aac",
    ".mov": "aac",
    ".mkv": "aac",
}


def clip(
    path: Path, count: int = 30, *, start_s: int = 0, every_s: Fraction | None = None, **options
) -> Path:
    """Thirty images at ten a second, or as asked, in the kind that the name's ending says."""
    kind = {"rate": 10} | KINDS[path.suffix] | options
    base = Fraction(kind.get("time_base", Fraction(1, 90_000)))
    step = every_s or 1 / Fraction(kind["rate"])
    if path.suffix == ".gif":
        kind["images"] = [planes_of(index, 64, 48)[:1] for index in range(count)]
    return make(path, count, pts=[int((start_s + i * step) / base) for i in range(count)], **kind)


def read(path: Path) -> Tally:
    with Decoder(path) as decoder:
        for _ in decoder.steps():
            pass
        return decoder.tally


def require_encoder(suffix: str) -> None:
    if (codec := KINDS[suffix].get("codec", "libx264")) not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        *((suffix, {}) for suffix in KINDS),
        *((suffix, {"start_s": 3}) for suffix in TIMED),
        *((suffix, {"count": 4, "every_s": Fraction(3)}) for suffix in TIMED),
    ],
)
def test_whole_files_are_whole(tmp_path, suffix, options):
    require_encoder(suffix)
    tally = read(clip(tmp_path / f"clip{suffix}", **options))
    assert tally.sentences() == []
    assert tally.images == options.get("count", 30)


@pytest.mark.parametrize(
    ("suffix", "start_s"), [*((suffix, 0) for suffix in KINDS), *((suffix, 3) for suffix in TIMED)]
)
def test_files_that_were_cut_off_are_not(tmp_path, suffix, start_s):
    require_encoder(suffix)
    data = clip(tmp_path / f"whole{suffix}", start_s=start_s).read_bytes()
    for part in (0.35, 0.62, 0.93):
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(data[: int(len(data) * part) | 1])
        try:
            tally = read(cut)
        except InputError:
            continue  # without its index an MP4 cannot be read at all
        assert not tally.whole, part


@pytest.mark.parametrize("options", [{"movflags": "faststart"}, FRAGMENTS], ids=["faststart", "fragments"])
def test_an_mp4_with_its_index_first(tmp_path, options):
    whole = clip(tmp_path / "whole.mp4", container=options, options={"g": "5"})
    assert read(whole).whole
    data = whole.read_bytes()
    for part in (0.5, 0.8, 0.97):
        (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * part)])
        assert not read(tmp_path / "cut.mp4").whole


@pytest.mark.slow
@pytest.mark.parametrize("suffix", AUDIO)
def test_audio_that_is_cut_off_is_missed_though_all_images_are_there(tmp_path, suffix):
    source = clip(tmp_path / f"whole{suffix}", audio=AUDIO[suffix], container={"movflags": "faststart"})
    assert read(source).whole
    (tmp_path / f"cut{suffix}").write_bytes(source.read_bytes()[:-9])
    tally = read(tmp_path / f"cut{suffix}")
    assert not tally.whole


def test_a_header_that_counts_more_than_there_is(tmp_path):
    """It was cut in the middle, and its index with it: 7 of 20 images."""
    report = upscale(CASES / "cut-off.avi", tmp_path / "out.mp4")
    assert (report.images, report.whole) == (7, False)
    assert "it ends too early" in " ".join(report.notes)


def test_matroska_counts_its_duration_from_zero(tmp_path):
    report = upscale(CASES / "starts-late.mkv", tmp_path / "out.mkv")
    assert (report.images, report.whole, report.notes) == (20, True, ())


def test_an_index_of_avi_that_is_smaller_than_its_header_says(tmp_path):
    """Some writers count what they meant to write: the file is whole all the same."""
    source = clip(tmp_path / "clip.avi")
    data = bytearray(source.read_bytes())
    for name, offset in ((b"avih", 24), (b"strh", 40)):
        at = data.index(name) + offset
        assert data[at : at + 4] == (30).to_bytes(4, "little")
        data[at : at + 4] = (99).to_bytes(4, "little")
    source.write_bytes(bytes(data))
    assert read(source).whole


def test_how_many_images_are_expected(tmp_path):
    for suffix, start_s in ((".mkv", 3), (".flv", 3), (".wmv", 3), (".mp4", 3), (".avi", 0), (".ts", 0)):
        source = clip(tmp_path / f"clip{suffix}", start_s=start_s)
        with Decoder(source) as decoder:
            assert decoder.expected in (29, 30, 31), suffix


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".gif"])
def test_the_last_image_is_shown_as_long_as_the_others(tmp_path, suffix):
    base = KINDS[suffix]["time_base"]
    source = clip(tmp_path / f"clip{suffix}", 4, every_s=Fraction(3), last=int(3 / base))
    report = upscale(source, tmp_path / "out.mp4")
    with av.open(str(report.path)) as container:
        assert container.duration / 1e6 == pytest.approx(12, abs=0.11)
