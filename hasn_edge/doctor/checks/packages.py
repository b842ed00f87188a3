"""Traps of Python packages: OpenCV without cameras, no way to CUDA's memory, PyTorch without CUDA."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hasn_edge.doctor.environment import Machine
from hasn_edge.doctor.result import Finding, State
from hasn_edge.engine.capabilities import version_tuple
from hasn_edge.hardware.gpu import cuda_python_install

_OPENCV_WHEELS = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
)


def cuda_backend(machine: Machine) -> Iterator[Finding]:
    """Engines need one package for CUDA's memory and streams, and CUDA graphs need another than pycuda."""
    if machine.gpu is None:
        return
    newest = int(machine.gpu.cuda.split(".")[0])
    install = cuda_python_install(machine.gpu)
    present = cuda_backends(machine)
    if not present:
        yield Finding(
            name="CUDA from Python",
            state=State.MISSING,
            detail="no package for CUDA's memory and streams, so engines cannot run here",
            cure=install,
        )
    elif present == ("pycuda",):
        yield Finding(
            name="CUDA from Python",
            state=State.INFO,
            detail="only pycuda, which has no CUDA graphs: each frame costs more CPU time",
            cure=install,
        )
    bindings = machine.versions.get("cuda-python")
    if bindings is not None and version_tuple(bindings)[0] > newest:
        yield Finding(
            name=f"cuda-python {bindings}",
            state=State.WARNING,
            detail=f"made for CUDA {version_tuple(bindings)[0]}; the driver runs CUDA {machine.gpu.cuda} at "
            "most",
            cure=install,
        )


def torch_without_cuda(machine: Machine) -> Iterator[Finding]:
    """There is a GPU, and PyTorch cannot use it."""
    if machine.gpu is None or "torch" not in machine.modules or torch_has_cuda(machine):
        return
    yield Finding(
        name=f"torch {machine.versions.get('torch', '')}".strip(),
        state=State.INFO,
        detail="a build without CUDA: checkpoints and .ts files run on the CPU",
        cure="install NVIDIA's PyTorch for this JetPack"
        if machine.l4t
        else "install a CUDA build of PyTorch; pytorch.org gives the command",
    )


def opencv(machine: Machine) -> Iterator[Finding]:
    """OpenCV that cannot be imported, or that has no GStreamer, which a Jetson's cameras need."""
    build = machine.opencv_build
    if build is None:
        return
    if build.startswith("error:"):
        yield Finding(
            name="opencv",
            state=State.MISSING,
            detail=f"installed, but importing it fails: {build.removeprefix('error:').strip()}",
            cure="pip uninstall -y opencv-python opencv-contrib-python; "
            "pip install --force-reinstall opencv-python-headless",
        )
        return
    found = re.search(r"GStreamer:\s*(\w+)", build)
    if found is None or found[1] == "YES":
        return
    system = machine.system_packages("cv2")
    # What root installs by pip lies in a folder of the same name as the system's, dist-packages.
    hidden = bool(system) and machine.modules["cv2"] not in system.values()
    uninstall = f"pip uninstall -y {' '.join(_OPENCV_WHEELS)}"
    if hidden:
        detail, cure = (
            f"pip's has no GStreamer and hides the system's in {next(iter(system.values()))}",
            uninstall,
        )
    elif machine.l4t is not None:
        detail = "no GStreamer"
        cure = f"sudo apt install python3-opencv, then in an environment that sees it: {uninstall}"
    else:
        return  # a desktop's USB cameras, files and streams come through V4L2 and FFmpeg
    yield Finding(
        name="opencv",
        state=State.WARNING,
        detail=f"{detail}; without it there are no CSI cameras and no hardware decoding",
        cure=cure,
    )


def opencv_backends(machine: Machine) -> Iterator[Finding]:
    """OpenCV that was built without what streams, video files and cameras come through."""
    build = machine.opencv_build or ""
    for library, line, what in (
        ("FFmpeg", r"FFMPEG:\s*NO\b", "no streams and no video files for the demo"),
        ("V4L2", r"v4l/v4l2:\s*NO\b", "no cameras but those that GStreamer opens"),
    ):
        if re.search(line, build):
            yield Finding(
                name=f"opencv without {library}",
                state=State.WARNING,
                detail=f"it was built without {library}: {what}",
                cure="pip install --force-reinstall opencv-python-headless"
                + ("; it hides JetPack's, which has GStreamer for CSI cameras" if machine.l4t else ""),
            )


def cuda_backends(machine: Machine) -> tuple[str, ...]:
    """Return the backends for CUDA's memory and streams that are installed."""
    present = {
        "torch": "torch" in machine.modules and torch_has_cuda(machine),
        "cuda-python": "cuda" in machine.modules,
        "pycuda": "pycuda" in machine.modules,
    }
    return tuple(name for name, here in present.items() if here)


def torch_has_cuda(machine: Machine) -> bool:
    """Whether the installed PyTorch is a build with CUDA; read from its version file."""
    try:
        text = (machine.modules["torch"] / "version.py").read_text(encoding="utf-8")
    except (OSError, KeyError):
        return False
    found = re.search(r"^cuda\b.*?=\s*(.+)$", text, re.MULTILINE)
    return found is not None and found[1].strip() != "None"
