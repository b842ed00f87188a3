"""What an image file says before it is decoded: format, size, orientation; and whether it is whole.

Pillow reads the headers, and while it decodes it refuses what was cut off. The rest is here: the limit on
the size comes before any memory is taken; Pillow decodes a PNG that lacks its end, and a JPEG whose second
half is zeros, without a word; and some TIFFs would come out with other colours.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from hasn_edge.images.arrays import MAX_PIXELS, Pixels
from hasn_edge.images.pillow import (
    CutOffError,
    DamagedError,
    UnreadableError,
    open_with_pillow,
    translate_errors,
    version,
)

FORMATS_READ = "PNG, JPEG, WebP, GIF, BMP or TIFF"

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # samples per pixel by colour type
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))

# In entropy-coded data FF 00 is a plain FF, FF D0..D7 restarts the decoder and FF FF is padding.
_JPEG_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES = 256, 257, 258, 259, 262, 274, 277
_PLANAR, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 284, 338, 339
_EXTENTS = ((273, 279), (324, 325))  # offsets and lengths of the strips, or of the tiles
_TIFF_TAGS = {256, 257, 258, 259, 262, 273, 274, 277, 279, 284, 324, 325, 338, 339, 347}
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 7: "B", 13: "I", 16: "Q", 18: "Q"}  # unsigned integers, plain bytes
_MOST_VALUES = 1 << 20  # a tag with more is nonsense: images of an accepted size have fewer strips
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_DEFLATE = (8, 32946)
_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 32773, *_DEFLATE}  # none, fax, LZW, JPEG, PackBits, Deflate

_OTHERS = (
    (b"%PDF", "a PDF"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance HDR image"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (b"8BPS", "a Photoshop file"),
    (b"version https://git-lfs", "a Git LFS pointer, not yet fetched"),
)


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """What an image file says about itself."""

    kind: str
    """One of `FORMATS_READ`."""
    size: tuple[int, int]
    """(height, width) as a viewer shows the image."""
    orientation: int = 1
    """EXIF orientation, 1 to 8, that is left to apply after decoding: TIFF's is applied by its decoders."""
    by_opencv: bool = False
    """OpenCV decodes it: Pillow would reduce 16 bits a channel to 8."""
    scan: int = 0
    """JPEG: the byte where the first scan's data begins."""
    tags: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """TIFF: the first directory."""


def _keep(pixels: Pixels) -> Pixels:
    return pixels


@dataclass(frozen=True)
class CheckedImage:
    """A whole image file, and what is left to do once it is decoded."""

    data: bytes
    """What to decode: the file, freed of what makes decoders disagree or complain."""
    finish: Callable[[Pixels], Pixels] = _keep
    """Makes the decoded ``(H, W, C)``, in RGB order, what the file means."""


def read_header(stream: BinaryIO) -> ImageHeader:
    """Tell what an image file is, without decoding it.

    Raises:
        UnreadableError: another format, a damaged header, a size of zero, or more than `MAX_PIXELS`.
    """
    length = stream.seek(0, os.SEEK_END)
    start = _read(stream, 0, min(32, length))
    if not start:
        raise UnreadableError("the file is empty; the download or copy failed, get the file again")
    if start.startswith(PNG_SIGNATURE):
        header = _read_png(stream)
    elif start[:4] in _TIFF_MAGIC:
        header = _read_tiff(stream)
    elif start[:3] == b"\xff\xd8\xff":
        header = _read_with_pillow("JPEG", stream)
    elif start[:6] in (b"GIF87a", b"GIF89a"):
        header = _read_with_pillow("GIF", stream)
    elif start[:2] == b"BM":
        if start[14:15] >= b"\x28" and start[30:] == b"\2\0" and version() < 13:
            raise UnreadableError(
                "a BMP of run lengths of 4 bits needs Pillow 13; save it again as an ordinary PNG"
            )
        header = _read_with_pillow("BMP", stream)
    elif start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        if start[12:16] == b"VP8X":  # Pillow makes room for the canvas as soon as it opens the file
            _check_size(*(1 + int.from_bytes(start[at : at + 3], "little") for at in (27, 24)))
        if (end := 8 + int.from_bytes(start[4:8], "little")) > length:
            raise CutOffError(length, end)
        header = _read_with_pillow("WebP", stream)
    else:
        raise UnreadableError(
            f"not an image that can be read: it is {_guess(start)}; save it as {FORMATS_READ}"
        )
    _check_size(*header.size)
    return header


def check_whole(data: bytes, header: ImageHeader) -> CheckedImage:
    """Check what the decoders do not notice: that the whole image is there.

    Raises:
        UnreadableError: cut off or damaged.
    """
    if header.kind == "PNG":
        return _check_png(data)
    if header.kind == "TIFF":
        return _check_tiff(data, header)
    if header.kind == "JPEG":
        _check_jpeg_end(data, header.scan)
    return CheckedImage(data)


def _read(stream: BinaryIO, offset: int, count: int) -> bytes:
    """Return exactly ``count`` bytes from ``offset``, or raise `CutOffError`."""
    length = stream.seek(0, os.SEEK_END)
    if offset + count > length:
        raise CutOffError(length, offset + count)
    stream.seek(offset)
    return stream.read(count)


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise DamagedError(f"it says that the image is {width} x {height} pixels")
    if height * width > MAX_PIXELS:
        raise UnreadableError(
            f"it says that the image is {width} x {height} pixels, more than the "
            f"{MAX_PIXELS / 1e6:.0f} megapixels that are decoded; cut it into parts, or get the file "
            "again if it is not that large"
        )


def _guess(start: bytes) -> str:
    for magic, name in _OTHERS:
        if start.startswith(magic):
            return name
    if start[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file"
    if all(byte in b"\t\r\n\f" or 32 <= byte < 127 for byte in start):
        return "text"
    return "none of the formats known here"


def _read_with_pillow(kind: str, stream: BinaryIO) -> ImageHeader:
    with translate_errors(kind, stream, at_end=kind != "WebP"):  # a WebP is always read to its end
        image = open_with_pillow(kind, stream)
        scan = stream.tell()
    orientation = _exif_orientation(image.info.get("exif", b""))
    height, width = image.size[::-1] if orientation < 5 else image.size
    return ImageHeader(kind=kind, size=(height, width), orientation=orientation, scan=scan)


def _exif_orientation(block: bytes) -> int:
    """Return the orientation 1 to 8 in an EXIF block; 1 where it says nothing sensible.

    A broken EXIF block does not make an image unreadable: every viewer shows it unturned.
    """
    try:
        return _orientation(_tiff_tags(io.BytesIO(block.removeprefix(b"Exif\0\0"))))
    except UnreadableError:
        return 1


def _orientation(tags: Mapping[int, tuple[int, ...]]) -> int:
    value = tags.get(_ORIENTATION, (1,))[0]
    return value if 1 <= value <= 8 else 1


def _check_jpeg_end(data: bytes, offset: int) -> None:
    """Walk the scans to the end marker; what comes after it (a second image, say) is not ours."""
    while True:
        found = _JPEG_NEXT_MARKER.search(data, offset)
        if found is None:
            raise CutOffError(len(data), len(data) + 2)
        marker = data[found.start() + 1]
        if marker == 0xD9:
            return
        offset = found.end()
        if marker != 0x01 and marker != 0xD8:
            offset += int.from_bytes(data[offset : offset + 2], "big")


def _read_png(stream: BinaryIO) -> ImageHeader:
    chunks = png_chunks(stream)
    name, start, length = next(chunks)
    if name != b"IHDR" or length != 13:
        raise DamagedError("it does not begin with an image header")
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", _read(stream, start, 13))
    if colour not in _PNG_CHANNELS or depth not in _PNG_DEPTHS[colour] or interlace > 1:
        raise DamagedError(f"unknown pixel format: colour type {colour}, {depth} bits, interlace {interlace}")
    orientation = 1
    for name, start, length in chunks:
        if name == b"eXIf":
            orientation = _exif_orientation(_read(stream, start, length))
        if name == b"IEND":
            break
    size = (height, width) if orientation < 5 else (width, height)
    return ImageHeader(kind="PNG", size=size, orientation=orientation, by_opencv=depth == 16)


def _check_png(data: bytes) -> CheckedImage:
    """Check every checksum and the length of the pixel data; keep only the chunks that make pixels.

    A colour that stands for transparency is applied here: what decoders make of it depends on the version.
    """
    kept = [PNG_SIGNATURE]
    pixels: list[memoryview] = []
    key: bytes | None = None
    palette = False
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", data[16:29])
    for name, start, length in png_chunks(io.BytesIO(data)):
        end = start + length
        # Checking only what is used: editors are known to leave wrong checksums on private chunks.
        wanted = name in (b"IHDR", b"PLTE", b"IDAT", b"tRNS")
        checksum = int.from_bytes(data[end : end + 4], "big")
        if wanted and zlib.crc32(memoryview(data)[start - 4 : end]) != checksum:
            raise DamagedError(f"checksum of its {name.decode()} data at byte {start:,} is wrong")
        if name == b"IDAT":
            if colour == 3 and not palette:
                raise DamagedError("its palette is missing")
            pixels.append(memoryview(data)[start:end])
        palette |= name == b"PLTE"
        if name == b"tRNS" and colour != 3:
            key = data[start:end]
        elif wanted or name == b"IEND":
            kept.append(data[start - 8 : end + 4])
        if name == b"IEND":
            break
    # Rows are packed to whole bytes, with a filter byte before each.
    bits = depth * _PNG_CHANNELS[colour]
    expected = 0
    for x, y, step_x, step_y in _ADAM7 if interlace else ((0, 0, 1, 1),):
        columns, rows = -(-max(0, width - x) // step_x), -(-max(0, height - y) // step_y)
        expected += rows * (1 + (columns * bits + 7) // 8) if columns else 0
    found = _measure_inflated(pixels, expected)
    if found < expected:
        raise DamagedError(f"pixel data for {found:,} of {expected:,} bytes")
    finish: Callable[[Pixels], Pixels] = _keep
    if colour == 4:
        finish = _gray_and_alpha
    elif key is not None and colour in (0, 2):
        finish = _apply_key(key, depth, _PNG_CHANNELS[colour])
    return CheckedImage(b"".join(kept), finish)


def png_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and length of the data of each chunk; a file without its end chunk is cut off."""
    offset = len(PNG_SIGNATURE)
    while True:
        length, name = struct.unpack(">I4s", _read(stream, offset, 8))
        if not name.isalpha() or length > 0x7FFFFFFF:
            raise DamagedError(f"no chunk where one should begin, at byte {offset:,}")
        _read(stream, offset + 8 + length, 4)
        yield name, offset + 8, length
        offset += 12 + length


def _measure_inflated(pieces: Iterable[memoryview], limit: int) -> int:
    """Decompress zlib data without keeping it, and return how long it is; stop counting beyond ``limit``.

    The decoders would leave that part of the image black, or say what is wrong on the terminal only.

    Raises:
        DamagedError: it does not decompress, or its checksum is wrong.
    """
    length = 0
    inflater = zlib.decompressobj()
    try:
        for piece in pieces:
            rest: bytes | memoryview = piece
            while len(rest) and not inflater.eof and length <= limit:
                length += len(inflater.decompress(rest, 1 << 20))
                rest = inflater.unconsumed_tail
    except zlib.error as exc:
        raise DamagedError(f"its pixel data does not decompress: {exc}") from exc
    return length


def _gray_and_alpha(pixels: Pixels) -> Pixels:
    """Undo OpenCV's expansion of gray with alpha to four channels."""
    return pixels[..., [0, 3]] if pixels.shape[2] == 4 else pixels


def _apply_key(key: bytes, depth: int, samples: int) -> Callable[[Pixels], Pixels]:
    """Return a function that adds an alpha channel: transparent where the colour equals PNG's ``key``."""
    if len(key) != 2 * samples:
        raise DamagedError(f"a transparent colour of {len(key)} bytes, expected {2 * samples}")
    stretch = 255 // (2**depth - 1) if depth < 8 else 1  # decoders make 8 bits of fewer
    levels = [(value & (2**depth - 1)) * stretch for value in struct.unpack(f">{samples}H", key)]

    def finish(pixels: Pixels) -> Pixels:
        colour = pixels[..., :samples]
        opaque = (colour != np.array(levels, colour.dtype)).any(axis=-1, keepdims=True)
        return np.concatenate([colour, opaque * colour.dtype.type(np.iinfo(colour.dtype).max)], axis=-1)

    return finish


def _tiff_tags(stream: BinaryIO) -> dict[int, tuple[int, ...]]:
    """Read the first directory of a TIFF, or of an EXIF block: the tags that say how the pixels are stored.

    Pillow leaves out tags whose values were cut off, and knows no BigTIFF of big-endian byte order.
    """
    start = _read(stream, 0, 8)
    if start[:4] not in _TIFF_MAGIC:
        raise DamagedError("its directory does not begin with a byte order")
    order = "<" if start[:1] == b"I" else ">"
    if b"+" in start[2:4]:  # BigTIFF
        (offset,) = struct.unpack(order + "Q", _read(stream, 8, 8))
        count_format, place, entry = order + "Q", order + "Q", struct.Struct(order + "HHQ8s")
    else:
        (offset,) = struct.unpack(order + "I", start[4:])
        count_format, place, entry = order + "H", order + "I", struct.Struct(order + "HHI4s")
    (count,) = struct.unpack(count_format, _read(stream, offset, struct.calcsize(count_format)))
    if count > 4096:
        raise DamagedError(f"a directory of {count:,} entries")
    tags: dict[int, tuple[int, ...]] = {}
    block = _read(stream, offset + struct.calcsize(count_format), count * entry.size)
    for tag, kind, length, inline in entry.iter_unpack(block):
        letter = _TIFF_TYPES.get(kind)
        if tag not in _TIFF_TAGS or letter is None or not 0 < length <= _MOST_VALUES:
            continue
        values = struct.Struct(f"{order}{length}{letter}")
        data = inline[: values.size]
        if values.size > len(inline):
            (where,) = struct.unpack(place, inline)
            data = _read(stream, where, values.size)
        tags.setdefault(tag, values.unpack(data))
    return tags


def _read_tiff(stream: BinaryIO) -> ImageHeader:
    tags = _tiff_tags(stream)
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise DamagedError("its directory has no width or height")
    unknown_to_pillow = _read(stream, 0, 4) == b"MM\0+"
    _check_tiff_kind(tags, by_opencv=unknown_to_pillow)
    height, width = tags[_HEIGHT][0], tags[_WIDTH][0]
    size = (height, width) if _orientation(tags) < 5 else (width, height)
    by_opencv = unknown_to_pillow or 16 in tags.get(_BITS, ())
    return ImageHeader(kind="TIFF", size=size, by_opencv=by_opencv, tags=tags)


def _check_tiff_kind(tags: Mapping[int, tuple[int, ...]], *, by_opencv: bool) -> None:
    bits = set(tags.get(_BITS, (1,)))
    compression, samples = tags.get(_COMPRESSION, (1,))[0], tags.get(_SAMPLES, (1,))[0]
    photometric = tags.get(_PHOTOMETRIC, (None,))[0]
    kind = {1: "", 2: "signed ", 3: "floating-point "}.get(tags.get(_SAMPLE_FORMAT, (1,))[0], "unknown ")
    cure = "save it as 8- or 16-bit gray or RGB first"
    if kind or len(bits) > 1 or not bits <= {1, 2, 4, 8, 16}:
        sizes = " and ".join(map(str, sorted(bits)))
        raise UnreadableError(f"a TIFF of {sizes}-bit {kind}samples cannot be read; {cure}")
    colours = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
    if compression not in _COMPRESSIONS:
        raise UnreadableError(
            f"a TIFF of compression {compression} cannot be read; save it with LZW or "
            "Deflate compression, or as PNG, first"
        )
    if photometric not in colours:
        raise UnreadableError(f"a TIFF of photometric interpretation {photometric} cannot be read; {cure}")
    if samples > colours[photometric] + (photometric == _RGB):
        raise UnreadableError(
            f"a TIFF of {samples} samples per pixel ({colours[photometric]} of them colour) cannot be read; "
            f"{cure}, and gray with alpha as PNG"
        )
    if bits == {16} and photometric in (_CMYK, _YCBCR, _PALETTE):
        raise UnreadableError(f"a 16-bit CMYK, YCbCr or palette TIFF cannot be read; {cure}")
    if bits == {16} and samples > 1 and tags.get(_PLANAR) == (2,):
        raise UnreadableError(f"a 16-bit TIFF with one plane per channel cannot be read; {cure}, interleaved")
    if by_opencv and (not bits <= {8, 16} or photometric > _RGB or (samples == 4 and bits == {8})):
        raise UnreadableError(
            f"a big-endian BigTIFF of fewer than 8 bits, with a palette or with alpha cannot be read; {cure}"
        )


def _check_tiff(data: bytes, header: ImageHeader) -> CheckedImage:
    """Check that all strips or tiles are inside the file: libtiff would say so on the terminal only."""
    tags = header.tags
    extents = [
        (start, length)
        for offsets, lengths in _EXTENTS
        for start, length in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False)
    ]
    end = max((start + length for start, length in extents), default=0)
    if end > len(data):
        raise CutOffError(len(data), end)
    if tags.get(_COMPRESSION, (1,))[0] in _DEFLATE:
        for start, length in extents:
            _measure_inflated([memoryview(data)[start : start + length]], 8 * header.size[0] * header.size[1])
    return CheckedImage(data, _finish_opencv_tiff(tags) if header.by_opencv else _keep)


def _finish_opencv_tiff(tags: Mapping[int, tuple[int, ...]]) -> Callable[[Pixels], Pixels]:
    """Return what makes OpenCV's samples, which are those of the file, into colours and alpha."""
    photometric, extra = tags[_PHOTOMETRIC][0], tags.get(_EXTRA_SAMPLES, (None,))[0]

    def finish(pixels: Pixels) -> Pixels:
        if photometric == _WHITE_IS_ZERO and pixels.dtype == np.uint16:
            return np.iinfo(np.uint16).max - pixels
        if photometric == _RGB and extra == 0:  # the fourth sample means nothing
            return pixels[..., :3]
        if pixels.shape[2] == 4 and extra == 1:  # the colours are multiplied by alpha
            alpha = pixels[..., 3:].astype(np.float32)
            colour = np.rint(pixels[..., :3] * (65535 / np.maximum(alpha, 1)))
            return np.concatenate([np.minimum(colour, 65535).astype(np.uint16), pixels[..., 3:]], axis=-1)
        return pixels

    return finish
