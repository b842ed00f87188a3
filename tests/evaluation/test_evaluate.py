"""Published figures come out of score_images, the self-ensemble is one, and drift says what changed."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from hasn_edge.data.pairs import EvalSet, bicubic_baseline, load_eval_set
from hasn_edge.errors import InputError, ShapeError
from hasn_edge.evaluation.evaluate import Scores, drift, score_images, score_session
from hasn_edge.images.arrays import to_tensor
from hasn_edge.images.codec import write_image
from hasn_edge.progress import Step
from hasn_edge.runtime.upscaler import ensemble
from tests.support.fake_session import FakeSession


@pytest.fixture
def eval_set(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        smooth = np.add.outer(np.arange(32), np.arange(40))[..., None] * [1, 2, 3]
        pixels = np.clip(smooth + rng.normal(0, 9, (32, 40, 3)), 0, 255).astype(np.uint8)
        write_image(tmp_path / "tiny" / f"{name}.png", pixels)
    return load_eval_set(tmp_path / "tiny", 4)


def _brighter(by):
    baseline = bicubic_baseline(4)
    return lambda x: baseline(x) + np.float32(by / 255)


@pytest.fixture(scope="module")
def official(shared_data):
    import torch

    from hasn_edge.model.zoo import load_model

    network = load_model(shared_data / "upstream" / "HASN.pth")

    def run(x):
        with torch.inference_mode():
            return network(torch.from_numpy(x)).numpy()

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ensemble", "psnr", "ssim"),
    [("Set5", False, 32.181, 0.8948), ("Set14", False, 28.608, 0.7814), ("Set5", True, 32.242, 0.8956)],
)
def test_the_official_network_reaches_its_published_figures(
    shared_data, official, name, ensemble, psnr, ssim
):
    eval_set = load_eval_set(f"{name}={shared_data / 'eval' / name}", 4)
    scores = score_images(official, eval_set, self_ensemble=ensemble, keep_outputs=False)
    assert scores.psnr_y == pytest.approx(psnr, abs=0.001)
    assert scores.ssim_y == pytest.approx(ssim, abs=0.0001)


def test_bicubic_reaches_its_published_figures(shared_data):
    scores = score_images(bicubic_baseline(4), load_eval_set(f"Set5={shared_data}/eval/Set5", 4))
    assert scores.psnr_y == pytest.approx(28.43, abs=0.005)
    assert scores.ssim_y == pytest.approx(0.811, abs=0.0005)


def test_scores(eval_set):
    seen = []
    scores = score_images(bicubic_baseline(4), eval_set, progress=seen.append)
    assert seen == [Step("one", 1, 2), Step("two", 2, 2)]
    assert [score.name for score in scores.images] == ["one", "two"]
    assert scores.border == 4
    assert scores.psnr_y == pytest.approx(np.mean([score.psnr_y for score in scores.images]))
    assert scores.ssim_y == pytest.approx(np.mean([score.ssim_y for score in scores.images]))
    for score, pair in zip(scores.images, eval_set, strict=True):
        assert (score.output.shape, score.output.dtype) == (pair.hr().shape, np.uint8)
    bare = score_images(bicubic_baseline(4), eval_set, keep_outputs=False)
    assert bare == scores
    assert all(score.output is None for score in bare.images)
    content = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert content["images"][1]["psnr_y_db"] == scores.images[1].psnr_y


def test_perfect_images_have_no_infinity_in_json_and_do_not_hide_the_others(eval_set):
    truth = {to_tensor(pair.lr()).tobytes(): to_tensor(pair.hr()) for pair in eval_set}
    perfect = score_images(lambda x: truth[x.tobytes()], eval_set)
    assert perfect.psnr_y == math.inf
    assert perfect.ssim_y == pytest.approx(1)
    assert json.loads(json.dumps(perfect.to_dict(), allow_nan=False))["psnr_y_db"] is None
    baseline = bicubic_baseline(4)
    first = to_tensor(eval_set.pairs[0].lr()).tobytes()
    mixed = score_images(lambda x: truth[first] if x.tobytes() == first else baseline(x), eval_set)
    assert mixed.psnr_y == mixed.images[1].psnr_y
    changed = drift(perfect, mixed)
    assert changed.worst_image == "two"
    assert changed.worst_dpsnr == pytest.approx(mixed.images[1].psnr_y - 100)
    assert changed.fidelity_psnr < 100


def test_drift_in_closed_form(eval_set):
    reference = score_images(bicubic_baseline(4), eval_set)
    same = drift(reference, score_images(bicubic_baseline(4), eval_set))
    assert (same.dpsnr, same.dssim, same.fidelity_psnr) == (0, 0, math.inf)

    candidate = score_images(_brighter(3), eval_set)
    found = drift(reference, candidate)
    changed = [
        np.mean(np.square(b.output.astype(float) - a.output))
        for a, b in zip(reference.images, candidate.images, strict=True)
    ]
    expected = [10 * math.log10(255**2 / error) for error in changed]
    assert found.fidelity_psnr == pytest.approx(np.mean(expected))
    assert [image.fidelity_psnr for image in found.images] == pytest.approx(expected)
    assert found.dpsnr == pytest.approx(candidate.psnr_y - reference.psnr_y)
    assert found.dpsnr < 0
    assert found.dssim == pytest.approx(candidate.ssim_y - reference.ssim_y)
    assert found.worst_dpsnr == min(item.dpsnr for item in found.images)


def test_scores_state_what_was_computed_in_tiles_and_drift_refuses_to_compare_it(tmp_path, monkeypatch):
    monkeypatch.setattr("hasn_edge.runtime.upscaler.default_limit_bytes", lambda: 6_000_000)
    pixels = np.random.default_rng(0).integers(0, 256, (280, 360, 3), np.uint8)
    for name, image in (("large", pixels), ("small", pixels[:32, :40])):
        write_image(tmp_path / "S" / f"{name}.png", image)
    images, seen = load_eval_set(tmp_path / "S", 4), []
    tiled = score_session(FakeSession(), images, progress=seen.append)
    assert [step.text for step in seen] == ["large", "small"]
    tile = tiled.tiled["large"].tile
    assert tiled.to_dict()["tiled"] == {
        "large": {"tile": {"height": tile.height, "width": tile.width}, "reason": "memory"}
    }
    session = FakeSession()
    whole = score_session(session, images, whole=True)
    assert session.calls[0] == (1, 3, 70, 90)
    assert whole.tiled == whole.to_dict()["tiled"] == {}
    assert drift(tiled, tiled).dpsnr == 0
    with pytest.raises(
        InputError, match=rf"S/large was computed whole by the reference and in tiles of {tile} by"
    ):
        drift(whole, tiled)


def test_the_self_ensemble_visits_all_eight_and_averages_before_rounding():
    x = np.random.default_rng(0).random((1, 3, 3, 5), dtype=np.float32)
    seen = []

    def run(x_NCHW):
        assert x_NCHW.flags.c_contiguous
        seen.append(x_NCHW)
        y = x_NCHW.repeat(2, axis=2).repeat(2, axis=3)
        y[0, :, 0, 0] += 0.8  # a corner that knows which way is up
        return y

    y = ensemble(run)(x)
    views = [t for f in (x, np.flip(x, 3)) for t in (np.rot90(f, k, (2, 3)) for k in range(4))]
    assert len(seen) == 8
    assert all(any(np.array_equal(s, v) for s in seen) for v in views)
    expected = x.repeat(2, axis=2).repeat(2, axis=3)
    expected[0, :, [0, 0, -1, -1], [0, -1, 0, -1]] += 0.2  # each corner is first in two of the eight
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_an_equivariant_function_is_not_changed_by_the_ensemble(eval_set):
    plain = score_images(bicubic_baseline(4), eval_set)
    both = score_images(bicubic_baseline(4), eval_set, self_ensemble=True)
    assert both.self_ensemble
    # MATLAB's two passes round in between, and rows go first: a level apart here and there.
    assert min(image.fidelity_psnr for image in drift(plain, both).images) > 50


def test_what_cannot_be_measured_is_named(eval_set, tmp_path):
    with pytest.raises(
        InputError, match=r"tiny/one: expected an output of \(1, 3, 32, 40\) at x4, got .*16, 20"
    ):
        score_images(bicubic_baseline(2), eval_set)
    with pytest.raises(InputError, match="tiny/one: the network's output has values that are not numbers"):
        score_images(_brighter(float("nan")), eval_set)
    write_image(tmp_path / "small" / "one.png", eval_set.pairs[0].hr()[:16, :16])
    with pytest.raises(ShapeError, match="small/one: SSIM needs .* at least 11 x 11"):
        score_images(bicubic_baseline(4), load_eval_set(tmp_path / "small", 4))
    with pytest.raises(InputError, match="set none has no images"):
        score_images(bicubic_baseline(4), EvalSet(name="none", scale=4, pairs=()))


def test_drift_of_things_that_do_not_compare(eval_set):
    scores = score_images(bicubic_baseline(4), eval_set)
    with pytest.raises(InputError, match="keep_outputs=True"):
        drift(scores, score_images(bicubic_baseline(4), eval_set, keep_outputs=False))
    with pytest.raises(InputError, match=r"border 4\) and tiny \(2 images, border 0"):
        drift(scores, replace(scores, border=0))
    shorter = Scores(name="other", images=scores.images[:1], border=4)
    with pytest.raises(InputError, match=r"other \(1 image,"):
        drift(scores, shorter)
