"""Which memory format a run takes, by a clock that the test turns; and that the run remembers it."""

import itertools
from dataclasses import replace

import pytest
import torch

from hasn_edge.data.patches import PatchSource
from hasn_edge.train import runs, speed
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.recipe import MemoryFormat, Phase
from hasn_edge.train.run_folder import read_run_file
from hasn_edge.train.runs import begin_run
from hasn_edge.train.trainer import Trainer

ALONE = DistributedContext(rank=0, size=1, device=torch.device("cpu"))


def seconds_of(trainer, costs):
    """What a step of ``trainer`` takes: looked up by how its weights lie."""
    last = trainer.model.conv_2.weight.is_contiguous(memory_format=torch.channels_last)
    return costs[MemoryFormat.CHANNELS_LAST if last else MemoryFormat.CONTIGUOUS]


def test_what_is_timed_has_the_passes_of_a_step(recipe, shards, monkeypatch):
    taken = []
    monkeypatch.setattr(Trainer, "step", lambda trainer, parts: taken.append([len(p.names) for p in parts]))
    source = PatchSource([shards], seed=0)
    halves = replace(recipe, phases=(Phase(patch=60, batch_size=6),), accumulate=2)
    speed.training_rate(halves, source, ALONE, seconds=0)
    assert set(map(tuple, taken)) == {(3, 3)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("last", "contiguous", "expected"),
    [(2.0, 1.0, "contiguous"), (1.0, 2.0, "channels_last"), (1.0, 0.99, "channels_last")],
)
def test_the_faster_format_is_taken(recipe, shards, monkeypatch, last, contiguous, expected):
    costs = {MemoryFormat.CHANNELS_LAST: last, MemoryFormat.CONTIGUOUS: contiguous}
    now = [0.0]
    step = Trainer.step

    def timed(trainer, parts):
        now[0] += seconds_of(trainer, costs)
        if len(taken) in (3, 9):  # something else ran meanwhile: only the fastest of several rounds counts
            now[0] += 10.0
        taken.append(len(parts[0].names))
        return step(trainer, parts)

    taken = []
    monkeypatch.setattr(Trainer, "step", timed)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    source = PatchSource([shards], seed=0)
    assert speed.faster_memory_format(recipe, source) is MemoryFormat(expected)
    assert set(taken) == {2}  # the batch of the last phase


@pytest.mark.parametrize("kind", [MemoryFormat.CHANNELS_LAST, MemoryFormat.CONTIGUOUS])
def test_a_run_remembers_what_was_measured_when_it_began(recipe, shards, monkeypatch, tmp_path, kind):
    monkeypatch.setattr(runs, "faster_memory_format", lambda *_: kind)
    auto = replace(recipe, memory_format=MemoryFormat.AUTO)
    run = begin_run(auto, tmp_path / "run", data=[shards.folder], sets=[], start=None)
    assert run.recipe == replace(recipe, memory_format=kind)
    assert read_run_file(tmp_path / "run") == run
    trainer = Trainer(run.recipe, PatchSource([shards], seed=0), ALONE)
    layout = torch.channels_last if kind is MemoryFormat.CHANNELS_LAST else torch.contiguous_format
    assert trainer.model.conv_2.weight.is_contiguous(memory_format=layout)


def test_a_format_that_is_given_is_not_measured(recipe, shards, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "faster_memory_format", lambda *_: pytest.fail("measured"))
    assert begin_run(recipe, tmp_path / "run", data=[shards.folder], sets=[], start=None).recipe == recipe


@pytest.mark.slow
def test_both_formats_train_alike(recipe, shards):
    source = PatchSource([shards], seed=0)
    losses = []
    for kind in (MemoryFormat.CHANNELS_LAST, MemoryFormat.CONTIGUOUS):
        trainer = Trainer(replace(recipe, memory_format=kind), source, ALONE)
        losses.append([float(trainer.step([source.batch(n, 4, 15)])) for n in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_loaders_rate_is_in_patches_a_second(recipe, shards, monkeypatch):
    """Every look at the clock takes a tenth of a second: nine batches of 4 patches are cut in 1 s."""
    ticks = itertools.count(0.0, 0.1)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(ticks))
    source = PatchSource([shards], seed=0)
    assert speed.loader_rate(recipe, source, seconds=0.95) == pytest.approx(9 * 4 / 1.0)
