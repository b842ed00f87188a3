"""The loop around the steps: batches in, log lines, validations, states and weights out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hasn_edge.data.pairs import EvalSet
from hasn_edge.data.patches import Batch, PatchSource, Prefetcher
from hasn_edge.errors import HasnEdgeError
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.recipe import Recipe
from hasn_edge.train.recorder import Recorder, TrainingProgress
from hasn_edge.train.state import saved_iterations, state_path
from hasn_edge.train.trainer import Trainer

LOG_EVERY = 50
"""Iterations between log lines, and between looks at the losses on a CUDA device."""


class Interrupted(HasnEdgeError):  # noqa: N818 - it is no error that somebody asks to stop
    """The run was asked to stop; its state is saved."""


def train(
    trainer: Trainer,
    source: PatchSource,
    folder: Path,
    *,
    sets: Sequence[EvalSet],
    provenance: Mapping[str, Any],
    report: Callable[[TrainingProgress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run ``trainer`` from where it stands to the end of its recipe.

    Writes ``log.csv``, TensorBoard events, states and ``best.safetensors`` (highest PSNR-Y on the first set)
    into ``folder``; at the end ``last.safetensors``, ``last.pth`` and ``curve.png``. Weights are the averaged
    ones; ``last.pth`` has both.

    Args:
        trainer: New or restored.
        source: Where patches come from.
        folder: The run's folder.
        sets: Validation sets; without any, the last weights are the best.
        provenance: Goes into the metadata of the weights, with iterations and scores added.
        report: Told how it goes.
        stop: Asked before each step; when true, the state is saved and :class:`Interrupted` raised.

    Raises:
        Interrupted: ``stop`` returned true.
        HasnEdgeError: the loss is not a finite number: names the iteration, the images of its batch and
            the last good state.
    """
    recipe, world = trainer.recipe, trainer.world
    watch = _Losses(recipe, source, folder, each=world.device.type == "cpu")
    loader = _Loader(recipe, source, world, trainer.iteration)
    prefetcher = Prefetcher(loader.batches())
    clock, since = time.monotonic(), trainer.iteration
    recording = Recorder(trainer, folder, sets, provenance) if world.is_main else nullcontext()
    try:
        with recording as recorder:
            for parts in prefetcher:
                if world.any(stop()):
                    watch.check()
                    if recorder is not None:
                        recorder.save()
                    raise Interrupted(f"stopped after iteration {trainer.iteration}")
                watch.add(trainer.iteration, trainer.step(parts))
                if not _is_interval(recipe, trainer.iteration):
                    continue
                loss = watch.check()
                speed = (trainer.iteration - since) / max(1e-9, time.monotonic() - clock)
                if recorder is not None:
                    report(recorder.interval(loss, speed, loader.patches_per_second))
                clock, since = time.monotonic(), trainer.iteration
    finally:
        prefetcher.close()


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
    """Keeps losses on the device until they are looked at, so that a GPU does not wait after each step."""

    def __init__(self, recipe: Recipe, source: PatchSource, folder: Path, *, each: bool) -> None:
        self._recipe, self._source, self._folder, self._each = recipe, source, folder, each
        self._pending: list[tuple[int, Tensor]] = []
        self._sum, self._count = 0.0, 0

    def add(self, iteration: int, loss: Tensor) -> None:
        """Note the loss of step ``iteration`` (from 0)."""
        self._pending.append((iteration, loss))
        if self._each or len(self._pending) >= LOG_EVERY:
            self._look()

    def check(self) -> float:
        """Return the mean since the last call, having looked at every loss."""
        self._look()
        mean = self._sum / max(1, self._count)
        self._sum, self._count = 0.0, 0
        return mean

    def _look(self) -> None:
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
        names = sorted(set(batch.names))
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        good = saved_iterations(self._folder)
        state = (
            f"the last good state is {state_path(self._folder, good[0])}"
            if good
            else "no state was saved yet"
        )
        raise HasnEdgeError(
            f"the loss of iteration {iteration + 1} is {value}; its batch came from: {shown}; {state}; lower "
            "optimizer.lr, set optimizer.clip or train in fp32"
        )
