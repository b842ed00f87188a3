"""Cameras by OpenCV: USB and other V4L2 devices, and a Jetson's CSI cameras through GStreamer."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hasn_edge.errors import SourceError, UnsupportedError
from hasn_edge.machine import opencv_distribution
from hasn_edge.video.capture import CaptureSource, opencv

DEVICES = Path("/dev")

_UNCOMPRESSED = 640 * 480  # USB 2 carries 30 frames a second of so many pixels, 16 bits each


def cameras() -> list[str]:
    """Return the capture devices of this Linux machine, ``/dev/video0`` first; some may be no cameras."""
    numbers = (path.name.removeprefix("video") for path in DEVICES.glob("video*"))
    return [str(DEVICES / f"video{number}") for number in sorted(int(n) for n in numbers if n.isdecimal())]


def open_camera(device: str, size: tuple[int, int] | None = None, fps: float | None = None) -> CaptureSource:
    """Open a USB or other V4L2 camera.

    Args:
        device: ``"/dev/video0"``, or its number as text where there are no such files (macOS, Windows).
        size: (height, width) to ask for; the camera chooses the nearest that it has.
        fps: Frames a second to ask for.

    Raises:
        SourceError: no such device, no permission, or it gives no pictures.
    """
    cv2 = opencv()
    linux = sys.platform.startswith("linux")
    if linux:
        _check_device(device)
    capture = cv2.VideoCapture(device, cv2.CAP_V4L2) if linux else cv2.VideoCapture(int(device))
    if not capture.isOpened():
        raise SourceError(
            f"{device}: cannot be opened as a camera; another program may be using it, or it is the metadata "
            f"device of one, then try its neighbour. Found: {', '.join(cameras()) or 'none'}"
        )
    if size is not None:
        # Up to VGA, USB 2 carries uncompressed pictures: JPEG's blocks would be enlarged with the rest.
        if size[0] * size[1] > _UNCOMPRESSED:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[1])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[0])
    if fps is not None:
        capture.set(cv2.CAP_PROP_FPS, fps)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    lost = "no picture came; it may have been unplugged"
    return CaptureSource(capture, device, live=True, timed=False, lost=lost)


def csi_pipeline(sensor: int, size: tuple[int, int], fps: float, *, flip: int = 0) -> str:
    """Return the GStreamer pipeline of a Jetson's CSI camera, as ``cv2.VideoCapture`` takes it.

    The image processor scales, the frame leaves its memory once, and only the newest is kept.

    Args:
        sensor: Number of the sensor.
        size: (height, width) in pixels.
        fps: Frames a second.
        flip: ``nvvidconv``'s flip-method; 2 turns a camera that is mounted upside down.
    """
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! "
        f"video/x-raw(memory:NVMM),format=NV12,framerate={round(fps)}/1 ! "
        f"nvvidconv flip-method={flip} ! "
        f"video/x-raw,format=BGRx,width={size[1]},height={size[0]} ! "
        "videoconvert ! video/x-raw,format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )


def open_csi(sensor: int, size: tuple[int, int], fps: float = 30.0) -> CaptureSource:
    """Open a Jetson's CSI camera.

    Raises:
        UnsupportedError: OpenCV was built without GStreamer.
        SourceError: the camera does not answer.
    """
    cv2 = opencv()
    name = f"csi:{sensor}"
    if not has_gstreamer(cv2.getBuildInformation()):
        raise UnsupportedError(
            f"{name}: CSI cameras need an OpenCV with GStreamer, and {opencv_distribution()} "
            f"{cv2.__version__} has none. JetPack's own has it: make the environment with 'python3 -m venv "
            "--system-site-packages', install hasn-edge there, then 'pip uninstall "
            f"{opencv_distribution()}' so that JetPack's cv2 is found; or use a USB camera"
        )
    capture = cv2.VideoCapture(csi_pipeline(sensor, size, fps), cv2.CAP_GSTREAMER)
    if not capture.isOpened():
        raise SourceError(
            f"{name}: the camera does not answer; check its cable and 'sudo systemctl restart nvargus-daemon'"
        )
    return CaptureSource(capture, name, live=True, timed=False, lost="no picture came; check its cable")


def has_gstreamer(build_information: str) -> bool:
    """Whether ``cv2.getBuildInformation()`` says that GStreamer is in."""
    lines = (line.split() for line in build_information.splitlines())
    return any(words[:2] == ["GStreamer:", "YES"] for words in lines)


def _check_device(device: str) -> None:
    path = Path(device)
    if not path.exists():
        raise SourceError(
            f"{device}: no such camera; found: {', '.join(cameras()) or 'none'}. Plug one in, or take "
            "--source pattern"
        )
    if not os.access(path, os.R_OK | os.W_OK):
        raise SourceError(
            f"{device}: no permission; add yourself to its group with 'sudo usermod -aG video $USER' and log "
            "in again"
        )
