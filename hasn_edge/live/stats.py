"""What the live pipeline measures of itself: latency, stages, rates, drops, and what limits it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from hasn_edge.errors import Cure, omit, say, use, with_cures
from hasn_edge.live.frame import UpscaledFrame
from hasn_edge.live.notices import Notice, RunState
from hasn_edge.live.self_test import Mean, summarize_quality
from hasn_edge.live.series import Series
from hasn_edge.live.snapshot import EndReason, Figures, Limit, Snapshot
from hasn_edge.live.summary import overlay

STAGES = ("capture", "wait", "prepare", "infer", "present", "display", "record")
"""What takes a frame's time. Capture includes waiting for the camera. From *wait* to *display* they add up to
the latency; *wait* is all that a frame waits for others after its latency begins, and *display* is there
only where a view says when an image is on the screen."""

_WORK = ("prepare", "infer", "present", "record")  # stages that can be busy

SOURCE = "source"
"""The reason of frames that the source lost itself."""

_MOST_NOTICES = 100
_MOST_LOST = 1000  # that a rate of the last seconds counts at a time


_LIMITS = {
    "infer": "the network",
    "present": "showing the frames",
    "record": "recording",
    "prepare": "preparing the frames",
    "capture": "the source, which delivers no more frames",
}
_BUSY = 0.85  # of the time: a stage above is what the others wait for
_LONG_S = 1.0  # in a stage before any frame is shown: it is what all wait for
_LEAST_SIDE = 16  # a smaller size is not advised


class Stats:
    """Counts and times of one run; every method may be called from any thread.

    Args:
        source: Name of the source.
        live: Whether the source drops what comes too late.
        stages: Those of :data:`STAGES` that this run has.
        clock: Monotonic seconds.
        cure_text: Writes what helps, for whoever started the run.
    """

    def __init__(
        self,
        *,
        source: str = "",
        live: bool = True,
        stages: tuple[str, ...] = STAGES,
        clock: Callable[[], float] = time.monotonic,
        cure_text: Callable[[Cure], str] = str,
    ) -> None:
        self.source = source
        self.live = live
        self.engine = ""
        self.engines: tuple[str, ...] = ()
        self.source_size: tuple[int, int] | None = None
        self.part: tuple[int, int] | None = None
        self.fitted: tuple[int, int] | None = None
        self.aspect = 1.0
        self.input: tuple[int, int] | None = None
        self.output: tuple[int, int] | None = None
        self.notice: Notice | None = None
        """What the user should know at the moment."""
        self.notices: list[str] = []
        """The first hundred different things that were reported, in order."""
        self.drops: Callable[[], Mapping[str, int]] = dict
        """Returns how many frames were dropped, by reason; those of :data:`SOURCE` were never delivered."""
        self._lock = threading.RLock()
        self._clock = clock
        self._cure_text = cure_text
        self._start = clock()
        self._end: float | None = None
        self._ended: EndReason | None = None
        self._captured = self._shown = 0
        self._used: dict[str, int] = {}
        self._in, self._out, self._screen = Series(clock), Series(clock), Series(clock)
        self._latency = Series(clock)
        self._stages = {name: Series(clock) for name in stages}
        self._alone = {name: Series(clock) for name in stages if name in _WORK}
        self._running: dict[str, float] = {}
        self._quality = Mean(), Mean()

    def start(self) -> None:
        """Begin the run now: what came before, as opening the source, does not count."""
        with self._lock:
            self._start = self._clock()

    def end(self, why: EndReason | None = None) -> None:
        """End the run: rates and times no longer change."""
        with self._lock:
            self._end, self._ended = self._end or self._clock(), self._ended or why

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self._end is not None

    def frame_captured(self, seconds: float, lost: int = 0) -> None:
        """Count a frame that the source delivered after ``seconds`` of waiting and decoding.

        Args:
            seconds: How long it took.
            lost: Frames that the source lost before it; they were captured too, as far as it knows.
        """
        with self._lock:
            # Over which time the first ones were lost is not known.
            for _ in range(1 + min(lost, _MOST_LOST) if self._captured else 1):
                self._in.add(0.0)
            self._captured += 1
            self._stages["capture"].add(seconds)

    def frame_fitted(
        self, captured: tuple[int, int], part: tuple[int, int], fitted: tuple[int, int], aspect: float
    ) -> None:
        """Note what becomes of a captured frame before the network.

        Args:
            captured: (height, width) as it came from the source.
            part: (height, width) of the part around its middle that is used.
            fitted: (height, width) to which that is resized: the network's input, or a self-test's truth.
            aspect: How many times as wide as high its pixels are shown.
        """
        with self._lock:
            self.source_size, self.part, self.fitted, self.aspect = captured, part, fitted, aspect

    def began(self, stage: str) -> None:
        """Note that ``stage`` begins with a frame."""
        with self._lock:
            self._running[stage] = self._clock()

    def ended(self, stage: str, seconds: float | None = None, *, alone: float | None = None) -> None:
        """Say that ``stage`` is done with a frame.

        Args:
            stage: Which.
            seconds: How long it took; ``None`` for the time since the stage began with it.
            alone: How long the stage was busy with no other frame; ``None`` where that is the same.
        """
        with self._lock:
            start = self._running.pop(stage, self._clock())
            took = self._clock() - start if seconds is None else seconds
            self._stages[stage].add(took)
            self._alone[stage].add(took if alone is None else alone)

    @contextmanager
    def busy(self, stage: str) -> Iterator[None]:
        """Time one frame's work in ``stage``; work that fails does not count."""
        self.began(stage)
        yield
        self.ended(stage)

    def frame_shown(self, shown: UpscaledFrame) -> None:
        """Count a frame that was handed to every view."""
        now = self._clock()
        with self._lock:
            self._shown += 1
            self._out.add(0.0)
            self.engine = shown.engine
            self._used[shown.engine] = self._used.get(shown.engine, 0) + 1
            self.input = shown.frame.size
            self.output = (shown.upscaled.shape[0], shown.upscaled.shape[1])
            stamps = shown.stamps
            self._stages["wait"].add(stamps.idle_s + (stamps.queued_s if self.live else 0.0))
            if self._screen.count == 0:
                self._latency.add(self._age(shown, now))
            if shown.quality is not None:
                self._quality[0].add(shown.quality.hasn_db)
                self._quality[1].add(shown.quality.bicubic_db)

    def displayed(self, shown: UpscaledFrame) -> None:
        """Say that ``shown`` is on a screen now, once for each; once a view says so, latency ends there."""
        now = self._clock()
        with self._lock:
            if self._screen.count == 0:
                self._latency = Series(self._clock)
            self._screen.add(0.0)
            self._stages["display"].add(now - shown.stamps.made)
            self._latency.add(self._age(shown, now))

    def age(self, shown: UpscaledFrame) -> float:
        """Return the latency of a frame that is on a screen now, in seconds.

        Of a live source it begins with the capture; of a recording with the frame's preparation, since how
        far a recording is read ahead says nothing of how fast it is upscaled.
        """
        return self._age(shown, self._clock())

    def _age(self, shown: UpscaledFrame, now: float) -> float:
        return now - (shown.stamps.captured if self.live else shown.stamps.taken)

    def remember(self, text: str) -> None:
        """Note something for the end that need not be shown now."""
        with self._lock:
            if text not in self.notices and len(self.notices) < _MOST_NOTICES:
                self.notices.append(text)

    def report(self, notice: Notice | None) -> None:
        """Note what the user should know at the moment; ``None`` when it is over."""
        with self._lock:
            self.notice = notice
            if notice is not None:
                self.remember(notice.text)

    def snapshot(self) -> Snapshot:
        """Return everything as JSON values."""
        drops = dict(self.drops())
        with self._lock:
            now = self._end or self._clock()
            captured, dropped = self._captured + drops.get(SOURCE, 0), sum(drops.values())
            screen = self._screen.count > 0
            now_figures = self._figures(now, captured, recent=True)
            run_figures = self._figures(now, captured, recent=False)
            # A first frame that passes through quickly has each stage busy all the time so far.
            told = self._shown or any(now - start >= _LONG_S for start in self._running.values())
            busy = (now_figures if self._end is None else run_figures)["busy"]
            return {
                "source": self.source,
                "live": self.live,
                "engine": self.engine,
                "engines": list(self.engines),
                "engines_used": dict(self._used),
                "input": _listed(self.input),
                "output": _listed(self.output),
                "source_size": _listed(self.source_size),
                "part": _listed(self.part),
                "fitted": _listed(self.fitted),
                "pixel_aspect": self.aspect,
                "seconds": now - self._start,
                "ended": self._ended,
                "state": self._state(),
                "opening": None if self.notice is None else self.notice.opening,
                "notice": None if self.notice is None else self.notice.text,
                "notices": list(self.notices),
                "frames": {
                    "captured": captured,
                    "shown": self._shown,
                    "displayed": self._screen.count if screen else None,
                    "dropped": dropped,
                    "in_flight": max(0, captured - self._shown - dropped),
                    "drops": drops,
                },
                "latency_begins": "capture" if self.live else "prepare",
                "latency_ends": "screen" if screen else "view",
                "now": now_figures,
                "run": run_figures,
                "quality": summarize_quality(*self._quality),
                "limit": self._limit(busy) if told else None,
            }

    def _state(self) -> RunState:
        if self._end is not None:
            return RunState.ENDED
        return RunState.RUNNING if self.notice is None else self.notice.state

    def _limit(self, busy: Mapping[str, float]) -> Limit:
        """Return what limits the run, and what helps.

        Args:
            busy: Fraction of the time, 0 to 1, by stage that works.
        """
        stage, fraction = max(busy.items(), key=lambda item: item[1])
        if fraction < _BUSY:
            return {"stage": "capture", "text": _LIMITS["capture"]}
        half = None if self.input is None else (self.input[0] // 2, self.input[1] // 2)
        smaller = [use(size=half)] if half is not None and min(half) >= _LEAST_SIDE else []
        cures = {
            "infer": [*smaller, say("choose a faster engine or precision")],
            "present": [say("close views"), *([omit("self_test")] if self._quality[0].count else [])],
            "record": [say("choose a faster encoder"), *smaller],
            "prepare": [say("let the source deliver the size that is computed")],
        }[stage]
        words = map(self._cure_text, cures)
        return {"stage": stage, "text": with_cures(f"{_LIMITS[stage]} ({fraction:.0%} busy)", words)}

    def overlay(self) -> list[str]:
        """Return the lines that are drawn over the image."""
        return overlay(self.snapshot())

    def _figures(self, now: float, captured: int, *, recent: bool) -> Figures:
        seconds = max(1e-9, now - self._start)
        screen = self._screen
        if recent:
            displayed = None if screen.stale(now) else screen.rate(now)
        else:
            displayed = screen.count / seconds if screen.count else None
        return {
            "fps_in": self._in.rate(now) if recent else captured / seconds,
            "fps_out": self._out.rate(now) if recent else self._shown / seconds,
            "fps_screen": displayed,
            "latency_ms": self._latency.times(now, recent=recent),
            "stages_ms": {stage: series.times(now, recent=recent) for stage, series in self._stages.items()},
            "busy": {
                stage: series.busy(now, self._running.get(stage), self._start, recent=recent)
                for stage, series in self._alone.items()
            },
        }


def _listed(size: tuple[int, int] | None) -> list[int] | None:
    return None if size is None else list(size)
