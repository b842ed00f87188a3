import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from hasn_edge.data.shards import ShardWriter
from hasn_edge.errors import CheckpointError, ConfigError, HasnEdgeError, InputError
from hasn_edge.evaluation.evaluate import score_images
from hasn_edge.model.checkpoint import load_checkpoint
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.loop import Interrupted
from hasn_edge.train.recipe import Phase
from hasn_edge.train.run import read_log, read_run_file
from hasn_edge.train.start import begin, execute, resumed
from hasn_edge.train.state import load_state, saved_iterations, state_path

ALONE = DistributedContext(rank=0, size=1, device=torch.device("cpu"))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own


def final(folder):
    return load_state(state_path(folder, saved_iterations(folder)[0]))


@pytest.fixture(scope="module")
def finished(recipe, shards, eval_folder, tmp_path_factory):
    """A whole run, which the tests only read."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    reports = []
    run = begin(recipe, folder, data=[shards.folder], sets=[f"Two={eval_folder}"], start=None)
    execute(folder, run, ALONE, report=reports.append)
    return folder, reports


@pytest.mark.slow
def test_a_run_leaves_log_states_weights_curve_and_events(finished):
    folder, reports = finished
    names = {path.name for path in folder.iterdir()}
    assert names >= {"run.json", "log.csv", "best.safetensors", "last.safetensors", "last.pth", "curve.png"}
    assert any((folder / "tensorboard").iterdir())
    assert saved_iterations(folder) == [12, 8]  # the last two of 4, 8, 12
    with (folder / "log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["iteration"] for row in rows if row["set"] == "Two"] == ["6", "12"]
    assert [p.iteration for p in reports] == [4, 6, 8, 12]
    assert reports[-1].loader_per_second > 0


def test_the_weights_are_the_average_and_say_what_made_them(finished, shards, eval_folder):
    folder, _ = finished
    state = final(folder)
    last = load_checkpoint(folder / "last.safetensors")
    assert all(torch.equal(last.weights[n], t) for n, t in state["ema"].items())
    assert last.provenance["recipe"] == "tiny"
    assert last.provenance["iterations"] == 12
    assert last.provenance["data"] == {"fingerprint": shards.fingerprint, "images": 3}
    assert last.provenance["settings"]["optimizer"]["lr"] == 2e-3
    assert last.provenance["versions"]["torch"] == torch.__version__
    # The figure in the file is what `eval` measures on the file.
    from hasn_edge.data.pairs import load_eval_set

    model = last.model()
    score = score_images(lambda x: model(torch.from_numpy(x)).numpy(), load_eval_set(("Two", eval_folder), 4))
    assert last.provenance["scores"]["Two"]["psnr_y"] == pytest.approx(score.psnr_y, abs=1e-3)


def test_the_pth_is_what_basicsr_writes(finished):
    folder, _ = finished
    content = torch.load(folder / "last.pth", weights_only=True)
    state = final(folder)
    assert set(content) == {"params", "params_ema", "hasn_edge.spec"}
    assert all(torch.equal(content["params"][n], t) for n, t in state["model"].items())
    assert all(torch.equal(content["params_ema"][n], t) for n, t in state["ema"].items())
    assert load_checkpoint(folder / "last.pth").spec == read_run_file(folder).recipe.model


@pytest.mark.slow
def test_the_best_weights_are_those_of_the_highest_score(recipe, shards, eval_folder, tmp_path):
    # A learning rate that ruins the network after a while: the best is not the last.
    wild = replace(recipe, optimizer=replace(recipe.optimizer, lr=1.0, warmup=0), ema=0.0, iterations=6)
    wild = replace(wild, validate_every=1)
    run = begin(wild, tmp_path / "run", data=[shards.folder], sets=[f"Two={eval_folder}"], start=None)
    execute(tmp_path / "run", run, ALONE)
    scores = {
        int(r["iteration"]): float(r["psnr_y"]) for r in read_log(tmp_path / "run" / "log.csv") if r["set"]
    }
    best = load_checkpoint(tmp_path / "run" / "best.safetensors").provenance["iterations"]
    assert scores[best] == max(scores.values())


@pytest.mark.slow
def test_a_stopped_run_resumed_ends_as_if_never_stopped(recipe, shards, finished, eval_folder, tmp_path):
    folder = tmp_path / "stopped"
    run = begin(recipe, folder, data=[shards.folder], sets=[f"Two={eval_folder}"], start=None)
    asked = iter([False] * 5 + [True])
    with pytest.raises(Interrupted, match="stopped after iteration 5"):
        execute(folder, run, ALONE, stop=lambda: next(asked))
    assert saved_iterations(folder)[0] == 5
    torch.rand(100)  # what others do to the global generator does not matter
    execute(folder, resumed(folder), ALONE)
    a, b = final(finished[0]), final(folder)
    for part in ("model", "ema"):
        assert all(torch.equal(a[part][n], b[part][n]) for n in a[part])
    ours, theirs = (
        [(r["iteration"], r["lr"], r["set"], r["psnr_y"]) for r in read_log(f / "log.csv")]
        for f in (finished[0], folder)
    )
    assert ours == theirs


def test_a_loss_that_is_no_number_stops_and_names_everything(recipe, shards, tmp_path):
    run = begin(recipe, tmp_path / "run", data=[shards.folder], sets=[], start=None)
    execute(tmp_path / "run", run, ALONE)
    # Ruin the state's weights: the next loss is NaN.
    state = final(tmp_path / "run")
    state["iteration"] = 8
    state["model"]["conv_1.weight"][0, 0, 0, 0] = float("nan")
    for iteration in saved_iterations(tmp_path / "run"):
        state_path(tmp_path / "run", iteration).unlink()
    from hasn_edge.train.state import save_state

    save_state(state_path(tmp_path / "run", 8), state)
    with pytest.raises(
        HasnEdgeError, match=r"loss of iteration 9 is nan.*from: \d\.png.*state-000000008"
    ) as got:
        execute(tmp_path / "run", run, ALONE)
    assert "optimizer.lr" in str(got.value)
    assert saved_iterations(tmp_path / "run") == [8]  # nothing was saved over it


def test_resuming_on_other_data_is_refused(recipe, shards, tmp_path):
    def prepared(value):
        writer = ShardWriter(tmp_path / "data", 4)
        with writer:
            writer.add("a.png", np.full((24, 24, 3), value, np.uint8), np.zeros((96, 96, 3), np.uint8))
        writer.publish({})

    prepared(0)
    run = begin(recipe, tmp_path / "run", data=[tmp_path / "data"], sets=[], start=None)
    prepared(1)
    with pytest.raises(ConfigError, match="data changed since the run began"):
        execute(tmp_path / "run", run, ALONE)


def test_beginning_checks_first(recipe, shards, finished, tmp_path):
    with pytest.raises(ConfigError, match="holds a run already; run: hasn-edge train with resume="):
        begin(recipe, finished[0], data=[shards.folder], sets=[], start=None)
    large = replace(recipe, phases=(Phase(patch=128, batch_size=2),))
    with pytest.raises(
        InputError,
        match=r"LR patch of 32 .*smallest image \(20\); run: hasn-edge data prepare .*min_side=128",
    ):
        begin(large, tmp_path / "a", data=[shards.folder], sets=[], start=None)
    with pytest.raises(InputError, match="named twice"):
        begin(recipe, tmp_path / "a", data=[shards.folder, shards.folder], sets=[], start=None)
    double = replace(recipe, model=replace(recipe.model, scale=2))
    with pytest.raises(InputError, match="prepared for x4, the recipe trains x2"):
        begin(double, tmp_path / "b", data=[shards.folder], sets=[], start=None)
    with pytest.raises(InputError, match="no such folder"):
        begin(recipe, tmp_path / "c", data=[shards.folder], sets=["Set5=nowhere"], start=None)
    with pytest.raises(InputError, match="hasn-edge data prepare"):
        begin(recipe, tmp_path / "d", data=[tmp_path], sets=[], start=None)
    with pytest.raises(ConfigError, match="not a training run"):
        read_run_file(tmp_path)


def test_a_warm_start_takes_the_plain_weights_of_an_iteration(recipe, shards, finished, tmp_path):
    source = finished[0]
    run = begin(recipe, tmp_path / "two", data=[shards.folder], sets=[], start=f"{source}@8")
    stop = iter([True])
    with pytest.raises(Interrupted):
        execute(tmp_path / "two", run, ALONE, stop=lambda: next(stop))
    begun, taken = final(tmp_path / "two"), load_state(state_path(source, 8))
    assert begun["iteration"] == 0
    assert all(torch.equal(begun["model"][n], t) for n, t in taken["model"].items())
    # Nothing but the folder is needed to go on, even if it died before its first state.
    state_path(tmp_path / "two", 0).unlink()
    again = read_run_file(tmp_path / "two")
    assert again.start == f"{source}@8"
    stop = iter([True])
    with pytest.raises(Interrupted):
        execute(tmp_path / "two", again, ALONE, stop=lambda: next(stop))
    assert torch.equal(final(tmp_path / "two")["model"]["conv_1.weight"], begun["model"]["conv_1.weight"])
    with pytest.raises(CheckpointError, match=r"keeps no state of iteration 4; it keeps \[8, 12\]"):
        begin(recipe, tmp_path / "x", data=[shards.folder], sets=[], start=f"{source}@4")
    with pytest.raises(CheckpointError, match="features 8 instead of 16"):
        wide = replace(recipe, model=replace(recipe.model, features=16))
        begin(wide, tmp_path / "x", data=[shards.folder], sets=[], start=str(source / "best.safetensors"))


@pytest.mark.slow
def test_a_run_can_be_replanned(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    assert resumed(folder, iterations=16).recipe.iterations == 16
    execute(folder, resumed(folder), ALONE)
    assert saved_iterations(folder)[0] == 16
    with pytest.raises(ConfigError, match="has done 16 iterations already; it cannot end at 10"):
        resumed(folder, iterations=10)
