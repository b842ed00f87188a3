"""The machine as the doctor sees it: plain values, looked up once, so that any machine can be described."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hasn_edge.doctor.libraries import Missing, loader_folders, missing_libraries
from hasn_edge.hardware import host
from hasn_edge.hardware.gpu import GpuFacts, gpu_facts, load_driver
from hasn_edge.hardware.jetson import Jetson
from hasn_edge.optional import installed_version

MODULES = (
    "cuda",
    "cv2",
    "onnx",
    "onnxruntime",
    "onnxsim",
    "pycuda",
    "safetensors",
    "tensorrt",
    "tensorrt_dispatch",
    "tensorrt_lean",
    "tensorrt_rtx",
    "tensorrt_rtx_bindings",
    "torch",
)
"""Modules whose place is looked up."""

DISTRIBUTIONS = (
    "cuda-python",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxsim",
    "pycuda",
    "safetensors",
    "tensorrt",
    "tensorrt-cu12-bindings",
    "tensorrt-cu13-bindings",
    "tensorrt-rtx-cu12-bindings",
    "tensorrt-rtx-cu13-bindings",
    "torch",
)
"""Distributions whose versions are looked up, besides OpenCV's."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine and one Python on it. The defaults describe a bare one; a test adds what it needs."""

    root: Path = Path("/")
    """Where the file system starts."""
    architecture: str = "x86_64"
    python: tuple[int, int] = (3, 12)
    virtual_environment: bool = False
    modules: Mapping[str, Path] = field(default_factory=dict)
    """Folder or file of each importable module of :data:`MODULES`."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Version of each installed distribution of :data:`DISTRIBUTIONS` and of the OpenCV that is used."""
    missing: tuple[Missing, ...] = ()
    """Libraries that TensorRT's Python module needs and that are not here."""
    opencv_build: str | None = None
    """What OpenCV says about how it was built; its error where it cannot be imported; ``None`` without it."""
    driver: bool = False
    """NVIDIA's driver library can be loaded."""
    gpu: GpuFacts | None = None
    jetson: Mapping[str, Any] | None = None
    """What :meth:`hasn_edge.hardware.jetson.Jetson.facts` returns; ``None`` elsewhere."""
    memory_bytes: int | None = None
    swaps: tuple[tuple[str, int], ...] = ()
    """Name and size in bytes of each swap area."""
    engines: Path = Path("engines")
    """Folder of built engines."""

    @property
    def l4t(self) -> str | None:
        """Release of Jetson Linux."""
        return None if self.jetson is None else self.jetson.get("l4t")

    @property
    def tensorrt(self) -> str | None:
        """Version of the importable TensorRT, which need not be a distribution's."""
        return self.versions.get("tensorrt") if "tensorrt" in self.modules else None

    @property
    def rtx(self) -> str | None:
        """Version of TensorRT for RTX."""
        return next((v for name, v in self.versions.items() if name.startswith("tensorrt-rtx-")), None)

    def system_packages(self, name: str) -> dict[tuple[int, int], Path]:
        """Return where the system's package manager put a Python package, by version of Python.

        The folder ``python3`` that all versions share counts as this Python's.
        """
        found = {}
        for path in sorted((self.root / "usr/lib").glob(f"python3*/dist-packages/{name}")):
            digits = re.fullmatch(r"python3(?:\.(\d+))?", path.parts[-3])
            if digits:
                found[(3, int(digits[1])) if digits[1] else self.python] = path
        return found


def look(root: Path = Path("/"), *, engines: Path = Path("engines")) -> Machine:
    """Look at this machine. Nothing is changed, no heavy library is loaded into this process.

    Args:
        root: Where the file system starts.
        engines: Folder of built engines.
    """
    modules = {name: place for name in MODULES if (place := _place(name)) is not None}
    opencv = host.opencv_distribution()
    versions = {name: v for name in (*DISTRIBUTIONS, opencv) if (v := installed_version(name)) is not None}
    if (
        "tensorrt" in modules
        and "tensorrt" not in versions
        and (said := _stated_version(modules["tensorrt"]))
    ):
        versions["tensorrt"] = said
    jetson = Jetson(root)
    return Machine(
        root=root,
        architecture=platform.machine(),
        python=sys.version_info[:2],
        virtual_environment=sys.prefix != sys.base_prefix,
        modules=modules,
        versions=versions,
        missing=_missing(modules, root),
        opencv_build=_opencv_build() if "cv2" in modules else None,
        driver=load_driver() is not None,
        gpu=gpu_facts(),
        jetson=jetson.facts().values if jetson.present else None,
        memory_bytes=host.memory_bytes(),
        swaps=_swaps(root / "proc/swaps"),
        engines=engines,
    )


def _place(module: str) -> Path | None:
    """Return the folder of a package or the file of a module, without importing it."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if found is None:
        return None
    if found.submodule_search_locations:
        return Path(next(iter(found.submodule_search_locations)))
    return Path(found.origin) if found.origin else None


def _stated_version(package: Path) -> str | None:
    try:
        text = (package / "__init__.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"""^__version__ = ["']([\d.]+)""", text, re.MULTILINE)
    return found[1] if found else None


def _missing(modules: Mapping[str, Path], root: Path) -> tuple[Missing, ...]:
    """Return what TensorRT's binary module lacks. pip's wheels bring the libraries in folders beside it."""
    package = modules.get("tensorrt")
    if package is None:
        return ()
    beside = package.parent
    wheels = [beside / "tensorrt_libs", *sorted(beside.glob("nvidia/*/lib"))]
    folders = [*wheels, *loader_folders(root, os.environ.get("LD_LIBRARY_PATH", ""))]
    places = (package, beside / "tensorrt_bindings")
    binaries = [path for place in places for path in sorted(place.glob("tensorrt*.so"))]
    return missing_libraries(binaries[0], folders) if binaries else ()


def _opencv_build() -> str:
    """Ask OpenCV how it was built, in a process of its own: importing it can fail, and takes memory."""
    code = "import cv2; print(cv2.getBuildInformation())"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"error: {exc}"
    if done.returncode != 0:
        return "error: " + (done.stderr.strip().splitlines() or ["it crashed"])[-1]
    return done.stdout


def _swaps(path: Path) -> tuple[tuple[str, int], ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
    except OSError:
        return ()
    words = [line.split() for line in lines]
    return tuple((word[0], int(word[2]) * 1024) for word in words if len(word) >= 3 and word[2].isdecimal())
