"""Where tiles lie and how they are weighed: every output sample counted once, whatever the sizes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from hasn_edge.runtime.tiling import (
    SMALLEST_TILE,
    Size,
    TileGrid,
    starts,
    tile_for,
    weights,
)


@st.composite
def axes(draw):
    tile = draw(st.integers(1, 40))
    return draw(st.integers(1, 200)), tile, draw(st.integers(0, tile - 1))


@given(axes())
@example((100, 40, 39))
@example((41, 40, 0))
def test_tiles_cover_the_axis_and_overlap_enough(axis):
    length, tile, overlap = axis
    begins = starts(length, tile, overlap)
    if length <= tile:
        assert begins == (0,)
        return
    assert begins[0] == 0
    assert begins[-1] == length - tile  # the last one ends with the frame, at full size
    shared = [a + tile - b for a, b in pairwise(begins)]
    assert min(shared) >= overlap
    # One tile less cannot cover the axis with that overlap.
    assert tile + (len(begins) - 2) * (tile - overlap) < length


def test_tiles_are_spread_evenly():
    assert starts(100, 40, 10) == (0, 30, 60)
    assert starts(101, 40, 10) == (0, 20, 41, 61)


@given(axes(), st.sampled_from([1, 2, 3, 4]), st.booleans())
@example((100, 40, 39), 2, True)
def test_weights_add_up_to_one_everywhere(axis, scale, blend):
    length, tile, overlap = axis
    begins = starts(length, tile, overlap)
    size = min(length, tile)
    total = np.zeros(length * scale)
    for begin, weight in zip(begins, weights(begins, size, scale=scale, blend=blend), strict=True):
        assert weight.shape == (size * scale,)
        assert weight.dtype == np.float32
        assert weight.min() >= 0
        if not blend:
            assert set(np.unique(weight)) <= {0.0, 1.0}
        total[begin * scale : (begin + size) * scale] += weight
    np.testing.assert_allclose(total, 1, rtol=0, atol=2e-7)


def test_cut_lies_in_the_middle_and_the_ramp_is_linear():
    begins = starts(14, 8, 2)
    assert begins == (0, 6)
    left, right = weights(begins, 8, scale=2, blend=False)
    np.testing.assert_array_equal(left, [1] * 14 + [0, 0])
    np.testing.assert_array_equal(right, [0, 0] + [1] * 14)
    left, right = weights(begins, 8, scale=2, blend=True)
    np.testing.assert_allclose(right[:5], [1 / 8, 3 / 8, 5 / 8, 7 / 8, 1])
    np.testing.assert_allclose(left[11:], [1, 7 / 8, 5 / 8, 3 / 8, 1 / 8])


@given(st.integers(15, 4000), st.integers(15, 4000), st.integers(1, 4_000_000), st.integers(0, 48))
def test_the_tile_fits_and_covers(height, width, pixels, overlap):
    frame = Size(height, width)
    tile = tile_for(frame, pixels, overlap=overlap, minimum=15)
    plan = TileGrid(frame=frame, tile=tile, overlap=overlap)
    least = max(SMALLEST_TILE, 2 * overlap)
    assert tile.height * tile.width <= max(pixels, least * least)
    assert min(height, 15) <= tile.height <= height
    assert min(width, 15) <= tile.width <= width
    if height * width <= pixels:
        assert tile == frame
        assert plan.tiles == 1
    # What is computed twice stays small where tiles are much larger than their overlap.
    if pixels > 500 * 500 and overlap <= 16:
        assert plan.tiles * tile.height * tile.width <= 1.25 * height * width


def test_full_hd_in_two_gigabytes():
    tile = tile_for(Size(1080, 1920), 400_000, overlap=16, minimum=15)
    plan = TileGrid(frame=Size(1080, 1920), tile=tile, overlap=16)
    assert (str(tile), plan.tiles) == ("651x548", 6)
