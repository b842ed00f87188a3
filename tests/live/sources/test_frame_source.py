"""The test pattern is the same every time; recordings play at their own speed."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from hasn_edge.live.sources.frame_source import Paced, PatternSource
from tests.support.live_rig import number_of


def frames(count: int, **settings) -> list[np.ndarray]:
    with PatternSource((48, 64), frames=count, live=False, **settings) as source:
        return [source.read().pixels for _ in range(count)]


def test_pattern_is_deterministic_and_moves():
    first, second = frames(3), frames(3)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.shape == (48, 64, 3)
        assert a.dtype == np.uint8
        assert a.flags.c_contiguous
    assert np.abs(first[0].astype(int) - first[1]).mean() > 1


def test_pattern_carries_its_number():
    with PatternSource((96, 160), frames=300, live=False) as source:
        for i in range(300):
            frame = source.read()
            assert frame.index == i
            assert number_of(frame.pixels) == i
        assert source.read() is None


def test_pattern_scrolls_without_a_seam():
    """The image's two ends meet: no step from one column to the next is larger where it wraps."""
    from hasn_edge.live.sources.frame_source import scenery

    image = scenery((64, 64)).astype(int)
    smooth = image[:40]  # above the blocks
    steps = np.abs(np.diff(smooth, axis=1)).max()
    assert np.abs(smooth[:, 0] - smooth[:, -1]).max() <= steps


def test_live_pattern_keeps_time_and_drops_what_nobody_read():
    with PatternSource((16, 16), fps=100) as source:
        source.read()
        time.sleep(0.1)
        late = source.read()
        assert late.index == source.dropped + 1
        assert source.dropped >= 5
        assert number_of(source.read().pixels) is not None


def test_closing_ends_a_read_under_way():
    source = PatternSource((16, 16), fps=0.1)
    source.read()
    timer = threading.Timer(0.05, source.close)
    timer.start()
    start = time.monotonic()
    assert source.read() is None
    assert time.monotonic() - start < 2


def test_paced_plays_at_the_recordings_speed():
    source = Paced(PatternSource((16, 16), fps=50, frames=6, live=False))
    captured = []
    while (frame := source.read()) is not None:
        captured.append(frame.captured)
    assert len(captured) == 6
    assert captured[-1] - captured[0] == pytest.approx(5 / 50, abs=0.08)
    assert captured[-1] - captured[0] >= 0.09


def test_paced_counts_what_its_recording_lost():
    inner = PatternSource((16, 16), fps=1000, frames=2, live=False)
    source = Paced(inner)
    inner.dropped = 3
    source.read()
    assert source.dropped == 3
    source.close()


def test_paced_does_not_make_up_for_lost_time():
    source = Paced(PatternSource((16, 16), fps=20, frames=4, live=False))
    source.read()
    time.sleep(0.2)  # the viewer was late by three frames
    first = source.read().captured
    assert source.read().captured - first >= 0.04
    source.close()
    assert source.read() is None
