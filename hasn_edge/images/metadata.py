"""What travels beside the pixels of an image: how its colours are meant, its resolution, date and authors."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from hasn_edge.errors import HasnEdgeError
from hasn_edge.images.arrays import Pixels, split_alpha
from hasn_edge.images.check import PNG_SIGNATURE, png_chunks, read_header
from hasn_edge.images.icc import HDR_TRANSFERS, convert_to_srgb, profile_of_cicp, profile_of_gamma
from hasn_edge.images.listing import usual_suffix
from hasn_edge.images.pillow import UnreadableError, open_with_pillow, translate_errors
from hasn_edge.optional import require

T = TypeVar("T")

_TAGS = (270, 271, 272, 306, 315, 33432)  # description, make, model, date, artist, copyright
_EXPOSURE, _EXPOSURE_TAGS = 0x8769, (36867, 36868, 36880, 36881, 36882, 37520, 37521, 37522)  # dates
_COLOUR_CHUNKS = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")
_INCH = 0.0254  # metres
_MOST_BYTES = 1 << 24  # of a profile that is unpacked
_MOST_PAGES, _NEW_SUBFILE = 1000, 254  # bit 0 of this tag: a smaller version of another page
_ICC_PIECE = 65_519  # bytes of a profile in one segment of a JPEG
_ASCII, _SHORT, _RATIONAL, _UNDEFINED = 2, 3, 5, 7  # TIFF's types of values


@dataclass(frozen=True, kw_only=True)
class ImageMetadata:
    """What a file says of its image, as far as it goes into another one."""

    icc: bytes = b""
    """The ICC profile that says which colours the numbers are; empty for sRGB, or where nothing is said."""
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    """The chunks of a PNG that say the same, name and data: for another PNG."""
    hdr: str = ""
    """The transfer of a high dynamic range, which only a PNG can keep: ``PQ`` or ``HLG``."""
    dpi: tuple[float, float] | None = None
    """Pixels an inch, across and down."""
    further: int = 0
    """How many frames of an animation, or pages, the file has beside the one that is read."""
    exif: bytes = b""
    """EXIF's description, camera, dates, artist and copyright: a block that begins with its byte order."""

    @property
    def colours(self) -> str:
        """How the colours are meant, in a few words; empty for sRGB, or where nothing is said."""
        if self.hdr:
            return f"high dynamic range ({self.hdr})"
        return f"colour profile ({_profile_name(self.icc)})" if self.icc else ""


def read_metadata(path: str | os.PathLike[str]) -> ImageMetadata:
    """Return what a PNG, JPEG, WebP or TIFF says beside its pixels; what cannot be read is left out.

    EXIF's orientation is not part of it: reading an image applies it. Nor are places, previews, and what
    only the camera's maker knows.
    """
    with suppress(UnreadableError, HasnEdgeError, OSError), Path(path).open("rb") as stream:
        kind = read_header(stream).kind
        if kind == "PNG":
            return _read_png(stream)
        with translate_errors(kind, stream):
            image = open_with_pillow(kind, stream)
            return ImageMetadata(
                icc=_part(lambda: _check_profile(image.info.get("icc_profile")), b""),
                dpi=_check_dpi(image.info.get("dpi")),
                exif=_part(lambda: _pick(image.getexif()), b""),
                further=_part(lambda: _count_further(image), 0),  # last, because it goes to other pages
            )
    return ImageMetadata()


def _part(read: Callable[[], T], otherwise: T) -> T:
    """Return what ``read`` returns: a part of a file that is broken costs the others nothing."""
    try:
        return read()
    except Exception:  # Pillow raises what its parsing meets
        return otherwise


def is_still(path: str | os.PathLike[str]) -> bool:
    """Say whether a file is a GIF of one frame: an image, and no video."""
    with suppress(UnreadableError, HasnEdgeError, OSError), Path(path).open("rb") as stream:
        if read_header(stream).kind == "GIF":
            with translate_errors("GIF", stream):
                return not open_with_pillow("GIF", stream).is_animated
    return False


def _count_further(image: Any) -> int:
    """Return how many frames or pages Pillow's image has beside the first; a TIFF's previews do not count."""
    if image.format != "TIFF":
        return int(getattr(image, "n_frames", 1)) - 1
    count = 0
    with suppress(Exception):  # the end of the file, or a page that is broken: those before it count
        for page in range(1, _MOST_PAGES):
            image.seek(page)
            count += not int(image.tag_v2.get(_NEW_SUBFILE, 0)) & 1
    return count


def keep_colours(
    pixels: Pixels, metadata: ImageMetadata, target: Path, *, srgb: bool = False
) -> tuple[Pixels, ImageMetadata, str]:
    """Choose how a new file says which colours its numbers are: by the profile, or by being sRGB.

    Args:
        pixels: ``(H, W, C)`` of uint8 or uint16.
        metadata: Of the file that they come from.
        target: The new file. Where it cannot hold the profile, colours are converted.
        srgb: Convert in any case.

    Returns:
        The pixels, what is to be said beside them, and what a user should know; empty for nothing.
    """
    suffix = usual_suffix(target)
    holds = suffix in _EMBED and metadata.icc[16:20] == _space(suffix, pixels.shape[2]) and not metadata.hdr
    if not metadata.colours or (not srgb and (holds or (metadata.hdr and suffix == ".png"))):
        return pixels, metadata, ""
    without = replace(metadata, icc=b"", chunks=(), hdr="")
    try:
        if metadata.hdr:
            raise UnreadableError("it does not fit into sRGB")
        return _to_srgb(pixels, metadata.icc), without, f"its {metadata.colours} was converted to sRGB"
    except UnreadableError as exc:
        return pixels, without, f"its {metadata.colours} is left out: {exc}"


def _space(suffix: str, channels: int) -> bytes:
    """Return ICC's name of the colours that a file will have: gray with alpha is stored as RGB with alpha."""
    return b"RGB " if channels > 1 or suffix == ".webp" else b"GRAY"


def _to_srgb(pixels: Pixels, icc: bytes) -> Pixels:
    colour, alpha = split_alpha(pixels)
    if icc[16:20] != (b"GRAY" if colour.shape[2] == 1 else b"RGB "):
        raise UnreadableError("it is not for the colours that were read")
    converted = convert_to_srgb(colour, icc)
    return converted if alpha is None else np.concatenate([converted, alpha], axis=2)


def embed(content: bytes, suffix: str, pixels: Pixels, metadata: ImageMetadata) -> bytes:
    """Return an encoded image with what travels beside its pixels; what the format cannot hold is left out.

    Args:
        content: As OpenCV wrote it.
        suffix: ``.png``, ``.jpg``, ``.webp``, ``.tiff`` or ``.bmp``.
        pixels: What was written.
        metadata: What is to be said.
    """
    if suffix not in _EMBED:
        return content
    return _EMBED[suffix](content, pixels, metadata)


def _read_png(stream: BinaryIO) -> ImageMetadata:
    found: dict[bytes, bytes] = {}
    for name, start, length in png_chunks(stream):
        if name in (*_COLOUR_CHUNKS, b"pHYs", b"eXIf", b"acTL"):
            stream.seek(start)
            found.setdefault(name, stream.read(length))
        if name == b"IEND":
            break
    icc, hdr, dpi, exif = b"", "", None, b""
    stream.seek(25)
    gray = not stream.read(1)[0] & 2  # by the colour type in the header
    with suppress(struct.error, zlib.error, IndexError, ValueError, ArithmeticError):
        # The first that is there decides, in the order of the standard.
        if b"cICP" in found:
            primaries, transfer, _, _ = found[b"cICP"][:4]
            hdr, icc = HDR_TRANSFERS.get(transfer, ""), profile_of_cicp(primaries, transfer, gray=gray)
        elif b"iCCP" in found:
            packed = found[b"iCCP"].partition(b"\0")[2][1:]
            icc = _check_profile(zlib.decompressobj().decompress(packed, _MOST_BYTES))
        elif b"sRGB" not in found and (b"gAMA" in found or b"cHRM" in found):
            gamma = struct.unpack(">I", found[b"gAMA"])[0] / 100_000 if b"gAMA" in found else None
            xy = (
                [value / 100_000 for value in struct.unpack(">8I", found[b"cHRM"])]
                if b"cHRM" in found
                else []
            )
            pairs = tuple(zip(xy[::2], xy[1::2], strict=True))
            icc = profile_of_gamma(gamma, (*pairs[1:], pairs[0]) if pairs else None, gray=gray)
    with suppress(struct.error):
        across, down, unit = struct.unpack(">IIB", found.get(b"pHYs", b""))
        dpi = _check_dpi((across * _INCH, down * _INCH)) if unit == 1 else None
    if b"eXIf" in found:
        image: Any = require("PIL.Image", extra="all", needed_for="Reading images")
        with suppress(Exception):  # a broken block is no reason to refuse an image
            block = image.Exif()
            block.load(b"Exif\0\0" + found[b"eXIf"].removeprefix(b"Exif\0\0"))
            exif = _pick(block)
    # What an animated PNG counts may leave out the image itself, which then is not part of the animation.
    further = max(0, int.from_bytes(found.get(b"acTL", b"")[:4], "big") - 1)
    chunks = tuple((name, found[name]) for name in _COLOUR_CHUNKS if name in found)
    return ImageMetadata(icc=icc, chunks=chunks, hdr=hdr, dpi=dpi, further=further, exif=exif)


def _check_profile(icc: bytes | None) -> bytes:
    return icc if icc is not None and icc[36:40] == b"acsp" else b""


def _check_dpi(dpi: Any) -> tuple[float, float] | None:
    with suppress(TypeError, ValueError, ZeroDivisionError, OverflowError):
        across, down = (round(float(value), 3) for value in dpi)
        if 1 < across < 1e5 and 1 < down < 1e5:
            return across, down
    return None


def _pick(exif: Any) -> bytes:
    """Return a new block of the tags that are kept of Pillow's EXIF; empty for none of them."""
    image: Any = require("PIL.Image", extra="all", needed_for="Reading images")
    kept, exposure = image.Exif(), exif.get_ifd(_EXPOSURE)
    for tag in _TAGS:
        if isinstance(exif.get(tag), str):
            kept[tag] = _as_stored(exif[tag])
    for tag in _EXPOSURE_TAGS:
        if isinstance(exposure.get(tag), str):
            kept.get_ifd(_EXPOSURE)[tag] = exposure[tag]
    return kept.tobytes().removeprefix(b"Exif\0\0") if kept or kept.get_ifd(_EXPOSURE) else b""


def _as_stored(text: str) -> bytes:
    """Return the bytes that Pillow read as Latin-1, whatever they are: it would write ``?`` for many."""
    return text.encode("latin-1", "replace")


def _profile_name(icc: bytes) -> str:
    cms: Any = require("PIL.ImageCms", extra="all", needed_for="Reading colour profiles")
    with suppress(OSError, cms.PyCMSError):
        return str(cms.getProfileDescription(io.BytesIO(icc))).strip()
    return "without a name"


def _embed_png(content: bytes, pixels: Pixels, metadata: ImageMetadata) -> bytes:
    chunks = list(metadata.chunks)
    if metadata.icc and not chunks:
        chunks = [(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc))]
    if metadata.dpi is not None:
        across, down = (round(value / _INCH) for value in metadata.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", across, down, 1)))
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif))
    made = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    after = len(PNG_SIGNATURE) + 25  # behind the header
    return content[:after] + made + content[after:]


def _embed_jpeg(content: bytes, pixels: Pixels, metadata: ImageMetadata) -> bytes:
    after = 4 + int.from_bytes(content[4:6], "big") if content[2:4] == b"\xff\xe0" else 2
    begin = bytearray(content[:after])
    if metadata.dpi is not None and after >= 20:
        begin[13:18] = struct.pack(">BHH", 1, *(min(65535, round(value)) for value in metadata.dpi))
    segments = [(0xE1, b"Exif\0\0" + metadata.exif)] if 0 < len(metadata.exif) < 65_000 else []
    pieces = [metadata.icc[at : at + _ICC_PIECE] for at in range(0, len(metadata.icc), _ICC_PIECE)]
    segments += [
        (0xE2, b"ICC_PROFILE\0" + bytes([number, len(pieces)]) + piece)
        for number, piece in enumerate(pieces, 1)
        if len(pieces) < 256
    ]
    made = b"".join(struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data for marker, data in segments)
    return bytes(begin) + made + content[after:]


def _embed_webp(content: bytes, pixels: Pixels, metadata: ImageMetadata) -> bytes:
    exif = metadata.exif
    if not metadata.icc and not exif:
        return content
    body = content[12:]
    height, width, channels = pixels.shape
    if body[:4] == b"VP8X":
        body = body[18:]
    flags = 0x20 * bool(metadata.icc) | 0x10 * (channels in (2, 4)) | 0x08 * bool(exif)
    extended = (
        bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    )
    body = _riff(b"VP8X", extended) + _riff(b"ICCP", metadata.icc) + body + _riff(b"EXIF", exif)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _riff(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) if data else b""


def _embed_tiff(content: bytes, pixels: Pixels, metadata: ImageMetadata) -> bytes:
    entries: dict[int, tuple[int, bytes]] = {}
    if metadata.icc:
        entries[34675] = (_UNDEFINED, metadata.icc)
    if metadata.dpi is not None:
        for tag, value in zip((282, 283), metadata.dpi, strict=True):
            entries[tag] = (_RATIONAL, struct.pack("<II", round(1000 * value), 1000))
        entries[296] = (_SHORT, struct.pack("<H", 2))
    if metadata.exif:
        image: Any = require("PIL.Image", extra="all", needed_for="Writing images")
        exif = image.Exif()
        exif.load(b"Exif\0\0" + metadata.exif)
        entries |= {tag: (_ASCII, _as_stored(exif[tag]) + b"\0") for tag in _TAGS if tag in exif}
    return add_tiff_tags(content, entries)


def add_tiff_tags(data: bytes, entries: dict[int, tuple[int, bytes]]) -> bytes:
    """Return a TIFF of one page, as OpenCV writes it, with these tags: for each its type and bytes."""
    if data[:4] != b"II*\0" or not entries:
        return data
    (offset,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack_from("<H", data, offset)
    table = [data[offset + 2 + 12 * i : offset + 14 + 12 * i] for i in range(count)]
    table = [entry for entry in table if int.from_bytes(entry[:2], "little") not in entries]
    data += b"\0" * (len(data) % 2)
    sizes = {_ASCII: 1, _SHORT: 2, _RATIONAL: 8, _UNDEFINED: 1}
    for tag, (kind, value) in entries.items():
        inline = value
        if len(value) > 4:
            inline = struct.pack("<I", len(data))
            data += value + b"\0" * (len(value) % 2)
        table.append(struct.pack("<HHI", tag, kind, len(value) // sizes[kind]) + inline.ljust(4, b"\0"))
    table.sort(key=lambda entry: int.from_bytes(entry[:2], "little"))
    directory = struct.pack("<H", len(table)) + b"".join(table) + struct.pack("<I", 0)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory


_EMBED = {".png": _embed_png, ".jpg": _embed_jpeg, ".webp": _embed_webp, ".tiff": _embed_tiff}
