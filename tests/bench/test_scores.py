"""The images that cases are scored on."""

from __future__ import annotations

import numpy as np
import pytest

from hasn_edge.bench.scores import eval_sets, mosaic
from hasn_edge.data.pairs import shipped_eval_set
from hasn_edge.errors import InputError


@pytest.mark.parametrize("size", [(180, 320), (48, 64), (37, 500)])
def test_a_mosaic_is_full_of_image(size):
    images = shipped_eval_set(4)
    (pair,) = mosaic(images, size)
    assert pair.lr().shape == (*size, 3)
    assert pair.hr().shape == (4 * size[0], 4 * size[1], 3)
    first = images.pairs[0].lr()
    height, width = (min(a, b) for a, b in zip(size, first.shape, strict=False))
    height, width = min(height, 16), min(width, 16)
    assert (pair.lr()[:height, :width] == first[:height, :width]).all()
    # Each LR pixel stands where its HR pixels are: reducing HR gives LR but for the seams.
    mean = pair.hr().reshape(size[0], 4, size[1], 4, 3).mean((1, 3))
    assert np.abs(mean - pair.lr()).mean() < 4


def test_two_sets_of_one_name_are_refused(tmp_path):
    folder = shipped_eval_set(4).pairs[0].hr_path.parent
    with pytest.raises(InputError, match="two sets are called a; name them apart, as NAME=DIR"):
        eval_sets([f"a={folder}", f"a={folder}"], 4)
    assert [one.name for one in eval_sets([f"a={folder}", f"b={folder}"], 4)] == ["a", "b"]
