"""The driver asked through ctypes: a compiled stand-in answers with NVIDIA's C signatures."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from hasn_edge.engine import device_memory
from hasn_edge.engine.device_memory import DeviceMemory
from hasn_edge.engine.target import EngineRuntime, EngineTarget
from hasn_edge.engine.workspace import choose_workspace
from hasn_edge.errors import BuildError
from hasn_edge.hardware import gpu
from hasn_edge.hardware.gpu import GpuFacts, gpu_facts, l4t_release

MIB = 1 << 20


@pytest.fixture
def driver(libcuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_LIBRARY", str(libcuda))


@pytest.mark.usefixtures("driver")
class TestDriver:
    def test_facts(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "version").write_text("540.4.0\n")
        monkeypatch.setattr(gpu, "_DRIVER_VERSION", tmp_path / "version")
        facts = gpu_facts()
        assert facts == GpuFacts(
            name="Orin",
            compute_capability="8.7",
            total_memory_bytes=7_990_000_000,
            driver="540.4.0",
            cuda="12.6",
            integrated=True,
            l4t=l4t_release(),
            sm_count=8,
            pci_bus_id="0000:3B:00.0",
        )
        assert facts.title == "Orin (8 SM, compute capability 8.7)"

    def test_where_it_sits_may_not_be_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FAKE_CUDA_BUS", "")
        facts = gpu_facts()
        assert facts is not None
        assert facts.pci_bus_id is None

    def test_no_such_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert gpu_facts(1) is None
        assert gpu_facts(-1) is None
        monkeypatch.setenv("FAKE_CUDA_DEVICES", "0")
        assert gpu_facts() is None

    def test_memory_is_copied_and_reused(self) -> None:
        memory = DeviceMemory()
        batch = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
        address = memory.upload(batch)
        there = np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (24,))
        assert there.tolist() == list(range(24))
        assert memory.upload(batch * 2) == address
        assert there.tolist() == list(range(0, 48, 2))
        memory.upload(np.zeros(100, np.float32))
        assert memory.free_bytes() == 1 << 24

    def test_memory_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        memory = DeviceMemory()
        monkeypatch.setenv("FAKE_CUDA_BYTES", "100")
        with pytest.raises(BuildError, match="cuMemAlloc_v2 failed: the GPU's memory is used up"):
            memory.upload(np.zeros(100, np.float32))
        with pytest.raises(BuildError, match="cuDevicePrimaryCtxRetain failed: CUDA error 101"):
            DeviceMemory(3)


def test_a_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "_LIBRARY", str(tmp_path / "libcuda.so.1"))
    assert gpu_facts() is None
    assert device_memory.load_driver() is None
    with pytest.raises(BuildError, match="driver is not here"):
        DeviceMemory()


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n", "36.4.3"),
        ("# R35 (release), REVISION: 6.1, GCID: 39721438, BOARD: t186ref\n", "35.6.1"),
        ("# R39 (release), REVISION: 2.0, GCID: 1\nKERNEL_VARIANT: oot\n", "39.2.0"),
        ("something else\n", None),
    ],
)
def test_jetson_release(tmp_path: Path, text: str, release: str | None) -> None:
    (tmp_path / "release").write_text(text)
    assert l4t_release(tmp_path / "release") == release
    assert l4t_release(tmp_path / "absent") is None


class TestWorkspace:
    JETSON = GpuFacts(
        name="Orin",
        compute_capability="8.7",
        total_memory_bytes=8 << 30,
        driver=None,
        cuda="12.6",
        integrated=True,
        l4t="36.4.3",
        sm_count=8,
    )

    def choose(self, facts: GpuFacts | None, free: int = 0, **target: int) -> tuple[int | None, str]:
        return choose_workspace(EngineTarget(runtime=EngineRuntime.TENSORRT, **target), facts, lambda: free)

    def test_a_quarter_of_free_memory_on_a_jetson(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("hasn_edge.hardware.host.available_memory_bytes", lambda: 4000 * MIB + 5)
        assert self.choose(self.JETSON) == (1000 * MIB, "free memory")
        monkeypatch.setattr("hasn_edge.hardware.host.available_memory_bytes", lambda: 100 * MIB)
        assert self.choose(self.JETSON) == (64 * MIB, "free memory")
        monkeypatch.setattr("hasn_edge.hardware.host.available_memory_bytes", lambda: None)
        assert self.choose(self.JETSON) == (None, "the compiler's default")

    def test_half_of_a_cards_free_memory(self) -> None:
        from dataclasses import replace

        assert self.choose(replace(self.JETSON, integrated=False), free=9000 * MIB)[0] == 4500 * MIB

    def test_the_target_decides_and_without_a_gpu_the_compiler(self) -> None:
        assert self.choose(self.JETSON, workspace_bytes=1 << 28) == (1 << 28, "target")
        assert self.choose(None) == (None, "the compiler's default")
