"""Traps of TensorRT: where it is, what it lacks, which versions fail, and engines that it will not run."""

from __future__ import annotations

from collections.abc import Iterator

from hasn_edge.artifact import load_artifact
from hasn_edge.doctor.environment import Machine
from hasn_edge.doctor.match import recognise
from hasn_edge.doctor.result import Finding, State
from hasn_edge.engine.capabilities import version_tuple
from hasn_edge.engine.compatibility import rebuild_advice, require_compatible
from hasn_edge.engine.engine_file import read_plan_header
from hasn_edge.engine.known_issues import Severity, known_problems
from hasn_edge.engine.target import EngineRuntime
from hasn_edge.errors import HasnEdgeError

LEAST_PYTHON = (3, 10)
"""What hasn-edge runs on: JetPack 6 and newer have it, JetPack 5 has 3.8."""

DRIVERS = {"13": (580, "13.0"), "12": (535, "12.2")}
"""Oldest driver, and its CUDA, for TensorRT 11 by the CUDA that it was built with; from NVIDIA's
prerequisites of TensorRT 11.4 and the release notes of CUDA 13."""

SOURCES = "github.com/NVIDIA/TensorRT, branch release/8.5, folder python"
TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
"""The two ways that JetPack 5 leaves, whose TensorRT is for Python 3.8; engines/README.md describes them."""

TURING = (7, 5)
"""Compute capability of the oldest generation that TensorRT 11 supports; NVIDIA's prerequisites."""

SERVER_BUILDS = 39
"""From this release on, Jetson Linux runs what is built for ARM servers, such as the packages on PyPI."""


def not_visible(machine: Machine) -> Iterator[Finding]:
    """JetPack's TensorRT lies in the system's Python; an environment or another Python does not see it."""
    if machine.l4t is None or "tensorrt" in machine.modules:
        return
    system = machine.system_packages("tensorrt")
    mine = _dotted(machine.python)
    if not system:
        detail = "not installed on this Jetson; it comes with JetPack, not from pip"
        cure = "sudo apt install python3-libnvinfer"
    elif machine.python in system:
        detail = f"JetPack's is in {system[machine.python]}, where this Python does not look"
        cure = f"make the environment anew: /usr/bin/python{mine} -m venv --system-site-packages .venv"
    elif max(system) >= LEAST_PYTHON:
        detail = f"JetPack's is for Python {_dotted(max(system))}; this is Python {mine}"
        cure = (
            "make an environment of JetPack's Python: "
            f"/usr/bin/python{_dotted(max(system))} -m venv --system-site-packages .venv"
        )
    else:
        detail = (
            f"JetPack's is for Python {_dotted(max(system))}, and hasn-edge needs {_dotted(LEAST_PYTHON)} or "
            "newer"
        )
        cure = (
            f"build TensorRT's Python module for {mine} from its sources ({SOURCES}); or compile the "
            f"weakly typed graph of 'hasn-edge build --target portable' with {TRTEXEC} --onnx=FILE --fp16 "
            "--saveEngine=FILE, and --int8 for an INT8 one, without what hasn-edge checks"
        )
    yield Finding(name="tensorrt", state=State.MISSING, detail=detail, cure=cure)


def shadowed(machine: Machine) -> Iterator[Finding]:
    """On a Jetson, pip's TensorRT is found before JetPack's, and made for another kind of machine."""
    place = machine.modules.get("tensorrt")
    if machine.l4t is None or place is None or "dist-packages" in place.parts:
        return
    if machine.system_packages("tensorrt"):
        why = "hides JetPack's"
    elif int(machine.l4t.split(".")[0]) < SERVER_BUILDS:
        why = f"is built for servers; Jetson Linux {machine.l4t} runs JetPack's only"
    else:
        return
    yield Finding(
        name="tensorrt from pip",
        state=State.WARNING,
        detail=f"{machine.tensorrt or 'the one'} in {place} {why}",
        cure="pip freeze | grep -i ^tensorrt | xargs pip uninstall -y; sudo apt install python3-libnvinfer",
    )


def missing_libraries(machine: Machine) -> Iterator[Finding]:
    """A library that TensorRT's Python module needs is not on the machine: importing it fails."""
    if not machine.missing:
        return
    names = ", ".join(f"{lack.name} (for {lack.needed_by})" for lack in machine.missing)
    yield Finding(
        name="tensorrt's libraries",
        state=State.MISSING,
        detail=f"importing TensorRT fails without {names}",
        cure=_library_cure(machine),
    )


def bad_version(machine: Machine) -> Iterator[Finding]:
    """Versions of TensorRT that are reported to fail here."""
    if machine.tensorrt is None:
        return
    for entry in known_problems(machine.tensorrt, gpu=machine.gpu):
        if entry.name.startswith("nptype") and version_tuple(machine.versions.get("numpy", "0")) < (1, 24):
            continue  # the clash takes both
        yield Finding(
            name=f"tensorrt {machine.tensorrt}",
            state=State.INFO if entry.severity is Severity.AVOIDED else State.WARNING,
            detail=f"{entry.what} ({entry.source})",
            cure=entry.cure,
        )


def not_for_this_board(machine: Machine) -> Iterator[Finding]:
    """A TensorRT that NVIDIA does not name for this board."""
    known = recognise(machine)
    if known is None or machine.tensorrt is None or machine.tensorrt in known.profile.tensorrt:
        return
    yield Finding(
        name=f"tensorrt {machine.tensorrt}",
        state=State.WARNING,
        detail=f"{known.profile.title}{'' if known.exact else ', the nearest to this one,'} is known to run "
        f"TensorRT {known.profile.tensorrt}",
        cure="install a version in that range; with another, run 'hasn-edge bench' before trusting it",
    )


def too_old_gpu(machine: Machine) -> Iterator[Finding]:
    """TensorRT 11 left out the GPUs before Turing."""
    gpu = machine.gpu
    if gpu is None or machine.tensorrt is None or version_tuple(machine.tensorrt) < (11,):
        return
    if version_tuple(gpu.compute_capability) < TURING:
        yield Finding(
            name=f"tensorrt {machine.tensorrt}",
            state=State.WARNING,
            detail=f"runs on Turing and newer GPUs (compute capability {_dotted(TURING)}); here is "
            f"{gpu.title}",
            cure="install JetPack's own TensorRT: sudo apt install python3-libnvinfer"
            if machine.l4t
            else "install an older TensorRT: pip install 'tensorrt<11'",
        )


def lean_without_driver(machine: Machine) -> Iterator[Finding]:
    """The lean and dispatch runtimes crash the process where there is no driver, instead of raising."""
    present = [name for name in ("tensorrt_lean", "tensorrt_dispatch") if name in machine.modules]
    if present and not machine.driver:
        yield Finding(
            name=present[0],
            state=State.WARNING,
            detail="no NVIDIA driver here: loading an engine with it crashes Python; hasn-edge looks for the "
            "driver first, other programs may not",
            cure="use it where there is a driver; in a container start it with --gpus all",
        )


def old_driver(machine: Machine) -> Iterator[Finding]:
    """TensorRT 11, and what is built for CUDA 13, need a newer driver than this one."""
    if machine.gpu is None or machine.l4t is not None:
        return
    for name, cuda in _cuda_of_packages(machine):
        number, needs = DRIVERS[cuda]
        driver = machine.gpu.driver
        have, least = (driver, str(number)) if driver else (machine.gpu.cuda, needs)
        if version_tuple(have) < version_tuple(least):
            yield Finding(
                name="NVIDIA driver",
                state=State.WARNING,
                detail=f"{f'{driver}, ' if driver else ''}for CUDA {machine.gpu.cuda}; {name} needs driver "
                f"{number} or newer (CUDA {needs})",
                cure=f"install driver {number} or newer, or an older TensorRT: pip install 'tensorrt<11'",
            )


def stale_engines(machine: Machine) -> Iterator[Finding]:
    """Built engines that this GPU or this TensorRT will not run."""
    if machine.gpu is None:
        return  # nothing to compare with, and nothing to run them on
    versions = {EngineRuntime.TENSORRT: machine.tensorrt, EngineRuntime.RTX: machine.rtx}
    for path in sorted(machine.engines.glob("*.engine")):
        cure = "remove it, and build it again with 'hasn-edge build'"
        try:
            header = read_plan_header(path)
            artifact = load_artifact(path)
            cure = rebuild_advice(artifact, gpu=machine.gpu)
            require_compatible(artifact, gpu=machine.gpu, runtime_version=versions[header.runtime])
        except HasnEdgeError as exc:
            said = str(exc).removeprefix(f"{path}: ").split(". Build it again on this machine:")[0]
            yield Finding(name=str(path), state=State.WARNING, detail=said, cure=cure)


def _library_cure(machine: Machine) -> str:
    names = [lack.name for lack in machine.missing]
    if any(name.startswith("libnvdla") for name in names):
        return (
            "sudo apt install nvidia-l4t-dla-compiler, on the Jetson itself also where TensorRT runs in a "
            "container: the container borrows that library from it"
        )
    if machine.l4t is not None:
        return "sudo apt install --reinstall nvidia-jetpack; start a container with --runtime nvidia"
    if any(name.startswith("libcuda.so") for name in names):
        return "install NVIDIA's driver; start a container with --gpus all"
    return "pip install --force-reinstall tensorrt"


def _cuda_of_packages(machine: Machine) -> Iterator[tuple[str, str]]:
    """Yield the installed TensorRTs that ask for a new driver, and the CUDA that each was built with."""
    if machine.tensorrt is not None and version_tuple(machine.tensorrt) >= (11,):
        cuda = "12" if "tensorrt-cu12-bindings" in machine.versions else "13"
        yield f"TensorRT {machine.tensorrt}", cuda
    rtx = machine.versions.get("tensorrt-rtx-cu13-bindings")
    if rtx is not None:
        yield f"TensorRT for RTX {rtx} for CUDA 13", "13"


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
