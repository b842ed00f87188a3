"""The learning rate as a pure function of the iteration, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from bisect import bisect_right

from hasn_edge.train.recipe import OptimizerConfig, Schedule


def learning_rate(config: OptimizerConfig, iteration: int, iterations: int) -> float:
    """Return the learning rate of step ``iteration`` (from 0) of ``iterations``.

    Warm-up is linear and reaches the schedule's value at step ``warmup``. ``steps`` multiplies by
    ``gamma`` from each milestone on, as PyTorch's ``MultiStepLR`` does; ``cosine`` falls from ``lr`` to
    ``final * lr`` over the steps after warm-up. ``wsd`` (warm-up, stable, decay) stays at ``lr`` and falls to
    ``final * lr`` over the last ``decay`` of the steps, by one minus the square root of the part done: of the
    shapes that Hägele et al. 2024 (arXiv 2405.18392) compared, the one that ended lowest.
    """
    if iteration < config.warmup:
        return config.lr * (iteration + 1) / config.warmup
    if config.schedule is Schedule.STEPS:
        return config.lr * config.gamma ** bisect_right(config.milestones, iteration)
    if config.schedule is Schedule.WSD:
        begin = config.decay_begin(iterations)
        done = max(0, iteration - begin) / max(1, iterations - begin)
        return config.lr * (config.final + (1 - config.final) * (1 - math.sqrt(min(1.0, done))))
    if config.schedule is Schedule.COSINE:
        done = (iteration - config.warmup) / max(1, iterations - config.warmup)
        return config.lr * (
            config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        )
    return config.lr
