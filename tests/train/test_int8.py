"""Training that rounds to INT8: resumed exactly, validated as the graph that is built of its weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hasn_edge.data.calibration import load_calibration
from hasn_edge.data.pairs import load_eval_set
from hasn_edge.errors import ConfigError
from hasn_edge.evaluation.evaluate import score_images
from hasn_edge.exporters.onnx_graph import Emulator
from hasn_edge.model.checkpoint import load_checkpoint
from hasn_edge.pipeline.variants import GraphExporter
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
    moved = [float(a["ema"][name]) for name in a["ema"] if name.endswith("offset")]
    assert max(map(abs, moved)) > 0

    last = load_checkpoint(through / "last.safetensors")
    assert last.spec == rounded.model
    recipe = load_quant_recipe(rounded.quantize.recipe)
    data = load_calibration(recipe.calibration)
    exporter = GraphExporter.for_int8(last, ("norm_affine", "compose_esa"), data, recipe)
    ranges = exporter.measure_ranges(data, recipe)
    assert dict(ranges.values) == last.provenance["int8"]["values"]
    graph = exporter.export(Form.CPU, Precision.INT8, ranges=ranges, recipe=recipe)
    score = score_images(Emulator(graph, exact=True).run, load_eval_set(("Two", eval_folder), 4))
    assert last.provenance["scores"]["Two"]["psnr_y"] == pytest.approx(score.psnr_y, abs=5e-3)


def test_a_network_without_weights_is_not_rounded(rounded, shards, tmp_path):
    with pytest.raises(ConfigError, match="tiny rounds a trained network to INT8, so it needs weights"):
        begin_run(rounded, tmp_path / "run", data=[shards.folder], sets=[], start=None)
    with pytest.raises(ConfigError, match=r'autocast is "bf16", and rounding to INT8 \(quantize.recipe\)'):
        replace(rounded, autocast=Autocast.BF16)


def test_the_recipe_that_ships_rounds_by_one_that_ships():
    shipped = load_recipe("int8-finetune")
    assert load_quant_recipe(shipped.quantize.recipe).shift
    assert shipped.optimizer.lr <= 4e-5
