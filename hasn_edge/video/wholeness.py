"""Whether a video file was cut off: by its structure, or else by the times that it declares and reaches."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

_TOLERATED_S = 1.0  # between the declared end and the last packet's, where nothing but times is known
_FROM_ZERO = ("matroska", "asf", "nut", "avi")
"""Containers whose duration counts from time zero, wherever the first image is. Matroska is written both
ways; this one never calls a whole file damaged."""

_TS_PACKETS = ((188, 0), (192, 4), (204, 0))  # length, and where the byte of synchronization is
_TS_SYNC = 0x47
_DV_BLOCK = 12_000  # bytes of a DIF sequence; frames are whole numbers of them
_MXF_PARTITION = bytes.fromhex("060e2b34020501010d01020101")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_FLV_TAGS = (8, 9, 18)
_OGG_PAGE = 1 << 16  # bytes, about, of the largest one
_MP4_CONTENT = (b"mdat", b"moof", b"moov")


def counts_from_zero(container: Any) -> bool:
    """Say whether an open file's duration begins at time zero, and not at its first image."""
    return str(container.format.name).startswith(_FROM_ZERO)


def declared_length(container: Any) -> float | None:
    """Return how many seconds an open file declares to last from its first image on; ``None`` for no word."""
    duration = container.duration
    if not duration or duration < 0:
        return None
    start = max(0, container.start_time or 0) if counts_from_zero(container) else 0
    return max(0.0, float((duration - start) / 1e6))


def find_cut(
    path: Path, container: Any, end_s: float, step_s: float, last_byte: int, *, size: int | None = None
) -> str | None:
    """Return why a file that was read to its end is not whole; ``None`` where it is, or does not state it.

    Args:
        path: The file.
        container: PyAV's, open, from which every packet was taken.
        end_s: The time at which the last packet ends, of any stream, in seconds.
        step_s: The longest time between two images: the last one may be shown for as long.
        last_byte: Where the last packet of the images ends in the file, in bytes; 0 where that is not known.
        size: How many bytes came through a pipe; ``None`` for a file.
    """
    whole = _examine(path, container, last_byte, path.stat().st_size if size is None else size)
    if whole:
        return None
    if container.duration and container.duration > 0:
        reached_s = end_s
        if not counts_from_zero(container):
            reached_s -= (container.start_time or 0) / 1e6
        missing_s = container.duration / 1e6 - reached_s
        if missing_s > max(_TOLERATED_S, 1.01 * step_s):
            return f"it says that it lasts {container.duration / 1e6:.1f} s and ends {missing_s:.1f} s before"
    return None if whole is None else "what its structure announces goes on after the end of the file"


def _examine(path: Path, container: Any, last_byte: int, size: int) -> bool | None:
    """Say whether the structure of a file ends where the file does; ``None`` where it does not tell."""
    name = str(container.format.name).split(",")[0]
    if name in ("yuv4mpegpipe", "rawvideo") and last_byte:
        return size == last_byte
    if name == "mov" and _last_indexed_byte(container) > size:
        return False
    check = _CHECKS.get(name)
    if check is None:
        return None
    with suppress(struct.error, IndexError, ValueError), path.open("rb") as file:
        return check(file, size)
    return None


def _last_indexed_byte(container: Any) -> int:
    ends = [0]
    for stream in container.streams:
        index = stream.index_entries
        if len(index):
            ends.append(index[len(index) - 1].pos + index[len(index) - 1].size)
    return max(ends)


def _read_at(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)


def _check_avi(file: BinaryIO, size: int) -> bool | None:
    """Walk the chunks inside each RIFF: the headers, the images and audio, the index."""
    at, told = 0, None
    while at + 12 <= size:
        name, length = struct.unpack("<4sI", _read_at(file, at, 8))
        if name != b"RIFF" or length < 4:
            return told
        end, inner = at + 8 + length, at + 12
        while inner + 8 <= min(end, size):
            kind, count = struct.unpack("<4sI", _read_at(file, inner, 8))
            if kind == b"LIST" and count == 0:
                return None  # written when the file is closed, which never came
            inner += 8 + count
            if inner > size:
                return False
            inner += count % 2
        told = True if end <= size + 1 else None
        at = end + length % 2
    return told


def _check_matroska(file: BinaryIO, size: int) -> bool | None:
    at = 0
    while at < size:
        name = _read_at(file, at, 4)
        first = _read_at(file, at + 4, 1)[0]
        width = 9 - first.bit_length()
        value = int.from_bytes(_read_at(file, at + 4, width), "big") & ((1 << 7 * width) - 1)
        if name not in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67") or value == (1 << 7 * width) - 1:
            return None
        at += 4 + width + value
        if at > size:
            return False
        if name == b"\x18\x53\x80\x67":
            return True
    return None


def _check_mp4(file: BinaryIO, size: int) -> bool | None:
    """Walk the boxes. Of an ordinary file the index was looked at; fragments bring theirs with them."""
    at, fragments, cut = 0, False, False
    while at + 8 <= size:
        length, name = struct.unpack(">I4s", _read_at(file, at, 8))
        if length == 1:
            (length,) = struct.unpack(">Q", _read_at(file, at + 8, 8))
        fragments |= name == b"moof"
        if length < 8:
            break
        at += length
        cut = at > size and name in _MP4_CONTENT
    if fragments:
        return False if cut else None
    return True


def _check_asf(file: BinaryIO, size: int) -> bool | None:
    at, told = 0, None
    while at + 24 <= size:
        name, length = struct.unpack("<16sQ", _read_at(file, at, 24))
        if length < 24:
            return None
        at += length
        if at > size:
            return False
        told = True if name == _ASF_DATA else told
    return told


def _check_gif(file: BinaryIO, size: int) -> bool | None:
    """Walk the blocks to the trailer; many files lack that one byte."""

    def skip_parts(at: int) -> int:
        while count := _read_at(file, at, 1)[0]:
            at += 1 + count
        return at + 1

    def skip_palette(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    try:
        at = 13 + skip_palette(_read_at(file, 10, 1)[0])
        while at < size and (kind := _read_at(file, at, 1)[0]) != 0x3B:
            if kind == 0x21:
                at = skip_parts(at + 2)
            elif kind == 0x2C:
                at = skip_parts(at + 11 + skip_palette(_read_at(file, at + 9, 1)[0]))
            else:
                return None
    except IndexError:
        return False
    return True


def _check_ogg(file: BinaryIO, size: int) -> bool | None:
    tail = _read_at(file, max(0, size - 2 * _OGG_PAGE), 2 * _OGG_PAGE)
    at = tail.rfind(b"OggS\0")
    if at < 0:
        return None
    page = tail[at:]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return False
    if len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        return False
    return True if page[5] & 4 else None


def _check_flv(file: BinaryIO, size: int) -> bool | None:
    """Look at the last tag, by the length after it; where that is wrong, walk all of them."""
    (length,) = struct.unpack(">I", _read_at(file, size - 4, 4))
    tag = _read_at(file, max(0, size - 4 - length), 4)
    if tag[0] in _FLV_TAGS and int.from_bytes(tag[1:], "big") == length - 11:
        return True
    at = int.from_bytes(_read_at(file, 5, 4), "big") + 4
    while at + 11 <= size:
        tag = _read_at(file, at, 4)
        if tag[0] not in _FLV_TAGS:
            return None
        at += 11 + int.from_bytes(tag[1:], "big") + 4
    return size <= at <= size + 4


def _check_dv(file: BinaryIO, size: int) -> bool | None:
    return False if size % _DV_BLOCK else None


def _check_ts(file: BinaryIO, size: int) -> bool | None:
    start = _read_at(file, 0, 1024)
    for length, offset in _TS_PACKETS:
        if all(byte == _TS_SYNC for byte in start[offset::length]):
            return False if size % length else None
    return None


def _check_mxf(file: BinaryIO, size: int) -> bool | None:
    start = _read_at(file, 0, 128)
    if not start.startswith(_MXF_PARTITION):
        return None
    width = start[16] & 0x7F if start[16] & 0x80 else 0  # of the length, after its own first byte
    (footer,) = struct.unpack_from(">Q", start, 17 + width + 24)
    if not footer:
        return None
    return None if _read_at(file, footer, len(_MXF_PARTITION)) == _MXF_PARTITION else False


_CHECKS: dict[str, Callable[[BinaryIO, int], bool | None]] = {
    "avi": _check_avi,
    "matroska": _check_matroska,
    "mov": _check_mp4,
    "asf": _check_asf,
    "gif": _check_gif,
    "ogg": _check_ogg,
    "flv": _check_flv,
    "dv": _check_dv,
    "mpegts": _check_ts,
    "mxf": _check_mxf,
}
