"""Compare two sessions on the same inputs and hold the difference against a budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hasn_edge.errors import InputError, VerificationError, counted, say
from hasn_edge.images.arrays import Float32
from hasn_edge.images.metrics import finite_or_none
from hasn_edge.runtime.session import Session
from hasn_edge.spec import Precision


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How far a candidate may be from its reference. Values are in [0, 1]: one grey level is 0.0039."""

    max_abs: float
    """Largest difference of any value."""
    min_psnr_db: float = 0.0
    """Smallest PSNR in dB (peak 1) of any image."""


BUDGETS: Mapping[Precision, Budget] = {
    Precision.FP32: Budget(max_abs=1e-4, min_psnr_db=90.0),
    Precision.FP16: Budget(max_abs=0.02, min_psnr_db=55.0),
    Precision.INT8: Budget(max_abs=1.0, min_psnr_db=15.0),
}
"""What a file of each precision must keep against FP32 in PyTorch, even on noise.

Set wide of what correct files were measured to need with the published weights (photographs; noise in
brackets), so that only a wrong graph misses them:

- FP32, other order of summation: 2e-6 and 132 dB (3e-6 and 125 dB).
- FP16, 11 bits in every tensor: 3e-3 and 70 dB (3e-3 and 65 dB).
- INT8: 0.2 and 46 dB (0.6 and 22 dB: noise exceeds every range that photographs set, and saturates).
  It can only show that the graph computes this network at all; what INT8 may cost in quality is the recipe's
  budget, in dB of PSNR-Y on photographs.
"""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far a candidate was from its reference, over all images compared."""

    max_abs: float
    """Largest difference of any value; ``nan`` where the candidate had values that are not finite."""
    psnr_db: float
    """PSNR in dB (peak 1) over all values of all images; infinite where they are equal."""
    worst_psnr_db: float
    """PSNR in dB of the worst image."""
    worst: int
    """Index of the worst image, counted over all batches."""
    images: int
    """How many images were compared."""
    not_finite: int = 0
    """How many values of the candidate were NaN or infinite: any is a failure whatever the budget."""

    def require(self, budget: Budget, *, what: str) -> None:
        """Do nothing if the budget is kept.

        Raises:
            VerificationError: it is not; the message names ``what``, both figures and the worst image.
        """
        if self.not_finite:
            raise VerificationError(
                f"{what}: its output is not finite (NaN or infinity) in {counted(self.not_finite, 'value')}, "
                f"first in image {self.worst}; a number format inside overflows",
                say("use a wider precision"),
            )
        missed = []
        if not self.max_abs <= budget.max_abs:
            missed.append(f"largest difference {self.max_abs:.3g}, at most {budget.max_abs:.3g} allowed")
        if not self.worst_psnr_db >= budget.min_psnr_db:
            missed.append(f"PSNR {self.worst_psnr_db:.2f} dB, at least {budget.min_psnr_db:.2f} dB required")
        if missed:
            raise VerificationError(
                f"{what} is too far from its reference: {'; '.join(missed)} (worst of {self.images} "
                f"images: number {self.worst}); nothing was written"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; what is not finite is ``None``."""
        return {
            name: finite_or_none(value) if isinstance(value, float) else value
            for name, value in vars(self).items()
        }


def compare(reference: Session, candidate: Session, batches: Iterable[Float32]) -> Agreement:
    """Run both sessions on every batch and measure how far their outputs are apart.

    Outputs are compared as they are, neither clamped nor rounded. Differences are taken in float64.

    Args:
        reference: What is right by definition.
        candidate: What is judged.
        batches: ``(N, C, H, W)`` float32 RGB in [0, 1]; sizes may differ between batches.

    Raises:
        InputError: no batch at all, or networks of different scale or channels.
        VerificationError: the *reference* has values that are not finite: nothing can be compared with it.
    """
    for name in ("scale", "channels"):
        ours, theirs = getattr(reference.spec, name), getattr(candidate.spec, name)
        if ours != theirs:
            raise InputError(
                f"cannot compare networks of different {name}: {ours} and {theirs}",
                say("compare two forms of one checkpoint"),
            )
    squares: list[float] = []
    values: list[int] = []
    largest, broken = 0.0, 0
    for batch in batches:
        right = reference.run(batch)
        if not np.isfinite(right).all():
            raise VerificationError(
                f"the reference ({reference.backend} {reference.precision.value}) computes values that are "
                "not finite; the checkpoint is damaged or its training diverged"
            )
        for expected, got in zip(right, candidate.run(batch), strict=True):
            bad = int(np.count_nonzero(~np.isfinite(got)))
            broken += bad
            difference = np.subtract(got, expected, dtype=np.float64)
            largest = max(largest, float(np.abs(difference).max()))
            squares.append(math.inf if bad else float(np.square(difference).sum()))
            values.append(difference.size)
    if not values:
        used_up = say("pass a list where the generator may be used up")
        raise InputError("nothing to compare: there was no batch", used_up)
    ratios = [square / count for square, count in zip(squares, values, strict=True)]
    worst = int(np.argmax(ratios))  # of several that are broken the first
    return Agreement(
        max_abs=math.nan if broken else largest,
        psnr_db=_psnr(sum(squares) / sum(values)),
        worst_psnr_db=_psnr(ratios[worst]),
        worst=worst,
        images=len(values),
        not_finite=broken,
    )


def _psnr(mean_square: float) -> float:
    return math.inf if mean_square == 0 else -10 * math.log10(mean_square)
