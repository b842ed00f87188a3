"""What the threads of the live pipeline do, and what they hand to each other."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from hasn_edge.live.engine_switch import EngineSwitch
from hasn_edge.live.fit import find_part, fit, square_pixels
from hasn_edge.live.frame import Frame, Stamps, UpscaledFrame
from hasn_edge.live.pacing import EARLY, Pacing
from hasn_edge.live.recording import OpenWriter, record
from hasn_edge.live.self_test import measure_quality, self_test_size, shrink_for_self_test
from hasn_edge.live.sources.frame_source import FrameSource
from hasn_edge.live.stats import SOURCE, Stats
from hasn_edge.live.views.live_view import View
from hasn_edge.queues import BoundedQueue, Closed, LatestOnly, StageQueue
from hasn_edge.runtime.session import Pending
from hasn_edge.video.runner import Runner


@dataclass(eq=False, kw_only=True)
class _Task:
    """A frame under way, with what its stages know so far."""

    frame: Frame
    runner: Runner
    x: NDArray[Any]
    engine: str = ""
    passed: dict[str, float]
    """Points of :class:`Stamps`."""
    y: NDArray[Any] | None = None


class Stages:
    """The bodies of the threads; each ends when its input does, and raises what goes wrong.

    Args:
        source: Delivers the frames.
        switch: Holds the engine.
        stats: Counts and times all of it.
        views: Where frames are shown.
        size: (height, width) that the network gets; ``None`` for the source's own.
        self_test: Judge every frame, see :class:`~hasn_edge.live.pipeline.Live`.
        open_writer: Opens the recording; ``None`` for none.
    """

    def __init__(
        self,
        source: FrameSource,
        switch: EngineSwitch,
        stats: Stats,
        views: Sequence[View],
        *,
        size: tuple[int, int] | None,
        self_test: bool,
        open_writer: OpenWriter | None,
    ) -> None:
        self._source = source
        self._switch = switch
        self._stats = stats
        self._views = views
        self._size = size
        self._self_test = self_test
        self._open_writer = open_writer
        # Nothing is lost of a recording, so that its next frame may be ready early: throughput counts.
        self._pacing = Pacing() if source.live else Pacing(early=EARLY)
        self._captured: StageQueue[Frame] = LatestOnly() if source.live else BoundedQueue()
        self._prepared: BoundedQueue[_Task] = BoundedQueue(1)
        self._computed: BoundedQueue[_Task] = BoundedQueue(1)
        self._recorded: BoundedQueue[UpscaledFrame] = BoundedQueue(2)
        self.recorded = 0
        """Frames in the recording, once it is finished."""
        self.at: dict[str, int] = {}
        """Index of the frame that each stage works on."""
        self._held: dict[str, int] = {}
        self._missed = 0

    def bodies(self) -> dict[str, Callable[[], None]]:
        """Return what to run in a thread, by stage."""
        bodies = {
            "capture": self.capture,
            "prepare": self.prepare,
            "infer": self.infer,
            "present": self.present,
        }
        return bodies if self._open_writer is None else {**bodies, "record": self.record}

    def run(self, stage: str) -> None:
        """Do a stage's work until its input ends, then let the next stage finish what it has."""
        outputs: dict[str, StageQueue[Any]] = {
            "capture": self._captured,
            "prepare": self._prepared,
            "infer": self._computed,
            "present": self._recorded,
        }
        try:
            self.bodies()[stage]()
        except Closed:
            pass
        finally:
            if stage in outputs:
                outputs[stage].finish()
            else:
                self._recorded.close()

    def close(self) -> None:
        """End all stages at once; what was shown is still recorded."""
        for queue in (self._captured, self._prepared, self._computed):
            queue.close()
        self._pacing.close()

    def drops(self) -> dict[str, int]:
        """Return how many frames were lost so far, by reason."""
        return {"network busy": self._captured.dropped, SOURCE: self._source.dropped - self._missed}

    def left_over(self) -> int:
        """Return how many frames the end of the run cut off: those between stages, and those in their hands.

        Each is counted where it was, so that a frame that got lost anywhere else is missing from the sum.
        """
        between = (self._captured, self._prepared, self._computed)
        return sum(queue.discarded for queue in between) + sum(self._held.values())

    def capture(self) -> None:
        """Read frames until the source ends."""
        lost: int | None = None
        while True:
            start = time.monotonic()
            frame = self._source.read()
            if frame is None:
                return
            self.at["capture"] = frame.index
            if lost is None:
                # What a camera showed while the engine was loading does not count as lost.
                lost = self._missed = self._source.dropped if self._source.live else 0
            before, lost = lost, self._source.dropped
            self._stats.frame_captured(time.monotonic() - start, lost - before)
            if not self._captured.put(frame):
                return

    def prepare(self) -> None:
        """Bring frames to the network's size and form just in time."""
        while True:
            self._pacing.wait()
            frame = self._captured.get()
            assert frame is not None
            self.at["prepare"], self._held["prepare"] = frame.index, 1
            taken = time.monotonic()
            with self._stats.busy("prepare"):
                frame = self._fit(frame)
                runner = self._switch.runner
                x = runner.prepare(frame.pixels)
            prepared = time.monotonic()
            self._pacing.ready(prepared - taken)
            self._held["prepare"] = 0
            passed = {"captured": frame.captured, "taken": taken, "prepared": prepared}
            if not self._prepared.put(_Task(frame=frame, runner=runner, x=x, passed=passed)):
                return

    def _fit(self, frame: Frame) -> Frame:
        """Return the frame as the network gets it."""
        captured, scale, aspect = frame.size, self._switch.scale, self._source.aspect or 1.0
        if self._size is None:
            own = square_pixels(captured, aspect)
            self._size = self_test_size(own, scale) if self._self_test else own
        size = self._size
        full = (size[0] * scale, size[1] * scale) if self._self_test else size
        self._stats.frame_fitted(captured, find_part(captured, full, aspect), full, aspect)
        if self._self_test:
            return shrink_for_self_test(frame, size, scale, aspect)
        return replace(frame, pixels=fit(frame.pixels, size, aspect))

    def infer(self) -> None:
        """Compute: the only thread that touches a session."""
        flying: deque[tuple[_Task, Pending[Any]]] = deque()
        while True:
            task = self._next_task(flying)
            self._held["infer"] = len(flying) + (task is not None)
            if task is None:
                self._land(*flying.popleft())
                continue
            while flying and self._switch.pending:
                self._land(*flying.popleft())
            runner, task.engine = self._switch.current(swap=not flying, size=task.frame.size)
            self.at["infer"] = task.frame.index
            if task.runner is not runner:
                task.runner, task.x = runner, runner.prepare(task.frame.pixels)
            self._pacing.began(runner.in_flight)
            self._stats.began("infer")
            task.passed["started"] = time.monotonic()
            flying.append((task, runner.submit(task.x)))

    def _next_task(self, flying: deque[tuple[_Task, Pending[Any]]]) -> _Task | None:
        """Return the next frame for the network; ``None`` where the oldest result is to be waited for."""
        if not flying:
            return self._prepared.get()
        if len(flying) >= flying[0][0].runner.in_flight:
            return None
        try:
            # Half of its time the network may wait for a second frame; then the first one must be shown.
            return self._prepared.get(self._pacing.network_s / 2)
        except Closed:
            return None

    def _land(self, task: _Task, pending: Pending[Any]) -> None:
        """Wait for a result and hand it on."""
        self.at["infer"] = task.frame.index
        task.y = pending.result()
        task.passed["computed"] = computed = time.monotonic()
        self._stats.ended("infer", computed - task.passed["started"], alone=self._pacing.ended())
        self._held["infer"] -= 1
        if not self._computed.put(task):
            raise Closed

    def present(self) -> None:
        """Make images of results, judge them in a self-test, and give them to the views."""
        for task in self._computed:
            self.at["present"], self._held["present"] = task.frame.index, 1
            received = time.monotonic()
            with self._stats.busy("present"):
                shown = _finish(task, received)
                for view in self._views:
                    view.show(shown)
            self._stats.frame_shown(shown)
            self._held["present"] = 0
            if self._open_writer is not None and not self._recorded.put(shown):
                return

    def record(self) -> None:
        """Write what was shown to a file."""
        assert self._open_writer is not None
        self.recorded = record(self._recorded, self._open_writer, self._stats)


def _finish(task: _Task, received: float) -> UpscaledFrame:
    """Make the image of a result, and judge it in a self-test."""
    assert task.y is not None
    frame, scale = task.frame, task.runner.scale
    upscaled = task.runner.finish(task.y)
    judged = None if frame.truth is None else measure_quality(frame, upscaled, scale)
    stamps = Stamps(**task.passed, received=received, made=time.monotonic())
    return UpscaledFrame(
        frame=frame, upscaled=upscaled, scale=scale, engine=task.engine, stamps=stamps, quality=judged
    )
