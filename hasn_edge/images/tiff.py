"""TIFF directories: the image format, and the EXIF block that the other formats carry inside."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hasn_edge.images.arrays import Pixels
from hasn_edge.images.source import (
    CutOffError,
    DamagedError,
    Header,
    Plan,
    Source,
    UnreadableError,
    drop_alpha,
    inflated_length,
)

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, ORIENTATION, SAMPLES, STRIP_BYTES = 273, 274, 277, 279
PLANAR, TILE_OFFSETS, TILE_BYTES, EXTRA_SAMPLES, SAMPLE_FORMAT = 284, 324, 325, 338, 339

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_DEFLATE = (8, 32946)
# None, fax, LZW, JPEG, Deflate, PackBits. From any other OpenCV makes a black image without a word.
_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 32773, *_DEFLATE}
_FORMATS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # the unsigned integer types, one to a letter
# Those named above; the others, which may be many and long, are not read.
_TAGS = {256, 257, 258, 259, 262, 273, 274, 277, 279, 284, 324, 325, 338, 339}
_MOST_VALUES = 1 << 20  # a tag with more is nonsense: images of an accepted size have fewer strips


@dataclass(frozen=True)
class Entry:
    """One tag of a directory."""

    values: tuple[int, ...]
    offset: int
    """Byte at which the first value stands."""
    format: str
    """``struct`` format of one value, with byte order."""


def is_tiff(start: bytes) -> bool:
    """Tell whether a file's first bytes are those of a TIFF or BigTIFF."""
    return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_directory(source: Source) -> dict[int, Entry]:
    """Read the tags of the first directory that say how the pixels are stored."""
    start = source.at(0, 8)
    if not is_tiff(start):
        raise DamagedError("its directory does not begin with a byte order")
    order = "<" if start[:1] == b"I" else ">"
    big = start[2:4].strip(b"\0") == b"+"
    count_format, count_size = (order + "Q", 8) if big else (order + "H", 2)
    entry_format = order + ("HHQ8s" if big else "HHI4s")
    entry_size = 20 if big else 12
    offset = (
        struct.unpack(order + "Q", source.at(8, 8))[0] if big else struct.unpack(order + "I", start[4:])[0]
    )
    (count,) = struct.unpack(count_format, source.at(offset, count_size))
    first = offset + count_size
    if count > 4096:
        raise DamagedError(f"a directory of {count:,} entries")
    block = source.at(first, count * entry_size)
    directory: dict[int, Entry] = {}
    for i in range(count):
        tag, kind, length, inline = struct.unpack_from(entry_format, block, i * entry_size)
        letter = _FORMATS.get(kind)
        if tag not in _TAGS or letter is None or not 0 < length <= _MOST_VALUES:
            continue
        size = length * struct.calcsize(letter)
        where = first + i * entry_size + (12 if big else 8)
        if size > len(inline):
            (where,) = struct.unpack(order + ("Q" if big else "I"), inline)
        values = struct.unpack(f"{order}{length}{letter}", source.at(where, size))
        directory.setdefault(tag, Entry(values, where, order + letter))
    return directory


def exif_orientation(block: bytes) -> int:
    """Return the orientation 1 to 8 in an EXIF block; 1 where it says nothing sensible.

    A broken EXIF block does not make an image unreadable: every viewer shows it unturned.
    """
    block = block.removeprefix(b"Exif\0\0")
    try:
        directory = read_directory(Source.of_bytes(block))
    except UnreadableError:
        return 1
    return _orientation(directory)


def read_header(source: Source) -> Header:
    """Read size, pixel format and orientation of the first page; refuse what is not 8 or 16 bit."""
    directory = read_directory(source)
    width, height = _value(directory, WIDTH), _value(directory, HEIGHT)
    if width is None or height is None:
        raise DamagedError("its directory has no width or height")
    header = Header(
        kind="TIFF",
        height=height,
        width=width,
        orientation=_orientation(directory),
        facts={"directory": directory},
    )
    _refuse_unsupported(directory)
    return header


def plan(data: bytes, header: Header) -> Plan:
    """Check that all strips or tiles are inside the file, and set right what OpenCV gets wrong.

    Its 8-bit path multiplies colour by an alpha that is stored unmultiplied, turns some orientations and
    not others, and its 16-bit path ignores that zero may mean white.
    """
    directory: dict[int, Entry] = header.facts["directory"]
    offsets = directory.get(STRIP_OFFSETS) or directory.get(TILE_OFFSETS)
    lengths = directory.get(STRIP_BYTES) or directory.get(TILE_BYTES)
    if offsets is None:
        raise DamagedError("its directory names no pixel data")
    if lengths is not None:
        end = max(map(sum, zip(offsets.values, lengths.values, strict=False)))
        if end > len(data):
            raise CutOffError(len(data), end)
        if _value(directory, COMPRESSION) in _DEFLATE:
            for start, length in zip(offsets.values, lengths.values, strict=False):
                inflated_length([memoryview(data)[start : start + length]], 8 * header.height * header.width)
    patched = bytearray(data)
    _patch(patched, directory.get(ORIENTATION), 1)
    extra = _value(directory, EXTRA_SAMPLES)
    if extra == 2:  # declared as premultiplied, the colours come out as they are stored
        _patch(patched, directory[EXTRA_SAMPLES], 1)
    return Plan(bytes(patched), _finish(directory, extra))


def with_alpha_declared(data: bytes) -> bytes:
    """Add the tag that says what the fourth sample is to a TIFF that OpenCV wrote with four channels.

    OpenCV leaves it out, and readers then guess: some drop the channel, some take it for premultiplied.
    """
    (offset,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack_from("<H", data, offset)
    entries = [data[offset + 2 + 12 * i : offset + 14 + 12 * i] for i in range(count)]
    tags = [struct.unpack("<H", entry[:2])[0] for entry in entries]
    if data[:4] != b"II*\0" or EXTRA_SAMPLES in tags:
        return data
    entries.append(struct.pack("<HHIHH", EXTRA_SAMPLES, 3, 1, 2, 0))
    entries.sort(key=lambda entry: int.from_bytes(entry[:2], "little"))
    padding = b"\0" * (len(data) % 2)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0)
    return data[:4] + struct.pack("<I", len(data) + len(padding)) + data[8:] + padding + directory


def _finish(directory: dict[int, Entry], extra: int | None) -> Callable[[Pixels], Pixels]:
    photometric = _value(directory, PHOTOMETRIC)

    def finish(pixels: Pixels) -> Pixels:
        if photometric in (_CMYK, _YCBCR) or (photometric == _RGB and extra == 0):
            return drop_alpha(pixels)
        if photometric == _WHITE_IS_ZERO and pixels.dtype == np.uint16:
            return np.iinfo(np.uint16).max - pixels
        if pixels.shape[2] == 4 and extra == 1:
            return _unmultiplied(pixels)
        return pixels

    return finish


def _unmultiplied(pixels: Pixels) -> Pixels:
    top = np.iinfo(pixels.dtype).max
    alpha = pixels[..., 3:].astype(np.float32)
    colour = np.rint(pixels[..., :3] * (top / np.maximum(alpha, 1)))
    return np.concatenate([np.minimum(colour, top).astype(pixels.dtype), pixels[..., 3:]], axis=-1)


def _refuse_unsupported(directory: dict[int, Entry]) -> None:
    bits = set(directory[BITS].values) if BITS in directory else {1}
    samples = _value(directory, SAMPLES) or 1
    photometric = _value(directory, PHOTOMETRIC)
    kind = {1: "", 2: "signed ", 3: "floating-point "}.get(_value(directory, SAMPLE_FORMAT) or 1, "unknown ")
    cure = "save it as 8- or 16-bit gray or RGB first"
    if kind or len(bits) > 1 or not bits <= {1, 2, 4, 8, 16}:
        sizes = " and ".join(map(str, sorted(bits)))
        raise UnreadableError(f"a TIFF of {sizes}-bit {kind}samples cannot be read; {cure}")
    colours = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
    if (_value(directory, COMPRESSION) or 1) not in _COMPRESSIONS:
        raise UnreadableError(
            f"a TIFF of compression {_value(directory, COMPRESSION)} cannot be read; save it with LZW or "
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
    if bits == {16} and samples > 1 and _value(directory, PLANAR) == 2:
        raise UnreadableError(f"a 16-bit TIFF with one plane per channel cannot be read; {cure}, interleaved")


def _value(directory: dict[int, Entry], tag: int) -> int | None:
    return directory[tag].values[0] if tag in directory else None


def _orientation(directory: dict[int, Entry]) -> int:
    value = _value(directory, ORIENTATION)
    return value if value is not None and 1 <= value <= 8 else 1


def _patch(data: bytearray, entry: Entry | None, value: int) -> None:
    if entry is not None:
        struct.pack_into(entry.format, data, entry.offset, value)
