"""Finding the HR images, and their LR counterparts if there are any, in the layouts people have on disk.

Names show what is LR (``LR``, ``lq``, ``LRbicx4``, ``X4``, ... of folders and files, in any case), and among
folders whose names say nothing sizes do: an image that is exactly a whole fraction of another one called like
it, and shows the same. No LR image is ever taken for an HR image.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hasn_edge.data.resize import imresize
from hasn_edge.errors import InputError, say
from hasn_edge.images.arrays import UInt8, enlarge_window, middle_window
from hasn_edge.images.codec import read_image_size, read_rgb8
from hasn_edge.images.listing import find_images, has_suffix
from hasn_edge.images.metrics import psnr_rgb

logger = logging.getLogger(__name__)

HR, LR = "HR", "LR"

_HR = re.compile(r"(hr|hq|gt)(mod\d+)?(x[2-8])?")
_LR = re.compile(r"(lr|lq)(bicubic|bic|bi)?(x?(?P<scale>[2-8])x?)?")
_SCALE = re.compile(r"x([2-8])|([2-8])x")
_HOW = re.compile(r"bicubic|bic|bi|unknown|mild|difficult|wild|matlab")
"""Ways in which LR was made."""
_HELD_OUT = frozenset({"valid", "val", "validation", "test"})
_SPELLED_OUT = (
    (re.compile(r"(?i)high[\W_]?res(olution)?|hi[\W_]?res"), "_hr_"),
    (re.compile(r"(?i)low[\W_]?res(olution)?|lo[\W_]?res"), "_lr_"),
    (re.compile(r"(?i)ground[\W_]?truth"), "_gt_"),
    (re.compile(r"(?i)srf[\W_]?([2-8])(?!\d)"), r"_x\1_"),
    (re.compile(r"(?<=[a-z0-9])(HR|LR|GT|LQ|HQ)(?![a-z])"), r"_\1"),  # trainHR, but not Jahr
    (re.compile(r"(?i)(?<=\d)x([2-8])$"), r"_x\1"),  # 0001x4
)
_WHOLE_RATIOS = (2, 3, 4, 6, 8)
_COMPARED = 3  # images of two folders that are looked at before one is taken for the LR of the other

_PROBE = 32  # LR pixels a side of the crop on which a given LR image is compared with its HR image
_ALIKE = 20.0  # dB: far below any way of downscaling, far above two different images


@dataclass(frozen=True, kw_only=True)
class TrainingPair:
    """One HR image on disk and its LR counterpart, where there is one."""

    name: str
    """HR path below the folder that the user named."""
    hr: Path
    lr: Path | None = None


@dataclass(frozen=True, kw_only=True)
class NamedImages:
    """What the name of a folder or file says of the images."""

    path: Path
    role: str = ""
    """`HR`, `LR`, or nothing."""
    scale: int | None = None
    """How many times smaller LR is."""
    bicubic: bool = False
    words: tuple[str, ...] = ()
    """The rest of the name in lower case, which HR and LR have in common."""

    def fits(self, scale: int) -> bool:
        """Return whether it may be of that scale: it says so, or nothing of scales."""
        return self.scale in (scale, None)

    def belongs_to(self, other: NamedImages) -> bool:
        """Return whether both may be of the same images: the rest of the name is the same, in any order."""
        return sorted(self.words) == sorted(other.words)


def read_name(path: Path, parts: Iterable[str]) -> NamedImages:
    """Return what ``parts``, a file's stem or the folders that lead to images, say of what is at ``path``.

    The innermost folder that says ``HR`` or ``LR`` decides.
    """
    role, scale, bicubic, words = "", None, False, []
    for part in parts:
        for pattern, instead in _SPELLED_OUT:
            part = pattern.sub(instead, part)
        for word in filter(None, re.split(r"[\W_]+", part.lower())):
            if _HR.fullmatch(word):
                role = HR
            elif match := _LR.fullmatch(word):
                role = LR
                scale = int(match["scale"]) if match["scale"] else scale
                bicubic |= bool(match[2])
            elif match := _SCALE.fullmatch(word):
                scale = int(match[1] or match[2])
            elif _HOW.fullmatch(word):
                bicubic |= word.startswith("bi")
            else:
                words.append(word)
    return NamedImages(path=path, role=role, scale=scale, bicubic=bicubic, words=tuple(words))


def image_folders(root: Path) -> list[NamedImages]:
    """List the folders that hold images directly: ``root`` and those inside it, in order of their paths.

    Hidden folders are left out; links are followed, once each.
    """
    found, seen = [], set()
    for parent, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(map(has_suffix, files)):
            path = Path(parent)
            found.append(read_name(path, path.relative_to(root).parts))
    return sorted(found, key=lambda each: each.path)


def choose_lr(hr: NamedImages, folders: Sequence[NamedImages], scale: int) -> NamedImages | None:
    """Return the LR folder of ``folders`` that belongs to ``hr`` at a scale; ``None`` where there is none.

    Raises:
        InputError: several do.
    """
    fitting = [
        each
        for each in folders
        if each.role == LR and each.fits(scale) and each.belongs_to(hr) and each.path != hr.path
    ]
    best = [each for each in fitting if each.scale == scale] or fitting
    best = [each for each in best if each.bicubic] or best
    if len(best) > 1:
        names = " and ".join(str(each.path) for each in best)
        raise InputError(f"{names} are both LR images of {hr.path} at x{scale}", say("move one of them away"))
    return best[0] if best else None


def find_pairs(root: Path, scale: int) -> list[TrainingPair]:
    """List the training images under ``root``, in the order of their paths.

    Layouts (``scale`` 4): ``DIV2K_train_HR`` with ``DIV2K_train_LR_bicubic/X4/0001x4.png`` or nothing;
    the cut forms ``DIV2K_train_HR_sub`` with ``DIV2K_train_LR_bicubic_sub`` or
    ``DIV2K_train_LR_bicubic/X4_sub``; ``HR`` with ``LRbicx4``; ``hr`` with ``lr``, ``GT`` with ``LQ``,
    ``high_res`` with ``low_res/x4``, ``train/HR`` with ``train/LR``, ``LR/train`` with ``HR/train``;
    ``a_HR.png`` beside ``a_LR.png`` or ``a.png`` beside ``ax4.png``. Any other folder is searched for
    images, folders inside it included; there, LR is what is exactly a fraction of another image of its name
    and shows the same. ``root`` may be the HR folder itself or what holds it. Folders for validation and
    testing are left out, and beside HR folders those whose names say nothing: the log names these.

    Args:
        root: What the user named.
        scale: Upscaling factor whose LR counterparts are wanted. LR of other scales is not used.

    Raises:
        InputError: no such folder, no images, an HR image without its counterpart in an LR folder, or a
            folder of LR images without their HR images.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder of images")
    own = read_name(root, [root.resolve().name])
    inside = image_folders(root)
    if own.role and not any(each.role for each in inside):
        if own.role == LR:
            raise InputError(
                f"{root}: by its name it holds LR images, which are not to be trained on as HR",
                say("name the folder of HR images"),
                say("name what holds both"),
            )
        beside = [path for path in sorted(root.resolve().parent.iterdir()) if path.is_dir()]
        lr_beside = [path for path in beside if read_name(path, [path.name]).role == LR]
        folders = [
            read_name(each.path, [path.name, *each.path.relative_to(path).parts])
            for path in lr_beside
            for each in image_folders(path)
        ]
        matched = {each.path: choose_lr(own, folders, scale) for each in inside}
    else:
        matched = _match_folders(root, inside, scale)
    found: list[TrainingPair] = []
    for folder, lr_folder in matched.items():
        found += _pair_files(root, folder, lr_folder, scale)
    if not found:
        find_images([root], recursive=True)  # says what was looked for
        raise InputError(f"{root}: no HR images to train on")
    return _without_lr(found, scale)


def _match_folders(root: Path, folders: list[NamedImages], scale: int) -> dict[Path, NamedImages | None]:
    """Return the folders of HR images in the order of their paths, each with its LR folder."""
    used = [each for each in folders if each.role and not _HELD_OUT & set(each.words)]
    lr = [each for each in used if each.role == LR and each.fits(scale)]
    hr = [each for each in used if each.role == HR]
    # HR cut for another scale is the same images again.
    cut = {each.words for each in hr if each.fits(scale)}
    hr = [each for each in hr if each.fits(scale) or each.words not in cut]
    plain = [each for each in folders if not each.role]
    matched = {each: choose_lr(each, lr, scale) for each in (*hr, *plain)}
    left = [each for each in plain if hr and matched[each] is None]
    if left:
        names = ", ".join(str(each.path) for each in left[:3]) + (", ..." if len(left) > 3 else "")
        logger.warning("%s: images of %s are not used: they are beside folders called HR", root, names)
    for each in left:
        del matched[each]
    orphans = [each for each in lr if each not in matched.values() and not any(map(each.belongs_to, matched))]
    alone = [each for each, partner in matched.items() if partner is None]
    if len(orphans) == 1 and len(alone) == 1:
        matched[alone[0]] = orphans[0]
    elif orphans:
        raise InputError(
            f"{orphans[0].path}: by its name it holds LR images, and no folder of HR images belongs to it; "
            "expected for example HR beside LR, GT beside LQ, or train_HR beside train_LR_bicubic/X4",
            say("rename it"),
            say("move it away to have LR made"),
        )
    return {each.path: matched[each] for each in sorted(matched, key=lambda each: each.path)}


def _pair_files(
    root: Path, folder: Path, lr_folder: NamedImages | None, scale: int
) -> Iterator[TrainingPair]:
    hr_files, given = split_files(find_images([folder]), scale)
    if lr_folder is not None:
        given = find_counterparts(hr_files, find_images([lr_folder.path]), scale)
    for path in hr_files:
        counterpart = given.get(path)
        if counterpart is None and lr_folder is not None:
            raise InputError(
                f"{path} has no counterpart in {lr_folder.path}; expected {path.stem}.png or "
                f"{path.stem}x{scale}.png there",
                say("add it"),
                say("move that folder away to have LR made"),
            )
        yield TrainingPair(name=path.relative_to(root).as_posix(), hr=path, lr=counterpart)


def find_counterparts(hr: Sequence[Path], lr: Sequence[Path], scale: int) -> dict[Path, Path]:
    """Return the LR file of each HR image that has one.

    It is called as the HR image, or so with ``x4``; where none is, so in another case; else it is the one
    called so without ``LR``, ``x4`` and the like. The last two take no file that belongs to another image.
    """
    by_rest: dict[str, list[Path]] = defaultdict(list)
    for path in lr:
        named = read_name(path, [path.stem])
        if named.words and named.fits(scale):
            by_rest["/".join(named.words)].append(path)
    exact = {path.stem: path for path in lr}
    folded = {path.stem.casefold(): path for path in lr}
    rest = {words: paths[0] for words, paths in by_rest.items() if len(paths) == 1}
    found: dict[Path, Path] = {}
    taken: set[Path] = set()
    for files, is_sure, key in (
        (exact, True, lambda path: path.stem),
        (exact, True, lambda path: f"{path.stem}x{scale}"),
        (folded, False, lambda path: path.stem.casefold()),
        (folded, False, lambda path: f"{path.stem.casefold()}x{scale}"),
        (rest, False, lambda path: "/".join(read_name(path, [path.stem]).words)),
    ):
        for path in hr:
            counterpart = files.get(key(path)) if path not in found else None
            if counterpart is not None and (is_sure or counterpart not in taken):
                found[path] = counterpart
                taken.add(counterpart)
    return found


def split_files(files: Sequence[Path], scale: int) -> tuple[list[Path], dict[Path, Path]]:
    """Part HR from LR in one folder: ``a_HR.png`` and ``a_LR.png``, ``a.png`` and ``ax4.png``.

    Returns:
        The HR images, and the LR image at ``scale`` of those that have one. LR of other scales is in neither.
    """
    groups: dict[tuple[str, ...], list[NamedImages]] = defaultdict(list)
    for path in files:
        named = read_name(path, [path.stem])
        groups[named.words].append(named)
    lr: dict[Path, Path] = {}
    dropped = set()
    for group in groups.values():
        small = [each for each in group if each.role == LR or (not each.role and each.scale)]
        large = [each for each in group if each not in small]
        if len(large) != 1 or not small:
            continue
        for each in small:
            try:  # an edit that is called _LR is no smaller
                ratio = _ratio(read_image_size(each.path), read_image_size(large[0].path))
            except InputError:
                ratio = each.scale or scale
            if ratio is not None:
                dropped.add(each.path)
                if ratio == scale:
                    lr[large[0].path] = each.path
    return [path for path in files if path not in dropped], lr


def _without_lr(pairs: list[TrainingPair], scale: int) -> list[TrainingPair]:
    """Take out the HR images that are LR of others, by sizes and what they show; pair those at ``scale``."""
    groups: dict[tuple[str, ...], list[TrainingPair]] = defaultdict(list)
    for pair in pairs:
        named = read_name(pair.hr, [pair.hr.stem])
        groups[named.words or (pair.hr.stem.casefold(),)].append(pair)
    suspects: dict[tuple[Path, Path, int], list[tuple[Path, Path]]] = defaultdict(list)
    for group in groups.values():
        for small, large, ratio in _fractions([pair.hr for pair in group]):
            suspects[small.parent, large.parent, ratio].append((small, large))
    lr: dict[Path, Path] = {}
    dropped: set[Path] = set()
    for (small_folder, large_folder, ratio), found in suspects.items():
        if all(_alike(small, large, ratio) for small, large in found[:_COMPARED]):
            logger.warning(
                "%s: %d images are exactly 1/%d of those in %s and show the same: taken as LR, not as HR",
                small_folder,
                len(found),
                ratio,
                large_folder,
            )
            dropped |= {small for small, _ in found}
            lr |= {large: small for small, large in found if ratio == scale}
    return [
        TrainingPair(name=pair.name, hr=pair.hr, lr=pair.lr or lr.get(pair.hr))
        for pair in pairs
        if pair.hr not in dropped
    ]


def _fractions(files: Sequence[Path]) -> Iterator[tuple[Path, Path, int]]:
    """Yield files that are exactly a fraction of a larger one, with that one, and how many times."""
    if len(files) < 2:
        return
    sizes: dict[Path, tuple[int, int]] = {}
    for path in files:
        try:
            sizes[path] = read_image_size(path)
        except InputError:
            continue  # preparing it says why
    by_size: Mapping[Path, tuple[int, int]] = dict(sorted(sizes.items(), key=lambda each: -each[1][0]))
    for small, size in by_size.items():
        for large, other in by_size.items():
            if ratio := _ratio(size, other):
                yield small, large, ratio
                break


def _ratio(small: tuple[int, int], large: tuple[int, int]) -> int | None:
    return next((k for k in _WHOLE_RATIOS if small == (large[0] // k, large[1] // k)), None)


def _alike(small: Path, large: Path, ratio: int) -> bool:
    try:
        return show_the_same(read_rgb8(small), read_rgb8(large), ratio)
    except InputError:
        return False


def show_the_same(lr: UInt8, hr: UInt8, scale: int) -> bool:
    """Return whether the middle of ``lr`` shows what the middle of ``hr``, ``scale`` times larger, does."""
    window = middle_window(lr.shape, (_PROBE, _PROBE))
    shrunk = imresize(hr[enlarge_window(window, scale)], scale=1 / scale)
    return psnr_rgb(np.ascontiguousarray(lr[window]), shrunk) > _ALIKE
