"""``eval``: several models and files in one table, with bicubic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import hasn_edge
from hasn_edge.cli import cli
from hasn_edge.data.pairs import bicubic_baseline, load_eval_set
from hasn_edge.evaluation.evaluate import score_images
from hasn_edge.images.codec import write_image
from hasn_edge.model.checkpoint import save_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import ModelSpec


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    random = np.random.default_rng(0)
    for index in range(2):
        write_image(folder / f"photos/{index}.png", random.integers(256, size=(80, 96, 3), dtype=np.uint8))
    for seed, name in enumerate(("a/net", "b/net", "x2")):
        torch.manual_seed(seed)
        model = HASN(ModelSpec(features=8, blocks=1, scale=2 if name == "x2" else 4))
        save_checkpoint(folder / f"{name}.safetensors", model)
    hasn_edge.export(folder / "a/net.safetensors", output=folder / "engines")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["eval", *map(str, arguments)], prog_name="hasn-edge")


def figures(result: Result) -> dict[str, list[str]]:
    """The rows of the first table: a name, and the numbers behind it."""
    table = result.stdout.partition("\n\n")[0].splitlines()
    rows = [
        line.rsplit(maxsplit=2) for line in table[table.index(next(t for t in table if "───" in t)) + 1 :]
    ]
    return {name.strip(): numbers for name, *numbers in rows}


@pytest.mark.slow
def test_models_and_files_are_rows_below_bicubic(files, tmp_path):
    a, b, file = files / "a/net.safetensors", files / "b/net.safetensors", files / "engines/net-fp32.onnx"
    data = f"P={files / 'photos'}"
    result = run(
        "--model", a, "--model", b, "--artifact", file, "--data", data, "--json", tmp_path / "e.json"
    )
    assert result.exit_code == 0, result.output
    names = [
        "bicubic",
        "a/net.safetensors (pytorch fp32)",
        "b/net.safetensors (pytorch fp32)",
        "net-fp32.onnx (onnxruntime fp32)",
    ]
    table = figures(result)
    assert list(table) == names
    expected = score_images(bicubic_baseline(4), load_eval_set(data, 4))
    assert table["bicubic"] == [f"{expected.psnr_y:.3f}", f"{expected.ssim_y:.4f}"]
    mine = hasn_edge.evaluate(b, data=data)
    assert table[names[2]] == [f"{mine.psnr_y:.3f}", f"{mine.ssim_y:.4f}"]
    assert table[names[3]] == table[names[1]], "the file was made of the first model"
    assert "P (2 images), x4" in result.stdout
    content = json.loads((tmp_path / "e.json").read_text())
    assert list(content["models"]) == names[1:]
    assert content["models"][names[2]]["P"]["psnr_y_db"] == pytest.approx(mine.psnr_y)
    assert content["bicubic"]["P"]["psnr_y_db"] == pytest.approx(expected.psnr_y)


def test_every_image_is_a_row_on_request(files):
    result = run("--model", files / "a/net.safetensors", "--data", f"P={files / 'photos'}", "--per-image")
    assert result.exit_code == 0, result.output
    images = [line.split() for line in result.stdout.splitlines() if line.split()[:1] in (["0"], ["1"])]
    assert [len(line) for line in images] == [5, 5]
    headings = result.stdout.partition("\n\n")[2].partition("───")[0].split()
    assert (headings.count("net.safetensors"), headings.count("fp32)")) == (2, 0), "what ran it is above"
    mean = np.mean([float(line[1]) for line in images])
    assert mean == pytest.approx(float(figures(result)["bicubic"][0]), abs=1.1e-3)


def test_networks_of_different_scale_have_no_common_set(files):
    result = run(
        "--model",
        files / "a/net.safetensors",
        "--model",
        files / "x2.safetensors",
        "--data",
        files / "photos",
    )
    assert result.exit_code == 1
    assert "x2.safetensors is for x2, and net.safetensors for x4" in result.stderr


@pytest.mark.parametrize("option", ["--model", "--artifact"])
def test_what_is_named_twice_is_refused_before_it_is_scored(files, monkeypatch, option):
    file = files / {"--model": "a/net.safetensors", "--artifact": "engines/net-fp32.onnx"}[option]
    monkeypatch.chdir(file.parent)
    result = run(option, file, option, file.name, "--data", f"P={files / 'photos'}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: {file.name} is named twice; expected each model and file once: figures go by names\n"
    )
