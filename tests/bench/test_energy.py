"""Energy from the power of rails over time."""

from __future__ import annotations

import pytest

from hasn_edge.bench.energy import EnergyMeter
from hasn_edge.hardware.power import PowerTrace, Sample
from tests.support.bench_rig import Steady


def test_energy_is_power_times_time_over_frames():
    meter = EnergyMeter(Steady())
    meter._traces = [
        PowerTrace(seconds=(0.0, 2.0), samples=(Sample(watts={"VDD_IN": w}),) * 2, total=("VDD_IN",))
        for w in (5.0, 10.0)
    ]
    meter.count(6)
    idle = PowerTrace(seconds=(0.0,), samples=(Sample(watts={"VDD_IN": 3.0}),), total=("VDD_IN",))
    found = meter.result(idle)
    assert found.watts == pytest.approx(7.5)
    assert found.joules_per_frame == pytest.approx((2 * 5 + 2 * 10) / 6)
    assert found.joules_above_idle == pytest.approx((2 * 5 + 2 * 10 - 4 * 3) / 6)
    assert EnergyMeter(None).result() is None
