"""What a run counts and measures: drops, freshness, latency, why it ended, the self-test."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from hasn_edge.data.resize import imresize
from hasn_edge.errors import StageError
from hasn_edge.images.metrics import psnr_y
from hasn_edge.live.pipeline import Live
from hasn_edge.live.sources.frame_source import PatternSource
from hasn_edge.queues import LatestOnly
from tests.support.fake_session import FakeSession
from tests.support.live_rig import (
    SIZE,
    ConcurrentSession,
    Script,
    Session,
    Watcher,
    balanced,
    recording,
    stamps,
)


@pytest.mark.slow
def test_a_live_source_drops_what_a_slow_network_cannot_take():
    view = Watcher()
    stats = Live(PatternSource(SIZE, fps=100), Session(seconds=0.08), [view], seconds=1.2).run()
    snapshot = stats.snapshot()
    assert 3 <= snapshot["frames"]["shown"] <= 15
    assert snapshot["frames"]["drops"]["network busy"] > 20
    assert balanced(snapshot)
    assert view.numbers == sorted(set(view.numbers))
    assert snapshot["limit"]["stage"] == "infer"
    assert "use size=(24, 32), or choose a faster engine" in snapshot["limit"]["text"]


def test_what_the_end_cuts_off_is_counted_where_it_was():
    """Stopped while every stage is full: all that is neither shown nor dropped was in somebody's hands."""
    view = Watcher(stop_at=4)
    stats = Live(PatternSource(SIZE, live=False), ConcurrentSession(2, seconds=0.03), [view]).run()
    snapshot = stats.snapshot()
    assert balanced(snapshot)
    assert snapshot["frames"]["drops"]["end of run"] >= 2
    assert snapshot["ended"] == "stopped"


@pytest.mark.slow
@pytest.mark.parametrize("lose", ["mailbox", "computed", "shown"])
def test_a_frame_that_gets_lost_anywhere_is_missing_from_the_sum(monkeypatch, lose):
    """What the end of the run cuts off is counted where it was: nothing else is put down to it."""
    put = LatestOnly.put
    calls = itertools.count()

    def every_third(work, *arguments):
        return None if next(calls) % 3 == 2 else work(*arguments)

    if lose == "mailbox":
        monkeypatch.setattr(LatestOnly, "put", lambda *a: every_third(put, *a) is not False)
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


@pytest.mark.parametrize("live", [True, False])
def test_what_a_camera_lost_before_the_run_is_no_loss(live):
    """It was open while the engine was loading; the damaged first frames of a file are a loss."""

    class Early(Script):
        def read(self):
            self.dropped += 100 if self._pattern._next == 0 else 1
            return super().read()

    run, told = Live(Early(5, live=live), Session(), seconds=10), []
    count = run.stats.frame_captured
    run.stats.frame_captured = lambda seconds, lost: (told.append(lost), count(seconds, lost))
    frames = run.run().snapshot()["frames"]
    assert told == [0 if live else 100, 1, 1, 1, 1]
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


@pytest.mark.slow
def test_the_delay_does_not_grow():
    """The network takes the newest frame: what it gets is far younger than a frame's time in the network."""
    view = Watcher()
    Live(PatternSource(SIZE, fps=100), Session(seconds=0.1), [view], seconds=1.5).run()
    waited = [shown.stamps.started - shown.stamps.captured for shown in view.shown[2:]]
    assert len(waited) > 4
    assert np.median(waited) < 0.07
    assert min(waited[-3:]) < 0.07


@pytest.mark.slow
def test_the_latency_of_a_recording_is_not_how_far_it_is_read_ahead():
    """Frames wait where they do not age: each is prepared shortly before the network is free."""
    view = Watcher()
    live = Live(recording(7), Session(seconds=0.25), [view])
    snapshot = live.run().snapshot()
    assert snapshot["latency_begins"] == "prepare"
    stamps = [shown.stamps for shown in view.shown[3:]]
    assert all(one.queued_s > 0.25 for one in stamps), "read ahead, which is no latency"
    # Prepared as soon as the frame before was, it would wait for as long as the network takes.
    infer_s = np.median([one.computed - one.started for one in stamps])
    assert infer_s >= 0.25
    assert np.median([one.idle_s for one in stamps]) < 0.5 * infer_s
    assert snapshot["run"]["latency_ms"]["p50"] < 1e3 * np.median([one.made - one.captured for one in stamps])


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


def test_identical_images_have_no_figure():
    """One grey image: PSNR is infinite, which JSON does not know and a mean must leave out."""
    stats = Live(PatternSource((64, 64), frames=1, live=False), FakeSession(), self_test=True).run()
    from hasn_edge.live.frame import Frame, FrameQuality, UpscaledFrame

    pixels = np.zeros((16, 16, 3), np.uint8)
    shown = UpscaledFrame(
        frame=Frame(index=1, pixels=pixels, time_s=0.0, captured=0.0),
        upscaled=np.zeros((64, 64, 3), np.uint8),
        scale=4,
        engine="e",
        stamps=stamps(0.0),
        quality=FrameQuality(hasn_db=np.inf, bicubic_db=40.0),
    )
    before = stats.snapshot()["quality"]
    stats.frame_shown(shown)
    after = stats.snapshot()["quality"]
    assert after["hasn_db"] is None
    assert after["hasn_mean_db"] == before["hasn_mean_db"]
    assert after["bicubic_mean_db"] == pytest.approx((before["bicubic_db"] + 40) / 2)
    json.dumps(stats.snapshot(), allow_nan=False)
