"""Finding the HR images, and their LR counterparts if there are any, in the layouts people have on disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hasn_edge.errors import InputError
from hasn_edge.images.listing import SUFFIXES, find_images

_HR = re.compile(r"(?P<prefix>.*)HR(?P<sub>_sub)?$")
_HELD_OUT = re.compile(r"(?i)(^|_)(valid|test)(_|$)")


@dataclass(frozen=True, kw_only=True)
class TrainingPair:
    """One HR image on disk and its LR counterpart, where there is one."""

    name: str
    """HR path below the folder that the user named."""
    hr: Path
    lr: Path | None = None


def find_pairs(root: Path, scale: int) -> list[TrainingPair]:
    """List the training images under ``root``, in the order of their paths.

    Layouts (``scale`` 4): ``DIV2K_train_HR`` with ``DIV2K_train_LR_bicubic/X4/0001x4.png`` beside it or
    nothing, the same for ``Flickr2K_HR``; the cut forms ``DIV2K_train_HR_sub`` with
    ``DIV2K_train_LR_bicubic_sub`` or ``DIV2K_train_LR_bicubic/X4_sub``; ``HR`` with ``LRbicx4`` or
    ``LR_bicubic/X4``; any other folder is searched for images, folders inside it included. ``root`` may
    be the HR folder itself or what holds it. Folders for validation and testing are left out.

    Args:
        root: What the user named.
        scale: Upscaling factor whose LR counterparts are wanted.

    Raises:
        InputError: no such folder, no images, or an HR image without its counterpart in an LR folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder of images")
    folders = [root] if _HR.fullmatch(root.resolve().name) else sorted(_hr_folders(root))
    found: list[TrainingPair] = []
    for folder in folders or [root]:
        lr_folder = _lr_folder(folder, scale) if folders else None
        lr = _by_stem(lr_folder) if lr_folder else {}
        for path in find_images([folder], recursive=not folders):
            counterpart = lr.get(path.stem) or lr.get(f"{path.stem}x{scale}")
            if lr_folder is not None and counterpart is None:
                raise InputError(
                    f"{path} has no counterpart in {lr_folder}; expected {path.stem}.png or "
                    f"{path.stem}x{scale}.png there. Add it, or move that folder away to have LR made"
                )
            found.append(TrainingPair(name=path.relative_to(root).as_posix(), hr=path, lr=counterpart))
    return found


def _hr_folders(root: Path) -> Iterator[Path]:
    for path in root.iterdir():
        if path.is_dir() and _HR.fullmatch(path.name) and not _HELD_OUT.search(path.name):
            yield path


def _lr_folder(hr: Path, scale: int) -> Path | None:
    hr = hr.resolve()
    match = _HR.fullmatch(hr.name)
    if match is None:
        return None
    prefix, sub = match["prefix"], match["sub"] or ""
    candidates = [f"{prefix}LR_bicubic/X{scale}{sub}", f"LRbicx{scale}{sub}"]
    if sub:
        candidates.append(f"{prefix}LR_bicubic{sub}")
    return next((hr.parent / c for c in candidates if _holds_images(hr.parent / c)), None)


def _holds_images(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix.lower() in SUFFIXES for path in folder.iterdir())


def _by_stem(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in find_images([folder])}
