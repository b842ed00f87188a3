"""Images to measure INT8 ranges on: the patches that ship, a folder, or a manifest of crops."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hasn_edge.data.layouts import HR, LR, read_name
from hasn_edge.errors import InputError, counted, use
from hasn_edge.files import shipped_path
from hasn_edge.images.arrays import Float32, Pixels, luma, to_rgb, to_tensor, to_uint8
from hasn_edge.images.codec import read_image
from hasn_edge.images.listing import find_images

PATCHES = "patches"
"""Source name of the patches that ship."""

SIDE = 64
"""Side in pixels of the crops taken from a user's images."""

LIMIT = 64
"""Most crops taken from a user's images, however many there are: ranges settle long before."""

FEW_IMAGES, FEW_PATCHES = 4, 16
"""Below these, ranges depend on which images were taken: a single photograph lost twice the usual."""

SMALL = 48
"""Patches with a side below this are mostly border, where the network reads padding."""

SOFT = 0.3
"""Power in the octave below the Nyquist frequency over that in the octave below it. Photographs as large as
cameras take them have 0.4 in the mean, reduced four times 0.6; what was enlarged has less than 0.3."""

LARGE = 1024
"""Images whose shorter side is above this are seldom what is upscaled four times."""

SMALLEST = 32
"""Images with a side below this are left out: they are mostly border."""

DIV2K_LR = Path("DIV2K_train_LR_bicubic", "X4")
DIV2K_MANIFEST = "div2k-x4.txt"

_PREPROCESSING = b"hasn-edge calibration 1: RGB, NCHW, level / largest level, float32\n"


@dataclass(frozen=True, kw_only=True)
class Crop:
    """One square of one image, as a line of a manifest has it."""

    path: Path
    left: str
    """Pixels from the left, or ``"37.5%"`` of the room that the crop has to move in."""
    top: str
    side: int


@dataclass(frozen=True)
class CalibrationData:
    """A fixed list of network inputs; iterating gives the same arrays every time."""

    source: str
    """Where the images come from, for messages and sidecars."""
    patches: tuple[Pixels, ...]
    """``(H, W, 3)`` RGB, uint8 or uint16."""
    skipped: tuple[str, ...] = ()
    """One sentence for each image that was left out."""
    sizes: tuple[tuple[int, int], ...] = ()
    """(height, width) of each image that patches were taken from, where they are not images themselves."""
    originals: int = 0
    """How many of these images are high-resolution originals by their folder's name."""

    def __post_init__(self) -> None:
        if not self.patches:
            more = f" (and {len(self.skipped) - 1} more)" if len(self.skipped) > 1 else ""
            reason = f": {self.skipped[0]}{more}" if self.skipped else ""
            raise InputError(f"{self.source}: no image to calibrate with{reason}")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all pixels in order, and of how they become tensors."""
        digest = hashlib.sha256(_PREPROCESSING)
        for patch in self.patches:
            digest.update(f"{patch.shape} {patch.dtype.str}\n".encode())
            digest.update(np.ascontiguousarray(patch).tobytes())
        return digest.hexdigest()

    def describe(self) -> tuple[str, ...]:
        """Return what ranges are measured on, and what is doubtful about it, a sentence each."""
        count = counted(len(self.patches), "patch", "patches")
        if self.sizes:
            count += f" of {counted(len(self.sizes), 'image')}"
        notes = [f"calibration: {count}, {self.source}"]
        if self.skipped:
            left_out = counted(len(self.skipped), "image")
            notes.append(f"calibration: {left_out} left out, the first: {self.skipped[0]}")
        if len(self.patches) < FEW_PATCHES or 0 < len(self.sizes) < FEW_IMAGES:
            notes.append(
                f"warning: {count}: few to measure ranges on, which then depend on what these images "
                f"happen to show; give {FEW_IMAGES} images or more, and room for {FEW_PATCHES} patches"
            )
        small = sum(min(patch.shape[:2]) < SMALL for patch in self.patches)
        if small:
            what = counted(small, "calibration patch", "calibration patches")
            notes.append(
                f"warning: {what} with a side below {SMALL} pixels: what the network computes there is "
                "mostly about the border"
            )
        if self.originals:
            notes.append(
                f"warning: {self.originals} of {len(self.sizes)} calibration images are high-resolution "
                "originals by their folder's name; give what the network will see"
            )
        large = sum(min(size) > LARGE for size in self.sizes)
        if large > len(self.sizes) / 2:
            notes.append(
                f"warning: {large} of {len(self.sizes)} calibration images have more than {LARGE} pixels on "
                "their shorter side, as high-resolution originals have; give what the network will see"
            )
        if (sharpness := _sharpness(self.patches)) < SOFT:
            notes.append(
                f"warning: the calibration images are soft (spectrum {sharpness:.2f}, low-resolution images "
                f"have {SOFT} and more): enlarged or high-resolution originals look so; give what the "
                "network will see"
            )
        return tuple(notes)

    def __len__(self) -> int:
        return len(self.patches)

    def __iter__(self) -> Iterator[Float32]:
        """Yield each patch as ``(1, 3, H, W)`` float32 in [0, 1]."""
        return map(to_tensor, self.patches)


def load_calibration(source: str | os.PathLike[str] = PATCHES, *, seed: int = 0) -> CalibrationData:
    """Return the calibration images that ``source`` stands for.

    Args:
        source: The text ``"patches"`` for those that ship; a folder of images, or one image, which are fed as
            they are (give what the network will see, not originals of four times that size); the folder that
            holds ``DIV2K_train_LR_bicubic``; or a manifest, see :func:`read_manifest`.
        seed: Chooses images and places where a folder has more than is needed.

    Raises:
        InputError: nothing usable is there; the message names what was looked at.
    """
    if isinstance(source, str) and source == PATCHES:
        folder = shipped_path("calibration", "patches")
        return CalibrationData("the patches that ship", tuple(_read(path) for path in find_images([folder])))
    path = Path(source)
    if isinstance(source, str) and not path.exists() and path.name == source and path.suffix == ".txt":
        raise _missing_images(source)
    if path.is_dir():
        root = _div2k_root(path)
        if root is not None:
            manifest = shipped_path("calibration", "manifests", DIV2K_MANIFEST)
            return load_crops(read_manifest(manifest, root=root), source=f"{path} by {manifest.name}")
        return load_folder(path, seed=seed)
    if not path.is_file():
        raise InputError(f"{path}: no such folder or manifest; give a folder of images or a manifest's .txt")
    if path.suffix.lower() == ".txt":
        return load_crops(read_manifest(path), source=str(path))
    return load_folder(path, seed=seed)


def read_manifest(manifest: Path, *, root: Path | None = None) -> tuple[Crop, ...]:
    """Read a manifest: a line for each crop, ``path left top side``, comments behind ``#``.

    ``left`` and ``top`` are pixels, or percentages of the room that the crop has to move in, which fit
    images of any size. Paths are relative to ``root``.

    Args:
        manifest: A text file.
        root: Folder of the images; the manifest's own where ``None``.

    Raises:
        InputError: the file cannot be read, has no line, or a line is not of this form; the line is named.
    """
    try:
        lines = manifest.read_text(encoding="utf-8-sig").splitlines()  # with a BOM or without
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"{manifest}: cannot be read as a manifest: {exc}") from exc
    crops = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        # From the right: a path may contain spaces.
        parts = text.rsplit(maxsplit=3)
        if len(parts) != 4 or not parts[3].isdigit() or not all(map(_is_place, parts[1:3])):
            raise InputError(
                f"{manifest}, line {number}: {text!r} is not 'path left top side' with pixels or "
                "percentages, for example: 0001x4.png 25% 60% 64"
            )
        path, left, top, side = parts
        crops.append(Crop(path=(root or manifest.parent) / path, left=left, top=top, side=int(side)))
    if not crops:
        raise InputError(f"{manifest}: lists no crop")
    return tuple(crops)


def load_crops(crops: Sequence[Crop], *, source: str) -> CalibrationData:
    """Read the crops of a manifest. All of them must be there: a fixed list is only fixed as a whole.

    Raises:
        InputError: an image is missing or unreadable, or smaller than its crop; the first is named.
    """
    missing = [crop.path for crop in crops if not crop.path.is_file()]
    if missing:
        raise InputError(
            f"{source}: {len(missing)} of {len(crops)} images are missing, the first is {missing[0]}; give "
            "the folder that the paths of the manifest start in"
        )
    return CalibrationData(source, tuple(_cut(crop) for crop in crops))


def load_folder(folder: Path, *, seed: int = 0, limit: int = LIMIT) -> CalibrationData:
    """Take at most ``limit`` crops of :data:`SIDE` pixels from the images in a folder and in those inside it.

    Of many images some are chosen, of few several crops are taken; small images are taken whole. Choice
    and places depend on ``seed`` and on the images' names only. What cannot be used is left out and listed,
    and so are originals that lie beside LR images, as their folders' names state.

    Raises:
        InputError: no image, or none that can be used.
    """
    paths = find_images([folder], recursive=True)
    names = {path: path.relative_to(folder).as_posix() if path != folder else path.name for path in paths}
    order = sorted(paths, key=lambda path: zlib.crc32(f"{seed} {names[path]}".encode()))
    patches: list[Pixels] = []
    skipped, sizes = [], []
    hr = {path for path in paths if _role(path, folder) == HR}
    if any(_role(path, folder) == LR for path in paths):
        skipped = [f"{path}: an original beside LR images" for path in order if path in hr]
        order = [path for path in order if path not in hr]
    originals = 0
    for index, path in enumerate(order):
        if len(patches) >= limit:
            break
        try:
            pixels = _read(path)
        except InputError as exc:
            skipped.append(str(exc))
            continue
        if min(pixels.shape[:2]) < SMALLEST:
            skipped.append(f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels, the least is {SMALLEST}")
            continue
        share = -(-(limit - len(patches)) // (len(order) - index))
        rng = np.random.default_rng([seed, zlib.crc32(names[path].encode())])
        patches.extend(_random_crops(pixels, share, rng))
        sizes.append((pixels.shape[0], pixels.shape[1]))
        originals += path in hr
    return CalibrationData(str(folder), tuple(patches), tuple(skipped), tuple(sizes), originals)


def _role(path: Path, folder: Path) -> str:
    """Return whether the folders from ``folder`` to an image state HR, LR or nothing."""
    inside = path.parent.relative_to(folder).parts if path != folder else ()
    return read_name(path, (folder.resolve().name, *inside)).role


def _sharpness(patches: Sequence[Pixels]) -> float:
    """Return the power from 1/4 to 1/2 cycle a pixel over that from 1/8 to 1/4, all patches together."""
    high = low = 0.0
    for patch in patches:
        y = luma(to_uint8(patch))
        height, width = y.shape
        window = np.outer(np.hanning(height), np.hanning(width))
        power = np.abs(np.fft.fft2((y - y.mean()) * window)) ** 2
        frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij"))
        high += float(power[(frequency >= 1 / 4) & (frequency < 1 / 2)].sum())
        low += float(power[(frequency >= 1 / 8) & (frequency < 1 / 4)].sum())
    return high / low if low else 0.0


def _div2k_root(path: Path) -> Path | None:
    """Return the folder that holds DIV2K's LR images, wherever on the way to them the user pointed."""
    path = path.resolve()
    for root in (path, *path.parents[:2]):
        inside = root / DIV2K_LR
        if inside.is_dir() and path in (root, inside, inside.parent):
            return root
    return None


def _missing_images(manifest: str) -> InputError:
    known = sorted(path.name for path in shipped_path("calibration", "manifests").glob("*.txt"))
    if manifest not in known:
        return InputError(f"{manifest}: no such manifest; those that ship: {', '.join(known)}")
    return InputError(
        f"the manifest {manifest} lists images that do not ship; name the folder that has "
        f"{DIV2K_LR.as_posix()} in it, for example",
        use(calibration="datasets/DIV2K"),
    )


def _read(path: Path) -> Pixels:
    return to_rgb(read_image(path))


def _random_crops(pixels: Pixels, count: int, rng: np.random.Generator) -> Iterator[Pixels]:
    height, width = pixels.shape[:2]
    # More crops than fit side by side would be the same pixels again.
    for _ in range(min(count, max(1, height // SIDE) * max(1, width // SIDE))):
        top = int(rng.integers(max(1, height - SIDE + 1)))
        left = int(rng.integers(max(1, width - SIDE + 1)))
        yield np.ascontiguousarray(pixels[top : top + SIDE, left : left + SIDE])


def _cut(crop: Crop) -> Pixels:
    pixels = _read(crop.path)
    height, width = pixels.shape[:2]
    top, left = _place(crop.top, height - crop.side), _place(crop.left, width - crop.side)
    if crop.side < SMALLEST or not (0 <= top <= height - crop.side and 0 <= left <= width - crop.side):
        raise InputError(
            f"{crop.path}: {width} x {height} pixels have no crop of {crop.side} at {crop.left}, {crop.top}; "
            f"crops are at least {SMALLEST} pixels wide and lie inside"
        )
    return np.ascontiguousarray(pixels[top : top + crop.side, left : left + crop.side])


def _is_place(text: str) -> bool:
    number = text.removesuffix("%")
    whole = number.replace(".", "", 1) if text.endswith("%") else number
    return whole.isascii() and whole.isdigit() and (not text.endswith("%") or float(number) <= 100)


def _place(text: str, room: int) -> int:
    return round(float(text[:-1]) / 100 * room) if text.endswith("%") else int(text)
