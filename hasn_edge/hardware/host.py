"""The machine a figure was measured on: CPU, memory, versions, and how busy it was."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from hasn_edge.hardware.readings import text_or_nothing
from hasn_edge.optional import installed_version

_ROOT = Path("/")

PACKAGES = (
    "hasn-edge",
    "numpy",
    "onnxruntime",
    "openvino",
    "torch",
    "onnx",
    "onnxsim",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
)
"""Distributions whose versions change results."""

OPENCV_DISTRIBUTIONS = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
"""OpenCV's packages on PyPI; all of them provide the same ``cv2``."""

VECTOR_FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16"),
)
"""CPU features that decide how fast FP32 and INT8 run."""


def describe_host() -> dict[str, str]:
    """Return what a reader needs to know to trust or repeat a measurement, as text by name."""
    memory = memory_bytes()
    facts = {
        "cpu": cpu_name(),
        "cores": str(compute_cores()),
        "vector units": ", ".join(vector_units()) or "unknown",
        "memory": f"{memory / 2**30:.1f} GiB" if memory else "unknown",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load average": load_average(),
    }
    for package in (*PACKAGES, opencv_distribution()):
        version = installed_version(package)
        if version is not None:
            facts[package] = version
    return facts


def in_container(root: Path = _ROOT) -> bool:
    """Whether this is a container, by the files that Docker and Podman put into each.

    Args:
        root: Where the file system starts.
    """
    return any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv"))


def opencv_distribution() -> str:
    """Return which of :data:`OPENCV_DISTRIBUTIONS` is installed, the first where none is."""
    return next((name for name in OPENCV_DISTRIBUTIONS if installed_version(name)), OPENCV_DISTRIBUTIONS[0])


def compute_cores(*, root: Path = _ROOT, allowed: Collection[int] | None = None) -> int:
    """Return the number of physical cores that this process may use: never less than 1.

    Counts each core once however many hardware threads it has, because both threads of a core share one
    multiplier array, and honours CPU affinity and the CPU quota of a container.

    Args:
        root: Where the file system starts.
        allowed: Numbers of the hardware threads that may be used; ``None`` asks the system.
    """
    if allowed is None:
        linux = hasattr(os, "sched_getaffinity")
        allowed = os.sched_getaffinity(0) if linux else range(os.cpu_count() or 1)
    cores = {_siblings(root, cpu) for cpu in allowed}
    quota = _quota(root)
    return max(1, len(cores) if quota is None else min(len(cores), quota))


def cpu_name() -> str:
    """Return the CPU's name."""
    for line in _cpuinfo():
        if line.startswith(("model name", "Model")):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def vector_units() -> tuple[str, ...]:
    """Return which of :data:`VECTOR_FLAGS` the CPU has."""
    for line in _cpuinfo():
        if line.startswith(("flags", "Features")):
            flags = set(line.split(":", 1)[1].split())
            return tuple(flag for flag in VECTOR_FLAGS if flag in flags)
    return ()


def has_integer_dot_product(units: Collection[str] | None = None) -> bool:
    """Whether a CPU multiplies INT8 faster than FP32 (VNNI, AMX or ARM dot product); by default this one."""
    return not set(vector_units() if units is None else units).isdisjoint(
        {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}
    )


def has_bf16() -> bool:
    """Whether this CPU computes in BF16."""
    return not set(vector_units()).isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def memory_bytes() -> int | None:
    """Return the size of main memory, or ``None`` where the system does not say."""
    return _meminfo("MemTotal")


def available_memory_bytes(root: Path = _ROOT, *, address_space: int | None = None) -> int | None:
    """Return the memory that can be taken without swapping, or ``None`` where the system does not say.

    Where a control group (version 1 or 2: containers, systemd) or a limit of the address space (``ulimit
    -v``) leaves less, it is that.

    Args:
        root: Where the file system starts.
        address_space: Bytes that this process may map; its own limit where ``None``.
    """
    known = [_meminfo("MemAvailable", root)]
    for group, most, used, cached in _memory_groups(root):
        with suppress(OSError, ValueError):
            limit = int((group / most).read_text())  # "max" is none
            taken = int((group / used).read_text())
            # Files that the system keeps in memory count as used, and give way.
            with suppress(OSError, ValueError, IndexError):
                lines = (group / "memory.stat").read_text().splitlines()
                taken -= next(int(line.split()[1]) for line in lines if line.startswith(f"{cached} "))
            known.append(max(0, limit - max(0, taken)))
    most_mapped = _address_space() if address_space is None else address_space
    mapped = _field(root / "proc/self/status", "VmSize")
    if most_mapped is not None and mapped is not None:
        known.append(max(0, most_mapped - mapped))
    return min((value for value in known if value is not None), default=None)


def _address_space() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _memory_groups(root: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Yield the control groups of this process, with the names of their files: limit, use, file cache."""
    base = root / "sys/fs/cgroup"
    own = {"": "/", "memory": "/"}
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            own.update(dict.fromkeys(set(controllers.split(",")) & {"", "memory"}, path))
    version_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    version_2 = ("memory.max", "memory.current", "inactive_file")
    for controller, top, names in (("", base, version_2), ("memory", base / "memory", version_1)):
        inside = top / own[controller].strip("/")
        for group in (inside, *(each for each in inside.parents if each.is_relative_to(top))):
            yield (group, *names)


def peak_memory_bytes() -> int | None:
    """Return the largest resident memory of this process so far, or ``None`` where it is not known.

    Not ``getrusage``: its figure survives ``exec``, so a child would report its parent's.
    """
    return _field(Path("/proc/self/status"), "VmHWM")


def busy_cpu_seconds(root: Path = _ROOT) -> float | None:
    """Return how long all CPUs together have worked since the start, or ``None`` where that is not known.

    Of the machine, also in a container, and with what a hypervisor took.

    Args:
        root: Where the file system starts.
    """
    try:
        line = (root / "proc/stat").read_text(encoding="utf-8").splitlines()[0]
        user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, line.split()[1:9])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def load_average() -> str:
    """Return the one-minute load average; other work on the machine makes timings worse."""
    try:
        return f"{os.getloadavg()[0]:.2f}"
    except OSError:
        return "unknown"


def _cpuinfo() -> list[str]:
    return text_or_nothing(Path("/proc/cpuinfo")).splitlines()


def _meminfo(key: str, root: Path = _ROOT) -> int | None:
    return _field(root / "proc/meminfo", key)


def _field(path: Path, key: str) -> int | None:
    """Return the bytes that a line ``KEY:   NUMBER kB`` states."""
    for line in text_or_nothing(path).splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return None


def _siblings(root: Path, cpu: int) -> str:
    path = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    return text_or_nothing(path) or str(cpu)


def _quota(root: Path) -> int | None:
    """Return the whole cores that the control group (version 2) grants, rounded up; ``None`` if unlimited."""
    try:
        granted, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
        return None if granted == "max" else math.ceil(int(granted) / int(period))
    except (OSError, ValueError):
        return None
