"""Statistics of samples, and timing of calls and sessions."""

from __future__ import annotations

import numpy as np
import pytest

from hasn_edge.evaluation.latency import Latency, Round, latency_of, noise_frame, time_session
from hasn_edge.spec import ModelSpec
from tests.support.fake_session import FakeSession


def test_quantiles_are_numpys():
    taken = np.random.default_rng(0).random(101)
    latency = Latency(rounds=(tuple(taken[:40]), tuple(taken[40:])))
    for q in (0.5, 0.9, 0.99):
        assert latency.quantile_ms(q) == pytest.approx(np.percentile(taken, 100 * q) * 1e3)
    assert latency.fps == pytest.approx(1 / np.median(taken))


def test_a_machine_that_slows_down_half_way_slows_both():
    fast, slow = (Latency(rounds=((t, t), (3 * t, 3 * t, 3 * t))) for t in (0.1, 0.2))
    assert slow.times(fast) == pytest.approx(2)
    uneven = Latency(rounds=((0.2, 0.2, 0.2, 0.2), (0.6,)))  # more samples while the machine was quick
    assert uneven.times(fast) == pytest.approx(2)
    assert uneven.median_ms / fast.median_ms < 1


def test_rounds_become_durations():
    rounds = [Round(total=(1.0, 3.0), gpu=(0.5, 0.6)), Round(total=(5.0,))]
    assert latency_of(rounds).seconds == (1, 3, 5)
    assert latency_of(rounds, "gpu") is None, "one round does not have it"
    assert latency_of([]) is None
    assert latency_of(rounds).std_ms == pytest.approx(2000)
    assert latency_of(rounds).tenths_ms is None
    steady = Latency(rounds=(tuple(range(1, 101)),))
    assert steady.tenths_ms == (5500, 95500)


def test_a_session_is_timed_until_there_are_samples_enough():
    session, between = FakeSession(ModelSpec(features=8, blocks=1)), []
    found = time_session(
        session,
        np.zeros((1, 3, 16, 16), np.float32),
        at_least=4,
        seconds=0,
        between=lambda: between.append(len(session.calls)),
    )
    assert len(found.total) == len(session.calls) == 4
    assert between == [1, 2, 3, 4]
    assert found.gpu == found.enqueue == found.transfers == ()


def test_pixels_are_timed_as_pixels():
    session = FakeSession(ModelSpec())
    floats = noise_frame(session, (2, 3, 20, 30))
    assert (floats.dtype, floats.shape) == (np.float32, (2, 3, 20, 30))
    session.pixels = True
    levels = noise_frame(session, (2, 3, 20, 30))
    assert (levels.dtype, levels.shape, levels.min(), levels.max()) == (np.uint8, (2, 20, 30, 3), 0, 255)
