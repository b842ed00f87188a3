"""Reading an image file's structure from memory or disk, and what the readers report about it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

import numpy as np

from hasn_edge.images.arrays import Pixels

ImageFormat = Literal["PNG", "JPEG", "WebP", "BMP", "TIFF"]


class UnreadableError(Exception):
    """An image file that cannot be used; ``str()`` is the reason, the caller adds the file's name."""


class CutOffError(UnreadableError):
    """An image file that ends before its own structure says it should."""

    def __init__(self, size: int, wanted: int) -> None:
        super().__init__(
            f"the file ends early, after {size:,} bytes where its structure needs at least {wanted:,}; the "
            "download or copy was cut off, get the file again"
        )


class DamagedError(UnreadableError):
    """An image file whose structure contradicts itself."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the file is damaged ({what}); get it again, or save it again with an image editor")


class Source:
    """Random access to the bytes of a file."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read = read
        self.size = size
        """Length in bytes."""

    @classmethod
    def of_bytes(cls, data: bytes) -> Source:
        """Wrap bytes in memory."""
        return cls(lambda offset, count: data[offset : offset + count], len(data))

    @classmethod
    def of_file(cls, stream: BinaryIO, size: int) -> Source:
        """Wrap an open file, of which only the asked-for parts are read."""

        def read(offset: int, count: int) -> bytes:
            stream.seek(offset)
            return stream.read(count)

        return cls(read, size)

    def at(self, offset: int, count: int) -> bytes:
        """Return exactly ``count`` bytes from ``offset``.

        Raises:
            CutOffError: the file ends before that.
        """
        if offset + count > self.size:
            raise CutOffError(self.size, offset + count)
        return self._read(offset, count)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the first look at an image file tells."""

    kind: ImageFormat
    height: int
    """Rows as stored, before the orientation is applied."""
    width: int
    orientation: int = 1
    """EXIF orientation, 1 to 8: which stored row and column is the image's top and left."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What only this format's `Plan` needs."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as a viewer shows the image: orientations 5 to 8 lie on their side."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


@dataclass(frozen=True)
class Plan:
    """How to get the right pixels out of OpenCV."""

    data: bytes
    """What to hand to the decoder: the file, freed of what makes decoders disagree or complain."""
    finish: Callable[[Pixels], Pixels] = lambda pixels: pixels
    """Mends the decoded array, ``(H, W, C)`` in RGB order, before the orientation is applied."""


def inflated_length(pieces: Iterable[memoryview], limit: int) -> int:
    """Decompress zlib data without keeping it, and return how long it is; stop counting beyond ``limit``.

    libpng would say what is wrong only on the terminal, and libtiff would leave that part of the image
    black.

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


def drop_alpha(pixels: Pixels) -> Pixels:
    """Keep the colour channels only."""
    return pixels[..., :3] if pixels.shape[2] == 4 else pixels


def gray_and_alpha(pixels: Pixels) -> Pixels:
    """Undo a decoder's expansion of gray with alpha to four channels."""
    return pixels[..., [0, 3]] if pixels.shape[2] == 4 else pixels


def keyed_alpha(key: tuple[int, ...]) -> Callable[[Pixels], Pixels]:
    """Return a function that adds an alpha channel: transparent where the colour equals ``key``."""

    def finish(pixels: Pixels) -> Pixels:
        colour = pixels[..., : len(key)]
        opaque = (colour != np.array(key, colour.dtype)).any(axis=-1, keepdims=True)
        return np.concatenate([colour, opaque * colour.dtype.type(np.iinfo(colour.dtype).max)], axis=-1)

    return finish
