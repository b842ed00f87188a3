"""Shared libraries that a binary needs and this machine lacks, found by reading files: nothing is loaded."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRING_TABLE, _STRING_SIZE, _RPATH, _RUNPATH = 1, 5, 10, 15, 29

USUAL = ("lib", "usr/lib", "lib64", "usr/lib64")
"""Folders that the loader knows without being told; their subfolders of the architecture as well."""


@dataclass(frozen=True)
class Missing:
    """A library that is needed and not found."""

    name: str
    needed_by: str


@dataclass(frozen=True)
class _Dynamic:
    needed: tuple[str, ...]
    folders: tuple[Path, ...]
    """Where the file itself says to look, ``$ORIGIN`` resolved."""


def missing_libraries(binary: Path, folders: Iterable[Path]) -> tuple[Missing, ...]:
    """Return the libraries that ``binary`` needs, itself or through others, and that are in no folder.

    A file of no bytes counts as missing: containers hold such placeholders for what the host should lend.

    Args:
        binary: A shared object (ELF, 64 bit, little endian); any other file needs nothing.
        folders: Where the loader looks, apart from what a file itself says.
    """
    known = tuple(folders)
    missing: dict[str, Missing] = {}
    done: set[str] = set()
    waiting = [binary]
    while waiting:
        path = waiting.pop()
        dynamic = _read(path)
        for name in dynamic.needed:
            if name in done:
                continue
            done.add(name)
            found = _find(name, (*dynamic.folders, *known))
            if found is None:
                missing[name] = Missing(name, path.name)
            else:
                waiting.append(found)
    return tuple(missing.values())


def loader_folders(root: Path, environment: str = "") -> tuple[Path, ...]:
    """Return the folders in which the system's loader looks for libraries.

    Args:
        root: Where the file system starts.
        environment: Content of ``LD_LIBRARY_PATH``.
    """
    folders = [Path(folder) for folder in environment.split(os.pathsep) if folder]
    folders += _configured(root, root / "etc/ld.so.conf")
    for usual in USUAL:
        base = root / usual
        folders += [base, *(base / f"{arch}-linux-gnu" for arch in ("x86_64", "aarch64"))]
    return tuple(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def _configured(root: Path, path: Path) -> Iterator[Path]:
    """Yield the folders that ``ld.so.conf`` names, and those of the files that it includes."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split("#")[0].split()
        if words[:1] == ["include"]:
            for pattern in words[1:]:
                inside = pattern.lstrip("/") if pattern.startswith("/") else f"etc/{pattern}"
                for included in sorted(root.glob(inside)):
                    yield from _configured(root, included)
        elif words:
            yield root / words[0].lstrip("/")


def _find(name: str, folders: Iterable[Path]) -> Path | None:
    if "/" in name:
        return Path(name) if Path(name).is_file() else None
    for folder in folders:
        path = folder / name
        try:
            if path.is_file() and path.stat().st_size:
                return path
        except OSError:
            continue
    return None


def _read(path: Path) -> _Dynamic:
    """Read the dynamic section of a shared object; nothing of any other file."""
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            entries, strings = _dynamic_section(data)
    except (OSError, ValueError, OverflowError, struct.error, LookupError):
        return _Dynamic((), ())  # not ours to judge: the loader will say what is wrong with it

    def text(at: int) -> str:
        return strings[at : strings.find(b"\0", at)].decode(errors="replace")

    paths = [text(value) for tag, value in entries if tag in (_RPATH, _RUNPATH)]
    origin = str(path.resolve().parent)
    folders = [
        Path(folder.replace("$ORIGIN", origin).replace("${ORIGIN}", origin))
        for folder in ":".join(paths).split(":")
        if folder
    ]
    return _Dynamic(tuple(text(value) for tag, value in entries if tag == _NEEDED), tuple(folders))


def _dynamic_section(data: mmap.mmap) -> tuple[list[tuple[int, int]], bytes]:
    """Return the entries of the dynamic section, tag and value, and the strings that they point into.

    Raises:
        LookupError: not ELF of 64 bits in little endian, or without that section.
        struct.error: cut short.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        raise LookupError
    (start,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<IIQQQQ", data, start + i * size) for i in range(count)]
    offset, length = next(((s[2], s[5]) for s in segments if s[0] == _DYNAMIC), (0, 0))
    section = data[offset : offset + length // 16 * 16]
    entries: list[tuple[int, int]] = list(struct.iter_unpack("<qQ", section))
    tags = dict(entries)
    where = tags[
        _STRING_TABLE
    ]  # an address in memory; the segment that is loaded there says where in the file
    inside = [s[2] + where - s[3] for s in segments if s[0] == _LOAD and s[3] <= where < s[3] + s[5]]
    return entries, data[inside[0] : inside[0] + tags[_STRING_SIZE]]
