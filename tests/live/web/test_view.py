"""The web view over its real protocol: images, viewers that lag or vanish, and what they may say."""

from __future__ import annotations

import socket
import threading
import time

import cv2
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from hasn_edge.live.notices import trouble
from hasn_edge.live.pipeline import Live
from hasn_edge.live.sources.frame_source import PatternSource
from hasn_edge.live.stats import Stats
from hasn_edge.live.web.view import WebView
from tests.support.live_rig import Session
from tests.support.live_rig import threads as pipeline_threads
from tests.support.web_rig import Client, Deaf, FakeRun, port, serving, shown, until


def decoded(file: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_frames_reach_a_viewer_with_what_belongs_to_them():
    with serving() as (view, _), Client(view) as viewer:
        assert viewer.greeted()["engines"] == ["first", "second"]
        viewer.watch(compare=True, quality="best")
        frame = shown(7)
        view.show(frame)
        header, files = viewer.receive()
    assert (header.kind, header.index, header.engine, header.media) == (
        "frame",
        7,
        "first",
        "image/jpeg",
    )
    assert (header.width, header.height, header.scale) == (128, 96, 4)
    for file, pixels in zip(files, (frame.upscaled, frame.frame.bicubic(4)), strict=True):
        # Were the colours in OpenCV's order, the difference would be large.
        assert np.abs(decoded(file).astype(int) - pixels).mean() < 4


def test_bicubic_travels_only_when_it_is_seen():
    with serving() as (view, _), Client(view) as viewer:
        viewer.say("want", watch=True, compare=False)
        view.show(shown(0))
        assert len(viewer.receive()[1]) == 1
        viewer.say("want", watch=True, compare=True)
        header, files = viewer.receive()
    assert (header.index, len(files)) == (0, 2), "the same frame again, now with bicubic"


def test_a_viewer_gets_the_newest_frame_when_it_has_drawn_the_last():
    with serving() as (view, run), Client(view) as viewer:
        viewer.watch()
        for index in range(2):
            view.show(shown(index))
            assert viewer.receive()[0].index == index
        for index in range(2, 30):
            view.show(shown(index))
        assert viewer.nothing_for(0.3), "two are under way, more may not be"
        viewer.say("drawn", frame=1)
        assert viewer.receive()[0].index == 29
        until(lambda: [one.frame.index for one in run.seen] == [1])


def test_nothing_is_encoded_for_nobody():
    with serving() as (view, _):
        view.show(shown(0))
        with Client(view) as viewer:
            viewer.watch(watch=False)
            for index in range(5):
                view.show(shown(index))
            assert viewer.nothing_for(0.2)
            assert view.server.encoder.encoded == 0


def test_five_viewers_cost_one_encoding():
    with serving() as (view, _):
        viewers = [Client(view) for _ in range(5)]
        for viewer in viewers:
            viewer.watch(compare=True)
        for index in range(3):
            view.show(shown(index))
            for viewer in viewers:
                header, files = viewer.receive()
                assert (header.index, len(files)) == (index, 2)
                viewer.say("drawn", frame=header.frame)
        assert view.server.encoder.encoded == 3 * 2
        viewers[0].say("want", watch=True, quality="light")
        assert viewers[0].receive()[0].index == 2
        assert view.server.encoder.encoded == 3 * 2 + 1
        assert viewers[4].next("stats", lambda note: note["viewers"] == 5)
        for viewer in viewers:
            viewer.socket.close()
        until(lambda: not view.server.viewers)


def test_a_still_is_lossless():
    with serving() as (view, _), Client(view) as viewer:
        viewer.say("want", watch=True)
        frame = shown(3)
        view.show(frame)
        number = viewer.receive()[0].frame
        viewer.say("drawn", frame=number)
        viewer.say("want", watch=False)
        viewer.say("still", frame=12345)
        refused = viewer.next("refused")
        assert (refused["about"], "gone" in refused["text"]) == ("still", True)
        view.show(shown(4))
        viewer.say("still", frame=number)
        header, files = viewer.receive()
        assert (header.kind, header.index) == ("still", 3)
        np.testing.assert_array_equal(decoded(files[0]), frame.upscaled)
        np.testing.assert_array_equal(decoded(files[1]), frame.frame.bicubic(4))


def test_images_that_waited_for_a_viewer_do_not_count_as_late():
    with serving() as (view, run):
        view.show(shown(0, age_s=60))
        with Client(view) as viewer:
            viewer.say("want", watch=True)
            viewer.say("drawn", frame=viewer.receive()[0].frame)
            view.show(shown(1))
            viewer.say("drawn", frame=viewer.receive()[0].frame)
            note = viewer.next("stats", lambda note: note["you"]["max"] is not None)
        assert [one.frame.index for one in run.seen] == [1]
        assert note["you"]["max"] < 60e3


def test_a_frame_is_displayed_once_however_many_draw_it():
    with serving() as (view, run), Client(view) as one, Client(view) as other:
        for viewer in (one, other):
            viewer.watch()
        view.show(shown(0))
        for viewer in (one, other):
            viewer.say("drawn", frame=viewer.receive()[0].frame)
            viewer.say("drawn", frame=99)  # never sent: no business of ours
        for viewer in (one, other):
            viewer.next("stats", lambda note: note["you"]["p50"] is not None)
        assert len(run.seen) == 1


def test_a_slow_viewer_s_rate_is_what_it_draws_not_what_is_shown():
    """Fifteen frames are handed over; the browser has drawn one in five, which is what its screen shows."""
    run = FakeRun()
    run.stats = Stats(source="test")
    with serving(run) as (view, _), Client(view) as viewer:
        viewer.watch()
        for index in range(15):
            frame = shown(index)
            view.show(frame)
            run.stats.frame_shown(frame)
            if index % 5 < 2:
                number = viewer.receive()[0].frame
            if index % 5 == 4:
                viewer.say("drawn", frame=number)
                drawn = index // 5 + 1
                until(lambda drawn=drawn: run.stats.snapshot()["frames"]["displayed"] == drawn)
                viewer.watch(watch=False)
                viewer.watch()
        snapshot = run.stats.snapshot()
    assert (snapshot["frames"]["shown"], snapshot["frames"]["displayed"]) == (15, 3)
    assert snapshot["run"]["fps_screen"] == pytest.approx(snapshot["run"]["fps_out"] / 5)


@pytest.mark.slow
def test_what_is_told_reaches_everybody_and_those_who_come_later():
    with serving() as (view, _), Client(view) as early:
        early.greeted()
        view.notify(trouble("camera lost; trying again in 2 s"))
        assert early.next("notice")["text"] == "camera lost; trying again in 2 s"
        with Client(view) as late:
            assert late.next("notice")["text"] == "camera lost; trying again in 2 s"
        view.notify(None)
        assert early.next("notice")["text"] is None
        until(lambda: len(view.server._history) >= 2)
        with Client(view) as late:
            assert len(late.greeted()["history"]) >= 2
            assert len(late.notes["welcome"]["history"][0]) == 6


def test_the_selector_reaches_the_run():
    with serving() as (view, run), Client(view) as viewer:
        viewer.say("select", engine="second")
        viewer.say("select", engine="third")
        refused = viewer.next("refused")
        assert (refused["about"], "no engine called 'third'" in refused["text"]) == ("select", True)
        assert run.selected == ["second"]


@pytest.mark.slow
def test_stop_says_goodbye_frees_the_port_and_leaves_no_thread():
    before = threading.active_count()
    with serving() as (view, _):
        place = port(view)
        polite, deaf = Client(view), Deaf(view)
        stranger = socket.create_connection(("127.0.0.1", place))  # says nothing at all
        polite.greeted()
        until(lambda: len(view.server.viewers) == 2)
        start = time.monotonic()
        view.stop()
        assert time.monotonic() - start < 2, "promised in the design, not a matter of speed"
        with pytest.raises(ConnectionClosed) as closed:
            polite.next("never")
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "The run has ended")
        stranger.close()
        deaf.vanish()
        polite.socket.close()
        view.show(shown(1))  # after the end nothing happens
        view.notify(trouble("late"))
    with socket.create_server(("127.0.0.1", place)):
        pass
    until(lambda: threading.active_count() <= before)
    assert not [name for name in pipeline_threads() if "web" in name]


@pytest.mark.slow
def test_a_real_run_is_not_slowed_by_viewers_and_changes_engines():
    view = WebView(port=0)
    source = PatternSource((24, 32), fps=100.0)
    live = Live(source, Session(), [view], name="one", engines={"two": Session})
    runner = threading.Thread(target=live.run)
    runner.start()
    until(lambda: view.addresses)
    deaf = Deaf(view)
    with Client(view) as good:
        good.say("want", watch=True, compare=True)
        engines = []
        for _ in range(20):
            header, _files = good.receive()
            engines.append(header.engine)
            good.say("drawn", frame=header.frame)
        assert set(engines) == {"one"}
        good.say("select", engine="two")
        while engines[-1] != "two":
            header, _files = good.receive()
            engines.append(header.engine)
            good.say("drawn", frame=header.frame)
        note = good.next("stats", lambda note: note["stats"]["engine"] == "two")
    assert note["stats"]["latency_ends"] == "screen"
    live.stop()
    runner.join(4)
    deaf.vanish()
    assert not runner.is_alive()
    assert live.stuck == ()
    # The pipeline showed what it computed, whether or not somebody drew it.
    frames = live.stats.snapshot()["frames"]
    assert frames["shown"] >= len(engines)


def test_it_is_watched_once_a_viewer_wants_images():
    with serving() as (view, _), Client(view) as viewer:
        viewer.watch(watch=False)
        assert not view.watched.is_set()
        viewer.watch()
        assert view.watched.is_set()
