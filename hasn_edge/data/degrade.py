"""Blur, sensor noise and JPEG on low-resolution images: what photographs and cameras deliver.

A network that was trained on bicubic LR alone takes the noise and the blocks of a file for detail and
sharpens them. The order is the one in which a camera does it: the lens blurs, the sensor adds noise, the
encoder compresses. It and the kinds are those of the first stage of Real-ESRGAN (Wang et al. 2021,
arXiv 2107.10833), without a second stage and without other ways of resizing; noise depends on brightness as
Foi et al. 2008 ("Practical Poissonian-Gaussian noise modeling") found for sensors. Ranges are sizes that an
LR pixel sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated

import numpy as np
from msgspec import Meta

from hasn_edge.config import Fraction
from hasn_edge.data.pairs import load_eval_set
from hasn_edge.errors import ConfigError, InputError
from hasn_edge.files import writing_folder
from hasn_edge.images.arrays import Float32, UInt8
from hasn_edge.images.codec import write_image
from hasn_edge.optional import require
from hasn_edge.progress import Progress, Step, ignore

JPEG_BLOCK = 8
"""Side of the blocks that JPEG compresses on their own, in pixels."""
_SUBSAMPLED = 0.75
"""Share of JPEGs whose colour has half the resolution (4:2:0), as cameras and browsers write it."""

Quality = Annotated[int, Meta(ge=1, le=100)]
Levels = Annotated[float, Meta(ge=0, le=255)]
Sigma = Annotated[float, Meta(ge=0, le=20)]
"""More is no lens, and takes the longer the more."""


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """What is done to LR, each step with a strength drawn anew, uniformly between two bounds."""

    share: Fraction = 0.0
    """Probability of each of the three steps, independent of the others; 0 leaves LR as it is."""
    blur: tuple[Sigma, Sigma] = (0.0, 1.0)
    """Standard deviation of a Gaussian in LR pixels."""
    read_noise: tuple[Levels, Levels] = (0.0, 4.0)
    """Standard deviation of the noise that does not depend on brightness, in levels of 255."""
    shot_noise: tuple[Levels, Levels] = (0.0, 10.0)
    """Standard deviation at full brightness of the noise whose variance grows with brightness, in levels."""
    gray_noise: Fraction = 0.4
    """Share of images whose noise is the same in all three colours."""
    jpeg: tuple[Quality, Quality] = (40, 95)
    """Quality as libjpeg counts it."""

    def __post_init__(self) -> None:
        for name in ("blur", "read_noise", "shot_noise", "jpeg"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(f"degradation.{name} is {[low, high]}; expected the smaller bound first")


def degrade(pixels: UInt8, settings: Degradation, random: np.random.Generator) -> UInt8:
    """Return a degraded copy of an LR image.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB. JPEG's blocks begin at its upper left corner.
        settings: Which steps, and how strong.
        random: Decides everything; the same state gives the same pixels with the same versions of the
            libraries.

    Returns:
        ``(H, W, 3)`` uint8 RGB.
    """
    blurred, noisy, compressed = random.random(3) < settings.share
    sigma, read, shot = (
        random.uniform(*bounds) for bounds in (settings.blur, settings.read_noise, settings.shot_noise)
    )
    gray = random.random() < settings.gray_noise
    low, high = settings.jpeg
    quality, subsampled = int(random.integers(low, high + 1)), random.random() < _SUBSAMPLED
    x = pixels.astype(np.float32)
    if blurred and sigma > 0:
        x = _blur(x, sigma)
    if noisy:
        normal = random.standard_normal((*x.shape[:2], 1 if gray else 3), dtype=np.float32)
        x = x + normal * np.sqrt(read**2 + shot**2 / 255 * x)
    degraded = np.rint(x).clip(0, 255).astype(np.uint8)
    return _through_jpeg(degraded, quality, subsampled=subsampled) if compressed else degraded


def _blur(x_HWC: Float32, sigma: float) -> Float32:
    cv2 = _cv2()
    side = 2 * round(4 * sigma) + 1  # four standard deviations each way
    blurred: Float32 = cv2.GaussianBlur(x_HWC, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101)
    return blurred


def _through_jpeg(pixels: UInt8, quality: int, *, subsampled: bool) -> UInt8:
    cv2 = _cv2()
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if subsampled else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    done, file = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), settings)
    assert done  # any three-channel array of 8 bits is a JPEG
    return np.ascontiguousarray(cv2.imdecode(file, cv2.IMREAD_COLOR)[..., ::-1])


def _cv2() -> ModuleType:
    return require("cv2", extra="all", needed_for="Degrading images")


def degrade_patch(
    image: UInt8, top: int, left: int, side: int, settings: Degradation, random: np.random.Generator
) -> UInt8:
    """Degrade a patch as it would be in an image that is degraded as a whole: with what lies around it.

    Args:
        image: LR, ``(H, W, 3)`` uint8 RGB.
        top: First row of the patch.
        left: First column of the patch.
        side: Height and width of the patch in pixels.
        settings: Which steps, and how strong.
        random: Also decides where the patch lies among JPEG's blocks.

    Returns:
        ``(side, side, 3)`` uint8 RGB.
    """
    above, before = (JPEG_BLOCK + random.integers(JPEG_BLOCK, size=2)).tolist()
    first_row, first_column = max(0, top - above), max(0, left - before)
    window = image[first_row : top + side + JPEG_BLOCK, first_column : left + side + JPEG_BLOCK]
    row, column = top - first_row, left - first_column
    return degrade(window, settings, random)[row : row + side, column : column + side]


def degrade_set(
    source: str | Path,
    output: Path,
    settings: Degradation,
    *,
    scale: int,
    seed: int = 0,
    progress: Progress = ignore,
) -> Sequence[str]:
    """Write a set to measure on whose LR is degraded: ``HR`` and ``LRx4`` (or ``x2``, ...) as PNG files.

    Args:
        source: ``"NAME=DIR"`` or a folder; see :func:`hasn_edge.data.pairs.load_eval_set`.
        output: A folder that is new or empty.
        settings: Which steps, and how strong.
        scale: Upscaling factor.
        seed: Decides everything random, together with the number of the image in the order of names.
        progress: Receives each image that begins.

    Returns:
        The names of the images.

    Raises:
        InputError: ``source`` is no set, or ``settings`` change nothing.
        OutputError: ``output`` holds something or cannot be written; it is written whole or not at all.
    """
    if settings.share == 0:
        raise InputError(
            "degradation.share is 0, so LR would stay as it is; expected a recipe with [degradation]"
        )
    pairs = load_eval_set(source, scale)
    with writing_folder(output) as staging:
        for number, pair in enumerate(pairs):
            progress(Step(f"degrading {pair.name}", number, len(pairs)))
            random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, number]))
            write_image(staging / f"LRx{scale}" / f"{pair.name}.png", degrade(pair.lr(), settings, random))
            write_image(staging / "HR" / f"{pair.name}.png", pair.hr())
    return tuple(pair.name for pair in pairs)
