"""Files on disk: written whole or not at all, by one process, known by their bytes; what ships."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Generic, TypeVar

from hasn_edge.errors import InputError, OutputError, say

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")
Self = TypeVar("Self", bound="Closeable")

log = logging.getLogger(__name__)

_unfinished: dict[Path, Path] = {}
"""Temporary files that exist now, each with the name it is to take."""
_naming = threading.RLock()

_PACKAGE = Path(__file__).resolve().parent

CAN_LOCK = fcntl is not None
"""Whether :func:`lock` may do something on this system."""


def shipped_root() -> Path:
    """Return the folder that holds ``calibration/`` and ``engines/``.

    A wheel carries them inside the package (``setup.py`` puts them there); in a checkout, and in an
    editable installation of one, they are beside it.
    """
    installed = _PACKAGE / "_shipped"
    return installed if installed.is_dir() else _PACKAGE.parent


def shipped_path(*parts: str) -> Path:
    """Return the path of a file or folder that ships with hasn-edge.

    Args:
        parts: Path below it, e.g. ``shipped_path("calibration", "patches")``.

    Raises:
        InputError: the installation is incomplete.
    """
    path = shipped_root().joinpath(*parts)
    if not path.exists():
        raise InputError(
            f"{path} ships with hasn-edge but is missing: the installation is incomplete",
            say("repair it with: pip install --force-reinstall hasn-edge"),
        )
    return path


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return what to call files: their names, with as many folders as it takes to tell them apart."""
    names = []
    for path in paths:
        others = {other.absolute() for other in paths} - {path.absolute()}
        parts = path.absolute().parts
        count = 1
        while count < len(parts) and any(other.parts[-count:] == parts[-count:] for other in others):
            count += 1
        names.append("/".join(parts[-count:]))
    return names


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def lock(held: int, *, wait: bool = False) -> None:
    """Lock an open file or folder until it is closed, which the system does however its process ends.

    Where the system cannot (Windows, some network drives) nothing is locked.

    Args:
        held: Its descriptor.
        wait: Wait for another process, or another descriptor of this one, that has it locked.

    Raises:
        BlockingIOError: another has it locked.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as exc:
        log.info("nothing can be locked here: %s", exc)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep a folder to this process until the block ends, or the process does, however it ends.

    One that is not there is made, and removed where it is empty in the end. Where the system cannot lock
    folders nothing is claimed.

    Raises:
        BlockingIOError: another process has claimed it, or another block of this one.
        OutputError: it cannot be made or opened.
    """
    if not CAN_LOCK:
        yield
        return
    new = not folder.exists()
    with naming_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY)
    try:
        lock(held)
        yield
    finally:
        if new:
            with suppress(OSError):
                folder.rmdir()
        os.close(held)


def _create(path: Path) -> int:
    """Create a file, which is locked as long as the descriptor that is returned is open."""
    while True:
        held = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        lock(held, wait=True)
        if os.fstat(held).st_nlink:  # else another process removed it before it was locked
            return held
        os.close(held)


def _remove_left(folder: Path, pattern: str, holding: str | None = None) -> None:
    """Remove the temporary files that killed processes left: those that no process has locked.

    Args:
        folder: Where.
        pattern: Of their whole names.
        holding: They are folders, which hold one of this name and nothing else.
    """
    if fcntl is None:
        return
    found: list[Path] = []
    with suppress(OSError), os.scandir(folder) as entries:
        found = [Path(entry) for entry in entries if re.fullmatch(pattern, entry.name)]
    for path in found:
        with suppress(OSError), ExitStack() as stack:  # BlockingIOError: it is being written
            held = os.open(path, os.O_RDONLY)
            stack.callback(os.close, held)
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if holding is None:
                path.unlink()
            elif [each.name for each in path.iterdir()] == [holding]:
                shutil.rmtree(path)
            else:
                continue
            log.info("%s: removed; a process that was killed had left it", path)


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, remove it on failure.

    The temporary file keeps ``path``'s suffix, so that writers that look at it still work. What an earlier
    process left of ``path`` when it was killed is removed.

    Raises:
        OutputError: the folder cannot be made or written, the disk is full, or ``path`` is a device or a
            pipe; nothing is left behind.
    """
    path = Path(path)
    begin = f".{path.stem[:50]}."  # names have at most 255 bytes, and a character up to four
    temporary = path.with_name(f"{begin}{secrets.token_hex(8)}{path.suffix}")
    held = None
    try:
        _refuse_special(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(path.parent, f"{re.escape(begin)}[0-9a-f]{{16}}{re.escape(path.suffix)}")
        with _naming:
            _unfinished[temporary] = path  # before it exists: an interrupt may come at any time
            held = _create(temporary)
        if not CAN_LOCK:  # Windows renames no file that is open
            os.close(held)
            held = None
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        with _naming:
            temporary.replace(path)
            del _unfinished[temporary]
    except OSError as exc:
        raise output_error(path, exc) from exc
    finally:
        if _unfinished.pop(temporary, None) is not None:
            temporary.unlink(missing_ok=True)
        if held is not None:
            os.close(held)


def require_new_folder(path: Path) -> None:
    """Refuse a folder that holds something; for before the work whose result it is to hold.

    Raises:
        OutputError: it is not empty, cannot be listed, or is a file.
    """
    path = Path(path)
    with naming_errors(path):
        free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if not free:
        raise OutputError(f"{path} is not empty; expected a new folder", say("name another folder"))


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; rename it to ``path`` on success, else remove all of it.

    Where nothing can stand beside a folder that is there, see :func:`staging_folder`, the temporary one
    stands inside, and what it holds moves up on success. So it does into the current folder, which would be
    another one than that of whoever called.

    Raises:
        OutputError: as :func:`require_new_folder`, or the folder cannot be made or written.
    """
    require_new_folder(path)
    target = Path(path).resolve()
    with naming_errors(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        with staging_folder(target, target.name) as staging:
            yield staging
            if target in staging.parents or (target.exists() and target.samefile(os.curdir)):
                for entry in list(staging.iterdir()):
                    entry.rename(target / entry.name)
            else:
                if target.exists():
                    target.rmdir()
                staging.rename(target)


@contextmanager
def staging_folder(folder: Path, name: str) -> Iterator[Path]:
    """Yield a new folder ``name`` in a hidden one beside ``folder``, which is removed in the end.

    It stands inside of a ``folder`` that is a mount point, as containers have them, or whose parent may not
    be written: nothing could be renamed there from outside. Hidden ones that earlier processes left with this
    name inside when they were killed are removed first.
    """
    folder = folder.resolve()
    place = folder.parent
    if folder.exists() and (os.path.ismount(folder) or not os.access(place, os.W_OK)):
        place = folder
    _remove_left(place, r"\.hasn-edge-\w{8}", holding=name)
    with (
        tempfile.TemporaryDirectory(prefix=".hasn-edge-", dir=place, ignore_cleanup_errors=True) as private,
        claimed(Path(private)),
    ):
        staging = Path(private, name)
        staging.mkdir()
        yield staging


class KeptValues(Generic[T]):
    """What was measured, by key, in a JSON file: what was interrupted goes on from there.

    Args:
        path: The file; nothing is kept beyond this object where ``None``. A damaged one is begun anew.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._values: dict[str, T] = {}
        if path is not None and path.is_file():
            try:
                self._values = dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError) as exc:
                log.warning("%s: measurements that cannot be read; they are made anew (%s)", path, exc)

    def get(self, key: str, measure: Callable[[], T]) -> T:
        """Return the value of ``key``: the kept one, else that of ``measure``, which then is kept."""
        if key not in self._values:
            self._values[key] = measure()
            if self._path is not None:
                with writing(self._path) as path:
                    path.write_text(json.dumps(self._values), encoding="utf-8")
        return self._values[key]


class Closeable(ABC):
    """What holds a file, a process or a device until it is closed; as a context manager, at the block's end.

    It stands here because sessions, sources, decoders and benched cases share it, and no package of theirs is
    below all of them.
    """

    @abstractmethod
    def close(self) -> None:
        """Free what it holds. Safe to call twice."""

    def __enter__(self: Self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        with after_failure() if any(error) else nullcontext():
            self.close()


@contextmanager
def after_failure() -> Iterator[None]:
    """Clean up after an error, which stays the one that is raised: what fails here as well is only logged."""
    try:
        yield
    except Exception as exc:
        log.warning("cleaning up after an error failed as well: %s", exc)


def require_writable(path: Path, *, folder: bool = False) -> None:
    """Refuse a file that could not be written, before the work that it is to hold; leaves nothing behind.

    Args:
        path: The file's name.
        folder: It is that of a folder, which files are to be written into.

    Raises:
        OutputError: its folder, or the nearest one that exists, cannot be written, its name is too long, or
            it is a folder itself (a file, where it is to be one), a device or a pipe.
    """
    path = Path(path)
    nearest = path.absolute() if folder else path.absolute().parent
    with naming_errors(path):
        _refuse_special(path)
        while not nearest.exists():
            nearest = nearest.parent
        if path.is_dir() and not folder:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        for name in path.absolute().relative_to(nearest).parts:  # a file system has a longest name
            with suppress(FileNotFoundError):
                os.lstat(nearest / name)
        with tempfile.TemporaryFile(dir=nearest):
            pass


def _refuse_special(path: Path) -> None:
    """Refuse what is no file: root, as in most containers, would replace ``/dev/null`` for all programs."""
    stream = path.is_symlink() and str(path.readlink()).startswith("/proc/")  # /dev/stdout, wherever it leads
    if stream or (path.exists() and not path.is_file() and not path.is_dir()):
        raise OutputError(f"{path} is a device or a pipe, which a file would replace", say("name a file"))


def abandon() -> tuple[Path, ...]:
    """Remove every temporary file of :func:`writing`, right before the process is left by ``os._exit``.

    For when a thread that writes hangs in a library. From now on no other thread can begin or finish a file.

    Returns:
        The names that they were to take.
    """
    _naming.acquire()  # for ever: what was not whole by now never is
    dropped = tuple(_unfinished.values())
    for temporary in list(_unfinished):
        temporary.unlink(missing_ok=True)
    return dropped


@contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Make an operating system error inside the message that ``path`` cannot be written."""
    try:
        yield
    except OSError as exc:
        raise output_error(path, exc) from exc


def output_error(path: Path, exc: OSError) -> OutputError:
    """Turn an operating system error on writing ``path`` into a message with its cure."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free
        return OutputError(
            f"cannot write {path}: {exc.strerror} ({free / 1e6:.0f} MB free), nothing was left behind",
            say("free some space"),
            say("choose another folder"),
        )
    cure = "a shorter name" if exc.errno == errno.ENAMETOOLONG else "a folder that you may write to"
    return OutputError(f"cannot write {path}: {exc.strerror or exc}", say(f"choose {cure}"))
