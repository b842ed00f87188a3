"""The commands that install things on this machine: boards, containers and desktops need different ones.

On a Jetson they are those of docs/jetson.md, with the limits of its sets of constraints.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hasn_edge.doctor.environment import Environment, jetson_facts
from hasn_edge.errors import Cure, shell
from hasn_edge.hardware.gpu import GpuFacts, gpu_facts, tensorrt_extra

CPU_TORCH = "torch<2.11"
"""Of which pip has a build for ARM's CPU; newer ones bring CUDA 13 for servers there."""

SYSTEM_NUMPY = "numpy<2"
"""What the OpenCV of JetPack and of Ubuntu was built for."""

EXTRAS = {
    "export": ("torch", "safetensors", "onnx"),
    "train": ("torch", "safetensors", "tensorboard", "matplotlib"),
    "video": ("av",),
    "demo": ("websockets",),
}
"""Packages of the extras that a Jetson may want."""


def pip_install(environment: Environment, extra: str) -> str:
    """Return the command that installs an extra of hasn-edge.

    On a Jetson it names the extra's packages: pip would also install what hasn-edge itself needs, an OpenCV
    that hides JetPack's and a NumPy that JetPack's OpenCV was not built for.
    """
    if environment.jetson is None:
        fitting = tensorrt_extra(extra, environment.gpu) if extra in ("rtx", "tensorrt") else extra
        return f"pip install 'hasn-edge[{fitting}]'"
    packages = [CPU_TORCH if one == "torch" and environment.old_jetson else one for one in EXTRAS[extra]]
    return f"pip install {' '.join(map(_quoted, (*packages, SYSTEM_NUMPY)))}"


def board_install(
    extra: str, *, root: Path = Path("/"), find_gpu: Callable[[], GpuFacts | None] = gpu_facts
) -> str | None:
    """Return what installs an extra on the Jetson that this is; ``None`` where that is the usual command.

    Args:
        extra: One of hasn-edge's.
        root: Where the file system starts.
        find_gpu: Asks the driver.
    """
    jetson = jetson_facts(root, find_gpu()) if extra in EXTRAS else None
    return None if jetson is None else pip_install(Environment(jetson=jetson), extra)


def _quoted(requirement: str) -> str:
    return f"'{requirement}'" if "<" in requirement else requirement


def apt_install(environment: Environment, *packages: str) -> str:
    """Return the command that installs the system's packages; images have no list of them, and no sudo."""
    apt = "apt-get update && apt-get install -y" if environment.container else "sudo apt install"
    return f"{apt} {' '.join(packages)}"


def make_virtual_environment(environment: Environment, python: tuple[int, int]) -> str:
    """Return the command that makes an environment in which the system's packages are found."""
    venv = f"/usr/bin/python{python[0]}.{python[1]} -m venv --clear --system-site-packages .venv"
    return f"{apt_install(environment, 'python3-venv')} && {venv} && . .venv/bin/activate"


def on_board(environment: Environment, command: str) -> Cure:
    """Return a command for the board's own system, which a container cannot change."""
    return shell(command, where="on the board, outside the container" if environment.container else "")


def start_container(environment: Environment) -> Cure:
    """Return the command that starts a container with its GPU; on a Jetson only root and a group use it."""
    gpu = "--runtime nvidia --group-add video" if environment.jetson is not None else "--gpus all"
    return shell(f"docker run --rm {gpu} hasn-edge doctor", where="outside the container")


def replace_tensorrt(requirement: str, *, rtx: bool = False) -> str:
    """Return the command that installs another TensorRT of pip's: those for other CUDAs have the same files.

    Args:
        requirement: What pip installs instead of what is here.
        rtx: It is TensorRT for RTX.
    """
    name = "tensorrt-rtx" if rtx else "tensorrt"
    parts = [f"{name}-cu{cuda}{part}" for cuda in (13, 12) for part in ("", "-bindings", "-libs")]
    return f"pip uninstall -y {name} {' '.join(parts)}; pip install '{requirement}'"
