"""What ships is what its card says: the figures are measured again on the shipped files."""

import re

import pytest
import torch

from hasn_edge.data.pairs import load_eval_set
from hasn_edge.evaluation.evaluate import score_images
from hasn_edge.model.checkpoint import load_checkpoint
from hasn_edge.model.zoo import DEFAULT_MODEL, bundled_models, model_path
from hasn_edge.train.recipe import load_recipe


def card(name) -> str:
    return model_path(name).with_suffix(".md").read_text(encoding="utf-8")


@pytest.fixture(params=bundled_models())
def name(request) -> str:
    return request.param


def test_the_file_is_small_and_readable_by_everybody(name):
    status = model_path(name).stat()
    assert status.st_size <= 4_000_000
    assert status.st_mode & 0o044 == 0o044


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["Set5", "Set14"])
def test_the_figures_of_card_and_file_are_what_the_file_gives(name, dataset, shared_data):
    checkpoint = load_checkpoint(model_path(name))
    model = checkpoint.model()

    def run(x):
        with torch.inference_mode():
            return model(torch.from_numpy(x)).numpy()

    score = score_images(run, load_eval_set((dataset, shared_data / "eval" / dataset), 4), keep_outputs=False)
    said = checkpoint.provenance["scores"][dataset]
    assert said["psnr_y"] == pytest.approx(score.psnr_y, abs=2e-3)
    assert said["ssim_y"] == pytest.approx(score.ssim_y, abs=2e-4)
    ((psnr, ssim),) = re.findall(rf"^\| {dataset} \|.* \*\*([\d.]+) / ([\d.]+)\*\* \|", card(name), re.M)
    assert (float(psnr), float(ssim)) == (round(score.psnr_y, 2), round(score.ssim_y, 4))


def test_the_file_names_its_recipe_data_and_iterations(name):
    provenance = load_checkpoint(model_path(name)).provenance
    recipe = load_recipe(provenance["recipe"])
    assert load_checkpoint(model_path(name)).spec == recipe.model
    assert provenance["iterations"] <= provenance["settings"]["iterations"]
    assert len(provenance["data"]["fingerprint"]) == 64
    assert {"torch", "hasn-edge", "python"} <= provenance["versions"].keys()
    for fact in (f"{provenance['iterations']:,}", provenance["data"]["fingerprint"][:16]):
        assert fact in card(name)


def test_the_default_is_the_better_one_on_set5():
    best = max(
        bundled_models(), key=lambda n: load_checkpoint(model_path(n)).provenance["scores"]["Set5"]["psnr_y"]
    )
    assert best == DEFAULT_MODEL
