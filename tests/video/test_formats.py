"""Endings, encoders and sizes: what cannot be written is refused before anything is computed."""

from __future__ import annotations

import pytest

av = pytest.importorskip("av")
from hasn_edge.errors import InputError, OutputError, UnsupportedError
from hasn_edge.spec import ModelSpec
from hasn_edge.video.tracks import output_suffix
from tests.support.clips import make, upscale
from tests.support.fake_session import FakeSession


def test_sizes_are_checked_before_anything_is_computed(tmp_path, monkeypatch):
    source = make(tmp_path / "clip.mp4", 2)
    session = FakeSession(ModelSpec(scale=2))
    monkeypatch.setattr("hasn_edge.video.formats.MAX_OUTPUT_PIXELS", 96 * 128 - 1)
    with pytest.raises(InputError, match="its images would be 128 x 96"):
        upscale(source, tmp_path / "out.mp4", session=session)
    monkeypatch.setattr("hasn_edge.video.container.MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(InputError, match="it says that its images are 64 x 48"):
        upscale(source, tmp_path / "out.mp4", session=session)
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
    session = FakeSession(ModelSpec(scale=2))
    with pytest.raises(error, match=words):
        upscale(source, tmp_path / "new" / target, session=session, **options)
    assert not session.calls
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())


def test_names():
    assert [output_suffix(f"a{s}") for s in (".mp4", ".MKV", ".avi", ".ts", ".mov")] == [
        *(".mp4", ".mkv", ".mp4", ".mp4", ".mov")
    ]
