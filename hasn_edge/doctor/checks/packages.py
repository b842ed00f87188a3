"""Checks of Python packages: OpenCV without cameras, no way to CUDA's memory, PyTorch without CUDA."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hasn_edge.doctor.commands import CPU_TORCH, SYSTEM_NUMPY, apt_install
from hasn_edge.doctor.environment import Environment
from hasn_edge.doctor.result import CheckResult, State
from hasn_edge.errors import Cure, say, shell
from hasn_edge.hardware.gpu import SERVER_RELEASE, GpuFacts, cuda_python_install
from hasn_edge.hardware.host import OPENCV_DISTRIBUTIONS
from hasn_edge.hardware.readings import text_or_nothing
from hasn_edge.optional import version_tuple


def cuda_backend(environment: Environment) -> Iterator[CheckResult]:
    """Engines need one package for CUDA's memory and streams, and CUDA graphs need another than pycuda."""
    if environment.gpu is None:
        return
    # What torch brings has the first name only.
    bindings = next((name for name in ("cuda-bindings", "cuda-python") if name in environment.versions), None)
    newer = bindings is not None and _is_newer(environment.versions[bindings], environment.gpu)
    install: tuple[Cure, ...] = (shell(cuda_python_install(environment.gpu)),)
    error = environment.cuda_error
    if environment.cuda is None:
        cures = (error.cures if error else ()) or install
        if not newer and _has_fitting_cuda_python(environment, environment.gpu):
            cures = (say("repair what its message names: the cuda-python that fits is installed already"),)
        yield CheckResult(
            name="CUDA from Python",
            state=State.MISSING,
            detail=error.message if error else "no package for CUDA's memory and streams, which engines need",
            cures=cures,
        )
    elif environment.cuda == "pycuda":
        yield CheckResult(
            name="CUDA from Python",
            state=State.INFO,
            detail="only pycuda, which has no CUDA graphs: each frame costs more CPU time",
            cures=install,
        )
    if bindings is not None and newer:
        yield CheckResult(
            name=f"{bindings} {environment.versions[bindings]}",
            state=State.WARNING,
            detail=f"made for a newer CUDA than {environment.gpu.cuda}, the newest that the driver runs",
            cures=install,
        )


def torch(environment: Environment) -> Iterator[CheckResult]:
    """There is a GPU, and PyTorch cannot use it: it was built for a CUDA that is too new, or for none."""
    if environment.gpu is None or "torch" not in environment.modules:
        return
    version_file = text_or_nothing(environment.modules["torch"] / "version.py")
    built = re.search(r"^cuda\b.*?=\s*['\"]([\d.]+)", version_file, re.MULTILINE)
    if built is None:
        state, detail = State.INFO, "a build without CUDA: checkpoints and .ts files run on the CPU"
    elif _is_newer(built[1], environment.gpu):
        state = State.WARNING
        detail = f"built for CUDA {built[1]}; the driver runs CUDA {environment.gpu.cuda} at most"
    else:
        return
    yield CheckResult(
        name=f"torch {environment.versions.get('torch', '')}".strip(),
        state=state,
        detail=detail,
        cures=_other_torch(environment),
    )


def _is_newer(cuda: str, gpu: GpuFacts) -> bool:
    """Whether a package's CUDA is one that the driver does not run.

    Before JetPack 7.2 a Jetson's driver takes no newer one at all; others do, within a major version.
    """
    parts = 2 if gpu.l4t is not None and version_tuple(gpu.l4t)[0] < SERVER_RELEASE else 1
    return version_tuple(cuda)[:parts] > version_tuple(gpu.cuda)[:parts]


def _has_fitting_cuda_python(environment: Environment, gpu: GpuFacts) -> bool:
    """Whether what would be installed is here; until 12.6 cuda-python held what cuda-bindings holds since."""
    have = version_tuple(environment.versions.get("cuda-python", ""))
    whole = "cuda-bindings" in environment.versions or have < (12, 6, 1)
    return whole and have[:1] == version_tuple(gpu.cuda)[:1]


def _other_torch(environment: Environment) -> tuple[Cure, ...]:
    if not environment.l4t:
        return (say("install a build of PyTorch for the driver's CUDA; pytorch.org gives the command"),)
    nvidias = say("install NVIDIA's PyTorch for this JetPack, which also runs on the GPU")
    if not environment.old_jetson:
        return (nvidias,)
    return shell(f"pip install '{CPU_TORCH}' '{SYSTEM_NUMPY}'"), nvidias


def opencv(environment: Environment) -> Iterator[CheckResult]:
    """OpenCV that cannot be imported, or that has no GStreamer, which a Jetson's cameras need."""
    if environment.opencv_error is not None:
        again = (
            "pip uninstall -y opencv-python opencv-contrib-python; "
            "pip install --force-reinstall opencv-python-headless"
        )
        systems = environment.modules.get("cv2") in environment.system_packages("cv2").values()
        if systems and version_tuple(environment.versions.get("numpy", "0")) >= (2,):
            again = f"pip install '{SYSTEM_NUMPY}'"
        yield CheckResult(
            name="opencv",
            state=State.MISSING,
            detail=f"installed, but importing it fails: {environment.opencv_error}",
            cures=(shell(again),),
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
        cure = f"{apt_install(environment, 'python3-opencv')} && {uninstall}"
    else:
        return  # a desktop's USB cameras, files and streams come through V4L2 and FFmpeg
    yield CheckResult(
        name="opencv",
        state=State.WARNING,
        detail=f"{detail}; without it there are no CSI cameras and no hardware decoding",
        cures=(shell(cure),),
    )


def opencv_backends(environment: Environment) -> Iterator[CheckResult]:
    """OpenCV that was built without what streams, video files and cameras come through."""
    build = environment.opencv_build or ""
    cure = shell("pip install --force-reinstall opencv-python-headless")
    if environment.l4t:
        cure = say(f"where that is needed {cure}; it hides JetPack's, which has GStreamer for CSI cameras")
    for library, line, what in (
        ("FFmpeg", r"FFMPEG:\s*NO\b", "no streams and no video files for the demo"),
        ("V4L2", r"v4l/v4l2:\s*NO\b", "no cameras but those that GStreamer opens"),
    ):
        if re.search(line, build):
            yield CheckResult(
                name=f"opencv without {library}",
                state=State.WARNING,
                detail=f"it was built without {library}: {what}",
                cures=(cure,),
            )
