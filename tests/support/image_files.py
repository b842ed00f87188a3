"""PNG and TIFF files of every kind and depth, written from the formats' definitions, with what they mean."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator

import numpy as np

SIZE = (9, 13)
PNG_KINDS = {
    0: (1, (1, 2, 4, 8, 16)),
    2: (3, (8, 16)),
    3: (1, (1, 2, 4, 8)),
    4: (2, (8, 16)),
    6: (4, (8, 16)),
}
"""By colour type: samples of a pixel, and their depths."""
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
TIFF_SAMPLES = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4}
"""By photometric interpretation: white is zero, black is zero, RGB, palette, CMYK."""


def pngs() -> Iterator[tuple[str, bytes, np.ndarray]]:
    """Yield a name, a file and its pixels: 8 bits of up to 8, 16 of 16; palettes as RGB, or RGB and alpha."""
    for kind, (samples, depths) in PNG_KINDS.items():
        for depth, interlaced, keyed in itertools.product(depths, (False, True), (False, True)):
            if keyed and kind in (4, 6):
                continue
            rng = np.random.default_rng(depth)
            top = (1 << depth) - 1
            values = rng.integers(0, top, (*SIZE, samples), np.uint16, endpoint=True)
            header = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], depth, kind, 0, 0, interlaced)
            chunks = [(b"IHDR", header)]
            palette = rng.integers(0, 256, (top + 1 if kind == 3 else 0, 3), np.uint8)
            see_through = rng.integers(0, 256, len(palette), np.uint8)
            if kind == 3:
                chunks.append((b"PLTE", palette.tobytes()))
            if keyed:
                key = see_through if kind == 3 else values[2, 3].astype(">u2")
                chunks.append((b"tRNS", key.tobytes()))
            passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
            rows = (
                b"\0" + packed(row, depth)
                for x, y, step_x, step_y in passes
                for row in values[y::step_y, x::step_x]
                if row.size
            )
            chunks += [(b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
            data = b"\x89PNG\r\n\x1a\n" + b"".join(
                struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
                for name, body in chunks
            )
            if kind == 3:
                table = np.concatenate([palette, see_through[:, None]], axis=1) if keyed else palette
                pixels = table[values[..., 0]]
            else:
                alpha = (values != values[2, 3]).any(axis=2, keepdims=True) * top
                full = np.concatenate([values, alpha], axis=2) if keyed else values
                pixels = full if depth == 16 else (full * (255 // top)).astype(np.uint8)
            yield f"png-{kind}-{depth}-{'interlaced' * interlaced}-{'keyed' * keyed}", data, pixels


def tiffs() -> Iterator[tuple[str, bytes, np.ndarray | None]]:
    """Yield a name, a file and its pixels; ``None`` where only another decoder can say (CMYK)."""
    for photometric, bits, order, planar, deflate, extra in itertools.product(
        TIFF_SAMPLES, (1, 2, 4, 8, 16), "<>", (1, 2), (False, True), (None, 0, 1, 2)
    ):
        samples = TIFF_SAMPLES[photometric] + (extra is not None)
        if (planar == 2 and samples == 1) or (extra is not None and photometric == 3):
            continue
        rng = np.random.default_rng(bits + photometric)
        top = (1 << bits) - 1
        values = rng.integers(0, top, (*SIZE, samples), np.uint16, endpoint=True)
        if extra == 1:  # colours multiplied by alpha are no larger than it
            values[..., :-1] = np.minimum(values[..., :-1], values[..., -1:])
        parts = [values] if planar == 1 else [values[..., i : i + 1] for i in range(samples)]
        strips = [b"".join(packed(row, bits, order) for row in part) for part in parts]
        strips = [zlib.compress(strip) for strip in strips] if deflate else strips
        palette = rng.integers(0, 256, (3, 1 << bits if photometric == 3 and bits < 16 else 0), np.uint8)
        if photometric == 3 and bits == 16:
            continue
        data = tiff(order, bits, samples, photometric, planar, deflate, extra, strips, palette)
        name = f"tiff-{photometric}-{bits}-{order}-{planar}-{'deflate' * deflate}-{extra}"
        yield name, data, meaning(values, bits, photometric, extra, palette)


def meaning(values, bits, photometric, extra, palette) -> np.ndarray | None:
    """Return what the samples of a TIFF stand for."""
    top = (1 << bits) - 1
    if photometric == 5:
        return None
    if photometric == 3:
        return palette.T[values[..., 0]]
    levels = values if bits == 16 else (values * (255 // top)).astype(np.uint8)
    most = levels.dtype.type(65535 if bits == 16 else 255)
    count = TIFF_SAMPLES[photometric]
    colour, alpha = levels[..., :count], levels[..., count:]
    colour = most - colour if photometric == 0 else colour
    if extra in (None, 0):
        return colour
    if extra == 1:
        colour = np.rint(np.minimum(colour * (float(most) / np.maximum(alpha, 1)), most)).astype(levels.dtype)
    return np.concatenate([colour, alpha], axis=2)


def tiff(order, bits, samples, photometric, planar, deflate, extra, strips, palette) -> bytes:
    """Write a TIFF of one strip, or one a sample."""
    body, offsets = b"", []
    for strip in strips:
        offsets.append(8 + len(body))
        body += strip + b"\0" * (len(strip) % 2)
    tags = {
        256: [SIZE[1]], 257: [SIZE[0]], 258: [bits] * samples, 259: [8 if deflate else 1], 262: [photometric],
        273: offsets, 277: [samples], 278: [SIZE[0]], 279: [len(strip) for strip in strips], 284: [planar],
    }  # fmt: skip
    if palette.size:
        tags[320] = [int(value) * 257 for value in palette.ravel()]
    if extra is not None:
        tags[338] = [extra]
    entries = b""
    for tag, numbers in sorted(tags.items()):
        value = struct.pack(f"{order}{len(numbers)}H", *numbers)
        if len(value) > 4:
            value, body = struct.pack(order + "I", 8 + len(body)), body + value
        entries += struct.pack(order + "HHI", tag, 3, len(numbers)) + value.ljust(4, b"\0")
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(body))
    return start + body + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def packed(row: np.ndarray, bits: int, order: str = ">") -> bytes:
    """Return samples one after the other, filled up to a whole byte."""
    if bits == 16:
        return row.astype(f"{order}u2").tobytes()
    digits = np.unpackbits(row.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - bits :]
    return np.packbits(digits.ravel()).tobytes()
