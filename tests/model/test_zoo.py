"""The models that ship: their files belong together, and what they are said to reach is what they reach."""

from __future__ import annotations

import re
import shutil

import pytest
import torch

from hasn_edge.artifact import load_artifact
from hasn_edge.data.pairs import load_eval_set
from hasn_edge.errors import CheckpointError
from hasn_edge.evaluation.evaluate import score_images
from hasn_edge.files import file_sha256
from hasn_edge.model import zoo
from hasn_edge.model.checkpoint import load_checkpoint, save_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import ModelSpec, Precision
from hasn_edge.train.recipe import load_recipe


@pytest.mark.parametrize("name", zoo.bundled_models())
def test_the_onnx_file_is_of_the_weights_beside_it(name):
    path = zoo.bundled_onnx(name)
    assert path is not None
    artifact = load_artifact(path)
    assert artifact.source == file_sha256(zoo.model_path(name)), (
        "make it again: hasn-edge build --precision fp32"
    )
    assert artifact.precision is Precision.FP32
    assert artifact.spec == zoo.load_model(name).spec


@pytest.mark.parametrize("name", zoo.bundled_models())
def test_files_are_small_and_have_a_card(name):
    for path in (zoo.model_path(name), zoo.bundled_onnx(name)):
        assert path.stat().st_size <= 4e6
        assert path.stat().st_mode & 0o044 == 0o044  # everybody may read it
    assert (zoo.WEIGHTS / f"{name}.md").read_text(encoding="utf-8").startswith(f"# {name}")


def test_the_default_is_bundled():
    assert zoo.DEFAULT_MODEL in zoo.bundled_models()


def test_provenance_is_read_without_tensors():
    provenance = zoo.bundled_provenance(zoo.DEFAULT_MODEL)
    assert provenance["iterations"] > 0
    assert provenance["scores"]["Set5"]["psnr_y"] > 28.5


@pytest.mark.parametrize("name", zoo.bundled_models())
def test_what_a_bundled_model_is_comes_from_its_files(name):
    found, model = zoo.describe_bundled(name), zoo.load_model(name)
    assert found.parameters == sum(each.numel() for each in model.parameters())
    assert f"{found.parameters:,} parameters" in " ".join(card(name).split())
    assert found.scale == model.spec.scale
    assert found.weights_bytes == zoo.model_path(name).stat().st_size
    for dataset in ("Set5", "Set14"):
        scores = found.scores[dataset]
        assert on_card(name, dataset) == (round(scores["psnr_y"], 2), round(scores["ssim_y"], 4))
    assert f"x{found.scale}" in found.purpose
    assert 20 < len(found.purpose) < 160


@pytest.mark.parametrize(
    ("suffix", "content", "match"),
    [
        (".md", "# m\n\nA network.\n", "m.md: damaged .it does not state what the model is for"),
        (".md", None, "m.md: damaged"),
        (".safetensors", "", "m.safetensors: damaged"),
    ],
)
def test_a_damaged_bundled_model_is_named(monkeypatch, tmp_path, suffix, content, match):
    for end in (".md", ".safetensors"):
        shutil.copy(zoo.WEIGHTS / f"hasn-x4-small{end}", tmp_path / f"m{end}")
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    assert zoo.describe_bundled("m").name == "m"
    (tmp_path / f"m{suffix}").unlink()
    if content is not None:
        (tmp_path / f"m{suffix}").write_text(content)
    with pytest.raises(CheckpointError, match=match):
        zoo.describe_bundled("m")


@pytest.mark.parametrize("find", [zoo.model_path, zoo.describe_bundled, zoo.bundled_provenance])
def test_unknown_name_lists_the_bundled(find):
    with pytest.raises(CheckpointError, match=f"^no model called 'hasn-x9'; bundled: .*{zoo.DEFAULT_MODEL}"):
        find("hasn-x9")


def card(name) -> str:
    return zoo.model_path(name).with_suffix(".md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dataset"),
    # Set14 of the smallest alone: the figures of one file come from one command.
    [*((name, "Set5") for name in zoo.bundled_models()), ("hasn-x4-small", "Set14")],
)
def test_the_figures_of_card_and_file_are_what_the_file_gives(name, dataset, shared_data):
    checkpoint = load_checkpoint(zoo.model_path(name))
    model = checkpoint.model()

    def run(x):
        with torch.inference_mode():
            return model(torch.from_numpy(x)).numpy()

    pairs = load_eval_set((dataset, shared_data / "eval" / dataset), checkpoint.spec.scale)
    score = score_images(run, pairs, keep_outputs=False)
    said = checkpoint.provenance["scores"][dataset]
    assert said["psnr_y"] == pytest.approx(score.psnr_y, abs=2e-3)
    assert said["ssim_y"] == pytest.approx(score.ssim_y, abs=2e-4)
    assert on_card(name, dataset) == (round(score.psnr_y, 2), round(score.ssim_y, 4))


def on_card(name, dataset) -> tuple[float, float]:
    last = r"\| (?:\*\*)?([\d.]+) / ([\d.]+)(?:\*\*)? \|$"  # bold where it is the best of its row
    ((psnr, ssim),) = re.findall(rf"^\| {dataset} \|.* {last}", card(name), re.M)
    return float(psnr), float(ssim)


@pytest.mark.parametrize("name", zoo.bundled_models())
def test_the_card_says_what_the_file_says_of_set14(name):
    said = zoo.bundled_provenance(name)["scores"]["Set14"]
    assert on_card(name, "Set14") == (round(said["psnr_y"], 2), round(said["ssim_y"], 4))


@pytest.mark.parametrize("name", zoo.bundled_models())
def test_the_file_names_its_recipe_data_and_iterations(name):
    provenance = load_checkpoint(zoo.model_path(name)).provenance
    recipe = load_recipe(provenance["recipe"])
    assert load_checkpoint(zoo.model_path(name)).spec == recipe.model
    assert provenance["iterations"] <= provenance["settings"]["iterations"]
    assert len(provenance["data"]["fingerprint"]) == 64
    assert {"torch", "hasn-edge", "python"} <= provenance["versions"].keys()
    for fact in (f"{provenance['iterations']:,}", provenance["data"]["fingerprint"][:16]):
        assert fact in card(name)


def test_the_default_is_the_better_one_on_set5():
    best = max(
        (name for name in zoo.bundled_models() if load_checkpoint(zoo.model_path(name)).spec.scale == 4),
        key=lambda n: load_checkpoint(zoo.model_path(n)).provenance["scores"]["Set5"]["psnr_y"],
    )
    assert best == zoo.DEFAULT_MODEL


def test_a_model_is_known_by_its_bytes():
    for name in zoo.bundled_models():
        assert zoo.bundled_by_hash(load_artifact(zoo.bundled_onnx(name)).source) == name
    assert zoo.bundled_by_hash("0" * 64) is None


def test_weights_of_runs_are_called_like_the_run(tmp_path):
    run = tmp_path / "photos at night"
    for folder in (run, tmp_path / "copied"):
        for name in ("best", "last", "mine"):
            save_checkpoint(
                folder / f"{name}.safetensors",
                HASN(ModelSpec(features=8, blocks=1)),
                provenance={"recipe": "hasn-x4/small"},
            )
    (run / zoo.RUN_FILE).write_text("{}")
    (run / "last.pth").write_bytes(b"")
    names = {
        run / "best.safetensors": "photos-at-night",
        run / "last.safetensors": "photos-at-night-last",
        run / "last.pth": "photos-at-night-last",
        run / "mine.safetensors": "mine",
        tmp_path / "copied" / "best.safetensors": "hasn-x4-small",
        tmp_path / "copied" / "last.safetensors": "hasn-x4-small-last",
        tmp_path / "nowhere" / "best.pth": "best",
    }
    assert {path: zoo.model_name(path) for path in names} == names
