"""The first look at an image file: which format it is, how large, which way up, and whether it is whole."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from hasn_edge.images import png, tiff
from hasn_edge.images.source import CutOffError, DamagedError, Header, Plan, Source, UnreadableError

FORMATS = "PNG, JPEG, WebP, BMP or TIFF"
_JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# In entropy-coded data FF 00 is a plain FF, FF D0..D7 restarts the decoder and FF FF is padding.
_JPEG_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_OTHERS = (
    (b"GIF8", "a GIF"),
    (b"%PDF", "a PDF"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance HDR image"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (b"8BPS", "a Photoshop file"),
    (b"version https://git-lfs", "a Git LFS pointer, not yet fetched"),
)


def read_header(source: Source) -> Header:
    """Tell what an image file is, reading as little of it as possible.

    Raises:
        UnreadableError: another format, a damaged header, or a size of zero.
    """
    start = source.at(0, min(32, source.size))
    if not start:
        raise UnreadableError("the file is empty; the download or copy failed, get the file again")
    if start.startswith(png.SIGNATURE):
        header = png.read_header(source)
    elif start.startswith(b"\xff\xd8\xff"):
        header = _read_jpeg(source)
    elif start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        header = _read_webp(source)
    elif start[:2] == b"BM":
        header = _read_bmp(source)
    elif tiff.is_tiff(start):
        header = tiff.read_header(source)
    else:
        raise UnreadableError(f"not an image that can be read: it is {_guess(start)}; save it as {FORMATS}")
    if header.height < 1 or header.width < 1:
        raise DamagedError(f"it says that the image is {header.width} x {header.height} pixels")
    return header


def plan(data: bytes, header: Header) -> Plan:
    """Check that the whole image is there, and say how to decode it.

    Raises:
        UnreadableError: cut off or damaged.
    """
    if header.kind == "PNG":
        return png.plan(data, header)
    if header.kind == "TIFF":
        return tiff.plan(data, header)
    if header.kind == "JPEG":
        _check_jpeg_end(data, header.facts["scan"])
    elif header.facts["end"] > len(data):
        raise CutOffError(len(data), header.facts["end"])
    return Plan(data)


def _guess(start: bytes) -> str:
    for magic, name in _OTHERS:
        if start.startswith(magic):
            return name
    if start[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file"
    if all(byte in b"\t\r\n\f" or 32 <= byte < 127 for byte in start):
        return "text"
    return "none of the formats known here"


def _jpeg_segments(source: Source) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and length of each segment before the first scan, then the scan's own."""
    offset = 2
    while True:
        lead, marker = source.at(offset, 2)
        if lead != 0xFF:
            raise DamagedError(f"no JPEG segment where one should begin, at byte {offset:,}")
        if marker == 0xFF:  # padding
            offset += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without data
            offset += 2
            continue
        if marker == 0xD9:
            raise DamagedError("it has no pixel data")
        (length,) = struct.unpack(">H", source.at(offset + 2, 2))
        if length < 2:
            raise DamagedError(f"a JPEG segment of {length} bytes, at byte {offset:,}")
        source.at(offset, 2 + length)
        yield marker, offset + 4, length - 2
        offset += 2 + length


def _read_jpeg(source: Source) -> Header:
    orientation = 1
    size: tuple[int, int] | None = None
    for marker, start, length in _jpeg_segments(source):
        if marker == 0xE1 and source.at(start, min(6, length)) == b"Exif\0\0":
            orientation = tiff.exif_orientation(source.at(start, length))
        elif marker in _JPEG_SIZE_MARKERS:
            bits, height, width = struct.unpack(">BHH", source.at(start, 5))
            if bits != 8:
                raise UnreadableError(
                    f"a JPEG of {bits} bits per sample cannot be read; save it as PNG first"
                )
            size = height, width
        elif marker == 0xDA:
            if size is None:
                raise DamagedError("its pixel data comes before its size")
            facts = {"scan": start + length}
            return Header(kind="JPEG", height=size[0], width=size[1], orientation=orientation, facts=facts)
    raise AssertionError("the segments end with a scan or an error")


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


def _read_webp(source: Source) -> Header:
    (length,) = struct.unpack("<I", source.at(4, 4))
    end = 8 + length
    size: tuple[int, int] | None = None
    orientation = 1
    offset = 12
    while offset + 8 <= min(end, source.size):
        name, count = struct.unpack("<4sI", source.at(offset, 8))
        start = offset + 8
        if size is None:
            size = _webp_size(name, source.at(start, min(count, 10)))
        if name == b"EXIF":
            orientation = tiff.exif_orientation(source.at(start, count))
        offset = start + count + count % 2
    if size is None:
        raise CutOffError(source.size, end) if end > source.size else DamagedError("it has no image inside")
    return Header(kind="WebP", height=size[0], width=size[1], orientation=orientation, facts={"end": end})


def _webp_size(name: bytes, start: bytes) -> tuple[int, int] | None:
    """Return (height, width) from one of the three chunks that a WebP image begins with."""
    if name == b"VP8X" and len(start) >= 10:
        return 1 + int.from_bytes(start[7:10], "little"), 1 + int.from_bytes(start[4:7], "little")
    if name == b"VP8 " and start[3:6] == b"\x9d\x01\x2a" and len(start) >= 10:
        width, height = struct.unpack("<HH", start[6:10])
        return height & 0x3FFF, width & 0x3FFF
    if name == b"VP8L" and start[:1] == b"\x2f" and len(start) >= 5:
        bits = int.from_bytes(start[1:5], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    return None


def _read_bmp(source: Source) -> Header:
    offset, header_size = struct.unpack("<II", source.at(10, 8))
    if header_size == 12:
        width, height, _, bits = struct.unpack("<HHHH", source.at(18, 8))
        compression, stored = 0, 0
    elif 40 <= header_size <= 256:
        width, height, _, bits, compression, stored = struct.unpack("<iiHHII", source.at(18, 20))
    else:
        raise DamagedError(f"a BMP header of {header_size} bytes")
    if compression in (0, 3, 6):
        stored = (abs(width) * bits + 31) // 32 * 4 * abs(height)
    elif compression not in (1, 2):
        raise UnreadableError("a BMP with a JPEG or PNG inside cannot be read; save it as PNG first")
    # Rows run downwards where the height is negative.
    return Header(kind="BMP", height=abs(height), width=width, facts={"end": offset + stored})
