"""Which files a user means by the files and folders they name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from hasn_edge.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".bmp", ".tif", ".tiff")
"""File name endings, in lower case, of what is taken from folders and of what can be written."""

OTHER_SUFFIXES = (
    *(".avif", ".avifs", ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".jpx", ".jxr", ".apng", ".tga", ".exr"),
    *(".hdr", ".dds", ".ico", ".icns", ".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".qoi", ".pcx", ".psd"),
    *(".svg", ".eps", ".pdf", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"),
)
"""Endings of other images, in lower case. None can be written, and no folder is meant by such a name."""

USUAL_VIDEOS = ".mp4, .mov, .mkv, .avi, .webm, .ts and others that FFmpeg reads"
"""What messages name instead of the fifty endings that are taken for videos."""


def usual_suffix(path: Path) -> str:
    """Return a name's ending as its format is usually called: ``.jpg`` of ``IMAGE.JPEG``."""
    suffix = path.suffix.lower()
    return {".jpeg": ".jpg", ".jfif": ".jpg", ".jpe": ".jpg", ".tif": ".tiff"}.get(suffix, suffix)


def find_images(
    paths: Iterable[str | os.PathLike[str]], *, recursive: bool = False, also: tuple[str, ...] = ()
) -> list[Path]:
    """List images: every file that was named, and those inside every folder that was named.

    Files in folders are taken by their ending (`SUFFIXES`, any case), sorted by name; hidden ones are
    left out. Files named explicitly are always kept, whatever they are called and even if missing, so
    that reading them says what is wrong with each. A path that comes up twice is listed once.

    Args:
        paths: Files and folders.
        recursive: Look into folders inside folders as well; links to folders are not followed.
        also: Endings of videos, in lower case, to take from folders as well.

    Raises:
        InputError: a folder without any of them, or one that may not be read.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            found[path] = None
            continue
        inside = sorted(_walk(path, (*SUFFIXES, *also), recursive=recursive))
        if not inside:
            deeper = "" if recursive else " directly inside it"
            what = "image or video" if also else "image"
            known = ", ".join((*SUFFIXES, USUAL_VIDEOS) if also else SUFFIXES)
            raise InputError(f"{path}: no {what}{deeper}; looked for {known}")
        found.update(dict.fromkeys(inside))
    return list(found)


def files_left_out(paths: Iterable[str | os.PathLike[str]], *, also: tuple[str, ...] = ()) -> list[Path]:
    """List the files directly in the folders of ``paths`` that `find_images` passes over for their ending.

    Hidden ones, and those that are among ``paths`` themselves, are not listed.

    Args:
        paths: Files and folders.
        also: As for `find_images`.
    """
    given = {Path(path).resolve() for path in paths}
    inside = (file for path in map(Path, paths) if path.is_dir() for file in files_in(path))
    return [
        file
        for file in inside
        if file.is_file()
        and not file.name.startswith(".")
        and not has_suffix(file.name, (*SUFFIXES, *also))
        and file.resolve() not in given
    ]


def files_in(folder: Path) -> list[Path]:
    """List what is in a folder; nothing where it may not be read, of which `find_images` speaks."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def folders_inside(
    paths: Iterable[str | os.PathLike[str]],
    *,
    also: tuple[str, ...] = (),
    without: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """List the folders inside those of ``paths``, at any depth, that `find_images` would take files from.

    Those that are among ``paths`` themselves, hidden ones, links, and ones that may not be read are left out.

    Args:
        paths: Files and folders.
        also: As for `find_images`.
        without: A folder that is left out, with all that is in it.
    """
    given = [path for path in map(Path, paths) if path.is_dir()]
    known = {path.resolve() for path in given}
    outside = None if without is None else Path(without).resolve()
    found: dict[Path, Path] = {}
    for path in given:
        for parent, folders, names in os.walk(path):
            inside = Path(parent).resolve()
            if inside == outside and inside not in known:
                folders.clear()
                continue
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if inside not in known and any(has_suffix(name, (*SUFFIXES, *also)) for name in names):
                found.setdefault(inside, Path(parent))
    return list(found.values())


def has_suffix(name: str, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Return whether a file is taken from a folder by its name: not hidden, with one of these endings."""
    # Hidden files include the "._name.jpg" that macOS leaves on shared drives: not images.
    return not name.startswith(".") and Path(name).suffix.lower() in suffixes


def _walk(folder: Path, suffixes: tuple[str, ...], *, recursive: bool) -> Iterator[Path]:
    def refuse(exc: OSError) -> None:
        raise InputError(f"{folder}: cannot be listed ({exc.strerror}); check its permissions") from exc

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        for name in names:
            if has_suffix(name, suffixes):
                yield Path(parent, name)
