"""The live pipeline: capture, prepare, infer, present and record, each in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from hasn_edge.errors import Cure, HasnEdgeError, StageError, with_cures
from hasn_edge.live.engine_switch import EngineSwitch
from hasn_edge.live.notices import Notice, join_notices
from hasn_edge.live.recording import OpenWriter
from hasn_edge.live.self_test import check_self_test
from hasn_edge.live.snapshot import EndReason
from hasn_edge.live.sources.frame_source import FrameSource
from hasn_edge.live.stages import Stages
from hasn_edge.live.stats import STAGES, Stats
from hasn_edge.live.views.live_view import View
from hasn_edge.runtime.session import Session
from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.video.runner import Runner

JOIN_S = 2.0
"""Seconds in which every thread ends after a stop; what takes longer is named in :attr:`Live.stuck`."""

_POLL_S = 0.05  # how late a stop may be noticed


class Live:
    """Upscales what a source delivers and gives it to views, until the source ends or it is stopped.

    Live sources: the newest frame is taken whenever the network is about to become free; frames that come in
    between are dropped and counted, so that the delay never grows. Recordings: every frame, in order; each
    stage waits for the next one. What a stage raises ends the run.

    Args:
        source: Delivers the frames; closed at the end of the run.
        upscaler: The first engine. Not closed here.
        views: Where frames are shown.
        name: What the first engine is called.
        engines: Names of engines and how to open them, for :meth:`select`; what was opened is closed here.
        size: (height, width) that the network gets: frames are cut to its shape around their middle and
            resized. ``None`` for the source's own, with square pixels.
        self_test: Make each frame smaller by the scale first (MATLAB's bicubic), upscale that, and measure
            PSNR-Y against the frame, of the network and of bicubic.
        open_writer: Opens a recording of a given (height, width), e.g. by ``VideoWriter``; ``None`` for none.
        seconds: Stop after so long; ``None`` for never.
        wait_for_viewer: Begin only once somebody watches, where a view knows.
        cure_text: Writes what helps into notices and figures, for whoever started the run.

    Raises:
        InputError: a self-test cannot judge frames of that size.
    """

    def __init__(
        self,
        source: FrameSource,
        upscaler: Upscaler | Session,
        views: Sequence[View] = (),
        *,
        name: str = "engine",
        engines: Mapping[str, Callable[[], Session | Upscaler]] | None = None,
        size: tuple[int, int] | None = None,
        self_test: bool = False,
        open_writer: OpenWriter | None = None,
        seconds: float | None = None,
        wait_for_viewer: bool = False,
        cure_text: Callable[[Cure], str] = str,
    ) -> None:
        self._cure_text = cure_text
        self.source = source
        self.views = tuple(views)
        self.stuck: tuple[str, ...] = ()
        """Stages that did not end in time after a stop, because a call into a library did not return.

        Their threads are daemons; leave the process by ``os._exit`` rather than wait for them or close the
        session under them."""
        self._seconds = seconds
        self._wait_for_viewer = wait_for_viewer
        self._switch = EngineSwitch(
            Runner(upscaler), name, engines or {}, lambda notice: self._tell("engine", notice)
        )
        self.scale = self._switch.scale
        if self_test and size is not None:
            check_self_test(size, self.scale)
        stages = STAGES if open_writer is not None else STAGES[:-1]
        self.stats = Stats(source=source.name, live=source.live, stages=stages, cure_text=cure_text)
        self._stages = Stages(
            source,
            self._switch,
            self.stats,
            self.views,
            size=size,
            self_test=self_test,
            open_writer=open_writer,
        )
        self._threads = {
            stage: threading.Thread(target=self._run, args=(stage,), name=f"hasn-edge {stage}", daemon=True)
            for stage in self._stages.bodies()
        }
        self.stats.engine, self.stats.engines = name, self.engines
        self.stats.drops = self._drops
        self._showing: tuple[View, ...] = ()
        self._notices: dict[str, Notice] = {}
        self._failure: tuple[str, BaseException, int | None] | None = None
        self._lock = threading.Lock()
        self._stops = 0
        self._why = EndReason.ERROR

    @property
    def recorded(self) -> int:
        """How many frames are in the recording."""
        return self._stages.recorded

    @property
    def engines(self) -> tuple[str, ...]:
        """Names that :meth:`select` takes."""
        return self._switch.names

    @property
    def engine(self) -> str:
        """The one that computes now."""
        return self._switch.name

    def select(self, name: str) -> None:
        """Change the engine; returns at once, and frames go on with the old one until the new one is open.

        Raises:
            InputError: no such engine.
        """
        self._switch.select(name)

    def stop(self) -> None:
        """End the run soon; for any thread or signal handler. The second call gives a recording up."""
        self._stops += 1

    def run(self) -> Stats:
        """Run until the source ends, the time is over, or :meth:`stop`; blocks. Once.

        Returns:
            What was measured.

        Raises:
            StageError: a stage raised one of our errors or the system's; the message names it and the frame.
            RuntimeError: a stage raised anything else, which is the cause.
        """
        self.source.report = lambda notice: self._tell("source", notice)
        with ExitStack() as started:
            try:
                for view in self.views:
                    view.start(self)
                    started.callback(view.stop)
                self._showing = self.views
                self._watch()
            except KeyboardInterrupt:
                self._why = EndReason.STOPPED
                raise
            finally:
                self._shut_down()
                self._showing = ()
        if self._failure is not None:
            stage, cause, frame = self._failure
            if isinstance(cause, HasnEdgeError | OSError | MemoryError):
                raise StageError(stage, cause, frame) from cause
            raise RuntimeError(f"{stage} (frame {frame}) failed") from cause
        return self.stats

    def _watch(self) -> None:
        """Start the threads once somebody watches, and wait for their end, or another one."""
        end = None if self._seconds is None else time.monotonic() + self._seconds
        awaited = [view.watched for view in self.views if self._wait_for_viewer and view.watched is not None]
        last = [*self._threads.values()]

        def ended(pause: float) -> bool:
            last[0].join(pause)
            last[:] = [thread for thread in last if thread.is_alive()]
            return not last

        if self._attend(lambda pause: all(event.wait(pause) for event in awaited), end):
            self.stats.start()
            for thread in last:
                thread.start()
            if self._attend(ended, end):
                self._why = EndReason.SOURCE

    def _attend(self, over: Callable[[float], bool], end: float | None) -> bool:
        """Wait in the caller's thread, and let views that need it work there.

        Args:
            over: Waits for so many seconds at most; returns whether what is waited for is there.
            end: ``time.monotonic()`` until which it may take.

        Returns:
            Whether it came; otherwise the run was stopped, or its time is over.
        """
        due = [(view, view.poll_every_s) for view in self.views if view.poll_every_s is not None]
        pause = min([_POLL_S, *(every for _, every in due)])
        next_poll = dict.fromkeys((view for view, _ in due), 0.0)
        while not self._stops and (end is None or time.monotonic() < end):
            for view, every in due:
                if time.monotonic() >= next_poll[view]:
                    next_poll[view] = time.monotonic() + every
                    view.poll()
            self._switch.tend()
            if over(pause):
                return True
        self._why = EndReason.STOPPED if self._stops else EndReason.TIME
        return False

    def _shut_down(self) -> None:
        deadline = time.monotonic() + JOIN_S
        self._stages.close()
        self.source.close()
        threads = {stage: thread for stage, thread in self._threads.items() if thread.ident is not None}
        for stage, thread in threads.items():
            if stage != "record":
                thread.join(max(0.0, deadline - time.monotonic()))
        # Finishing a recording may take long on a slow disk; a second stop gives it up.
        while "record" in threads and threads["record"].is_alive() and self._stops < 2:
            threads["record"].join(_POLL_S)
        self.stuck = tuple(stage for stage, thread in threads.items() if thread.is_alive())
        self._switch.close(deadline, keep="infer" in self.stuck)
        self.stats.end(EndReason.ERROR if self._failure is not None else self._why)

    def _drops(self) -> dict[str, int]:
        cut_off = self._stages.left_over() if self.stats.over else 0
        return {**self._stages.drops(), "end of run": cut_off}

    def _tell(self, about: str, notice: Notice | None) -> None:
        """Show a notice of the source or the engine, beside the other one's; ``None`` when it is over."""
        with self._lock:
            if notice is None:
                self._notices.pop(about, None)
            else:
                text = with_cures(notice.text, map(self._cure_text, notice.cures))
                self._notices[about] = replace(notice, text=text, cures=())
            together = join_notices(self._notices.values())
        self.stats.report(together)
        for view in self._showing:
            view.notify(together)

    def _run(self, stage: str) -> None:
        try:
            self._stages.run(stage)
        except BaseException as exc:
            with self._lock:
                if self._failure is None:
                    self._failure = (stage, exc, self._stages.at.get(stage))
            self._stages.close()


def lingering_threads(wait_s: float = 0.5) -> tuple[str, ...]:
    """Return the pipeline's threads that are still alive after ``wait_s`` seconds, by name.

    They hang in a call of a library. Ending the interpreter under them may crash: leave by ``os._exit``.
    """
    deadline = time.monotonic() + wait_s
    alive = []
    for thread in threading.enumerate():
        if thread.daemon and thread.name.startswith("hasn-edge "):
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                alive.append(thread.name)
    return tuple(alive)
