"""The live pipeline when all goes well: order, frames in flight, sizes, recording, views."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest

from hasn_edge.live.pipeline import Live
from hasn_edge.live.sources.frame_source import PatternSource
from hasn_edge.runtime.upscaler import Upscaler
from tests.support.fake_session import FakeSession
from tests.support.live_rig import SIZE, ConcurrentSession, Session, Watcher, Writer, recording, threads


@pytest.mark.parametrize(
    "session",
    [Session, ConcurrentSession, lambda: ConcurrentSession(3), lambda: Upscaler(Session(), tile=32)],
    ids=["session", "two in flight", "three in flight", "tiles"],
)
def test_a_recording_loses_no_frame_and_keeps_the_order(session):
    view = Watcher()
    stats = Live(recording(), session(), [view]).run()
    assert view.numbers == list(range(12))
    assert view.events == ["start", "stop"]
    snapshot = stats.snapshot()
    assert snapshot["frames"] == {
        "captured": 12,
        "shown": 12,
        "displayed": None,
        "dropped": 0,
        "in_flight": 0,
        "drops": {"network busy": 0, "source": 0, "end of run": 0},
    }
    assert threads() == []


def test_what_is_shown_is_what_the_session_computes():
    view = Watcher()
    Live(recording(2), FakeSession(), [view]).run()
    for shown in view.shown:
        expected = np.repeat(np.repeat(shown.frame.pixels, 4, axis=0), 4, axis=1)
        np.testing.assert_array_equal(shown.upscaled, expected)
        passed = list(vars(shown.stamps).values())
        assert passed[0] == shown.frame.captured
        assert passed == sorted(passed)


def test_executions_are_filled_by_one_thread():
    session = ConcurrentSession(2, seconds=0.01)
    view = Watcher()
    Live(recording(20), session, [view]).run()
    assert session.most == 2
    assert session.threads == {"hasn-edge infer"}
    assert view.numbers == list(range(20))


@pytest.mark.slow
def test_executions_of_a_live_source_do_not_hold_frames_back():
    """With nothing behind it in the queue, a computed frame is shown without waiting for the next one."""
    view = Watcher()
    Live(PatternSource(SIZE, fps=5), ConcurrentSession(2), [view], seconds=1.1).run()
    assert len(view.shown) >= 5
    assert all(shown.stamps.computed - shown.stamps.captured < 0.15 for shown in view.shown)


def test_frames_are_fitted_to_the_size_that_was_asked_for():
    view = Watcher()
    Live(recording(2), FakeSession(), [view], size=(20, 40)).run()
    assert view.shown[0].frame.pixels.shape == (20, 40, 3)
    assert view.shown[0].upscaled.shape == (80, 160, 3)


def test_a_static_size_that_differs_goes_through_tiles():
    view = Watcher()
    Live(recording(2), FakeSession(size=(32, 32)), [view]).run()
    assert view.shown[0].upscaled.shape == (SIZE[0] * 4, SIZE[1] * 4, 3)
    assert view.numbers == [0, 1]


def test_recording_gets_every_shown_frame_in_its_own_thread():
    view, writer = Watcher(), Writer()
    live = Live(recording(), FakeSession(), [view], open_writer=writer)
    stats = live.run()
    assert writer.state == "published"
    assert writer.size == (192, 256)
    assert live.recorded == len(writer.images) == 12
    for shown, image in zip(view.shown, writer.images, strict=True):
        np.testing.assert_array_equal(shown.upscaled, image)
    np.testing.assert_allclose(writer.times, np.arange(12) / 30, atol=1e-9)
    assert writer.threads == {"hasn-edge record"}
    assert stats.snapshot()["run"]["stages_ms"]["record"]["p50"] is not None


def test_a_live_recording_has_the_times_of_capture():
    view, writer = Watcher(), Writer()
    Live(PatternSource(SIZE, fps=20), FakeSession(), [view], open_writer=writer, seconds=0.5).run()
    captured = np.array([shown.frame.captured for shown in view.shown])
    np.testing.assert_allclose(writer.times, captured - captured[0], atol=2e-3)


@pytest.mark.slow
def test_a_slow_encoder_is_named_and_loses_nothing():
    writer, view = Writer(seconds=0.05), Watcher()
    stats = Live(PatternSource(SIZE, fps=100), FakeSession(), [view], open_writer=writer, seconds=1.0).run()
    assert len(writer.images) == len(view.shown)
    assert stats.snapshot()["limit"]["stage"] == "record"


def test_a_source_without_frames_ends_without_a_file():
    writer = Writer()
    stats = Live(recording(0), FakeSession(), open_writer=writer).run()
    assert writer.state == "not opened"
    assert stats.snapshot()["frames"]["captured"] == 0
    json.dumps(stats.snapshot(), allow_nan=False)
    assert stats.overlay()[0] == "engine"


def test_a_view_can_stop_the_run():
    view = Watcher(stop_at=3)
    start = time.monotonic()
    Live(PatternSource(SIZE), FakeSession(), [view]).run()
    assert time.monotonic() - start < 3
    assert threads() == []


def test_several_views_are_all_served():
    views = [Watcher(), Watcher()]
    Live(recording(5), FakeSession(), views).run()
    assert views[0].numbers == views[1].numbers == [0, 1, 2, 3, 4]


def test_a_view_is_polled_in_the_thread_that_runs():

    class Polled(Watcher):
        poll_every_s = 0.02
        polled: tuple[str, ...] = ()

        def poll(self):
            self.polled = (*self.polled, threading.current_thread().name)

    view = Polled()
    Live(PatternSource(SIZE), FakeSession(), [view], seconds=0.4).run()
    assert set(view.polled) == {threading.current_thread().name}
    assert len(view.polled) > 5


def audience() -> Watcher:
    """Return a view that knows whether somebody watches."""
    view = Watcher()
    view.watched = threading.Event()
    return view


def test_a_recording_waits_for_whoever_is_to_see_it():
    view = audience()
    live = Live(recording(), Session(), [view], wait_for_viewer=True)
    run = threading.Thread(target=live.run)
    run.start()
    run.join(0.3)
    assert (live.stats.snapshot()["frames"]["captured"], run.is_alive()) == (0, True)
    view.watched.set()
    run.join(20)
    assert view.numbers == list(range(12))
    assert live.stats.snapshot()["ended"] == "end of source"
    assert live.stats.snapshot()["seconds"] < 20


@pytest.mark.parametrize(("seconds", "why"), [(0.2, "time"), (None, "stopped")])
def test_waiting_for_a_viewer_ends_like_the_run(seconds, why):
    view = audience()
    live = Live(recording(), Session(), [view], wait_for_viewer=True, seconds=seconds)
    if seconds is None:
        threading.Timer(0.2, live.stop).start()
    snapshot = live.run().snapshot()
    assert (snapshot["ended"], snapshot["frames"]["captured"]) == (why, 0)
    assert view.events == ["start", "stop"]
    assert threads() == []
