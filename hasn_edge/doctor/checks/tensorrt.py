"""Checks of TensorRT: where it is, what it lacks, which versions fail, engines that it will not run."""

from __future__ import annotations

from collections.abc import Iterator

from hasn_edge.artifact import load_artifact
from hasn_edge.doctor.commands import (
    apt_install,
    make_virtual_environment,
    on_board,
    replace_tensorrt,
    start_container,
)
from hasn_edge.doctor.environment import Environment
from hasn_edge.doctor.match import match_profile
from hasn_edge.doctor.result import CheckResult, State
from hasn_edge.engine.compatibility import require_compatible
from hasn_edge.engine.engine_file import read_plan_header
from hasn_edge.engine.known_issues import Severity, known_issues
from hasn_edge.engine.target import EngineRuntime
from hasn_edge.errors import Cure, HasnEdgeError, call, say, shell
from hasn_edge.hardware.gpu import tensorrt_extra
from hasn_edge.optional import version_tuple

LEAST_PYTHON = (3, 10)
"""What hasn-edge runs on: JetPack 6 and newer have it, JetPack 5 has 3.8."""

DRIVERS = {"13": (580, "13.0"), "12": (525, "12.0")}
"""Oldest driver, and its CUDA, by the CUDA that a TensorRT was built with; from the release notes of CUDA."""

DRIVER_11 = (535, "12.2")
"""What TensorRT 11 for CUDA 12 needs; NVIDIA's prerequisites of TensorRT 11.4."""

SOURCES = "github.com/NVIDIA/TensorRT, branch release/8.5, folder python"
TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
"""The two ways that JetPack 5 leaves, whose TensorRT is for Python 3.8; engines/README.md describes them."""

VOLTA, TURING = (7, 0), (7, 5)
OLDEST = (((10, 5), TURING, "tensorrt-cu12<10.5"), ((10,), VOLTA, "tensorrt==8.6.1"))
"""From which TensorRT on, the compute capability of the oldest generation that it runs on, and the newest one
before it; NVIDIA's release notes of 10.5 and support matrix of 10.1."""


def not_visible(environment: Environment) -> Iterator[CheckResult]:
    """JetPack's TensorRT lies in the system's Python; an environment or another Python does not see it."""
    if environment.l4t is None or "tensorrt" in environment.modules:
        return
    system = environment.system_packages("tensorrt")
    mine = _dotted(environment.python)
    if not system:
        detail = "not installed on this Jetson; it comes with JetPack, not from pip"
        cures: tuple[Cure, ...] = (shell(apt_install(environment, "python3-libnvinfer")),)
    elif environment.python in system:
        detail = f"JetPack's is in {system[environment.python]}, where this Python does not look"
        cures = (shell(make_virtual_environment(environment, environment.python)),)
    elif max(system) >= LEAST_PYTHON:
        detail = f"JetPack's is for Python {_dotted(max(system))}; this is Python {mine}"
        cures = (shell(make_virtual_environment(environment, max(system))),)
    else:
        detail = (
            f"JetPack's is for Python {_dotted(max(system))}, and hasn-edge needs {_dotted(LEAST_PYTHON)} or "
            f"newer; {TRTEXEC} --onnx=FILE --fp16 --saveEngine=FILE (and --int8 for INT8) compiles the "
            "weakly typed graph of a portable build without hasn-edge and its checks"
        )
        cures = (
            say(f"build TensorRT's Python module for {mine} from its sources ({SOURCES})"),
            call("build", target="portable"),
        )
    yield CheckResult(name="tensorrt", state=State.MISSING, detail=detail, cures=cures)


def shadowed(environment: Environment) -> Iterator[CheckResult]:
    """On a Jetson, pip's TensorRT is found before JetPack's, and made for another kind of machine."""
    place = environment.modules.get("tensorrt")
    if environment.l4t is None or place is None or "dist-packages" in place.parts:
        return
    uninstall = "pip freeze | grep -i ^tensorrt | xargs pip uninstall -y"
    if environment.system_packages("tensorrt"):
        why = "hides JetPack's"
    elif environment.old_jetson:
        why = f"is built for servers; Jetson Linux {environment.l4t} runs JetPack's only"
        uninstall += f"; {apt_install(environment, 'python3-libnvinfer')}"
    else:
        return
    yield CheckResult(
        name="tensorrt from pip",
        state=State.WARNING,
        detail=f"{environment.tensorrt or 'the one'} in {place} {why}",
        cures=(shell(uninstall),),
    )


def missing_libraries(environment: Environment) -> Iterator[CheckResult]:
    """A library that TensorRT's Python module needs is not on the machine: importing it fails."""
    if not environment.missing_libraries:
        return
    names = ", ".join(f"{lack.name} (for {lack.needed_by})" for lack in environment.missing_libraries)
    yield CheckResult(
        name="tensorrt's libraries",
        state=State.MISSING,
        detail=f"importing TensorRT fails without {names}",
        cures=_library_cures(environment),
    )


def bad_version(environment: Environment) -> Iterator[CheckResult]:
    """Versions of TensorRT that are reported to fail here."""
    if environment.tensorrt is None:
        return
    for entry in known_issues(environment.tensorrt, gpu=environment.gpu):
        if entry.numpy and version_tuple(environment.versions.get("numpy", "0")) < version_tuple(entry.numpy):
            continue
        yield CheckResult(
            name=f"tensorrt {environment.tensorrt}",
            state=State.INFO if entry.severity is Severity.AVOIDED else State.WARNING,
            detail=f"{entry.what} ({entry.source})",
            cures=entry.cures,
        )


def not_for_this_board(environment: Environment) -> Iterator[CheckResult]:
    """A TensorRT that NVIDIA does not name for this board."""
    known = match_profile(environment)
    if known is None or environment.tensorrt is None or environment.tensorrt in known.profile.tensorrt:
        return
    yield CheckResult(
        name=f"tensorrt {environment.tensorrt}",
        state=State.WARNING,
        detail=f"{known.profile.title}{'' if known.exact else ', the nearest to this one,'} is known to run "
        f"TensorRT {known.profile.tensorrt}",
        cures=(
            say("install a version in that range; with another, run 'hasn-edge bench' before trusting it"),
        ),
    )


def too_old_gpu(environment: Environment) -> Iterator[CheckResult]:
    """TensorRT 10 left out the GPUs before Volta, 10.5 those before Turing."""
    gpu, version = environment.gpu, environment.tensorrt
    if gpu is None or version is None:
        return
    capability = version_tuple(gpu.compute_capability)
    for first, least, _ in OLDEST:
        if version_tuple(version) < first or capability >= least:
            continue
        # Of what runs on it the newest: the last entry that is too new for it.
        before = next(older for _, oldest, older in reversed(OLDEST) if capability < oldest)
        install = replace_tensorrt(before)
        yield CheckResult(
            name=f"tensorrt {version}",
            state=State.WARNING,
            detail=f"runs on GPUs of compute capability {_dotted(least)} and newer; here is {gpu.title}",
            cures=(shell(apt_install(environment, "python3-libnvinfer") if environment.l4t else install),),
        )
        return


def lean_without_driver(environment: Environment) -> Iterator[CheckResult]:
    """The lean and dispatch runtimes crash the process where there is no driver, instead of raising."""
    present = [name for name in ("tensorrt_lean", "tensorrt_dispatch") if name in environment.modules]
    if present and not environment.driver:
        yield CheckResult(
            name=present[0],
            state=State.WARNING,
            detail="no NVIDIA driver here: loading an engine with it crashes Python; hasn-edge looks for the "
            "driver first, other programs may not",
            cures=(say("use it where there is a driver; in a container start it with --gpus all"),),
        )


def old_driver(environment: Environment) -> Iterator[CheckResult]:
    """A TensorRT is built for a newer CUDA than the driver runs: pip's own choice is CUDA 13."""
    gpu = environment.gpu
    if gpu is None or environment.l4t is not None:
        return
    for name, (number, needs), rtx in _drivers_of_packages(environment):
        driver = gpu.driver
        have, least = (driver, str(number)) if driver else (gpu.cuda, needs)
        if version_tuple(have) >= version_tuple(least):
            continue
        cures: tuple[Cure, ...] = (say(f"install driver {number} or newer"),)
        if version_tuple(gpu.cuda) >= (12,):
            extra = "rtx-cu12" if rtx else "tensorrt-cu12"
            other = (
                "tensorrt-cu12<11" if not rtx and version_tuple(gpu.cuda) < (12, 2) else f"hasn-edge[{extra}]"
            )
            cures = (*cures, shell(replace_tensorrt(other, rtx=rtx)))
        yield CheckResult(
            name="NVIDIA driver",
            state=State.WARNING,
            detail=f"{f'{driver}, ' if driver else ''}for CUDA {gpu.cuda}; {name} needs driver "
            f"{number} or newer (CUDA {needs})",
            cures=cures,
        )


def stale_engines(environment: Environment) -> Iterator[CheckResult]:
    """Built engines that this GPU or this TensorRT will not run."""
    if environment.gpu is None:
        return  # nothing to compare with, and nothing to run them on
    versions = {EngineRuntime.TENSORRT: environment.tensorrt, EngineRuntime.RTX: environment.rtx}
    for path in sorted(environment.engines.glob("*.engine")):
        try:
            header = read_plan_header(path)
            artifact = load_artifact(path)
            require_compatible(artifact, gpu=environment.gpu, runtime_version=versions[header.runtime])
        except HasnEdgeError as exc:
            yield CheckResult(
                name=path.name,
                state=State.WARNING,
                detail=exc.message,
                cures=exc.cures or (say("remove it"), call("build")),
            )


def _library_cures(environment: Environment) -> tuple[Cure, ...]:
    names = [lack.name for lack in environment.missing_libraries]
    if any(name.startswith("libnvdla") for name in names):
        # Containers borrow it from the board, which has none from JetPack 7.2 on: TensorRT 10.16 needs none.
        if environment.container and not environment.old_jetson:
            return (
                say(
                    "take a base image with the board's own TensorRT, 10.16 or newer: this image's is of an "
                    "older JetPack, and the board has no such library to lend"
                ),
            )
        return (on_board(environment, "sudo apt install nvidia-l4t-dla-compiler"),)
    if environment.l4t is not None:
        if environment.container:
            return start_container(environment), say("take a base image that has TensorRT's libraries")
        return (shell("sudo apt install --reinstall nvidia-jetpack"),)
    if any(name.startswith("libcuda.so") for name in names):
        return say("install NVIDIA's driver"), say(f"for a container {start_container(environment)}")
    # One for another CUDA has the same files.
    cuda = _cuda_of_package(environment)
    package = tensorrt_extra("tensorrt", environment.gpu) if cuda is None else f"tensorrt-cu{cuda}"
    return (shell(f"pip install --force-reinstall {package}"),)


def _cuda_of_package(environment: Environment) -> str | None:
    """Return the CUDA that pip's TensorRT here was built with; ``None`` where it is not from pip."""
    return next((cuda for cuda in DRIVERS if f"tensorrt-cu{cuda}-bindings" in environment.versions), None)


def _drivers_of_packages(environment: Environment) -> Iterator[tuple[str, tuple[int, str], bool]]:
    """Yield of each TensorRT its title, the driver that it needs, and whether it is the one for RTX."""
    version = environment.tensorrt
    if version is not None:
        new = version_tuple(version) >= (11,)
        cuda = _cuda_of_package(environment)
        if cuda is not None or new:  # the system's packages do not tell
            yield f"TensorRT {version}", DRIVER_11 if new and cuda == "12" else DRIVERS[cuda or "13"], False
    rtx = environment.versions.get("tensorrt-rtx-cu13-bindings")
    if rtx is not None:
        yield f"TensorRT for RTX {rtx} for CUDA 13", DRIVERS["13"], True


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
