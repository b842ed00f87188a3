"""The libraries through which this OpenCV captures, and what to do about one that it lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from hasn_edge.errors import UnsupportedError, say

CaptureBackend = Literal["FFMPEG", "V4L2", "GSTREAMER"]
"""OpenCV's names of them: streams and files, Linux's cameras, a Jetson's CSI cameras."""

_BUILT = {"FFMPEG": "FFMPEG:", "V4L2": "v4l/v4l2:", "GSTREAMER": "GStreamer:"}
_NEEDED = {
    "FFMPEG": "FFmpeg, which streams and video files need",
    "V4L2": "V4L2, which cameras need on Linux",
}


def has_backend(cv2: Any, backend: CaptureBackend) -> bool:
    """Whether this OpenCV captures through a library, built in or as a plugin that can be loaded."""
    registry: Any = getattr(cv2, "videoio_registry", None)
    if hasattr(registry, "hasBackend"):  # since OpenCV 4.5; a plugin is not in the build information
        return bool(registry.hasBackend(getattr(cv2, f"CAP_{backend}")))
    return built_with(cv2.getBuildInformation(), backend)


def built_with(build_information: str, backend: CaptureBackend) -> bool:
    """Whether ``cv2.getBuildInformation()`` lists a library as built in."""
    lines = (line.split() for line in build_information.splitlines())
    return any(words[:2] == [_BUILT[backend], "YES"] for words in lines)


def require_backend(cv2: Any, backend: Literal["FFMPEG", "V4L2"], name: str) -> None:
    """Return if this OpenCV has the library: then what cannot be opened has another reason.

    Raises:
        UnsupportedError: it was built without that library.
    """
    if not has_backend(cv2, backend):
        raise UnsupportedError(
            f"{name}: {describe_opencv(cv2)} was built without {_NEEDED[backend]}",
            say("install one that has it: pip install --force-reinstall opencv-python-headless"),
        )


def describe_opencv(cv2: Any) -> str:
    """Return version and place of an OpenCV: several may be installed, and JetPack's is no pip package."""
    place = getattr(cv2, "__file__", None)
    return f"OpenCV {cv2.__version__}" + (f" of {Path(place).parent}" if place else "")
