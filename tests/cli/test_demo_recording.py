"""The demo's recording: refused before anything is opened, and what is said where nothing was recorded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hasn_edge.cli import cli
from hasn_edge.live import launch
from hasn_edge.spec import ModelSpec
from tests.support.fake_session import FakeSession

av = pytest.importorskip("av")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the verb with a fake network in an empty folder; say whether the network was opened."""
    monkeypatch.chdir(tmp_path)
    opened: list[FakeSession] = []

    def open_first(*args, **options):
        opened.append(FakeSession(ModelSpec()))
        return "fake", opened[-1]

    monkeypatch.setattr(launch, "open_first", open_first)

    def run(*args: object) -> tuple[Result, bool]:
        opened.clear()
        result = CliRunner().invoke(cli, ["demo", "--view", "none", *map(str, args)], prog_name="hasn-edge")
        return result, bool(opened)

    return run


@pytest.mark.parametrize("name", ["itself", "relative", "symbolic", "hard"])
def test_its_source_is_never_overwritten(run, clip, tmp_path, name):
    source = tmp_path / "clip.mkv"
    shutil.copy(clip, source)
    before = source.read_bytes()
    record = tmp_path / "other.mkv"
    if name == "symbolic":
        record.symlink_to(source)
    elif name == "hard":
        record.hardlink_to(source)
    else:
        record = source if name == "itself" else Path("..", tmp_path.name, "clip.mkv")
    result, opened = run("--source", source, "--record", record)
    assert result.exit_code == 1, result.output
    message = " ".join(result.output.split())
    assert "is the video to show and would be overwritten; use --record " in message
    assert not opened
    assert source.read_bytes() == before


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="it may have an encoder in hardware")
def test_an_encoder_that_is_not_in_this_machine_is_refused_before_anything_is_opened(run):
    if "h264_nvenc" not in av.codecs_available:
        pytest.skip("this FFmpeg has no h264_nvenc")
    result, opened = run("--source", "pattern", "--record", "a.mp4", "--codec", "h264_nvenc")
    assert result.exit_code == 1, result.output
    assert "the encoder h264_nvenc does not start" in " ".join(result.output.split())
    assert not opened
    assert not list(Path().iterdir())


def test_a_run_without_a_frame_says_that_nothing_was_recorded(run, monkeypatch):
    class Empty(launch.PatternSource):
        def read(self):
            return None

    monkeypatch.setattr(launch, "open_source", lambda text, size: Empty(size or (16, 32), live=False))
    result, _ = run("--source", "x.mp4", "--record", "a.mp4")
    assert result.exit_code == 0, result.output
    assert "Nothing to record: no frame was shown, and a.mp4 was not written" in result.stderr
    assert not list(Path().iterdir())


def test_that_a_recording_has_no_audio_is_said_before_it_is_made():
    text = " ".join(CliRunner().invoke(cli, ["demo", "--help"]).output.split())
    assert "(.mp4, .mov, .mkv, .webm), without audio; of files, upscale keeps it." in text
