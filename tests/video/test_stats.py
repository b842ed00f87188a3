"""The figures: percentiles against NumPy, rates and shares on a clock that the test turns."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hasn_edge.video.frame import Frame, Quality, Shown, Stamps
from hasn_edge.video.series import Series
from hasn_edge.video.stats import SOURCE, Stats
from hasn_edge.video.summary import rows


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def shown(clock: Clock, *, age: float = 0.0, quality: Quality | None = None) -> Shown:
    captured = clock.now - age
    return Shown(
        frame=Frame(index=0, pixels=np.zeros((16, 32, 3), np.uint8), time_s=None, captured=captured),
        upscaled=np.zeros((64, 128, 3), np.uint8),
        scale=4,
        engine="fp16",
        stamps=Stamps(captured=captured, taken=captured, started=captured, computed=clock.now),
        quality=quality,
    )


def test_percentiles_of_the_whole_run_against_numpy(clock):
    values = np.random.default_rng(0).lognormal(-3, 1.5, 20000)
    series = Series(clock)
    for value in values:
        clock.now += 0.01
        series.add(value)
    for q in (0.05, 0.5, 0.95, 0.999):
        assert series.quantile(q) == pytest.approx(np.quantile(values, q), rel=0.011)
    assert series.summary(clock.now, recent=False)["max"] == values.max()


def test_percentiles_of_the_last_seconds_are_exact(clock):
    values = np.random.default_rng(1).random(1500)
    series = Series(clock)
    for value in values:
        clock.now += 1 / 64
        series.add(value)
    recent = values[-321:]  # five seconds, both ends included
    summary = series.summary(clock.now, recent=True)
    assert summary["p50"] == pytest.approx(np.quantile(recent, 0.5))
    assert summary["p95"] == pytest.approx(np.quantile(recent, 0.95))


def test_memory_is_bounded(clock):
    series = Series(clock)
    for value in np.random.default_rng(2).lognormal(-3, 4, 50000):
        clock.now += 1e-4
        series.add(value)
    assert len(series._recent) <= 1024
    assert len(series._cells) < 3000


def test_nothing_is_no_figure(clock):
    series = Series(clock)
    assert series.summary(clock.now, recent=True) == {"p50": None, "p95": None, "max": None}
    assert series.summary(clock.now, recent=False) == {"p50": None, "p95": None, "max": None}
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


def test_snapshot_of_a_run(clock):
    stats = Stats(source="cam", live=True, clock=clock)
    stats.drops = lambda: {"network busy": 3, SOURCE: 2}
    for i in range(10):
        stats.began("infer")
        clock.now += 0.03
        stats.ended("infer")
        clock.now += 0.07
        stats.frame_captured(0.01)
        if i < 5:
            stats.frame_shown(shown(clock, age=0.1 + 0.01 * i))
    values = stats.snapshot()
    assert values["frames"] == {
        "captured": 12,
        "shown": 5,
        "dropped": 5,
        "in_flight": 2,
        "drops": {"network busy": 3, SOURCE: 2},
    }
    assert values["run"]["fps_out"] == pytest.approx(5)
    assert values["run"]["latency_ms"]["p50"] == pytest.approx(120, rel=0.011)
    assert values["now"]["latency_ms"]["p50"] == pytest.approx(120)
    assert values["now"]["latency_ms"]["p95"] == pytest.approx(138)
    assert values["run"]["stages_ms"]["infer"]["p95"] == pytest.approx(30, rel=0.011)
    assert values["run"]["busy"]["infer"] == pytest.approx(0.3)
    assert values["limit"]["stage"] == "capture"
    assert values["input"] == [16, 32]
    assert values["output"] == [64, 128]
    assert values["latency_ends"] == "view"
    json.dumps(values, allow_nan=False)


def test_the_busiest_stage_limits(clock):
    stats = Stats(clock=clock)
    for _ in range(20):
        with stats.busy("infer"):
            clock.now += 0.02
        with stats.busy("present"):
            clock.now += 0.2
        stats.frame_shown(shown(clock))
    limit = stats.snapshot()["limit"]
    assert limit["stage"] == "present"
    assert limit["text"].startswith("showing the frames (91% busy): ")


def test_a_view_that_knows_the_screen_ends_the_latency(clock):
    stats = Stats(clock=clock)
    stats.frame_shown(shown(clock, age=0.1))
    clock.now += 1
    late = shown(clock, age=0.5)
    stats.frame_shown(late)
    clock.now += 0.25
    stats.displayed(late)
    values = stats.snapshot()
    assert values["latency_ends"] == "screen"
    assert values["run"]["latency_ms"]["p50"] == pytest.approx(750, rel=0.011)


def test_rates_stop_when_the_run_ends(clock):
    stats = Stats(clock=clock)
    stats.frame_captured(0.1)
    clock.now += 2
    stats.end()
    before = stats.snapshot()
    clock.now += 100
    assert stats.snapshot() == before
    assert before["seconds"] == pytest.approx(2)


def test_notices_are_kept_once_each():
    stats = Stats()
    for text in ("lost", None, "lost", "opening fp16", None):
        stats.report(text)
    assert stats.snapshot()["notices"] == ["lost", "opening fp16"]
    assert stats.snapshot()["notice"] is None


def test_overlay_and_table_name_the_figures(clock):
    stats = Stats(source="clip.mp4", live=False, clock=clock)
    for _ in range(5):
        with stats.busy("infer"):
            clock.now += 0.04
        stats.frame_captured(0.001)
        stats.frame_shown(shown(clock, age=0.05, quality=Quality(hasn_db=30.5, bicubic_db=28.25)))
    text = "\n".join(stats.overlay())
    assert "fp16  32x16 to 128x64" in text
    assert "25.0 fps shown" in text
    assert "latency p50 50.0 ms, p95 50.0 ms" in text
    assert "PSNR-Y 30.50 dB, bicubic 28.25 dB (+2.25)" in text
    assert "limited by the network" in text
    table = dict(rows(stats.snapshot()))
    assert table["source"] == "clip.mp4"
    assert table["frames"] == "5 captured, 5 shown, 0 dropped"
    assert "from capture until handed to the views" in table["latency"]
    assert table["PSNR-Y"] == "30.50 dB, bicubic 28.25 dB, mean of 5 frames"
