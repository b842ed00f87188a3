"""What the tests of live video share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.fake_opencv import FakeCv2


@pytest.fixture
def fake_opencv(monkeypatch, tmp_path) -> Iterator[FakeCv2]:
    """A machine of Linux with three devices, and an OpenCV that remembers what it was told."""
    from hasn_edge.live.sources import cameras, capture
    from tests.support.fake_opencv import FakeCv2

    fake = FakeCv2()
    monkeypatch.setattr(cameras, "opencv", lambda: fake)
    monkeypatch.setattr(capture, "opencv", lambda: fake)
    monkeypatch.setattr(cameras, "DEVICES", tmp_path)
    monkeypatch.setattr(cameras, "is_jetson", lambda: False)
    monkeypatch.setattr(cameras.sys, "platform", "linux")
    for name in ("video10", "video0", "video2", "videodev"):
        (tmp_path / name).touch()
    yield fake
    fake.release.set()


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """A small video file of 40 frames of the test pattern at 25 frames a second, its index in front."""
    from hasn_edge.live.sources.capture import opencv
    from hasn_edge.live.sources.frame_source import PatternSource

    cv2 = opencv()  # quiet from the start: FFmpeg is told once

    path = tmp_path_factory.mktemp("clips") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (160, 96))
    with PatternSource((96, 160), frames=40, live=False) as source:
        while (frame := source.read()) is not None:
            writer.write(cv2.cvtColor(frame.pixels, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real browser, for the tests of the real page."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium; apt-get install chromium")
    with driver.sync_playwright() as started:
        # As root, as in containers, Chromium's sandbox does not start.
        arguments = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = started.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()
