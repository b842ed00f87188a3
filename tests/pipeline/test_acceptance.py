"""What a file must show before it is published: each check passes the right one and refuses the wrong one."""

from __future__ import annotations

import numpy as np
import pytest

from hasn_edge.errors import VerificationError
from hasn_edge.pipeline.acceptance import check_batch, check_levels, check_static
from tests.support.fake_session import FakeSession


class Mixing(FakeSession):
    """Lets images that come together see each other, as an average over the wrong axes would."""

    def _run(self, x_NCHW):
        return super()._run(x_NCHW) * np.float32(0.5) + np.float32(0.5) * x_NCHW.mean(dtype=np.float32)


def test_images_that_see_each_other_are_refused():
    check_batch(FakeSession())
    with pytest.raises(VerificationError, match="three images at a time come out other than each alone"):
        check_batch(Mixing())
    check_static(FakeSession, FakeSession, (20, 20), count=2)
    with pytest.raises(VerificationError, match=r"\(20x20, 2 at a time\) is too far"):
        check_static(FakeSession, Mixing, (20, 20), count=2)


class Rounding(FakeSession):
    """Rounds ``share`` of the levels by ``by`` too high."""

    def __init__(self, share: float, by: int) -> None:
        super().__init__()
        self.share, self.by = share, by

    def run_pixels(self, x_NHWC):
        y = super().run_pixels(x_NHWC)
        chosen = np.random.default_rng(3).random(y.shape) < self.share
        return np.where(chosen, y.astype(int) + np.where(y > 100, -self.by, self.by), y).astype(np.uint8)


@pytest.mark.parametrize(
    ("share", "by", "good"), [(0, 1, True), (5e-4, 1, True), (5e-3, 1, False), (1e-4, 2, False)]
)
def test_ties_of_rounding_pass_and_nothing_else(share, by, good):
    if good:
        measured, _ = check_levels(FakeSession(), Rounding(share, by))
        assert measured.largest <= 1
    else:
        with pytest.raises(VerificationError, match="nothing was written"):
            check_levels(FakeSession(), Rounding(share, by))
