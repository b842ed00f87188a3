"""How good a network's images are, against ground truth and against another form of the same network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hasn_edge.artifact import Artifact
from hasn_edge.data.pairs import EvalSet, Pair, load_eval_sets, shipped_eval_set
from hasn_edge.errors import InputError, OutOfMemoryError, counted, say, use
from hasn_edge.images.arrays import Float32, UInt8, from_tensor, to_tensor
from hasn_edge.images.metrics import finite_or_none, mean_db, psnr_and_ssim_y, psnr_rgb
from hasn_edge.progress import Progress, Step, ignore
from hasn_edge.runtime.memory import NO_LIMIT_BYTES
from hasn_edge.runtime.open import open_model, open_session
from hasn_edge.runtime.session import Session
from hasn_edge.runtime.upscaler import Upscaler, UpscaleReport, ensemble

UpscaleFunction = Callable[[Float32], Float32]
"""Upscales ``(1, 3, H, W)`` float32 RGB in [0, 1] to ``(1, 3, H*scale, W*scale)``: ``Session.run`` or
``Upscaler.run``. Not rounded: `score_images` does that."""


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """One image against its ground truth."""

    name: str
    psnr_y: float
    """dB; ``inf`` where the luma is identical."""
    ssim_y: float
    output: UInt8 | None = field(default=None, repr=False, compare=False)
    """The upscaled image ``(H, W, 3)``, RGB; ``None`` where outputs were not kept."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A set of images against its ground truth.

    Convention: 8-bit rounded output, Y of BT.601 studio range, ``border`` pixels cut from each side,
    11 x 11 Gaussian SSIM, mean over the images.
    """

    name: str
    """The set's name."""
    images: tuple[ImageScore, ...]
    border: int
    self_ensemble: bool = False
    tiled: Mapping[str, UpscaleReport] = field(default_factory=dict)
    """Images that were computed in tiles, by name: which and why. It changes their figures."""

    @property
    def psnr_y(self) -> float:
        """Mean PSNR-Y in dB; see `metrics.mean_db` for identical images."""
        return mean_db(image.psnr_y for image in self.images)

    @property
    def ssim_y(self) -> float:
        """Mean SSIM-Y."""
        return math.fsum(image.ssim_y for image in self.images) / len(self.images)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; a PSNR of identical images is ``None``, since JSON has no infinity."""
        return {
            "name": self.name,
            "border_px": self.border,
            "self_ensemble": self.self_ensemble,
            "psnr_y_db": finite_or_none(self.psnr_y),
            "ssim_y": self.ssim_y,
            "tiled": {
                name: {"tile": dict(report.tile._asdict()), "reason": report.reason}
                for name, report in self.tiled.items()
            },
            "images": [
                {"name": image.name, "psnr_y_db": finite_or_none(image.psnr_y), "ssim_y": image.ssim_y}
                for image in self.images
            ],
        }


@dataclass(frozen=True, kw_only=True)
class ImageDrift:
    """How one image changed."""

    name: str
    dpsnr: float
    """PSNR-Y of the candidate minus that of the reference, in dB; negative is a loss."""
    dssim: float
    fidelity_psnr: float
    """PSNR in dB of the candidate's 8-bit RGB image against the reference's; ``inf`` where equal."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How a candidate's images changed against a reference's on one set."""

    name: str
    """The set's name."""
    images: tuple[ImageDrift, ...]

    @property
    def dpsnr(self) -> float:
        """Mean change of PSNR-Y in dB; negative is a loss."""
        return math.fsum(image.dpsnr for image in self.images) / len(self.images)

    @property
    def dssim(self) -> float:
        """Mean change of SSIM-Y; negative is a loss."""
        return math.fsum(image.dssim for image in self.images) / len(self.images)

    @property
    def fidelity_psnr(self) -> float:
        """Mean fidelity in dB over the images that changed at all; ``inf`` where none did."""
        return mean_db(image.fidelity_psnr for image in self.images)

    @property
    def worst_image(self) -> str:
        """Name of the image whose PSNR-Y fell most."""
        return self._worst.name

    @property
    def worst_dpsnr(self) -> float:
        """Its change of PSNR-Y in dB."""
        return self._worst.dpsnr

    @property
    def _worst(self) -> ImageDrift:
        return min(self.images, key=lambda image: image.dpsnr)


def evaluate(
    model: str | Path | None = None,
    *,
    artifact: Artifact | str | Path | None = None,
    data: str | tuple[str, Path] | None = None,
    self_ensemble: bool = False,
) -> Scores:
    """Measure PSNR-Y and SSIM of a model or of a built file.

    Args:
        model: Bundled name or weights file; the default model where neither is given.
        artifact: What ``export`` or ``build`` made, or its path, instead.
        data: Evaluation set, ``"NAME=DIR"`` or (name, folder); the images that ship where ``None``.
        self_ensemble: Average over the eight flips and rotations.

    Returns:
        The scores; ``tiled`` names the images for whose whole frames the memory or the file did not suffice.

    Raises:
        HasnEdgeError: a file or the set cannot be used.
    """
    session = open_session(artifact) if artifact is not None else open_model(model)
    with session:
        scale = session.spec.scale
        eval_set = shipped_eval_set(scale) if data is None else load_eval_sets([data], scale)[0]
        return score_session(session, eval_set, self_ensemble=self_ensemble, keep_outputs=False)


def score_session(
    session: Session,
    eval_set: EvalSet,
    *,
    tile: int | None = None,
    whole: bool = False,
    progress: Progress = ignore,
    **options: Any,
) -> Scores:
    """Measure a session on images of any size; the options are those of :func:`score_images`.

    Args:
        session: What upscales.
        eval_set: Pairs.
        tile: Side in pixels of tiles; ``None`` for none where memory suffices.
        whole: Compute whole frames, however little memory seems to be free, as what is compared has to be.
        progress: See :func:`score_images`.
        **options: Passed on.
    """
    upscaler = Upscaler(session, tile=tile, memory_limit_bytes=NO_LIMIT_BYTES if whole else None)
    tiled: dict[str, UpscaleReport] = {}

    def step(measured: Step) -> None:
        last = upscaler.last_report
        if last is not None and last.tiles > 1:
            tiled[measured.text] = last
        progress(measured)

    return replace(score_images(upscaler.run, eval_set, progress=step, **options), tiled=tiled)


def score_images(
    run: UpscaleFunction,
    eval_set: EvalSet,
    *,
    self_ensemble: bool = False,
    keep_outputs: bool = True,
    progress: Progress = ignore,
) -> Scores:
    """Upscale every LR image of a set and measure the results against HR, but for a border of its scale.

    Args:
        run: What upscales; see `UpscaleFunction`.
        eval_set: Pairs, whose scale must be that of ``run``.
        self_ensemble: Average over the eight flips and rotations, before rounding.
        keep_outputs: Keep the upscaled images, which `drift` needs (HR size, 3 bytes a pixel).
        progress: Receives each image's name once it is measured.

    Raises:
        InputError: the set is empty, the output has another size than HR or is not finite, or the image
            is too small to measure; names the image.
    """
    if not eval_set.pairs:
        raise InputError(f"set {eval_set.name} has no images; there is nothing to measure")
    upscale = ensemble(run) if self_ensemble else run
    images = []
    for done, pair in enumerate(eval_set, 1):
        try:
            images.append(_score(upscale, pair, keep_output=keep_outputs))
        except InputError as exc:
            raise exc.within(f"{eval_set.name}/{pair.name}") from exc
        progress(Step(pair.name, done, len(eval_set)))
    border = eval_set.scale  # as the literature has it
    return Scores(name=eval_set.name, images=tuple(images), border=border, self_ensemble=self_ensemble)


def drift(reference: Scores, candidate: Scores) -> Drift:
    """Compare two forms of a network that were evaluated on the same images with kept outputs.

    Raises:
        InputError: other images, another border, or outputs that were not kept.
        OutOfMemoryError: an image was computed in tiles for one of them, or in others than for the other;
            tiles that were asked for are what is compared.
    """
    names = [image.name for image in reference.images], [image.name for image in candidate.images]
    if names[0] != names[1] or reference.border != candidate.border:
        raise InputError(
            f"drift compares scores of the same images and border, got {reference.name} "
            f"({counted(len(names[0]), 'image')}, border {reference.border}) and {candidate.name} "
            f"({counted(len(names[1]), 'image')}, border {candidate.border})",
            say("evaluate both on one set"),
        )
    for name in names[0]:
        reports = [scores.tiled.get(name) for scores in (reference, candidate)]
        tiles = [None if report is None else report.tile for report in reports]
        if tiles[0] != tiles[1] and not any(report and report.reason == "asked" for report in reports):
            ways = ["whole" if tile is None else f"in tiles of {tile}" for tile in tiles]
            raise OutOfMemoryError(
                f"{reference.name}/{name} was computed {ways[0]} by the reference and {ways[1]} by what is "
                "compared with it, which changes its figures by itself",
                say("free some memory"),
                say("measure on smaller images"),
            )
    images = []
    for a, b in zip(reference.images, candidate.images, strict=True):
        if a.output is None or b.output is None:
            raise InputError("drift needs the outputs of both", use(keep_outputs=True))
        images.append(
            ImageDrift(
                name=a.name,
                dpsnr=_difference_db(a.psnr_y, b.psnr_y),
                dssim=b.ssim_y - a.ssim_y,
                fidelity_psnr=psnr_rgb(a.output, b.output),
            )
        )
    return Drift(name=reference.name, images=tuple(images))


def _score(upscale: UpscaleFunction, pair: Pair, *, keep_output: bool) -> ImageScore:
    hr = pair.hr()
    y = upscale(to_tensor(pair.lr()))
    if y.shape != (1, 3, *hr.shape[:2]):
        raise InputError(
            f"expected an output of {(1, 3, *hr.shape[:2])} at x{pair.scale}, got {tuple(y.shape)}",
            say("load the set with the scale of the network"),
        )
    output = from_tensor(y)
    psnr_y, ssim_y = psnr_and_ssim_y(output, hr, border=pair.scale)
    return ImageScore(name=pair.name, psnr_y=psnr_y, ssim_y=ssim_y, output=output if keep_output else None)


def _difference_db(reference: float, candidate: float) -> float:
    """Candidate minus reference; identical luma counts as 100 dB, so that the difference is a number."""
    if math.inf in (reference, candidate):
        return min(candidate, 100.0) - min(reference, 100.0)
    return candidate - reference
