"""Makes the images under calibration/patches and calibration/heldout from photographs of scikit-image.

Run it from anywhere with the extra [dev] installed: python calibration/make_patches.py
The same version of scikit-image gives the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage import data

from hasn_edge.data.resize import imresize
from hasn_edge.images.arrays import luma
from hasn_edge.images.codec import write_image

Image = NDArray[np.uint8]

PATCH = 64
"""Side of a calibration patch in pixels; it is what a network sees, so it is low resolution already."""

HELD_OUT = 240
"""Side of a held-out image in pixels: a multiple of 2, 3 and 4, the scales that networks have."""

PUBLIC_DOMAIN = "public domain"
CC0 = "CC0 1.0"

PHOTOGRAPHS: dict[str, tuple[Callable[[], NDArray[np.uint8]], str, str]] = {
    "astronaut": (data.astronaut, "NASA, portrait of Eileen Collins (flic.kr/p/r9qvLn)", PUBLIC_DOMAIN),
    "brick": (data.brick, "CC0Textures (ambientCG), Bricks25", CC0),
    "camera": (data.camera, "Lav Varshney", CC0),
    "chelsea": (data.chelsea, "Stefan van der Walt", CC0),
    "coffee": (data.coffee, "Rachel Michetti, courtesy of Pikolo Espresso Bar", CC0),
    "grass": (data.grass, "linolafett, Grass 01 (DeviantArt 434853879)", CC0),
    "gravel": (data.gravel, "CC0Textures (ambientCG), Gravel04", CC0),
    "hubble": (data.hubble_deep_field, "NASA, Hubble eXtreme Deep Field (HubbleSite 2012-37)", PUBLIC_DOMAIN),
    "retina": (data.retina, "Mikael Häggström, Fundus photograph of normal left eye", CC0),
    "rocket": (data.rocket, "SpaceX, launch of DSCOVR (Flickr 16511594820)", PUBLIC_DOMAIN),
}
"""Name: (loader of the photograph bundled with scikit-image, who made it, licence)."""

PATCHES = (
    ("astronaut", 2, 9),
    ("astronaut", 4, 4),
    ("chelsea", 2, 6),
    ("hubble", 2, 3),
    ("hubble", 4, 2),
    ("retina", 4, 4),
    ("grass", 2, 2),
    ("brick", 2, 2),
)
"""(photograph, reduction by MATLAB's bicubic, number of patches)."""

HELD_OUT_CROPS = (
    ("coffee", ((20, 150), (150, 20), (150, 330))),
    ("rocket", ((0, 400), (180, 20))),
    ("camera", ((60, 140), (20, 260))),
    ("gravel", ((100, 100),)),
)
"""(photograph, (top, left) of each crop); none of these photographs has a calibration patch."""


def photograph(name: str) -> Image:
    """Return a photograph as ``(H, W, 3)`` uint8; a grayscale one has three equal channels."""
    pixels = PHOTOGRAPHS[name][0]()
    return np.ascontiguousarray(np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels)


def spread_crops(pixels: Image, count: int) -> list[tuple[int, int]]:
    """Return (top, left) of ``count`` tiles, spread evenly from the flattest tile to the busiest."""
    luminance = luma(pixels)
    tiles = [
        (top, left)
        for top in range(0, pixels.shape[0] - PATCH + 1, PATCH)
        for left in range(0, pixels.shape[1] - PATCH + 1, PATCH)
    ]
    tiles.sort(key=lambda tile: float(luminance[tile[0] : tile[0] + PATCH, tile[1] : tile[1] + PATCH].std()))
    # The flattest tiles are often plain black: half a step in from either end.
    chosen = [tiles[int((i + 0.5) * len(tiles) / count)] for i in range(count)]
    return sorted(chosen)


def make_patches(folder: Path) -> list[str]:
    """Write the calibration patches; return the lines of their source list."""
    lines = []
    for name, reduction, count in PATCHES:
        small = imresize(photograph(name), scale=1 / reduction)
        for number, (top, left) in enumerate(spread_crops(small, count)):
            file = f"{name}-x{reduction}-{number}.png"
            write_image(folder / file, small[top : top + PATCH, left : left + PATCH])
            lines.append(
                source_line(file, name, f"reduced {reduction} times, {PATCH}x{PATCH} at ({left}, {top})")
            )
    return lines


def make_held_out(folder: Path) -> list[str]:
    """Write the held-out images, HR and x4 LR; return the lines of their source list."""
    lines = []
    for name, crops in HELD_OUT_CROPS:
        pixels = photograph(name)
        for number, (top, left) in enumerate(crops):
            file = f"{name}-{number}.png"
            hr = pixels[top : top + HELD_OUT, left : left + HELD_OUT]
            assert hr.shape == (HELD_OUT, HELD_OUT, 3), (name, hr.shape)
            write_image(folder / "HR" / file, hr)
            write_image(folder / "LRbicx4" / file, imresize(hr, scale=1 / 4))
            lines.append(source_line(file, name, f"{HELD_OUT}x{HELD_OUT} at ({left}, {top})"))
    return lines


def source_line(file: str, name: str, crop: str) -> str:
    """Return one line of a source list: file, photograph, crop, author, licence."""
    _, author, licence = PHOTOGRAPHS[name]
    return f"{file}\tskimage.data {name}\t{crop}\t{author}\t{licence}"


def main() -> None:
    """Write both folders beside this file, or under ``--output``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    output = parser.parse_args().output
    head = "# file, photograph bundled with scikit-image, crop (left, top), author, licence"
    for folder, make in (("patches", make_patches), ("heldout", make_held_out)):
        lines = make(output / folder)
        (output / folder / "SOURCES.txt").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
