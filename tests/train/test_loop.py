"""Whole runs: what they leave, and that stopping, resuming and faults change nothing."""

import csv
import re
import resource
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from hasn_edge.cli.cures import message_of
from hasn_edge.data.pairs import load_eval_set
from hasn_edge.data.shards import ShardWriter
from hasn_edge.errors import ConfigError, HasnEdgeError, InputError, OutputError
from hasn_edge.evaluation.evaluate import score_images
from hasn_edge.images.codec import write_image
from hasn_edge.model.checkpoint import load_checkpoint, save_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.train import recorder
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.loop import Interrupted, train_run
from hasn_edge.train.recorder import read_log, validate
from hasn_edge.train.run_folder import load_state, read_run_file, saved_iterations, state_path
from hasn_edge.train.runs import begin_run, resume_run
from tests.train.conftest import TINY, image

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
    best = load_checkpoint(folder / "best.safetensors").provenance["iterations"]
    assert saved_iterations(folder) == sorted({12, 8, best}, reverse=True)  # the last two of 4, 8, 12
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
    model = last.model()
    score = score_images(lambda x: model(torch.from_numpy(x)).numpy(), load_eval_set(("Two", eval_folder), 4))
    assert last.provenance["scores"]["Two"]["psnr_y"] == pytest.approx(score.psnr_y, abs=1e-3)


def test_small_images_are_validated_with_the_padding_that_eval_has(tmp_path):
    write_image(tmp_path / "0.png", image(40, 48, 0))
    small = load_eval_set(("Small", tmp_path), 4)
    torch.manual_seed(0)
    model = HASN(TINY).eval()

    def padded(x_NCHW):
        x = torch.nn.functional.pad(torch.from_numpy(x_NCHW), (0, 15 - 12, 0, 15 - 10), mode="replicate")
        with torch.no_grad():
            return model(x)[:, :, :40, :48].numpy()

    expected = score_images(padded, small)
    found = validate(model, [small], torch.device("cpu"))["Small"]
    assert found == pytest.approx((expected.psnr_y, expected.ssim_y), rel=1e-6)


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
def test_a_network_that_is_lost_stops_the_run_and_what_it_was_is_kept(
    recipe, shards, eval_folder, tmp_path, caplog, monkeypatch
):
    scores = iter([30.0, 31.0, 30.6, 30.9, 30.5, 30.4, 30.3, 30.2, 30.1])
    monkeypatch.setattr(recorder, "validate", lambda model, sets, device: {"Two": (next(scores), 0.9)})
    plan = replace(recipe, iterations=9, validate_every=1, checkpoint_every=4, keep=1)
    folder = tmp_path / "run"
    run = begin_run(plan, folder, data=[shards.folder], sets=[f"Two={eval_folder}"], start=None)
    with pytest.raises(HasnEdgeError, match="30.400 dB, 0.60 less than after iteration 2, the best") as got:
        train_run(folder, run, ALONE)
    again, on = message_of(got.value).split("; run: ")[1].split(", or run: ")
    assert again.endswith(f"--init {folder}@2 --set optimizer.lr=LESS --output DIR")
    assert on == f"hasn-edge train --resume {folder}"
    # Each time that it fell, it was said; once it came back.
    falls = [text for text in caplog.messages if "less than after iteration 2" in text]
    assert [int(re.match(r"iteration (\d+): Two has ", text)[1]) for text in falls] == [3, 5]
    assert saved_iterations(folder) == [6, 2]
    kept, best = load_state(state_path(folder, 2))["ema"], load_checkpoint(folder / "best.safetensors")
    assert best.provenance["iterations"] == 2
    assert all(torch.equal(kept[name], weight) for name, weight in best.weights.items())

    train_run(folder, resume_run(folder), ALONE)  # somebody read it, and wants to go on all the same
    assert saved_iterations(folder) == [9, 2]


@pytest.mark.slow
def test_the_best_weights_are_not_those_of_a_run_that_failed_before_its_first_state(
    recipe, shards, eval_folder, finished, tmp_path
):
    """Its message says to lower the rate, and the folder holds no run."""
    folder = tmp_path / "run"
    folder.mkdir()
    other = load_checkpoint(finished[0] / "best.safetensors")
    scores = {"Two": {"psnr_y": 99.0, "ssim_y": 1.0}}
    said = {**other.provenance, "iterations": 6, "scores": scores}
    save_checkpoint(folder / "best.safetensors", HASN(TINY), provenance=said)
    short = replace(recipe, iterations=2)
    run = begin_run(short, folder, data=[shards.folder], sets=[f"Two={eval_folder}"], start=None)
    train_run(folder, run, ALONE)
    best, last = (load_checkpoint(folder / f"{name}.safetensors") for name in ("best", "last"))
    assert best.provenance["scores"] == last.provenance["scores"] != scores
    assert all(torch.equal(weight, last.weights[name]) for name, weight in best.weights.items())


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


def validations(folder):
    return [(r["iteration"], r["set"], r["psnr_y"]) for r in read_log(folder / "log.csv") if r["silent"]]


@pytest.mark.slow
def test_a_validation_that_fails_costs_no_training(recipe, shards, finished, eval_folder, tmp_path):
    photos = shutil.copytree(eval_folder, tmp_path / "photos")
    rare = replace(recipe, checkpoint_every=100)
    folder = tmp_path / "run"
    run = begin_run(rare, folder, data=[shards.folder], sets=[f"Two={photos}"], start=None)
    whole = (photos / "HR/1.png").read_bytes()

    def damage():
        (photos / "HR/1.png").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(InputError, match=r"HR/1\.png"):
        train_run(folder, run, ALONE, stop=damage)
    assert saved_iterations(folder) == [6]
    (photos / "HR/1.png").write_bytes(whole)
    train_run(folder, resume_run(folder), ALONE)
    assert validations(folder) == validations(finished[0])
    assert all(torch.equal(t, final(finished[0])["ema"][n]) for n, t in final(folder)["ema"].items())


def test_a_log_that_the_disk_has_no_room_for_is_one_message(tmp_path):
    log = recorder.CsvLog(tmp_path / "log.csv", iteration=0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*log\.csv: .* MB free"):
            log.add(*({"iteration": number, "loss": 0.5} for number in range(50)))
        with pytest.raises(OutputError, match=r"cannot write .*log\.csv"):
            log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_log_that_cannot_be_written_costs_no_training(recipe, shards, tmp_path, monkeypatch):
    def add(log, *rows):
        raise OutputError("cannot write log.csv")

    monkeypatch.setattr(recorder.CsvLog, "add", add)
    rare = replace(recipe, checkpoint_every=100, validate_every=2)
    run = begin_run(rare, tmp_path / "run", data=[shards.folder], sets=[], start=None)
    with pytest.raises(OutputError, match=r"cannot write log\.csv"):
        train_run(tmp_path / "run", run, ALONE)
    assert saved_iterations(tmp_path / "run") == [2]


@pytest.mark.slow
def test_what_a_run_leaves_at_its_end_is_made_by_resuming_too(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    ends = ("last.safetensors", "last.pth", "curve.png")
    best, log = ((folder / name).read_bytes() for name in ("best.safetensors", "log.csv"))
    facts = load_checkpoint(folder / "last.safetensors").provenance

    def resume():
        steps = []
        train_run(folder, resume_run(folder), ALONE, progress=steps.append)
        return [step.text.partition("  ")[0] for step in steps]

    def check():
        assert [(folder / name).read_bytes() for name in ("best.safetensors", "log.csv")] == [best, log]
        assert load_checkpoint(folder / "last.safetensors").provenance == facts
        assert (folder / "curve.png").is_file()
        weights = load_checkpoint(folder / "last.pth").weights
        assert all(torch.equal(weights[name], t) for name, t in final(folder)["ema"].items())

    assert resume() == []
    # Its process was killed right after it had saved its last state.
    for name in ends:
        (folder / name).unlink()
    lines = (folder / "log.csv").read_text().splitlines(keepends=True)
    (folder / "log.csv").write_text("".join(lines[:-1]))
    assert resume() == ["validated after resuming"]
    check()
    # Or between two of the files; what the log has is not written twice.
    (folder / "curve.png").unlink()
    assert resume() == ["validated after resuming"]
    check()
    # Or they are those of the end that it had before.
    model = load_checkpoint(folder / "last.safetensors").model()
    save_checkpoint(folder / "last.safetensors", model, provenance={**facts, "iterations": 8})
    assert resume() == ["validated after resuming"]
    check()


@pytest.mark.slow
def test_the_best_is_the_best_to_the_last_digit_after_resuming(
    recipe, shards, eval_folder, tmp_path, monkeypatch
):
    scores = iter([30.00004, 30.00001])
    monkeypatch.setattr(recorder, "validate", lambda *_: {"Two": (next(scores), 0.9)})
    folder = tmp_path / "run"
    run = begin_run(recipe, folder, data=[shards.folder], sets=[f"Two={eval_folder}"], start=None)
    asked = iter([False] * 7 + [True])
    with pytest.raises(Interrupted):
        train_run(folder, run, ALONE, stop=lambda: next(asked))
    train_run(folder, resume_run(folder), ALONE)
    facts = load_checkpoint(folder / "best.safetensors").provenance
    assert (facts["iterations"], facts["scores"]["Two"]["psnr_y"]) == (6, 30.00004)
