"""Photographs into training shards, once: every file checked, LR made as MATLAB makes it."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hasn_edge.data.layouts import TrainingPair, find_pairs, show_the_same
from hasn_edge.data.pairs import cut_to_multiple
from hasn_edge.data.resize import imresize
from hasn_edge.data.shards import INDEX, Shards, ShardWriter
from hasn_edge.errors import InputError, say, use
from hasn_edge.hardware.host import compute_cores
from hasn_edge.images.arrays import UInt8
from hasn_edge.images.codec import read_image_size, read_rgb8
from hasn_edge.progress import Progress, Step, ignore
from hasn_edge.queues import take_ahead


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One image that cannot be used, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a preparation did."""

    shards: Shards
    skipped: tuple[Problem, ...]
    reused: int
    """How many HR images came from data that was prepared before, without decoding them again."""

    @property
    def images(self) -> int:
        """How many pairs there are."""
        return len(self.shards)

    @property
    def hr_megapixels(self) -> float:
        """Pixels of all HR images, in millions."""
        return sum(each.height * each.width for each in self.shards.entries) * self.shards.scale**2 / 1e6

    @property
    def made_lr(self) -> int:
        """How many LR images were made; the others were read."""
        return sum(each.lr_source is None for each in self.shards.entries)


@dataclass(frozen=True, kw_only=True)
class _Done:
    lr: UInt8
    hr: UInt8
    digest: bytes
    reused: bool


def prepare(
    roots: Sequence[Path],
    output: Path,
    *,
    scale: int = 4,
    downscale: int = 1,
    min_side: int = 192,
    skip_bad: bool = False,
    workers: int | None = None,
    known: Sequence[Path] = (),
    progress: Progress = ignore,
) -> Report:
    """Check the images under ``roots`` and write them to ``output`` as shards.

    Args:
        roots: Folders in any layout that `find_pairs` knows.
        output: Folder to write; what it held is replaced when everything has succeeded.
        scale: Upscaling factor of the network to train.
        downscale: Reduce HR by this whole factor first (MATLAB bicubic): sharper pixels from photographs
            whose own pixels are soft. LR is then always made.
        min_side: Shortest accepted side of the HR image in pixels, after ``downscale``.
        skip_bad: Leave out images that cannot be used instead of refusing all.
        workers: Threads, each of which holds an image; by default one for each core that may be used.
        known: More folders of prepared data, besides ``output`` and its neighbours, in which the same files
            may be: their pixels are taken from there, also those of another scale.
        progress: Receives each image's name once it is written or left out.

    Raises:
        InputError: no images; or, without ``skip_bad``, some that are unreadable, too small, twice there,
            or do not match their LR: all are counted and the first are named. Nothing is written then.
    """
    if downscale < 1 or scale < 2:
        raise InputError(f"scale is {scale} and downscale {downscale}; expected at least 2 and 1")
    pairs = [pair for root in roots for pair in find_pairs(root, scale)]
    if downscale > 1:
        pairs = [TrainingPair(name=pair.name, hr=pair.hr) for pair in pairs]
    checked = [(pair, _check_headers(pair, scale, downscale, min_side)) for pair in pairs]
    skipped = [problem for _, problem in checked if problem is not None]
    _refuse(skipped, len(pairs), skip_bad)
    usable = [pair for pair, problem in checked if problem is None]
    before = _Before(_prepared_folders(output, known), downscale)
    if (same := before.whole(output, usable, scale)) is not None and not skipped:
        return Report(shards=same, skipped=(), reused=len(same))
    seen: dict[bytes, str] = {}
    reused = 0
    writer = ShardWriter(output, scale)
    with writer:
        load = partial(_load, scale=scale, downscale=downscale, before=before)
        for number, (pair, done) in enumerate(_load_all(usable, load, workers or compute_cores()), 1):
            if isinstance(done, Problem):
                skipped.append(done)
            elif done.digest in seen:
                first = seen[done.digest]
                skipped.append(Problem(name=pair.name, reason=f"the same image as {first}; remove one"))
            else:
                seen[done.digest] = pair.name
                writer.add(
                    pair.name, done.lr, done.hr, source=source_of(pair.hr), lr_source=source_of(pair.lr)
                )
                reused += done.reused
            progress(Step(pair.name, number, len(usable)))
        _refuse(skipped, len(pairs), skip_bad)
        if not seen:
            raise InputError(f"no image of {len(pairs)} is usable; first: {skipped[0]}")
    shards = writer.publish({"downscale": downscale, "roots": [str(root) for root in roots]})
    return Report(shards=shards, skipped=tuple(skipped), reused=reused)


class _Before:
    """What was prepared before: where the pixels of a file lie."""

    def __init__(self, folders: Iterable[Path], downscale: int) -> None:
        self._places: dict[str, list[tuple[Shards, int]]] = defaultdict(list)
        self._folders: dict[Path, Shards] = {}
        for folder in folders:
            try:
                shards = Shards(folder)
            except (InputError, OSError):
                continue  # of another version, damaged, or somebody else's
            if shards.details.get("downscale") == downscale:
                self._folders[folder.resolve()] = shards
                for index, entry in enumerate(shards.entries):
                    if entry.source:
                        self._places[entry.source].append((shards, index))
        self._downscale = downscale

    def hr(self, path: Path, scale: int) -> UInt8 | None:
        """Return the HR pixels of a file, cut for a scale; ``None`` where they are not known."""
        source = source_of(path)
        height, width = (side // (scale * self._downscale) * scale for side in read_image_size(path))
        for shards, index in self._places.get(source or "", ()):
            if shards.hr(index).shape[:2] == (height, width):
                return np.array(shards.hr(index))  # the file may be replaced while it is used
        return None

    def whole(self, folder: Path, pairs: Sequence[TrainingPair], scale: int) -> Shards | None:
        """Return the data in a folder where it is of just these files."""
        shards = self._folders.get(folder.resolve())
        if shards is None or shards.scale != scale or len(shards) != len(pairs):
            return None
        for pair, entry in zip(pairs, shards.entries, strict=True):
            key = (pair.name, source_of(pair.hr), source_of(pair.lr))
            if key != (entry.name, entry.source, entry.lr_source) or entry.source is None:
                return None
        return shards


def _prepared_folders(output: Path, known: Sequence[Path]) -> list[Path]:
    parent = output.absolute().parent
    beside = sorted(parent.iterdir()) if parent.is_dir() else []
    folders = dict.fromkeys([output.absolute(), *beside, *known])
    # Where one may not be entered, as lost+found, Path.is_file() raises.
    return [folder for folder in folders if os.path.isfile(folder / INDEX)]  # noqa: PTH113


def source_of(path: Path | None) -> str | None:
    """Return what tells a file and its content from others without reading it; nothing of nothing.

    Raises:
        InputError: the file is gone.
    """
    if path is None:
        return None
    try:
        facts = path.stat()
    except OSError as exc:
        raise InputError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    text = f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:32]


def _refuse(problems: Sequence[Problem], total: int, skip_bad: bool) -> None:
    if problems and not skip_bad:
        shown = "".join(f"\n  {problem}" for problem in problems[:10])
        more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise InputError(
            f"{len(problems)} of {total} images cannot be used:{shown}{more}",
            say("repair or remove them"),
            *([use(skip_bad=True)] if len(problems) < total else []),
        )


def _check_headers(pair: TrainingPair, scale: int, downscale: int, min_side: int) -> Problem | None:
    """Check what the headers say, without decoding."""
    try:
        height, width = (side // downscale for side in read_image_size(pair.hr))
        if min(height, width) < max(min_side, scale):
            after = f" after downscaling by {downscale}" if downscale > 1 else ""
            return Problem(
                name=pair.name,
                reason=f"{width} x {height} pixels{after}; the shortest side must be {min_side}",
            )
        if pair.lr is None:
            return None
        lr = read_image_size(pair.lr)
    except InputError as exc:
        return Problem(name=pair.name, reason=str(exc))
    if lr == (height // scale, width // scale):
        return None
    ratio = height / lr[0]
    if all(abs(side / small - round(ratio)) < 0.1 for side, small in zip((height, width), lr, strict=True)):
        why = f"that is x{round(ratio)}, not x{scale}"
    else:
        why = "it belongs to another image"
    return Problem(
        name=pair.name,
        reason=f"its LR {pair.lr} is {lr[1]} x {lr[0]}, expected {width // scale} x {height // scale}: {why}",
    )


def _load(pair: TrainingPair, scale: int, downscale: int, before: _Before) -> _Done | Problem:
    try:
        known = before.hr(pair.hr, scale)
        hr = read_rgb8(pair.hr) if known is None else known
        lr = read_rgb8(pair.lr) if pair.lr is not None else None
    except InputError as exc:
        return Problem(name=pair.name, reason=str(exc))
    if known is None:
        # Cutting to whole LR pixels of the final scale first keeps both reductions on one grid.
        hr = cut_to_multiple(hr, scale * downscale)
        if downscale > 1:
            hr = imresize(hr, scale=1 / downscale)
    if lr is None:
        lr = imresize(hr, scale=1 / scale)
    elif not show_the_same(lr, hr, scale):
        return Problem(name=pair.name, reason=f"its LR {pair.lr} does not show the same image")
    digest = hashlib.sha256(f"{hr.shape}".encode())  # two plain surfaces of other sides have the same bytes
    digest.update(np.ascontiguousarray(hr).data)
    return _Done(lr=lr, hr=hr, digest=digest.digest(), reused=known is not None)


def _load_all(
    pairs: Iterable[TrainingPair], load: Callable[[TrainingPair], _Done | Problem], workers: int
) -> Iterator[tuple[TrainingPair, _Done | Problem]]:
    """Load pairs in threads and yield them in order, never holding more than a few."""
    with ThreadPoolExecutor(workers) as pool:
        begun = ((pair, pool.submit(load, pair)) for pair in pairs)
        for pair, future in take_ahead(begun, workers):
            yield pair, future.result()
