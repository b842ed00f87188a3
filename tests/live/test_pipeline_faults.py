"""Whatever fails, wherever: threads end within two seconds, the stage is named, nothing is half-written."""

from __future__ import annotations

import threading
import time

import pytest

from hasn_edge.errors import BuildError, OutputError, SourceError, StageError
from hasn_edge.live.notices import trouble
from hasn_edge.live.pipeline import JOIN_S, Live, lingering_threads
from hasn_edge.live.sources.frame_source import PatternSource
from hasn_edge.live.sources.remote import Remote
from tests.support.live_rig import (
    SIZE,
    ConcurrentSession,
    Script,
    Session,
    Watcher,
    Writer,
    lost,
    sequence,
    threads,
)


def fails(live: Live, kind: type[Exception] = StageError) -> Exception:
    """FakeRun, and check what holds after every failure."""
    start = time.monotonic()
    with pytest.raises(kind) as failure:
        live.run()
    assert time.monotonic() - start < JOIN_S + 1
    assert live.stuck == ()
    assert threads() == []
    frames = live.stats.snapshot()["frames"]
    assert frames["captured"] == frames["shown"] + frames["dropped"]
    return failure.value


@pytest.mark.parametrize("live", [True, False], ids=["camera", "recording"])
@pytest.mark.parametrize("at", [0, 1, 7])
def test_source_is_lost_at_frame_n(live, at):
    source, view, writer = Script(at, lost(), live=live), Watcher(), Writer()
    error = fails(Live(source, Session(seconds=0.002), [view], open_writer=writer))
    assert error.stage == "capture"
    assert isinstance(error.__cause__, SourceError)
    assert "capture" in str(error)
    assert "unplugged" in str(error)
    assert source.closed
    assert view.events == ["start", "stop"]
    assert writer.state in ("published", "not opened")
    assert len(writer.images) == len(view.shown)


@pytest.mark.parametrize("at", [0, 1, 7])
@pytest.mark.parametrize("make", [Session, ConcurrentSession], ids=["session", "in flight"])
def test_session_raises_at_frame_n(make, at):
    view, writer = Watcher(), Writer()
    source = PatternSource(SIZE, frames=20, live=False)
    error = fails(Live(source, make(fail_at=at), [view], open_writer=writer))
    assert error.stage == "infer"
    assert f"infer (frame {at}): fake: the device fell off" in str(error)
    assert isinstance(error.__cause__, BuildError)
    assert view.numbers == list(range(len(view.shown)))
    assert writer.state == ("published" if writer.images else "not opened")


def test_a_fault_of_ours_keeps_its_traceback_and_names_the_stage():
    live = Live(PatternSource(SIZE), Session(fail_at=1, error=ZeroDivisionError("bug")))
    error = fails(live, RuntimeError)
    assert "infer" in str(error)
    assert isinstance(error.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(("at", "seconds"), [(0, 0.0), (4, 0.0), (2, 0.1)], ids=["first", "later", "slow"])
def test_disk_fills_while_recording(at, seconds):
    """The slow one is behind: when it fails, a shown frame is waiting for its turn."""
    view, writer = Watcher(), Writer(fail_at=at, seconds=seconds)
    error = fails(Live(PatternSource(SIZE, fps=200), Session(), [view], open_writer=writer))
    assert error.stage == "record"
    assert isinstance(error.__cause__, OutputError)
    assert "No space left" in str(error)
    assert writer.state == "removed"


@pytest.mark.parametrize("where", ["start", "show", "notify", "stop"])
def test_a_view_fails(where):
    class Reporting(Script):
        def read(self):
            if where == "notify":
                self.report(trouble("lost"))
            return super().read()

    good, bad = Watcher(), Watcher(fail=where)
    source = Reporting(20, live=False)
    error = fails(
        Live(source, Session(), [good, bad]), StageError if where in ("show", "notify") else OutputError
    )
    assert f"the view failed in {where}" in str(error)
    assert good.events == ["start", "stop"]
    assert source.closed
    if where == "show":
        assert (error.stage, error.frame) == ("present", 2)
    if where == "notify":
        assert error.stage == "capture"


@pytest.mark.slow
def test_two_failures_report_the_first():
    class Late(Writer):
        def write(self, pixels, time_s):
            time.sleep(0.3)
            super().write(pixels, time_s)

    error = fails(Live(Script(2, 0.4, lost(), live=False), Session(), open_writer=Late(fail_at=1)))
    assert error.stage == "capture"


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.3], ids=["fast", "slow"])
@pytest.mark.parametrize("busy", ["capture", "infer", "present", "record"])
def test_stop_at_every_stage(busy, seconds):
    """Stopped while a stage waits or works: each thread ends in time, what was shown is in the recording."""
    started = threading.Event()

    class Slow(Watcher):
        def show(self, shown):
            super().show(shown)
            started.set()
            if busy == "present":
                time.sleep(seconds)

    view = Slow()
    writer = Writer(seconds=seconds if busy == "record" else 0.0)
    source = Script(3, 60.0, 100) if busy == "capture" else PatternSource(SIZE, fps=100)
    live = Live(source, Session(seconds=seconds if busy == "infer" else 0.0), [view], open_writer=writer)
    runner = threading.Thread(target=live.run)
    runner.start()
    assert started.wait(5)
    time.sleep(0.05)
    start = time.monotonic()
    live.stop()
    runner.join(JOIN_S + 1)
    assert not runner.is_alive()
    assert time.monotonic() - start < JOIN_S
    assert threads() == []
    assert live.stuck == ()
    assert writer.state == "published"
    assert len(writer.images) == len(view.shown)


def test_stop_before_the_first_frame():
    writer = Writer()
    live = Live(Script(60.0), Session(), open_writer=writer, seconds=0.1)
    live.run()
    assert writer.state == "not opened"
    assert threads() == []


def test_an_interrupt_in_the_calling_thread_joins_everything():
    """Ctrl-C of a program that uses the library and installs no handler."""

    class Interrupted(Watcher):
        poll_every_s = 0.01

        def poll(self):
            if self.shown:
                raise KeyboardInterrupt

    view, writer = Interrupted(), Writer()
    live = Live(PatternSource(SIZE), Session(), [view], open_writer=writer)
    with pytest.raises(KeyboardInterrupt):
        live.run()
    assert threads() == []
    assert view.events == ["start", "stop"]
    assert writer.state == "published"


@pytest.mark.slow
def test_a_call_that_never_returns_is_named_and_not_waited_for():
    hang = threading.Event()

    class Hung(Session):
        def _run(self, x_NCHW):
            hang.wait(20)
            return super()._run(x_NCHW)

    live = Live(PatternSource(SIZE), Hung(), seconds=0.1)
    start = time.monotonic()
    live.run()
    assert time.monotonic() - start < JOIN_S + 1
    assert live.stuck == ("infer",)
    assert lingering_threads(0) == ("hasn-edge infer",)
    hang.set()
    assert lingering_threads(2) == ()


@pytest.mark.slow
def test_a_camera_that_vanishes_for_a_while_is_reported_and_resumed():
    view, writer = Watcher(), Writer()
    source = Remote(sequence(Script(3, lost()), lost(), Script(3, 60.0)), "script", backoff_s=(0.02,))
    live = Live(source, Session(), [view], open_writer=writer, seconds=5)
    stopper = threading.Timer(0.6, live.stop)
    stopper.start()
    live.run()
    stopper.cancel()
    assert source.reconnects == 1
    told = [text for text in view.messages if text]
    assert "unplugged; trying again in 0.02 s (attempt 1)" in told[0]
    assert "(attempt 2)" in told[1]
    assert any(text is None for text in view.messages)
    assert writer.state == "published"
    assert live.stats.notices
    frames = live.stats.snapshot()["frames"]
    assert frames["captured"] == frames["shown"] + frames["dropped"]
