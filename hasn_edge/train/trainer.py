"""One training run in memory: network, optimizer, average and step; what a state on disk restores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hasn_edge.data.patches import Batch, PatchSource
from hasn_edge.errors import CheckpointError
from hasn_edge.model.checkpoint import Checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.ema import Ema
from hasn_edge.train.init import initialize
from hasn_edge.train.linear import fit_linear
from hasn_edge.train.losses import total_loss
from hasn_edge.train.memory import memory_format
from hasn_edge.train.precision import autocast, keep_exact
from hasn_edge.train.recipe import Autocast, Recipe
from hasn_edge.train.schedule import learning_rate

_INIT_PATCHES = 16
_FIT_PATCHES = 256


class Trainer:
    """Takes optimizer steps. Where batches come from, when to validate, what to write: the loop's job."""

    def __init__(
        self,
        recipe: Recipe,
        source: PatchSource,
        world: DistributedContext,
        *,
        start: Checkpoint | None = None,
        compiled: bool = False,
    ) -> None:
        """Build everything for iteration 0.

        Args:
            recipe: The run.
            source: Where patches come from; a few of them set the scales of the initialization.
            world: This process among those of the run.
            start: Weights to begin with instead of the recipe's initialization.
            compiled: Run the network through ``torch.compile``.
        """
        self.recipe, self.world = recipe, world
        self.iteration = 0
        torch.manual_seed(recipe.seed)
        self.model = HASN(recipe.model)
        if start is not None:
            self.model.load_state_dict(dict(start.weights))
        else:
            _initialize(self.model, recipe, source)
        self._memory_format = memory_format(recipe.memory_format)
        self.model.to(world.device, memory_format=self._memory_format)  # type: ignore[call-overload]
        self.ema = Ema(self.model, decay=recipe.ema, warmup=recipe.ema_warmup)
        if recipe.autocast is not Autocast.FP32:
            keep_exact(self.model, world.device)
        self._forward: nn.Module = self.model
        if world.size > 1:
            ids = [world.device] if world.device.type == "cuda" else None
            self._forward = DistributedDataParallel(self.model, device_ids=ids)
        if compiled:
            self._forward = torch.compile(self._forward)  # type: ignore[assignment]
        settings = recipe.optimizer
        self.optimizer = torch.optim.Adam(
            self.model.parameters(),
            lr=settings.lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            foreach=True,
        )
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.autocast is Autocast.FP16)

    def step(self, parts: list[Batch]) -> Tensor:
        """Take one optimizer step and return its loss, a scalar on the device (this process's mean).

        Args:
            parts: This process's share of the batch, one part per accumulation pass.
        """
        recipe = self.recipe
        rate = learning_rate(recipe.optimizer, self.iteration, recipe.iterations)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.world.device)
        for number, part in enumerate(parts):
            last = number + 1 == len(parts)
            if isinstance(self._forward, DistributedDataParallel):
                self._forward.require_backward_grad_sync = last
            x, y = _tensor(part.lr, self.world.device), _tensor(part.hr, self.world.device)
            with autocast(recipe.autocast, self.world.device):
                sr = self._forward(x.contiguous(memory_format=self._memory_format))
            loss = total_loss(recipe.loss, sr.float(), y) / len(parts)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        if recipe.optimizer.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.optimizer.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.iteration += 1
        if recipe.ema > 0:
            self.ema.update(self.model, self.iteration)
        return total

    @property
    def averaged(self) -> HASN:
        """The weights to validate and export: the average, or the plain ones where averaging is off."""
        if self.recipe.ema > 0:
            return self.ema.model
        self.ema.model.load_state_dict(self.model.state_dict())
        return self.ema.model

    def state(self) -> dict[str, Any]:
        """Return everything that the next steps depend on."""
        return {
            "iteration": self.iteration,
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state_all() if self.world.device.type == "cuda" else [],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`'s value.

        Raises:
            CheckpointError: the state belongs to another network.
        """
        try:
            self.model.load_state_dict(state["model"])
            self.ema.model.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as exc:
            reason = str(exc).splitlines()[-1].strip()
            raise CheckpointError(f"the saved state is of another network: {reason}") from exc
        self.scaler.load_state_dict(state["scaler"])
        self.iteration = int(state["iteration"])
        torch.set_rng_state(state["rng"])
        if self.world.device.type == "cuda" and state["rng_cuda"]:
            torch.cuda.set_rng_state_all(state["rng_cuda"])


def _initialize(model: HASN, recipe: Recipe, source: PatchSource) -> None:
    side, cpu, linear = recipe.phase(0).patch // recipe.model.scale, torch.device("cpu"), None
    first = source.batch(0, _INIT_PATCHES, side)
    if recipe.init.least_squares:
        many = source.batch(0, _FIT_PATCHES, side)
        linear = fit_linear(_tensor(many.lr, cpu), _tensor(many.hr, cpu))
    initialize(model, recipe.init, _tensor(first.lr, cpu), seed=recipe.seed, linear=linear)


def _tensor(pixels: Any, device: torch.device) -> Tensor:
    """Return uint8 ``(N, 3, H, W)`` as float32 in [0, 1] on ``device``; the copy to it is of the bytes."""
    x = torch.from_numpy(pixels)
    if device.type == "cuda":
        x = x.pin_memory().to(device, non_blocking=True)
    return x.float().div_(255)
