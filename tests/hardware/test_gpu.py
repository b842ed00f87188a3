"""The driver asked through ctypes: a compiled stand-in answers with NVIDIA's C signatures."""

from __future__ import annotations

from pathlib import Path

import pytest

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


def test_a_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "_LIBRARY", str(tmp_path / "libcuda.so.1"))
    assert gpu_facts() is None
    assert gpu.load_driver() is None


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
