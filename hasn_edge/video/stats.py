"""What the live pipeline measures of itself: latency, stages, rates, drops, and what limits it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hasn_edge.video.frame import Shown
from hasn_edge.video.series import Series
from hasn_edge.video.summary import overlay

STAGES = ("capture", "prepare", "infer", "present", "record")
"""In the order a frame passes them. Capture includes waiting for the camera, so it is never *busy*."""

LIMITS = {
    "infer": "the network: choose a smaller --size, a faster engine or precision",
    "present": "showing the frames: close views, or leave --self-test out",
    "record": "recording: choose a faster encoder or a smaller --size",
    "prepare": "preparing the frames: let the source deliver the size that is computed",
    "capture": "the source, which delivers no more frames",
}
"""What limits, with its cure, by stage."""

SOURCE = "source"
"""The reason of frames that the source lost itself."""

_BUSY = 0.85  # of the time: a stage above is what the others wait for


class Stats:
    """Counts and times of one run; every method may be called from any thread.

    Args:
        source: Name of the source.
        live: Whether the source drops what comes too late.
        stages: Those of :data:`STAGES` that this run has.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        source: str = "",
        live: bool = True,
        stages: tuple[str, ...] = STAGES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self.live = live
        self.engine = ""
        self.engines: tuple[str, ...] = ()
        self.input: tuple[int, int] | None = None
        self.output: tuple[int, int] | None = None
        self.notice: str | None = None
        self.notices: list[str] = []
        """The first hundred different things that were reported, in order."""
        self.drops: Callable[[], Mapping[str, int]] = dict
        """Returns how many frames were dropped, by reason; those of :data:`SOURCE` were never delivered."""
        self._lock = threading.Lock()
        self._clock = clock
        self._start = clock()
        self._end: float | None = None
        self._captured = self._shown = self._displayed = 0
        self._in, self._out = Series(clock), Series(clock)
        self._latency = Series(clock)
        self._stages = {name: Series(clock) for name in stages}
        self._running: dict[str, float] = {}
        self._quality = _Mean(), _Mean()

    def start(self) -> None:
        """Begin the run now: what came before, as opening the source, does not count."""
        with self._lock:
            self._start = self._clock()

    def end(self) -> None:
        """End the run: rates and times no longer change."""
        with self._lock:
            self._end = self._end or self._clock()

    def frame_captured(self, seconds: float) -> None:
        """Count a frame that the source delivered after ``seconds`` of waiting and decoding."""
        with self._lock:
            self._captured += 1
            self._in.add(0.0)
            self._stages["capture"].add(seconds)

    def began(self, stage: str) -> None:
        """Say that ``stage`` begins with a frame."""
        with self._lock:
            self._running[stage] = self._clock()

    def ended(self, stage: str, seconds: float | None = None) -> None:
        """Say that ``stage`` is done with a frame, after ``seconds`` of work or the time since it began."""
        with self._lock:
            start = self._running.pop(stage, self._clock())
            self._stages[stage].add(self._clock() - start if seconds is None else seconds)

    @contextmanager
    def busy(self, stage: str) -> Iterator[None]:
        """Time one frame's work in ``stage``; work that fails does not count."""
        self.began(stage)
        yield
        self.ended(stage)

    def frame_shown(self, shown: Shown) -> None:
        """Count a frame that was handed to every view."""
        now = self._clock()
        with self._lock:
            self._shown += 1
            self._out.add(0.0)
            self.engine = shown.engine
            self.input = shown.frame.size
            self.output = (shown.upscaled.shape[0], shown.upscaled.shape[1])
            if self._displayed == 0:
                self._latency.add(now - shown.frame.captured)
            if shown.quality is not None:
                self._quality[0].add(shown.quality.hasn_db)
                self._quality[1].add(shown.quality.bicubic_db)

    def displayed(self, shown: Shown) -> None:
        """Say that ``shown`` is on the screen now; once a view says so, latency ends there."""
        now = self._clock()
        with self._lock:
            if self._displayed == 0:
                self._latency = Series(self._clock)
            self._displayed += 1
            self._latency.add(now - shown.frame.captured)

    def report(self, text: str | None) -> None:
        """Note what is to be told to the user at the moment; ``None`` when it is over."""
        with self._lock:
            self.notice = text
            if text is not None and text not in self.notices and len(self.notices) < 100:
                self.notices.append(text)

    def snapshot(self) -> dict[str, Any]:
        """Return everything as JSON values.

        Returns:
            ``source``, ``live`` (bool), ``engine``, ``engines`` (list), ``input`` and ``output``
            (``[height, width]`` or ``None`` before the first frame), ``seconds`` since the start,
            ``notice`` (str or ``None``), ``notices`` (list of str);
            ``frames``: ``captured``, ``shown``, ``dropped``, ``in_flight``, and ``drops`` (count by reason);
            ``latency_ends``: ``"view"`` (handed over) or ``"screen"`` (a view reported it);
            ``now``, of the last five seconds, and ``run``, since the start, each with
            ``fps_in``, ``fps_out`` (float or ``None``), ``latency_ms`` (``{"p50", "p95", "max"}``, from
            capture to display, floats or ``None``), ``stages_ms`` (stage -> the same three) and ``busy``
            (stage -> fraction of the time, 0 to 1);
            ``limit``: ``{"stage", "text"}`` or ``None`` before there are frames;
            ``quality``: ``None``, or ``hasn_db`` and ``bicubic_db`` of the last frame, ``hasn_mean_db`` and
            ``bicubic_mean_db`` over the run (``None`` for identical pictures), ``frames``.
        """
        drops = dict(self.drops())
        with self._lock:
            now = self._end or self._clock()
            captured, dropped = self._captured + drops.get(SOURCE, 0), sum(drops.values())
            result: dict[str, Any] = {
                "source": self.source,
                "live": self.live,
                "engine": self.engine,
                "engines": list(self.engines),
                "input": None if self.input is None else list(self.input),
                "output": None if self.output is None else list(self.output),
                "seconds": now - self._start,
                "notice": self.notice,
                "notices": list(self.notices),
                "frames": {
                    "captured": captured,
                    "shown": self._shown,
                    "dropped": dropped,
                    "in_flight": max(0, captured - self._shown - dropped),
                    "drops": drops,
                },
                "latency_ends": "screen" if self._displayed else "view",
                "now": self._window(now, recent=True),
                "run": self._window(now, recent=False),
                "quality": self._quality_so_far(),
            }
            result["limit"] = self._limit(result["now"] if self._end is None else result["run"])
        return result

    def overlay(self) -> list[str]:
        """Return the lines that are drawn over the picture."""
        return overlay(self.snapshot())

    def _window(self, now: float, *, recent: bool) -> dict[str, Any]:
        seconds = max(1e-9, now - self._start)
        return {
            "fps_in": self._in.rate(now) if recent else self._captured / seconds,
            "fps_out": self._out.rate(now) if recent else self._shown / seconds,
            "latency_ms": _milliseconds(self._latency.summary(now, recent=recent)),
            "stages_ms": {
                stage: _milliseconds(series.summary(now, recent=recent))
                for stage, series in self._stages.items()
            },
            "busy": {
                stage: series.busy(now, self._running.get(stage), self._start, recent=recent)
                for stage, series in self._stages.items()
                if stage != "capture"
            },
        }

    def _limit(self, window: Mapping[str, Any]) -> dict[str, str] | None:
        if self._shown == 0 and not self._running:
            return None
        stage, fraction = max(window["busy"].items(), key=lambda item: float(item[1]))
        if fraction < _BUSY:
            stage = "capture"
        if stage == "capture":
            return {"stage": stage, "text": LIMITS[stage]}
        head, _, cure = LIMITS[stage].partition(":")
        return {"stage": stage, "text": f"{head} ({fraction:.0%} busy):{cure}"}

    def _quality_so_far(self) -> dict[str, Any] | None:
        hasn, bicubic = self._quality
        if hasn.count == 0:
            return None
        return {
            "hasn_db": hasn.last,
            "bicubic_db": bicubic.last,
            "hasn_mean_db": hasn.mean,
            "bicubic_mean_db": bicubic.mean,
            "frames": hasn.count,
        }


class _Mean:
    """Mean of decibels without the infinite ones, as :func:`hasn_edge.metrics.mean_db` takes it."""

    def __init__(self) -> None:
        self.count = self._finite = 0
        self._total = 0.0
        self.last: float | None = None

    def add(self, value: float) -> None:
        self.count += 1
        # JSON has no infinity: two identical pictures have no figure.
        self.last = value if math.isfinite(value) else None
        if self.last is not None:
            self._finite += 1
            self._total += value

    @property
    def mean(self) -> float | None:
        return self._total / self._finite if self._finite else None


def _milliseconds(summary: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else value * 1e3 for name, value in summary.items()}
