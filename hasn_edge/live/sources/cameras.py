"""Cameras by OpenCV: USB and other V4L2 devices, and a Jetson's CSI cameras through GStreamer."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hasn_edge.errors import InputError, SourceError, UnsupportedError, say, use
from hasn_edge.files import after_failure
from hasn_edge.hardware.host import opencv_distribution
from hasn_edge.hardware.jetson import Jetson
from hasn_edge.live.sources.capture import (
    CaptureSource,
    describe_opencv,
    has_backend,
    opencv,
    require_backend,
)

DEVICES = Path("/dev")

CSI_SHAPE = (9, 16)
"""Height to width of what a CSI camera delivers: the source element's default is 1920x1080."""

_FIRST, _FIRST_S = 5, 3.0  # reads, and seconds after which no further one begins, until the first image
_UNCOMPRESSED = 640 * 480  # USB 2 carries 30 frames a second of so many pixels, 16 bits each


def cameras() -> list[str]:
    """Return the capture devices of this Linux machine, ``/dev/video0`` first; some may be no cameras."""
    numbers = (path.name.removeprefix("video") for path in DEVICES.glob("video*"))
    return [str(DEVICES / f"video{number}") for number in sorted(int(n) for n in numbers if n.isdecimal())]


def camera_device(text: str) -> str:
    """Return what :func:`open_camera` takes for a number or a device of Linux."""
    if not text.isdecimal():
        return text
    return str(DEVICES / f"video{int(text)}") if on_linux() else str(int(text))


def possible_cameras() -> list[str]:
    """Return the names of what may be a camera, the likeliest first.

    Where Linux's files are not, the first number. On a Jetson the CSI camera comes after all the others,
    which include its sensor, whose raw images only the CSI camera's pipeline can take.
    """
    if not on_linux():
        return ["0"]
    return [*cameras(), *(["csi:0"] if is_jetson() else [])]


def open_camera(device: str, size: tuple[int, int] | None = None) -> CaptureSource:
    """Open a USB or other V4L2 camera.

    Args:
        device: As :func:`camera_device` returns it: ``"/dev/video0"``, or its number as text where there are
            no such files (macOS, Windows).
        size: (height, width) to ask for; the camera chooses the nearest that it has.

    Raises:
        SourceError: no such device, no permission, or it cannot be opened.
        InputError: a device of Linux on another system.
        UnsupportedError: OpenCV was built without V4L2.
    """
    cv2 = opencv()
    if on_linux():
        name = device
        _check_device(device)
        capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
    elif device.isdecimal():
        name = f"camera {device}"
        capture = cv2.VideoCapture(int(device))
    else:
        raise InputError(f"{device}: cameras have numbers on this system", use(source="0"))
    if not capture.isOpened():
        raise _refused(cv2, name)
    if size is not None:
        # Up to VGA, USB 2 carries uncompressed images: JPEG's blocks would be enlarged with the rest.
        if size[0] * size[1] > _UNCOMPRESSED:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[1])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[0])
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    lost = "no image came; it may have been unplugged"
    return CaptureSource(capture, name, live=True, timed=False, lost=lost)


def giving(open_: Callable[[], CaptureSource]) -> CaptureSource:
    """Open a camera and wait for its first image, which is lost: not all that can be opened is a camera.

    Raises:
        SourceError: none came.
        HasnEdgeError: as ``open_`` raises.
    """
    source = open_()
    begin = time.monotonic()
    reads = 0
    try:
        while True:
            try:
                source.read()
                return source
            except SourceError as exc:  # a first image that is damaged says nothing about the camera
                reads += 1
                if reads == _FIRST or time.monotonic() > begin + _FIRST_S:
                    raise SourceError(
                        f"{source.name}: it can be opened and gives no image; another program may be using "
                        "it, or it is no camera"
                    ) from exc
    except BaseException:
        with after_failure():
            source.close()
        raise


def covering(size: tuple[int, int], shape: tuple[int, int] = CSI_SHAPE) -> tuple[int, int]:
    """Return the smallest (height, width) of a shape that covers ``size``, both even."""
    height, width = shape
    times = 2 * max(-(-size[0] // (2 * height)), -(-size[1] // (2 * width)))
    return height * times, width * times


def csi_pipeline(sensor: int, size: tuple[int, int], *, flip: int = 0) -> str:
    """Return the GStreamer pipeline of a Jetson's CSI camera, as ``cv2.VideoCapture`` takes it.

    The Jetson's image engine (VIC) scales, the frame leaves its memory once, and only the newest is kept.
    It has the sensor's shape, because the engine would squeeze it into another one.

    Args:
        sensor: Number of the sensor.
        size: (height, width) in pixels that the frame covers.
        flip: ``nvvidconv``'s flip-method; 2 turns a camera that is mounted upside down, odd ones lay the
            image on its side.
    """
    size = covering(size, CSI_SHAPE[::-1] if flip % 2 else CSI_SHAPE)
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! "
        f"video/x-raw(memory:NVMM),format=NV12,framerate=30/1 ! "
        f"nvvidconv flip-method={flip} ! "
        f"video/x-raw,format=BGRx,width={size[1]},height={size[0]} ! "
        "videoconvert ! video/x-raw,format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )


def open_csi(sensor: int, size: tuple[int, int], *, flip: int = 0) -> CaptureSource:
    """Open a Jetson's CSI camera.

    Raises:
        UnsupportedError: OpenCV was built without GStreamer.
        SourceError: the camera does not answer.
    """
    cv2 = opencv()
    name = f"csi:{sensor}"
    if not has_backend(cv2, "GSTREAMER"):
        raise UnsupportedError(
            f"{name}: CSI cameras need an OpenCV with GStreamer, and {describe_opencv(cv2)} has none. "
            "JetPack's own has it",
            say(
                "make the environment with 'python3 -m venv --system-site-packages', install hasn-edge "
                f"there, then 'pip uninstall {opencv_distribution()}' so that JetPack's cv2 is found"
            ),
            say("use a USB camera"),
        )
    capture = cv2.VideoCapture(csi_pipeline(sensor, size, flip=flip), cv2.CAP_GSTREAMER)
    if not capture.isOpened():
        raise SourceError(
            f"{name}: the camera does not answer",
            say("check its cable and 'sudo systemctl restart nvargus-daemon'"),
        )
    return CaptureSource(capture, name, live=True, timed=False, lost="no image came; check its cable")


def on_linux() -> bool:
    """Whether cameras are files."""
    return sys.platform.startswith("linux")


def is_jetson() -> bool:
    """Whether there can be CSI cameras here."""
    return Jetson().present


def _refused(cv2: Any, name: str) -> SourceError:
    """Return why a camera may not open.

    Raises:
        UnsupportedError: it cannot, whatever it is.
    """
    if not on_linux():
        return SourceError(
            f"{name}: cannot be opened; there may be none, another program may be using it, or this one may "
            "not use cameras by the system's privacy settings"
        )
    require_backend(cv2, "V4L2", name)
    # On a Jetson it may be the sensor of a CSI camera, whose raw images only that camera's pipeline takes.
    return SourceError(
        f"{name}: cannot be opened as a camera; another program may be using it, or it is none, as a "
        f"camera's metadata device and a codec are (found: {', '.join(cameras())})",
        say("try its neighbour"),
        *([use(source="csi:0")] if is_jetson() else []),
    )


def _check_device(device: str) -> None:
    path = Path(device)
    if not path.exists():
        raise SourceError(
            f"{device}: no such camera; found: {', '.join(cameras()) or 'none'}",
            say("plug one in"),
            use(source="pattern"),
        )
    if not os.access(path, os.R_OK | os.W_OK):
        raise SourceError(
            f"{device}: no permission",
            say("add yourself to its group with 'sudo usermod -aG video $USER' and log in again"),
        )
