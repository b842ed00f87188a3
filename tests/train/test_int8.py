"""Training that rounds to INT8: resumed exactly, validated as the graph that is built of its weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hasn_edge.data.calibration import load_calibration
from hasn_edge.data.pairs import load_eval_set
from hasn_edge.errors import ConfigError
from hasn_edge.evaluation.evaluate import score_images
from hasn_edge.exporters.onnx_graph import Emulator
from hasn_edge.model.checkpoint import load_checkpoint
from hasn_edge.pipeline.graph_exporter import GraphExporter
from hasn_edge.quantize.fake_quant import RANGE_GAIN, fake_quantized
from hasn_edge.quantize.recipe import load_quant_recipe
from hasn_edge.sidecar import Form
from hasn_edge.spec import Precision
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.loop import Interrupted, train_run
from hasn_edge.train.recipe import Autocast, QuantizeConfig, load_recipe
from hasn_edge.train.run_folder import load_state, saved_iterations, state_path
from hasn_edge.train.runs import begin_run, resume_run

ALONE = DistributedContext(rank=0, size=1, device=torch.device("cpu"))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own


@pytest.fixture(scope="module")
def rounded(recipe, eval_folder, tmp_path_factory):
    """A training recipe that rounds by an INT8 recipe of its own."""
    path = tmp_path_factory.mktemp("recipe") / "int8.toml"
    keys = 'quantize = ["*"]\nkeep_float = ["*.attention.*"]\nshift = ["conv_1"]\nequalize = 0.6\n'
    keys += 'spread = []\nrounding = "nearest"\n'
    path.write_text(f'{keys}calibration = "{eval_folder / "HR"}"\n')
    return replace(
        recipe,
        iterations=6,
        optimizer=replace(recipe.optimizer, lr=1e-5),
        quantize=QuantizeConfig(recipe=str(path)),
    )


@pytest.mark.slow
def test_the_weights_make_the_graph_that_was_validated(rounded, shards, finished, eval_folder, tmp_path):
    start = str(finished[0] / "best.safetensors")
    options = {"data": [shards.folder], "sets": [f"Two={eval_folder}"], "start": start}
    through, stopped = tmp_path / "through", tmp_path / "stopped"
    train_run(through, begin_run(rounded, through, **options), ALONE)
    asked = iter([False] * 3 + [True])
    with pytest.raises(Interrupted, match="stopped after iteration 3"):
        train_run(stopped, begin_run(rounded, stopped, **options), ALONE, stop=lambda: next(asked))
    train_run(stopped, resume_run(stopped), ALONE)
    a, b = (load_state(state_path(each, saved_iterations(each)[0])) for each in (through, stopped))
    for part in ("model", "ema"):
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])

    last = load_checkpoint(through / "last.safetensors")
    assert last.spec == rounded.model
    recipe = load_quant_recipe(rounded.quantize.recipe)
    data = load_calibration(recipe.calibration)
    # What the weights state is the average's: where it began, times what its offsets stand for.
    begun = fake_quantized(load_checkpoint(Path(start)).model(), data, recipe)
    moved = {n: math.exp(RANGE_GAIN * float(a["ema"][f"pairs.{i}.offset"])) for n, i in begun._names.items()}
    bases = begun.ranges().values
    stated = last.provenance["int8"]["values"]
    assert stated == pytest.approx({name: bases[name] * moved[name] for name in bases}, rel=1e-6)
    assert max(abs(stated[name] / bases[name] - 1) for name in bases) > 1e-3
    exporter = GraphExporter.for_int8(last, ("norm_affine", "compose_esa"), data, recipe)
    ranges = exporter.measure_ranges(data, recipe)
    assert dict(ranges.values) == stated
    graph = exporter.export(Form.CPU, Precision.INT8, ranges=ranges, recipe=recipe)
    score = score_images(Emulator(graph, exact=True).run, load_eval_set(("Two", eval_folder), 4))
    assert last.provenance["scores"]["Two"]["psnr_y"] == pytest.approx(score.psnr_y, abs=5e-3)


def test_a_run_knows_its_int8_recipe_wherever_it_goes_on(rounded, shards, finished, tmp_path, monkeypatch):
    content = Path(rounded.quantize.recipe).read_text()
    (tmp_path / "mine.toml").write_text(content)
    monkeypatch.chdir(tmp_path)
    recipe = replace(rounded, quantize=QuantizeConfig(recipe="mine.toml"))
    start = str(finished[0] / "best.safetensors")
    begin_run(recipe, tmp_path / "run", data=[shards.folder], sets=[], start=start)
    run = resume_run(tmp_path / "run")
    assert run.recipe.quantize.recipe == str(tmp_path / "mine.toml")
    (tmp_path / "mine.toml").write_text(f"{content}percentile = 99.0\n")
    with pytest.raises(ConfigError, match=r"the INT8 recipe changed since the run began \(.*mine\.toml\)"):
        train_run(tmp_path / "run", run, ALONE)
    with pytest.raises(ConfigError, match="absent.toml: no such file"):
        absent = replace(rounded, quantize=QuantizeConfig(recipe="absent.toml"))
        begin_run(absent, tmp_path / "other", data=[shards.folder], sets=[], start=start)


def test_a_network_without_weights_is_not_rounded(rounded, shards, tmp_path):
    with pytest.raises(ConfigError, match="tiny rounds a trained network to INT8, so it needs weights"):
        begin_run(rounded, tmp_path / "run", data=[shards.folder], sets=[], start=None)
    with pytest.raises(ConfigError, match=r'autocast is "bf16", and rounding to INT8 \(quantize.recipe\)'):
        replace(rounded, autocast=Autocast.BF16)


def test_the_recipe_that_ships_rounds_by_one_that_ships():
    shipped = load_recipe("int8-finetune")
    assert load_quant_recipe(shipped.quantize.recipe).shift
    assert shipped.optimizer.lr <= 4e-5
