"""The exponential moving average of the weights: what is validated and exported."""

from __future__ import annotations

import copy

import torch

from hasn_edge.model.hasn import HASN


class Ema:
    """Averaged copy of a network: ``average += (1 - decay) * (weights - average)`` after each step."""

    def __init__(self, model: HASN, *, decay: float, warmup: bool) -> None:
        self.decay, self.warmup = decay, warmup
        self.model: HASN = copy.deepcopy(model).eval().requires_grad_(False)

    def update(self, model: HASN, step: int) -> None:
        """Move towards ``model`` after optimizer step ``step`` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        with torch.no_grad():
            torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1.0 - decay)
