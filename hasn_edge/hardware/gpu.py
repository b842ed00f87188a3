"""The GPU in this machine as its driver describes it, through ctypes: no package, no CUDA context."""

from __future__ import annotations

import ctypes
import re
import sys
from ctypes import byref, c_char, c_int, c_size_t
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hasn_edge.hardware.readings import text_or_nothing
from hasn_edge.optional import version_tuple

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
"""NVIDIA's driver, as the system's loader finds it."""

# Values of CUdevice_attribute in cuda.h; they never changed.
_MULTIPROCESSOR_COUNT, _INTEGRATED, _CAPABILITY_MAJOR, _CAPABILITY_MINOR = 16, 18, 75, 76

SERVER_RELEASE = 39
"""From this line on Jetson Linux runs what is built for ARM servers, such as the packages on PyPI."""

_RELEASE = "etc/nv_tegra_release"
"""Where Jetson Linux writes its release; containers do not have it."""
_THOR = 264
_LINES = {"5.10": 35, "5.15": 36, "6.8": 38}
"""Lines of Jetson Linux by kernel. 38 and 39 have the same one; 38 is for Thor alone and has CUDA 13.0."""
_CUDA_38 = (13, 0)


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """One GPU as its driver describes it."""

    name: str
    """As the driver reports it, e.g. ``"NVIDIA GeForce RTX 4090"``; every Jetson Orin is ``"Orin"``."""
    compute_capability: str
    """E.g. ``"8.7"``."""
    total_memory_bytes: int
    """Memory of the GPU; where it is integrated, all of the machine's that the driver may use."""
    driver: str | None
    """Version of the kernel driver, e.g. ``"580.65.06"``; ``None`` where the system does not say."""
    cuda: str
    """Newest CUDA that the driver runs, e.g. ``"12.6"``."""
    integrated: bool
    """It shares the CPU's memory (Jetson)."""
    l4t: str | None
    """Release of Jetson Linux, e.g. ``"36.4.3"``; ``None`` on other machines."""
    sm_count: int
    """Streaming multiprocessors: what tells a Jetson Orin Nano (8) from an AGX Orin (16)."""
    pci_bus_id: str | None = None
    """Where it sits, e.g. ``"0000:3B:00.0"``: what tells it from others of its name, whatever number CUDA or
    another library gives it. An instance of a divided card (MIG) has its card's."""

    @property
    def title(self) -> str:
        """Name, multiprocessors and compute capability, for messages."""
        return f"{self.name} ({self.sm_count} SM, compute capability {self.compute_capability})"


def gpu_facts(index: int = 0, *, library: str = LIBRARY, root: Path = Path("/")) -> GpuFacts | None:
    """Return what the driver reports about one GPU.

    Args:
        index: Number of the GPU among those that ``CUDA_VISIBLE_DEVICES`` leaves.
        library: The driver, by name or path.
        root: Where the file system starts.

    Returns:
        The facts, or ``None`` without a driver, without a GPU of that number, or where the driver does not
        answer (a container without access to the device).
    """
    driver = load_driver(library)
    if driver is None or driver.cuInit(0) != 0:
        return None
    count, device = c_int(), c_int()
    if driver.cuDeviceGetCount(byref(count)) != 0 or not 0 <= index < count.value:
        return None
    if driver.cuDeviceGet(byref(device), c_int(index)) != 0:
        return None
    name, memory, version = (c_char * 256)(), c_size_t(), c_int()
    answers = (
        driver.cuDeviceGetName(name, c_int(len(name)), device),
        driver.cuDeviceTotalMem_v2(byref(memory), device),
        driver.cuDriverGetVersion(byref(version)),
    )
    if any(answers):
        return None

    def attribute(number: int) -> int:
        value = c_int()
        return value.value if driver.cuDeviceGetAttribute(byref(value), c_int(number), device) == 0 else 0

    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    bus = (c_char * 32)()
    placed = driver.cuDeviceGetPCIBusId(bus, c_int(len(bus)), device) == 0

    return GpuFacts(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{attribute(_CAPABILITY_MAJOR)}.{attribute(_CAPABILITY_MINOR)}",
        total_memory_bytes=memory.value,
        driver=text_or_nothing(root / "sys/module/nvidia/version") or None,
        cuda=cuda,
        integrated=bool(attribute(_INTEGRATED)),
        l4t=l4t_release(root, cuda=cuda),
        sm_count=attribute(_MULTIPROCESSOR_COUNT),
        pci_bus_id=bus.value.decode(errors="replace") if placed else None,
    )


def cuda_python_install(gpu: GpuFacts | None, *, otherwise: str = "pip install 'hasn-edge[cuda]'") -> str:
    """Return the command that installs the cuda-python of the driver's CUDA.

    Without a version pip takes the newest, which a driver of an older CUDA refuses: that of JetPack 6 runs
    CUDA 12 and no cuda-python 13. Before JetPack 7.2, a Jetson's driver also refuses a newer CUDA 12 than its
    own, and the bindings that another package brought would stay in the way.

    Args:
        gpu: The GPU whose driver it is for.
        otherwise: The command where no GPU answers, so that its CUDA is not known.
    """
    if gpu is None:
        return otherwise
    major, minor = version_tuple(gpu.cuda)[:2]
    if gpu.l4t is None or version_tuple(gpu.l4t)[0] >= SERVER_RELEASE:
        return f"pip install 'cuda-python>={major},<{major + 1}'"
    return f"pip uninstall -y cuda-bindings; pip install 'cuda-python>={major},<{major}.{minor + 1}'"


def tensorrt_extra(extra: str, gpu: GpuFacts | None) -> str:
    """Return the extra of hasn-edge that installs a TensorRT which the driver runs.

    pip's ``tensorrt`` is made for CUDA 13 from 10.13.2 on, which a driver of CUDA 12 refuses; what is for
    CUDA 12 has another name. So it is with TensorRT for RTX.

    Args:
        extra: ``"tensorrt"`` or ``"rtx"``.
        gpu: The GPU whose driver it is for; ``None`` where no GPU answers.
    """
    return extra if gpu is None or version_tuple(gpu.cuda) >= (13,) else f"{extra}-cu12"


def load_driver(library: str = LIBRARY) -> Any:
    """Return NVIDIA's driver library, or ``None`` where there is none; initializes nothing."""
    try:
        return ctypes.CDLL(library)
    except OSError:
        return None


def driver_present() -> bool:
    """Whether NVIDIA's driver library is here. TensorRT's runtime crashes the process without one."""
    return load_driver() is not None


def l4t_release(root: Path = Path("/"), *, cuda: str | None = None) -> str | None:
    """Return the release of Jetson Linux, e.g. ``"36.4.3"``, or ``None`` on any other machine.

    A container does not have the file that states it. There the kernel, which is the host's, and the device
    tree, where it is shown, tell at least the line: ``"36"``. Docker shows it to privileged containers only.

    Args:
        root: Where the file system starts.
        cuda: Newest CUDA that the driver runs, where it is known: it tells lines of one kernel apart.
    """
    found = re.search(r"R(\d+).*?REVISION:\s*([\d.]+)", text_or_nothing(root / _RELEASE))
    if found:
        return f"{found[1]}.{found[2].strip('.')}"
    kernel, chip = text_or_nothing(root / "proc/sys/kernel/osrelease"), tegra_chip(root)
    if chip is None and not kernel.endswith("-tegra"):
        return None
    line = next((line for start, line in _LINES.items() if kernel.startswith(f"{start}.")), None)
    other_chip = chip is not None and chip < _THOR
    if line == _LINES["6.8"] and (other_chip or version_tuple(cuda or "")[:2] > _CUDA_38):
        line = SERVER_RELEASE
    return None if line is None else str(line)


def tegra_chip(root: Path = Path("/")) -> int | None:
    """Return the number of a Jetson's chip as the device tree states it, e.g. 234 of an Orin."""
    found = re.search(r"nvidia,tegra(\d+)", text_or_nothing(root / "proc/device-tree/compatible"))
    return int(found[1]) if found else None
