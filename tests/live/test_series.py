"""Percentiles, rates and shares over time, against NumPy and on a clock that the test turns."""

from __future__ import annotations

import numpy as np
import pytest

from hasn_edge.live.series import Series
from tests.support.live_rig import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_percentiles_of_the_whole_run_against_numpy(clock):
    values = np.random.default_rng(0).lognormal(-3, 1.5, 20000)
    series = Series(clock)
    for value in values:
        clock.now += 0.01
        series.add(value)
    for q in (0.05, 0.5, 0.95, 0.999):
        assert series.quantile(q) == pytest.approx(np.quantile(values, q), rel=0.011)
    assert series.times(clock.now, recent=False)["max"] == 1e3 * values.max()


def test_percentiles_of_the_last_seconds_are_exact(clock):
    values = np.random.default_rng(1).random(1500)
    series = Series(clock)
    for value in values:
        clock.now += 1 / 64
        series.add(value)
    recent = values[-321:]  # five seconds, both ends included
    summary = series.times(clock.now, recent=True)
    assert summary["p50"] == pytest.approx(1e3 * np.quantile(recent, 0.5))
    assert summary["p95"] == pytest.approx(1e3 * np.quantile(recent, 0.95))


def test_memory_is_bounded(clock):
    series = Series(clock)
    for value in np.random.default_rng(2).lognormal(-3, 4, 50000):
        clock.now += 1e-4
        series.add(value)
    assert len(series._recent) <= 1024
    assert len(series._cells) < 3000


def test_nothing_is_no_figure(clock):
    series = Series(clock)
    nothing = {"p50": None, "p95": None, "max": None, "count": 0}
    assert series.times(clock.now, recent=True) == nothing
    assert series.times(clock.now, recent=False) == nothing
    assert series.rate(clock.now) is None
    assert series.busy(clock.now, None, clock.now, recent=True) == 0


def test_rate_follows_and_falls_when_nothing_comes(clock):
    series = Series(clock)
    for _ in range(100):
        clock.now += 0.04
        series.add(0.0)
    assert series.rate(clock.now) == pytest.approx(25)
    assert series.rate(clock.now + 5) < 13
    assert series.rate(clock.now + 60) < 0.1


def test_a_slow_machine_has_a_rate_too(clock):
    series = Series(clock)
    for _ in range(4):
        clock.now += 8
        series.add(7.0)
    assert series.rate(clock.now) == pytest.approx(1 / 8)
    assert series.busy(clock.now, None, 100, recent=True) == pytest.approx(21 / 23, abs=0.01)


def test_busy_counts_what_is_under_way(clock):
    series = Series(clock)
    begin = clock.now
    clock.now += 10
    assert series.busy(clock.now, clock.now - 9, begin, recent=True) == pytest.approx(1.0)
    assert series.busy(clock.now, clock.now - 9, begin, recent=False) == pytest.approx(0.9)


def test_a_slow_machine_has_figures_between_its_frames(clock):
    series = Series(clock)
    for _ in range(4):
        clock.now += 8
        series.add(7.0)
    assert series.times(clock.now + 7.9, recent=True)["p50"] == pytest.approx(7e3)
    assert series.times(clock.now + 17, recent=True)["p50"] is None
