"""The calls into OpenCV that turn files into RGB arrays and back; BGR exists in this file only."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from hasn_edge.errors import InputError
from hasn_edge.images.source import DamagedError, Header, Pixels, Plan, UnreadableError
from hasn_edge.images.tiff import with_alpha_declared
from hasn_edge.optional import require


@dataclass(frozen=True, kw_only=True)
class Format:
    """What a file format can hold."""

    name: str
    sixteen_bits: bool = False
    alpha: bool = False
    largest_side: int = 1 << 20
    """In pixels; OpenCV's own limit where the format has none."""


FORMATS = {
    ".png": Format(name="PNG", sixteen_bits=True, alpha=True),
    ".tiff": Format(name="TIFF", sixteen_bits=True, alpha=True),
    ".webp": Format(name="WebP", alpha=True, largest_side=16383),
    ".jpg": Format(name="JPEG", largest_side=65500),
    ".bmp": Format(name="BMP"),
}
"""The formats that are written, by their usual file name ending."""


def decode(plan: Plan, header: Header) -> Pixels:
    """Decode a checked file; the orientation is applied.

    Returns:
        ``(H, W, C)`` of uint8 or uint16, in RGB order.

    Raises:
        UnreadableError: OpenCV cannot decode it.
    """
    cv2 = _cv2()
    with _QUIET:
        try:
            pixels = cv2.imdecode(np.frombuffer(plan.data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            pixels = None
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise UnreadableError(
            f"it is damaged, or a kind of {header.kind} that OpenCV {cv2.__version__} cannot decode; save it "
            "again as an ordinary PNG"
        )
    if pixels.shape[:2] != (header.height, header.width):
        raise DamagedError(f"{header.width} x {header.height} pixels announced, {pixels.shape[1::-1]} found")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    elif pixels.shape[2] == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
    else:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA, dst=pixels)
    return np.ascontiguousarray(_upright(plan.finish(pixels), header.orientation))


def encode(pixels: Pixels, suffix: str, quality: int) -> bytes:
    """Encode ``(H, W, C)``, RGB order, which the format of ``suffix`` (a key of `FORMATS`) can hold.

    Gray with alpha becomes RGB with alpha, as does gray in WebP: OpenCV writes no such files.
    """
    cv2 = _cv2()
    if pixels.shape[2] == 2:
        pixels = pixels[..., [0, 0, 0, 1]]
    elif pixels.shape[2] == 3:
        pixels = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR)
    if pixels.shape[2] == 4:
        pixels = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGBA2BGRA)
    options: list[int] = []
    if suffix == ".jpg":
        # Full chroma resolution: halving it would throw away part of what was just upscaled.
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    elif suffix == ".webp":
        options = [cv2.IMWRITE_WEBP_QUALITY, 101 if quality == 100 else quality]  # above 100 is lossless
    with _QUIET:
        try:
            done, data = cv2.imencode(suffix, np.ascontiguousarray(pixels), options)
        except cv2.error as exc:
            raise InputError(f"OpenCV cannot encode {pixels.shape} pixels as {suffix}: {exc}") from exc
    if not done:
        raise InputError(f"OpenCV cannot encode {pixels.shape} pixels as {suffix}; write a PNG instead")
    content = bytes(data)
    return with_alpha_declared(content) if suffix == ".tiff" and pixels.shape[2] == 4 else content


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return pixels[rows, columns]


def _cv2() -> ModuleType:
    return require("cv2", extra="all", needed_for="Reading and writing images")


class _Quiet:
    """Context manager that keeps OpenCV's own log off the terminal; what matters becomes an exception.

    The level is one for the process, so it is put back when the last of several threads leaves.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._level = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                log = self._log()
                self._level = log.getLogLevel()
                log.setLogLevel(0)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._log().setLogLevel(self._level)

    @staticmethod
    def _log() -> ModuleType:
        cv2 = _cv2()
        # OpenCV 4 has the functions on top, OpenCV 5 in a module.
        log: ModuleType = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
        return log


_QUIET = _Quiet()
