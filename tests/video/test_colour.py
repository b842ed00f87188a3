"""Colours, depth and orientation: what the network gets of a video, and what the result says of itself."""

from __future__ import annotations

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")
from hasn_edge.live.sources.capture import open_file
from hasn_edge.video.colour import Colour, FrameFromRgb, RgbFromFrame, Rotation
from hasn_edge.video.decode import Decoder
from hasn_edge.video.transcode import VideoReport
from tests.support import clips
from tests.support.clips import frames, make, planes_in, rgb_of, tags, upscale
from tests.support.fake_session import RecordingSession

KR_KB = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""ITU-T H.273, table 4."""


def run(source: Path, target: Path, **options: object) -> tuple[VideoReport, list[np.ndarray]]:
    session = RecordingSession()
    return upscale(source, target, session, **options), session.inputs


def flat(values: tuple[int, int, int], pix_fmt: str) -> list[np.ndarray]:
    """An image of one colour."""
    dtype = np.uint16 if "10" in pix_fmt else np.uint8
    chroma = (48, 64) if "444" in pix_fmt else (24, 32)
    shapes = [(48, 64)] if "gray" in pix_fmt else [(48, 64), chroma, chroma]
    return [np.full(shape, value, dtype) for shape, value in zip(shapes, values, strict=False)]


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", KR_KB)
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("colour", [(120, 90, 170), (235, 128, 128), (16, 128, 128), (60, 140, 120)])
def test_network_gets_the_colours_of_the_tags(colour, pix_fmt, matrix, full):
    bits = 10 if "10" in pix_fmt else 8
    values = tuple(value << (bits - 8) for value in colour)
    frame = clips.frame_of(flat(values, pix_fmt), pix_fmt)
    stated = Colour(matrix=matrix, primaries=2, transfer=2, range=2 if full else 1, bits=bits)
    rgb = RgbFromFrame(stated)(frame)
    kr, kb = KR_KB[matrix]
    expected = rgb_of(*values, kr=kr, kb=kb, full=full, bits=bits)
    assert rgb.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert rgb[20, 30] / np.iinfo(rgb.dtype).max == pytest.approx(expected, abs=1.6 / 255)
    back = planes_in(FrameFromRgb(stated, pix_fmt)(rgb))
    if expected.min() > 0 and expected.max() < 1:  # no colour outside RGB was cut off
        assert [int(p[10, 10]) for p in back] == pytest.approx(values, abs=1 << (bits - 8))


@pytest.mark.parametrize(
    "level",
    [0, 1, 300, 700, 1000, 1019, 1021, 1023],
)
def test_full_range_in_10_bits_is_exact_both_ways(level):
    stated = Colour(matrix=1, primaries=2, transfer=2, range=2, bits=10)
    rgb = RgbFromFrame(stated)(clips.frame_of(flat((level, 512, 512), "yuv420p10le"), "yuv420p10le"))
    assert rgb[20, 30].tolist() == pytest.approx([65535 * level / 1023] * 3, abs=2)
    assert int(planes_in(FrameFromRgb(stated, "yuv420p10le")(rgb))[0][10, 10]) == level


@pytest.mark.parametrize("pix_fmt", ["gbrp10le", "gbrp12le", "rgb48le"])
def test_deep_rgb_is_exact(pix_fmt):
    """A sample of n bits is that part of 65,535; shorter ones are made longer by their own first bits."""
    frame = av.VideoFrame(64, 48, pix_fmt)
    bits = frame.format.components[0].bits
    levels = np.linspace(0, (1 << bits) - 1, 64).round().astype(np.uint16)
    wide = levels if len(frame.planes) == 3 else np.repeat(levels, 3)
    for plane in frame.planes:
        rows = np.zeros((48, plane.line_size // 2), np.uint16)
        rows[:, : len(wide)] = wide
        plane.update(rows.tobytes())
    found = RgbFromFrame(Colour(matrix=1, primaries=1, transfer=1, range=1, bits=bits))(frame)
    assert np.abs(found - levels[None, :, None] * (65_535 / ((1 << bits) - 1))).max() < 1


@pytest.mark.parametrize("level", [16, 126, 235])
@pytest.mark.parametrize("value", [0, 1, 2])
def test_gray_video(level, value):
    """Unspecified is limited, as for every other video; FFmpeg's converter takes all gray for full range."""
    frame = clips.frame_of(flat((level, 0, 0), "gray"), "gray")
    rgb = RgbFromFrame(Colour(matrix=6, primaries=2, transfer=2, range=value))(frame)
    expected = level if value == 2 else (level - 16) / 219 * 255
    assert rgb[5, 5].tolist() == pytest.approx([expected] * 3, abs=0.51)


@pytest.mark.parametrize(
    ("stated", "pix_fmt"),
    [
        ((1, 1, 1, 1), "yuv420p"),  # HD television
        ((2, 6, 6, 6), "yuv420p"),  # NTSC in full range
        ((1, 5, 5, 6), "yuv420p"),  # PAL
        ((1, 9, 9, 16), "yuv420p10le"),  # HDR10
        ((1, 9, 9, 18), "yuv420p10le"),  # HLG
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_tags_are_kept(tmp_path, stated, pix_fmt, suffix):
    source = make(tmp_path / f"clip{suffix}", 2, tags=stated, pix_fmt=pix_fmt)
    report, inputs = run(source, tmp_path / f"out{suffix}")
    assert tags(source) == tags(report.path) == stated
    kr, kb = KR_KB[stated[1]]
    y, u, v = (int(p[2, 2]) for p in planes_in(frames(source)[0]))
    bits = 10 if "10" in pix_fmt else 8
    assert inputs[0][4, 4] == pytest.approx(
        rgb_of(
            int(planes_in(frames(source)[0])[0][4, 4]), u, v, kr=kr, kb=kb, full=stated[0] == 2, bits=bits
        ),
        abs=3 / 255,
    )
    assert y
    assert ("high dynamic range" in " ".join(report.notes)) == (stated[3] in (16, 18))


@pytest.mark.parametrize(("width", "height", "matrix"), [(64, 48, 6), (1280, 32, 1), (64, 720, 1)])
def test_a_video_without_tags_names_the_matrix_that_was_taken(tmp_path, width, height, matrix):
    """At twice the size players would guess another one."""
    source = make(tmp_path / "clip.mp4", 1, width=width, height=height)
    assert tags(source)[1] == 2
    report, _ = run(source, tmp_path / "out.mp4", quality=40)
    assert tags(report.path)[1] == matrix


def test_ten_bits_stay_ten_bits(tmp_path):
    ramp = [
        np.repeat(np.arange(400, 464, dtype=np.uint16)[None], 48, axis=0),
        *flat((512, 512, 512), "yuv420p10le")[1:],
    ]
    source = make(
        tmp_path / "clip.mkv", 2, pix_fmt="yuv420p10le", codec="ffv1", images=[ramp] * 2, tags=(1, 1, 1, 1)
    )
    report, inputs = run(source, tmp_path / "deep.mkv", codec="ffv1")
    after = frames(report.path)[0]
    assert after.format.name == "yuv420p10le"
    assert np.array_equal(planes_in(after)[0], np.repeat(np.repeat(ramp[0], 2, axis=0), 2, axis=1))
    assert len(np.unique(inputs[0])) == 64  # every level of the ramp came to the network
    assert frames(run(source, tmp_path / "out.mp4")[0].path)[0].format.name == "yuv420p10le"
    shallow, _ = run(source, tmp_path / "out.webm", codec="libvpx")
    assert frames(shallow.path)[0].format.name == "yuv420p"
    assert "more than 8 bits, and the encoder libvpx keeps 8" in " ".join(shallow.notes)


def test_rgb_and_transparent_videos(tmp_path):
    levels = np.zeros((48, 64, 4), np.uint8)
    levels[..., 0], levels[..., 1], levels[..., 3] = 200, 40, 128
    source = tmp_path / "clip.mkv"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgra"
        for packet in [
            *stream.encode(av.VideoFrame.from_ndarray(levels, format="rgba")),
            *stream.encode(None),
        ]:
            out.mux(packet)
    report, inputs = run(source, tmp_path / "out.mp4")
    assert np.rint(inputs[0][9, 9] * 255).tolist() == [200, 40, 0]
    assert tags(report.path)[:2] == (1, 1)
    assert "its frames are RGB" in " ".join(report.notes)
    assert "its transparency is left out" in " ".join(report.notes)
    y, u, v = (int(p[9, 9]) for p in planes_in(frames(report.path)[0]))
    assert rgb_of(y, u, v, kr=0.2126, kb=0.0722, full=False) * 255 == pytest.approx([200, 40, 0], abs=4)


QUARTERS = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]


@pytest.mark.parametrize("matrix", QUARTERS)
def test_rotation_is_done_to_the_pixels(tmp_path, matrix):
    """Where a stored pixel (x, y) is shown: at (a x + c y, b x + d y), as FFmpeg's display.h says."""
    a, b, c, d = matrix
    source = make(tmp_path / "clip.mp4", 2)
    stored = frames(source)[0].to_ndarray(format="rgb24")
    clips.patch_matrix(source, matrix)
    report, inputs = run(source, tmp_path / "out.mp4")
    y, x = np.mgrid[0:48, 0:64]
    columns, rows = a * x + c * y, b * x + d * y
    expected = np.zeros((64, 48, 3) if b else (48, 64, 3))
    expected[rows - rows.min(), columns - columns.min()] = stored
    assert inputs[0].shape == expected.shape
    assert np.abs(inputs[0] * 255 - expected).mean() < 3  # PyAV's own conversion is that coarse
    with av.open(str(report.path)) as container:
        frame = next(container.decode(video=0))
    assert frame.rotation == 0
    assert (frame.height, frame.width) == (2 * expected.shape[0], 2 * expected.shape[1]) == report.size


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the program ffmpeg")
@pytest.mark.parametrize("matrix", QUARTERS)
def test_files_are_upscaled_and_shown_live_as_ffmpeg_shows_them(tmp_path, matrix):
    source = make(tmp_path / "clip.mp4", 2)
    clips.patch_matrix(source, matrix)
    one = ["-frames:v", "1", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    raw = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", source, *one], check=True, capture_output=True
    ).stdout
    with Decoder(source) as decoder, open_file(source) as shown:
        sizes, image, frame = (decoder.size, shown.size), next(decoder.steps()).image, shown.read()
        assert decoder.rotation.mirrors == (np.linalg.det(np.reshape(matrix, (2, 2))) < 0)
    expected = np.frombuffer(raw, np.uint8).reshape(*sizes[0], 3)
    assert sizes[1] == expected.shape[:2]
    for pixels in (image, frame.pixels):
        assert pixels.shape == expected.shape
        assert np.abs(pixels.astype(int) - expected).mean() < 3


def test_other_angles_are_left_and_said(tmp_path):
    rotation = Rotation((46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30))
    assert not rotation.straight
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert np.array_equal(rotation(image), image)
    source = make(tmp_path / "clip.mp4", 1)
    clips.patch_matrix(source, (1, 1, -1, 1))
    report, _ = run(source, tmp_path / "out.mp4")
    assert "at an angle that is no quarter rotation" in " ".join(report.notes)


def test_transparency_of_vp9_is_left_out_and_said(tmp_path):
    source = make(tmp_path / "clip.mkv", 2, codec="ffv1", time_base=Fraction(1, 1000))
    with av.open(str(source)) as read, av.open(str(tmp_path / "clip.webm"), "w") as out:
        stream = out.add_stream("libvpx-vp9", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuva420p"
        for frame in read.decode(video=0):
            out.mux(stream.encode(frame.reformat(format="yuva420p")))
        out.mux(stream.encode(None))
    report, _ = run(tmp_path / "clip.webm", tmp_path / "out.webm")
    assert report.notes.count("its transparency is left out") == 1
