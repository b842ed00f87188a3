"""``hasn-edge demo`` in a process of its own that holds on in the stage named first; then its options.

Says READY on standard error once it is in that stage, stays there until it is stopped and a while longer, and
says JOINED with the seconds from the stop until every thread had ended. The network is a fake.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # run by its path

import numpy as np

from hasn_edge.cli import demo as demo_verb
from hasn_edge.cli import main
from hasn_edge.live import launch, stages
from hasn_edge.live import pipeline as live
from hasn_edge.live.pipeline import Live
from hasn_edge.live.sources.frame_source import PatternSource
from hasn_edge.live.sources.remote import Remote
from hasn_edge.video import writer
from tests.support.live_rig import Script, Session

STAGE = sys.argv[1]
stopped, twice = threading.Event(), threading.Event()
stopped_at = 0.0


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def hold(stage: str, *, when: bool = True) -> None:
    """In that stage, say so and hold on until the run was stopped, and 0.7 seconds more."""
    if stage == STAGE and when and not stopped.is_set():
        say("READY")
        stopped.wait(900)
        time.sleep(0.7)


class NotedLive(Live):
    def stop(self) -> None:
        global stopped_at
        stopped_at = time.monotonic()
        if stopped.is_set():
            twice.set()
        stopped.set()
        super().stop()

    def run(self):
        try:
            return super().run()
        finally:
            say(f"JOINED {time.monotonic() - stopped_at}")


class Holding(Session):
    def _run(self, x_NCHW):
        hold("infer", when=len(self.calls) == 5)
        y_NCHW = super()._run(x_NCHW)
        if STAGE == "noise":  # so that an encoder has much to write
            y_NCHW[:] = np.random.default_rng(len(self.calls)).random(y_NCHW.shape)
        return y_NCHW


class Lost(Script):
    def read(self):
        say("READY")
        return super().read()


class Writer(writer.VideoWriter):
    def write(self, pixels, time_s=None):
        if STAGE == "running" and self.frames == 5:
            say("READY")
        hold("record", when=self.frames == 5)
        super().write(pixels, time_s)

    def __exit__(self, *exc):
        hold("finishing")
        hold("hung up")
        if STAGE in ("dropped", "meanwhile"):
            say("READY")
            twice.wait(60)
            if STAGE == "dropped":
                time.sleep(900)
        super().__exit__(*exc)


def never():
    say("READY")
    time.sleep(900)


def open_source(text, size):
    if STAGE == "opening":
        return Remote(never, "camera", open_s=900)
    if STAGE == "lost":
        return Remote(lambda: Lost(900.0), "camera", stall_s=900)
    return PatternSource(size, frames=None if text == "pattern" else int(text), live=text == "pattern")


writer.VideoWriter = Writer
launch.Live = NotedLive
launch.open_first = lambda engines, wanted, size, tell: ("fake", Holding())
launch.open_source = open_source
if STAGE == "meanwhile":  # the recording is finished while the figures are printed
    lingering_threads, report = live.lingering_threads, demo_verb._report
    demo_verb._report = lambda *args: (report(*args), lingering_threads(30))
if STAGE == "present":
    stages.measure_quality = lambda frame, upscaled, scale: hold("present", when=frame.index > 5)
sys.argv[1:2] = ["demo"]
main()
