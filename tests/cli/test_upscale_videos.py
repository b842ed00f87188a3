"""The ``upscale`` verb with videos: where results go, exit codes, interruptions, full disks."""

from __future__ import annotations

import os
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
    assert ".gif cannot be written; name a folder, or a file in .png" in message
    assert "video" not in message
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
    command = [sys.executable, "-m", "hasn_edge", "upscale", source, "-o", folder, "--codec", "mpeg4"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell ignores SIGINT, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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
def test_a_full_disk(tmp_path):
    """A real failing write, in a process that may not write more than 20 kB to a file."""
    source = make(tmp_path / "clip.mp4", 40, audio="aac")
    args = ["upscale", str(source), "-o", str(tmp_path / "out"), "--quality", "1"]
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
