"""Images on disk: from files to RGB arrays and back; BGR exists in this file only."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from hasn_edge.errors import InputError
from hasn_edge.files import writing
from hasn_edge.images import check as look
from hasn_edge.images.arrays import MAX_PIXELS, Float32, Pixels, check_pixels, to_uint8
from hasn_edge.images.listing import SUFFIXES
from hasn_edge.images.source import DamagedError, Header, Plan, Source, UnreadableError
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


def read_image(path: str | os.PathLike[str]) -> Pixels:
    """Read a PNG, JPEG, WebP, BMP or TIFF (its first page), told apart by content, not by name.

    EXIF orientation is applied. Palettes and fewer than 8 bits are expanded; CMYK becomes RGB; colour
    profiles and gamma are ignored. The file is checked from end to end before it is decoded, so a file
    that was cut off is refused instead of coming out half gray. Changed bytes are found in PNG and
    Deflate TIFF, which carry checksums; in the other formats such a place decodes to noise or black, and
    for JPEG libjpeg warns of it on standard error.

    Returns:
        ``(H, W, C)`` of uint8 or uint16; C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha.

    Raises:
        InputError: missing, a folder, empty, cut off, damaged, another format, another pixel type, or
            more than `MAX_PIXELS`. One message that names the file and the cure.
    """
    path = Path(path)
    _check_file(path)
    try:
        data = path.read_bytes()
        header = look.read_header(Source.of_bytes(data))
        _check_size(header)
        return decode(look.plan(data, header), header)
    except UnreadableError as exc:
        raise InputError(f"{path}: {exc}") from exc
    except OSError as exc:
        raise InputError(f"{path}: cannot be read ({exc.strerror or exc}); check its permissions") from exc


def read_image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the (height, width) that `read_image` would give, from the file's header alone.

    Raises:
        InputError: as `read_image`, except that damage after the header goes unnoticed.
    """
    path = Path(path)
    _check_file(path)
    try:
        with path.open("rb") as stream:
            header = look.read_header(Source.of_file(stream, os.fstat(stream.fileno()).st_size))
        _check_size(header)
    except UnreadableError as exc:
        raise InputError(f"{path}: {exc}") from exc
    except OSError as exc:
        raise InputError(f"{path}: cannot be read ({exc.strerror or exc}); check its permissions") from exc
    return header.size


def write_image(
    path: str | os.PathLike[str], pixels: Pixels, *, quality: int = 95, convert: bool = False
) -> None:
    """Write an image in the format of its name's ending, whole or not at all.

    What a format cannot hold is refused unless ``convert`` says otherwise: 16 bits go into PNG and
    TIFF only, alpha into PNG, TIFF and WebP only. Gray with alpha is stored as RGB with alpha.

    Args:
        path: Ends in one of `SUFFIXES`; missing folders are made.
        pixels: ``(H, W, C)`` of uint8 or uint16; C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha.
        quality: 1 to 100, for JPEG (full chroma resolution) and WebP (100 is lossless).
        convert: Round 16 bits to 8, and lay transparent images on white, where the format needs it.

    Raises:
        InputError: unknown ending, or pixels that the format cannot hold; names what can.
        ShapeError: not an image.
        OutputError: the folder cannot be written or the disk is full; nothing is left behind.
    """
    path = Path(path)
    check_pixels(pixels)
    suffix = {".jpeg": ".jpg", ".tif": ".tiff"}.get(path.suffix.lower(), path.suffix.lower())
    if suffix not in FORMATS:
        raise InputError(
            f"cannot write {path}: unknown ending {path.suffix!r}; use one of {', '.join(SUFFIXES)}"
        )
    if not 1 <= quality <= 100:
        raise InputError(f"cannot write {path}: quality is {quality}; expected 1 to 100")
    kind = FORMATS[suffix]
    if convert and pixels.dtype == np.uint16 and not kind.sixteen_bits:
        pixels = to_uint8(pixels)
    if convert and pixels.shape[2] in (2, 4) and not kind.alpha:
        pixels = _on_white(pixels)
    if pixels.dtype == np.uint16 and not kind.sixteen_bits:
        raise InputError(
            f"cannot write {path}: {kind.name} holds 8 bits, the image has 16; use .png or .tiff"
        )
    if pixels.shape[2] in (2, 4) and not kind.alpha:
        raise InputError(
            f"cannot write {path}: {kind.name} has no transparency, the image has; use .png, .webp or .tiff"
        )
    if max(pixels.shape[:2]) > kind.largest_side:
        raise InputError(
            f"cannot write {path}: {kind.name} holds at most {kind.largest_side} pixels a side, the image "
            f"is {pixels.shape[1]} x {pixels.shape[0]}; use .png or .tiff"
        )
    with writing(path) as temporary:
        temporary.write_bytes(encode(pixels, suffix, quality))


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


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected an image file")
    if not path.exists():
        raise InputError(f"{path}: no such file; check the spelling and the current folder")
    if not path.is_file():
        raise InputError(f"{path}: not an ordinary file, expected an image")


def _check_size(header: Header) -> None:
    if header.height * header.width > MAX_PIXELS:
        raise UnreadableError(
            f"it says that the image is {header.width} x {header.height} pixels, more than the "
            f"{MAX_PIXELS / 1e6:.0f} megapixels that are decoded; cut it into parts, or get the file "
            "again if it is not that large"
        )


def _on_white(pixels: Pixels) -> Pixels:
    top = np.iinfo(pixels.dtype).max
    alpha = pixels[..., -1:].astype(np.float32) / np.float32(top)
    flat: Float32 = pixels[..., :-1] * alpha + top * (1 - alpha)
    return np.rint(flat).astype(pixels.dtype)


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
