"""The images that cases are scored on."""

from __future__ import annotations

import numpy as np
import pytest

from hasn_edge.artifact import publish
from hasn_edge.bench.scores import eval_sets, mosaic, takes_whole
from hasn_edge.data.pairs import shipped_eval_set
from hasn_edge.errors import InputError
from hasn_edge.images.codec import write_image
from hasn_edge.sidecar import Kind
from hasn_edge.spec import ModelSpec, Precision
from tests.support.samples import details_of


def profile(low: tuple[int, int], high: tuple[int, int], *, pixels: bool = False) -> dict[str, list[int]]:
    shapes = {"min": low, "opt": high, "max": high}
    return {key: [1, *size, 3] if pixels else [1, 3, *size] for key, size in shapes.items()}


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


@pytest.mark.parametrize(
    ("kind", "facts", "whole"),
    [
        (Kind.ONNX, {}, True),
        (Kind.ONNX, {"size": [60, 60]}, False),
        (Kind.ENGINE, {"size": [60, 60]}, False),
        (Kind.ENGINE, {"profile": profile((60, 60), (60, 60))}, True),
        (Kind.ENGINE, {"profile": profile((61, 32), (90, 90))}, False),
        (Kind.ENGINE, {"profile": profile((32, 32), (90, 59))}, False),
        (Kind.ENGINE, {"profile": profile((60, 60), (60, 60), pixels=True), "pixels": True}, True),
        (Kind.ENGINE, {"profile": profile((32, 32), (90, 59), pixels=True), "pixels": True}, False),
    ],
)
def test_images_that_a_file_pads_or_cuts_are_found_by_its_range(tmp_path, kind, facts, whole):
    artifact = publish(
        b"file", tmp_path / f"net{kind.suffix}", spec=ModelSpec(), precision=Precision.FP16, source="0" * 64,
        details=details_of(kind, **facts),
    )  # fmt: skip
    assert takes_whole(artifact, [shipped_eval_set(4)]) is whole  # all are 60 x 60


def test_an_image_below_what_the_network_takes_is_padded_by_every_file(tmp_path):
    write_image(tmp_path / "S/a.png", np.zeros((40, 40, 3), np.uint8))
    artifact = publish(
        b"file", tmp_path / "net.engine", spec=ModelSpec(), precision=Precision.FP16, source="0" * 64,
        details=details_of(Kind.ENGINE, profile=profile((15, 15), (60, 60))),
    )  # fmt: skip
    sets = eval_sets([f"S={tmp_path / 'S'}"], 4)
    assert sets[0].pairs[0].lr().shape == (10, 10, 3)
    assert takes_whole(artifact, sets)
