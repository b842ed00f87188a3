"""The next frame is prepared just in time, on a clock that the test turns."""

from __future__ import annotations

import threading
import time

from hasn_edge.live.pacing import Pacing


def waits(pacing: Pacing, seconds: float = 0.05) -> bool:
    """Whether the preparing thread would still wait now."""
    thread = threading.Thread(target=pacing.wait, daemon=True)
    thread.start()
    thread.join(seconds)
    waiting = thread.is_alive()
    if waiting:
        pacing.close()
        thread.join(2)
    return waiting


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def busy_pacing(clock: Clock, *, network: float, prepare: float, in_flight: int = 1) -> Pacing:
    """Return one whose network takes ``network`` seconds and has just begun with a frame."""
    pacing = Pacing(clock)
    for _ in range(30):
        pacing.ready(prepare)
        pacing.began(in_flight)
        clock.now += network
        pacing.ended()
    pacing.ready(prepare)
    pacing.began(in_flight)
    return pacing


def test_an_idle_network_gets_a_frame_at_once():
    assert not waits(Pacing())


def test_nothing_is_prepared_twice():
    pacing = Pacing()
    pacing.ready(0.001)
    assert waits(pacing)


def test_preparing_begins_shortly_before_the_network_is_free():
    clock = Clock()
    pacing = busy_pacing(clock, network=1.0, prepare=0.1)
    clock.now += 0.7
    assert waits(pacing)
    pacing = busy_pacing(clock, network=1.0, prepare=0.1)
    clock.now += 0.82  # 1 - 5 % - 1.5 * 0.1 - 2 ms
    assert not waits(pacing)


def test_free_executions_are_filled_at_once():
    assert not waits(busy_pacing(Clock(), network=1.0, prepare=0.1, in_flight=2))


def test_the_end_of_a_frame_wakes_the_preparing_thread():
    pacing = Pacing()
    pacing.ready(0.0)
    pacing.began(1)
    time.sleep(0.02)
    pacing.ended()
    pacing.ready(0.0)
    pacing.began(1)
    woken = threading.Event()
    threading.Thread(target=lambda: (pacing.wait(), woken.set()), daemon=True).start()
    pacing.ended()
    assert woken.wait(2)


def test_overlapping_frames_are_not_counted_twice():
    clock = Clock()
    pacing = Pacing(clock)
    for _ in range(2):
        pacing.ready(0.0)
        pacing.began(2)
    clock.now += 1.0
    assert pacing.ended() == 1.0
    clock.now += 0.5
    assert pacing.ended() == 0.5
