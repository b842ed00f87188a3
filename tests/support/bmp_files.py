"""BMP files of every kind, written from the format's definition, with the pixels that they mean."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

MASKS = {
    "565": (16, (0xF800, 0x7E0, 0x1F, 0)),
    "555": (16, (0x7C00, 0x3E0, 0x1F, 0)),
    "444": (16, (0xF00, 0xF0, 0xF, 0)),
    "bgrx": (32, (0xFF0000, 0xFF00, 0xFF, 0)),
    "xbgr": (32, (0xFF000000, 0xFF0000, 0xFF00, 0)),
    "rgbx": (32, (0xFF, 0xFF00, 0xFF0000, 0)),
    "bgra": (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
    "rgba": (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
    "ten bits": (32, (0x3FF00000, 0xFFC00, 0x3FF, 0)),
}
HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)


class Bitmap(NamedTuple):
    """A file and what is in it: RGB, or RGB with alpha."""

    data: bytes
    pixels: np.ndarray


def indexed(
    header: int, bits: int, *, rle: bool = False, down: bool = False, width: int = 13, colours: int = 0
) -> Bitmap:
    """Return a bitmap with a palette: of so many colours, which the header then states, or of all."""
    rng = np.random.default_rng(bits)
    palette = rng.integers(0, 256, (colours or 1 << bits, 3), dtype=np.uint8)
    indices = rng.integers(0, len(palette), (9, width), dtype=np.uint8)
    if rle:
        indices = np.repeat(indices[:, : -(-width // 3)], 3, axis=1)[:, :width]
    stored = indices if down else indices[::-1]
    unused = np.zeros((len(palette), 0 if header == 12 else 1), np.uint8)
    table = np.concatenate([palette[:, ::-1], unused], axis=1).tobytes()
    if rle:
        body = b"".join(_runs(row, bits) for row in stored) + b"\0\1"
    else:
        digits = np.unpackbits(stored[..., None], axis=-1)[..., 8 - bits :]
        packed = np.packbits(digits.reshape(len(stored), -1), axis=1)
        body = _rows(packed)
    compression = {8: 1, 4: 2}[bits] if rle else 0
    after = table + body
    data = _file(header, indices.shape, bits, after, len(table), compression, down=down, colours=colours)
    return Bitmap(data, palette[indices])


def direct(header: int, bits: int, *, down: bool = False) -> Bitmap:
    """Return a bitmap of 16 (five bits a channel), 24 or 32 bits (the fourth byte means nothing)."""
    rng = np.random.default_rng(bits)
    if bits == 16:
        return masked(header, "555", down=down, compression=0)
    pixels = rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)
    stored = pixels if down else pixels[::-1]
    unused = rng.integers(0, 256, (9, 13, bits // 8 - 3), dtype=np.uint8)
    body = _rows(np.concatenate([stored[..., ::-1], unused], axis=2).reshape(9, -1))
    return Bitmap(_file(header, pixels.shape, bits, body, 0, 0, down=down), pixels)


def masked(header: int, masks: str, *, down: bool = False, compression: int = 3) -> Bitmap:
    """Return a bitmap whose masks say where the channels are."""
    bits, channels = MASKS[masks]
    used = [mask for mask in channels if mask]
    rng = np.random.default_rng(bits)
    words = rng.integers(0, 1 << bits, (9, 13), dtype=np.uint64)
    shifts = [(mask & -mask).bit_length() - 1 for mask in used]
    tops = [mask >> shift for mask, shift in zip(used, shifts, strict=True)]
    levels = [(words >> shift & top) * 255 / top for shift, top in zip(shifts, tops, strict=True)]
    pixels = np.rint(np.stack(levels, -1)).astype(np.uint8)
    stored = words if down else words[::-1]
    body = _rows(stored.astype("<u2" if bits == 16 else "<u4").view(np.uint8).reshape(9, -1))
    after = struct.pack("<III", *channels[:3]) if compression and header == 40 else b""
    inside = channels if compression else ()
    data = _file(header, pixels.shape, bits, after + body, len(after), compression, inside, down=down)
    return Bitmap(data, pixels)


def _rows(rows: np.ndarray) -> bytes:
    """Fill rows up to four bytes."""
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4))).tobytes()


def _runs(row: np.ndarray, bits: int) -> bytes:
    """Encode a row as runs of three, the last as pixels one by one."""
    out, last = b"", len(row) - len(row) % 3 - 3
    for at in range(0, last, 3):
        value = int(row[at])
        out += bytes([3, value if bits == 8 else value << 4 | value])
    rest = [int(value) for value in row[last:]]
    content = bytes(rest)
    if bits == 4:
        content = bytes(a << 4 | b for a, b in zip(rest[::2], [*rest[1::2], 0], strict=False))
    return out + bytes([0, len(rest)]) + content + b"\0" * (len(content) % 2) + b"\0\0"


def _file(header, shape, bits, after, offset, compression, masks=(), *, down=False, colours=0) -> bytes:
    height, width = shape[:2]
    start = 14 + header + offset
    if header == 12:
        information = struct.pack("<IHHHH", header, width, height, 1, bits)
    else:
        fields = (
            width,
            -height if down else height,
            1,
            bits,
            compression,
            len(after) - offset,
            2835,
            2835,
            colours,
            0,
        )
        information = struct.pack("<IiiHHIIiiII", header, *fields)
        if header >= 52 and header != 64:
            information += struct.pack("<IIII", *(masks or (0, 0, 0, 0)))
        information = information.ljust(header, b"\0")[:header]
    return b"BM" + struct.pack("<IHHI", start + len(after) - offset, 0, 0, start) + information + after
