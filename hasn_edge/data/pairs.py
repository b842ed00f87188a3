"""Sets of image pairs to measure on: high resolution, and the low resolution it was reduced to."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hasn_edge.data.layouts import (
    HR,
    NamedImages,
    choose_lr,
    find_counterparts,
    image_folders,
    read_name,
    split_files,
)
from hasn_edge.data.resize import imresize
from hasn_edge.errors import InputError, say
from hasn_edge.files import file_sha256, shipped_path
from hasn_edge.images.arrays import Float32, Float64, UInt8, from_tensor, to_tensor
from hasn_edge.images.codec import read_image_size, read_rgb8
from hasn_edge.images.listing import find_images
from hasn_edge.images.metrics import SSIM_WINDOW


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One image in both resolutions, read from disk each time it is asked for."""

    name: str
    """File name without ending."""
    scale: int
    """How many times smaller LR is, on each side."""
    hr_path: Path
    lr_path: Path | None = None
    """``None``: LR is made from HR by `imresize`."""

    def hr(self) -> UInt8:
        """Read HR: ``(H, W, 3)`` uint8 RGB, cut at bottom and right to a multiple of the scale."""
        return cut_to_multiple(read_rgb8(self.hr_path), self.scale)

    def lr(self) -> UInt8:
        """Read or make LR: ``(H / scale, W / scale, 3)`` uint8 RGB."""
        return imresize(self.hr(), scale=1 / self.scale) if self.lr_path is None else read_rgb8(self.lr_path)


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """Named pairs of one scale, in the order of their names."""

    name: str
    scale: int
    pairs: tuple[Pair, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the names and the files of all pairs."""
        files = (path for pair in self.pairs for path in (pair.hr_path, pair.lr_path) if path is not None)
        text = "\n".join(f"{path.name} {file_sha256(path)}" for path in files)
        return hashlib.sha256(f"{self.scale}\n{text}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)


EvalSource = str | os.PathLike[str] | tuple[str, str | os.PathLike[str]]
"""``"NAME=DIR"``, ``(name, folder)``, or a folder, whose name then is the set's."""


def load_eval_set(source: EvalSource, scale: int) -> EvalSet:
    """Find the pairs in a folder, and check from the headers that they belong together.

    Layouts: ``HR`` or ``GTmod12`` beside ``LRbicx4`` or ``LR_bicubic/X4``; ``DIV2K_valid_HR`` beside
    ``DIV2K_valid_LR_bicubic/X4`` (any prefix); the other spellings that
    :func:`hasn_edge.data.layouts.find_pairs` knows; or images directly in the folder. LR files are called
    like their HR file, or with ``x4`` added (``0801x4.png``). Without LR for this scale, it is made by
    `imresize`, which gives the same bytes.

    Args:
        source: See :data:`EvalSource`.
        scale: Upscaling factor of the network to measure.

    Raises:
        InputError: no such folder, no images in it, an image without its counterpart, or sizes that
            do not match; names the files.
    """
    name, folder = _name_and_folder(source)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder for the set {name}{_suggest(folder)}")
    hr_folder = _hr_folder(name, folder)
    lr_folder = choose_lr(hr_folder, image_folders(folder), scale)
    hr_files, beside = split_files(list(_by_stem(name, hr_folder.path).values()), scale)
    counterparts = _counterparts(name, hr_files, lr_folder.path, scale) if lr_folder else beside
    pairs = [
        Pair(name=path.stem, scale=scale, hr_path=path, lr_path=counterparts.get(path))
        for path in sorted(hr_files, key=lambda path: path.stem)
    ]
    for pair in pairs:
        _check_sizes(name, pair)
    return EvalSet(name=name, scale=scale, pairs=tuple(pairs))


def load_eval_sets(sources: Sequence[EvalSource], scale: int) -> list[EvalSet]:
    """Return the sets that :func:`load_eval_set` finds, to measure on.

    Each has another name, since figures go by it, and images that are large enough for SSIM.

    Raises:
        InputError: a set cannot be used, two have one name, or an image is too small to measure.
    """
    sets = [load_eval_set(source, scale) for source in sources]
    least = -(-(SSIM_WINDOW + 2 * scale) // scale) * scale  # the border is cut, and HR to a multiple
    for each in sets:
        for pair in each:
            height, width = read_image_size(pair.hr_path)
            if min(height, width) < least:
                raise InputError(
                    f"set {each.name}: {pair.hr_path} is {width} x {height} pixels, too small to measure: "
                    f"SSIM at x{scale} needs {least} x {least}",
                    say("remove it"),
                )
    names = [each.name for each in sets]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two sets are called {name}", say("name them apart, as NAME=DIR"))
    return sets


def absolute_source(source: str) -> str:
    """Return what :func:`load_eval_set` takes for the same set, independent of the current folder."""
    name, folder = _name_and_folder(source)
    # A name with "=" in it is that of the folder; before another one it would be read as NAME=DIR.
    return str(folder.resolve()) if "=" in name else f"{name}={folder.resolve()}"


def shipped_eval_set(scale: int) -> EvalSet:
    """Return the photographs that ship with hasn-edge for measuring; none of them is used for calibration."""
    return load_eval_set(("shipped", shipped_path("calibration", "heldout")), scale)


def held_out_sets(scale: int, own: str | os.PathLike[str] | None = None) -> tuple[EvalSet, ...]:
    """Return the images that budgets are kept on, none of which is used for calibration.

    Args:
        scale: Upscaling factor of the network.
        own: A folder instead of what ships, as :func:`load_eval_sets` reads it.

    Returns:
        The photographs that ship, and what ships of text, line art, charts and patterns; or the one set.

    Raises:
        InputError: the folder cannot be used.
    """
    if own is not None:
        return tuple(load_eval_sets([own], scale))
    drawn = load_eval_set(("drawn", shipped_path("calibration", "heldout-drawn")), scale)
    return shipped_eval_set(scale), drawn


def bicubic_baseline(scale: int) -> Callable[[Float32], Float32]:
    """Return what any network is compared with: a function that upscales tensors by `imresize`.

    It takes and returns ``(1, 3, H, W)`` float32 in [0, 1] and, as the published figures do, works on
    8-bit images.
    """

    def run(x_NCHW: Float32) -> Float32:
        return to_tensor(imresize(from_tensor(x_NCHW), scale=float(scale)))

    return run


def linear_baseline(eval_set: EvalSet) -> Callable[[Float32], Float32]:
    """Return the best linear upsampler of 5 x 5 LR pixels for the images of a set.

    Least squares over all pixels and colours, one filter for each of the ``scale`` x ``scale`` places; fitted
    to the very images, so that no fixed filter of this size has a smaller squared error on them. It is what a
    network reaches by its shortest path alone: one that has learned more lies above.

    Args:
        eval_set: Pairs.

    Returns:
        As :func:`bicubic_baseline`, not rounded.
    """
    scale, side, edge = eval_set.scale, 5, 2
    taps = side * side + 1

    def patches(x_NCHW: Float32) -> Float64:
        padded = np.pad(x_NCHW[0], ((0, 0), (edge, edge), (edge, edge)), mode="edge").astype(np.float64)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
        rows = windows.reshape(-1, side * side)
        return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)

    left, right = np.zeros((taps, taps)), np.zeros((taps, scale * scale))
    for pair in eval_set:
        x, y = patches(to_tensor(pair.lr())), to_tensor(pair.hr())[0].astype(np.float64)
        height, width = y.shape[1] // scale, y.shape[2] // scale
        places = y.reshape(3, height, scale, width, scale).transpose(0, 1, 3, 2, 4).reshape(-1, scale * scale)
        left += x.T @ x
        right += x.T @ places
    filters = np.linalg.lstsq(left, right, rcond=None)[0]

    def run(x_NCHW: Float32) -> Float32:
        height, width = x_NCHW.shape[2:]
        places = (patches(x_NCHW) @ filters).reshape(3, height, width, scale, scale)
        y = places.transpose(0, 1, 3, 2, 4).reshape(1, 3, height * scale, width * scale)
        return np.ascontiguousarray(y, dtype=np.float32)

    return run


def cut_to_multiple(pixels: UInt8, step: int) -> UInt8:
    """Cut ``(H, W, 3)`` at bottom and right, so that ``step`` divides height and width."""
    height, width = (side // step * step for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[:height, :width])


def _name_and_folder(source: EvalSource) -> tuple[str, Path]:
    if isinstance(source, tuple):
        return source[0], Path(source[1])
    text = os.fspath(source)
    # A folder may have "=" in its name; only what is no folder is split, and no absolute path.
    if "=" in text and not Path(text).is_dir() and not Path(text).is_absolute():
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise InputError(f"{text!r}: expected NAME=DIR, for example Set5=datasets/Set5")
        return name, Path(folder)
    return Path(text).resolve().name, Path(text)


def _suggest(folder: Path) -> str:
    """Suggest a neighbour with nearly the same name."""
    parent = folder.parent
    names = [path.name for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
    near = difflib.get_close_matches(folder.name, names, n=1)
    if near:
        return f"; did you mean {parent / near[0]}?"
    return "; check the spelling and the current folder" + (
        "" if parent.is_dir() else f", {parent} is missing too"
    )


def _hr_folder(name: str, folder: Path) -> NamedImages:
    """Return the folder of HR images: one inside ``folder`` that is called so, or ``folder`` itself."""
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    found = [named for path in inside if (named := read_name(path, [path.name])).role == HR]
    chosen = [each for each in found if each.path.name in ("HR", "GTmod12")][:1]
    chosen = chosen or [each for each in found if "valid" in each.words] or found
    if len(chosen) > 1:
        names = ", ".join(each.path.name for each in chosen)
        raise InputError(
            f"set {name}: {folder} has several sets ({names})", say(f"name one, e.g. NAME={chosen[0].path}")
        )
    return chosen[0] if chosen else NamedImages(path=folder)


def _by_stem(name: str, folder: Path) -> dict[str, Path]:
    try:
        files = find_images([folder])
    except InputError as exc:
        raise InputError(f"set {name}: {exc}; expected HR beside LRbicx4, or images") from exc
    by_stem: dict[str, Path] = {}
    for path in files:
        if path.stem in by_stem:
            raise InputError(
                f"set {name}: {by_stem[path.stem]} and {path} have one name", say("remove one of them")
            )
        by_stem[path.stem] = path
    return by_stem


def _counterparts(name: str, hr: list[Path], lr_folder: Path, scale: int) -> dict[Path, Path]:
    files = list(_by_stem(name, lr_folder).values())
    found = find_counterparts(hr, files, scale)
    for path in hr:
        if path not in found:
            raise InputError(
                f"set {name}: {path} has no counterpart in {lr_folder}; expected {path.name} or "
                f"{path.stem}x{scale}{path.suffix} there",
                say("add it"),
                say("remove the folder to have LR made"),
            )
    left = [path for path in files if path not in found.values()]
    if left:
        raise InputError(
            f"set {name}: {left[0]} has no counterpart among the HR images",
            say("remove it"),
            say("add its HR image"),
        )
    return found


def _check_sizes(name: str, pair: Pair) -> None:
    hr = read_image_size(pair.hr_path)
    expected = hr[0] // pair.scale, hr[1] // pair.scale
    if min(expected) < 1:
        raise InputError(
            f"set {name}: {pair.hr_path} is {hr[1]} x {hr[0]} pixels, too small for x{pair.scale}",
            say("remove it"),
        )
    if pair.lr_path is None:
        return
    lr = read_image_size(pair.lr_path)
    if lr != expected:
        raise InputError(
            f"set {name}: {pair.lr_path} is {lr[1]} x {lr[0]} pixels, expected {expected[1]} x {expected[0]} "
            f"at x{pair.scale} since {pair.hr_path} is {hr[1]} x {hr[0]}; one is of another scale or image"
        )
