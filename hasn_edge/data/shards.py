"""Training images as memory-mapped uint8 pixels: any patch of any image without decoding anything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hasn_edge.errors import Cure, InputError, OutputError, call, say
from hasn_edge.files import claimed, naming_errors, writing
from hasn_edge.images.arrays import UInt8

INDEX = "shards.json"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where one image lies in the two pixel files."""

    name: str
    """Path of the HR image below its root, for messages."""
    height: int
    """Rows of the LR image; the HR image has ``scale`` times as many."""
    width: int
    offset: int
    """First byte of the LR image; the HR image begins at ``offset * scale**2``."""
    source: str | None = None
    """What tells the HR file and its content from others; nothing in data of version 0.1."""
    lr_source: str | None = None
    """The same of the LR file, where there was one."""


class Shards:
    """A folder made by :class:`ShardWriter`, opened for reading.

    ``hr.u8`` and ``lr.u8`` hold the images one after the other as ``(H, W, 3)`` RGB; ``shards.json`` holds
    where each begins. The operating system keeps in memory what is used, shared between processes.
    """

    def __init__(self, folder: Path) -> None:
        """Open ``folder``.

        Raises:
            InputError: no prepared data there, another version, a damaged index, or pixel files of another
                length.
        """
        self.folder = Path(folder)
        index = _read_index(self.folder)
        try:
            self.scale: int = index["scale"]
            self.fingerprint: str = index["fingerprint"]
            """SHA-256 over the names, sizes and pixels: two runs on the same data have the same one."""
            self.details: dict[str, Any] = index.get("details") or {}
            """What :meth:`ShardWriter.publish` was given."""
            self.entries = tuple(Entry(**entry) for entry in index["images"])
        except (KeyError, TypeError) as exc:
            raise InputError(f"{self.folder / INDEX}: damaged ({exc})", _prepare(self.folder)) from exc
        last = self.entries[-1]
        size = last.offset + last.height * last.width * 3
        self._lr = self._map("lr.u8", size)
        self._hr = self._map("hr.u8", size * self.scale**2)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.entries)

    def lr(self, index: int) -> UInt8:
        """Return LR image ``index``: uint8 RGB ``(H, W, 3)``, a view of the file."""
        entry = self.entries[index]
        size = entry.height * entry.width * 3
        return self._lr[entry.offset : entry.offset + size].reshape(entry.height, entry.width, 3)

    def hr(self, index: int) -> UInt8:
        """Return HR image ``index``: uint8 RGB ``(scale H, scale W, 3)``, a view of the file."""
        entry, area = self.entries[index], self.scale**2
        size, start = entry.height * entry.width * 3 * area, entry.offset * area
        return self._hr[start : start + size].reshape(entry.height * self.scale, entry.width * self.scale, 3)

    def _map(self, name: str, size: int) -> UInt8:
        path = self.folder / name
        actual = path.stat().st_size if path.is_file() else None
        if actual != size:
            came = "is missing" if actual is None else f"has {actual} bytes, expected {size}"
            raise InputError(f"{path} {came}", _prepare(self.folder))
        return np.memmap(path, np.uint8, "r")


class ShardWriter:
    """Writes the two pixel files image by image; :meth:`publish` writes the folder's index last.

    Half of a preparation is never taken for a whole one, and one that fails leaves the folder as it was.
    """

    def __init__(self, folder: Path, scale: int) -> None:
        self._folder, self._scale = Path(folder), scale
        self._entries: list[Entry] = []
        self._digest = hashlib.sha256(f"{SCHEMA} {scale}".encode())
        self._offset = 0
        self._streams: dict[Path, BinaryIO] = {}
        """LR's and HR's, by the names that the files are to have."""
        self._files = ExitStack()

    def __enter__(self) -> ShardWriter:
        with ExitStack() as files:
            try:
                files.enter_context(claimed(self._folder))
            except BlockingIOError:
                raise OutputError(
                    f"{self._folder}: another process prepares data there",
                    say("wait for it"),
                    say("choose another folder"),
                ) from None
            for name in ("lr.u8", "hr.u8"):
                path = self._folder / name
                temporary = files.enter_context(writing(path))
                self._streams[path] = files.enter_context(temporary.open("wb"))
            self._files = files.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is not None:
            for stream in self._streams.values():
                with suppress(OSError):  # the disk is still full; what failed first is what to report
                    stream.close()
            # Not the error itself: an OSError of a photograph would be taken for one of these files.
            stop = RuntimeError("not whole")
            self._files.__exit__(type(stop), stop, None)
            return
        with self._files:
            for path, stream in self._streams.items():
                with naming_errors(path):  # which writes what its buffer still holds
                    stream.close()
            with naming_errors(self._folder / INDEX):  # from here until publish() the folder has no index
                (self._folder / INDEX).unlink(missing_ok=True)

    def add(
        self, name: str, lr: UInt8, hr: UInt8, *, source: str | None = None, lr_source: str | None = None
    ) -> None:
        """Append one pair; ``hr`` is ``scale`` times as high and wide as ``lr``, both uint8 RGB.

        Args:
            name: As :attr:`Entry.name`.
            lr: ``(H, W, 3)``.
            hr: ``(scale H, scale W, 3)``.
            source: As :attr:`Entry.source`.
            lr_source: As :attr:`Entry.lr_source`.

        Raises:
            InputError: HR is not ``scale`` times as large.
            OutputError: one of the two files cannot be written; names it.
        """
        height, width = lr.shape[:2]
        if hr.shape != (height * self._scale, width * self._scale, 3) or lr.shape[2] != 3:
            raise InputError(
                f"{name}: HR is {hr.shape}, LR {lr.shape}; expected HR {self._scale} times as large"
            )
        self._entries.append(
            Entry(
                name=name,
                height=height,
                width=width,
                offset=self._offset,
                source=source,
                lr_source=lr_source,
            )
        )
        self._digest.update(f"{name} {height} {width}\n".encode())
        for (path, stream), pixels in zip(self._streams.items(), (lr, hr), strict=True):
            data = np.ascontiguousarray(pixels).data
            self._digest.update(data)
            with naming_errors(path):
                stream.write(data)
        self._offset += lr.size

    def publish(self, details: dict[str, Any]) -> Shards:
        """Write the index beside the finished pixel files and open them; call after the ``with`` block.

        Raises:
            InputError: no image was added.
        """
        if not self._entries:
            raise InputError(f"{self._folder}: no image was usable, so nothing was prepared")
        index = {
            "schema": SCHEMA,
            "scale": self._scale,
            "fingerprint": self._digest.hexdigest(),
            "images": [vars(entry) for entry in self._entries],
            "details": details,
        }
        with writing(self._folder / INDEX) as temporary:
            temporary.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        return Shards(self._folder)


def is_prepared(folder: Path) -> bool:
    """Return whether ``folder`` holds prepared data."""
    return (Path(folder) / INDEX).is_file()


def combined_fingerprint(shards: Iterable[Shards]) -> str:
    """Return one fingerprint for several prepared folders, in their order."""
    prints = [each.fingerprint for each in shards]
    return prints[0] if len(prints) == 1 else hashlib.sha256(" ".join(prints).encode()).hexdigest()


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        missing = f"{folder}: no prepared training data ({INDEX} is missing)"
        raise InputError(missing, _prepare(folder)) from None
    except (OSError, ValueError) as exc:
        raise InputError(f"{path}: not readable ({exc})", _prepare(folder)) from exc
    if isinstance(index, dict) and "images" not in index:
        index["images"] = index.pop("pictures", None)  # as version 0.1 wrote it
    if not isinstance(index, dict) or index.get("schema") != SCHEMA or not index.get("images"):
        found = index.get("schema") if isinstance(index, dict) else None
        raise InputError(f"{path}: schema {found!r}, this version reads {SCHEMA}", _prepare(folder))
    return index


def _prepare(folder: Path) -> Cure:
    return call("data prepare", photos="PHOTOS", output=str(folder))
