"""A network that computes as its INT8 graph does and can be trained: rounding passes gradients on.

The forward pass is that of the graph of :func:`~hasn_edge.quantize.int8.int8_onnx_from_onnx`, value by value
up to rounding of float32: the same scales, the same codes, the same shared pairs. Backward, what lies inside
a range passes unchanged (Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons",
2013), and ranges have the gradient of Esser et al., "Learned Step Size Quantization" (2020).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.fuse.apply import FusedHASN, fuse
from hasn_edge.images.arrays import Float32
from hasn_edge.model.blocks import ChannelNorm
from hasn_edge.model.hasn import HASN
from hasn_edge.quantize.equalize import equalize, links
from hasn_edge.quantize.graph import convolutions
from hasn_edge.quantize.int8 import DEAD_RANGE, scale_of, weight_ranges
from hasn_edge.quantize.observers import LEVELS
from hasn_edge.quantize.ranges import LEARNED, ranges_from_onnx
from hasn_edge.quantize.recipe import Granularity, Rounding

if TYPE_CHECKING:
    from onnx import ModelProto

    from hasn_edge.quantize.ranges import CalibrationBatches, Ranges
    from hasn_edge.quantize.recipe import QuantRecipe
    from hasn_edge.quantize.spread import Spread

RANGE_GAIN = 1000.0
"""How many times faster than a weight the logarithm of a range or a factor moves at one learning rate."""

RESCALE_EVERY = 50
"""Steps after which the ranges of the weights are chosen again."""

SIDE = 40
"""Side in pixels of what a step sees of a patch: small ones leave time for more steps."""


class _RoundInput(torch.autograd.Function):
    """Values to the nearest of 256 codes, from ``least`` to ``least + 255`` steps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, least: int) -> Tensor:
        steps = x / scale
        codes = torch.round(steps)
        kept = codes.clamp(least, least + 2 * LEVELS + 1)
        inside = codes == kept
        ctx.save_for_backward(inside, torch.where(inside, kept - steps, kept))
        return kept * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        inside, slope = ctx.saved_tensors
        return gradients[0] * inside, (gradients[0] * slope).sum(), None


class _RoundWeights(torch.autograd.Function):
    """Weights to their codes; the gradient passes, also of those that are cut off."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, scales: Tensor) -> Tensor:
        steps = weights / scales
        codes = torch.round(steps).clamp(-LEVELS - 1, LEVELS)
        ctx.save_for_backward(codes - steps)
        return codes * scales

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (errors,) = ctx.saved_tensors
        return gradients[0], (gradients[0] * errors).sum((1, 2, 3), keepdim=True)


class InputPair(nn.Module):
    """The Q/DQ pair on a tensor, which all convolutions that read it share, and what is in front of it."""

    steps: Tensor
    """Whole steps that are subtracted from each channel ``(C, 1, 1)``, where it is spread."""
    factors: Tensor
    """What a channel is multiplied by then."""

    def __init__(
        self, limit: float, low: float | None, spread: Spread | None = None, *, exact: bool = False
    ) -> None:
        super().__init__()
        self.base = limit
        self.exact = exact
        """Whether its codes are an image's levels, or of zeros alone: then there is nothing to learn."""
        self.offset = nn.Parameter(torch.zeros((), dtype=torch.float64), not exact)
        scale = float(scale_of(limit, np.dtype(np.float32)))
        self.least = -LEVELS - 1 if low is None else int(np.rint(low / scale))
        self.shifted, self.spread = low is not None, spread is not None
        if spread is not None:
            shifts, factors = (np.array(each).reshape(-1, 1, 1) for each in spread)
            self.register_buffer("steps", torch.from_numpy(np.rint(shifts * factors / scale)))
            self.register_buffer("factors", torch.from_numpy(factors))
        self._last: tuple[Tensor, Tensor] | None = None

    @property
    def limit(self) -> Tensor:
        """What code 127 stands for, before a shift; float64."""
        return self.base * torch.exp(RANGE_GAIN * self.offset)

    def record(self) -> tuple[float, float | None, Spread | None]:
        """Return range, low and spread as :class:`~hasn_edge.quantize.ranges.Ranges` has them."""
        limit = float(self.limit.detach())
        scale = float(scale_of(limit, np.dtype(np.float32)))
        if self.spread:
            shifts = self.steps * scale / self.factors
            return limit, None, (tuple(shifts.ravel().tolist()), tuple(self.factors.ravel().tolist()))
        return limit, self.least * scale if self.shifted else None, None

    def forward(self, x: Tensor) -> Tensor:
        """Return what the codes of ``x`` stand for; once for all that read it."""
        if self._last is None or self._last[0] is not x:
            scale, y = self.limit / LEVELS, x
            if self.spread:  # in the graph's order, so that the same values are rounded
                shifts, factors = (self.steps * scale / self.factors).to(x.dtype), self.factors.to(x.dtype)
                y = (x - shifts) * factors
            made: Tensor = _RoundInput.apply(y, scale.to(x.dtype), self.least)  # type: ignore[no-untyped-call]
            self._last = x, made / factors + shifts if self.spread else made
        return self._last[1]

    def forget(self) -> None:
        """Let go of the last tensor."""
        self._last = None


class FakeNorm(nn.Module):
    """A LayerNorm over channels whose output is divided by factors."""

    def __init__(self, norm: ChannelNorm, written: nn.Parameter) -> None:
        super().__init__()
        self.inner = norm
        self._written = [written]  # in a list, so that it is not this module's own

    def parameters_now(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias with the factors in them."""
        divided = torch.exp(-RANGE_GAIN * self._written[0])
        return self.inner.weight * divided, self.inner.bias * divided

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return what the LayerNorm with these parameters does."""
        norm = self.inner
        y = F.layer_norm(x_NCHW.permute(0, 2, 3, 1), norm.normalized_shape, *self.parameters_now(), norm.eps)
        return y.permute(0, 3, 1, 2)


class FakeConv(nn.Module):
    """A convolution whose input and weights are rounded, and whose channels have factors.

    Args:
        conv: Its parameters are taken over.
        pair: On its input; neither input nor weights are rounded where ``None``.
        read: Logarithms of what input channels are multiplied by, over :data:`RANGE_GAIN`.
        written: Likewise of what output channels are divided by.
        before: A convolution without padding that is composed with it, as fusion does.
    """

    fractions: Tensor
    """What the weights' ranges are of the largest magnitudes, of each output channel: float64."""

    def __init__(
        self,
        conv: nn.Conv2d,
        pair: InputPair | None,
        read: nn.Parameter | None = None,
        written: nn.Parameter | None = None,
        before: FakeConv | None = None,
    ) -> None:
        super().__init__()
        self.inner = conv
        # In lists, so that they are not this module's children: others own them.
        self._pair, self._before, self._factors = [pair], [before], [read, written]
        self.register_buffer("fractions", torch.ones(conv.out_channels, 1, 1, 1, dtype=torch.float64))
        self._together, self._rounds = False, True

    def own_parameters(self) -> tuple[Tensor, Tensor]:
        """Return weights and bias with the factors in them, not composed and not rounded."""
        conv, (read, written) = self.inner, self._factors
        weights, bias = conv.weight, conv.bias
        assert bias is not None
        if read is not None:
            sides = (-1, 1, 1, 1) if conv.groups > 1 else (1, -1, 1, 1)
            weights = weights * torch.exp(RANGE_GAIN * read).view(sides)
        if written is not None:
            divided = torch.exp(-RANGE_GAIN * written)
            weights, bias = weights * divided.view(-1, 1, 1, 1), bias * divided
        return weights, bias

    def parameters_now(self) -> tuple[Tensor, Tensor]:
        """Return weights and bias as the graph has them, before rounding."""
        weights, bias = self.own_parameters()
        before = self._before[0]
        if before is None:
            return weights, bias
        first, first_bias = before.own_parameters()
        second = weights[:, :, 0, 0]
        return torch.einsum("om,miuv->oiuv", second, first), second @ first_bias + bias

    def rescale(self, recipe: QuantRecipe) -> None:
        """Choose the weights' ranges by a recipe; until the next time they follow the largest weight."""
        self._together = recipe.weights is Granularity.PER_TENSOR
        # Codes whose errors cancel are chosen for the finished weights, and hardly cost anything then.
        self._rounds = recipe.rounding is Rounding.NEAREST
        if not self._rounds:
            return
        weights = self._spread(self.parameters_now()[0].detach())
        limits = torch.from_numpy(np.asarray(weight_ranges(weights.cpu().numpy(), recipe)))
        largest = self._largest(weights).cpu()
        found = torch.where(largest > 0, limits.view(-1, 1, 1, 1) / largest, 1.0)
        self.fractions.copy_(found.expand_as(self.fractions))

    def _largest(self, weights: Tensor) -> Tensor:
        magnitudes = weights.abs().double()
        return (
            magnitudes.amax().view(1, 1, 1, 1) if self._together else magnitudes.amax((1, 2, 3), keepdim=True)
        )

    def _spread(self, weights: Tensor, *, back: bool = False) -> Tensor:
        """Return weights as they are behind the factors in front of the pair, or what those stand for."""
        pair = self._pair[0]
        if pair is None or not pair.spread:
            return weights
        factors = pair.factors.to(weights.dtype).view(
            (-1, 1, 1, 1) if self.inner.groups > 1 else (1, -1, 1, 1)
        )
        return weights * factors if back else weights / factors

    def _rounded(self, weights: Tensor) -> Tensor:
        weights = self._spread(weights)
        limits = self.fractions * self._largest(weights)
        scales = (torch.where(limits > 0, limits, DEAD_RANGE) / LEVELS).to(weights.dtype)
        return self._spread(_RoundWeights.apply(weights, scales), back=True)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution's output."""
        conv, pair = self.inner, self._pair[0]
        weights, bias = self.parameters_now()
        if pair is not None:
            x, weights = pair(x), self._rounded(weights) if self._rounds else weights
        return F.conv2d(x, weights, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


class FakeQuantHASN(FusedHASN):
    """``(N, 3, H, W)`` in and out as :class:`~hasn_edge.model.hasn.HASN`, rounded as its INT8 graph.

    Args:
        model: Prepared for INT8 (equalized), not fused; it stays as it was.
        proto: Its FP32 graph, fused or not.
        ranges: Measured on that graph.
        recipe: Selects what is rounded, and how weights are.
        composed: Whether the graph has ESA's first convolution composed with the third branch's.
    """

    def __init__(
        self, model: HASN, proto: ModelProto, ranges: Ranges, recipe: QuantRecipe, *, composed: bool
    ) -> None:
        composed = composed and model.spec.esa
        super().__init__(model, ("compose_esa",) if composed else ())
        self.recipe = recipe
        self._ranges = ranges
        found = {conv.name: conv for conv in convolutions(proto)}
        chosen = {name: found[name] for name in recipe.select(found)}
        self.pairs = nn.ModuleList()
        """One for each tensor that is rounded."""
        self.factors = nn.ParameterList()
        """Of channels that are divided where they are written and multiplied where they are read: they change
        what is rounded and leave the FP32 function as it is."""
        self._names: dict[str, int] = {}
        made: dict[tuple[str, float | None, Spread | None], int] = {}
        image = proto.graph.input[0].name
        for name, conv in chosen.items():
            key = _, low, spread = conv.input, ranges.lows.get(name), ranges.spread.get(name)
            if key not in made:
                others = ((c.input, ranges.lows.get(n), ranges.spread.get(n), n) for n, c in chosen.items())
                limit = max(ranges.of(other) for *read, other in others if tuple(read) == key)
                made[key] = len(self.pairs)
                exact = limit <= 0 or (low is not None and conv.input == image)
                self.pairs.append(InputPair(limit if limit > 0 else 1.0, low, spread, exact=exact))
            self._names[name] = made[key]
        self._replace(model, composed, {name: conv.shape[2:] for name, conv in chosen.items()})
        self.rescale()

    def _replace(self, model: HASN, composed: bool, kernels: Mapping[str, tuple[int, ...]]) -> None:
        read: dict[str, nn.Parameter] = {}
        written: dict[str, nn.Parameter] = {}
        for link in links(model.spec):
            first = model.get_submodule(link.readers[0])
            assert isinstance(first, nn.Conv2d)
            factors = nn.Parameter(torch.zeros(first.in_channels))
            self.factors.append(factors)
            read.update(dict.fromkeys(link.readers, factors))
            written.update(dict.fromkeys(link.writers, factors))
        for name, module in list(self.named_modules()):
            made: FakeConv | FakeNorm
            if isinstance(module, nn.Conv2d):
                before, conv = None, module
                if composed and name.endswith("esa.conv1"):
                    before = cast("FakeConv", self.get_submodule(name.replace("esa.conv1", "f3.conv")))
                    conv = cast("nn.Conv2d", copy.deepcopy(model.get_submodule(name)))
                pair = cast("InputPair", self.pairs[self._names[name]]) if name in self._names else None
                if conv.kernel_size != kernels.get(name):  # composed by another rule: it reads something else
                    pair = None
                made = FakeConv(conv, pair, read.get(name), written.get(name), before)
            elif isinstance(module, ChannelNorm) and name in written:
                made = FakeNorm(module, written[name])
            else:
                continue
            made.inner.requires_grad_(True)
            parent, _, own = name.rpartition(".")
            setattr(self.get_submodule(parent), own, made)

    def rescale(self) -> None:
        """Choose the ranges of all weights again."""
        for module in self.modules():
            if isinstance(module, FakeConv):
                module.rescale(self.recipe)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the upscaled batch, as INT8 computes it."""
        out = super().forward(x_NCHW)
        for pair in self.pairs:
            assert isinstance(pair, InputPair)
            pair.forget()
        return out

    def network(self) -> HASN:
        """Return the FP32 network with these weights, where they are, not fused: what a checkpoint holds."""
        result = HASN(self.spec).to(next(self.parameters()).device)
        with torch.no_grad():
            for name, module in self.named_modules():
                if isinstance(module, FakeConv | FakeNorm):
                    own = module.own_parameters() if isinstance(module, FakeConv) else module.parameters_now()
                    result.get_parameter(f"{name}.weight").copy_(own[0])
                    result.get_parameter(f"{name}.bias").copy_(own[1])
        return result.eval().requires_grad_(False)

    def ranges(self) -> Ranges:
        """Return the ranges of all that is rounded, as they are now."""
        kept = self._ranges.only(self._names)
        values, lows, spread = dict(kept.values), dict(kept.lows), dict(kept.spread)
        for name, number in self._names.items():
            pair = self.pairs[number]
            assert isinstance(pair, InputPair)
            if not pair.exact:
                values[name], low, channels = pair.record()
                if low is not None:
                    lows[name] = low
                if channels is not None:
                    spread[name] = channels
        return replace(
            kept, values=values, lows=lows, spread=spread, codes={}
        )  # these weights are rounded to the nearest

    def provenance(self) -> dict[str, Any]:
        """Return what a checkpoint of :meth:`network` has to state, so that a build takes these ranges."""
        return provenance_of(self.ranges())


def provenance_of(ranges: Ranges) -> dict[str, Any]:
    """Return what a checkpoint states of ranges that were learned with its weights."""
    return {
        LEARNED: {
            "values": dict(ranges.values),
            "lows": dict(ranges.lows),
            "spread": dict(ranges.spread),
            "fingerprint": ranges.fingerprint,
        }
    }


def fake_quantized(model: HASN, data: CalibrationBatches, recipe: QuantRecipe) -> FakeQuantHASN:
    """Return a network that is prepared and rounded as ``recipe`` has it; ``model`` stays as it was.

    Args:
        model: Trained, not fused.
        data: Batches to equalize and to measure ranges on.
        recipe: Selects what is rounded, and how.
    """
    if recipe.equalize is not None:
        model = equalize(model, data, alpha=recipe.equalize)
    proto = onnx_from_model(fuse(model, ("compose_esa",))[0], opset=17)
    return FakeQuantHASN(model, proto, ranges_from_onnx(proto, data, recipe), recipe, composed=True)


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """How weights are adapted; what every step depends on."""

    rate: float = 2e-6
    """Adam's learning rate for weights. It moves all weights of a convolution at once: with 1e-5, what a
    hundred steps gain on photographs is lost on drawn images, with 4e-5 on both."""
    warmup: int = 40
    """Steps in which the rate grows to that, while Adam's own averages begin."""
    batch: int = 2
    """Patches in a step."""
    average: float = 0.99
    """Decay of the averaged weights, which are what is measured and kept; less in the first steps."""
    learn_ranges: bool = True
    """Let ranges of inputs grow, besides what factors and weights do. They never shrink: on some dozens of
    patches they would, which is good for photographs and cuts off what drawn images need."""
    seed: int = 0
    """Decides the order of the patches and how they are turned."""


class Tuner:
    """Lets a network follow its own FP32 outputs in INT8, one step at a time.

    It follows the FP32 network's output for the very square that it sees. The mean over its flips and
    rotations would be nearer to the truth, but was tried: what it differs by is learned by heart first.

    Args:
        network: What is adapted, in place.
        teacher: The FP32 network.
        patches: Inputs ``(1, 3, H, W)`` float32 in [0, 1]; a step sees a random square of one.
        settings: How.
    """

    def __init__(
        self, network: FakeQuantHASN, teacher: HASN, patches: Sequence[Float32], settings: TuneSettings
    ) -> None:
        self.network, self.settings = network, settings
        for pair in cast("Iterable[InputPair]", network.pairs):
            pair.offset.requires_grad_(settings.learn_ranges and not pair.exact)
        self.averaged = copy.deepcopy(network).requires_grad_(False)
        self.step_count = 0
        self._teacher = teacher
        self._patches = patches
        parameters = [each for each in network.parameters() if each.requires_grad]
        # Long averages, and no limit to a gradient: what is cut off is rare, and its gradients are large.
        self._optimizer = torch.optim.Adam(parameters, lr=settings.rate, betas=(0.9, 0.999))

    def step(self) -> float:
        """Take one step and return its loss: the root mean square difference to what is followed."""
        settings, rng = self.settings, np.random.default_rng([self.settings.seed, self.step_count])
        if self.step_count % RESCALE_EVERY == 0:
            self.network.rescale()
        for group in self._optimizer.param_groups:
            group["lr"] = settings.rate * min(1.0, (self.step_count + 1) / settings.warmup)
        self._optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for _ in range(settings.batch):
            index, way = int(rng.integers(len(self._patches))), int(rng.integers(8))
            x = _flipped(_cut(self._patches[index], rng), way)
            with torch.no_grad():
                target = self._teacher(x)
            # Of each patch the root: squares alone would follow the few with hard edges only, and absolute
            # values leave out the rare and strong errors that cutting a range short makes.
            loss = F.mse_loss(self.network(x), target).add(1e-12).sqrt() / settings.batch
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        self._optimizer.step()
        with torch.no_grad():
            for pair in cast("Iterable[InputPair]", self.network.pairs):
                pair.offset.clamp_(min=0)  # few images show too little of what is rare
        self.step_count += 1
        decay = min(settings.average, (1 + self.step_count) / (10 + self.step_count))
        with torch.no_grad():
            for mean, own in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(own, 1 - decay)
        return total

    def state(self) -> dict[str, Any]:
        """Return what the next steps depend on."""
        return {
            "step": self.step_count,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`'s value."""
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step_count = int(state["step"])


def _flipped(x_NCHW: Tensor, way: int) -> Tensor:
    """Return one of the eight flips and rotations by a right angle."""
    return torch.rot90(x_NCHW.flip(3) if way >= 4 else x_NCHW, way % 4, (2, 3)).contiguous()


def _cut(patch: Float32, rng: np.random.Generator) -> Tensor:
    """Return a random square of a patch, or what there is of one: ``(1, 3, SIDE, SIDE)`` at most."""
    corner = [int(rng.integers(max(1, side - SIDE + 1))) for side in patch.shape[2:]]
    return torch.from_numpy(patch[:, :, corner[0] : corner[0] + SIDE, corner[1] : corner[1] + SIDE])
