"""Sources, sessions and views that fail where a test says, for the tests of the live pipeline."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from hasn_edge.errors import BuildError, Cure, OutputError, SourceError, with_cures
from hasn_edge.live.frame import Frame, Stamps, UpscaledFrame
from hasn_edge.live.notices import Notice
from hasn_edge.live.pipeline import Live
from hasn_edge.live.sources.frame_source import FrameSource, PatternSource
from hasn_edge.live.views.live_view import View
from hasn_edge.runtime.session import Pending
from hasn_edge.spec import ModelSpec
from tests.support.fake_session import FakeSession

SIZE = (48, 64)


def stamps(captured: float, **later: float) -> Stamps:
    """Return those of a frame for which each point is passed at once where nothing else is said."""
    points = ("taken", "prepared", "started", "computed", "received", "made")
    passed = {"captured": captured}
    for point in points:
        passed[point] = later.get(point, list(passed.values())[-1])
    return Stamps(**passed)


def texts(notices: list[Notice | None]) -> list[str | None]:
    """Return the words of notices."""
    return [None if notice is None else notice.text for notice in notices]


def number_of(pixels: np.ndarray) -> int:
    """Read the number that the test pattern wrote into its corner, at any scale."""
    height, width = pixels.shape[:2]
    side = max(1, min(height, width) // 16)
    half = side // 2
    bits = [pixels[half, bit * side + half].mean() > 128 for bit in range(min(16, width // side))]
    return sum(1 << bit for bit, on in enumerate(bits) if on)


class Script(FrameSource):
    """A source that does what a list says: numbers of frames, seconds to wait, errors to raise."""

    name = "script"
    live = True
    size = SIZE

    def __init__(self, *steps: Any, live: bool = True) -> None:
        self.live = live
        self._steps = list(steps)
        self._pattern = PatternSource(SIZE, live=False)
        self._closed = threading.Event()
        self.closed = 0

    def read(self) -> Frame | None:
        while self._steps and not self._closed.is_set():
            step = self._steps[0]
            if isinstance(step, int):
                if step == 0:
                    self._steps.pop(0)
                    continue
                self._steps[0] = step - 1
                return self._pattern.read()
            self._steps.pop(0)
            if isinstance(step, float):
                self._closed.wait(step)
            else:
                raise step
        return None

    def close(self) -> None:
        self.closed += 1
        self._closed.set()


class Session(FakeSession):
    """Nearest-neighbour upscaling that takes its time and fails at a frame."""

    def __init__(self, *, seconds: float = 0.0, fail_at: int | None = None, error: Exception | None = None):
        super().__init__(ModelSpec())
        self.seconds = seconds
        self.fail_at = fail_at
        self.error = error or BuildError("fake: the device fell off")

    def _run(self, x_NCHW):
        if self.fail_at is not None and len(self.calls) == self.fail_at:
            raise self.error
        if self.seconds:
            time.sleep(self.seconds)
        return super()._run(x_NCHW)


class ConcurrentSession(Session):
    """Computes in a thread of its own, several frames in flight, as TensorRT does; watches who touches it."""

    def __init__(self, in_flight: int = 2, **settings: Any) -> None:
        super().__init__(**settings)
        self.in_flight = in_flight
        self.most = 0
        self.threads: set[str] = set()
        self._flying = 0
        self._lock = threading.Lock()
        self._device = threading.Lock()

    def _begin(self, x_NCHW):
        self.threads.add(threading.current_thread().name)
        with self._lock:
            self._flying += 1
            self.most = max(self.most, self._flying)
            assert self._flying <= self.in_flight, "more frames in flight than allowed"
        results: list[Any] = []

        def compute() -> None:
            with self._device:
                try:
                    results.append(self._run(x_NCHW))
                except Exception as exc:
                    results.append(exc)

        worker = threading.Thread(target=compute, daemon=True)
        worker.start()

        def wait():
            self.threads.add(threading.current_thread().name)
            worker.join()
            with self._lock:
                self._flying -= 1
            if isinstance(results[0], Exception):
                raise results[0]
            return results[0]

        return Pending(wait)


class Watcher(View):
    """Keeps what it is shown and notified of."""

    def __init__(self, *, fail: str | None = None, stop_at: int | None = None) -> None:
        self.shown: list[UpscaledFrame] = []
        self.notices: list[Notice | None] = []
        self.events: list[str] = []
        self._fail = fail
        self._stop_at = stop_at
        self._live: Live | None = None

    def _event(self, name: str) -> None:
        self.events.append(name)
        if self._fail == name:
            raise OutputError(f"the view failed in {name}")

    def start(self, live: Live) -> None:
        self._live = live
        self._event("start")

    def show(self, shown: UpscaledFrame) -> None:
        self.shown.append(shown)
        if self._stop_at is not None and len(self.shown) == self._stop_at:
            self._live.stop()
        if self._fail == "show" and len(self.shown) == 3:
            self._event("show")

    def notify(self, notice: Notice | None) -> None:
        self.notices.append(notice)
        if self._fail == "notify":
            self._event("notify")

    def stop(self) -> None:
        self._event("stop")

    @property
    def messages(self) -> list[str | None]:
        return texts(self.notices)

    @property
    def numbers(self) -> list[int]:
        return [number_of(shown.upscaled) for shown in self.shown]


class Writer:
    """A recording in memory that fails at a frame; knows whether it was published."""

    def __init__(self, *, fail_at: int | None = None, seconds: float = 0.0) -> None:
        self.images: list[np.ndarray] = []
        self.times: list[float] = []
        self.state = "not opened"
        self.threads: set[str] = set()
        self._fail_at = fail_at
        self._seconds = seconds

    def __call__(self, size: tuple[int, int]) -> Writer:
        self.size = size
        return self

    def __enter__(self) -> Writer:
        self.state = "open"
        return self

    def write(self, pixels: np.ndarray, time_s: float) -> None:
        self.threads.add(threading.current_thread().name)
        time.sleep(self._seconds)
        if len(self.images) == self._fail_at:
            raise OutputError("cannot write out.mp4: No space left on device")
        self.images.append(pixels)
        self.times.append(time_s)

    def __exit__(self, kind, exc, traceback) -> None:
        self.state = "published" if kind is None else "removed"


class Told(list[str]):
    """Keeps the sentences that the user receives, each with what helps."""

    def __call__(self, text: str, *cures: Cure, note: bool = False) -> None:
        self.append(with_cures(text, map(str, cures)))


class Clock:
    """Seconds that the test turns."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def recording(frames: int = 12) -> PatternSource:
    """Return a short recording of the test pattern."""
    return PatternSource(SIZE, frames=frames, live=False)


def balanced(snapshot: dict) -> bool:
    """Return whether every captured frame was shown or dropped for a known reason."""
    frames = snapshot["frames"]
    return frames["captured"] == frames["shown"] + frames["dropped"] and frames["in_flight"] == 0


def lost() -> SourceError:
    return SourceError("script: no image came; it may have been unplugged")


def sequence(*sources):
    """Open these, one after the other; an exception is raised instead."""
    waiting = list(sources)

    def open_():
        source = waiting.pop(0)
        if isinstance(source, Exception):
            raise source
        return source

    return open_


def threads() -> list[str]:
    """Return the pipeline's threads that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("hasn-edge")]
