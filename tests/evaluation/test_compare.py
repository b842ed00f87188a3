"""Agreement of two sessions, against scikit-image and hand-computed cases, and every way to miss a budget."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from hasn_edge.errors import InputError, VerificationError
from hasn_edge.evaluation.compare import BUDGETS, Agreement, Budget, compare
from hasn_edge.runtime.session import Session
from hasn_edge.spec import ModelSpec, Precision
from tests.support.fake_session import FakeSession

SPEC = ModelSpec(features=8, blocks=1)
ANY = Budget(max_abs=math.inf)


class Spoiled(FakeSession):
    """Adds to every output value what ``spoil`` makes of the input."""

    def __init__(self, spoil):
        super().__init__(SPEC)
        self.spoil = spoil

    def _run(self, x_NCHW):
        y = super()._run(x_NCHW).copy()
        self.spoil(y)
        return y


def batches(*shapes):
    rng = np.random.default_rng(5)
    return [rng.random(shape, dtype=np.float32) for shape in shapes]


def test_equal_sessions_agree_exactly():
    agreement = compare(FakeSession(SPEC), FakeSession(SPEC), batches((2, 3, 15, 16), (1, 3, 20, 15)))
    assert agreement == Agreement(
        max_abs=0, psnr_db=math.inf, worst_psnr_db=math.inf, worst=0, images=3, not_finite=0
    )
    agreement.require(Budget(max_abs=0, min_psnr_db=200), what="itself")
    assert agreement.to_dict()["psnr_db"] is None  # JSON has no infinity


def test_figures_are_scikit_images():
    noise = np.random.default_rng(7).normal(0, 0.02, (3, 3, 64, 80)).astype(np.float32)
    noise[1] *= 2  # the worst image is the second

    def spoil(y):
        y += noise

    inputs = batches((3, 3, 16, 20))
    agreement = compare(FakeSession(SPEC), Spoiled(spoil), inputs)
    right = FakeSession(SPEC).run(inputs[0]).astype(np.float64)
    wrong = Spoiled(spoil).run(inputs[0]).astype(np.float64)
    assert agreement.psnr_db == pytest.approx(peak_signal_noise_ratio(right, wrong, data_range=1), abs=1e-9)
    assert agreement.worst == 1
    assert agreement.worst_psnr_db == pytest.approx(
        peak_signal_noise_ratio(right[1], wrong[1], data_range=1), abs=1e-9
    )
    assert agreement.max_abs == pytest.approx(np.abs(wrong - right).max(), abs=1e-9)


def test_one_bad_image_is_not_averaged_away():
    def spoil(y):
        if y.shape[2] == 60:
            y += np.float32(0.1)

    agreement = compare(FakeSession(SPEC), Spoiled(spoil), batches(*[(1, 3, 16, 16)] * 99, (1, 3, 15, 15)))
    assert agreement.psnr_db > 39
    assert (agreement.worst, agreement.images) == (99, 100)
    with pytest.raises(
        VerificationError, match=r"PSNR 20\.00 dB, at least 30\.00 .*of 100 images: number 99"
    ):
        agreement.require(Budget(max_abs=1, min_psnr_db=30), what="the graph")


def test_the_worst_image_is_the_one_of_the_lowest_psnr_whatever_its_size():
    def spoil(y):
        y += np.float32(0.1 if y.shape[2] == 60 else 0.05)

    agreement = compare(FakeSession(SPEC), Spoiled(spoil), batches((1, 3, 15, 15), (1, 3, 64, 48)))
    assert agreement.worst == 0  # the other's squares add up to more
    assert agreement.worst_psnr_db == pytest.approx(20, abs=1e-4)


def test_budget_is_inclusive_and_each_half_counts():
    agreement = Agreement(max_abs=0.25, psnr_db=40, worst_psnr_db=30, worst=0, images=1)
    agreement.require(Budget(max_abs=0.25, min_psnr_db=30), what="x")
    with pytest.raises(
        VerificationError, match=r"the INT8 graph is too far .*difference 0\.25, at most 0\.2 "
    ):
        agreement.require(Budget(max_abs=0.2), what="the INT8 graph")
    with pytest.raises(VerificationError, match=r"difference 0\.25.*PSNR 30\.00 dB, at least 31\.00 dB"):
        agreement.require(Budget(max_abs=0.2, min_psnr_db=31), what="x")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_fail_every_budget(value):
    def spoil(y):
        if y.shape[2] == 64:
            y[-1, 0, 3, 4:6] = value

    agreement = compare(FakeSession(SPEC), Spoiled(spoil), batches((1, 3, 15, 15), (2, 3, 16, 16)))
    assert (agreement.not_finite, agreement.worst, agreement.images) == (2, 2, 3)
    with pytest.raises(
        VerificationError,
        match=r"the engine: its output is not finite .* in 2 values, first in image 2; .* wider",
    ):
        agreement.require(ANY, what="the engine")
    assert agreement.to_dict()["max_abs"] is None


def test_a_reference_that_is_broken_proves_nothing():
    def spoil(y):
        y[0, 0, 0, 0] = np.nan

    with pytest.raises(VerificationError, match=r"reference \(fake fp32\) .* not finite; the checkpoint"):
        compare(Spoiled(spoil), Spoiled(spoil), batches((1, 3, 15, 15)))


def test_no_batches_prove_nothing():
    used_up = iter(batches((1, 3, 15, 15)))
    compare(FakeSession(SPEC), FakeSession(SPEC), used_up)
    with pytest.raises(InputError, match="no batch; pass a list where the generator may be used up"):
        compare(FakeSession(SPEC), FakeSession(SPEC), used_up)


def test_other_scale_is_refused():
    with pytest.raises(InputError, match="different scale: 4 and 2"):
        compare(FakeSession(SPEC), FakeSession(ModelSpec(scale=2)), batches((1, 3, 15, 15)))


def test_verification_errors_exit_with_three():
    assert VerificationError("").exit_code == 3


def test_every_precision_has_a_budget():
    assert set(BUDGETS) == set(Precision)
    assert isinstance(FakeSession(SPEC), Session)
