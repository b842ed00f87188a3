"""Problems of boards and containers: a machine that has each, and machines that do not."""

from __future__ import annotations

from dataclasses import replace

from hasn_edge.doctor.checks import system
from hasn_edge.doctor.environment import Environment
from hasn_edge.hardware.jetson import Jetson
from tests.support.environments import cures, only


def test_no_gpu_answers(desktop, jetson):
    found = only(system.no_gpu_in_container, replace(desktop, gpu=None))
    assert "nvidia-smi" in cures(found)
    assert "for a container" in cures(found)
    found = only(system.no_gpu_in_container, replace(desktop, gpu=None, container=True))
    assert cures(found) == "outside the container: docker run --rm --gpus all hasn-edge doctor"
    for driver in (True, False):
        found = only(system.no_gpu_in_container, replace(jetson, gpu=None, driver=driver, container=True))
        assert "--runtime nvidia --group-add video" in cures(found)
    found = only(system.no_gpu_in_container, replace(jetson, gpu=None, driver=False))
    assert cures(found) == "sudo apt install nvidia-l4t-cuda"
    assert not list(system.no_gpu_in_container(replace(desktop, gpu=None, driver=False)))


def test_power_mode(jetson):
    slow = replace(jetson, jetson={**jetson.jetson, "power_mode": "15W"})
    found = only(system.power_mode, slow)
    assert found.detail == "15W; the fastest is MAXN_SUPER"
    assert cures(found) == "sudo nvpmodel -m 2; sudo jetson_clocks"


def test_power_modes_without_maxn(xavier_nx):
    values = Jetson(xavier_nx).facts().values
    environment = Environment(root=xavier_nx, jetson={**values, "power_mode": "MODE_15W_2CORE"})
    assert "nvpmodel -m 8" in cures(only(system.power_mode, environment))
    for fine in ("MODE_20W_6CORE", "MODE_20W_2CORE", None):
        assert not list(system.power_mode(replace(environment, jetson={**values, "power_mode": fine})))


def test_clocks(jetson, agx_orin):
    values = {"clocks_locked": False, "gpu_min_hz": 306_000_000, "gpu_max_hz": 1_020_000_000}
    found = only(system.clocks, replace(jetson, jetson={**jetson.jetson, **values}))
    assert "between 306 and 1020 MHz" in found.detail
    assert "jetson_clocks" in cures(found)
    assert not list(system.clocks(Environment(root=agx_orin, jetson=Jetson(agx_orin).facts().values)))
    unknown = {**jetson.jetson, "clocks_locked": None}
    assert not list(system.clocks(replace(jetson, jetson=unknown)))


def test_swap(jetson, desktop):
    found = only(system.swap, replace(jetson, swaps=(("/dev/zram0", 2 << 30), ("/dev/zram1", 1 << 30))))
    assert "only zram (3.0 GiB)" in found.detail
    assert "nvzramconfig" in cures(found)
    found = only(system.swap, replace(jetson, swaps=()))
    assert found.detail.startswith("no swap at all, on 7.4 GiB")
    assert "nvzramconfig" not in cures(found)
    assert not list(system.swap(replace(jetson, swaps=(), memory_bytes=16 << 30)))
    assert not list(system.swap(replace(desktop, memory_bytes=4 << 30)))
