"""Means over time, and the sampler's thread."""

from __future__ import annotations

import threading
import time
from itertools import chain, repeat

import pytest

from hasn_edge.hardware.jetson import Ina3221, Jetson
from hasn_edge.hardware.power import PowerSampler, PowerTrace, Sample


def trace(seconds, watts, total=("A",), **more):
    return PowerTrace(seconds=seconds, samples=[Sample(watts=w) for w in watts], total=total, **more)


def test_means_are_weighted_by_time():
    # 1 W for a second, then a late reading: 3 W after 9 seconds more.
    seconds, values = [0.0, 1.0, 10.0], [1.0, 1.0, 3.0]
    found = trace(seconds, [{"A": v} for v in values])
    assert found.watts("A") == pytest.approx((1 * 1 + 9 * 2) / 10)
    assert found.total_watts == pytest.approx(1.9)
    assert found.rail == "A"


def test_the_total_is_the_sum_of_its_rails():
    samples = [{"A": 1.0, "B": 2.0, "C": 9.0}, {"A": 3.0, "B": 4.0, "C": 9.0}]
    found = trace([0, 2], samples, total=("A", "B"))
    assert found.rail == "A + B"
    assert found.total_watts == pytest.approx(5)
    assert found.watts("C") == 9
    assert trace([0, 2], samples, total=()).total_watts is None
    assert trace([0, 2], samples, total=()).rail is None
    assert trace([0, 2], samples, total=("A", "gone")).total_watts is None
    assert trace([], []).total_watts is None
    assert trace([4], [{"A": 7.0}]).total_watts == 7


def test_temperatures():
    samples = [
        Sample(watts={}, celsius={"gpu": v}, gpu_hertz=h) for v, h in ((40, 1e9), (60, 1e9), (55, 4e8))
    ]
    found = PowerTrace(seconds=[0, 1, 3], samples=samples, total=())
    assert found.celsius() == {"gpu": (40, 55, 60)}
    assert found.gpu_hertz == pytest.approx((1e9 + 2 * 7e8) / 3)


def test_the_sampler_follows_a_sensor(orin_nano):
    sensor = Ina3221(Jetson(orin_nano))
    current = orin_nano / "sys/class/hwmon/hwmon1/curr1_input"
    with PowerSampler(sensor, interval_seconds=0.005) as sampler:
        time.sleep(0.05)
        changed = current.with_name("changed")
        changed.write_text("2000\n")
        changed.replace(current)  # a sensor's file is never empty for a moment
    found = sampler.trace()
    watts = [sample.watts["VDD_IN"] for sample in found.samples]
    assert watts[0] == pytest.approx(4.85376)
    assert watts[-1] == pytest.approx(10.112), "the last sample is taken when the block ends"
    assert len(watts) >= 3
    assert sorted(found.seconds) == list(found.seconds)
    assert found.stopped_by is None
    assert not [t for t in threading.enumerate() if t.name == "power sampler"]


def test_a_sensor_that_is_busy_once_is_asked_again():
    well_again = threading.Event()

    class Busy:
        rails = total = ("A",)
        answers = chain([1.0, OSError("busy"), ValueError("empty")], repeat(2.0))

        def read(self):
            answer = next(self.answers)
            if isinstance(answer, Exception):
                raise answer
            if answer == 2.0:
                well_again.set()
            return Sample(watts={"A": answer})

    with PowerSampler(Busy(), interval_seconds=0.002) as sampler:
        assert well_again.wait(30)
    found = sampler.trace()
    assert found.stopped_by is None
    assert [sample.watts["A"] for sample in found.samples][:2] == [1.0, 2.0]


def test_a_sensor_that_fails_ends_the_trace_and_says_why(orin_nano):
    sensor = Ina3221(Jetson(orin_nano))
    with PowerSampler(sensor, interval_seconds=0.005) as sampler:
        (orin_nano / "sys/class/hwmon/hwmon1/curr1_input").unlink()
        time.sleep(0.03)
    found = sampler.trace()
    assert found.stopped_by is not None
    assert "curr1_input" in found.stopped_by
    assert len(found.samples) >= 1
