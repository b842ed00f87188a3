"""Frames by OpenCV: whatever it captures, and opening streams and files by its FFmpeg; BGR ends here."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from hasn_edge.errors import HasnEdgeError, SourceError, UnsupportedError, say, use
from hasn_edge.live.frame import Frame
from hasn_edge.live.notices import trouble
from hasn_edge.live.sources.frame_source import FrameSource
from hasn_edge.optional import require

CaptureBackend = Literal["FFMPEG", "V4L2", "GSTREAMER"]
"""OpenCV's names of them: streams and files, Linux's cameras, a Jetson's CSI cameras."""

_NEEDED = {
    "FFMPEG": "FFmpeg, which streams and video files need",
    "V4L2": "V4L2, which cameras need on Linux",
}

RTSP_OPTIONS = "rtsp_transport;tcp|fflags;nobuffer|flags;low_delay"
"""FFmpeg's options for RTSP unless OPENCV_FFMPEG_CAPTURE_OPTIONS says otherwise: TCP loses no slices of an
image to a full socket, and frames are given out as they come."""

HTTP_OPTIONS = "reconnect;1|reconnect_delay_max;0"
"""The same for HTTP: a server closes a connection from which nothing is read, as before the page is opened,
and sends the rest of a file to a new one. FFmpeg asks once, at once, only where the server names ranges."""

_WHOLE = 0.95  # of its length; what is nearer to it is whole, as containers only estimate it,
_MISSING_S, _MOST_MISSING_S = 0.5, 10.0  # by seconds at least, and at most
_DAMAGED = 20  # reads that fail one after the other: fewer are damaged frames, not the end
_DAMAGED_S = 0.3  # reads that fail later waited for a server
_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_environment = threading.Lock()


class CaptureSource(FrameSource):
    """Whatever ``cv2.VideoCapture`` opened.

    Args:
        capture: The open capture; closed here.
        name: For people.
        live: A missing frame means that it was lost; otherwise that the recording is over.
        timed: Its positions in milliseconds mean something.
        lost: What to say of a missing frame, with its cure.
        length_s: How long a recording says it is, where that is known.
        local: A recording that ends early is damaged, not lost.
        mirrored: The file asks for mirroring, which OpenCV leaves out; it does the rotation alone.
        rate: Images a second where the file states no times, if it is known better than OpenCV knows it.
    """

    def __init__(
        self,
        capture: Any,
        name: str,
        *,
        live: bool,
        timed: bool,
        lost: str,
        length_s: float | None = None,
        local: bool = False,
        mirrored: bool = False,
        rate: float | None = None,
    ) -> None:
        self._cv2 = opencv()
        self._capture = capture
        self.name = name
        self.live = live
        self._timed = timed
        self._lost = lost
        self._index = 0
        self._busy = threading.Lock()
        self._closed = False
        self._length_s = length_s
        self._reached_s = 0.0
        self._last_s = -1.0  # when the image before is shown
        self._late_s: float | None = None  # when its first image is shown, where its length counts from zero
        self._step_s = 0.0  # the longest between two images so far: the last one may be shown for as long
        self._local = local
        self._rate = rate
        height = int(capture.get(self._cv2.CAP_PROP_FRAME_HEIGHT))
        width = int(capture.get(self._cv2.CAP_PROP_FRAME_WIDTH))
        self.size = (height, width) if height > 0 and width > 0 else None
        fps = float(capture.get(self._cv2.CAP_PROP_FPS))
        self.fps = fps if 0 < fps < 1000 else None
        self.aspect = _aspect(self._cv2, capture)
        # OpenCV's angle puts stored rows where they belong; stored columns then run the wrong way, and they
        # lie where it turned the image by a quarter.
        self._flip = int(_is_turned(self._cv2, capture)) if mirrored else None

    def read(self) -> Frame | None:
        """Return the next frame.

        Raises:
            SourceError: a camera or stream gave none.
        """
        with self._busy:
            try:
                return self._read()
            finally:
                if self._closed:
                    self._capture.release()

    def _read(self) -> Frame | None:
        if self._closed:
            return None
        good, bgr = self._capture.read()
        damaged, patience = 0, time.monotonic() + _DAMAGED_S
        while not good and damaged < _DAMAGED and self._expected() and time.monotonic() < patience:
            damaged += 1
            good, bgr = self._capture.read()
        captured = time.monotonic()
        if self._closed:
            return None
        if not good:
            self._missing()
            return None
        self.dropped += damaged
        self._index += damaged + 1
        time_s = self._time_s() if self._timed else None
        self._reach(time_s or 0.0)
        pixels = self._cv2.cvtColor(bgr, self._cv2.COLOR_BGR2RGB)
        pixels = pixels if self._flip is None else self._cv2.flip(pixels, self._flip)
        return Frame(index=self._index - 1, pixels=pixels, time_s=time_s, captured=captured)

    def _time_s(self) -> float:
        """Return when the image that was just read is shown; of a recording, later than the one before.

        OpenCV gives 0 for an image without a time, as in raw H.264 and at the end of AVI files: the rate
        counts then.
        """
        time_s = float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC)) / 1e3
        if not self.live and time_s <= self._last_s:
            time_s = self._last_s + (0.001 if time_s else 1 / (self._rate or self.fps or 30.0))
        self._last_s = time_s
        return time_s

    def _early(self) -> bool:
        """Whether a recording is to last a good while longer."""
        length_s = self._length_s or 0.0
        missing_s = length_s - self._reached_s - (self._late_s or 0.0)
        about_s = min((1 - _WHOLE) * length_s, _MOST_MISSING_S)
        return missing_s > max(_MISSING_S, about_s, 1.01 * self._step_s)

    def _reach(self, time_s: float) -> None:
        """Note how far it was read: positions count from the first image, wherever the length begins."""
        if self._late_s is None:
            # OpenCV has no word for the start. From 4.10 on it states an image's time in units of its rate.
            known = getattr(self._cv2, "CAP_PROP_PTS", None) if self._length_s else None
            late_s = self._capture.get(known) / self.fps - time_s if known is not None and self.fps else 0.0
            self._late_s = late_s if 0 < late_s < (self._length_s or 0.0) else 0.0
        self._step_s = max(self._step_s, time_s - self._reached_s)
        self._reached_s = max(self._reached_s, time_s)

    def _expected(self) -> bool:
        """Whether FFmpeg may have more after a frame that it could not decode."""
        return self._timed and (self.live or self._early()) and not self._closed

    def _missing(self) -> None:
        if self.live or (self._early() and not self._local):
            raise SourceError(f"{self.name}: {self._lost}")
        if self._early():
            end = f"it ends at {self._reached_s + (self._late_s or 0.0):.1f} of {self._length_s:.1f} s"
            self.report(trouble(f"{self.name}: damaged or cut off: {end}"))

    def close(self) -> None:
        """Close the capture, or let the read that is under way do so: OpenCV cannot be interrupted."""
        self._closed = True
        if self._busy.acquire(blocking=False):
            try:
                self._capture.release()
            finally:
                self._busy.release()


def open_stream(url: str, name: str, *, open_s: float, read_s: float) -> CaptureSource:
    """Open an RTSP or HTTP address by FFmpeg.

    A stream of known length, as a video file on a web server, is a recording: no frame of it is dropped.

    Args:
        url: The address, with the password if it needs one.
        name: For people, without it.
        open_s: How long FFmpeg may take to open it.
        read_s: How long it waits for more of it.

    Raises:
        SourceError: no answer, or nothing that is a video.
        UnsupportedError: OpenCV was built without FFmpeg.
    """
    cv2 = opencv()
    settings = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(open_s * 1e3)),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(read_s * 1.2e3)),  # after the stall was reported
    ]
    begin_s = time.monotonic()
    with _environment:
        own = _OPTIONS not in os.environ
        if own:
            os.environ[_OPTIONS] = RTSP_OPTIONS if url.lower().startswith("rtsp") else HTTP_OPTIONS
        try:
            capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, settings)
        finally:
            if own:
                del os.environ[_OPTIONS]
    if not capture.isOpened():
        require_backend(cv2, "FFMPEG", name)
        raise SourceError(
            f"{name}: no video came",
            say("check the address, user and password, and that other players show it"),
        )
    length_s = _length_s(cv2, capture)
    # Another connection: only for recordings that are turned, as those are that cameras mirror. One that is
    # upside down and mirrored has an angle of 0, and is not found.
    turned = length_s is not None and capture.get(cv2.CAP_PROP_ORIENTATION_META) != 0
    return CaptureSource(
        capture,
        name,
        live=length_s is None,
        timed=True,
        lost="no image came; the server or the network is gone",
        length_s=length_s,
        mirrored=turned and _is_mirrored(url, open_s - (time.monotonic() - begin_s)),
    )


def open_file(path: Path) -> CaptureSource:
    """Open a video file.

    Raises:
        SourceError: it is none that FFmpeg can read.
        UnsupportedError: OpenCV was built without FFmpeg.
    """
    if not path.is_file():
        what = "a folder, not a video" if path.is_dir() else "no such file"
        raise SourceError(
            f"{path}: {what}; a source is a camera, an address, a video file or 'pattern'",
            use(source="pattern"),
        )
    if not os.access(path, os.R_OK):
        raise SourceError(f"{path}: cannot be read", say("check its permissions"))
    cv2 = opencv()
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        require_backend(cv2, "FFMPEG", str(path))
        raise SourceError(
            f"{path}: not a video that OpenCV's FFmpeg can read; it may be damaged or of another kind"
        )
    mirrored, rate = _described(path)
    return CaptureSource(
        capture,
        path.name,
        live=False,
        timed=True,
        lost="",
        length_s=_length_s(cv2, capture),
        local=True,
        mirrored=mirrored,
        rate=rate,
    )


def _length_s(cv2: Any, capture: Any) -> float | None:
    """Return how many seconds the container promises; ``None`` for endless streams."""
    frames = float(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return frames / fps if 0 < frames < 1e9 and fps > 0 else None


def _described(path: Path) -> tuple[bool, float | None]:
    """Return what OpenCV does not tell: whether a file's display matrix mirrors its images, and its rate.

    OpenCV takes 25 images a second for raw H.264, whatever it states.
    """
    from hasn_edge.video.decode import Decoder

    with suppress(HasnEdgeError), Decoder(path) as decoder:  # without PyAV it is not known
        return decoder.rotation.mirrors, float(decoder.rate)
    return False, None


def _is_mirrored(url: str, seconds: float) -> bool:
    """Return whether a recording on a server asks for mirroring; not where that takes longer than it may."""
    from hasn_edge.video.colour import Rotation
    from hasn_edge.video.container import main_video

    with suppress(HasnEdgeError):  # without PyAV it is not known
        av: Any = require("av", extra="video", needed_for="Mirrored videos")
        each_s = max(0.1, seconds / 2)
        with (
            suppress(av.error.FFmpegError, OSError, StopIteration),
            av.open(url, timeout=(each_s, each_s)) as container,
        ):
            return Rotation.of(next(container.decode(main_video(container, Path(url))))).mirrors
    return False


def _is_turned(cv2: Any, capture: Any) -> bool:
    """Return whether OpenCV turns stored images by a quarter."""
    automatic = capture.get(cv2.CAP_PROP_ORIENTATION_AUTO)
    return bool(automatic and capture.get(cv2.CAP_PROP_ORIENTATION_META) % 180)


def _aspect(cv2: Any, capture: Any) -> float | None:
    """Return how many times as wide as high pixels are shown; ``None`` where the video does not say."""
    wide, high = (float(capture.get(getattr(cv2, f"CAP_PROP_SAR_{part}"))) for part in ("NUM", "DEN"))
    if not (wide > 0 and high > 0 and 0.1 <= wide / high <= 10):
        return None
    return high / wide if _is_turned(cv2, capture) else wide / high


def opencv() -> Any:
    """Import OpenCV and keep it quiet."""
    # What fails is raised in our words; the libraries' own go to standard error, in the middle of an image.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2 = require("cv2", extra="all", needed_for="Cameras, streams and video files")
    logging = getattr(cv2.utils, "logging", None)
    if logging is not None:
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    return cv2


def has_backend(cv2: Any, backend: CaptureBackend) -> bool:
    """Whether this OpenCV captures through a library, built in or as a plugin that can be loaded."""
    return bool(cv2.videoio_registry.hasBackend(getattr(cv2, f"CAP_{backend}")))


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
