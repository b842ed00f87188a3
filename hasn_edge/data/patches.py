"""Random training patches from shards: batch number n is a pure function of the seed and n."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from hasn_edge.config import Fraction
from hasn_edge.data.degrade import Degradation, degrade_patch
from hasn_edge.data.shards import Shards
from hasn_edge.errors import InputError, say
from hasn_edge.images.arrays import UInt8
from hasn_edge.queues import BoundedQueue

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to a patch and its LR alike, besides the eight orientations: few images give more variety.

    Bicubic reduction commutes with each of these up to rounding. Other orders of the colours and mixes of two
    patches are among those that Yoo et al. 2020 (arXiv 2004.00448) compare.
    """

    colors: Fraction = 0.0
    """Share of patches whose three channels come in an order drawn at random; degradation comes after it."""
    negative: Fraction = 0.0
    """Share of patches that are turned into their negatives."""
    blend: Fraction = 0.0
    """Share of patches that are mixed with another one, whose weight is 0 to 0.5."""

    def __bool__(self) -> bool:
        return max(self.colors, self.negative, self.blend) > 0


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's patches."""

    lr: UInt8
    """``(N, 3, P, P)`` RGB."""
    hr: UInt8
    """``(N, 3, scale P, scale P)`` RGB."""
    names: tuple[str, ...]
    """The image that each patch came from; not the one that it is mixed with."""


class PatchSource:
    """Draws patches uniformly over all positions of all images, each in one of its eight orientations.

    There is no sampler state: batch ``n`` depends on ``(seed, n)`` alone (Philox, a counter-based
    generator), so a resumed run sees exactly the patches that an uninterrupted one would have seen, and
    each of several processes takes its slice of the same global batch.
    """

    def __init__(
        self,
        shards: Sequence[Shards],
        *,
        seed: int,
        degradation: Degradation | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        """Join the images of ``shards``.

        Args:
            shards: Prepared folders.
            seed: Decides which patches are drawn, and what is done to them.
            degradation: What is done to LR patches; nothing by default.
            augmentation: What is done to patches and their LR; nothing by default.

        Raises:
            InputError: no shards, or folders of different scales.
        """
        if not shards:
            raise InputError("training needs at least one folder of prepared data")
        scales = {each.scale for each in shards}
        if len(scales) > 1:
            raise InputError(f"the prepared folders have different scales {sorted(scales)}; expected one")
        self.scale = scales.pop()
        self.seed = seed
        self._degradation = degradation if degradation is not None and degradation.share > 0 else None
        self._augmentation = augmentation or None
        self._images = [(each, index) for each in shards for index in range(len(each))]
        sizes = [(each.entries[i].height, each.entries[i].width) for each, i in self._images]
        self._heights, self._widths = np.array(sizes, np.int64).T

    def smallest_side(self) -> int:
        """Return the shortest side of any LR image, in pixels: the largest possible LR patch."""
        return int(min(self._heights.min(), self._widths.min()))

    def batch(self, number: int, size: int, patch: int, *, part: slice = slice(None)) -> Batch:
        """Return (the slice ``part`` of) batch ``number``.

        Args:
            number: Iteration, from 0.
            size: Patches in the whole batch.
            patch: Side of the LR patch in pixels.
            part: Which patches of the batch to cut out.

        Raises:
            InputError: an image is smaller than the patch.
        """
        if patch > self.smallest_side():
            raise InputError(
                f"an LR patch of {patch} pixels does not fit into an image of {self.smallest_side()}",
                say("prepare larger images"),
                say("use a smaller patch"),
            )
        places = self._places(self._random(0, 0, number), size, patch)
        picks = list(enumerate(places, 1))[part]
        side = patch * self.scale
        lr = np.empty((len(picks), 3, patch, patch), np.uint8)
        hr = np.empty((len(picks), 3, side, side), np.uint8)
        for n, (each, place) in enumerate(picks):
            noise = self._random(0, each, number) if self._degradation is not None else None
            if self._augmentation is None:
                lr[n], hr[n] = self._cut(place, patch, noise=noise)
            else:
                random = self._random(1, each, number)
                order = random.permutation(3) if random.random() < self._augmentation.colors else None
                pair = self._cut(place, patch, order=order, noise=noise)
                lr[n], hr[n] = self._augment(pair, patch, self._augmentation, random)
        names = tuple(self._images[i][0].entries[self._images[i][1]].name for _, (i, *_) in picks)
        return Batch(lr=lr, hr=hr, names=names)

    def _random(self, stream: int, each: int, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=self.seed, counter=[0, stream, each, number]))

    def _places(self, random: np.random.Generator, count: int, patch: int) -> list[list[int]]:
        """Return image, top, left and orientation of ``count`` patches."""
        # An image is as likely as it has patch positions, which makes every position equally likely.
        positions = ((self._heights - patch + 1) * (self._widths - patch + 1)).cumsum()
        images = np.searchsorted(positions, random.integers(positions[-1], size=count), side="right")
        tops = random.integers(self._heights[images] - patch + 1)
        lefts = random.integers(self._widths[images] - patch + 1)
        orientations = random.integers(8, size=count)
        places: list[list[int]] = np.stack([images, tops, lefts, orientations], axis=1).tolist()
        return places

    def _cut(
        self,
        place: list[int],
        patch: int,
        *,
        order: NDArray[np.int64] | None = None,
        noise: np.random.Generator | None = None,
    ) -> tuple[UInt8, UInt8]:
        """Return LR ``(3, P, P)``, degraded by ``noise``, and HR, their channels in ``order``."""
        image, top, left, orientation = place
        shards, index = self._images[image]
        lr = shards.lr(index)
        if noise is None or self._degradation is None:
            lr = lr[top : top + patch, left : left + patch]
        if order is not None:  # before the noise and the JPEG of a sensor's own colours
            lr = lr[..., order]
        if noise is not None and self._degradation is not None:
            lr = degrade_patch(lr, top, left, patch, self._degradation, noise)
        top, left, side = top * self.scale, left * self.scale, patch * self.scale
        hr = shards.hr(index)[top : top + side, left : left + side]
        return orient(lr, orientation), orient(hr if order is None else hr[..., order], orientation)

    def _augment(
        self,
        pair: tuple[UInt8, UInt8],
        patch: int,
        settings: Augmentation,
        random: np.random.Generator,
    ) -> tuple[UInt8, UInt8]:
        """Return LR and HR with the same changes; their channels are in order already."""
        negative, blended = random.random(2) < (settings.negative, settings.blend)
        lr, hr = pair
        if blended:
            (place,) = self._places(random, 1, patch)
            weight = np.float32(random.uniform(0, 0.5))
            lr, hr = (
                _mix(own, other, weight) for own, other in zip(pair, self._cut(place, patch), strict=True)
            )
        return (255 - lr, 255 - hr) if negative else (lr, hr)


def _mix(own: UInt8, other: UInt8, weight: np.float32) -> UInt8:
    mixed: UInt8 = np.rint(own + weight * (other.astype(np.float32) - own)).astype(np.uint8)
    return mixed


def orient(pixels: UInt8, orientation: int) -> UInt8:
    """Return a square ``(P, P, 3)`` flipped and transposed by the bits of 0 to 7: ``(3, P, P)``."""
    if orientation & 1:
        pixels = pixels[::-1]
    if orientation & 2:
        pixels = pixels[:, ::-1]
    axes = (2, 1, 0) if orientation & 4 else (2, 0, 1)
    turned: UInt8 = pixels.transpose(axes)
    return turned


class Prefetcher(Generic[T]):
    """Cuts the next batches out in a background thread while the network works on this one."""

    def __init__(self, batches: Iterator[T], *, depth: int = 4) -> None:
        self._ready: BoundedQueue[T] = BoundedQueue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fill, args=(batches,), name="patches", daemon=True)
        self._thread.start()

    def _fill(self, batches: Iterator[T]) -> None:
        try:
            for item in batches:
                if not self._ready.put(item):
                    return
        except BaseException as exc:
            self._error = exc
        finally:
            self._ready.finish()

    def __iter__(self) -> Iterator[T]:
        yield from self._ready
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._ready.close()
        self._thread.join()
