"""What a file must show before it is published: each check passes the right one and refuses the wrong one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from hasn_edge.data.pairs import EvalSet, held_out_sets
from hasn_edge.errors import VerificationError
from hasn_edge.evaluation.evaluate import drift, score_session
from hasn_edge.pipeline.acceptance import Acceptance, check_batch, check_levels, check_static
from hasn_edge.spec import Precision
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


class Noisy(FakeSession):
    """As INT8 might be: adds a checkerboard of ``strength`` where the input is brighter than ``above``."""

    def __init__(self, strength: float, above: float = -1.0) -> None:
        super().__init__(precision=Precision.INT8)
        self.strength, self.above = np.float32(strength), above

    def _run(self, x_NCHW):
        y = super()._run(x_NCHW)
        board = np.indices(y.shape[2:]).sum(0) % 2 * 2 - 1
        return y + self.strength * board.astype(np.float32) * (y > self.above)


class OfFakes(Acceptance):
    """Two images a part, and a reference that only repeats pixels."""

    reference = FakeSession()

    def __init__(self) -> None:
        parts = (EvalSet(name=p.name, scale=p.scale, pairs=p.pairs[:2]) for p in held_out_sets(4))
        super().__init__(SimpleNamespace(spec=FakeSession().spec, provenance={}), tuple(parts), force=True)


def test_each_part_has_to_keep_its_mean_and_its_worst_image():
    of_fakes = OfFakes()
    quiet, loud = Noisy(0.01), Noisy(0.03)
    measured, notes = of_fakes.check(
        quiet, what="it", budget=(1.0, 5.0), optimized=loud, outside=[(0.01, "shipped"), (0.02, "drawn")]
    )
    assert [part.set for part in measured.parts] == ["shipped", "drawn"]
    for part, images in zip(measured.parts, of_fakes.held_out, strict=True):
        change = drift(score_session(FakeSession(), images), score_session(quiet, images))
        assert part.dpsnr_db == change.dpsnr < 0
        assert part.worst_dpsnr_db == change.worst_dpsnr
        assert part.optimized_dpsnr_db < part.dpsnr_db
        assert (part.budget_db, part.budget_worst_db, part.outside, part.outside_convolution) == (
            1.0, 5.0, 0.01 if part.set == "shipped" else 0.02, part.set,
        )  # fmt: skip
    assert ["(shipped)" in notes[0], "(drawn)" in notes[1]] == [True, True]
    with pytest.raises(VerificationError, match=r"\(shipped\).* over the budget of 0.001 dB"):
        of_fakes.check(quiet, what="it", budget=(0.001, 5.0))
    with pytest.raises(VerificationError, match="over the limit of 0.001 dB for one image"):
        of_fakes.check(quiet, what="it", budget=(1.0, 0.001))


def test_memory_that_is_used_up_changes_no_figure(monkeypatch):
    """Tiles of the reference or of the file would count as what INT8 costs."""
    usual = OfFakes().check(Noisy(0.01), what="it", budget=(1.0, 5.0))
    monkeypatch.setattr("hasn_edge.runtime.upscaler.default_limit_bytes", lambda: 3_000_000)
    monkeypatch.setattr("hasn_edge.runtime.tiling.SMALLEST_TILE", 16)
    of_fakes = OfFakes()
    assert score_session(FakeSession(), of_fakes.held_out[0]).tiled, "which is what would happen"
    optimized = Noisy(0.01)
    found, _ = of_fakes.check(Noisy(0.01), what="it", budget=(1.0, 5.0), optimized=optimized)
    assert not any(scores.tiled for scores in of_fakes.reference_scores)
    assert [part.dpsnr_db for part in found.parts] == [part.dpsnr_db for part in usual[0].parts]
    assert [part.optimized_dpsnr_db for part in found.parts] == [part.dpsnr_db for part in found.parts]


def test_what_only_drawn_images_lose_is_refused():
    with pytest.raises(VerificationError, match=r"\(drawn\).* over the budget of 0.1 dB"):
        OfFakes().check(Noisy(0.2, above=0.95), what="it", budget=(0.1, 5.0))


def test_ranges_that_do_not_fit_are_refused_whatever_the_dB():
    with pytest.raises(VerificationError, match="30.0% of what g reads there lies outside"):
        OfFakes().check(Noisy(0.0), what="it", budget=(1.0, 5.0), outside=[(0.3, "g"), (0, "")])


@pytest.mark.slow
def test_int8_of_what_is_worse_than_bicubic_takes_force(tiny, tmp_path):
    from hasn_edge.pipeline.api import build

    recipe = tmp_path / "loose.toml"
    recipe.write_text("budget_db = 5.0\n")
    message = r"this network reaches 1\d\.\d\d dB on the held-out images and bicubic interpolation 27\.8\d dB"
    options = {"precision": "int8", "recipe": recipe, "target": "cpu", "output": tmp_path / "out"}
    with pytest.raises(VerificationError, match=message) as refused:
        build(tiny, **options)
    assert "use force=True" in str(refused.value)
    assert not list((tmp_path / "out").glob("*"))
    assert build(tiny, **options, force=True).artifacts[0].precision.value == "int8"
    assert build(tiny, precision="fp16", target="cpu", output=tmp_path).artifacts, "FP16 is not refused"
