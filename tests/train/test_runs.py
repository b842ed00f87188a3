"""Beginning, branching and replanning: what is checked, and that branches leave their run as it was."""

import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from hasn_edge.data.resize import imresize
from hasn_edge.data.shards import ShardWriter
from hasn_edge.errors import CheckpointError, ConfigError, InputError
from hasn_edge.files import claimed
from hasn_edge.images.arrays import from_tensor
from hasn_edge.images.metrics import psnr_rgb
from hasn_edge.model.checkpoint import load_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.loop import Interrupted, train_run
from hasn_edge.train.recipe import Phase, Schedule
from hasn_edge.train.recorder import read_log
from hasn_edge.train.run_folder import (
    load_state,
    read_run_file,
    save_state,
    saved_iterations,
    state_path,
    trained_here,
    write_run_file,
)
from hasn_edge.train.runs import begin_run, branch_run, resume_run

ALONE = DistributedContext(rank=0, size=1, device=torch.device("cpu"))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own


@pytest.fixture(scope="module")
def endless(recipe):
    """The tiny recipe with a constant rate that nothing here reaches the end of."""
    optimizer = replace(recipe.optimizer, schedule=Schedule.WSD, decay=0.25, warmup=3)
    phases = (Phase(until=0.01, patch=60, batch_size=4), Phase(until=1.0, patch=72, batch_size=2))
    return replace(recipe, iterations=1000, optimizer=optimizer, phases=phases, keep=10, validate_every=100)


@pytest.fixture(scope="module")
def trunk(endless, shards, eval_folder, tmp_path_factory):
    """A run of it that was stopped after 13 iterations; the tests only read it."""
    folder = tmp_path_factory.mktemp("trunk") / "run"
    run = begin_run(endless, folder, data=[shards.folder], sets=[f"Two={eval_folder}"], start=None)
    stopped_after(folder, run, 13)
    return folder


def test_validation_sets_are_found_from_any_folder_and_have_names_of_their_own(
    recipe, shards, eval_folder, tmp_path, monkeypatch
):
    begin = partial(begin_run, recipe, tmp_path / "run", data=[shards.folder], start=None)
    monkeypatch.chdir(eval_folder.parent)
    found = begin(sets=[f"Two={eval_folder.name}", eval_folder.name]).sets
    assert found == (f"Two={eval_folder}", f"{eval_folder.name}={eval_folder}")
    with pytest.raises(InputError, match="two sets are called Two; name them apart, as NAME=DIR"):
        begin(sets=[f"Two={eval_folder}", f"Two={eval_folder / 'HR'}"])


def test_a_run_that_begins_keeps_its_folder(recipe, shards, tmp_path):
    """Before it has a state, which would say so."""
    begin_run(recipe, tmp_path, data=[shards.folder], sets=[], start=None)
    other = replace(recipe, name="other")
    with (
        claimed(tmp_path),  # as another process has it
        pytest.raises(ConfigError, match="another process is training this run"),
    ):
        begin_run(other, tmp_path, data=[shards.folder], sets=[], start=None)
    assert read_run_file(tmp_path).recipe.name == recipe.name
    begin_run(other, tmp_path, data=[shards.folder], sets=[], start=None)
    assert read_run_file(tmp_path).recipe.name == "other"


def test_a_claim_covers_what_is_called_inside_it(recipe, shards, tmp_path):
    folder = tmp_path / "new/run"
    with pytest.raises(ZeroDivisionError), trained_here(folder):
        assert folder.is_dir()
        raise ZeroDivisionError
    assert not folder.exists(), "nothing was put into it"
    with trained_here(folder):
        begin_run(recipe, folder, data=[shards.folder], sets=[], start=None)
        with pytest.raises(BlockingIOError), claimed(folder):
            pytest.fail("the claim ended inside its block")
    with claimed(folder):
        assert read_run_file(folder).recipe == recipe


def stopped_after(folder, run, iterations):
    done = saved_iterations(folder)
    asked = iter([False] * (iterations - (done[0] if done else 0)) + [True])
    with pytest.raises(Interrupted):
        train_run(folder, run, ALONE, stop=lambda: next(asked))


def final(folder):
    return load_state(state_path(folder, saved_iterations(folder)[0]))


def same(a, b):
    return all(torch.equal(a[part][n], b[part][n]) for part in ("model", "ema") for n in a[part])


@pytest.mark.slow
def test_a_branch_is_the_run_that_was_planned_to_end_there(trunk, endless, shards, eval_folder, tmp_path):
    run = branch_run(f"{trunk}@12", tmp_path / "branch")
    assert (run.recipe.iterations, run.branched_at) == (16, 12)  # the last quarter of 16 is from 12 on
    train_run(tmp_path / "branch", run, ALONE)
    # The same recipe, planned for 16 iterations from the beginning; its phases change after 10.
    first, second = endless.phases
    planned = replace(endless, iterations=16, phases=(replace(first, until=10 / 16), second))
    begun = begin_run(planned, tmp_path / "planned", data=[shards.folder], sets=[], start=None)
    train_run(tmp_path / "planned", begun, ALONE)
    assert same(final(tmp_path / "branch"), final(tmp_path / "planned"))
    rates = {int(r["iteration"]): float(r["lr"]) for r in read_log(tmp_path / "branch/log.csv") if r["lr"]}
    assert rates[16] == pytest.approx(2e-3 * (1 - (3 / 4) ** 0.5), rel=1e-5)
    facts = load_checkpoint(tmp_path / "branch/last.safetensors").provenance
    assert (facts["iterations"], facts["branched_at"]) == (16, 12)
    assert "Two" in facts["scores"]


@pytest.mark.slow
def test_the_run_goes_on_as_if_nobody_had_branched(trunk, endless, shards, eval_folder, tmp_path):
    folder = shutil.copytree(trunk, tmp_path / "run")
    train_run(tmp_path / "branch", branch_run(str(folder), tmp_path / "branch"), ALONE)
    stopped_after(folder, resume_run(folder), 20)
    whole = tmp_path / "whole"
    run = begin_run(endless, whole, data=[shards.folder], sets=[f"Two={eval_folder}"], start=None)
    stopped_after(whole, run, 20)
    assert same(final(folder), final(whole))
    assert read_run_file(folder) == read_run_file(whole)


@pytest.mark.slow
def test_an_interrupted_branch_resumes_to_the_same_weights(trunk, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    train_run(one, branch_run(str(trunk), one), ALONE)
    stopped_after(two, branch_run(str(trunk), two), 15)
    train_run(two, resume_run(two), ALONE)
    assert saved_iterations(one)[0] == saved_iterations(two)[0] == 17
    assert same(final(one), final(two))
    # Without a state it must not begin again from nothing.
    for iteration in saved_iterations(two):
        state_path(two, iteration).unlink()
    with pytest.raises(ConfigError, match="branched with is gone; branch it again"):
        train_run(two, resume_run(two), ALONE)


@pytest.mark.parametrize(("end", "decay_begin"), [(None, 13), (14, 13), (15, 13), (40, 30)])
def test_the_end_decides_how_long_the_rate_decays(trunk, tmp_path, end, decay_begin):
    run = branch_run(str(trunk), tmp_path / "branch", iterations=end)
    assert run.recipe.iterations == (end or 17)
    assert run.recipe.optimizer.decay_begin(run.recipe.iterations) == decay_begin
    assert [run.recipe.phase(n).patch for n in (9, 10, 13)] == [60, 72, 72]  # as the run itself has them


@pytest.mark.parametrize(("decay", "end"), [("0.5", None), ("0.05", None), ("0.5", 40)])
def test_a_branch_chooses_how_long_it_decays(trunk, tmp_path, decay, end):
    changes = (f"optimizer.decay={decay}", "optimizer.final=0.1", "name=mine", "keep_at=[14]")
    run = branch_run(str(trunk), tmp_path / "branch", iterations=end, overrides=changes)
    assert run == read_run_file(tmp_path / "branch")
    plan = run.recipe
    # By hand: 13 constant steps are half of 26; of 14 the last 5 % are one step.
    assert (plan.iterations, plan.optimizer.decay_begin(plan.iterations)) == {
        ("0.5", None): (26, 13), ("0.05", None): (14, 13), ("0.5", 40): (40, 20),
    }[decay, end]  # fmt: skip
    assert (plan.optimizer.decay, plan.optimizer.final) == (float(decay), 0.1)
    assert (plan.name, plan.keep_at) == ("mine", (14,))
    old = read_run_file(trunk).recipe
    assert old.name == "tiny"
    assert [plan.learning_rate(n) for n in range(13)] == [old.learning_rate(n) for n in range(13)]


@pytest.mark.parametrize(
    ("changes", "end", "message"),
    [
        (["optimizer.lr=1e-3", "seed=1"], None, r"13 iterations depend on optimizer.lr, seed; .*start=.*@13"),
        (["phases.0.patch=64"], None, "depend on phases"),
        (["iterations=20"], None, "no override.*iterations"),
        (["optimizer.decay=0.5"], 18, "would have begun after 9; .* an end from 26 on"),
        (["optimizer.decay=1"], None, "needs a constant part"),
        (["optimizer.schedule=cosine"], None, "needs a constant rate"),
        (["optimizer.dekay=0.5"], None, "unknown key optimizer.dekay"),
    ],
)
def test_a_branch_changes_nothing_that_its_past_depends_on(trunk, tmp_path, changes, end, message):
    with pytest.raises(ConfigError, match=message):
        branch_run(str(trunk), tmp_path / "branch", iterations=end, overrides=changes)
    assert not (tmp_path / "branch").exists()
    same = [f"optimizer.lr={read_run_file(trunk).recipe.optimizer.lr}"]  # which changes nothing
    assert branch_run(str(trunk), tmp_path / "branch", overrides=same).recipe.iterations == 17


@pytest.mark.parametrize("schedule", [Schedule.CONSTANT, Schedule.STEPS])
def test_a_constant_run_is_branched_into_a_decay(trunk, tmp_path, schedule):
    folder = shutil.copytree(trunk, tmp_path / "run")
    run = read_run_file(folder)
    optimizer = replace(run.recipe.optimizer, schedule=schedule, milestones=(12,))
    write_run_file(folder, replace(run, recipe=replace(run.recipe, optimizer=optimizer)))
    with pytest.raises(ConfigError, match="needs a constant rate"):
        branch_run(str(folder), tmp_path / "a")
    changes = ["optimizer.schedule=wsd"]
    assert branch_run(f"{folder}@12", tmp_path / "b", overrides=changes).recipe.iterations == 16
    if schedule is Schedule.STEPS:  # the 13th step had half the rate
        with pytest.raises(ConfigError, match="needs a constant rate"):
            branch_run(f"{folder}@13", tmp_path / "c", overrides=changes)


def test_what_cannot_be_branched(trunk, endless, recipe, shards, tmp_path):
    with pytest.raises(ConfigError, match="holds a run already; give a new folder"):
        branch_run(str(trunk), trunk)
    with pytest.raises(CheckpointError, match=r"keeps no state of iteration 7; it keeps \[4, 8, 12, 13\]"):
        branch_run(f"{trunk}@7", tmp_path / "a")
    with pytest.raises(ConfigError, match="it has done 13 iterations already; it cannot end at 13"):
        branch_run(str(trunk), tmp_path / "b", iterations=13)
    begin_run(recipe, tmp_path / "cosine", data=[shards.folder], sets=[], start=None)
    save_state(state_path(tmp_path / "cosine", 6), {})
    with pytest.raises(ConfigError, match="schedule is 'cosine', and a branch needs a constant rate"):
        branch_run(str(tmp_path / "cosine"), tmp_path / "c")
    begin_run(endless, tmp_path / "new", data=[shards.folder], sets=[], start=None)
    with pytest.raises(CheckpointError, match="no state of its constant part yet"):
        branch_run(str(tmp_path / "new"), tmp_path / "d")
    assert not any((tmp_path / name).exists() for name in "abcd")


@pytest.mark.slow
def test_a_run_that_decayed_goes_on_from_before_its_decay(trunk, tmp_path):
    ended = tmp_path / "ended"
    train_run(ended, branch_run(f"{trunk}@12", ended), ALONE)
    with pytest.raises(
        ConfigError, match=f"decays from iteration 12 on.*run: hasn-edge train with branch=.{ended}@12"
    ):
        resume_run(ended, iterations=40)
    assert resume_run(ended, iterations=16) == resume_run(ended)
    with pytest.raises(ConfigError, match="decays from iteration 12 on"):
        branch_run(f"{ended}@16", tmp_path / "on")
    # By itself it takes the newest state before the decay, which is kept whatever else is deleted.
    assert branch_run(str(ended), tmp_path / "on", iterations=40).branched_at == 12


def test_a_constant_rate_may_be_planned_further_but_not_into_a_decay_that_is_late(trunk, tmp_path):
    folder = shutil.copytree(trunk, tmp_path / "run")
    longer = resume_run(folder, iterations=2000).recipe
    assert (longer.iterations, [p.until for p in longer.phases]) == (2000, [10 / 2000, 1.0])
    with pytest.raises(ConfigError, match="would have had to decay from iteration 12 on, and 13 are done"):
        resume_run(folder, iterations=16)
    assert resume_run(folder, iterations=18).recipe.optimizer.decay_begin(18) == 14


def test_the_phases_after_a_nearer_end_come_back_with_a_later_one(endless, shards, tmp_path):
    folder = tmp_path / "run"
    begin_run(endless, folder, data=[shards.folder], sets=[], start=None)
    save_state(state_path(folder, 6), {})
    assert [p.patch for p in resume_run(folder, iterations=8).recipe.phases] == [60]
    branch = branch_run(str(folder), tmp_path / "branch", iterations=40).recipe
    for recipe in (branch, resume_run(folder, iterations=2000).recipe):
        assert [p.patch for p in recipe.phases] == [60, 72]
        assert recipe.phases[0].until * recipe.iterations == 10
    again = resume_run(folder, iterations=1000).recipe
    assert again.phases == endless.phases


@pytest.mark.slow
def test_the_state_before_the_decay_is_never_deleted(endless, shards, tmp_path):
    short = replace(endless, iterations=20, keep=1, checkpoint_every=3, phases=endless.phases[1:])
    run = begin_run(short, tmp_path / "run", data=[shards.folder], sets=[], start=None)
    train_run(tmp_path / "run", run, ALONE)
    assert saved_iterations(tmp_path / "run") == [20, 15]


def test_beginning_checks_first(recipe, shards, finished, tmp_path):
    with pytest.raises(ConfigError, match="holds a run already; run: hasn-edge train with resume="):
        begin_run(recipe, finished[0], data=[shards.folder], sets=[], start=None)
    large = replace(recipe, phases=(Phase(patch=128, batch_size=2),))
    with pytest.raises(
        InputError,
        match=r"LR patch of 32 .*smallest image \(20\); run: hasn-edge data prepare .*min_side=128",
    ):
        begin_run(large, tmp_path / "a", data=[shards.folder], sets=[], start=None)
    with pytest.raises(InputError, match="named twice"):
        begin_run(recipe, tmp_path / "a", data=[shards.folder, shards.folder], sets=[], start=None)
    double = replace(recipe, model=replace(recipe.model, scale=2))
    with pytest.raises(InputError, match="prepared for x4, the recipe trains x2"):
        begin_run(double, tmp_path / "b", data=[shards.folder], sets=[], start=None)
    with pytest.raises(InputError, match="no such folder"):
        begin_run(recipe, tmp_path / "c", data=[shards.folder], sets=["Set5=nowhere"], start=None)
    with pytest.raises(InputError, match="hasn-edge data prepare"):
        begin_run(recipe, tmp_path / "d", data=[tmp_path], sets=[], start=None)
    with pytest.raises(ConfigError, match="not a training run"):
        read_run_file(tmp_path)


@pytest.mark.slow
def test_a_warm_start_takes_the_plain_weights_of_an_iteration(recipe, shards, finished, tmp_path):
    source = finished[0]
    run = begin_run(recipe, tmp_path / "two", data=[shards.folder], sets=[], start=f"{source}@8")
    stop = iter([True])
    with pytest.raises(Interrupted):
        train_run(tmp_path / "two", run, ALONE, stop=lambda: next(stop))
    begun, taken = final(tmp_path / "two"), load_state(state_path(source, 8))
    assert begun["iteration"] == 0
    assert all(torch.equal(begun["model"][n], t) for n, t in taken["model"].items())
    # Nothing but the folder is needed to go on, even if it died before its first state.
    state_path(tmp_path / "two", 0).unlink()
    again = read_run_file(tmp_path / "two")
    assert again.start == f"{source}@8"
    stop = iter([True])
    with pytest.raises(Interrupted):
        train_run(tmp_path / "two", again, ALONE, stop=lambda: next(stop))
    assert torch.equal(final(tmp_path / "two")["model"]["conv_1.weight"], begun["model"]["conv_1.weight"])
    with pytest.raises(CheckpointError, match=r"keeps no state of iteration 4; it keeps \[8, 12\]"):
        begin_run(recipe, tmp_path / "x", data=[shards.folder], sets=[], start=f"{source}@4")
    with pytest.raises(CheckpointError, match="hasn-x4-small: another network than .* features 32"):
        begin_run(recipe, tmp_path / "x", data=[shards.folder], sets=[], start="hasn-x4-small")
    with pytest.raises(CheckpointError, match="features 8 instead of 16"):
        wide = replace(recipe, model=replace(recipe.model, features=16))
        begin_run(wide, tmp_path / "x", data=[shards.folder], sets=[], start=str(source / "best.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [Schedule.CONSTANT, Schedule.STEPS])
def test_a_run_is_replanned_without_another_past(schedule, finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    run = read_run_file(folder)
    optimizer = replace(run.recipe.optimizer, schedule=schedule, milestones=(9, 14))
    write_run_file(folder, replace(run, recipe=replace(run.recipe, optimizer=optimizer)))
    plan = resume_run(folder, iterations=16).recipe
    assert (plan.iterations, plan.optimizer) == (16, optimizer)
    # The second phase began after 6 of 12, and it still did.
    assert [plan.phase(n).patch for n in (5, 6, 7, 15)] == [60, 72, 72, 72]
    with pytest.raises(ConfigError, match="has done 12 iterations already; it cannot end at 10"):
        resume_run(folder, iterations=10)
    if schedule is Schedule.CONSTANT:
        train_run(folder, resume_run(folder), ALONE)
        assert saved_iterations(folder)[0] == 16
        assert load_checkpoint(folder / "last.safetensors").provenance["iterations"] == 16


def test_a_rate_that_has_begun_to_fall_towards_its_end_keeps_it(recipe, finished, shards, tmp_path):
    folder = finished[0]
    with pytest.raises(
        ConfigError, match=rf"it has done 12 iterations on a cosine .* would jump; .*start=.{folder}@12.*wsd"
    ):
        resume_run(folder, iterations=16)
    assert read_run_file(folder).recipe.iterations == 12
    # Before the first step, and while the rate warms up, nothing depends on the end.
    begin_run(recipe, tmp_path / "run", data=[shards.folder], sets=[], start=None)
    assert resume_run(tmp_path / "run", iterations=100).recipe.phase(6).patch == 72
    save_state(state_path(tmp_path / "run", 4), {})  # at full rate, which cosine leaves after it
    assert resume_run(tmp_path / "run", iterations=50).recipe.iterations == 50
    save_state(state_path(tmp_path / "run", 5), {})
    with pytest.raises(ConfigError, match="it has done 5 iterations on a cosine"):
        resume_run(tmp_path / "run", iterations=60)


@pytest.mark.slow
def test_a_run_may_end_where_it_was_stopped(endless, shards, eval_folder, tmp_path):
    folder = tmp_path / "run"
    constant = replace(endless, optimizer=replace(endless.optimizer, schedule=Schedule.CONSTANT))
    run = begin_run(constant, folder, data=[shards.folder], sets=[f"Two={eval_folder}"], start=None)
    stopped_after(folder, run, 2)  # before anything was logged
    train_run(folder, resume_run(folder, iterations=2), ALONE)
    assert load_checkpoint(folder / "last.safetensors").provenance["iterations"] == 2
    assert (folder / "curve.png").is_file()


@pytest.mark.slow
def test_weights_of_another_scale_give_the_body_and_a_fitted_upsampler(recipe, finished, tmp_path):
    writer = ShardWriter(tmp_path / "x2", 2)
    with writer:
        hr = imresize(np.random.default_rng(7).integers(0, 256, (12, 16, 3), dtype=np.uint8), scale=8.0)
        writer.add("0.png", imresize(hr, scale=0.5), hr)
    shards = writer.publish({})
    double = replace(recipe, model=replace(recipe.model, scale=2), phases=(Phase(patch=30, batch_size=2),))
    run = begin_run(double, tmp_path / "run", data=[shards.folder], sets=[], start=f"{finished[0]}@12")
    stop = iter([True])
    with pytest.raises(Interrupted):
        train_run(tmp_path / "run", run, ALONE, stop=lambda: next(stop))
    begun, taken = final(tmp_path / "run")["model"], load_state(state_path(finished[0], 12))["model"]
    assert begun["upsampler.0.weight"].shape[0] == 12
    assert all(torch.equal(begun[n], t) for n, t in taken.items() if not n.startswith("upsampler."))
    model = HASN(double.model)
    model.load_state_dict(begun)
    x = torch.from_numpy(imresize(hr, scale=0.5)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        y = from_tensor(model(x).numpy())
    assert psnr_rgb(y, hr) > 30  # a fresh upsampler: below 10


@pytest.mark.slow
def test_a_run_that_another_process_trains_is_left_alone(trunk, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trunk, folder)
    run = read_run_file(folder)
    code = "import sys, time\nfrom pathlib import Path\nfrom hasn_edge.train.run_folder import trained_here\n"
    code += "with trained_here(Path(sys.argv[1])):\n    print('claimed', flush=True)\n    time.sleep(600)\n"
    with subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "claimed\n"
        with pytest.raises(ConfigError, match="another process is training this run; stop it first"):
            train_run(folder, run, ALONE)
        with pytest.raises(ConfigError, match="another process"):
            resume_run(folder, iterations=2000)
        assert read_run_file(folder) == run
        other.kill()
        other.wait()
    stop = iter([True])
    with pytest.raises(Interrupted, match="after iteration 13"):
        train_run(folder, resume_run(folder), ALONE, stop=lambda: next(stop))
