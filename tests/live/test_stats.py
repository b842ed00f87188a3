"""The figures of a run, on a clock that the test turns, and how they are said."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from hasn_edge.errors import use
from hasn_edge.live.frame import Frame, FrameQuality, UpscaledFrame
from hasn_edge.live.notices import Notice, RunState, trouble
from hasn_edge.live.snapshot import EndReason
from hasn_edge.live.stats import SOURCE, Stats
from hasn_edge.live.summary import explain_no_frames, table_rows
from tests.support.live_rig import Clock, stamps


@pytest.fixture
def clock() -> Clock:
    return Clock()


def shown(clock: Clock, *, age: float = 0.0, quality: FrameQuality | None = None) -> UpscaledFrame:
    captured = clock.now - age
    return UpscaledFrame(
        frame=Frame(index=0, pixels=np.zeros((16, 32, 3), np.uint8), time_s=None, captured=captured),
        upscaled=np.zeros((64, 128, 3), np.uint8),
        scale=4,
        engine="fp16",
        stamps=stamps(captured, computed=clock.now),
        quality=quality,
    )


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
        "displayed": None,
        "dropped": 5,
        "in_flight": 2,
        "drops": {"network busy": 3, SOURCE: 2},
    }
    assert values["run"]["fps_in"] == pytest.approx(12), "those included that the source lost"
    assert values["run"]["fps_out"] == pytest.approx(5)
    assert values["run"]["fps_screen"] is None
    assert values["run"]["latency_ms"]["p50"] == pytest.approx(120, rel=0.011)
    assert values["run"]["latency_ms"]["count"] == values["now"]["latency_ms"]["count"] == 5
    assert values["now"]["latency_ms"]["p50"] == pytest.approx(120)
    assert values["now"]["latency_ms"]["p95"] == pytest.approx(138)
    assert values["run"]["stages_ms"]["infer"]["p95"] == pytest.approx(30, rel=0.011)
    assert values["run"]["busy"]["infer"] == pytest.approx(0.3)
    assert values["limit"]["stage"] == "capture"
    assert values["input"] == [16, 32]
    assert values["output"] == [64, 128]
    assert (values["latency_begins"], values["latency_ends"]) == ("capture", "view")
    json.dumps(values, allow_nan=False)


def test_frames_are_counted_by_the_engine_that_computed_them(clock):
    stats = Stats(clock=clock)
    stats.engine = "a"
    stats.frame_captured(0.01)
    assert stats.snapshot()["engines_used"] == {}
    for engine, frames in (("b", 3), ("a", 1), ("b", 2)):
        for _ in range(frames):
            stats.frame_shown(replace(shown(clock), engine=engine))
        if engine == "b" and stats.snapshot()["frames"]["shown"] == 3:
            assert ("engine", "b") in table_rows(stats.snapshot())
    assert stats.snapshot()["engines_used"] == {"b": 5, "a": 1}
    table = dict(table_rows(stats.snapshot()))
    assert table["engines"] == "b 5 frames, a 1 frame; the figures below are of all engines"
    assert "engine" not in table


@pytest.mark.parametrize(
    ("captured", "why", "text", "cures"),
    [
        (0, EndReason.TIME, "no frame came", ()),
        (1, EndReason.STOPPED, "no frame was shown before the end", ()),
        (
            1,
            EndReason.TIME,
            "no frame was shown: the time was too short for the first one",
            (use(seconds=10),),
        ),
    ],
)
def test_why_no_frame_was_shown(clock, captured, why, text, cures):
    stats = Stats(clock=clock)
    for _ in range(captured):
        stats.frame_captured(0.01)
    clock.now += 2
    stats.end(why)
    assert explain_no_frames(stats.snapshot()) == (text, cures)


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
    assert limit["text"] == "showing the frames (91% busy); close views"


def test_what_limits_is_told_before_the_first_frame_only_where_it_takes_long(clock):
    stats = Stats(clock=clock)
    with stats.busy("prepare"):
        clock.now += 0.01
        assert stats.snapshot()["limit"] is None
    stats.began("infer")
    clock.now += 2
    assert stats.snapshot()["limit"]["stage"] == "infer"


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
    assert values["run"]["latency_ms"]["count"] == 1


def test_what_is_on_the_screen_is_counted_beside_what_is_shown(clock):
    stats = Stats(clock=clock)
    for index in range(40):
        clock.now += 0.1
        stats.frame_captured(0.01)
        frame = shown(clock)
        stats.frame_shown(frame)
        if index % 4 == 3:
            stats.displayed(frame)
    values = stats.snapshot()
    assert (values["frames"]["shown"], values["frames"]["displayed"]) == (40, 10)
    for window in ("now", "run"):
        assert values[window]["fps_out"] == pytest.approx(10)
        assert values[window]["fps_screen"] == pytest.approx(2.5)
    assert values["now"]["latency_ms"]["count"] == 10
    table = dict(table_rows(values))
    assert table["on the screen"] == "10 of those shown, 2.50 a second"
    assert table["latency"].endswith("from capture until on the screen, of 10 frames")
    assert stats.overlay()[0].startswith("fp16")
    assert "2.50 fps on the screen, 10.0 fps shown" in stats.overlay()[1]


def test_when_nobody_looks_any_more_there_is_no_latency(clock):
    stats = Stats(clock=clock)
    for _ in range(200):
        clock.now += 0.1
        frame = shown(clock, age=0.5)
        stats.frame_shown(frame)
        if clock.now < 110:
            stats.displayed(frame)
    values = stats.snapshot()
    assert values["now"]["latency_ms"] == {"p50": None, "p95": None, "max": None, "count": 0}
    assert values["now"]["fps_screen"] is None
    assert values["now"]["fps_out"] == pytest.approx(10)
    assert values["run"]["latency_ms"]["p50"] == pytest.approx(500, rel=0.011)
    # A viewer who comes later begins anew.
    clock.now += 0.1
    stats.displayed(shown(clock, age=2.0))
    assert stats.snapshot()["now"]["latency_ms"]["p50"] == pytest.approx(2000)


def test_the_rate_of_capture_counts_what_the_source_lost(clock):
    stats = Stats(clock=clock)
    lost = 7
    stats.frame_captured(0.01, lost)  # over which time nobody knows
    for _ in range(40):
        clock.now += 0.1
        lost += 2
        stats.frame_captured(0.01, 2)
    stats.drops = lambda: {SOURCE: lost}
    values = stats.snapshot()
    assert values["frames"]["captured"] == 41 + lost
    assert values["now"]["fps_in"] == pytest.approx(30)
    assert values["run"]["fps_in"] == pytest.approx((41 + lost) / 4)


@pytest.mark.parametrize("live", [True, False])
def test_stages_add_up_to_the_latency(clock, live):
    """A live frame's latency begins with its capture, a recording's with its preparation."""
    stats = Stats(live=live, clock=clock)
    begin = clock.now
    for stage, seconds in (("prepare", 0.1), ("infer", 0.4), ("present", 0.05)):
        stats.ended(stage, seconds)
    passed = {"taken": 3.0, "prepared": 3.1, "started": 3.2, "computed": 3.6, "received": 3.9, "made": 3.95}
    frame = replace(shown(clock), stamps=stamps(begin, **{at: begin + s for at, s in passed.items()}))
    clock.now = begin + 3.95
    stats.frame_shown(frame)
    clock.now += 0.25
    stats.displayed(frame)
    values = stats.snapshot()
    times = {stage: summary["p50"] for stage, summary in values["now"]["stages_ms"].items()}
    assert times.pop("capture") is times.pop("record") is None
    assert times["wait"] == pytest.approx(400 + 3000 * live)
    assert times["display"] == pytest.approx(250)
    assert sum(times.values()) == pytest.approx(values["now"]["latency_ms"]["p50"])
    assert sum(times.values()) == pytest.approx(1200 + 3000 * live)
    assert values["latency_begins"] == ("capture" if live else "prepare")
    where = "from capture" if live else "from a frame's preparation (a recording is read ahead)"
    assert f"{where} until on the screen" in dict(table_rows(values))["latency"]


def test_frames_that_overlap_in_the_network_do_not_make_it_twice_as_busy(clock):
    stats = Stats(clock=clock)
    for _ in range(10):
        clock.now += 0.1
        stats.ended("infer", 0.1, alone=0.05)
    run = stats.snapshot()["run"]
    assert run["stages_ms"]["infer"]["p50"] == pytest.approx(100, rel=0.011)
    assert run["busy"]["infer"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("captured", "part", "fitted", "aspect", "text"),
    [
        ((90, 160), (90, 160), (90, 160), 1.0, "160x90"),
        ((1920, 1080), (608, 1080), (180, 320), 1.0, "the middle 1080x608, made smaller to 320x180"),
        ((36, 64), (36, 64), (180, 320), 1.0, "64x36, enlarged to 320x180"),
        ((576, 720), (576, 720), (576, 1440), 2.0, "720x576 with pixels of 2:1, resized to 1440x576"),
    ],
)
def test_what_becomes_of_the_frames_before_the_network_is_said(clock, captured, part, fitted, aspect, text):
    stats = Stats(clock=clock)
    assert "source frames" not in dict(table_rows(stats.snapshot()))
    stats.frame_fitted(captured, part, fitted, aspect)
    values = stats.snapshot()
    sizes = [tuple(values[name]) for name in ("source_size", "part", "fitted")]
    assert sizes == [captured, part, fitted]
    assert dict(table_rows(values))["source frames"].endswith(text)


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
    for text in ("lost", None, "lost", "damaged", None):
        stats.report(text and trouble(text))
    assert stats.snapshot()["notices"] == ["lost", "damaged"]
    assert stats.snapshot()["notice"] is None


def test_a_snapshot_names_the_state_and_the_engine_that_is_opened():
    stats = Stats()
    assert (stats.snapshot()["state"], stats.snapshot()["opening"]) == ("running", None)
    stats.report(Notice(state=RunState.OPENING, text="any words", opening="fp16"))
    assert (stats.snapshot()["state"], stats.snapshot()["opening"]) == ("opening", "fp16")
    stats.report(trouble("other words"))
    assert (stats.snapshot()["state"], stats.snapshot()["opening"]) == ("trouble", None)


def test_overlay_and_table_name_the_figures(clock):
    stats = Stats(source="clip.mp4", live=False, clock=clock)
    for _ in range(5):
        with stats.busy("infer"):
            clock.now += 0.04
        stats.frame_captured(0.001)
        stats.frame_shown(shown(clock, age=0.05, quality=FrameQuality(hasn_db=30.5, bicubic_db=28.25)))
    text = "\n".join(stats.overlay())
    assert "fp16  32x16 to 128x64" in text
    assert "25.0 fps shown" in text
    assert "latency p50 50.0 ms, p95 50.0 ms" in text
    assert "PSNR-Y 30.50 dB, bicubic 28.25 dB (+2.25)" in text
    assert "limited by the network" in text
    table = dict(table_rows(stats.snapshot()))
    assert table["source"] == "clip.mp4"
    assert table["frames"] == "5 captured, 5 shown, 0 dropped"
    assert (
        "from a frame's preparation (a recording is read ahead) until handed to the views" in table["latency"]
    )
    assert table["latency"].endswith("of 5 frames")
    assert "on the screen" not in table
    assert table["PSNR-Y"] == "30.50 dB, bicubic 28.25 dB, mean of 5 frames"
