"""The driver asked through ctypes: a compiled stand-in answers with NVIDIA's C signatures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hasn_edge.hardware.gpu import GpuFacts, gpu_facts, l4t_release, load_driver

MIB = 1 << 20


class TestDriver:
    @pytest.fixture
    def facts_of(self, libcuda: Path, tmp_path: Path) -> Callable[..., GpuFacts | None]:
        return partial(gpu_facts, library=str(libcuda), root=tmp_path)

    def test_facts(self, facts_of: Callable[..., Any], tmp_path: Path) -> None:
        for name, text in (
            ("sys/module/nvidia/version", "540.4.0\n"),
            ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081\n"),
        ):
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).write_text(text)
        facts = facts_of()
        assert facts == GpuFacts(
            name="Orin",
            compute_capability="8.7",
            total_memory_bytes=7_990_000_000,
            driver="540.4.0",
            cuda="12.6",
            integrated=True,
            l4t="36.4.3",
            sm_count=8,
            pci_bus_id="0000:3B:00.0",
        )
        assert facts.title == "Orin (8 SM, compute capability 8.7)"

    def test_where_it_sits_may_not_be_known(
        self, facts_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_CUDA_BUS", "")
        assert facts_of().pci_bus_id is None

    def test_no_such_gpu(self, facts_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
        assert facts_of(1) is None
        assert facts_of(-1) is None
        monkeypatch.setenv("FAKE_CUDA_DEVICES", "0")
        assert facts_of() is None


def test_a_machine_without_a_driver(tmp_path: Path) -> None:
    library = str(tmp_path / "libcuda.so.1")
    assert gpu_facts(library=library) is None
    assert load_driver(library) is None


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
