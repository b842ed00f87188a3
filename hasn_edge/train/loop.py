"""Train a run to its end: batches in, log lines, validations, states and weights out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from hasn_edge.data.pairs import load_eval_sets
from hasn_edge.data.patches import Batch, PatchSource, Prefetcher
from hasn_edge.data.shards import Shards, combined_fingerprint
from hasn_edge.errors import CheckpointError, ConfigError, HasnEdgeError, call, listed, say
from hasn_edge.files import file_sha256
from hasn_edge.progress import Progress, ignore
from hasn_edge.quantize.recipe import recipe_path
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.recipe import Recipe
from hasn_edge.train.recorder import Recorder
from hasn_edge.train.run_folder import RunFile, load_newest, saved_iterations, state_path, trained_here
from hasn_edge.train.runs import load_start
from hasn_edge.train.speed import keep_freed_memory
from hasn_edge.train.trainer import Trainer

log = logging.getLogger(__name__)

LOG_EVERY = 50
"""Iterations between log lines, and between reads of the losses on a CUDA device."""

_NEW_RUN = say("begin a new run")


class Interrupted(HasnEdgeError):  # noqa: N818 - it is no error that somebody asks to stop
    """The run was asked to stop; its state is saved."""


def train_run(
    folder: Path,
    run: RunFile,
    world: DistributedContext,
    *,
    compiled: bool = False,
    progress: Progress = ignore,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train ``run`` to its end, from its newest whole state if it has one.

    Writes ``log.csv``, TensorBoard events, states and ``best.safetensors`` (highest PSNR-Y on the first set)
    into ``folder``; at the end ``last.safetensors``, ``last.pth`` and ``curve.png``. Weights are the averaged
    ones; ``last.pth`` has both.

    Args:
        folder: The run's folder.
        run: What its ``run.json`` holds.
        world: This process among those of the run.
        compiled: Run the network through ``torch.compile``.
        progress: Receives loss, learning rate, speed and scores at each interval, in the main process.
        stop: Asked before each step; when true, the state is saved and :class:`Interrupted` raised.

    Raises:
        ConfigError: the data is not what the run began with, or another process trains the run.
        CheckpointError: the weights to begin with are others than the run began with, or the state is of
            another network.
        Interrupted: ``stop`` returned true.
        HasnEdgeError: the loss is not a finite number: names the iteration, the images of its batch and
            the last good state. Or two validations in a row are far below the best one: names its state.
    """
    keep_freed_memory()
    recipe = run.recipe
    with trained_here(folder) if world.is_main else nullcontext():
        shards = [Shards(Path(path)) for path in run.data]
        if combined_fingerprint(shards) != run.fingerprint:
            raise ConfigError(
                f"{folder}: the prepared data changed since the run began ({', '.join(run.data)})",
                say("prepare it again from the same images"),
                _NEW_RUN,
            )
        if run.quantize_sha256 is not None:
            rounding = recipe_path(recipe.quantize.recipe)
            if not rounding.is_file() or file_sha256(rounding) != run.quantize_sha256:
                raise ConfigError(
                    f"{folder}: the INT8 recipe changed since the run began ({rounding})",
                    say("put back what it was"),
                    _NEW_RUN,
                )
        source = recipe.patches(shards)
        trainer = _open_trainer(folder, run, source, world, compiled)
        sets = load_eval_sets(run.sets, recipe.model.scale)
        provenance = {
            "recipe": recipe.name,
            "settings": msgspec.to_builtins(recipe),
            "data": {"fingerprint": run.fingerprint, "images": sum(len(each) for each in shards)},
            "start": run.start_sha256,
            "branched_at": run.branched_at,
            "versions": dict(run.versions),
        }
        with Recorder(trainer, folder, sets, provenance) if world.is_main else nullcontext() as recorder:
            _take_steps(trainer, source, folder, recorder, progress, stop)


def _open_trainer(
    folder: Path, run: RunFile, source: PatchSource, world: DistributedContext, compiled: bool
) -> Trainer:
    """Return a trainer with the newest whole state, or with the weights that the run begins with."""
    state = load_newest(folder)
    if state is None and run.branched_at is not None:
        raise ConfigError(f"{folder}: the state that it was branched with is gone", say("branch it again"))
    # Ranges and factors of INT8 come from the weights that the run began with.
    needed = state is None or bool(run.recipe.quantize.recipe)
    weights = load_start(run.start, run.recipe) if run.start and needed else None
    if weights is not None and weights.sha256 != run.start_sha256:
        raise CheckpointError(f"{run.start}: these are not the weights that the run was begun with", _NEW_RUN)
    trainer = Trainer(run.recipe, source, world, start=weights, compiled=compiled)
    if state is not None:
        trainer.restore(state)
    elif trainer.revived and world.is_main:
        log.warning("the weights to begin with: %s; what is silent begins anew", trainer.revived)
    return trainer


def _take_steps(
    trainer: Trainer,
    source: PatchSource,
    folder: Path,
    recorder: Recorder | None,
    progress: Progress,
    stop: Callable[[], bool],
) -> None:
    recipe, world = trainer.recipe, trainer.world
    if recorder is not None and (step := recorder.catch_up()) is not None:
        progress(step)
    losses = _Losses(recipe, source, folder, each=world.device.type == "cpu")
    loader = _Loader(recipe, source, world, trainer.iteration)
    clock, since = time.monotonic(), trainer.iteration
    with closing(Prefetcher(loader.batches())) as batches:
        for parts in batches:
            if world.any(stop() or (recorder is not None and bool(recorder.lost))):
                losses.take_mean()
                if recorder is not None:
                    recorder.save()
                    _require_not_lost(recorder, folder)
                raise Interrupted(f"stopped after iteration {trainer.iteration}")
            losses.add(trainer.iteration, trainer.step(parts))
            if not _is_interval(recipe, trainer.iteration):
                continue
            loss = losses.take_mean()
            speed = (trainer.iteration - since) / max(1e-9, time.monotonic() - clock)
            if recorder is not None:
                progress(recorder.record(loss, speed, loader.patches_per_second))
            clock, since = time.monotonic(), trainer.iteration


def _require_not_lost(recorder: Recorder, folder: Path) -> None:
    if recorder.lost:
        begin = {"start": recorder.before_the_fall, "overrides": "optimizer.lr=LESS"}
        raise HasnEdgeError(
            recorder.lost,
            call("train", recipe="RECIPE", data="DIR", **begin, output="DIR"),
            call("train", resume=str(folder)),
        )


def _is_interval(recipe: Recipe, done: int) -> bool:
    periods = (LOG_EVERY, recipe.validate_every, recipe.checkpoint_every)
    once = (recipe.iterations, *recipe.kept_always)
    return done in once or any(done % every == 0 for every in periods)


class _Loader:
    """This process's parts of the batches from an iteration on, with a count of how fast they are cut."""

    def __init__(self, recipe: Recipe, source: PatchSource, world: DistributedContext, first: int) -> None:
        self._recipe, self._source, self._world, self._first = recipe, source, world, first
        self._patches, self._seconds = 0, 1e-9

    @property
    def patches_per_second(self) -> float:
        """How many patches a second this process's loader delivers while it works."""
        return self._patches / self._seconds

    def batches(self) -> Iterator[list[Batch]]:
        recipe = self._recipe
        for number in range(self._first, recipe.iterations):
            phase = recipe.phase(number)
            start = time.monotonic()
            parts = [
                self._source.batch(
                    number,
                    phase.batch_size,
                    phase.patch // recipe.model.scale,
                    part=self._world.part(phase.batch_size, recipe.accumulate, index),
                )
                for index in range(recipe.accumulate)
            ]
            self._seconds += time.monotonic() - start
            self._patches += phase.batch_size // self._world.size
            yield parts


class _Losses:
    """Keeps losses on the device until they are read, so that a GPU does not wait after each step."""

    def __init__(self, recipe: Recipe, source: PatchSource, folder: Path, *, each: bool) -> None:
        self._recipe, self._source, self._folder, self._each = recipe, source, folder, each
        self._pending: list[tuple[int, Tensor]] = []
        self._sum, self._count = 0.0, 0

    def add(self, iteration: int, loss: Tensor) -> None:
        """Note the loss of step ``iteration`` (from 0)."""
        self._pending.append((iteration, loss))
        if self._each or len(self._pending) >= LOG_EVERY:
            self._read()

    def take_mean(self) -> float:
        """Return the mean since the last call, having read and checked every loss."""
        self._read()
        mean = self._sum / max(1, self._count)
        self._sum, self._count = 0.0, 0
        return mean

    def _read(self) -> None:
        if not self._pending:
            return
        values = torch.stack([loss for _, loss in self._pending]).tolist()
        for (iteration, _), value in zip(self._pending, values, strict=True):
            if not math.isfinite(value):
                self._refuse(iteration, value)
            self._sum += value
        self._count += len(values)
        self._pending.clear()

    def _refuse(self, iteration: int, value: float) -> None:
        phase = self._recipe.phase(iteration)
        batch = self._source.batch(iteration, phase.batch_size, phase.patch // self._recipe.model.scale)
        shown = listed(sorted(set(batch.names)), 8)
        good = saved_iterations(self._folder)
        state = (
            f"the last good state is {state_path(self._folder, good[0])}"
            if good
            else "no state was saved yet"
        )
        raise HasnEdgeError(
            f"the loss of iteration {iteration + 1} is {value}; its batch came from: {shown}; {state}",
            say("lower optimizer.lr"),
            say("set optimizer.clip"),
            say("train in fp32"),
        )
