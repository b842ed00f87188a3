"""The window view: every key, with an OpenCV that watches its calls, and a real window where one can be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hasn_edge.errors import UnsupportedError
from hasn_edge.images.codec import read_image
from hasn_edge.live.notices import trouble
from hasn_edge.live.pipeline import Live
from hasn_edge.live.sources.frame_source import PatternSource
from hasn_edge.live.views import window, window_check, window_draw
from hasn_edge.live.views.window import WindowView
from tests.support.live_rig import Session
from tests.support.web_rig import FakeRun, shown

GUI_CV2 = Path(sys.prefix, "opencv-gui")
"""Where .ci/run puts an OpenCV with windows, beside the one without that is installed."""


class FakeOpenCV:
    """Draws with OpenCV, and has windows that exist in memory; refuses what a real one would crash at."""

    WINDOW_GUI_NORMAL = 16
    EVENT_LBUTTONDOWN, EVENT_LBUTTONUP, EVENT_MOUSEMOVE, EVENT_MOUSEWHEEL = 1, 4, 0, 10

    def __init__(self) -> None:
        self.open = self.visible = False
        self.keys: list[int] = []
        self.painted: np.ndarray | None = None
        self.pending: np.ndarray | None = None
        self.sizes: list[tuple[int, int]] = []
        self.thread = threading.current_thread()

    def __getattr__(self, name: str) -> Any:
        return getattr(cv2, name)

    def _check(self) -> None:
        assert threading.current_thread() is self.thread, "windows belong to the main thread"
        assert self.open, "there is no window"

    def namedWindow(self, title, flags):
        assert not self.open
        self.open = self.visible = True

    def setMouseCallback(self, title, callback):
        self._check()
        self.mouse = callback

    def imshow(self, title, bgr):
        self._check()
        assert bgr.dtype == np.uint8
        assert bgr.flags.c_contiguous
        self.pending = bgr.copy()

    def resizeWindow(self, title, width, height):
        self._check()
        self.sizes.append((width, height))

    def waitKeyEx(self, delay):
        self._check()
        assert delay == 1
        assert self.pending is not None, "nothing was shown before"
        self.painted = self.pending
        return self.keys.pop(0) if self.keys else -1

    def getWindowProperty(self, title, which):
        self._check()
        return float(self.visible)

    def destroyWindow(self, title):
        self._check()
        self.open = False

    def waitKey(self, delay):
        return -1


class Steered(FakeRun):
    def __init__(self) -> None:
        super().__init__()
        self.stops = 0

    def stop(self) -> None:
        self.stops += 1


@pytest.fixture
def opencv(monkeypatch) -> FakeOpenCV:
    fake = FakeOpenCV()
    monkeypatch.setattr(window_draw, "cv2", lambda: fake)
    monkeypatch.setattr(window, "check_windows", lambda: None)
    return fake


@pytest.fixture
def view(opencv, tmp_path) -> Iterator[WindowView]:
    view = WindowView(tmp_path)
    view.run = Steered()
    view.start(view.run)
    view._note = ("", 0.0)
    view._figures = False
    yield view
    view.stop()
    assert not opencv.open


def press(view: WindowView, opencv: FakeOpenCV, *keys: str | int) -> np.ndarray:
    """Press keys one after the other; return the image afterwards, as RGB."""
    for key in (*keys, -1):
        opencv.keys.append(key if isinstance(key, int) else ord(key))
        view.poll()
    return opencv.painted[..., ::-1]


FRAME = shown(5)
EDGE = FRAME.upscaled.shape[1] // 2


def test_the_first_image_sizes_the_window_and_is_said_to_be_displayed(view, opencv):
    view.poll()
    assert opencv.painted.shape == (360, 640, 3), "a word before the first image"
    view.show(shown(4))
    view.show(FRAME)
    image = press(view, opencv)
    assert opencv.sizes == [(128, 96)]
    assert view.run.seen == [FRAME], "once, the newest, after it was painted"
    np.testing.assert_array_equal(image[:, EDGE + 8 :], FRAME.upscaled[:, EDGE + 8 :])
    np.testing.assert_array_equal(image[:, : EDGE - 8], FRAME.frame.bicubic(4)[:, : EDGE - 8])


@pytest.mark.parametrize(
    ("size", "opened"), [((225, 400), (1600, 900)), ((270, 480), (1600, 900)), ((400, 100), (225, 900))]
)
def test_a_large_image_does_not_open_a_window_larger_than_screens(view, opencv, size, opened):
    large = shown(0, size=size)
    view.show(large)
    press(view, opencv)
    assert opencv.sizes == [opened]
    # The mouse is still told in the image's own pixels.
    opencv.mouse(opencv.EVENT_LBUTTONDOWN, large.upscaled.shape[1] // 4, 10, 0, None)
    assert view._split == 0.25


def test_keys_choose_what_is_seen(view, opencv):
    view.show(FRAME)
    np.testing.assert_array_equal(press(view, opencv, "b"), FRAME.upscaled)
    np.testing.assert_array_equal(press(view, opencv, "b"), FRAME.frame.bicubic(4))
    # Left as X11 says it, with Num Lock; right as Windows and macOS do; and two letters.
    for key, split in (("c", 0.5), (0x10FF51, 0.48), (2555904, 0.5), (63235, 0.52), ("a", 0.5), ("D", 0.52)):
        press(view, opencv, key)
        assert view._split == pytest.approx(split), key
    before = view._split, view._mode
    press(view, opencv, 65362, 65364, 65379, 65535, 65505)  # up, down, insert, delete, shift: nobody's
    assert (view._split, view._mode) == before
    assert view.run.stops == 0


def test_the_mouse_moves_the_divider_and_zooms(view, opencv):
    view.show(FRAME)
    press(view, opencv)
    opencv.mouse(opencv.EVENT_MOUSEMOVE, 100, 10, 0, None)
    assert view._split == 0.5, "not before it is pressed"
    opencv.mouse(opencv.EVENT_LBUTTONDOWN, 32, 10, 0, None)
    opencv.mouse(opencv.EVENT_MOUSEMOVE, 96, 10, 0, None)
    opencv.mouse(opencv.EVENT_LBUTTONUP, 96, 10, 0, None)
    assert view._split == 0.75
    view.run.seen.clear()
    press(view, opencv, "b")
    opencv.mouse(opencv.EVENT_MOUSEWHEEL, 64, 48, 1, None)
    image = press(view, opencv)
    np.testing.assert_array_equal(image, FRAME.upscaled[24:72, 32:96].repeat(2, 0).repeat(2, 1))
    opencv.mouse(opencv.EVENT_MOUSEMOVE, 0, 0, 0, None)
    assert view._zoom == 2
    press(view, opencv, "+", "+", "+", "+", "+")
    assert (view._zoom, view._centre) == (16, (0.28125, 0.28125))
    np.testing.assert_array_equal(press(view, opencv, "0"), FRAME.upscaled)


def test_pause_holds_the_image(view, opencv):
    view.show(FRAME)
    press(view, opencv, "b", " ")
    view.show(shown(90))
    press(view, opencv)
    assert [one.frame.index for one in view.run.seen] == [5]
    press(view, opencv, " ")
    view.show(shown(91))
    np.testing.assert_array_equal(press(view, opencv), shown(91).upscaled)


def test_a_snapshot_is_in_full_size_without_words(view, opencv, tmp_path):
    press(view, opencv, "s")
    assert view._note[0] == "there is no image yet"
    view.show(FRAME)
    press(view, opencv, "i", "h", "b", "s")
    np.testing.assert_array_equal(read_image(tmp_path / "hasn-edge-frame000005-hasn.png"), FRAME.upscaled)
    press(view, opencv, "c", "s")
    both = read_image(tmp_path / "hasn-edge-frame000005-compare.png")
    np.testing.assert_array_equal(both[:, EDGE:], FRAME.upscaled[:, EDGE:])
    np.testing.assert_array_equal(both[:, :EDGE], FRAME.frame.bicubic(4)[:, :EDGE])


def test_a_snapshot_that_fails_is_told_and_the_show_goes_on(view, opencv, tmp_path):
    view._folder = tmp_path / "file"
    view._folder.write_text("not a folder")
    view.show(FRAME)
    press(view, opencv, "s")
    assert "file" in view._note[0]
    assert opencv.open


def test_words_are_drawn_over_the_image(view, opencv):
    frame = shown(1, size=(90, 160))
    view.show(frame)
    plain = press(view, opencv, "b").copy()
    changed = {}
    for name, act in {
        "figures": lambda: press(view, opencv, "i"),
        "help": lambda: press(view, opencv, "i", "h"),
        "message": lambda: (
            press(view, opencv, "h"),
            view.notify(trouble("camera lost ×")),
        ),
        "end": lambda: view.notify(None),
    }.items():
        act()
        changed[name] = (press(view, opencv) != plain).any(axis=2)
    top, bottom = slice(0, 120), slice(240, 360)
    assert changed["figures"][top].any()
    assert not changed["figures"][bottom].any()
    assert changed["help"][180, 320]
    assert changed["message"][bottom].any()
    assert not changed["message"][top].any()
    assert not changed["end"].any()


def test_engines_change_in_turn(view, opencv):
    press(view, opencv, "e")
    assert view.run.selected == ["second"]
    view.run.engines = ("only",)
    press(view, opencv, "e")
    assert "one engine only" in view._note[0]


@pytest.mark.parametrize("how", ["q", 27, 65307, "by hand"])
def test_ways_to_end(view, opencv, how):
    view.show(FRAME)
    press(view, opencv)
    if how == "by hand":
        opencv.visible = False
        view.poll()
        opencv.destroyWindow("")
    else:
        press(view, opencv, how)
    assert view.run.stops == 1


def test_an_opencv_without_windows_is_named_with_its_cure(monkeypatch):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    with pytest.raises(
        UnsupportedError, match=r"opencv-python-headless.*pip install opencv-python.*view='web'"
    ):
        WindowView()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems always have a display")
def test_a_missing_display_is_named_with_its_cure(monkeypatch):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           GTK3\n")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UnsupportedError, match=r"there is no display .*view='web'"):
        WindowView()
    # Toolkits abort the process when a display does not answer; it must not be this one.
    monkeypatch.setenv("DISPLAY", ":987")
    monkeypatch.setattr(
        window_check, "_PROBE", "import os, sys; print('no :987', file=sys.stderr); os.abort()"
    )
    with pytest.raises(UnsupportedError, match=r"display :987 \(no :987\).*view='web'"):
        WindowView()


def test_what_is_replaced_before_it_is_painted_is_not_displayed(view, opencv):
    for index in range(6):
        view.show(shown(index))
        if index % 3 == 2:
            press(view, opencv)
    assert [one.frame.index for one in view.run.seen] == [2, 5]


def test_a_run_with_the_window_as_its_view(opencv, tmp_path):
    """The pipeline's own threads hand over frames; windows are touched in the main thread only."""
    live = Live(PatternSource((24, 32), fps=50.0, frames=10), Session(), [WindowView(tmp_path)])
    stats = live.run().snapshot()
    assert stats["latency_ends"] == "screen"
    assert 0 < stats["frames"]["displayed"] <= stats["frames"]["shown"]
    assert not opencv.open


@pytest.fixture
def display() -> Iterator[dict[str, str]]:
    """Environment of a virtual display."""
    server = shutil.which("Xvfb")
    if server is None:
        pytest.skip("no virtual display; apt-get install xvfb")
    reading, writing = os.pipe()
    command = [server, "-displayfd", str(writing), "-screen", "0", "800x600x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=(writing,), stderr=subprocess.DEVNULL) as process:
        os.close(writing)
        with os.fdopen(reading) as pipe:
            number = pipe.readline().strip()
        environment = {**os.environ, "DISPLAY": f":{number}"}
        environment.pop("WAYLAND_DISPLAY", None)
        if GUI_CV2.is_dir():
            environment["PYTHONPATH"] = str(GUI_CV2)
        yield environment
        process.terminate()


REAL = """
import sys, pathlib
sys.path[:0] = [{tests!r}]
from tests.support.live_rig import Session
from hasn_edge.errors import UnsupportedError
from hasn_edge.live.views import window
from hasn_edge.live.pipeline import Live
from hasn_edge.live.sources.frame_source import PatternSource
try:
    class Watched(window.WindowView):
        keys = [ord(key) for key in "hb+0chs"] + [65361, ord("q")]
        def poll(self):
            super().poll()
            if self._on_screen is not None and self.keys:
                self._key(self.keys.pop(0))
    view = Watched(pathlib.Path({folder!r}))
except UnsupportedError as exc:
    print("SKIP", exc)
    sys.exit()
live = Live(PatternSource((24, 32), fps=10.0), Session(), [view], seconds=60)
snapshot = live.run().snapshot()
print("DONE", snapshot["latency_ends"], not view.keys, live.stuck)
"""


@pytest.mark.slow
def test_a_real_window_on_a_virtual_display(display, tmp_path):
    code = REAL.format(tests=str(Path(__file__).parents[3]), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code], env=display, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("SKIP") and not GUI_CV2.is_dir():
        pytest.skip(done.stdout.strip())
    assert done.stdout.strip() == "DONE screen True ()"
    (image,) = tmp_path.glob("hasn-edge-frame*-compare.png")
    assert read_image(image).shape == (96, 128, 3)
