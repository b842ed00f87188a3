"""The ``upscale`` verb with videos: where results go, exit codes, interruptions, full disks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

av = pytest.importorskip("av")
from hasn_edge.cli import cli
from hasn_edge.images.codec import read_image, write_image
from hasn_edge.runtime.open import open_model
from hasn_edge.video.colour import RgbFromFrame
from hasn_edge.video.decode import Decoder
from tests.support.children import hear
from tests.support.clips import frames, make, packets, times


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["upscale", *map(str, args)], prog_name="hasn-edge")


def said(result: Result, code: int = 0) -> str:
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


@pytest.fixture
def clip(tmp_path) -> Path:
    return make(tmp_path / "clip.mp4", 4, audio="aac")


@pytest.mark.slow
def test_into_a_file(clip, tmp_path):
    result = run(clip, "-o", tmp_path / "new" / "clip_x4.mp4", "--quality", 10)
    output = tmp_path / "new" / "clip_x4.mp4"
    assert result.stdout.strip() == str(output)
    assert "4 frames of 256x192 by libx264" in said(result)
    assert times(output) == times(clip)
    assert packets(output, "audio") == packets(clip, "audio")
    with open_model() as session:
        before = frames(clip)[2].to_ndarray(format="rgb24", interpolation="BICUBIC")
        expected = session.run_pixels(before[None])[0].astype(int)
    difference = frames(output)[2].to_ndarray(format="rgb24").astype(int) - expected
    assert np.abs(difference).mean() < 4


@pytest.mark.slow
def test_into_a_folder_with_images(clip, tmp_path):
    write_image(tmp_path / "image.png", np.full((16, 16, 3), 99, np.uint8))
    make(tmp_path / "other.avi", 2, codec="mpeg4", time_base=Fraction(1, 30))
    result = run(tmp_path, "-o", tmp_path / "out", "--codec", "libx265", "--crf", "30", "--audio", "none")
    said(result)
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["clip_x4.mp4", "image_x4.png", "other_x4.mp4"]
    assert read_image(tmp_path / "out" / "image_x4.png").shape == (64, 64, 3)
    with av.open(str(tmp_path / "out" / "clip_x4.mp4")) as container:
        assert [s.type for s in container.streams] == ["video"]
        assert container.streams.video[0].codec_context.name == "hevc"


@pytest.mark.slow
def test_audio_is_lost_only_where_a_name_was_asked_for_and_never_silently(tmp_path):
    source = make(tmp_path / "clip.avi", 2, codec="mpeg4", time_base=Fraction(1, 30), audio="pcm_u8")
    result = run(source, "-o", tmp_path / "out")
    assert "Warning" not in said(result)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["clip_x4.mkv"]
    message = said(run(source, "-o", tmp_path / "named.mp4"))
    assert f"Warning: {source}: stream 1 (audio, pcm_u8) is left out" in message
    assert ".mkv can" in message


@pytest.mark.slow
def test_bad_videos_are_named_and_the_rest_goes_on(clip, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    result = run(tmp_path / "text.mp4", clip, tmp_path / "none.mkv", "-o", tmp_path / "out")
    message = said(result, 1)
    assert "Skipped:" in message
    assert "text.mp4: not a video" in message
    assert "none.mkv: no such file" in message
    assert "2 of 3 files could not be upscaled whole" in message
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["clip_x4.mp4"]


@pytest.mark.slow
def test_a_damaged_video_is_written_and_exits_with_1(tmp_path):
    source = make(tmp_path / "clip.mp4", 10, options={"bf": "0", "g": "5"})
    with av.open(str(source)) as container:
        position, size = [(p.pos, p.size) for p in container.demux(video=0) if p.size][3]
    data = bytearray(source.read_bytes())
    data[position : position + size] = bytes(size)
    source.write_bytes(bytes(data))
    message = said(run(source, "-o", tmp_path / "out.mp4"), 1)
    assert "1 of its images could not be decoded and are missing" in message
    assert f"Damaged: {source}" in message
    assert len(frames(tmp_path / "out.mp4")) == 9


@pytest.mark.slow
def test_videos_are_told_by_their_endings(clip, tmp_path):
    (tmp_path / "media").mkdir()
    message = said(run(tmp_path / "media", "-o", tmp_path / "out"), 1)
    assert "no image or video directly inside it; looked for .png" in message
    assert ".mp4" in message
    for ending in (".asf", ".3g2", ".f4v", ".m2v"):
        clip.with_name(f"clip{ending}").write_bytes(b"")
        assert "not a video" in said(run(clip.with_name(f"clip{ending}"), "-o", tmp_path / "out"), 1)
    unknown = clip.rename(tmp_path / "clip.video")
    message = said(run(unknown, "-o", tmp_path / "out"), 1)
    assert "a video is known by its ending: .mp4" in message
    assert "known by its ending" not in said(run(tmp_path / "none", "-o", tmp_path / "out"), 1)


def test_usage(clip, tmp_path):
    image = tmp_path / "a.png"
    write_image(image, np.zeros((16, 16, 3), np.uint8))
    assert "which one video can become; name a folder" in said(run(clip, image, "-o", tmp_path / "o.mp4"), 2)
    assert "which one video can become" in said(run(image, "-o", tmp_path / "o.mp4"), 2)
    message = said(run(image, "-o", tmp_path / "o.gif"), 2)
    assert f".gif cannot be written; name a folder, as {tmp_path / 'o.gif'}/, or a file in .png" in message
    assert "video" not in message
    assert "or a file in .mp4, .mov, .mkv, .webm" in said(run(clip, "-o", tmp_path / "o.xyz"), 2)
    assert "unknown ending '.avi'" in said(run(clip, "-o", tmp_path / "o.avi"), 1)
    assert "no video encoder 'x264'" in (
        message := said(run(clip, "-o", tmp_path / "o.mp4", "--codec", "x264"), 1)
    )
    assert message.endswith("; use --codec libx264")
    assert "one of the videos to upscale and would be overwritten" in said(run(clip, "-o", clip), 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "clip.mp4"]


def test_without_pyav_the_extra_is_named(clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install 'hasn-edge[video]'" in said(run(clip, "-o", tmp_path / "o.mp4"), 1)


def start(source: Path, folder: Path) -> subprocess.Popen[str]:
    """Begin to upscale in a process of its own, and wait until it writes."""
    options = ["--codec", "mpeg4", "--model", "hasn-x4-small"]
    command = [sys.executable, "-m", "hasn_edge", "upscale", source, "-o", folder, *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell ignores SIGINT, under nohup SIGHUP, and its children would
        # too.
        preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL) for each in (signal.SIGINT, signal.SIGHUP)],
    )
    while process.poll() is None:
        if folder.is_dir() and any(p.stat().st_size > 0 for p in folder.iterdir()):
            return process
        time.sleep(0.05)
    process.kill()
    pytest.fail(f"it never wrote: {process.communicate()}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (signal.SIGINT, 130, "nothing of"),
        (signal.SIGTERM, 143, "nothing of"),
        (signal.SIGHUP, 129, "nothing of"),
        (signal.SIGKILL, -9, ""),
    ],
)
def test_an_interrupted_run_leaves_no_broken_file(tmp_path, number, code, words):
    source = make(tmp_path / "clip.mp4", 300, width=160, height=96, time_base=Fraction(1, 30))
    process = start(source, tmp_path / "out")
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == code
    assert "Traceback" not in errors
    assert words in errors
    left = list((tmp_path / "out").iterdir())
    assert not [p for p in left if not p.name.startswith(".")]
    # Nothing can clean up after SIGKILL: its hidden temporary file stays.
    assert bool(left) == (number == signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "number", "code"),
    [("network", signal.SIGINT, 130), ("encoder", signal.SIGTERM, 143), ("twice", signal.SIGINT, 130)],
)
def test_a_library_that_hangs_does_not_keep_an_interrupted_run_alive(tmp_path, stage, number, code):
    """In the main thread, in another one, and at the second signal without any waiting."""
    source = make(tmp_path / "clip.mp4", 20)
    process = subprocess.Popen(
        [
            sys.executable,
            Path(__file__).parents[1] / "support" / "upscale_child.py",
            stage,
            source,
            "-o",
            tmp_path / "out",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert hear(process, "READY")
        assert list((tmp_path / "out").iterdir())
        process.send_signal(number)
        assert hear(process, "Stopping")
        if stage == "twice":
            process.send_signal(number)
        _, errors = process.communicate()
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == code, errors
    assert f"nothing of {tmp_path / 'out' / 'clip_x4.mp4'} was kept" in " ".join(errors.split())
    assert "Traceback" not in errors
    assert "Aborted" not in errors
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_it_ends_though_whoever_read_its_words_is_gone(tmp_path):
    """Ctrl-C in front of ``| tee`` ends both; a network that takes long is left under all the same."""
    source = make(tmp_path / "clip.mp4", 20)
    child = Path(__file__).parents[1] / "support" / "upscale_child.py"
    process = subprocess.Popen(
        [sys.executable, child, "encoder", source, "-o", tmp_path / "out"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert hear(process, "READY")
        process.stderr.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    finally:
        process.kill()
        process.wait()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_a_full_disk(tmp_path):
    """A real failing write, in a process that may not write more than 20 kB to a file."""
    source = make(tmp_path / "clip.mp4", 12, audio="aac")
    args = ["upscale", str(source), "-o", str(tmp_path / "out"), "--quality", "1", "--model", "hasn-x4-small"]
    code = f"""
import resource, signal
from hasn_edge.cli import cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
cli({args!r}, prog_name="hasn-edge")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=dict(os.environ),
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    message = " ".join(done.stderr.split())
    assert "cannot write" in message
    assert "clip_x4.mp4: File too large" in message
    assert not list((tmp_path / "out").iterdir())


def raw(*source: object) -> bytes:
    """Frames of what FFmpeg's own program is given, as it writes them into a pipe."""
    command = ["ffmpeg", "-v", "error", *map(str, source), "-strict", "-1", "-f", "yuv4mpegpipe", "-"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def piped(data: bytes, *args: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "hasn_edge", "upscale", *map(str, args), "--model", "hasn-x4-small"]
    return subprocess.run(command, input=data, capture_output=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the program ffmpeg")
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_raw_frames_go_through_pipes(clip, tmp_path, pix_fmt):
    data = raw("-i", clip, "-pix_fmt", pix_fmt)
    done = piped(data, "-", "-o", "-", "--outscale", 2)
    assert done.returncode == 0, done.stderr
    (tmp_path / "big.y4m").write_bytes(done.stdout)
    assert done.stdout.startswith(b"YUV4MPEG2 W128 H96 F30:1 ")
    assert b"raw frames have one rate, here 30 a second" in done.stderr
    assert b"4 frames of 128x96 in " in done.stderr, "and no name that FFmpeg has for no encoder"
    said(run(clip, "-o", tmp_path / "big.mkv", "--outscale", 2, "--model", "hasn-x4-small", "--quality", 1))
    through, direct = frames(tmp_path / "big.y4m"), frames(tmp_path / "big.mkv")
    assert (len(through), through[0].format.name) == (4, "yuv444p10le" if "10" in pix_fmt else "yuv444p")
    for a, b in zip(through, direct, strict=True):
        a, b = (frame.to_ndarray(format="gray").astype(int) for frame in (a, b))
        assert np.abs(a - b).mean() < 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the program ffmpeg")
def test_colours_of_a_large_result_are_those_that_a_reader_of_raw_frames_takes(tmp_path):
    source = ["-f", "lavfi", "-i", "color=c=0x1DC81E:s=320x180:r=5:d=0.2", "-pix_fmt", "yuv420p"]
    data = raw(*source)  # swscale makes BT.601 of it, which is what is taken for this size
    done = piped(data, "-", "-o", "-")
    assert done.returncode == 0, done.stderr
    (tmp_path / "big.y4m").write_bytes(done.stdout)
    with Decoder(tmp_path / "big.y4m") as decoder:
        assert decoder.size == (720, 1280)
        rgb = RgbFromFrame(decoder.colour)(frames(tmp_path / "big.y4m")[0])
    assert np.abs(rgb[300:400, 600:700].astype(int) - (0x1D, 0xC8, 0x1E)).max() <= 4


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the program ffmpeg")
def test_raw_frames_go_into_a_file_and_may_end_too_early(clip, tmp_path):
    data = raw("-i", clip, "-pix_fmt", "yuv420p")
    into_file = piped(data, "-", "-o", tmp_path / "folder")
    assert into_file.stdout.decode().strip() == str(tmp_path / "folder" / "stdin_x4.mp4")
    cut = piped(data[:-1000], "-", "-o", tmp_path / "cut.mp4")
    assert cut.returncode == 1
    assert b"it ends too early" in cut.stderr
    assert len(frames(tmp_path / "cut.mp4")) == 3


@pytest.mark.slow
def test_what_comes_through_a_pipe_has_to_be_raw_frames():
    for data, message in ((b"", b"nothing came"), (b"no video" * 99, b"what came is something else")):
        done = piped(data, "-", "-o", "-")
        assert (done.returncode, done.stdout) == (1, b"")
        assert message in done.stderr
        assert b"send it what 'ffmpeg -i IN -f yuv4mpegpipe -strict -1 -' writes" in done.stderr


def test_pipes_that_cannot_be_meant(clip, tmp_path):
    assert "- stands for raw frames from a pipe, alone" in said(run("-", clip, "-o", tmp_path), 2)
    assert "--json then needs a FILE" in said(run(clip, "-o", "-", "--json"), 2)
    assert "which one video can become" in said(run(tmp_path / "a.png", "-o", "-"), 2)
    assert "raw frames are not encoded; leave out --codec" in said(
        run(clip, "-o", "-", "--codec", "mpeg4"), 1
    )


def test_a_part_of_another_size_with_figures(clip, tmp_path):
    options = ("--start", "0.03", "--end", "0:00.1", "--size", "100x100", "--json", tmp_path / "f.json")
    result = run(clip, "-o", tmp_path / "out", *options)
    assert "2 frames of 100x74 by libx264" in said(result), "64x48 fits into it as 100x75"
    content = json.loads((tmp_path / "f.json").read_text())
    (video,) = content["results"]
    assert (content["scale"], content["failures"]) == (4, [])
    assert (video["result"], video["size"], video["frames"]) == (
        str(tmp_path / "out" / "clip_100x100.mp4"), [74, 100], 2,
    )  # fmt: skip
    for text in ("1:60", "x", "-1", "1:2:3:4", "90:00:00.5x"):
        assert "is no time; expected seconds or H:MM:SS" in said(run(clip, f"--start={text}"), 2)
    assert "--end is for videos, and none is among the files" in said(
        run(tmp_path / "a.png", "--end", "3"), 2
    )
    assert "--srgb is for images, and none is among the files" in said(run(clip, "--srgb"), 2)


def test_figures_name_what_failed(clip, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    result = run(tmp_path / "text.mp4", clip, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert [each["source"] for each in content["failures"]] == [str(tmp_path / "text.mp4")]
    assert "not a video" in content["failures"][0]["error"]
    assert [each["whole"] for each in content["results"]] == [True]
