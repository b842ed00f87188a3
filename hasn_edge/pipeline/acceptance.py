"""What a file must show before it is published: agreement with PyTorch, and quality within its budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from hasn_edge.data.pairs import bicubic_baseline
from hasn_edge.errors import Cure, VerificationError, say, use
from hasn_edge.evaluation.compare import BUDGETS, compare
from hasn_edge.evaluation.evaluate import Scores, drift, score_images, score_session
from hasn_edge.images.arrays import Float32, from_tensor, to_tensor
from hasn_edge.pipeline.foreign_graph import ForeignGraph
from hasn_edge.sidecar import HeldOut, NoiseRecord, PixelLevels, QualityRecord
from hasn_edge.spec import NetworkSpec, Precision

if TYPE_CHECKING:
    from hasn_edge.data.pairs import EvalSet
    from hasn_edge.model.checkpoint import Checkpoint
    from hasn_edge.runtime.session import Session

FP16_BUDGET = (0.01, 0.05)
"""Largest accepted loss of PSNR-Y by FP16 on each part of the held-out images, in dB: of its mean, and of its
worst image."""

MOST_OUTSIDE = 0.05
"""Largest accepted share of a convolution's INT8 input outside its range: images unlike the held-out ones
set such ranges, whatever the dB say."""

SIZES = ((15, 15), (17, 29), (64, 48))
"""Input (height, width) of the comparison with PyTorch: the smallest, a prime one, a plain one."""

GIVEN = "the graph as it was given"
"""What a network of somebody else's is compared with."""

TIES = 1e-3
"""Share of 8-bit levels that may be rounded the other way by a graph that rounds itself."""


class Acceptance:
    """Compares files of one checkpoint with its network in PyTorch, FP32 and unfused.

    Args:
        checkpoint: The network.
        held_out: Images that quality is measured on, in parts that each have to keep the budget.
        force: Accept INT8 of a network that is worse than bicubic interpolation on the first part.
    """

    def __init__(
        self, checkpoint: Checkpoint | ForeignGraph, held_out: Sequence[EvalSet], *, force: bool = False
    ) -> None:
        self.checkpoint, self.held_out, self.force = checkpoint, held_out, force

    @cached_property
    def reference(self) -> Session:
        """The network, run eagerly; a graph of somebody else's, as it is."""
        if isinstance(self.checkpoint, ForeignGraph):
            return self.checkpoint.session()
        from hasn_edge.runtime.pytorch import PyTorchSession

        return PyTorchSession(self.checkpoint.model())

    @property
    def against(self) -> str:
        """What the reference is called."""
        if isinstance(self.checkpoint, ForeignGraph):
            return GIVEN
        adapted = ", of the adapted weights" if "finetuned" in self.checkpoint.provenance else ""
        return f"PyTorch FP32, unfused{adapted}"

    @cached_property
    def reference_scores(self) -> tuple[Scores, ...]:
        """What the network reaches on each part of the held-out images."""
        return tuple(score_session(self.reference, part, whole=True) for part in self.held_out)

    @cached_property
    def bicubic_psnr_y(self) -> float:
        """What bicubic interpolation reaches on the first part, in dB."""
        images = self.held_out[0]
        return score_images(bicubic_baseline(images.scale), images, keep_outputs=False).psnr_y

    def check(
        self,
        candidate: Session,
        *,
        what: str,
        budget: tuple[float, float] = FP16_BUDGET,
        optimized: Session | None = None,
        outside: Sequence[tuple[float, str]] = (),
        advice: Callable[[], tuple[str, tuple[Cure, ...]]] = lambda: ("", ()),
    ) -> tuple[QualityRecord, tuple[str, ...]]:
        """Run a file that takes any size against the network, and images through both.

        FP32 must agree value by value. FP16 and INT8 must also keep PSNR-Y on the held-out images; where
        there are none, because the weights are random, they keep no limit.

        Args:
            candidate: The file, opened.
            what: What it is called in messages.
            budget: Largest accepted loss of PSNR-Y by FP16 or INT8 in dB: of the mean of a part, and of an
                image.
            optimized: The file as users of this CPU run it, where that computes something else.
            outside: Of INT8, for each part: the largest share of a convolution's input that lies outside its
                range, 0 to 1, and the convolution's name.
            advice: Called when the budget is missed; returns what costs the most, and what can be done.

        Returns:
            What was measured, and the same in sentences.

        Raises:
            VerificationError: it does not agree, loses more than the budget, or its ranges do not fit the
                held-out images.
        """
        agreement = compare(
            self.reference, candidate, _batches(self.checkpoint.spec, least=candidate.smallest[0])
        )
        if self.held_out or candidate.precision is Precision.FP32:
            agreement.require(BUDGETS[candidate.precision], what=what)
        noise = NoiseRecord(**agreement.to_dict())
        measured = QualityRecord(against=self.against, noise=noise)
        if candidate.precision is Precision.FP32:
            return measured, (f"{what}: largest difference from {self.against} {agreement.max_abs:.1e}",)
        if not self.held_out:
            return measured, ()
        if candidate.precision is Precision.INT8 and not self.force:
            self._require_better_than_bicubic()
        found = [self._measure(candidate, index, budget, outside) for index in range(len(self.held_out))]
        if optimized is not None:
            found = [self._add_optimized(optimized, index, part) for index, part in enumerate(found)]
        notes = tuple(f"{what}: {_describe(part)}" for part in found)
        for part, note in zip(found, notes, strict=True):
            if missed := _missed(part):
                costliest, cures = advice()
                text = f"{note}. That is {missed}, nothing was written"
                raise VerificationError(f"{text}. {costliest}" if costliest else text, *cures)
            if part.outside is not None and part.outside > MOST_OUTSIDE:
                raise VerificationError(
                    f"{note}. {part.outside:.1%} of what {part.outside_convolution} reads there lies outside "
                    f"the measured range, and {MOST_OUTSIDE:.0%} is accepted: the calibration images are "
                    "unlike these, nothing was written",
                    say("calibrate on images of the kind that the network will see"),
                )
        return msgspec.structs.replace(measured, held_out=found[0], further=tuple(found[1:])), notes

    def _require_better_than_bicubic(self) -> None:
        """Refuse a network whose INT8 would pass because there is nothing left to lose."""
        plain = self.bicubic_psnr_y
        own = self.reference_scores[0].psnr_y
        if own < plain:
            raise VerificationError(
                f"this network reaches {own:.2f} dB on the held-out images and bicubic interpolation "
                f"{plain:.2f} dB: what INT8 costs a network that is not trained tells nothing; "
                "nothing was written",
                say("train it first"),
                use(force=True),
            )

    def _measure(
        self,
        candidate: Session,
        index: int,
        budget: tuple[float, float],
        outside: Sequence[tuple[float, str]],
    ) -> HeldOut:
        """Return what a file loses on one part of the held-out images."""
        part = self.held_out[index]
        scores = score_session(candidate, part, whole=True)
        change = drift(self.reference_scores[index], scores)
        share, convolution = outside[index] if outside else (None, "")
        return HeldOut(
            set=scores.name,
            images=len(scores.images),
            psnr_y_db=scores.psnr_y,
            dpsnr_db=change.dpsnr,
            dssim=change.dssim,
            fidelity_db=change.fidelity_psnr if math.isfinite(change.fidelity_psnr) else None,
            worst_image=change.worst_image,
            worst_dpsnr_db=change.worst_dpsnr,
            budget_db=budget[0],
            budget_worst_db=budget[1],
            outside=share,
            outside_convolution=convolution,
        )

    def _add_optimized(self, session: Session, index: int, part: HeldOut) -> HeldOut:
        """Return a part's figures with those of another session of the same file."""
        scores = score_session(session, self.held_out[index], whole=True)
        change = drift(self.reference_scores[index], scores)
        return msgspec.structs.replace(
            part, optimized_dpsnr_db=change.dpsnr, optimized_worst_dpsnr_db=change.worst_dpsnr
        )


def _describe(part: HeldOut) -> str:
    fidelity = "equal" if part.fidelity_db is None else f"fidelity {part.fidelity_db:.1f} dB"
    text = (
        f"PSNR-Y on {part.images} held-out images ({part.set}) {part.psnr_y_db:.3f} dB, "
        f"{part.dpsnr_db:+.4f} dB against FP32 (worst: {part.worst_image} {part.worst_dpsnr_db:+.4f}), "
        f"{fidelity}"
    )
    if part.optimized_dpsnr_db is not None:
        text += (
            f"; by this CPU's integer kernels {part.optimized_dpsnr_db:+.4f} "
            f"(worst {part.optimized_worst_dpsnr_db:+.4f})"
        )
    return text


def _missed(part: HeldOut) -> str:
    """Return which limit a part of the held-out images misses; nothing where it keeps both."""
    if part.dpsnr_db < -part.budget_db:
        return f"over the budget of {part.budget_db:g} dB"
    if part.budget_worst_db is not None and part.worst_dpsnr_db < -part.budget_worst_db:
        return f"over the limit of {part.budget_worst_db:g} dB for one image"
    return ""


def check_levels(floats: Session, pixels: Session) -> tuple[PixelLevels, str]:
    """Run a file of 8-bit pixels against the checked one of floats that it was made from.

    Dividing, rounding and converting inside the graph must give the same levels that
    :mod:`hasn_edge.images.arrays` gives around it, but for a tie of rounding here and there.

    Args:
        floats: A session of the float graph.
        pixels: A session of the same graph with pixels in and out.

    Returns:
        As :meth:`Acceptance.check` does.

    Raises:
        VerificationError: a level differs by more than one, or more than one in a thousand differs.
    """
    values, differing, largest = 0, 0, 0
    sizes = (pixels.spec.size.fitting(*size) for size in SIZES)
    for height, width in sizes if pixels.size is None else (pixels.size,):
        shape = (pixels.batch or 1, height, width, 3)
        x_NHWC = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        expected = floats.run(np.concatenate([to_tensor(x_HWC) for x_HWC in x_NHWC]))
        levels = np.stack([from_tensor(y_CHW[None]) for y_CHW in expected])
        difference = np.abs(pixels.run_pixels(x_NHWC).astype(np.int16) - levels)
        values, differing = values + difference.size, differing + int(np.count_nonzero(difference))
        largest = max(largest, int(difference.max()))
    note = (
        f"pixels in and out: {differing} of {values} levels differ from the float graph, by {largest} at most"
    )
    if largest > 1 or differing > values * TIES:
        raise VerificationError(f"{note}; one and {TIES:.1%} are allowed, nothing was written")
    return PixelLevels(levels=values, differing=differing, largest=largest), note


def check_static(
    checked: Callable[[], Session], fixed: Callable[[], Session], size: tuple[int, int], *, count: int = 1
) -> None:
    """Run a file of one shape against the checked one that takes any, on frames of noise.

    One is closed before the other opens: a large frame may fit into the memory once and not twice.

    Args:
        checked: Opens the file that takes any size, and any number of images where ``count`` is not 1.
        fixed: Opens the file of one size, one number of images, or both.
        size: (height, width) of the frames.
        count: How many at a time.

    Raises:
        VerificationError: they differ by more than rounding.
    """
    with checked() as session:
        x = _noise(session.spec, *session.spec.size.fitting(*size), count=count)
        expected = session.run(x)
    what = f"{size[1]}x{size[0]}" + ("" if count == 1 else f", {count} at a time")
    with fixed() as session:
        _require_equal(
            session,
            session.run(x),
            expected,
            f"the graph of one shape ({what}) is too far from the one of any",
        )


def check_batch(session: Session) -> None:
    """Do nothing if images that are computed together come out as each of them alone.

    Args:
        session: Of a file that takes any number.

    Raises:
        VerificationError: they differ by more than rounding.
    """
    x = _noise(session.spec, *session.spec.size.fitting(*SIZES[1]), count=3)
    together = session.run(x)
    alone = np.concatenate([session.run(x[i : i + 1]) for i in range(len(x))])
    _require_equal(session, together, alone, "three images at a time come out other than each alone")


def _require_equal(session: Session, a: Float32, b: Float32, otherwise: str) -> None:
    """Refuse two results of a session's network that are apart by more than rounding."""
    difference, allowed = float(np.abs(a - b).max()), 1e-5 if session.precision is Precision.FP32 else 1e-3
    if not difference <= allowed:
        raise VerificationError(
            f"{otherwise}: {difference:.3g}, at most {allowed:g} allowed; nothing was written"
        )


def _batches(spec: NetworkSpec, *, least: int) -> Iterator[Float32]:
    for height, width in SIZES:
        yield _noise(spec, *spec.size.fitting(max(height, least), max(width, least)))


def _noise(spec: NetworkSpec, height: int, width: int, *, count: int = 1) -> Float32:
    return np.random.default_rng(0).random((count, spec.channels, height, width), dtype=np.float32)
