"""Handing frames over: newest or all, waking at once, never more memory."""

from __future__ import annotations

import threading
import time

import pytest

from hasn_edge.queues import BoundedQueue, Closed, LatestOnly, take_ahead


@pytest.fixture(params=[LatestOnly, BoundedQueue])
def exchange(request):
    return request.param()


def in_thread(function) -> tuple[threading.Thread, list]:
    """Run ``function`` in a thread; its result or exception is put into the list."""
    results: list = []

    def body():
        try:
            results.append(function())
        except Closed as exc:
            results.append(exc)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    time.sleep(0.05)  # let it get to where it waits
    return thread, results


def test_mailbox_keeps_the_newest_and_counts_the_others():
    box = LatestOnly()
    assert all(box.put(i) for i in range(5))
    assert box.get() == 4
    assert box.dropped == 4
    assert box.get(timeout=0) is None


def test_lane_keeps_all_in_order():
    lane = BoundedQueue(3)
    for i in range(3):
        lane.put(i)
    assert [lane.get() for _ in range(3)] == [0, 1, 2]
    assert lane.dropped == 0


def test_lane_waits_while_it_is_full_and_loses_nothing():
    lane = BoundedQueue(2)
    giver, _ = in_thread(lambda: [lane.put(i) for i in range(200)] and lane.finish())
    assert len(lane) == 2
    assert list(lane) == list(range(200))
    giver.join(2)


def test_finish_lets_what_is_here_be_taken(exchange):
    exchange.put("last")
    exchange.finish()
    assert exchange.put("too late") is False
    assert exchange.get() == "last"
    with pytest.raises(Closed):
        exchange.get()


def test_close_forgets_and_counts_what_is_here(exchange):
    exchange.put("kept by nobody")
    exchange.close()
    assert exchange.discarded == 1
    assert exchange.put("again") is False
    with pytest.raises(Closed):
        exchange.get()


@pytest.mark.parametrize("end", ["close", "finish"])
def test_a_waiting_taker_wakes_at_once(exchange, end):
    thread, results = in_thread(exchange.get)
    getattr(exchange, end)()
    thread.join(1)
    assert isinstance(results[0], Closed)


@pytest.mark.parametrize("end", ["close", "finish"])
def test_a_waiting_giver_wakes_at_once(end):
    lane = BoundedQueue(1)
    lane.put(0)
    thread, results = in_thread(lambda: lane.put(1))
    getattr(lane, end)()
    thread.join(1)
    assert results == [False]


def test_get_gives_up_after_its_time(exchange):
    assert exchange.get(timeout=0.01) is None


def test_work_is_begun_ahead_and_its_results_stay_in_order():
    begun = []
    results = take_ahead((begun.append(i) or i for i in range(5)), 2)
    assert next(results) == 0
    assert begun == [0, 1, 2]
    assert list(results) == [1, 2, 3, 4]


def test_a_lane_holds_something():
    with pytest.raises(ValueError, match="at least 1"):
        BoundedQueue(0)
