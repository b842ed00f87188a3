"""Which card the management library reads, and what it cannot read."""

from __future__ import annotations

import sys

import pytest

from hasn_edge.errors import MissingDependencyError
from hasn_edge.hardware.nvml import Nvml


def test_a_card_that_does_not_tell_its_power(nvml):
    nvml("A", lacks=["nvmlDeviceGetPowerUsage"])
    card = Nvml(bus_id=None, name="A")
    with pytest.raises(OSError, match="management library: Not Supported"):
        card.read()


def test_the_only_card_of_its_name(nvml):
    fake = nvml("A", "B", "A")
    assert Nvml(bus_id=None, name="B")._card == 1
    assert Nvml(bus_id="0000:09:00.0", name="B")._card == 1, "a container may not show the address"
    assert Nvml(bus_id="0000:03:00.0", name="B")._card == 2, "the address tells more than the name"
    with pytest.raises(LookupError, match="CUDA's C at an address that CUDA does not give: 0 of them"):
        Nvml(bus_id=None, name="C")
    assert fake.open == 3, "three are still open, the one that failed is not"
    nvml("A", driver=False)
    with pytest.raises(LookupError, match="Driver Not Loaded"):
        Nvml(bus_id=None, name="A")


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'hasn-edge\[nvml\]'"):
        Nvml(bus_id=None, name="A")
