"""The live pipeline when all goes well: order, drops, freshness, slots, self-test, engines, the figures."""

from __future__ import annotations

import itertools
import json
import time

import numpy as np
import pytest
from live_rig import SIZE, Script, Session, SlotSession, Watcher, Writer, stamps, threads

from hasn_edge.data.resize import imresize
from hasn_edge.errors import BuildError, InputError, StageError
from hasn_edge.metrics import psnr_y
from hasn_edge.runtime.fake import FakeSession
from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.spec import ModelSpec
from hasn_edge.video.exchange import Mailbox
from hasn_edge.video.live import Live
from hasn_edge.video.source import PatternSource


def recording(frames: int = 12) -> PatternSource:
    return PatternSource(SIZE, frames=frames, live=False)


def balanced(snapshot: dict) -> bool:
    frames = snapshot["frames"]
    return frames["captured"] == frames["shown"] + frames["dropped"] and frames["in_flight"] == 0


@pytest.mark.parametrize(
    "session",
    [Session, SlotSession, lambda: SlotSession(3), lambda: Upscaler(Session(), tile=32)],
    ids=["session", "two slots", "three slots", "tiles"],
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


def test_what_the_end_cuts_off_is_counted_where_it_was():
    """Stopped while every stage is full: all that is neither shown nor dropped was in somebody's hands."""
    view = Watcher(stop_at=4)
    stats = Live(PatternSource(SIZE, live=False), SlotSession(2, seconds=0.03), [view]).run()
    snapshot = stats.snapshot()
    assert balanced(snapshot)
    assert snapshot["frames"]["drops"]["end of run"] >= 2
    assert snapshot["ended"] == "stopped"


@pytest.mark.parametrize("live", [True, False])
def test_what_a_camera_lost_before_the_run_is_no_loss(live):
    """It was open while the engine was loading; the damaged first frames of a file are a loss."""

    class Early(Script):
        def read(self):
            self.dropped += 100 if self._pattern._next == 0 else 1
            return super().read()

    frames = Live(Early(5, live=live), Session(), seconds=10).run().snapshot()["frames"]
    lost = 5 if live else 105  # one at the read that told of the end
    assert frames["drops"]["source"] == lost
    assert frames["captured"] == 5 + lost


def test_why_it_ended_is_said():
    assert Live(recording(2), Session()).run().snapshot()["ended"] == "end of source"
    live = Live(PatternSource(SIZE), Session(), seconds=0.2)
    assert live.stats.snapshot()["ended"] is None
    assert live.run().snapshot()["ended"] == "time"
    failing = Live(recording(2), Session(fail_at=1))
    with pytest.raises(StageError):
        failing.run()
    assert failing.stats.snapshot()["ended"] == "error"


def test_the_latency_of_a_recording_is_not_how_far_it_is_read_ahead():
    """Some frames wait in front of the network, for most of the time between two of its results."""
    view = Watcher()
    live = Live(recording(8), Session(seconds=0.15), [view])
    snapshot = live.run().snapshot()
    assert snapshot["latency_begins"] == "turn"
    stamps = [shown.stamps for shown in view.shown[3:]]
    assert all(one.queued_s > 0.15 for one in stamps), "read ahead, which is no latency"
    # With the network's own 150 ms; prepared as soon as the frame before was, it would be 300.
    assert np.median([one.made - one.taken for one in stamps]) < 0.27
    run = snapshot["run"]
    assert run["stages_ms"]["infer"]["p50"] >= 150 * 0.99
    assert run["latency_ms"]["p50"] < 290


def test_a_live_source_drops_what_a_slow_network_cannot_take():
    view = Watcher()
    stats = Live(PatternSource(SIZE, fps=100), Session(seconds=0.08), [view], seconds=1.2).run()
    snapshot = stats.snapshot()
    assert 3 <= snapshot["frames"]["shown"] <= 15
    assert snapshot["frames"]["drops"]["network busy"] > 20
    assert balanced(snapshot)
    assert view.numbers == sorted(set(view.numbers))
    assert snapshot["limit"]["stage"] == "infer"
    assert "--size" in snapshot["limit"]["text"]


@pytest.mark.parametrize("lose", ["mailbox", "computed", "shown"])
def test_a_frame_that_gets_lost_anywhere_is_missing_from_the_sum(monkeypatch, lose):
    """What the end of the run cuts off is counted where it was: nothing else is put down to it."""
    put = Mailbox.put
    calls = itertools.count()

    def every_third(work, *arguments):
        return None if next(calls) % 3 == 2 else work(*arguments)

    if lose == "mailbox":
        monkeypatch.setattr(Mailbox, "put", lambda *a: every_third(put, *a) is not False)
    live = Live(PatternSource(SIZE, fps=100), Session(seconds=0.02), seconds=0.6)
    if lose == "computed":
        give = live._stages._computed.put
        monkeypatch.setattr(live._stages._computed, "put", lambda *a: every_third(give, *a) is not False)
    if lose == "shown":
        shown = live.stats.frame_shown
        monkeypatch.setattr(live.stats, "frame_shown", lambda *a: every_third(shown, *a))
    snapshot = live.run().snapshot()
    assert snapshot["frames"]["shown"] > 3
    assert not balanced(snapshot)
    assert snapshot["frames"]["in_flight"] >= 3


def test_the_delay_does_not_grow():
    """The network takes the newest frame: what it gets is far younger than a frame's time in the network."""
    view = Watcher()
    Live(PatternSource(SIZE, fps=100), Session(seconds=0.1), [view], seconds=1.5).run()
    waited = [shown.stamps.started - shown.stamps.captured for shown in view.shown[2:]]
    assert len(waited) > 4
    assert np.median(waited) < 0.07
    assert min(waited[-3:]) < 0.07


def test_slots_are_filled_by_one_thread():
    session = SlotSession(2, seconds=0.01)
    view = Watcher()
    Live(recording(20), session, [view]).run()
    assert session.most == 2
    assert session.threads == {"hasn-edge infer"}
    assert view.numbers == list(range(20))


def test_slots_of_a_live_source_do_not_hold_frames_back():
    """With nothing behind it in the queue, a computed frame is shown without waiting for the next one."""
    view = Watcher()
    Live(PatternSource(SIZE, fps=5), SlotSession(2), [view], seconds=1.1).run()
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


def test_self_test_measures_the_network_and_bicubic():
    view = Watcher()
    stats = Live(PatternSource((96, 128), frames=3, live=False), FakeSession(), [view], self_test=True).run()
    for shown in view.shown:
        truth = shown.frame.truth
        assert truth.shape == (96, 128, 3)
        np.testing.assert_array_equal(shown.frame.pixels, imresize(truth, scale=0.25))
        assert shown.quality.hasn_db == psnr_y(shown.upscaled, truth, border=4)
        assert shown.quality.bicubic_db == psnr_y(imresize(shown.frame.pixels, scale=4.0), truth, border=4)
        assert shown.quality.bicubic_db > shown.quality.hasn_db  # nearest-neighbour is worse
    quality = stats.snapshot()["quality"]
    assert quality["frames"] == 3
    assert quality["hasn_mean_db"] == pytest.approx(np.mean([s.quality.hasn_db for s in view.shown]))
    assert any("PSNR-Y" in line for line in stats.overlay())


def test_self_test_cuts_what_is_no_multiple_of_the_scale():
    view = Watcher()
    Live(PatternSource((67, 90), frames=1, live=False), FakeSession(), [view], self_test=True).run()
    assert view.shown[0].frame.truth.shape == (64, 88, 3)


def test_identical_pictures_have_no_figure():
    """One grey picture: PSNR is infinite, which JSON does not know and a mean must leave out."""
    stats = Live(PatternSource((64, 64), frames=1, live=False), FakeSession(), self_test=True).run()
    from hasn_edge.video.frame import Frame, Quality, Shown

    pixels = np.zeros((16, 16, 3), np.uint8)
    shown = Shown(
        frame=Frame(index=1, pixels=pixels, time_s=0.0, captured=0.0),
        upscaled=np.zeros((64, 64, 3), np.uint8),
        scale=4,
        engine="e",
        stamps=stamps(0.0),
        quality=Quality(hasn_db=np.inf, bicubic_db=40.0),
    )
    before = stats.snapshot()["quality"]
    stats.frame_shown(shown)
    after = stats.snapshot()["quality"]
    assert after["hasn_db"] is None
    assert after["hasn_mean_db"] == before["hasn_mean_db"]
    assert after["bicubic_mean_db"] == pytest.approx((before["bicubic_db"] + 40) / 2)
    json.dumps(stats.snapshot(), allow_nan=False)


def test_recording_gets_every_shown_frame_in_its_own_thread():
    view, writer = Watcher(), Writer()
    live = Live(recording(), FakeSession(), [view], open_writer=writer)
    stats = live.run()
    assert writer.state == "published"
    assert writer.size == (192, 256)
    assert live.recorded == len(writer.pictures) == 12
    for shown, picture in zip(view.shown, writer.pictures, strict=True):
        np.testing.assert_array_equal(shown.upscaled, picture)
    np.testing.assert_allclose(writer.times, np.arange(12) / 30, atol=1e-9)
    assert writer.threads == {"hasn-edge record"}
    assert stats.snapshot()["run"]["stages_ms"]["record"]["p50"] is not None


def test_a_live_recording_has_the_times_of_capture():
    view, writer = Watcher(), Writer()
    Live(PatternSource(SIZE, fps=20), FakeSession(), [view], open_writer=writer, seconds=0.5).run()
    captured = np.array([shown.frame.captured for shown in view.shown])
    np.testing.assert_allclose(writer.times, captured - captured[0], atol=2e-3)


def test_a_slow_encoder_is_named_and_loses_nothing():
    writer, view = Writer(seconds=0.05), Watcher()
    stats = Live(PatternSource(SIZE, fps=100), FakeSession(), [view], open_writer=writer, seconds=1.0).run()
    assert len(writer.pictures) == len(view.shown)
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


def test_engines_are_changed_while_frames_keep_coming():
    opened: list[Session] = []

    def another() -> Session:
        time.sleep(0.1)
        opened.append(Session(seconds=0.001))
        return opened[-1]

    class Chooser(Watcher):
        def show(self, shown):
            super().show(shown)
            if len(self.shown) == 3:
                self._live.select("other")
            if shown.engine == "other" and self.shown[-2].engine == "other":
                self._live.stop()

    first, view = Session(), Chooser()
    live = Live(
        PatternSource(SIZE, fps=100), first, [view], name="first", engines={"other": another}, seconds=5
    )
    live.run()
    assert live.engines == ("other", "first")
    assert live.engine == "other"
    names = [shown.engine for shown in view.shown]
    assert names == sorted(names, key=["first", "other"].index)
    assert names.count("first") > 5, "frames went on while the other one was opened"
    assert "opening other" in view.messages
    assert view.messages[-1] is None
    assert opened[0].closed
    assert not first.closed


def test_going_back_to_the_first_engine_closes_the_other_and_opens_nothing():
    opened: list[Session] = []

    class Chooser(Watcher):
        def show(self, shown):
            super().show(shown)
            if len(self.shown) == 3:
                self._live.select("other")
            if shown.engine == "other" and self.shown[-2].engine != "other":
                self._live.select("first")
            if shown.engine == "first" and "other" in [before.engine for before in self.shown]:
                self._live.stop()

    def other() -> Session:
        opened.append(Session())
        return opened[-1]

    first, view = Session(), Chooser()
    engines = {"other": other, "first": lambda: pytest.fail("opened again")}
    live = Live(PatternSource(SIZE, fps=100), first, [view], name="first", engines=engines, seconds=5)
    live.run()
    assert [session.closed for session in opened] == [True]
    assert not first.closed
    names = [shown.engine for shown in view.shown]
    assert names[0] == names[-1] == "first"
    assert "other" in names


def test_an_engine_that_cannot_be_opened_is_reported_and_the_old_one_goes_on():
    def broken() -> Session:
        raise BuildError("broken.engine: made for another GPU")

    class Chooser(Watcher):
        def show(self, shown):
            super().show(shown)
            if len(self.shown) == 2:
                self._live.select("broken")

    view = Chooser()
    live = Live(PatternSource(SIZE, fps=50), FakeSession(), [view], engines={"broken": broken}, seconds=0.5)
    live.run()
    assert "made for another GPU" in view.messages[-1]
    assert {shown.engine for shown in view.shown} == {"engine"}
    assert len(view.shown) > 10


def test_an_engine_of_another_scale_is_refused():
    view = Watcher()
    live = Live(
        PatternSource(SIZE, fps=50),
        FakeSession(),
        [view],
        engines={"x2": lambda: FakeSession(ModelSpec(scale=2))},
        seconds=0.4,
    )
    live.select("x2")
    live.run()
    assert live.engine == "engine"
    assert any("enlarges 2 times" in text for text in live.stats.notices)


def test_only_engines_that_exist_can_be_selected():
    live = Live(recording(1), FakeSession())
    with pytest.raises(InputError, match="no engine called 'x'; choose one of engine"):
        live.select("x")
    live.run()


def test_several_views_are_all_served():
    views = [Watcher(), Watcher()]
    Live(recording(5), FakeSession(), views).run()
    assert views[0].numbers == views[1].numbers == [0, 1, 2, 3, 4]


def test_a_view_is_polled_in_the_thread_that_runs():
    import threading

    class Polled(Watcher):
        poll_every_s = 0.02
        polled: tuple[str, ...] = ()

        def poll(self):
            self.polled = (*self.polled, threading.current_thread().name)

    view = Polled()
    Live(PatternSource(SIZE), FakeSession(), [view], seconds=0.4).run()
    assert set(view.polled) == {threading.current_thread().name}
    assert len(view.polled) > 5
