"""Images on disk: from files to RGB arrays and back; BGR exists in this file only.

Pillow decodes up to 8 bits a channel: it knows every BMP and every palette. OpenCV decodes 16 bits, which
Pillow would reduce to 8, and encodes.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from hasn_edge.errors import InputError
from hasn_edge.files import writing
from hasn_edge.images import check
from hasn_edge.images.arrays import Float32, Pixels, UInt8, check_pixels, to_rgb, to_uint8
from hasn_edge.images.listing import SUFFIXES, usual_suffix
from hasn_edge.images.metadata import ImageMetadata, add_tiff_tags, embed
from hasn_edge.images.pillow import (
    DamagedError,
    SharedContext,
    UnreadableError,
    open_with_pillow,
    translate_errors,
)
from hasn_edge.optional import require


@dataclass(frozen=True, kw_only=True)
class WritableFormat:
    """What a file format can hold."""

    name: str
    sixteen_bits: bool = False
    alpha: bool = False
    largest_side: int = 1 << 20
    """In pixels; OpenCV's own limit where the format has none."""

    def rounds(self, pixels: Pixels) -> bool:
        """Whether the image has 16 bits, of which the format holds 8."""
        return pixels.dtype == np.uint16 and not self.sixteen_bits

    def flattens(self, pixels: Pixels) -> bool:
        """Whether the image has transparency, which the format does not hold."""
        return pixels.shape[2] in (2, 4) and not self.alpha


FORMATS = {
    ".png": WritableFormat(name="PNG", sixteen_bits=True, alpha=True),
    ".tiff": WritableFormat(name="TIFF", sixteen_bits=True, alpha=True),
    ".webp": WritableFormat(name="WebP", alpha=True, largest_side=16383),
    ".jpg": WritableFormat(name="JPEG", largest_side=65500),
    ".bmp": WritableFormat(name="BMP"),
}
"""The formats that are written, by their usual file name ending."""

_MODES = {"1": "L", "L": "L", "LA": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBX": "RGB"}
_MODES |= {"RGBA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}  # what Pillow's modes of 8 bits are converted to
_EXTRA_SAMPLES = 338


def read_image(path: str | os.PathLike[str]) -> Pixels:
    """Read a PNG, JPEG, WebP, GIF, BMP or TIFF (its first frame or page), told by its content, not its name.

    EXIF orientation is applied. Palettes and fewer than 8 bits are expanded; CMYK becomes RGB. Colours stay
    the numbers that they are: `hasn_edge.images.metadata` reads what they mean. A file that was cut off is
    refused instead of coming out half gray. Changed bytes are found in PNG and Deflate TIFF, which carry
    checksums; in the other formats such a place decodes to noise or black.

    Returns:
        ``(H, W, C)`` of uint8 or uint16; C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha.

    Raises:
        InputError: missing, a folder, empty, cut off, damaged, another format, another pixel type, or
            more than `MAX_PIXELS`. One message that names the file and the cure.
    """
    path = Path(path)
    with _name_errors(path):
        data = path.read_bytes()
        return decode(data, check.read_header(io.BytesIO(data)))


def read_rgb8(path: str | os.PathLike[str]) -> UInt8:
    """Read an image as :func:`read_image` does, as ``(H, W, 3)`` uint8 RGB whatever its file holds."""
    return to_uint8(to_rgb(read_image(path)))


def read_image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the (height, width) that `read_image` would give, from the file's header alone.

    Raises:
        InputError: as `read_image`, except that damage after the header goes unnoticed.
    """
    path = Path(path)
    with _name_errors(path), path.open("rb") as stream:
        return check.read_header(stream).size


def write_image(
    path: str | os.PathLike[str],
    pixels: Pixels,
    *,
    quality: int = 95,
    convert: bool = False,
    metadata: ImageMetadata | None = None,
) -> None:
    """Write an image in the format of its name's ending, whole or not at all.

    What a format cannot hold is refused unless ``convert`` says otherwise: 16 bits go into PNG and
    TIFF only, alpha into PNG, TIFF and WebP only. Gray with alpha is stored as RGB with alpha.

    Args:
        path: Ends in one of `SUFFIXES`; missing folders are made.
        pixels: ``(H, W)`` or ``(H, W, C)`` of uint8 or uint16; C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB
            and alpha.
        quality: 1 to 100, for JPEG (full chroma resolution) and WebP (100 is lossless).
        convert: Round 16 bits to 8, and lay transparent images on white, where the format needs it.
        metadata: What is to be said beside the pixels, where the format can hold it.

    Raises:
        InputError: unknown ending, or pixels that the format cannot hold; names what can.
        ShapeError: not an image.
        OutputError: the folder cannot be written or the disk is full; nothing is left behind.
    """
    path = Path(path)
    if isinstance(pixels, np.ndarray) and pixels.ndim == 2:
        pixels = pixels[:, :, None]  # as the upscaler takes and returns gray
    check_pixels(pixels)
    suffix = usual_suffix(path)
    if suffix not in FORMATS:
        raise InputError(
            f"cannot write {path}: unknown ending {path.suffix!r}; use one of {', '.join(SUFFIXES)}"
        )
    if not 1 <= quality <= 100:
        raise InputError(f"cannot write {path}: quality is {quality}; expected 1 to 100")
    kind = FORMATS[suffix]
    if convert and kind.rounds(pixels):
        pixels = to_uint8(pixels)
    if convert and kind.flattens(pixels):
        pixels = _lay_on_white(pixels)
    if kind.rounds(pixels):
        raise InputError(
            f"cannot write {path}: {kind.name} holds 8 bits, the image has 16; use .png or .tiff"
        )
    if kind.flattens(pixels):
        raise InputError(
            f"cannot write {path}: {kind.name} has no transparency, the image has; use .png, .webp or .tiff"
        )
    check_size(path, pixels.shape[0], pixels.shape[1])
    with writing(path) as temporary:
        content = encode(pixels, suffix, quality)
        temporary.write_bytes(content if metadata is None else embed(content, suffix, pixels, metadata))


def conversions(path: str | os.PathLike[str], pixels: Pixels) -> list[str]:
    """Return what :func:`write_image` changes with ``convert``, because the format cannot hold it."""
    kind = FORMATS[usual_suffix(Path(path))]
    changes = []
    if kind.rounds(pixels):
        changes.append(f"{kind.name} holds 8 bits: the image's 16 were rounded")
    if kind.flattens(pixels):
        changes.append(f"{kind.name} has no transparency: the image was laid on white")
    return changes


def check_size(path: str | os.PathLike[str], height: int, width: int) -> None:
    """Refuse sizes in pixels that the format of a file's name cannot hold, before the pixels are computed.

    Raises:
        InputError: WebP above 16383 pixels a side, JPEG above 65500; names what can.
    """
    kind = FORMATS.get(usual_suffix(Path(path)))
    if kind is not None and max(height, width) > kind.largest_side:
        raise InputError(
            f"cannot write {path}: {kind.name} holds at most {kind.largest_side} pixels a side, the image "
            f"is {width} x {height}; use .png or .tiff"
        )


def decode(data: bytes, header: check.ImageHeader) -> Pixels:
    """Check that an image file is whole, and decode it; the orientation is applied.

    Returns:
        ``(H, W, C)`` of uint8 or uint16, in RGB order, which can be written to.

    Raises:
        UnreadableError: cut off or damaged.
    """
    whole = check.check_whole(data, header)
    decoded = (
        _decode_with_opencv(whole.data, header)
        if header.by_opencv
        else _decode_with_pillow(whole.data, header)
    )
    pixels = _apply_orientation(whole.finish(decoded), header.orientation)
    if pixels.shape[:2] != header.size:
        raise DamagedError(f"{header.size[::-1]} pixels announced, {pixels.shape[1::-1]} found")
    return np.ascontiguousarray(pixels)


def _decode_with_pillow(data: bytes, header: check.ImageHeader) -> Pixels:
    stream = io.BytesIO(data)
    with translate_errors(header.kind, stream):
        image = open_with_pillow(header.kind, stream)
        image.load()
        mode = _MODES[image.mode]
        if "transparency" in image.info:
            mode = {"P": "RGBA", "L": "LA"}.get(image.mode, mode)
        pixels = np.array(image if image.mode == mode else image.convert(mode))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _decode_with_opencv(data: bytes, header: check.ImageHeader) -> Pixels:
    cv2 = _cv2()
    pixels: Pixels | None
    with _QUIET_OPENCV:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            pixels = None
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise UnreadableError(
            f"it is damaged, or a kind of {header.kind} that OpenCV {cv2.__version__} cannot decode; save it "
            "again as an ordinary PNG"
        )
    if pixels.ndim == 2:
        return pixels[..., None]
    code = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    colour: Pixels = cv2.cvtColor(pixels, code, dst=pixels)
    return colour


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
    with _QUIET_OPENCV:
        try:
            done, data = cv2.imencode(suffix, np.ascontiguousarray(pixels), options)
        except cv2.error as exc:
            raise InputError(f"OpenCV cannot encode {pixels.shape} pixels as {suffix}: {exc}") from exc
    if not done:
        raise InputError(f"OpenCV cannot encode {pixels.shape} pixels as {suffix}; write a PNG instead")
    if suffix == ".tiff" and pixels.shape[2] == 4:
        # OpenCV does not say what the fourth sample is: some readers drop it, some take it for premultiplied.
        return add_tiff_tags(bytes(data), {_EXTRA_SAMPLES: (3, struct.pack("<H", 2))})
    return bytes(data)


@contextmanager
def _name_errors(path: Path) -> Iterator[None]:
    """Refuse what is no file, and give the reason of every refusal the file's name."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected an image file")
    if not path.exists():
        raise InputError(f"{path}: no such file; check the spelling and the current folder")
    if not path.is_file():
        raise InputError(f"{path}: not an ordinary file, expected an image")
    try:
        yield
    except UnreadableError as exc:
        raise InputError(f"{path}: {exc}") from exc
    except OSError as exc:
        raise InputError(f"{path}: cannot be read ({exc.strerror or exc}); check its permissions") from exc


def _lay_on_white(pixels: Pixels) -> Pixels:
    top = np.iinfo(pixels.dtype).max
    alpha = pixels[..., -1:].astype(np.float32) / np.float32(top)
    flat: Float32 = pixels[..., :-1] * alpha + top * (1 - alpha)
    return np.rint(flat).astype(pixels.dtype)


def _apply_orientation(pixels: Pixels, orientation: int) -> Pixels:
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return pixels[rows, columns]


def _cv2() -> ModuleType:
    return require("cv2", extra="all", needed_for="Reading and writing images")


@contextmanager
def _silence_opencv() -> Iterator[None]:
    """Keep OpenCV's own log off the terminal; what matters becomes an exception."""
    cv2 = _cv2()
    log = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging  # on top in OpenCV 4, not in 5
    level = log.getLogLevel()
    log.setLogLevel(0)
    try:
        yield
    finally:
        log.setLogLevel(level)


_QUIET_OPENCV = SharedContext(_silence_opencv)
