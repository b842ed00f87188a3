"""Makes the images under calibration/ from photographs of scikit-image, and those that are drawn.

Run it from anywhere with the extra [dev] installed: python calibration/make_patches.py
The same versions of scikit-image, Pillow and matplotlib (whose fonts are used) give the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from numpy.typing import NDArray
from skimage import data

from hasn_edge.data.resize import imresize
from hasn_edge.data.synthesize import draw
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


DRAWN_PATCHES = ("text", "strokes", "chart", "pattern") * 3
"""Kinds of the drawn calibration patches, by number."""

PATCH_FONTS = tuple(
    f"DejaVu{family}{style}.ttf"
    for family, slanted in (("Sans", "Oblique"), ("SansMono", "Oblique"), ("Serif", "Italic"))
    for style in ("-Bold", f"-Bold{slanted}", f"-{slanted}", "")
)
"""Fonts of the drawn calibration patches: other ones than the held-out images have."""

DRAWN = 192
"""Side of a drawn held-out image in pixels."""

DRAWN_FONTS = (
    "STIXGeneral.ttf", "STIXGeneralBol.ttf", "STIXGeneralItalic.ttf", "STIXGeneralBolIta.ttf",
    "cmss10.ttf", "cmtt10.ttf",
)  # fmt: skip
"""Fonts of the drawn held-out images. `data synthesize` takes none of them, so no network learnt them."""

DRAWN_IMAGES = (
    ("text", 0, 777), ("text", 1, 777), ("text", 2, 777), ("strokes", 4, 777), ("chart", 5, 20261129),
    ("chart", 6, 777), ("pattern", 7, 20261129), ("pattern", 8, 777), ("halftone", 9, 20261129),
    ("page", 10, 777),
)  # fmt: skip
"""(kind, number, seed) of each: black on white and white on black, where INT8 loses the most, and colours."""


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


def make_drawn_patches(folder: Path) -> list[str]:
    """Write the drawn calibration patches; return the lines of their source list."""
    lines = []
    for number, kind in enumerate(DRAWN_PATCHES):
        pixels = draw(kind, number, seed=5, side=4 * PATCH, fonts=fonts(PATCH_FONTS))
        write_image(folder / f"drawn-{kind}-{number}.png", imresize(pixels, scale=1 / 4))
        lines.append(drawn_line(f"drawn-{kind}-{number}.png", kind, number, 5))
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


def make_drawn(folder: Path) -> list[str]:
    """Write the drawn held-out images; return the lines of their source list. LR is made when it is read."""
    lines = []
    for kind, number, seed in DRAWN_IMAGES:
        file = f"{kind}-{number}.png"
        write_image(folder / "HR" / file, draw(kind, number, seed=seed, side=DRAWN, fonts=fonts(DRAWN_FONTS)))
        lines.append(drawn_line(file, kind, number, seed))
    return lines


def fonts(names: tuple[str, ...]) -> list[Path]:
    """Return the files of fonts that matplotlib carries."""
    return [Path(get_data_path(), "fonts", "ttf", name) for name in names]


def drawn_line(file: str, kind: str, number: int, seed: int) -> str:
    """Return one line of a source list for a drawn image."""
    made = f"hasn_edge.data.synthesize {kind}\tnumber {number}, seed {seed}"
    return f"{file}\t{made}\thasn-edge\tMIT"


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
    head = (
        "# file, photograph bundled with scikit-image or drawn by, crop (left, top) or seed, author, licence"
    )
    for folder, *makers in (
        ("patches", make_patches, make_drawn_patches),
        ("heldout", make_held_out),
        ("heldout-drawn", make_drawn),
    ):
        lines = [line for make in makers for line in make(output / folder)]
        (output / folder / "SOURCES.txt").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
