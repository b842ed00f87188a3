"""The next frame is prepared just in time, on a clock that the test turns."""

from __future__ import annotations

import threading
import time

from hasn_edge.live.pacing import Turn


def waits(turn: Turn, seconds: float = 0.05) -> bool:
    """Whether the preparing thread would still wait now."""
    thread = threading.Thread(target=turn.wait, daemon=True)
    thread.start()
    thread.join(seconds)
    waiting = thread.is_alive()
    if waiting:
        turn.close()
        thread.join(2)
    return waiting


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def busy_turn(clock: Clock, *, network: float, prepare: float, slots: int = 1) -> Turn:
    """Return one whose network takes ``network`` seconds and has just begun with a frame."""
    turn = Turn(clock)
    for _ in range(30):
        turn.ready(prepare)
        turn.began(slots)
        clock.now += network
        turn.ended()
    turn.ready(prepare)
    turn.began(slots)
    return turn


def test_an_idle_network_gets_a_frame_at_once():
    assert not waits(Turn())


def test_nothing_is_prepared_twice():
    turn = Turn()
    turn.ready(0.001)
    assert waits(turn)


def test_preparing_begins_shortly_before_the_network_is_free():
    clock = Clock()
    turn = busy_turn(clock, network=1.0, prepare=0.1)
    clock.now += 0.7
    assert waits(turn)
    turn = busy_turn(clock, network=1.0, prepare=0.1)
    clock.now += 0.82  # 1 - 5 % - 1.5 * 0.1 - 2 ms
    assert not waits(turn)


def test_free_slots_are_filled_at_once():
    assert not waits(busy_turn(Clock(), network=1.0, prepare=0.1, slots=2))


def test_the_end_of_a_frame_wakes_the_preparing_thread():
    turn = Turn()
    turn.ready(0.0)
    turn.began(1)
    time.sleep(0.02)
    turn.ended()
    turn.ready(0.0)
    turn.began(1)
    woken = threading.Event()
    threading.Thread(target=lambda: (turn.wait(), woken.set()), daemon=True).start()
    turn.ended()
    assert woken.wait(2)


def test_overlapping_frames_are_not_counted_twice():
    clock = Clock()
    turn = Turn(clock)
    for _ in range(2):
        turn.ready(0.0)
        turn.began(2)
    clock.now += 1.0
    assert turn.ended() == 1.0
    clock.now += 0.5
    assert turn.ended() == 0.5
