"""Images in, larger images out, over any session; any size, in tiles where memory asks for it."""

from __future__ import annotations

import logging
import numbers
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hasn_edge.data.resize import imresize
from hasn_edge.errors import InputError, OutOfMemoryError, ShapeError, UnsupportedError, say
from hasn_edge.files import Closeable
from hasn_edge.images.arrays import (
    Float32,
    Pixels,
    bleed_colours,
    check_pixels,
    enlarge_window,
    from_tensor,
    middle_window,
    split_alpha,
    to_rgb,
    to_tensor,
    visible_window,
)
from hasn_edge.images.metrics import psnr
from hasn_edge.runtime.memory import default_limit_bytes, largest_frame
from hasn_edge.runtime.session import Session
from hasn_edge.runtime.tiling import Size, TileGrid, even_side, tile_for, weights

logger = logging.getLogger(__name__)


DEFAULT_OVERLAP = 16
"""Pixels that neighbouring tiles share.

With the published network on photographs, without overlap the difference from the whole frame jumps by
1.6 to 6 grey levels at a seam, with 4 pixels by 0.1 to 0.6, with 16 by 0.02 to 0.24, about as much as between
any two pixels. More gains up to 2 dB: what remains is that every tile has its own channel attention."""


_MARGIN = 16
"""Transparent pixels that are computed around what is visible: its border is not the network's."""
Reason = Literal["asked", "memory", "static size", "engine size"]

_NO_LARGER = (
    "this file takes no larger size than that of its tiles; a file of any size computes the whole frame: "
    "leave out the artifact, or build "
)
NO_WHOLE_FRAME: Mapping[Reason, str] = {
    "static size": f"{_NO_LARGER}without a size",
    "engine size": f"{_NO_LARGER}for larger sizes",
}
"""Why drift is not measured where the session's sizes are the reason for tiles, and what helps."""


@dataclass(frozen=True, kw_only=True)
class UpscaleReport:
    """How one image was upscaled."""

    size: Size
    """Height and width of the input."""
    padded: tuple[int, int]
    """Rows and columns of edge pixels added, and cropped from the result, because the network needs them."""
    tiles: int
    """How many tiles were computed; 1 is the whole frame, the exact result."""
    tile: Size
    """Height and width of what the session was given."""
    overlap: int
    reason: Reason | None
    """Why there are tiles; ``None`` where there are none."""


@dataclass(frozen=True, kw_only=True)
class TileDrift:
    """How far a tiled result is from that of the whole frame, on a region of the image."""

    psnr_db: float | None
    """PSNR between both results, clipped to [0, 1]; infinite where equal, ``None`` if not measured."""
    region: Size | None = None
    """Height and width of the region, the largest middle of the image that fits in memory."""
    tile: Size | None = None
    """The tiles used in it. Smaller than the image's own where one of those fills the memory."""
    reason: str | None = None
    """Why it was not measured."""

    def __str__(self) -> str:
        if self.psnr_db is None:
            return f"not measured ({self.reason})"
        return f"{self.psnr_db:.1f} dB (middle {self.region} in tiles of {self.tile})"


class Upscaler(Closeable):
    """Upscales images with a session.

    Threads may share it and wait for each other, as a session is not thread-safe; :attr:`last_report` is then
    of any thread's image.

    A frame is computed whole while memory suffices, because HASN is not tile-equivariant: its channel
    attention averages over the frame and ESA's grid depends on the frame's size. Tiles are blended linearly
    over their overlap, which on photographs is up to 1 dB nearer to the whole frame than cutting in its
    middle, with a third of the jump at the seams. Networks without ESA and CAB are cut, which is exact once
    the overlap is twice their receptive radius.

    Args:
        session: Any session; the upscaler closes it when it is closed or used as a context manager.
        tile: Side in pixels of square tiles; ``None`` for whole frames while memory suffices.
        overlap: Pixels that neighbouring tiles share at least.
        memory_limit_bytes: What one call may take, its result included; ``None`` for
            :func:`~hasn_edge.runtime.memory.default_limit_bytes`.
        self_ensemble: Average the network's output over the eight flips and rotations, in float before
            rounding: eight times the time.

    Raises:
        InputError: a tile below the network's minimum or not larger than the overlap.
        UnsupportedError: self-ensemble with a static size that is not square, or a file for larger batches.
    """

    def __init__(
        self,
        session: Session,
        *,
        tile: int | None = None,
        overlap: int = DEFAULT_OVERLAP,
        memory_limit_bytes: int | None = None,
        self_ensemble: bool = False,
    ) -> None:
        if not isinstance(session, Session):
            raise InputError(
                f"Upscaler takes a session, got {type(session).__name__}",
                say("open one: hasn_edge.open_model(NAME) or hasn_edge.open_session(FILE)"),
            )
        for name, value in (("tile", tile), ("overlap", overlap), ("memory_limit_bytes", memory_limit_bytes)):
            kind = numbers.Real if name == "memory_limit_bytes" else numbers.Integral  # 4e9 bytes
            whole = isinstance(value, kind) and not isinstance(value, bool)
            if not whole and not (value is None and name != "overlap"):
                raise InputError(f"{name} is {value!r}; expected an integer")
        if not isinstance(self_ensemble, bool):
            raise InputError(f"self_ensemble is {self_ensemble!r}; expected True or False")
        self.session = session
        self.tile = None if tile is None else int(tile)
        self.overlap = int(overlap)
        self.memory_limit_bytes = memory_limit_bytes
        self.self_ensemble = self_ensemble
        self._lock = threading.RLock()
        self._most_pixels: int | None = None  # of a tile, after memory did not suffice
        self.last_report: UpscaleReport | None = None
        """How the last image was upscaled."""
        self._check_options()
        self._forward = ensemble(session.run) if self_ensemble else session.run

    def __repr__(self) -> str:
        tiles = "whole frames" if self.tile is None else f"tiles of {self.tile}"
        return f"<Upscaler x{self.session.spec.scale} in {tiles} with {self.session!r}>"

    def __call__(self, pixels: Pixels) -> Pixels:
        """Upscale an image; see :meth:`upscale`."""
        return self.upscale(pixels)

    def upscale(self, pixels: Pixels) -> Pixels:
        """Upscale an image of any size.

        Gray is computed as RGB of three equal channels, whose mean it becomes again. Alpha is
        resized on its own, bicubically. What is wholly transparent is not computed, its colours
        do not reach the network, and far from what is visible they become black. A session of 8-bit pixels
        rounds the colours of uint16 and float32 to 8 bits.

        Args:
            pixels: ``(H, W)`` or ``(H, W, C)`` of uint8 or uint16; C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB
                and alpha. Or float32 in [0, 1], without alpha; other floating types are computed as float32.
                From 1 x 1 pixel. Any strides; it is never written to.

        Returns:
            ``(H * scale, W * scale)`` or ``(H * scale, W * scale, C)`` of the same dtype; float32 is clipped
            to [0, 1] and not rounded.

        Raises:
            ShapeError: not such an array.
            InputError: memory does not suffice, or the network's output is not finite.
        """
        if isinstance(pixels, np.ndarray) and pixels.ndim == 2:
            flat: Pixels = self.upscale(pixels[:, :, None])[:, :, 0]
            return flat
        with self._lock, _refusing_too_large(pixels):
            return self._upscale(pixels)

    def _upscale(self, pixels: Pixels) -> Pixels:
        if isinstance(pixels, np.ndarray) and np.issubdtype(pixels.dtype, np.floating):
            unrounded: Pixels = self._upscale_floats(pixels)
            return unrounded
        check_pixels(pixels)
        colour, alpha = split_alpha(pixels)
        scale = self.session.spec.scale
        height, width, channels = pixels.shape[0] * scale, pixels.shape[1] * scale, colour.shape[2]
        out = np.zeros((height, width, pixels.shape[2]), pixels.dtype)
        inside = out[:, :, :channels]
        if alpha is not None:
            out[:, :, channels:] = imresize(alpha, size=(height, width))
            window = visible_window(alpha, _MARGIN)
            colour = bleed_colours(colour[window], alpha[window])
            inside = inside[enlarge_window(window, scale)]
        if not colour.size:
            self.last_report = None
            return out
        for top, band_NCHW in self._bands(to_tensor(to_rgb(colour)), out.nbytes):
            y_NCHW = band_NCHW.mean(axis=1, keepdims=True) if channels == 1 else band_NCHW
            inside[top : top + y_NCHW.shape[2]] = from_tensor(y_NCHW, pixels.dtype)
        return out

    def _upscale_floats(self, pixels: Float32) -> Any:
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or pixels.size == 0:
            raise ShapeError(
                f"expected a float32 image (H, W, C) with 1 or 3 channels, got shape {pixels.shape}",
                say("give transparent images as uint8 or uint16"),
            )
        planes = pixels.astype(np.float32, copy=False).transpose(2, 0, 1)[None]
        y_NCHW = self.run(np.ascontiguousarray(planes if pixels.shape[2] == 3 else planes.repeat(3, axis=1)))
        if not np.isfinite(y_NCHW).all():
            raise InputError("the network's output has values that are not numbers (NaN or infinity)")
        y_NCHW = y_NCHW if pixels.shape[2] == 3 else y_NCHW.mean(axis=1, keepdims=True)
        return np.ascontiguousarray(np.clip(y_NCHW, 0, 1)[0].transpose(1, 2, 0))

    def run(self, x_NCHW: Float32) -> Float32:
        """Upscale a tensor of any size.

        Args:
            x_NCHW: ``(N, C, H, W)`` float32, RGB in [0, 1], from 1 x 1 pixel.

        Returns:
            ``(N, C, H * scale, W * scale)`` float32, not clamped.

        Raises:
            ShapeError: another rank, dtype or number of channels.
            InputError: values that are not finite or far outside [0, 1], or memory that does not suffice.
        """
        self.session.check_input(x_NCHW)
        with self._lock, _refusing_too_large(x_NCHW.transpose(2, 3, 0, 1)):
            return self._join(x_NCHW)

    def _join(self, x_NCHW: Float32) -> Float32:
        count, channels, height, width = self.session.spec.output_shape(x_NCHW.shape)
        out: Float32 | None = None
        for top, band_NCHW in self._bands(x_NCHW, 4 * count * channels * height * width):
            if band_NCHW.shape[2] == height:
                return np.ascontiguousarray(band_NCHW)
            if out is None:
                out = np.empty((count, channels, height, width), np.float32)
            out[:, :, top : top + band_NCHW.shape[2]] = band_NCHW
        assert out is not None
        return out

    def tile_drift(self, pixels: Pixels) -> TileDrift:
        """Measure how far the tiled result of an image is from that of the whole frame.

        Computes the largest region in the image's middle that fits in memory twice: whole and in tiles.

        Args:
            pixels: An image as for :meth:`upscale`, of uint8 or uint16.
        """
        flat = isinstance(pixels, np.ndarray) and pixels.ndim == 2
        colour, _ = split_alpha(pixels[:, :, None] if flat else pixels)
        padding = self._padding(*colour.shape[:2])
        if any(padding):
            colour = np.pad(colour, ((0, padding[0]), (0, padding[1]), (0, 0)), mode="edge")
        frame, (smallest, largest) = Size(*colour.shape[:2]), self._limits()
        taken_bytes = pixels.nbytes * self.session.spec.scale**2
        plan, reason = self._plan(frame, taken_bytes, 1)
        if reason is None:
            return TileDrift(psnr_db=None, reason="the frame is computed whole")
        if reason in NO_WHOLE_FRAME:
            return TileDrift(psnr_db=None, reason=NO_WHOLE_FRAME[reason])
        region = self._tile_that_fits(frame, taken_bytes, 1)
        if largest is not None:
            region = self._whole(Size(*map(min, region, largest)))
        tile = Size(min(plan.tile.height, region.height), min(plan.tile.width, region.width))
        if tile == region:
            halves = self._raise((side + self.overlap + 1) // 2 for side in region)
            tile = Size(*map(min, map(max, halves, smallest), region))
        x_NCHW = to_tensor(to_rgb(np.ascontiguousarray(colour[middle_window(frame, region)])))
        parts = TileGrid(frame=region, tile=tile, overlap=self.overlap)
        if parts.tiles == 1:
            return TileDrift(psnr_db=None, reason=f"{region} pixels fit at a time, and no smaller tiles do")
        try:
            with self._lock:
                tiled = np.concatenate([band.copy() for _, band in self._tiles(x_NCHW, parts)], axis=2)
                whole = self._forward(x_NCHW)
        except (OutOfMemoryError, MemoryError):  # tiles may have been asked for because of that
            return TileDrift(psnr_db=None, reason=f"memory does not suffice for {region} pixels")
        db = psnr(np.clip(whole, 0, 1), np.clip(tiled, 0, 1), data_range=1.0)
        return TileDrift(psnr_db=db, region=region, tile=tile)

    def close(self) -> None:
        """Close the session, once no other thread uses it. Safe to call twice."""
        with self._lock:
            self.session.close()

    def _bands(self, x_NCHW: Float32, result_bytes: int) -> Iterator[tuple[int, Float32]]:
        """Yield the result in bands of whole rows, each with its first row; report how it was done.

        Where memory does not suffice, it begins again from the first row with smaller tiles.
        """
        count, _, height, width = x_NCHW.shape
        scale, padding = self.session.spec.scale, self._padding(height, width)
        if any(padding):
            x_NCHW = np.pad(x_NCHW, ((0, 0), (0, 0), (0, padding[0]), (0, padding[1])), mode="edge")
        self._most_pixels = None
        plan, reason = self._plan(Size(*x_NCHW.shape[2:]), result_bytes + x_NCHW.nbytes, count)
        while True:
            self.last_report = UpscaleReport(
                size=Size(height, width),
                padded=padding,
                tiles=plan.tiles,
                tile=plan.tile,
                overlap=plan.overlap,
                reason=reason,
            )
            try:
                for top, band_NCHW in self._tiles(x_NCHW, plan):
                    yield top, band_NCHW[:, :, : max(0, height * scale - top), : width * scale]
                return
            except (OutOfMemoryError, MemoryError):
                # What was estimated is not what is there: another program may have taken it meanwhile.
                self._most_pixels = plan.tile.height * plan.tile.width // 4
                smaller, reason = self._plan(plan.frame, result_bytes + x_NCHW.nbytes, count)
                if smaller.tile == plan.tile:
                    raise
                logger.warning(
                    "memory did not suffice for %s pixels; trying again with %s", plan.tile, smaller.tile
                )
                plan = smaller

    def _tiles(self, x_NCHW: Float32, plan: TileGrid) -> Iterator[tuple[int, Float32]]:
        """Compute the tiles; yield each band of output rows as soon as no later tile adds to it.

        A band is valid until the next one is asked for: its memory is used again.
        """
        if plan.tiles == 1:
            yield 0, self._forward(x_NCHW)
            return
        scale = self.session.spec.scale
        (height, width), rows, columns = plan.tile, plan.rows, plan.columns
        blend = not self.session.spec.tile_equivariant
        down = weights(rows, height, scale=scale, blend=blend)
        across = weights(columns, width, scale=scale, blend=blend)
        shape = self.session.spec.output_shape(x_NCHW.shape)
        band = np.zeros((*shape[:2], height * scale, shape[3]), np.float32)
        for row, top in enumerate(rows):
            for column, left in enumerate(columns):
                y = self._forward(x_NCHW[:, :, top : top + height, left : left + width])
                y *= down[row][:, None] * across[column]
                band[:, :, :, left * scale : (left + width) * scale] += y
            done = ((rows[row + 1] if row + 1 < len(rows) else plan.frame.height) - top) * scale
            yield top * scale, band[:, :, :done]
            kept = height * scale - done
            band[:, :, :kept] = band[:, :, done:]
            band[:, :, kept:] = 0

    def _plan(self, frame: Size, taken_bytes: int, count: int) -> tuple[TileGrid, Reason | None]:
        """Return the tiles of a frame that is already padded, and why there are any.

        Args:
            frame: What is to be covered.
            taken_bytes: What the input and the result take from the limit.
            count: Images in the batch.
        """
        reason: Reason
        if self.session.size is not None:
            tile, reason = Size(*self.session.size), "static size"
        elif self.tile is not None:
            tile = self._whole(Size(min(frame.height, self.tile), min(frame.width, self.tile)))
            reason = "asked"
        else:
            tile, reason = self._tile_that_fits(frame, taken_bytes, count), "memory"
        smallest, largest = self._limits()
        if largest is not None and (tile.height > largest[0] or tile.width > largest[1]):
            bounds = zip(tile, frame, smallest, self._whole(Size(*largest)), strict=True)
            tile = self._raise(even_side(*side, overlap=self.overlap) for side in bounds)
            reason = "engine size"
        plan = TileGrid(frame=frame, tile=tile, overlap=self.overlap)
        return plan, reason if plan.tiles > 1 else None

    def _tile_that_fits(self, frame: Size, taken_bytes: int, count: int) -> Size:
        limit = default_limit_bytes() if self.memory_limit_bytes is None else self.memory_limit_bytes
        spec = self.session.spec
        for _ in range(2):
            pixels = largest_frame(self.session, max(0, limit - taken_bytes)) // count
            pixels = pixels if self._most_pixels is None else min(pixels, self._most_pixels)
            tile = tile_for(frame, pixels, overlap=self.overlap, minimum=max(self._limits()[0]))
            if tile == frame:
                break
            # The band in which a row of tiles is joined needs memory too, less for smaller tiles.
            taken_bytes += 4 * count * spec.channels * spec.scale**2 * tile.height * frame.width
        return self._whole(tile)

    def _whole(self, tile: Size) -> Size:
        """Return ``tile`` with sides that the network's multiple divides; frames are padded to such ones."""
        rule = self.session.spec.size
        height, width = (max(rule.minimum, side // rule.multiple * rule.multiple) for side in tile)
        return Size(height, width)

    def _raise(self, sides: Iterable[int]) -> Size:
        """Return such sides that are at least ``sides``: what is larger than the overlap stays so."""
        step = self.session.spec.size.multiple
        return Size(*(-(-side // step) * step for side in sides))

    def _padding(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns that a frame lacks of what the session takes."""
        rows, columns = self._raise(map(max, self._limits()[0], (height, width)))
        return rows - height, columns - width

    def _limits(self) -> tuple[tuple[int, int], tuple[int, int] | None]:
        """Return the smallest and the largest (height, width) that the session is given."""
        smallest, largest = self.session.smallest, self.session.largest
        if not self.self_ensemble:
            return smallest, largest
        # It also lays the image on its side.
        square = min(largest) if largest is not None else 0
        return (max(smallest), max(smallest)), (square, square) if square else None

    def _check_options(self) -> None:
        size, batch = self.session.size, self.session.batch
        smallest, largest = self._limits()
        minimum = max(smallest) if size is None else self.session.spec.size.minimum
        if batch not in (None, 1):
            raise UnsupportedError(
                f"this file takes {batch} images at a time, Upscaler gives it one",
                say("export it with batch 1"),
            )
        if self.tile is not None and self.tile < minimum:
            raise InputError(
                f"tiles of {self.tile} pixels are too small: this network needs at least {minimum}"
            )
        sides = [*(largest or ()), *((self.tile,) if self.tile is not None and size is None else ())]
        step = self.session.spec.size.multiple
        side = min(sides) // step * step if sides else None  # as tiles are made
        if self.overlap < 0 or (side is not None and self.overlap >= side):
            because = f", as this network takes multiples of {step}" if step > 1 else ""
            raise InputError(
                f"an overlap of {self.overlap} pixels does not go with tiles of {side}{because}",
                say(f"choose 0 to {(side or 1) - 1}"),
            )
        if self.self_ensemble and size is not None and size[0] != size[1]:
            raise UnsupportedError(
                f"self-ensemble lays the image on its side, and this file takes only {Size(*size)}",
                say("export it with dynamic sizes"),
            )


@contextmanager
def _refusing_too_large(pixels: Any) -> Iterator[None]:
    """Turn Python's own error for memory into ours; ``pixels`` are ``(H, W, ...)``."""
    try:
        yield
    except MemoryError as exc:
        height, width = pixels.shape[:2]
        raise OutOfMemoryError(
            f"memory does not suffice for the result of {width} x {height} pixels ({exc or 'out of memory'})",
            say("give it parts of the image"),
        ) from exc


def ensemble(run: Callable[[Float32], Float32]) -> Callable[[Float32], Float32]:
    """Return a function that averages ``run`` over the eight flips and rotations of its input.

    Each result is turned back first; the mean is taken in float32, before any rounding. Eight times
    the work; ``run`` must accept the image on its side as well.
    """

    def averaged(x_NCHW: Float32) -> Float32:
        total: Float32 | None = None
        for flip in (False, True):
            for quarters in range(4):
                x = np.rot90(x_NCHW[..., ::-1] if flip else x_NCHW, quarters, axes=(2, 3))
                y = np.rot90(run(np.ascontiguousarray(x)), -quarters, axes=(2, 3))
                y = y[..., ::-1] if flip else y
                total = y.astype(np.float32) if total is None else np.add(total, y, out=total)
        assert total is not None
        total /= 8
        return np.ascontiguousarray(total)

    return averaged
