"""Whole runs: what they leave, and that stopping, resuming and faults change nothing."""

import csv
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from hasn_edge.data.shards import ShardWriter
from hasn_edge.errors import ConfigError, HasnEdgeError
from hasn_edge.evaluation.evaluate import score_images
from hasn_edge.model.checkpoint import load_checkpoint
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.loop import Interrupted, train_run
from hasn_edge.train.recorder import read_log
from hasn_edge.train.run_folder import load_state, read_run_file, saved_iterations, state_path
from hasn_edge.train.runs import begin_run, resume_run

ALONE = DistributedContext(rank=0, size=1, device=torch.device("cpu"))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own


def final(folder):
    return load_state(state_path(folder, saved_iterations(folder)[0]))


@pytest.mark.slow
def test_a_run_leaves_log_states_weights_curve_and_events(finished):
    folder, steps = finished
    names = {path.name for path in folder.iterdir()}
    assert names >= {"run.json", "log.csv", "best.safetensors", "last.safetensors", "last.pth", "curve.png"}
    assert any((folder / "tensorboard").iterdir())
    assert saved_iterations(folder) == [12, 8]  # the last two of 4, 8, 12
    with (folder / "log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["iteration"] for row in rows if row["set"] == "Two"] == ["6", "12"]
    assert [(step.done, step.total, step.keep) for step in steps] == [
        (4, 12, False), (6, 12, True), (8, 12, False), (12, 12, True)
    ]  # fmt: skip
    loss, rate, psnr = (rows[-1][c] or rows[-2][c] for c in ("loss", "lr", "psnr_y"))
    assert re.match(
        rf"loss {float(loss):.5f}  lr {float(rate):.2e}  [\d.]+ it/s  ETA 0:00 h  patches/s: network \d+, "
        rf"loader [1-9]\d*  Two {float(psnr):.3f} dB 0\.\d+ \(bicubic [1-9]\d\.\d+ dB\)$",
        steps[-1].text,
    )


@pytest.mark.slow
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


@pytest.mark.slow
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
    run = begin_run(wild, tmp_path / "run", data=[shards.folder], sets=[f"Two={eval_folder}"], start=None)
    train_run(tmp_path / "run", run, ALONE)
    scores = {
        int(r["iteration"]): float(r["psnr_y"]) for r in read_log(tmp_path / "run" / "log.csv") if r["set"]
    }
    best = load_checkpoint(tmp_path / "run" / "best.safetensors").provenance["iterations"]
    assert scores[best] == max(scores.values())


@pytest.mark.slow
def test_a_stopped_run_resumed_ends_as_if_never_stopped(recipe, shards, finished, eval_folder, tmp_path):
    folder = tmp_path / "stopped"
    run = begin_run(recipe, folder, data=[shards.folder], sets=[f"Two={eval_folder}"], start=None)
    asked = iter([False] * 5 + [True])
    with pytest.raises(Interrupted, match="stopped after iteration 5"):
        train_run(folder, run, ALONE, stop=lambda: next(asked))
    assert saved_iterations(folder)[0] == 5
    torch.rand(100)  # what others do to the global generator does not matter
    train_run(folder, resume_run(folder), ALONE)
    a, b = final(finished[0]), final(folder)
    for part in ("model", "ema"):
        assert all(torch.equal(a[part][n], b[part][n]) for n in a[part])
    ours, theirs = (
        [(r["iteration"], r["lr"], r["set"], r["psnr_y"]) for r in read_log(f / "log.csv")]
        for f in (finished[0], folder)
    )
    assert ours == theirs


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_and_names_everything(recipe, shards, tmp_path):
    run = begin_run(recipe, tmp_path / "run", data=[shards.folder], sets=[], start=None)
    train_run(tmp_path / "run", run, ALONE)
    # Ruin the state's weights: the next loss is NaN.
    state = final(tmp_path / "run")
    state["iteration"] = 8
    state["model"]["conv_1.weight"][0, 0, 0, 0] = float("nan")
    for iteration in saved_iterations(tmp_path / "run"):
        state_path(tmp_path / "run", iteration).unlink()
    from hasn_edge.train.run_folder import save_state

    save_state(state_path(tmp_path / "run", 8), state)
    with pytest.raises(
        HasnEdgeError, match=r"loss of iteration 9 is nan.*from: \d\.png.*state-000000008"
    ) as got:
        train_run(tmp_path / "run", run, ALONE)
    assert "optimizer.lr" in str(got.value)
    assert saved_iterations(tmp_path / "run") == [8]  # nothing was saved over it


def test_resuming_on_other_data_is_refused(recipe, shards, tmp_path):
    def prepared(value):
        writer = ShardWriter(tmp_path / "data", 4)
        with writer:
            writer.add("a.png", np.full((24, 24, 3), value, np.uint8), np.zeros((96, 96, 3), np.uint8))
        writer.publish({})

    prepared(0)
    run = begin_run(recipe, tmp_path / "run", data=[tmp_path / "data"], sets=[], start=None)
    prepared(1)
    with pytest.raises(ConfigError, match="data changed since the run began"):
        train_run(tmp_path / "run", run, ALONE)
