"""What a measurement says about the machine."""

from __future__ import annotations

from hasn_edge.hardware import host


def test_this_machine_is_described():
    found = host.describe_host()
    assert found["python"].count(".") == 2
    assert int(found["cores"]) >= 1
    assert host.memory_bytes() > host.available_memory_bytes() > 0
    assert host.peak_memory_bytes() > 10_000_000
