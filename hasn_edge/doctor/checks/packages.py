"""Checks of Python packages: OpenCV without cameras, no way to CUDA's memory, PyTorch without CUDA."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hasn_edge.doctor.environment import Environment
from hasn_edge.doctor.result import CheckResult, State
from hasn_edge.errors import say
from hasn_edge.hardware.gpu import cuda_python_install
from hasn_edge.hardware.host import OPENCV_DISTRIBUTIONS
from hasn_edge.optional import version_tuple


def cuda_backend(environment: Environment) -> Iterator[CheckResult]:
    """Engines need one package for CUDA's memory and streams, and CUDA graphs need another than pycuda."""
    if environment.gpu is None:
        return
    newest = version_tuple(environment.gpu.cuda)[0]
    install = (say(cuda_python_install(environment.gpu)),)
    present = cuda_backends(environment)
    if not present:
        yield CheckResult(
            name="CUDA from Python",
            state=State.MISSING,
            detail="no package for CUDA's memory and streams, so engines cannot run here",
            cures=install,
        )
    elif present == ("pycuda",):
        yield CheckResult(
            name="CUDA from Python",
            state=State.INFO,
            detail="only pycuda, which has no CUDA graphs: each frame costs more CPU time",
            cures=install,
        )
    bindings = environment.versions.get("cuda-python")
    if bindings is not None and version_tuple(bindings)[0] > newest:
        yield CheckResult(
            name=f"cuda-python {bindings}",
            state=State.WARNING,
            detail=f"made for CUDA {version_tuple(bindings)[0]}; the driver runs CUDA "
            f"{environment.gpu.cuda} at most",
            cures=install,
        )


def torch_without_cuda(environment: Environment) -> Iterator[CheckResult]:
    """There is a GPU, and PyTorch cannot use it."""
    if environment.gpu is None or "torch" not in environment.modules or torch_has_cuda(environment):
        return
    yield CheckResult(
        name=f"torch {environment.versions.get('torch', '')}".strip(),
        state=State.INFO,
        detail="a build without CUDA: checkpoints and .ts files run on the CPU",
        cures=(
            say(
                "install NVIDIA's PyTorch for this JetPack"
                if environment.l4t
                else "install a CUDA build of PyTorch; pytorch.org gives the command"
            ),
        ),
    )


def opencv(environment: Environment) -> Iterator[CheckResult]:
    """OpenCV that cannot be imported, or that has no GStreamer, which a Jetson's cameras need."""
    if environment.opencv_error is not None:
        yield CheckResult(
            name="opencv",
            state=State.MISSING,
            detail=f"installed, but importing it fails: {environment.opencv_error}",
            cures=(
                say(
                    "pip uninstall -y opencv-python opencv-contrib-python; "
                    "pip install --force-reinstall opencv-python-headless"
                ),
            ),
        )
        return
    found = re.search(r"GStreamer:\s*(\w+)", environment.opencv_build or "")
    if found is None or found[1] == "YES":
        return
    system = environment.system_packages("cv2")
    # What root installs by pip lies in a folder of the same name as the system's, dist-packages.
    hidden = bool(system) and environment.modules["cv2"] not in system.values()
    uninstall = f"pip uninstall -y {' '.join(OPENCV_DISTRIBUTIONS)}"
    if hidden:
        detail, cure = (
            f"pip's has no GStreamer and hides the system's in {next(iter(system.values()))}",
            uninstall,
        )
    elif environment.l4t is not None:
        detail = "no GStreamer"
        cure = f"sudo apt install python3-opencv, then in an environment that sees it: {uninstall}"
    else:
        return  # a desktop's USB cameras, files and streams come through V4L2 and FFmpeg
    yield CheckResult(
        name="opencv",
        state=State.WARNING,
        detail=f"{detail}; without it there are no CSI cameras and no hardware decoding",
        cures=(say(cure),),
    )


def opencv_backends(environment: Environment) -> Iterator[CheckResult]:
    """OpenCV that was built without what streams, video files and cameras come through."""
    build = environment.opencv_build or ""
    cure = "pip install --force-reinstall opencv-python-headless"
    if environment.l4t:
        cure += "; it hides JetPack's, which has GStreamer for CSI cameras"
    for library, line, what in (
        ("FFmpeg", r"FFMPEG:\s*NO\b", "no streams and no video files for the demo"),
        ("V4L2", r"v4l/v4l2:\s*NO\b", "no cameras but those that GStreamer opens"),
    ):
        if re.search(line, build):
            yield CheckResult(
                name=f"opencv without {library}",
                state=State.WARNING,
                detail=f"it was built without {library}: {what}",
                cures=(say(cure),),
            )


def cuda_backends(environment: Environment) -> tuple[str, ...]:
    """Return the backends for CUDA's memory and streams that are installed."""
    present = {
        "torch": "torch" in environment.modules and torch_has_cuda(environment),
        "cuda-python": "cuda" in environment.modules,
        "pycuda": "pycuda" in environment.modules,
    }
    return tuple(name for name, here in present.items() if here)


def torch_has_cuda(environment: Environment) -> bool:
    """Whether the installed PyTorch is a build with CUDA; read from its version file."""
    try:
        text = (environment.modules["torch"] / "version.py").read_text(encoding="utf-8")
    except (OSError, KeyError):
        return False
    found = re.search(r"^cuda\b.*?=\s*(.+)$", text, re.MULTILINE)
    return found is not None and found[1].strip() != "None"
