"""Pillow, opened quietly: what it raises about a file becomes a reason that a user can read."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, BinaryIO

from hasn_edge.errors import HasnEdgeError
from hasn_edge.optional import require


class UnreadableError(Exception):
    """An image file that cannot be used; ``str()`` is the reason, the caller adds the file's name."""


class CutOffError(UnreadableError):
    """An image file that ends before its own structure says it should."""

    def __init__(self, size: int, wanted: int | None = None) -> None:
        needs = "" if wanted is None else f" where its structure needs at least {wanted:,}"
        super().__init__(
            f"the file ends early, after {size:,} bytes{needs}; the download or copy was cut off, get the "
            "file again"
        )


class DamagedError(UnreadableError):
    """An image file whose structure contradicts itself."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the file is damaged ({what}); get it again, or save it again with an image editor")


def version() -> int:
    """Return Pillow's major version."""
    return int(require("PIL", extra="all", needed_for="Reading images").__version__.split(".")[0])


def open_with_pillow(kind: str, stream: BinaryIO) -> Any:
    """Return Pillow's image of a file of this kind, not decoded yet; to be called inside `translate_errors`.

    ``Image.open`` would try each of its formats, and not say what is wrong.
    """
    stream.seek(0)
    name = {"JPEG": "Jpeg", "WebP": "WebP", "BMP": "Bmp", "TIFF": "Tiff", "PNG": "Png", "GIF": "Gif"}[kind]
    plugin = require(f"PIL.{name}ImagePlugin", extra="all", needed_for="Reading images")
    return getattr(plugin, f"{name}ImageFile")(stream)


@contextmanager
def translate_errors(kind: str, stream: BinaryIO, *, at_end: bool = False) -> Iterator[None]:
    """Make whatever Pillow raises about a file's content an `UnreadableError`, and print nothing.

    Args:
        kind: The format, for the message.
        stream: The file.
        at_end: An error after everything was read means that the file ends early.
    """
    try:
        with _QUIET_PILLOW:
            yield
    except (UnreadableError, HasnEdgeError):
        raise
    except MemoryError as exc:
        raise UnreadableError("it does not fit into the memory; cut it into parts") from exc
    except Exception as exc:  # plugins raise what their parsing meets: KeyError, struct.error, SyntaxError
        if isinstance(exc, OSError) and exc.errno is not None:
            raise  # reading the file failed, not its content
        reason = " ".join(str(exc).split()) or type(exc).__name__
        if "truncated" in reason.lower() or (at_end and not stream.read(1)):
            raise CutOffError(stream.seek(0, os.SEEK_END)) from exc
        raise UnreadableError(
            f"it is damaged, or a kind of {kind} that Pillow {version()} cannot read ({reason}); get the "
            "file again, or save it again as an ordinary PNG"
        ) from exc


class SharedContext:
    """A context for the whole process that several threads may be in: the last one to leave restores.

    Args:
        make: Makes the context manager that the first one enters.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._context = self._make()
                self._context.__enter__()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._context.__exit__(None, None, None)


@contextmanager
def _silence_pillow() -> Iterator[None]:
    """Silence Pillow's warnings, and leave the limit on the size to `MAX_PIXELS`."""
    image: Any = require("PIL.Image", extra="all", needed_for="Reading images")
    limit, image.MAX_IMAGE_PIXELS = image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        image.MAX_IMAGE_PIXELS = limit


_QUIET_PILLOW = SharedContext(_silence_pillow)
