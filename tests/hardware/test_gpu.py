"""The driver asked through ctypes: a compiled stand-in answers with NVIDIA's C signatures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hasn_edge.hardware.gpu import GpuFacts, cuda_python_install, gpu_facts, l4t_release, load_driver
from hasn_edge.hardware.jetson import Jetson
from tests.support.samples import NANO

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
            write(tmp_path / name, text)
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
    assert l4t_release(tmp_path) is None
    write(tmp_path / "etc/nv_tegra_release", text)
    assert l4t_release(tmp_path) == release


@pytest.mark.parametrize(
    ("kernel", "chip", "release"),
    [
        ("5.10.216-tegra", "tegra194", "35"),
        ("5.15.148-tegra", "tegra234", "36"),
        ("5.15.148-tegra", None, "36"),  # containers that are not privileged show no device tree
        ("6.8.12-1014-tegra", "tegra234", "39"),  # the line before is Thor's alone
        ("6.8.12-1014-tegra", "tegra264", "38"),
        ("5.15.0-139-generic", "tegra234", "36"),  # a kernel of one's own
        ("4.9.337-tegra", "tegra210", None),
        ("5.15.0-139-generic", None, None),  # Ubuntu 22.04 on a server
    ],
)
def test_jetson_release_in_a_container(
    tmp_path: Path, kernel: str, chip: str | None, release: str | None
) -> None:
    write(tmp_path / "proc/sys/kernel/osrelease", kernel + "\n")
    if chip:
        write(tmp_path / "proc/device-tree/compatible", f"nvidia,p3768-0000\0nvidia,{chip}\0")
    assert l4t_release(tmp_path) == release
    assert Jetson(tmp_path).present is (chip is not None or release is not None)


@pytest.mark.parametrize(("cuda", "release"), [("13.0", "38"), ("13.2", "39")])
def test_lines_of_one_kernel_are_told_apart_by_the_drivers_cuda(
    tmp_path: Path, cuda: str, release: str
) -> None:
    """JetPack 7.0 and 7.1 have CUDA 13.0, JetPack 7.2 has 13.2."""
    write(tmp_path / "proc/sys/kernel/osrelease", "6.8.12-1014-tegra\n")
    assert l4t_release(tmp_path, cuda=cuda) == release


@pytest.mark.parametrize(
    ("l4t", "cuda", "command"),
    [
        (None, "13.0", "pip install 'cuda-python>=13,<14'"),
        ("39.2.0", "13.2", "pip install 'cuda-python>=13,<14'"),
        ("36.4.3", "12.6", "pip uninstall -y cuda-bindings; pip install 'cuda-python>=12,<12.7'"),
        ("36", "12.2", "pip uninstall -y cuda-bindings; pip install 'cuda-python>=12,<12.3'"),
        ("38.4.0", "13.0", "pip uninstall -y cuda-bindings; pip install 'cuda-python>=13,<13.1'"),
    ],
)
def test_the_cuda_python_that_a_driver_takes(l4t: str | None, cuda: str, command: str) -> None:
    """Before JetPack 7.2 the driver of a Jetson takes no newer CUDA than its own, within one version too."""
    assert cuda_python_install(replace(NANO, l4t=l4t, cuda=cuda)) == command
    assert cuda_python_install(None) == "pip install 'hasn-edge[cuda]'"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
