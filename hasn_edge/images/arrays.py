"""Colour, range and layout: images on disk, RGB arrays in memory, and the tensors a network takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hasn_edge.artifact import writing
from hasn_edge.errors import InputError, ShapeError
from hasn_edge.images import check as look
from hasn_edge.images import codec
from hasn_edge.images.listing import SUFFIXES as SUFFIXES
from hasn_edge.images.listing import find_images as find_images
from hasn_edge.images.source import Header, Source, UnreadableError

Pixels = NDArray[Any]
"""``(H, W, C)`` of uint8 or uint16: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha (not premultiplied)."""
Float32 = NDArray[np.float32]

MAX_PIXELS = 1 << 28
"""Largest image that is decoded: 268 megapixels. A file of a few kilobytes can claim terapixels."""

_STRIP = 64  # rows converted at a time: a x4 full-HD frame would need gigabytes of temporaries otherwise


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
        return codec.decode(look.plan(data, header), header)
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
    if suffix not in codec.FORMATS:
        raise InputError(
            f"cannot write {path}: unknown ending {path.suffix!r}; use one of {', '.join(SUFFIXES)}"
        )
    if not 1 <= quality <= 100:
        raise InputError(f"cannot write {path}: quality is {quality}; expected 1 to 100")
    kind = codec.FORMATS[suffix]
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
        temporary.write_bytes(codec.encode(pixels, suffix, quality))


def to_rgb(pixels: Pixels) -> Pixels:
    """Return ``(H, W, 3)`` of the same dtype: gray repeated, alpha left out (see `split_alpha`)."""
    check_pixels(pixels)
    if pixels.shape[2] == 3:
        return pixels
    return np.ascontiguousarray(pixels[..., :3] if pixels.shape[2] == 4 else pixels[..., [0, 0, 0]])


def to_gray(rgb: Pixels) -> Pixels:
    """Return ``(H, W, 1)`` of the same dtype from ``(H, W, 3)``: BT.601 weights, full range, rounded."""
    check_pixels(rgb)
    if rgb.shape[2] != 3:
        raise ShapeError(f"expected an RGB image (H, W, 3), got shape {rgb.shape}")
    gray = np.tensordot(rgb, np.array([0.299, 0.587, 0.114]), axes=1)
    return np.rint(gray, out=gray).astype(rgb.dtype)[..., None]


def to_uint8(pixels: Pixels) -> NDArray[np.uint8]:
    """Return the image in 8 bits; 16-bit values are divided by 257 and rounded."""
    check_pixels(pixels)
    if pixels.dtype == np.uint8:
        return pixels
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def split_alpha(pixels: Pixels) -> tuple[Pixels, Pixels | None]:
    """Return colour ``(H, W, 1 or 3)`` and alpha ``(H, W, 1)``, which is ``None`` for opaque images."""
    check_pixels(pixels)
    if pixels.shape[2] % 2:
        return pixels, None
    return np.ascontiguousarray(pixels[..., :-1]), np.ascontiguousarray(pixels[..., -1:])


def join_alpha(colour: Pixels, alpha: Pixels | None) -> Pixels:
    """Undo `split_alpha`."""
    return colour if alpha is None else np.concatenate([colour, alpha], axis=2)


def to_tensor(rgb: Pixels) -> Float32:
    """Turn an RGB image into what a network takes.

    Args:
        rgb: ``(H, W, 3)`` uint8 or uint16.

    Returns:
        ``(1, 3, H, W)`` float32 in [0, 1], C-contiguous: the value divided by 255 or 65535.

    Raises:
        ShapeError: another shape or dtype.
    """
    check_pixels(rgb)
    if rgb.shape[2] != 3:
        raise ShapeError(
            f"expected an RGB image (H, W, 3), got shape {rgb.shape}; see hasn_edge.images.arrays.to_rgb"
        )
    x_CHW = np.empty((3, *rgb.shape[:2]), np.float32)
    np.divide(rgb.transpose(2, 0, 1), np.float32(np.iinfo(rgb.dtype).max), out=x_CHW)
    return x_CHW[None]


def from_tensor(y_NCHW: NDArray[Any], dtype: DTypeLike = np.uint8) -> Pixels:
    """Turn a network's output back into an image: clipped to [0, 1], scaled, rounded to the nearest level.

    Args:
        y_NCHW: ``(1, C, H, W)`` of a floating dtype.
        dtype: ``numpy.uint8`` or ``numpy.uint16``.

    Returns:
        ``(H, W, C)`` of ``dtype``, C-contiguous.

    Raises:
        ShapeError: another rank, a batch of more than one, or an integer tensor.
        InputError: the tensor has values that are not finite numbers.
    """
    if y_NCHW.ndim != 4 or y_NCHW.shape[0] != 1 or not np.issubdtype(y_NCHW.dtype, np.floating):
        raise ShapeError(
            f"expected one image as a floating (1, C, H, W) tensor, got {y_NCHW.shape} of {y_NCHW.dtype}; "
            "convert a batch one image at a time"
        )
    levels = _levels(dtype)
    _, channels, height, width = y_NCHW.shape
    pixels = np.empty((height, width, channels), dtype)
    compute = np.result_type(y_NCHW.dtype, np.float32)
    for top in range(0, height, _STRIP):
        strip = y_NCHW[0, :, top : top + _STRIP].astype(compute)
        # Clipping makes infinity white and the cast makes NaN any level: a broken engine, FP16 overflowing
        # inside for one, would pass for a working one.
        if not np.isfinite(strip).all():
            raise InputError(
                "the network's output has values that are not numbers (NaN or infinity); this file or "
                "precision does not work for this image: use --precision fp32, and check the checkpoint"
            )
        strip = np.clip(strip, 0, 1, out=strip)
        strip *= levels
        rounded = np.rint(strip, out=strip).astype(dtype)
        for channel in range(channels):  # twice as fast as one transposed copy
            pixels[top : top + _STRIP, :, channel] = rounded[channel]
    return pixels


def luma(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the luma ``(H, W)`` of a uint8 RGB image ``(H, W, 3)``: float64 in [16, 235], not rounded.

    ITU-R BT.601 with studio range, as MATLAB's ``rgb2ycbcr`` has it and every published PSNR-Y uses:
    ``16 + (65.481 R + 128.553 G + 24.966 B) / 255``.

    Raises:
        ShapeError: another shape or dtype.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ShapeError(
            f"luma needs (H, W, 3) of uint8, got {rgb.shape} of {rgb.dtype}; see to_rgb, to_uint8"
        )
    weights = np.array([65.481, 128.553, 24.966]) / 255.0
    y_HW: NDArray[np.float64] = rgb[..., 0] * weights[0]
    y_HW += rgb[..., 1] * weights[1]
    y_HW += rgb[..., 2] * weights[2]
    y_HW += 16.0
    return y_HW


def check_pixels(pixels: Pixels) -> None:
    """Refuse what is not an image.

    Raises:
        ShapeError: no array, not ``(H, W, C)`` with C from 1 to 4, no pixels, or neither uint8 nor uint16.
    """
    if not isinstance(pixels, np.ndarray):
        raise ShapeError(
            f"expected an image as a NumPy array (H, W, C) of uint8 or uint16, got {type(pixels).__name__}; "
            "read_image of hasn_edge.images.arrays reads files"
        )
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or pixels.size == 0:
        raise ShapeError(f"expected an image (H, W, C) with 1 to 4 channels, got shape {pixels.shape}")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ShapeError(f"expected pixels of uint8 or uint16, got {pixels.dtype}")


def _levels(dtype: DTypeLike) -> int:
    kind = np.dtype(dtype)
    if kind not in (np.uint8, np.uint16):
        raise ShapeError(f"an image has uint8 or uint16 levels, not {kind}")
    return int(np.iinfo(kind).max)


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
