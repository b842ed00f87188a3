"""Frames by OpenCV: cameras (V4L2, CSI through GStreamer), streams and files (FFmpeg); BGR ends here."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from hasn_edge.errors import SourceError, UnsupportedError
from hasn_edge.machine import opencv_distribution
from hasn_edge.optional import require
from hasn_edge.video.frame import Frame
from hasn_edge.video.source import Source

DEVICES = Path("/dev")

READ_TIMEOUT_S = 5.0
"""FFmpeg gives up waiting for a server after so long."""

RTSP_OPTIONS = "rtsp_transport;tcp|fflags;nobuffer|flags;low_delay"
"""FFmpeg's options for RTSP unless OPENCV_FFMPEG_CAPTURE_OPTIONS says otherwise: TCP loses no slices of a
picture to a full socket, and frames are given out as they come."""

_UNCOMPRESSED = 640 * 480  # USB 2 carries 30 frames a second of so many pixels, 16 bits each
_WHOLE = 0.9  # of the frames promised, which some containers only estimate
_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_environment = threading.Lock()


class CaptureSource(Source):
    """Whatever ``cv2.VideoCapture`` opened.

    Args:
        capture: The open capture; closed here.
        name: For people.
        live: A missing frame means that it was lost; otherwise that the recording is over.
        timed: Its positions in milliseconds mean something.
        lost: What to say of a missing frame, with its cure.
        frames: How many a recording promises, where that is known; often only an estimate.
        local: A recording that ends early is damaged, not lost.
    """

    def __init__(
        self,
        capture: Any,
        name: str,
        *,
        live: bool,
        timed: bool,
        lost: str,
        frames: int | None = None,
        local: bool = False,
    ) -> None:
        self._cv2 = _cv2()
        self._capture = capture
        self.name = name
        self.live = live
        self._timed = timed
        self._lost = lost
        self._index = 0
        self._busy = threading.Lock()
        self._closed = False
        self._frames = frames
        self._local = local
        height = int(capture.get(self._cv2.CAP_PROP_FRAME_HEIGHT))
        width = int(capture.get(self._cv2.CAP_PROP_FRAME_WIDTH))
        self.size = (height, width) if height > 0 and width > 0 else None
        fps = float(capture.get(self._cv2.CAP_PROP_FPS))
        self.fps = fps if 0 < fps < 1000 else None

    def read(self) -> Frame | None:
        """Return the next frame.

        Raises:
            SourceError: a camera or stream gave none.
        """
        with self._busy:
            if self._closed:
                return None
            good, bgr = self._capture.read()
            captured = time.monotonic()
            if not good or bgr is None:
                self._missing()
                return None
            time_s = self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1e3 if self._timed else None
            pixels = self._cv2.cvtColor(bgr, self._cv2.COLOR_BGR2RGB)
        self._index += 1
        return Frame(index=self._index - 1, pixels=pixels, time_s=time_s, captured=captured)

    def _missing(self) -> None:
        early = self._frames is not None and self._index < _WHOLE * self._frames
        if self.live or (early and not self._local):
            raise SourceError(f"{self.name}: {self._lost}")
        if early:
            self.report(
                f"{self.name}: damaged or cut off: it ends after {self._index} of {self._frames} frames"
            )

    def close(self) -> None:
        """Close the capture, unless a read is under way that does not return: it cannot be interrupted."""
        self._closed = True
        if self._busy.acquire(timeout=1.0):
            try:
                self._capture.release()
            finally:
                self._busy.release()


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
    cv2 = _cv2()
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
    cv2 = _cv2()
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


def open_stream(url: str, name: str, *, timeout_s: float = READ_TIMEOUT_S) -> CaptureSource:
    """Open an RTSP or HTTP address by FFmpeg.

    A stream of known length, as a video file on a web server, is a recording: no frame of it is dropped.

    Args:
        url: The address, with the password if it needs one.
        name: For people, without it.
        timeout_s: How long FFmpeg waits for the server before it gives up.

    Raises:
        SourceError: no answer, or nothing that is a video.
    """
    cv2 = _cv2()
    milliseconds = round(timeout_s * 1e3)
    settings = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds),
    ]
    with _environment:
        own = url.startswith("rtsp") and _OPTIONS not in os.environ
        if own:
            os.environ[_OPTIONS] = RTSP_OPTIONS
        try:
            capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, settings)
        finally:
            if own:
                del os.environ[_OPTIONS]
    if not capture.isOpened():
        raise SourceError(
            f"{name}: no video came; check the address, user and password, and that other players show it"
        )
    frames = _frame_count(cv2, capture)
    lost = "no picture came; the server or the network is gone"
    return CaptureSource(capture, name, live=frames is None, timed=True, lost=lost, frames=frames)


def open_file(path: Path) -> CaptureSource:
    """Open a video file.

    Raises:
        SourceError: it is none that FFmpeg can read.
    """
    if not path.is_file():
        what = "a folder, not a video" if path.is_dir() else "no such file"
        raise SourceError(f"{path}: {what}; --source takes a camera, an address, a video file or 'pattern'")
    if not os.access(path, os.R_OK):
        raise SourceError(f"{path}: cannot be read; check its permissions")
    cv2 = _cv2()
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise SourceError(
            f"{path}: not a video that OpenCV's FFmpeg can read; it may be damaged or of another kind"
        )
    return CaptureSource(
        capture, path.name, live=False, timed=True, lost="", frames=_frame_count(cv2, capture), local=True
    )


def _frame_count(cv2: Any, capture: Any) -> int | None:
    """Return how many frames the container promises; ``None`` for endless streams."""
    frames = float(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return round(frames) if 0 < frames < 1e9 else None


def _check_device(device: str) -> None:
    path = Path(device)
    if not path.exists():
        raise SourceError(
            f"{device}: no such camera; found: {', '.join(cameras()) or 'none'}. Plug one in, or go without by "
            "--source pattern"
        )
    if not os.access(path, os.R_OK | os.W_OK):
        raise SourceError(
            f"{device}: no permission; add yourself to its group with 'sudo usermod -aG video $USER' and log "
            "in again"
        )


def _cv2() -> Any:
    # What fails is raised in our words; the libraries' own go to standard error, in the middle of a picture.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2 = require("cv2", extra="all", needed_for="Cameras, streams and video files")
    cv2.setLogLevel(0)
    return cv2
