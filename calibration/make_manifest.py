"""Makes the fixed list of DIV2K patches under calibration/manifests; needs no images.

Run it from anywhere: python calibration/make_manifest.py
"""

from __future__ import annotations

import random
from pathlib import Path

IMAGES = 800
"""DIV2K's training images are called 0001x4.png to 0800x4.png."""

FOLDER = "DIV2K_train_LR_bicubic/X4"
CROPS = 128
SIDE = 64
SEED = 2024

HEAD = f"""\
# {CROPS} patches of DIV2K's x4 training images: path, left, top, side (pixels).
# Percentages are of the room that the patch has to move in, so every line fits images of any size.
# Made by calibration/make_manifest.py with seed {SEED}.
"""


def main() -> None:
    """Write the manifest beside this file."""
    rng = random.Random(SEED)
    lines = [
        f"{FOLDER}/{number:04d}x4.png {rng.randrange(1001) / 10}% {rng.randrange(1001) / 10}% {SIDE}"
        for number in sorted(rng.sample(range(1, IMAGES + 1), CROPS))
    ]
    manifest = Path(__file__).parent / "manifests" / "div2k-x4.txt"
    manifest.parent.mkdir(exist_ok=True)
    manifest.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
