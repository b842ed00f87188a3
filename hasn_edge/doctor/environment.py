"""The machine and its Python as plain values, collected once, so that any machine can be described."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hasn_edge.engine.worker_process import run_python
from hasn_edge.errors import BuildError, HasnEdgeError
from hasn_edge.hardware import host
from hasn_edge.hardware.gpu import SERVER_RELEASE, GpuFacts, driver_present, gpu_facts
from hasn_edge.hardware.jetson import Jetson
from hasn_edge.hardware.readings import text_or_nothing
from hasn_edge.optional import installed_version, version_tuple
from hasn_edge.runtime.cuda.start import start_cuda

MODULES = (
    "av",
    "cv2",
    "PIL",
    "onnx",
    "onnxruntime",
    "onnxsim",
    "openvino",
    "safetensors",
    "tensorrt",
    "tensorrt_dispatch",
    "tensorrt_lean",
    "tensorrt_rtx",
    "tensorrt_rtx_bindings",
    "torch",
    "websockets",
)
"""Modules whose place is looked up."""

DISTRIBUTIONS = (
    "av",
    "cuda-bindings",
    "cuda-python",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxsim",
    "openvino",
    "pillow",
    "safetensors",
    "tensorrt",
    "tensorrt-cu12-bindings",
    "tensorrt-cu13-bindings",
    "tensorrt-rtx-cu12-bindings",
    "tensorrt-rtx-cu13-bindings",
    "torch",
    "websockets",
)
"""Distributions whose versions are looked up, besides OpenCV's."""


@dataclass(frozen=True)
class MissingLibrary:
    """A library that is needed and not found."""

    name: str
    needed_by: str


@dataclass(frozen=True, kw_only=True)
class Environment:
    """One machine and one Python on it. The defaults describe a bare one; a test adds what it needs."""

    root: Path = Path("/")
    """Where the file system starts."""
    container: bool = False
    """It is a container, whose file system and packages are those of its image."""
    cpu: str = "unknown"
    cores: int = 1
    """Physical ones that this process may use."""
    vector_units: tuple[str, ...] = ()
    """Those of :data:`hasn_edge.hardware.host.VECTOR_FLAGS` that the CPU has."""
    python: tuple[int, int] = (3, 12)
    virtual_environment: bool = False
    modules: Mapping[str, Path] = field(default_factory=dict)
    """Folder or file of each importable module of :data:`MODULES`."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Version of each installed distribution of :data:`DISTRIBUTIONS` and of the OpenCV that is used."""
    missing_libraries: tuple[MissingLibrary, ...] = ()
    """What TensorRT's Python module needs and the loader does not find."""
    opencv_build: str | None = None
    """OpenCV's report of its build; ``None`` where it is not installed or cannot be imported."""
    opencv_error: str | None = None
    """Why OpenCV, which is installed, cannot be imported."""
    encoders: tuple[str, ...] = ()
    """Names of FFmpeg's video encoders that PyAV has."""
    cameras: tuple[str, ...] = ()
    """Capture devices; some may be no cameras."""
    display: bool = False
    """There may be a screen that shows windows."""
    driver: bool = False
    """NVIDIA's driver library can be loaded."""
    gpu: GpuFacts | None = None
    cuda: str | None = None
    """The Python package through which CUDA's memory and streams start here, as an engine needs them."""
    cuda_error: HasnEdgeError | None = None
    """Why none does; ``None`` also where there is no GPU, so that none was tried."""
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
    def old_jetson(self) -> bool:
        """Whether it is a Jetson that does not run what is built for ARM servers: before JetPack 7.2."""
        return self.l4t is not None and version_tuple(self.l4t)[0] < SERVER_RELEASE

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

        That is a folder or, as Ubuntu's OpenCV, a binary module. The folder ``python3`` that all versions
        share counts as this Python's.
        """
        found = {}
        places = (self.root / "usr/lib").glob(f"python3*/dist-packages/{name}*")
        for path in sorted(path for path in places if path.name.split(".cpython-")[0] == name):
            digits = re.fullmatch(r"python3(?:\.(\d+))?", path.parts[-3])
            if digits:
                found[(3, int(digits[1])) if digits[1] else self.python] = path
        return found


def collect_environment(root: Path = Path("/"), *, engines: Path = Path("engines")) -> Environment:
    """Describe this machine. Nothing is changed, no heavy library is loaded into this process.

    Args:
        root: Where the file system starts.
        engines: Folder of built engines.
    """
    modules = {name: place for name in MODULES if (place := _place(name)) is not None}
    opencv = host.opencv_distribution()
    versions = {name: v for name in (*DISTRIBUTIONS, opencv) if (v := installed_version(name)) is not None}
    if "tensorrt" in modules and "tensorrt" not in versions:
        stated = _stated_version(modules["tensorrt"])
        versions |= {"tensorrt": stated} if stated else {}
    build, error = opencv_build() if "cv2" in modules else (None, None)
    gpu = gpu_facts()
    cuda, cuda_error = None, None
    if gpu is not None:
        try:
            cuda = start_cuda()
        except HasnEdgeError as exc:
            cuda_error = exc
    return Environment(
        root=root,
        container=host.in_container(root),
        cpu=host.cpu_name(),
        cores=host.compute_cores(),
        vector_units=host.vector_units(),
        python=sys.version_info[:2],
        virtual_environment=sys.prefix != sys.base_prefix,
        modules=modules,
        versions=versions,
        missing_libraries=_tensorrt_lacks(modules),
        opencv_build=build,
        opencv_error=error,
        encoders=video_encoders() if "av" in modules else (),
        cameras=tuple(
            sorted(map(str, (root / "dev").glob("video[0-9]*")), key=lambda name: (len(name), name))
        ),
        display=not sys.platform.startswith("linux")
        or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")),
        driver=driver_present(),
        gpu=gpu,
        cuda=cuda,
        cuda_error=cuda_error,
        jetson=jetson_facts(root, gpu),
        memory_bytes=host.memory_bytes(),
        swaps=_swaps(root / "proc/swaps"),
        engines=engines,
    )


def jetson_facts(root: Path, gpu: GpuFacts | None) -> Mapping[str, Any] | None:
    """Return what a Jetson's files state, ``None`` on another machine; its release also from its driver.

    Args:
        root: Where the file system starts.
        gpu: What the driver states, which tells more of the release than a container's files do.
    """
    jetson = Jetson(root)
    if not jetson.present:
        return None
    values = jetson.facts().values
    return {**values, "l4t": gpu.l4t} if gpu is not None and gpu.l4t else values


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
    text = text_or_nothing(package / "__init__.py")
    found = re.search(r"""^__version__ = ["']([\d.]+)""", text, re.MULTILINE)
    return found[1] if found else None


def _tensorrt_lacks(modules: Mapping[str, Path]) -> tuple[MissingLibrary, ...]:
    """Return what TensorRT's binary module lacks. pip's wheels bring the libraries in folders beside it."""
    package = modules.get("tensorrt")
    if package is None:
        return ()
    beside = package.parent
    places = (package, beside / "tensorrt_bindings")
    binaries = [path for place in places for path in sorted(place.glob("tensorrt*.so"))]
    wheels = [beside / "tensorrt_libs", *sorted(beside.glob("nvidia/*/lib"))]
    return missing_libraries(binaries[0], wheels) if binaries else ()


def missing_libraries(
    binary: Path, folders: Sequence[Path] = (), *, ldd: str = "ldd", timeout_s: float = 10.0
) -> tuple[MissingLibrary, ...]:
    """Return the libraries that a binary needs, itself or through others, and that the loader does not find.

    ``ldd`` asks the system's loader in a process of its own, which runs nothing of any library. A file of no
    bytes counts as missing: containers hold such placeholders for what the host should lend. The loader stops
    at the first of them.

    Args:
        binary: A shared object.
        folders: Where the loader looks first, before its own folders and what the files themselves name.
        ldd: The program.
        timeout_s: How long it may take; it needs some hundredths of a second.

    Returns:
        Nothing also where the loader cannot be asked: no ``ldd``, a file of another system.
    """
    searched = [*map(str, folders), *os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)]
    asked = {
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, searched)),
        "LD_DEBUG": "files",  # also states which file needs which
        "LC_ALL": "C",
    }
    try:
        done = subprocess.run(
            [ldd, str(binary)], capture_output=True, text=True, errors="replace", check=False,
            timeout=timeout_s, env={**os.environ, **asked},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ()
    output = f"{done.stdout}\n{done.stderr}"
    needed_by: dict[str, str] = {}
    for name, user in re.findall(r"file=(\S+) \[\d+\];  needed by (.+) \[\d+\]$", output, re.MULTILINE):
        needed_by.setdefault(name, Path(user).name)
    names = re.findall(r"^\s*(\S+) => not found", output, re.MULTILINE)
    names += [Path(path).name for path in re.findall(r"shared libraries: (.+): file too short", output)]
    return tuple(MissingLibrary(name, needed_by.get(name, binary.name)) for name in dict.fromkeys(names))


def opencv_build(python: str = sys.executable) -> tuple[str | None, str | None]:
    """Ask OpenCV how it was built, in a process of its own: importing it can fail, and takes memory.

    Returns:
        Its report, or ``None`` and why it cannot be imported.
    """
    return _run_python(python, "import cv2; print(cv2.getBuildInformation())")


def video_encoders(python: str = sys.executable) -> tuple[str, ...]:
    """Ask PyAV for FFmpeg's video encoders, in a process of its own; nothing where it cannot be imported."""
    code = (
        "import av\n"
        "for name in sorted(av.codecs_available):\n"
        "    try:\n"
        "        print(name if av.Codec(name, 'w').type == 'video' else '')\n"
        "    except ValueError:\n"
        "        pass"
    )
    output, _ = _run_python(python, code)
    return tuple((output or "").split())


def _run_python(python: str, code: str) -> tuple[str | None, str | None]:
    """Return what code prints; ``None`` and why where it fails."""
    # Libraries may crash or hang while Python ends, when all was said: nothing of them is run down.
    end = "import os, sys\nsys.stdout.flush()\nos._exit(0)"
    try:
        done = run_python("-c", f"{code}\n{end}", limit_s=60, python=python)
    except BuildError as exc:
        return None, exc.message
    if done.late or done.code != 0:
        why = "it did not answer" if done.late else "it crashed"
        return None, (done.errors.strip().splitlines() or [why])[-1]
    return done.output, None


def _swaps(path: Path) -> tuple[tuple[str, int], ...]:
    words = [line.split() for line in text_or_nothing(path).splitlines()[1:]]
    return tuple((word[0], int(word[2]) * 1024) for word in words if len(word) >= 3 and word[2].isdecimal())
