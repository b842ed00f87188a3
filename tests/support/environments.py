"""Machines as the doctor sees them: a desktop and a Jetson where all is well, and changes to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hasn_edge.cli.cures import cure_text
from hasn_edge.doctor.environment import Environment
from hasn_edge.doctor.result import CheckResult
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.hardware.jetson import Jetson

ORIN = GpuFacts(
    name="Orin",
    compute_capability="8.7",
    total_memory_bytes=7_990_000_000,
    driver="540.4.0",
    cuda="12.6",
    integrated=True,
    l4t="36.4.3",
    sm_count=8,
)
CARD = GpuFacts(
    name="NVIDIA GeForce RTX 4090",
    compute_capability="8.9",
    total_memory_bytes=25_300_000_000,
    driver="580.65.06",
    cuda="13.0",
    integrated=False,
    l4t=None,
    sm_count=128,
)
THOR = replace(ORIN, name="NVIDIA Thor", compute_capability="11.0", sm_count=20, l4t="38.4.0")
SITE = Path("/home/user/.venv/lib/python3.10/site-packages")


def make_desktop(folder: Path) -> Environment:
    """A desktop where all is well."""
    site = folder / "site-packages"
    (site / "torch").mkdir(parents=True)
    (site / "torch/version.py").write_text("__version__ = '2.13.0'\ncuda: Optional[str] = '13.0'\n")
    names = ("torch", "cv2", "tensorrt", "onnx", "onnxruntime", "safetensors")
    return Environment(
        root=folder,
        modules={name: site / name for name in names},
        versions={
            "tensorrt": "11.4.0.106",
            "tensorrt-cu13-bindings": "11.4.0.106",
            "cuda-python": "13.0.1",
            "numpy": "2.4.6",
        },
        opencv_build="Video I/O:\n    GStreamer:                   NO\n",
        driver=True,
        gpu=CARD,
        cuda="cuda-python",
        memory_bytes=64 * 2**30,
        engines=folder / "engines",
    )


def make_jetson(orin_nano: Path) -> Environment:
    """An Orin Nano where all is well: MAXN, clocks locked, swap on disk, JetPack's Python."""
    gpu = orin_nano / "sys/class/devfreq/17000000.gpu"
    (gpu / "min_freq").write_text((gpu / "max_freq").read_text())
    for name in ("tensorrt", "cv2"):
        (orin_nano / "usr/lib/python3.10/dist-packages" / name).mkdir(parents=True)
    dist = orin_nano / "usr/lib/python3.10/dist-packages"
    return Environment(
        root=orin_nano,
        python=(3, 10),
        modules={"tensorrt": dist / "tensorrt", "cv2": dist / "cv2"},
        versions={"tensorrt": "10.7.0", "cuda-python": "12.6.2", "numpy": "1.26.4"},
        opencv_build="    GStreamer:                   YES (1.20.3)\n",
        driver=True,
        gpu=ORIN,
        cuda="cuda-python",
        jetson=Jetson(orin_nano).facts().values,
        memory_bytes=7_990_000_000,
        swaps=(("/dev/zram0", 600 << 20), ("/swapfile", 8 << 30)),
        engines=orin_nano / "engines",
    )


def only(check: Callable[[Environment], Iterator[CheckResult]], environment: Environment) -> CheckResult:
    """Return the one result of a check, which has a cure."""
    (found,) = check(environment)
    assert found.cures
    return found


def cures(result: CheckResult) -> str:
    """Return a result's cures as the command line writes them."""
    return ", or ".join(map(cure_text, result.cures))


def without(environment: Environment, *names: str, **changes: Any) -> Environment:
    """Return the machine without some modules and with other changes."""
    modules = {name: place for name, place in environment.modules.items() if name not in names}
    return replace(environment, modules={**modules, **changes.pop("modules", {})}, **changes)
