"""Which device is here, and what the error says on a machine that is another."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from hasn_edge.bench.board import find_board
from hasn_edge.errors import UnsupportedError, call, say, use
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.hardware.jetson import Ina3221

ORIN = GpuFacts(
    name="Orin", compute_capability="8.7", total_memory_bytes=8 << 30, driver="540.4.0", cuda="12.6",
    integrated=True, l4t="36.4.3", sm_count=8,
)  # fmt: skip
ADA = GpuFacts(
    name="NVIDIA GeForce RTX 4090", compute_capability="8.9", total_memory_bytes=24 << 30,
    driver="580.65.06", cuda="13.0", integrated=False, l4t=None, sm_count=128,
    pci_bus_id="0000:01:00.0",
)  # fmt: skip


def test_a_jetson(orin_nano):
    board = find_board("jetson", root=orin_nano, gpu=lambda: ORIN)
    assert board.title == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    found = json.loads(json.dumps(board.facts()))
    assert found["gpu"]["sm_count"] == 8
    assert found["jetson"]["power_mode"] == "MAXN_SUPER"
    assert "celsius.cv0" in found["jetson"]["not_read"]
    source, why = board.power()
    assert isinstance(source, Ina3221)
    assert why == ""
    assert find_board("cuda", root=orin_nano, gpu=lambda: ORIN).jetson is not None


def test_a_jetson_whose_sensors_cannot_be_read(orin_nano):
    (orin_nano / "sys/class/hwmon/hwmon1/in2_input").write_text("")
    source, why = find_board("jetson", root=orin_nano, gpu=lambda: ORIN).power()
    assert source is None
    assert why.startswith("power: ")
    assert "tegrastats: /usr/bin/tegrastats: no such file" in why


def test_the_error_on_another_machine_than_a_jetson_says_what_it_is(tmp_path):
    with pytest.raises(UnsupportedError) as caught:
        find_board("jetson", root=tmp_path, gpu=lambda: None)
    text = caught.value.message
    assert "this machine is no Jetson, it is Linux on " in text
    assert "without an NVIDIA driver" in text
    assert caught.value.cures == (say("run it on the Jetson"), call("bench", estimate="orin-nano"))
    with pytest.raises(UnsupportedError, match="with NVIDIA GeForce RTX 4090 .128 SM"):
        find_board("jetson", root=tmp_path, gpu=lambda: ADA)


@pytest.mark.parametrize("kind", ["cuda", "rtx"])
def test_a_machine_without_a_gpu(tmp_path, kind):
    with pytest.raises(UnsupportedError, match=f"device '{kind}': no NVIDIA GPU") as caught:
        find_board(kind, root=tmp_path, gpu=lambda: None)
    assert caught.value.cures == (say("give a container the GPU"), call("bench", estimate="rtx-4090"))


def test_rtx_is_not_for_a_jetson(orin_nano):
    with pytest.raises(UnsupportedError, match="is for desktop GPUs") as caught:
        find_board("rtx", root=orin_nano, gpu=lambda: ORIN)
    assert caught.value.cures == (use(device="jetson"),)
    with pytest.raises(UnsupportedError, match="device 'jetson': no NVIDIA GPU") as caught:
        find_board("jetson", root=orin_nano, gpu=lambda: None)
    assert caught.value.cures[-1] == call("bench", estimate="orin-nano")
    with pytest.raises(UnsupportedError, match="unknown device 'tpu'"):
        find_board("tpu")


def test_a_cpu_has_no_power():
    source, why = find_board("cpu").power()
    assert source is None
    assert "not read on a CPU" in why


def test_a_card(tmp_path, nvml):
    fake = nvml("NVIDIA GeForce RTX 4090", lacks=["nvmlDeviceGetEnforcedPowerLimit"])
    board = find_board("rtx", root=tmp_path, gpu=lambda: ADA)
    card = json.loads(json.dumps(board.facts()))["card"]
    assert card["gpu_hz"] == 2_520_000_000
    assert card["gpu_max_hz"] == 3_105_000_000
    assert card["performance_state"] == "P2"
    assert card["held_down_by"] == ["power cap", "temperature (driver)"]
    assert card["power_limit_watts"] is None
    assert card["not_read"] == {"power_limit_watts": "NVIDIA's management library: Not Supported"}
    assert fake.open == 0
    source, _ = board.power()
    sample = source.read()
    assert sample.watts == {"board": 312.345}
    assert (sample.celsius, sample.gpu_hertz) == ({"gpu": 61}, 2.52e9)
    assert source.total == ("board",)
    source.close()
    source.close()
    assert fake.open == 0


def test_of_two_cards_of_one_name_the_one_that_cuda_uses(tmp_path, nvml):
    """CUDA_VISIBLE_DEVICES=1 makes the second card CUDA's first."""
    fake = nvml(ADA.name, ADA.name)
    second = replace(ADA, pci_bus_id="0000:02:00.0")
    source, why = find_board("cuda", root=tmp_path, gpu=lambda: second).power()
    assert why == ""
    assert source.read().watts == {"board": 212.345}
    source.close()
    for unknown in (None, "0000:7F:00.0"):
        board = find_board("cuda", root=tmp_path, gpu=lambda: replace(ADA, pci_bus_id=unknown))  # noqa: B023
        source, why = board.power()
        assert source is None
        assert "power: cannot tell which of the 2 cards" in why
        assert "2 of them have that name" in why
        assert "cannot tell which" in board.facts()["card"]["not_read"]["card"]
    assert fake.open == 0


def test_an_instance_of_a_card_has_no_power_of_its_own(tmp_path, nvml):
    fake = nvml("NVIDIA H100 80GB HBM3", mig=1)
    part = replace(ADA, name="NVIDIA H100 80GB HBM3 MIG 1g.10gb")
    board = find_board("cuda", root=tmp_path, gpu=lambda: part)
    source, why = board.power()
    assert source is None
    assert why.startswith("power: NVIDIA H100 80GB HBM3 MIG 1g.10gb is one of several instances (MIG)")
    assert board.facts()["card"]["divided"] is True
    source, why = find_board("cuda", root=tmp_path, gpu=lambda: replace(part, pci_bus_id=None)).power()
    assert source is None
    assert "0 of them have that name" in why
    assert fake.open == 0
    nvml(ADA.name, mig=0)
    assert find_board("cuda", root=tmp_path, gpu=lambda: ADA).power()[1] == ""


def test_a_card_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    board = find_board("cuda", root=tmp_path, gpu=lambda: ADA)
    assert board.power()[0] is None
    assert "hasn-edge[nvml]" in board.power()[1]
    assert "hasn-edge[nvml]" in board.facts()["card"]["not_read"]["card"]
