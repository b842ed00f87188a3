"""Branches of a run whose rate is constant: what they share with it, and that they leave it alone."""

import shutil
from dataclasses import replace

import pytest
import torch

from hasn_edge.errors import CheckpointError, ConfigError
from hasn_edge.model.checkpoint import load_checkpoint
from hasn_edge.train.branch import branch
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.loop import Interrupted
from hasn_edge.train.recipe import Phase, Schedule
from hasn_edge.train.run import read_log, read_run_file
from hasn_edge.train.start import begin, execute, resumed
from hasn_edge.train.state import load_state, saved_iterations, state_path

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
    run = begin(endless, folder, data=[shards.folder], sets=[f"Two={eval_folder}"], start=None)
    stopped_after(folder, run, 13)
    return folder


def stopped_after(folder, run, iterations):
    done = saved_iterations(folder)
    asked = iter([False] * (iterations - (done[0] if done else 0)) + [True])
    with pytest.raises(Interrupted):
        execute(folder, run, ALONE, stop=lambda: next(asked))


def final(folder):
    return load_state(state_path(folder, saved_iterations(folder)[0]))


def same(a, b):
    return all(torch.equal(a[part][n], b[part][n]) for part in ("model", "ema") for n in a[part])


@pytest.mark.slow
def test_a_branch_is_the_run_that_was_planned_to_end_there(trunk, endless, shards, eval_folder, tmp_path):
    run = branch(f"{trunk}@12", tmp_path / "branch")
    assert (run.recipe.iterations, run.branched_at) == (16, 12)  # the last quarter of 16 is from 12 on
    execute(tmp_path / "branch", run, ALONE)
    # The same recipe, planned for 16 iterations from the beginning; its phases change after 10.
    first, second = endless.phases
    planned = replace(endless, iterations=16, phases=(replace(first, until=10 / 16), second))
    begun = begin(planned, tmp_path / "planned", data=[shards.folder], sets=[], start=None)
    execute(tmp_path / "planned", begun, ALONE)
    assert same(final(tmp_path / "branch"), final(tmp_path / "planned"))
    rates = {int(r["iteration"]): float(r["lr"]) for r in read_log(tmp_path / "branch/log.csv") if r["lr"]}
    assert rates[16] == pytest.approx(2e-3 * (1 - (3 / 4) ** 0.5), rel=1e-5)
    facts = load_checkpoint(tmp_path / "branch/last.safetensors").provenance
    assert (facts["iterations"], facts["branched_at"]) == (16, 12)
    assert "Two" in facts["scores"]


@pytest.mark.slow
def test_the_run_goes_on_as_if_nobody_had_branched(trunk, endless, shards, eval_folder, tmp_path):
    folder = shutil.copytree(trunk, tmp_path / "run")
    execute(tmp_path / "branch", branch(str(folder), tmp_path / "branch"), ALONE)
    stopped_after(folder, resumed(folder), 20)
    whole = tmp_path / "whole"
    run = begin(endless, whole, data=[shards.folder], sets=[f"Two={eval_folder}"], start=None)
    stopped_after(whole, run, 20)
    assert same(final(folder), final(whole))
    assert read_run_file(folder) == read_run_file(whole)


@pytest.mark.slow
def test_an_interrupted_branch_resumes_to_the_same_weights(trunk, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    execute(one, branch(str(trunk), one), ALONE)
    stopped_after(two, branch(str(trunk), two), 15)
    execute(two, resumed(two), ALONE)
    assert saved_iterations(one)[0] == saved_iterations(two)[0] == 17
    assert same(final(one), final(two))
    # Without a state it must not begin again from nothing.
    for iteration in saved_iterations(two):
        state_path(two, iteration).unlink()
    with pytest.raises(ConfigError, match="branched with is gone; branch it again"):
        execute(two, resumed(two), ALONE)


@pytest.mark.parametrize(("end", "decay_begin"), [(None, 13), (14, 13), (15, 13), (40, 30)])
def test_the_end_decides_how_long_the_rate_decays(trunk, tmp_path, end, decay_begin):
    run = branch(str(trunk), tmp_path / "branch", iterations=end)
    assert run.recipe.iterations == (end or 17)
    assert run.recipe.optimizer.decay_begin(run.recipe.iterations) == decay_begin
    assert [run.recipe.phase(n).patch for n in (9, 10, 13)] == [60, 72, 72]  # as the run itself has them


def test_what_cannot_be_branched(trunk, endless, recipe, shards, tmp_path):
    with pytest.raises(ConfigError, match="holds a run already; give a new folder"):
        branch(str(trunk), trunk)
    with pytest.raises(CheckpointError, match=r"keeps no state of iteration 7; it keeps \[4, 8, 12, 13\]"):
        branch(f"{trunk}@7", tmp_path / "a")
    with pytest.raises(ConfigError, match="13 iterations are done; it cannot end at 13"):
        branch(str(trunk), tmp_path / "b", iterations=13)
    begin(recipe, tmp_path / "cosine", data=[shards.folder], sets=[], start=None)
    with pytest.raises(ConfigError, match="schedule is 'cosine', whose rate has no constant part"):
        branch(str(tmp_path / "cosine"), tmp_path / "c")
    begin(endless, tmp_path / "new", data=[shards.folder], sets=[], start=None)
    with pytest.raises(CheckpointError, match="no state of its constant part yet"):
        branch(str(tmp_path / "new"), tmp_path / "d")
    assert not any((tmp_path / name).exists() for name in "abcd")


def test_a_run_that_decayed_goes_on_from_before_its_decay(trunk, tmp_path):
    ended = tmp_path / "ended"
    execute(ended, branch(f"{trunk}@12", ended), ALONE)
    with pytest.raises(
        ConfigError, match=f"decays from iteration 12 on.*run: hasn-edge train with branch=.{ended}@12"
    ):
        resumed(ended, iterations=40)
    assert resumed(ended, iterations=16) == resumed(ended)
    with pytest.raises(ConfigError, match="decays from iteration 12 on"):
        branch(f"{ended}@16", tmp_path / "on")
    # By itself it takes the newest state before the decay, which is kept whatever else is deleted.
    assert branch(str(ended), tmp_path / "on", iterations=40).branched_at == 12


def test_a_constant_rate_may_be_planned_further_but_not_into_a_decay_that_is_late(trunk, tmp_path):
    folder = shutil.copytree(trunk, tmp_path / "run")
    longer = resumed(folder, iterations=2000).recipe
    assert (longer.iterations, [p.until for p in longer.phases]) == (2000, [10 / 2000, 1.0])
    with pytest.raises(ConfigError, match="would have had to decay from iteration 12 on, and 13 are done"):
        resumed(folder, iterations=16)
    assert resumed(folder, iterations=18).recipe.optimizer.decay_begin(18) == 14


def test_the_state_before_the_decay_is_never_deleted(endless, shards, tmp_path):
    short = replace(endless, iterations=20, keep=1, checkpoint_every=3, phases=endless.phases[1:])
    run = begin(short, tmp_path / "run", data=[shards.folder], sets=[], start=None)
    execute(tmp_path / "run", run, ALONE)
    assert saved_iterations(tmp_path / "run") == [20, 15]
