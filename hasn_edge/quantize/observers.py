"""Range observers: from the values that a convolution reads to the range that its INT8 codes cover.

All of them read one histogram of magnitudes, which grows by doubling. Its bins are nested (a doubled
range merges bins in pairs, exactly), so the result is the same however the data was split into batches.
"""

from __future__ import annotations

import math
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from hasn_edge.errors import InputError
from hasn_edge.images.arrays import Float64

LEVELS = 127
"""Positive INT8 codes. Ranges are symmetric around zero, as TensorRT wants them: code 0 is 0.0."""

BINS = 8192
"""Bins of a histogram; a power of two. The largest value lies in the upper half: at least 4096 are used."""

_ENTROPY_BINS = 2048
_ENTROPY_LEVELS = 128
_ENTROPY_STRIDE = 8
_MSE_SMALLEST = 1 / 64  # a narrower range than this part of the largest value is never tried
_MSE_STEPS = 192


class Observer(str, Enum):
    """How a range is chosen from the values that were seen."""

    MINMAX = "minmax"
    """Up to the largest magnitude: nothing is clipped, one outlier coarsens every code."""
    PERCENTILE = "percentile"
    """Up to the magnitude that the given percentage of all values does not exceed."""
    MSE = "mse"
    """The range with the smallest mean error between the values and their codes, by default squared."""
    ENTROPY = "entropy"
    """The range whose codes keep the most of the distribution: smallest Kullback-Leibler divergence of the
    clipped histogram to its 128-level version, over magnitudes above zero (Migacz, GTC 2017)."""


class MagnitudeHistogram:
    """Counts of ``|x|`` in equal bins from zero to a power of two that is above everything seen.

    Exact zeros are counted apart: every scale represents them exactly.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.zeros = 0
        self.peak = 0.0
        """Largest magnitude seen, exactly."""
        self._exponent: int | None = None

    @property
    def total(self) -> int:
        """Number of values seen, zeros included."""
        return self.zeros + int(self.counts.sum())

    @property
    def width(self) -> float:
        """Width of one bin; 0 while only zeros were seen."""
        return 0.0 if self._exponent is None else math.ldexp(1.0, self._exponent - _log2(BINS))

    def add(self, values: NDArray[np.floating]) -> None:
        """Count the magnitudes of ``values``, of any shape.

        Raises:
            InputError: a value is NaN or infinite.
        """
        wide = np.float64 if values.dtype == np.float64 else np.float32
        magnitudes = np.abs(values, dtype=wide).ravel()
        if magnitudes.size == 0:
            return
        peak = float(magnitudes.max())
        if not math.isfinite(peak):
            raise InputError("values to measure a range from include NaN or infinity")
        if peak == 0:
            self.zeros += magnitudes.size
            return
        self._grow(math.frexp(peak)[1])
        assert self._exponent is not None
        shift = _log2(BINS) - self._exponent
        # A power of two keeps the product exact; float32 has no room for it next to subnormal numbers.
        if not -120 < shift < 120:
            magnitudes = magnitudes.astype(np.float64)
        index = (magnitudes * magnitudes.dtype.type(math.ldexp(1.0, shift))).astype(np.intp)
        counts = np.bincount(index, minlength=BINS)
        zeros = magnitudes.size - int(np.count_nonzero(magnitudes))
        counts[0] -= zeros
        self.counts += counts
        self.zeros += zeros
        self.peak = max(self.peak, peak)

    def centers(self) -> Float64:
        """Return the magnitude in the middle of each bin, shape ``(BINS,)``."""
        middles: Float64 = (np.arange(BINS, dtype=np.float64) + 0.5) * self.width
        return middles

    def merge_bins(self, most: int) -> tuple[NDArray[np.int64], float]:
        """Return counts up to the peak in at most ``most`` bins, and their width.

        A new bin holds a whole number of old ones: bins of uneven size would give the counts a beat that
        is not in the data.
        """
        used = min(math.floor(self.peak / self.width) + 1, BINS)
        group = -(-used // most)
        bins = -(-used // group)
        padded = np.zeros(bins * group, np.int64)
        padded[: min(padded.size, BINS)] = self.counts[: padded.size]
        return padded.reshape(bins, group).sum(axis=1), self.width * group

    def _grow(self, exponent: int) -> None:
        if self._exponent is None:
            self._exponent = exponent
        while self._exponent < exponent:
            self.counts[: BINS // 2] = self.counts[::2] + self.counts[1::2]
            self.counts[BINS // 2 :] = 0
            self._exponent += 1
            if not self.counts.any():
                self._exponent = exponent


def observed_range(
    histogram: MagnitudeHistogram,
    observer: Observer,
    *,
    percentile: float | None = None,
    power: float = 2.0,
    levels: int = LEVELS,
) -> float:
    """Return the magnitude that the last code stands for; 0 where nothing but zeros was seen.

    Args:
        histogram: The values.
        observer: How to choose.
        percentile: Percentage of values that stay inside the range, above 0 and at most 100; for
            :attr:`Observer.PERCENTILE` only.
        power: What the error is raised to, for :attr:`Observer.MSE` only.
            Above 2, values that are far outside weigh more: rare, but each is a visible mistake.
        levels: Codes above zero: 127, or 255 where all values are on one side.

    Raises:
        InputError: no value was seen, or the percentile is missing.
    """
    if histogram.total == 0:
        raise InputError("no value was observed, so there is no range; the calibration data is empty")
    if histogram.peak == 0:
        return 0.0
    if observer is Observer.PERCENTILE:
        if percentile is None:
            raise InputError("the percentile observer needs a percentage, for example 99.99")
        return _percentile_range(histogram, percentile)
    if observer is Observer.MSE:
        return _mse_range(histogram, power, levels)
    if observer is Observer.ENTROPY:
        return _entropy_range(histogram)
    return histogram.peak


def mse_ranges(rows: NDArray[np.floating], *, steps: int = 80, smallest: float = 0.5) -> Float64:
    """Return, for each row of values, the range with the smallest squared error; exact, for weights.

    Args:
        rows: ``(R, V)``; one row per output channel.
        steps: Ranges tried per row, evenly spaced from ``smallest`` times the largest magnitude to it.
        smallest: Narrowest range tried, as a part of the largest magnitude.

    Returns:
        ``(R,)`` float64; 0 for a row of zeros.
    """
    rows = np.abs(rows.astype(np.float64))
    peaks = rows.max(axis=1)
    safe = np.where(peaks > 0, peaks, 1.0)
    unit = rows / safe[:, None]
    best = np.ones(len(rows))
    least = np.full(len(rows), np.inf)
    for fraction in np.linspace(1.0, smallest, steps):
        step = fraction / LEVELS
        error = np.square(unit - np.minimum(np.rint(unit / step), LEVELS) * step).sum(axis=1)
        better = error < least
        best[better], least[better] = fraction, error[better]
    ranges: Float64 = best * peaks
    return ranges


def _percentile_range(histogram: MagnitudeHistogram, percentile: float) -> float:
    """Upper edge of the first bin that brings the share of values to ``percentile``, at most the peak."""
    wanted = percentile / 100 * histogram.total
    reached = histogram.zeros + np.cumsum(histogram.counts)
    # Everything asked for is zero: the smallest bin still gives a range, and a scale, above zero.
    index = int(np.searchsorted(reached, wanted - 1e-9 * histogram.total))
    return min((index + 1) * histogram.width, histogram.peak)


def _mse_range(histogram: MagnitudeHistogram, power: float, levels: int) -> float:
    filled = np.flatnonzero(histogram.counts)
    counts = histogram.counts[filled].astype(np.float64)
    # Relative to the peak, so that squares of huge or tiny values stay finite numbers.
    values = np.minimum(histogram.centers()[filled] / histogram.peak, 1.0)
    best, least = 1.0, math.inf
    for fraction in np.geomspace(1.0, _MSE_SMALLEST, _MSE_STEPS):
        step = fraction / levels
        codes = np.minimum(np.rint(values / step), levels)
        error = float(np.dot(counts, np.abs(values - codes * step) ** power))
        if error < least:
            best, least = float(fraction), error
    return best * histogram.peak


def _entropy_range(histogram: MagnitudeHistogram) -> float:
    merged, width = histogram.merge_bins(_ENTROPY_BINS)
    counts = merged.astype(np.float64)
    # A range ends in a bin that is not empty: what is clipped to an empty one diverges without bound.
    filled = np.flatnonzero(counts) + 1
    ends = np.searchsorted(filled, range(_ENTROPY_LEVELS, len(counts), _ENTROPY_STRIDE), side="right") - 1
    sizes = sorted({max(int(filled[end]), _ENTROPY_LEVELS) for end in (*ends, -1)})
    divergences = [clipped_divergence(counts, size) for size in sizes]
    return float(min(sizes[int(np.argmin(divergences))] * width, histogram.peak))


def clipped_divergence(counts: Float64, size: int) -> float:
    """Return KL(P || Q) in nats: P is ``counts`` clipped to ``size`` bins, Q its 128-level version.

    P has everything beyond the range in its last bin. Q has, in each of 128 runs of bins, the run's
    count (clipped values left out) spread evenly over the bins of the run that are not empty.

    Args:
        counts: ``(bins,)`` counts.
        size: Bins inside the range, at least 128.

    Returns:
        Divergence; ``inf`` where Q has nothing at a place where P has something.
    """
    inside = counts[:size]
    clipped = inside.copy()
    clipped[-1] += counts[size:].sum()
    starts = np.arange(_ENTROPY_LEVELS) * size // _ENTROPY_LEVELS
    filled = inside > 0
    sums = np.add.reduceat(inside, starts)
    sizes = np.add.reduceat(filled.astype(np.float64), starts)
    level = np.repeat(np.arange(_ENTROPY_LEVELS), np.diff(np.append(starts, size)))
    spread = np.where(filled, sums[level] / np.maximum(sizes[level], 1), 0.0)
    present = clipped > 0
    if (spread[present] == 0).any():
        return math.inf
    p = clipped[present] / clipped.sum()
    q = spread[present] / spread.sum()
    return float(np.sum(p * np.log(p / q)))


def _log2(power: int) -> int:
    return power.bit_length() - 1
