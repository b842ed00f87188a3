"""Sources that hang, vanish and come back."""

from __future__ import annotations

import threading
import time

import pytest

from hasn_edge.errors import SourceError
from hasn_edge.live.pipeline import lingering_threads
from hasn_edge.live.sources.remote import HANGING, Remote
from tests.support.live_rig import SIZE, Script, lost, sequence


def test_what_cannot_be_opened_is_an_error_at_once():
    with pytest.raises(SourceError, match="unplugged"):
        Remote(sequence(lost()), "camera")
    assert lingering_threads(1) == ()


def test_what_does_not_answer_is_an_error_after_its_time():
    hang = threading.Event()

    def open_():
        hang.wait(10)
        return Script(1)

    start = time.monotonic()
    with pytest.raises(SourceError, match=r"camera: no answer within 0.1 s; check the address"):
        Remote(open_, "camera", open_s=0.1)
    assert time.monotonic() - start < 2
    hang.set()


def test_the_opened_source_is_described():
    with Remote(sequence(Script(1)), "camera") as source:
        assert (source.live, source.size, source.name) == (True, SIZE, "camera")


def test_a_recording_over_the_network_loses_nothing_and_ends():
    with Remote(sequence(Script(50, live=False)), "http://x/clip.mp4") as source:
        time.sleep(0.1)
        indices = []
        while (frame := source.read()) is not None:
            indices.append(frame.index)
    assert indices == list(range(50))


def test_a_recording_that_breaks_off_is_an_error():
    with Remote(sequence(Script(5, lost(), live=False)), "http://x/clip.mp4") as source:
        for _ in range(5):
            source.read()
        with pytest.raises(SourceError, match=r"unplugged; it was lost at frame 5; start again"):
            source.read()


def test_unread_frames_of_a_camera_count_as_dropped():
    with Remote(sequence(Script(10, 5.0)), "camera") as source:
        time.sleep(0.2)
        frame = source.read()
        assert frame.index == 9
        assert source.dropped == 9


@pytest.mark.parametrize("end", ["stall", "lost", "end of stream"])
def test_a_camera_comes_back(end):
    steps = {"stall": (2, 60.0), "lost": (2, lost()), "end of stream": (2,)}[end]
    told: list[str | None] = []
    first = Script(*steps)
    with Remote(
        sequence(first, lost(), Script(*[1, 0.05] * 5, 60.0)), "cam", stall_s=0.15, backoff_s=(0.01, 0.02)
    ) as s:
        s.report = lambda notice: told.append(notice and notice.text)
        numbers = [s.read().index for _ in range(4)]
        # A hung camera's thread is given up; the one that ended by itself has closed its source.
        assert end == "stall" or first.closed
    assert numbers == sorted(set(numbers))
    assert s.reconnects == 1
    wanted = {"stall": "no frame for 0.15 s", "lost": "unplugged", "end of stream": "the stream ended"}[end]
    assert wanted in told[0]
    assert "trying again in 0.01 s (attempt 1)" in told[0]
    assert "trying again in 0.02 s (attempt 2)" in told[1]
    assert told[2] is None


def test_a_stream_that_returns_with_other_images_is_described_anew():
    first, second = Script(1, lost()), Script(1, 60.0)
    first.aspect, second.aspect = 16 / 11, 1.0
    second.size, second.fps = (48, 80), 50.0
    with Remote(sequence(first, second), "cam", backoff_s=(0.01,)) as source:
        source.read()
        assert (source.size, source.aspect) == (SIZE, 16 / 11)
        source.read()
        assert (source.size, source.fps, source.aspect) == ((48, 80), 50.0, 1.0)


def test_the_last_image_before_an_end_is_shown():
    """What ends right after an image has shown it all the same: nothing is put in its place."""
    for _ in range(20):
        first = Script(1, lost())
        with Remote(sequence(first, Script(1, 60.0)), "cam", backoff_s=(0.01,)) as source:
            while not first.closed:
                time.sleep(0.001)
            assert [source.read().index, source.read().index] == [0, 1]
            assert source.dropped == 0


def test_counters_hold_over_several_reconnects():
    """Images are lost in every connection; some attempts fail in between."""
    steps = (Script(3, lost()), lost(), Script(3, lost()), lost(), lost(), Script(3, lost()))

    found = []
    with Remote(sequence(*steps), "cam", backoff_s=(0.01,)) as source:
        while source.reconnects < 2:
            frame = source.read()
            found.append((frame.index, source.dropped))
    indices = [index for index, _ in found]
    assert indices == sorted(set(indices))
    assert all(index == place + dropped for place, (index, dropped) in enumerate(found))
    assert [dropped for _, dropped in found] == sorted(dropped for _, dropped in found)


def test_attempts_that_hang_do_not_pile_up():
    release = threading.Event()
    opened: list[str] = []
    told: list[str | None] = []

    def open_():
        opened.append("open")
        if len(opened) == 1:
            return Script(lost())
        release.wait(20)
        return Script(*[1, 0.02] * 20, 60.0)

    source = Remote(open_, "cam", open_s=0.02, stall_s=0.02, backoff_s=(0.01,))
    source.report = lambda notice: told.append(notice and notice.text)
    frames: list = []
    reader = threading.Thread(target=lambda: frames.append(source.read()))
    reader.start()
    deadline = time.monotonic() + 30
    while not any(text and f"{HANGING} earlier attempts" in text for text in told):
        assert time.monotonic() < deadline, told
        time.sleep(0.005)
    time.sleep(0.1)
    assert len(opened) == 1 + HANGING
    release.set()
    reader.join(10)
    assert frames[0] is not None
    source.close()


def test_close_wakes_a_read_in_every_state():
    """Waiting for a frame; waiting out a pause; waiting for an opening that hangs."""
    hang = threading.Event()
    calls: list[str] = []

    def lost_then_hung():
        calls.append("open")
        if len(calls) > 1:
            hang.wait(10)
        return Script(lost())

    openers = {
        "frame": sequence(Script(60.0)),
        "pause": sequence(Script(lost()), lost()),
        "opening": lost_then_hung,
    }
    for state, open_ in openers.items():
        backoff = (30.0,) if state == "pause" else (0.01,)
        source = Remote(open_, "camera", backoff_s=backoff)
        results: list = []
        reader = threading.Thread(target=lambda source=source, results=results: results.append(source.read()))
        reader.start()
        time.sleep(0.15)
        start = time.monotonic()
        source.close()
        reader.join(2)
        assert results == [None], state
        assert time.monotonic() - start < 1, state
    hang.set()


def test_a_connection_that_is_given_up_is_closed_and_ends_when_it_can():
    release = threading.Event()

    class Hung(Script):
        def read(self):
            release.wait(10)

    hung = Hung()
    source = Remote(sequence(hung), "camera", stall_s=0.05)
    source.close()
    assert hung.closed
    assert "hasn-edge connection" in lingering_threads(0)
    release.set()
    assert lingering_threads(2) == ()
