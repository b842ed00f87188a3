"""How fast loader and network are here, each alone; what makes steps faster: memory format and allocator."""

from __future__ import annotations

import ctypes
import sys
import time
from dataclasses import replace

import torch

from hasn_edge.data.patches import PatchSource
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.recipe import InitConfig, MemoryFormat, Recipe
from hasn_edge.train.trainer import Trainer

_ROUNDS, _STEPS = 3, 2
_MARGIN = 0.98  # what a format must need of channels-last's time to be taken instead
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def loader_rate(recipe: Recipe, source: PatchSource, *, seconds: float = 3.0) -> float:
    """Cut batches of the first phase in one thread for about ``seconds``; return patches a second."""
    size, patch = recipe.phase(0).batch_size, recipe.phase(0).patch // recipe.model.scale
    source.batch(0, size, patch)
    start, batches = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        batches += 1
        source.batch(batches, size, patch)
    return batches * size / elapsed


def training_rate(
    recipe: Recipe, source: PatchSource, world: DistributedContext, *, seconds: float = 5.0
) -> float:
    """Take steps on one batch for about ``seconds``, after two to warm up; return patches a second.

    As in a run, each step has the passes that ``recipe.accumulate`` asks for.
    """
    keep_freed_memory()
    trainer = Trainer(recipe, source, world)
    phase = recipe.phase(0)
    passes = [world.part(phase.batch_size, recipe.accumulate, index) for index in range(recipe.accumulate)]
    side = phase.patch // recipe.model.scale
    parts = [source.batch(0, phase.batch_size, side, part=part) for part in passes]
    for _ in range(2):
        trainer.step(parts)
    _wait(world.device)
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        trainer.step(parts)
        _wait(world.device)
        steps += 1
    return steps * phase.batch_size / (time.perf_counter() - start)


def faster_memory_format(
    recipe: Recipe, source: PatchSource, device: torch.device | None = None
) -> MemoryFormat:
    """Return the memory format in which a step of ``recipe`` takes less time here, measured in some seconds.

    Both take steps on a batch of the recipe's last phase by turns, so that what else the machine does meets
    both; each format's fastest counts. Which one wins depends on the CPU, the number format and the patches.

    Args:
        recipe: The run; its own memory format does not matter.
        source: Where patches come from.
        device: Where; the CPU by default.
    """
    keep_freed_memory()
    world = DistributedContext(device=device or torch.device("cpu"))
    phase = recipe.phases[-1]
    batch = source.batch(0, phase.batch_size // recipe.accumulate, phase.patch // recipe.model.scale)
    formats = (MemoryFormat.CHANNELS_LAST, MemoryFormat.CONTIGUOUS)
    plain = replace(recipe, init=InitConfig(), ema=0.0)
    trainers = {kind: Trainer(replace(plain, memory_format=kind), source, world) for kind in formats}
    fastest = dict.fromkeys(formats, float("inf"))
    for number in range(_ROUNDS + 1):
        for kind, trainer in trainers.items():
            start = time.perf_counter()
            for _ in range(_STEPS):
                trainer.step([batch])
            _wait(world.device)
            if number > 0:  # the first round warms up
                fastest[kind] = min(fastest[kind], time.perf_counter() - start)
    last, other = (fastest[kind] for kind in formats)
    return formats[1] if other < _MARGIN * last else formats[0]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to reuse freed blocks instead of returning them to the system at once.

    Every activation of a step is megabytes large; by default each is mapped, faulted in page by page
    and unmapped again in every iteration: a quarter of a step's time. Measured on a 2-core CPU: 0.264 s
    a step before, 0.203 s after.

    Returns:
        Whether it took effect; other C libraries are left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        return all(
            libc.mallopt(option, value) == 1
            for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 1 << 30), (_TOP_PAD, 64 << 20))
        )
    except (OSError, AttributeError):
        return False
