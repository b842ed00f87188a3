"""PNG: chunks, checksums and whether the pixel data is all there."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from hasn_edge.images.source import (
    DamagedError,
    Header,
    Plan,
    Source,
    gray_and_alpha,
    inflated_length,
    keyed_alpha,
)
from hasn_edge.images.tiff import exif_orientation

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # samples per pixel by colour type
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def read_header(source: Source) -> Header:
    """Read size, pixel format and orientation, walking the chunks without reading the pixel data."""
    chunks = _chunks(source)
    name, start, length = next(chunks)
    if name != b"IHDR" or length != 13:
        raise DamagedError("it does not begin with an image header")
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", source.at(start, 13))
    if colour not in _CHANNELS or depth not in _DEPTHS[colour] or interlace > 1:
        raise DamagedError(f"unknown pixel format: colour type {colour}, {depth} bits, interlace {interlace}")
    facts = {"depth": depth, "colour": colour, "interlace": interlace}
    orientation = 1
    for name, start, length in chunks:
        if name == b"eXIf":
            orientation = exif_orientation(source.at(start, length))
        if name == b"IEND":
            break
    return Header(kind="PNG", height=height, width=width, orientation=orientation, facts=facts)


def plan(data: bytes, header: Header) -> Plan:
    """Check every checksum and the length of the pixel data; keep only the chunks that make pixels.

    Without profiles, gamma and the like libpng has nothing to warn about on the terminal, and a colour
    that stands for transparency is applied here, since OpenCV's handling of it depends on the version.
    """
    source = Source.of_bytes(data)
    kept = [SIGNATURE]
    pixels: list[memoryview] = []
    key: bytes | None = None
    palette = False
    for name, start, length in _chunks(source):
        end = start + length
        (checksum,) = struct.unpack(">I", source.at(end, 4))
        # Checking only what is used: editors are known to leave wrong checksums on private chunks.
        wanted = name in (b"IHDR", b"PLTE", b"IDAT", b"tRNS")
        if wanted and zlib.crc32(memoryview(data)[start - 4 : end]) != checksum:
            raise DamagedError(f"checksum of its {name.decode()} data at byte {start:,} is wrong")
        if name == b"IDAT":
            if header.facts["colour"] == 3 and not palette:
                raise DamagedError("its palette is missing")
            pixels.append(memoryview(data)[start:end])
        palette |= name == b"PLTE"
        if name == b"tRNS" and header.facts["colour"] != 3:
            key = source.at(start, length)
        elif wanted or name == b"IEND":
            kept.append(data[start - 8 : end + 4])
        if name == b"IEND":
            break
    expected = _raw_bytes(header)
    found = inflated_length(pixels, expected)
    if found < expected:
        raise DamagedError(f"pixel data for {found:,} of {expected:,} bytes")
    if header.facts["colour"] == 4:
        return Plan(b"".join(kept), gray_and_alpha)
    if key is not None and header.facts["colour"] in (0, 2):
        return Plan(b"".join(kept), keyed_alpha(_key_colour(key, header)))
    return Plan(b"".join(kept))


def _chunks(source: Source) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and length of the data of each chunk; a file without its end chunk is cut off."""
    offset = len(SIGNATURE)
    while True:
        length, name = struct.unpack(">I4s", source.at(offset, 8))
        if not name.isalpha() or length > 0x7FFFFFFF:
            raise DamagedError(f"no chunk where one should begin, at byte {offset:,}")
        source.at(offset + 8 + length, 4)
        yield name, offset + 8, length
        offset += 12 + length


def _raw_bytes(header: Header) -> int:
    """Bytes of the pixel data once inflated: rows packed to whole bytes, a filter byte before each."""
    bits = header.facts["depth"] * _CHANNELS[header.facts["colour"]]
    passes = _ADAM7 if header.facts["interlace"] else ((0, 0, 1, 1),)
    total = 0
    for x, y, step_x, step_y in passes:
        columns = -(-max(0, header.width - x) // step_x)
        rows = -(-max(0, header.height - y) // step_y)
        total += rows * (1 + (columns * bits + 7) // 8) if columns else 0
    return total


def _key_colour(key: bytes, header: Header) -> tuple[int, ...]:
    """Return the transparent colour in the levels that the decoder gives (fewer than 8 bits become 8)."""
    samples = _CHANNELS[header.facts["colour"]]
    if len(key) != 2 * samples:
        raise DamagedError(f"a transparent colour of {len(key)} bytes, expected {2 * samples}")
    depth = header.facts["depth"]
    stretch = 255 // (2**depth - 1) if depth < 8 else 1
    return tuple((value & (2**depth - 1)) * stretch for value in struct.unpack(f">{samples}H", key))
