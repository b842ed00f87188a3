"""Optimizer steps of a run: network, losses, number formats, average; and the state that they depend on."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hasn_edge.data.calibration import load_calibration
from hasn_edge.data.patches import Batch, PatchSource
from hasn_edge.errors import CheckpointError, UnsupportedError, say
from hasn_edge.model.blocks import ChannelNorm
from hasn_edge.model.checkpoint import Checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.optional import require
from hasn_edge.quantize.recipe import load_quant_recipe
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.init import fit_linear, fit_upsampler, initialize
from hasn_edge.train.recipe import Autocast, LossConfig, MemoryFormat, Recipe
from hasn_edge.train.silence import revive

if TYPE_CHECKING:
    from hasn_edge.quantize.fake_quant import FakeQuantHASN

RESCALE_STEPS = 50
"""Steps after which the ranges of rounded weights are chosen again."""

_CAB = re.compile(r"\.cab\.cab\.[02]\.(weight|bias)$")
_INIT_PATCHES = 16
_FIT_PATCHES = 256
_DTYPES = {Autocast.BF16: torch.bfloat16, Autocast.FP16: torch.float16}


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
            start: Weights to begin with instead of the recipe's initialization. Those of another scale give
                stem and body, and the upsampler is fitted to them.
            compiled: Run the network through ``torch.compile``.
        """
        self.recipe, self.world, self._source = recipe, world, source
        self.iteration = 0
        self.revived = ""
        """Which hidden units of the weights to begin with were silent, where they begin anew."""
        torch.manual_seed(recipe.seed)
        self.model = HASN(recipe.model)
        if start is None:
            _initialize(self.model, recipe, source)
        else:
            _load_start(self.model, start, recipe, source)
            if recipe.init.revive:
                lr, _ = _patches(recipe, source, _INIT_PATCHES)
                self.revived = revive(self.model, lr, seed=recipe.seed) or "no hidden unit is silent"
        self.rounded = bool(recipe.quantize.recipe)
        """Whether the network computes as its INT8 graph does."""
        if self.rounded:
            self.model = _rounded(self.model, recipe.quantize.recipe).train()
        contiguous = recipe.memory_format is MemoryFormat.CONTIGUOUS  # "auto" is not, if nothing was measured
        self._memory_format = torch.contiguous_format if contiguous else torch.channels_last
        self.model.to(world.device, memory_format=self._memory_format)  # type: ignore[call-overload]
        self.ema = Ema(self.model, decay=recipe.ema, warmup=recipe.ema_warmup)
        if recipe.autocast is not Autocast.FP32:
            _keep_float32(self.model, world.device)
        if world.device.type == "cpu":
            _use_faster_depthwise(self.model)
        self._forward: nn.Module = self.model
        if world.size > 1:
            ids = [world.device] if world.device.type == "cuda" else None
            self._forward = DistributedDataParallel(self.model, device_ids=ids)
        if compiled:
            self._forward = torch.compile(self._forward)  # type: ignore[assignment]
        self._matrices = _pointwise_weights(self.model) if recipe.optimizer.muon else {}
        self.optimizers = _optimizers(self.model, recipe, list(self._matrices.values()))
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.autocast is Autocast.FP16)

    def step(self, parts: list[Batch]) -> Tensor:
        """Take one optimizer step and return its loss, a scalar on the device (this process's mean).

        Args:
            parts: This process's share of the batch, one part per accumulation pass.
        """
        recipe = self.recipe
        if self.rounded and self.iteration % RESCALE_STEPS == 0:
            cast("FakeQuantHASN", self.model).rescale()
        rate = recipe.learning_rate(self.iteration)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("factor", 1.0)
        self.model.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.world.device)
        for number, part in enumerate(parts):
            last = number + 1 == len(parts)
            if isinstance(self._forward, DistributedDataParallel):
                self._forward.require_backward_grad_sync = last
            x, y = _tensor(part.lr, self.world.device), _tensor(part.hr, self.world.device)
            with torch.autocast(
                self.world.device.type,
                dtype=_DTYPES.get(recipe.autocast),
                enabled=recipe.autocast is not Autocast.FP32,
            ):
                sr = self._forward(x.contiguous(memory_format=self._memory_format))
            loss = total_loss(recipe.loss, sr.float(), y) / len(parts)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        for name, matrix in self._matrices.items():
            grad = self.model.get_parameter(name).grad
            assert grad is not None
            matrix.grad = grad.view(matrix.shape)  # the same memory: scaling and clipping hold for both
        if recipe.optimizer.clip is not None:
            for optimizer in self.optimizers:
                self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.optimizer.clip)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        self.iteration += 1
        if recipe.ema > 0:
            self.ema.update(self.model, self.iteration)
        return total

    @cached_property
    def watched(self) -> Tensor:
        """LR patches on which hidden units are watched, on the device."""
        return _patches(self.recipe, self._source, _INIT_PATCHES)[0].to(self.world.device)

    @property
    def averaged(self) -> HASN:
        """The weights to validate and export: the average, or the plain ones where averaging is off."""
        if self.recipe.ema <= 0:
            self.ema.model.load_state_dict(self.model.state_dict())
        if self.rounded:
            cast("FakeQuantHASN", self.ema.model).rescale()
        return self.ema.model

    def exported(self, model: HASN) -> tuple[HASN, dict[str, Any]]:
        """Return what a file holds of :attr:`model` or :attr:`averaged`, and what it states of INT8."""
        if not self.rounded:
            return model, {}
        rounded = cast("FakeQuantHASN", model)
        return rounded.network(), rounded.provenance()

    def state(self) -> dict[str, Any]:
        """Return everything that the next steps depend on."""
        return {
            "iteration": self.iteration,
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
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
            # A state of before there was Muon has one optimizer under another name.
            saved = state["optimizers"] if "optimizers" in state else [state["optimizer"]]
            for optimizer, values in zip(self.optimizers, saved, strict=True):
                optimizer.load_state_dict(values)
        except (RuntimeError, ValueError, KeyError) as exc:
            reason = str(exc).splitlines()[-1].strip()
            raise CheckpointError(f"the saved state is of another network: {reason}") from exc
        self.scaler.load_state_dict(state["scaler"])
        self.iteration = int(state["iteration"])
        torch.set_rng_state(state["rng"])
        if self.world.device.type == "cuda" and state["rng_cuda"]:
            torch.cuda.set_rng_state_all(state["rng_cuda"])


def _pointwise_weights(model: HASN) -> dict[str, nn.Parameter]:
    """Return the weights of the blocks' 1x1 convolutions as matrices ``(out, in)`` that share their memory.

    Those of the channel attention are left out: one row of numbers has no directions to balance.
    """
    return {
        name: nn.Parameter(weight.detach().view(weight.shape[:2]))
        for name, weight in model.named_parameters()
        if weight.ndim == 4 and weight.shape[2:] == (1, 1) and ".attention." not in name
    }


def _optimizers(model: HASN, recipe: Recipe, matrices: list[nn.Parameter]) -> list[torch.optim.Optimizer]:
    """Return Adam for the weights that are not among ``matrices``, and Muon for these if there are any."""
    settings = recipe.optimizer
    shared = {matrix.data_ptr() for matrix in matrices}
    rest = [(name, p) for name, p in model.named_parameters() if p.data_ptr() not in shared]
    groups: list[dict[str, Any]] = [{"params": [weight for _, weight in rest]}]
    if settings.cab != 1:
        slow = [weight for name, weight in rest if _CAB.search(name)]
        others = [weight for name, weight in rest if not _CAB.search(name)]
        groups = [{"params": others}, {"params": slow, "factor": settings.cab}]
    adam = torch.optim.Adam(
        groups,
        lr=settings.lr,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        foreach=True,
    )
    if not matrices:
        return [adam]
    if not hasattr(torch.optim, "Muon"):
        raise UnsupportedError(
            f"optimizer.muon needs PyTorch 2.9 or newer; this is {torch.__version__}",
            say("set optimizer.muon to false"),
        )
    muon = torch.optim.Muon(matrices, lr=settings.lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    return [adam, muon]


def _rounded(model: HASN, name: str) -> FakeQuantHASN:
    """Return the network rounded to INT8 by the recipe called ``name``, its ranges to be learned."""
    require("onnx", extra="export", needed_for="Training a network that is rounded to INT8")
    from hasn_edge.quantize.fake_quant import fake_quantized

    recipe = load_quant_recipe(name)
    return fake_quantized(model.eval().requires_grad_(False), load_calibration(recipe.calibration), recipe)


def _initialize(model: HASN, recipe: Recipe, source: PatchSource) -> None:
    lr, _ = _patches(recipe, source, _INIT_PATCHES)
    linear = fit_linear(*_patches(recipe, source, _FIT_PATCHES)) if recipe.init.least_squares else None
    initialize(model, recipe.init, lr, seed=recipe.seed, linear=linear)


def _load_start(model: HASN, start: Checkpoint, recipe: Recipe, source: PatchSource) -> None:
    if start.spec == recipe.model:
        model.load_state_dict(dict(start.weights))
        return
    body = {name: t for name, t in start.weights.items() if not name.startswith("upsampler.")}
    model.load_state_dict(body, strict=False)
    fit_upsampler(model, *_patches(recipe, source, _FIT_PATCHES))


def _patches(recipe: Recipe, source: PatchSource, count: int) -> tuple[Tensor, Tensor]:
    """Return the first patches of the run, LR and HR, in [0, 1]."""
    batch, cpu = source.batch(0, count, recipe.phase(0).patch // recipe.model.scale), torch.device("cpu")
    return _tensor(batch.lr, cpu), _tensor(batch.hr, cpu)


def _keep_float32(model: nn.Module, device: torch.device) -> None:
    """Make the depthwise convolutions and LayerNorms of ``model`` compute in float32 under autocast.

    A 7x7 sum over one channel and a variance gain little from short numbers and lose the most by them.
    """

    def wrap(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            with torch.autocast(device.type, enabled=False):
                return forward(x.float())

        return run

    for module in model.modules():
        if _is_depthwise(module) or isinstance(module, ChannelNorm):
            module.forward = wrap(module.forward)


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups > 1


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution of stride 1 whose gradients are depthwise convolutions too.

    PyTorch's own backward pass takes fourteen times its forward pass on a CPU: of weights of 7 x 7 for 52
    channels on 8 patches of 24 x 24, 4.4 ms against 0.3 ms. These take 1.3 ms, and a training step of
    ``hasn-x4`` 0.173 s instead of 0.205 s (one thread, BF16). They are the same sums in another order.
    """

    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(x_NCHW, weight)
        ctx.padding = padding
        return F.conv2d(x_NCHW, weight, bias, padding=padding, groups=weight.shape[0])

    @staticmethod
    def backward(ctx: Any, grad_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        (n, c, h, w), k, p = x.shape, weight.shape[-1], ctx.padding
        grad_x = F.conv2d(grad_NCHW, weight.flip(2, 3), padding=k - 1 - p, groups=c)
        # Each channel of each image is an input of its own, and its gradient the kernel that slides over it.
        kernels = grad_NCHW.contiguous().view(n * c, 1, h, w)
        padded = F.pad(x, (p, p, p, p)).contiguous().view(1, n * c, h + 2 * p, w + 2 * p)
        by_image = F.conv2d(padded, kernels, groups=n * c).view(n, c, 1, k, k)
        return grad_x, by_image.sum(0), grad_NCHW.sum((0, 2, 3)), None


def _use_faster_depthwise(model: nn.Module) -> None:
    """Give the depthwise convolutions of ``model`` the gradients of :class:`_Depthwise`; in float32."""

    def wrap(module: nn.Conv2d) -> Callable[[Tensor], Tensor]:
        padding = int(module.padding[0])

        def run(x_NCHW: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                x = x_NCHW.to(module.weight.dtype)
                out: Tensor = _Depthwise.apply(x, module.weight, module.bias, padding)  # type: ignore[no-untyped-call]
            return out

        return run

    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _is_depthwise(module):
            module.forward = wrap(module)  # type: ignore[assignment, method-assign]


def _tensor(pixels: Any, device: torch.device) -> Tensor:
    """Return uint8 ``(N, 3, H, W)`` as float32 in [0, 1] on ``device``; the copy to it is of the bytes."""
    x = torch.from_numpy(pixels)
    if device.type == "cuda":
        x = x.pin_memory().to(device, non_blocking=True)
    return x.float().div_(255)


def kl_over_channels(sr_NCHW: Tensor, hr_NCHW: Tensor) -> Tensor:
    """KL(HR || SR) of softmaxes over the colour channel, mean over all elements.

    The paper's stage 2 term as its code has it: ``mean(p * (log p - log(q + 1e-8)))`` with ``p`` the
    softmax of the target and ``q`` of the prediction, both over dimension 1. Adding the same value to all
    three channels of a pixel changes nothing: the term sees hue and not brightness.
    """
    p, q = torch.softmax(hr_NCHW, dim=1), torch.softmax(sr_NCHW, dim=1)
    return F.kl_div(torch.log(q + 1e-8), p, reduction="none").mean()


def fourier_l1(sr_NCHW: Tensor, hr_NCHW: Tensor) -> Tensor:
    """Return the mean absolute error of real and imaginary parts of the two-dimensional Fourier transform.

    As MIMO-UNet (Cho et al. 2021) and SAFMN (Sun et al. 2023, weight 0.05) have it: a forward transform of
    each colour over height and width that is not divided by anything, and the mean over all coefficients. An
    error that is white noise therefore counts ``sqrt(H W / 2)`` times what it counts in the mean absolute
    error of the pixels, 68 times on HR patches of 96 x 96: a small weight is a large one. Only the half of
    the spectrum that a real image does not repeat is computed. In its mean the first and, for an even width,
    the last column have twice the share that they have in the mean over the whole spectrum.
    """
    error = torch.view_as_real(torch.fft.rfft2(sr_NCHW - hr_NCHW))
    return error.abs().mean()


def total_loss(config: LossConfig, sr_NCHW: Tensor, hr_NCHW: Tensor) -> Tensor:
    """Return the weighted sum of the terms of ``config``, a scalar."""
    total = sr_NCHW.new_zeros(())
    if config.l1:
        total = total + config.l1 * F.l1_loss(sr_NCHW, hr_NCHW)
    if config.mse:
        total = total + config.mse * F.mse_loss(sr_NCHW, hr_NCHW)
    if config.kl:
        total = total + config.kl * kl_over_channels(sr_NCHW, hr_NCHW)
    if config.fft:
        total = total + config.fft * fourier_l1(sr_NCHW, hr_NCHW)
    return total
