"""How many patches a second training consumes, without the loader."""

from __future__ import annotations

import time

import torch

from hasn_edge.data.patches import PatchSource
from hasn_edge.train.memory import keep_freed_memory
from hasn_edge.train.recipe import Recipe
from hasn_edge.train.trainer import Trainer
from hasn_edge.train.world import World


def training_rate(recipe: Recipe, source: PatchSource, world: World, *, seconds: float = 5.0) -> float:
    """Take steps on one batch for about ``seconds``, after two for warming up; return patches a second."""
    keep_freed_memory()
    trainer = Trainer(recipe, source, world)
    phase = recipe.phase(0)
    batch = source.batch(0, phase.batch_size, phase.patch // recipe.model.scale)
    for _ in range(2):
        trainer.step([batch])
    _wait(world)
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        trainer.step([batch])
        _wait(world)
        steps += 1
    return steps * phase.batch_size / (time.perf_counter() - start)


def _wait(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
