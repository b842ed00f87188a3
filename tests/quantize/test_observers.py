"""Observers against brute force on the values themselves: the histogram is only a way to get there."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hasn_edge.errors import InputError
from hasn_edge.quantize.observers import (
    BINS,
    LEVELS,
    MagnitudeHistogram,
    Observer,
    clipped_divergence,
    mse_ranges,
    observed_range,
)


def histogram_of(*batches: np.ndarray) -> MagnitudeHistogram:
    histogram = MagnitudeHistogram()
    for batch in batches:
        histogram.add(batch)
    return histogram


def heavy_tailed(count: int = 20_000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_t(3, count).astype(np.float32)


def quantization_error(values: np.ndarray, limit: float, power: float = 2.0) -> float:
    step = limit / LEVELS
    magnitudes = np.abs(values.astype(np.float64))
    return float(
        np.mean(np.abs(magnitudes - np.clip(np.round(magnitudes / step), 0, LEVELS) * step) ** power)
    )


def test_minmax_is_the_largest_magnitude_exactly():
    values = heavy_tailed()
    assert observed_range(histogram_of(values), Observer.MINMAX) == np.abs(values).max()


@pytest.mark.parametrize("percentile", [50.0, 99.0, 99.9, 99.99, 100.0])
def test_percentile_is_the_value_of_that_rank_to_one_bin(percentile):
    values = heavy_tailed()
    histogram = histogram_of(values)
    rank = math.ceil(round(percentile * len(values) / 100, 6))
    expected = float(np.sort(np.abs(values))[rank - 1])
    found = observed_range(histogram, Observer.PERCENTILE, percentile=percentile)
    assert expected <= found + 1e-12
    assert found <= expected + histogram.width


def test_percentile_counts_exact_zeros():
    histogram = histogram_of(np.concatenate([np.zeros(990), np.arange(1, 11)]).astype(np.float32))
    found = observed_range(histogram, Observer.PERCENTILE, percentile=99.5)
    assert found == pytest.approx(5, abs=histogram.width)
    # More zeros than the percentage asks for: the range is small, and above zero.
    assert 0 < observed_range(histogram, Observer.PERCENTILE, percentile=90) <= 0.01


@pytest.mark.parametrize("power", [2.0, 2.4, 4.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_mse_finds_the_range_that_brute_force_finds(power, seed):
    values = heavy_tailed(seed=seed)
    peak = float(np.abs(values).max())
    least = min(quantization_error(values, peak * k / 400, power) for k in range(8, 401, 2))
    found = observed_range(histogram_of(values), Observer.MSE, power=power)
    # Neighbouring candidates are 2 % apart.
    assert quantization_error(values, found, power) <= (1 + 0.01 * power) * least


def test_a_higher_power_clips_less():
    histogram = histogram_of(heavy_tailed())
    ranges = [observed_range(histogram, Observer.MSE, power=power) for power in (1.5, 2.0, 2.4, 3.0, 6.0)]
    assert ranges == sorted(ranges)
    assert ranges[0] < ranges[-1]


def test_divergence_agrees_with_the_definition_written_as_loops():
    rng = np.random.default_rng(3)
    counts = rng.poisson(np.exp(-np.arange(400) / 60) * 40).astype(np.float64)
    for size in (128, 131, 200, 399):
        p = [counts[i] for i in range(size)]
        p[-1] += counts[size:].sum()
        q = [0.0] * size
        for level in range(128):
            members = range(level * size // 128, (level + 1) * size // 128)
            filled = [i for i in members if counts[i] > 0]
            for i in filled:
                q[i] = sum(counts[j] for j in members) / len(filled)
        if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
            expected = math.inf
        else:
            pairs = [(a / sum(p), b / sum(q)) for a, b in zip(p, q, strict=True) if a > 0]
            expected = sum(a * math.log(a / b) for a, b in pairs)
        assert clipped_divergence(counts, size) == pytest.approx(expected, rel=1e-9)


def test_entropy_ignores_one_outlier_and_keeps_all_of_a_uniform_distribution():
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, 200_000).astype(np.float32)
    assert observed_range(histogram_of(values), Observer.ENTROPY) == pytest.approx(1.0, rel=0.01)
    with_outlier = histogram_of(values, np.array([8.0], np.float32))
    assert observed_range(with_outlier, Observer.MINMAX) == 8.0
    assert observed_range(with_outlier, Observer.ENTROPY) < 1.2


@given(
    seed=st.integers(0, 2**31 - 1),
    cuts=st.lists(st.integers(0, 500), max_size=6),
    exponent=st.integers(-120, 120),
)
@settings(max_examples=40, deadline=None)
def test_the_result_does_not_depend_on_batches_or_their_order(seed, cuts, exponent):
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal(500) * rng.choice([0, 1e-3, 1, 30], 500)).astype(np.float32)
    values = np.ldexp(values, exponent)
    whole = histogram_of(values)
    pieces = np.split(rng.permutation(values), sorted(cuts))
    split = histogram_of(*pieces)
    assert np.array_equal(whole.counts, split.counts)
    assert (whole.zeros, whole.peak, whole.width) == (split.zeros, split.peak, split.width)
    assert whole.total == 500


def test_counts_are_those_of_numpy():
    values = heavy_tailed()
    histogram = histogram_of(*np.array_split(values, 7))
    edges = np.arange(BINS + 1) * histogram.width
    assert np.array_equal(histogram.counts, np.histogram(np.abs(values), edges)[0])


@pytest.mark.parametrize("observer", list(Observer))
@pytest.mark.parametrize("exponent", [-140, -100, 0, 100, 120])
def test_ranges_follow_the_magnitude_of_the_data(observer, exponent):
    values = heavy_tailed(5000)
    if exponent < -120:  # subnormal numbers keep a few digits only
        values = np.round(values)
    reference = observed_range(histogram_of(values), observer, percentile=99.9)
    scaled = np.ldexp(values, exponent).astype(np.float32)
    found = observed_range(histogram_of(scaled), observer, percentile=99.9)
    assert found == pytest.approx(math.ldexp(reference, exponent), rel=1e-6)


@pytest.mark.parametrize("observer", list(Observer))
def test_a_range_that_grows_by_sixty_decades_is_still_a_range(observer):
    histogram = histogram_of(np.full(10, 1e-30, np.float32), np.full(3, 1e30, np.float32))
    found = observed_range(histogram, observer, percentile=99.9)
    assert 0 < found <= np.float32(1e30)


@pytest.mark.parametrize("observer", list(Observer))
def test_the_range_of_zeros_is_zero(observer):
    assert observed_range(histogram_of(np.zeros((2, 3), np.float32)), observer, percentile=99.9) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(InputError, match="NaN or infinity"):
        histogram_of(np.array([1.0, bad], np.float32))


def test_no_values_and_no_percentage_are_refused():
    with pytest.raises(InputError, match="calibration data is empty"):
        observed_range(histogram_of(np.zeros(0, np.float32)), Observer.MINMAX)
    with pytest.raises(InputError, match="needs a percentage"):
        observed_range(histogram_of(np.ones(3, np.float32)), Observer.PERCENTILE)


def test_half_precision_values_are_counted_like_others():
    values = heavy_tailed().astype(np.float16)
    assert histogram_of(values).peak == np.abs(values).max()


def test_weight_ranges_are_those_of_brute_force_row_by_row():
    rng = np.random.default_rng(5)
    rows = rng.standard_t(4, (6, 300)) * np.array([[1e-20], [1e-3], [1], [3], [1e20], [0]])
    found = mse_ranges(rows)
    assert found[-1] == 0
    for row, limit in zip(rows[:-1], found[:-1], strict=True):
        peak = float(np.abs(row).max())
        unit = row / peak
        least = min(quantization_error(unit, k / 500) for k in range(250, 501))
        assert quantization_error(unit, limit / peak) <= 1.02 * least
        assert 0.5 * peak <= limit <= peak
