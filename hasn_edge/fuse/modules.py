"""What a block looks like after fusion: classes of their own, never a mode of the trained ones."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hasn_edge.fuse.rules import (
    centre,
    compose,
    compose_behind,
    fold_affine,
    invert,
    merge,
    pad_between,
    split_outputs,
)
from hasn_edge.model.blocks import CAB, ESA, HASB, ChannelNorm

LANES, FEW = 16, 2
"""What a CPU's convolution kernels compute at a time is this many output channels (or half of them), and
``FEW`` more cost as much as a whole block; so many are cheaper apart."""

EVEN = 2
"""What the number of CAB's hidden channels becomes a multiple of. TensorRT for RTX copies an odd number of
FP16 channels into an even one; a multiple of 8 moves more (``benchmarks/results/engine_traffic.md``)."""


class FusedESA(ESA):
    """ESA of which some convolutions are folded together.

    Args:
        esa: Its modules are taken over.
        conv1: Reads what the branch that ESA gates was made from; ``None`` leaves the first convolution.
        folded: Let the last convolution do what ``conv_f`` does as well: ``conv4(conv_f(s) + up(c))`` is
            ``(conv4 conv_f)(s + up(conv_f^-1 c))``, because resizing does the same to each channel and its
            factors sum to 1.
    """

    def __init__(self, esa: ESA, conv1: nn.Conv2d | None, *, folded: bool) -> None:
        nn.Module.__init__(self)
        self.composed, self.folded = conv1 is not None, folded
        for name, module in esa.named_children():
            self.add_module(name, module)
        if conv1 is not None:
            self.conv1 = conv1
        if folded:
            self.conv3 = compose_behind(esa.conv3, invert(esa.conv_f))
            self.conv4 = compose(esa.conv_f, esa.conv4)
            del self.conv_f

    def forward(self, x_NEHW: Tensor, y: Any = None) -> Tensor:
        """Return ``x`` times its gate, same shape as ``x``; ``y`` is what a composed ``conv1`` reads."""
        return x_NEHW * self.gate(self.conv1(y if self.composed else x_NEHW))

    def gate(self, squeezed: Tensor) -> Tensor:
        """Return the gate ``(N, E, H, W)`` for :attr:`conv1`'s output ``(N, channels, H, W)``."""
        if not self.folded:
            return super().gate(squeezed)
        coarse = self.conv3(F.max_pool2d(self.conv2(squeezed), kernel_size=7, stride=3))
        coarse = F.interpolate(coarse, size=squeezed.shape[-2:], mode="bilinear", align_corners=False)
        return torch.sigmoid(self.conv4(squeezed + coarse))


class InverseDeviation(nn.Module):
    """What of a LayerNorm over channels cannot go into the convolutions that read it: one factor a pixel."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``x`` as it is, and ``1 / sqrt(variance + eps)`` over its channels, ``(N, 1, H, W)``."""
        centred = x_NCHW - x_NCHW.mean(1, keepdim=True)
        variance = (centred * centred).mean(1, keepdim=True)
        return x_NCHW, 1 / torch.sqrt(variance + self.eps)


class ScaledConv(nn.Module):
    """A 1x1 convolution of what a LayerNorm would have made: ``conv(x) * factor + bias``."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = centre(conv)
        assert self.conv.bias is not None
        self.bias = nn.Parameter(self.conv.bias.detach().reshape(-1, 1, 1), self.conv.bias.requires_grad)
        self.conv.bias = None

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        """Return the convolution's output for what :class:`InverseDeviation` returned."""
        x_NCHW, factor_N1HW = pair
        out: Tensor = self.conv(x_NCHW) * factor_N1HW + self.bias
        return out


class SplitHidden(nn.Module):
    """CAB's first convolution and its activation, the last :data:`FEW` channels apart from the others."""

    def __init__(self, conv: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.wide, self.taps, self.narrow = split_outputs(conv, conv.out_channels // LANES * LANES)
        self.act = act

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the hidden features, ``(N, M, H, W)``."""
        return torch.cat([self.act(self.wide(x_NCHW)), self.act(self.narrow(self.taps(x_NCHW)))], 1)


class _SqueezedGate(nn.Module):
    """Channel attention's gate, from the hidden features that the attended ones are made of."""

    def __init__(self, conv: nn.Conv2d, attention: nn.Sequential) -> None:
        super().__init__()
        pool, squeeze, *rest = attention
        # By the names that they had: the average comes behind the first convolution now.
        parts = [("1", compose_behind(conv, squeeze)), ("0", pool)]  # type: ignore[arg-type]
        parts += [(str(number), module) for number, module in enumerate(rest, start=2)]
        self.attention = nn.Sequential(OrderedDict(parts))

    def forward(self, hidden_NMHW: Tensor) -> Tensor:
        """Return the gate, ``(N, C, 1, 1)``."""
        gate: Tensor = self.attention(hidden_NMHW)
        return gate


class _SqueezedBody(nn.Module):
    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        for name in ("0", "1", "2"):
            self.add_module(name, body.get_submodule(name))
        self.add_module("3", _SqueezedGate(body[2], body[3].attention))  # type: ignore[arg-type]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        first, act, second, gate = self.children()
        hidden = act(first(x_NCHW))
        out: Tensor = second(hidden) * gate(hidden)
        return out


class SqueezedCAB(CAB):
    """CAB whose gate does not wait for its output.

    The mean of a convolution's output over the frame, squeezed by a 1x1, is the mean of the two convolutions
    composed: a narrow one, which reads what the second 3x3 reads. The 3x3 then writes gated values at once.
    """

    def __init__(self, cab: CAB) -> None:
        nn.Module.__init__(self)
        self.cab = _SqueezedBody(cab.cab)  # type: ignore[assignment]


class FusedBlock(HASB):
    """A block with some of its convolutions folded together; the same function as the block it came from.

    ``f1``, ``f2``, ``f3`` may be one convolution ``f123`` (``f12`` without ESA); ``esa.conv1`` may read the
    norm's output directly, composed with ``f3``; the norm may have lost its weight and bias, or be a factor
    behind the convolutions that read it.

    Args:
        block: It stays as it was.
        rules: What is folded.
    """

    @torch.no_grad()
    def __init__(self, block: HASB, rules: Collection[str]) -> None:
        nn.Module.__init__(self)
        self.training = block.training
        block = copy.deepcopy(block)
        self.multiply, self.skip, self.residual = block.multiply, block.skip, block.residual
        self.composed = "compose_esa" in rules and block.esa is not None
        self.merged = "merge_branches" in rules
        self.expanded = int(block.g.conv.weight.shape[1])  # type: ignore[union-attr, index]
        for name, module in block.named_children():
            self.add_module(name, module)
        self.esa: ESA | None = block.esa
        folded = "fold_esa" in rules
        if block.esa is not None and (self.composed or folded):
            conv1 = compose(self.f3.conv, block.esa.conv1) if self.composed else None  # type: ignore[arg-type]
            self.esa = FusedESA(block.esa, conv1, folded=folded)
        if "norm_affine" in rules and isinstance(block.ln, ChannelNorm):
            self._fold_norm(block.ln)
            # The norm must not keep parameters: a plain LayerNorm is what remains.
            plain = ChannelNorm(block.ln.normalized_shape, eps=block.ln.eps, elementwise_affine=False)
            self.ln = plain.train(block.ln.training)
        if self.merged:
            self._merge()
        if "norm_factor" in rules and isinstance(self.ln, ChannelNorm):
            self._factor_norm(self.ln)
        if isinstance(block.cab, CAB):
            if "pad_cab" in rules:
                body = block.cab.cab
                body[0], body[2] = pad_between(body[0], body[2], EVEN)  # type: ignore[arg-type]
            if "split_cab" in rules:
                body = block.cab.cab
                body[0], body[1] = SplitHidden(body[0], body[1]), nn.Identity()  # type: ignore[arg-type]
            if "squeeze_first" in rules:
                self.cab = SqueezedCAB(block.cab)

    def mix(self, y: Any) -> Tensor:
        """Return ``act(f1) * f2 + ESA(f3)``, shape ``(N, E, H, W)``."""
        if self.merged:
            name = "f12" if self.esa is None else "f123"
            a, b, *rest = self.get_submodule(name)(y).split(self.expanded, 1)
        else:
            a, b = self.f1(y), self.f2(y)
            rest = [] if self.esa is None else [self.f3(y)]
        a = self.act(a)
        mixed: Tensor = a * b if self.multiply else a + b
        if self.esa is None:
            return mixed
        gated: Tensor = self.esa(rest[0], y) if self.composed else self.esa(rest[0])
        return mixed + gated

    def _readers(self) -> list[tuple[nn.Module, str]]:
        """Return what reads the norm's output: the module that holds a convolution, and by which name."""
        names = ["f1", "f2"] + ([] if self.esa is None else ["f3"])
        if self.merged and not hasattr(self, "f1"):
            names = ["f12" if self.esa is None else "f123"]
        found: list[tuple[nn.Module, str]] = [(self.get_submodule(name), "conv") for name in names]
        return found + ([(self.esa, "conv1")] if self.composed and self.esa is not None else [])

    def _fold_norm(self, norm: ChannelNorm) -> None:
        for holder, name in self._readers():
            setattr(holder, name, fold_affine(norm.weight, norm.bias, getattr(holder, name)))

    def _factor_norm(self, norm: ChannelNorm) -> None:
        if norm.elementwise_affine:
            self._fold_norm(norm)
        for name, module in list(self.named_children()):
            if any(holder is module and inner == "conv" for holder, inner in self._readers()):
                self.add_module(name, ScaledConv(module.conv))  # type: ignore[arg-type]
        if self.composed and self.esa is not None:
            self.esa.conv1 = ScaledConv(self.esa.conv1)  # type: ignore[assignment]
        self.ln = InverseDeviation(norm.eps).train(norm.training)  # type: ignore[assignment]

    def _merge(self) -> None:
        holders = [(holder, name) for holder, name in self._readers() if name == "conv"]
        convs: list[nn.Conv2d] = [getattr(holder, name) for holder, name in holders]
        name = "f12" if self.esa is None else "f123"
        self.add_module(name, nn.Sequential(OrderedDict(conv=merge(convs))))
        for branch in ("f1", "f2") if self.esa is None else ("f1", "f2", "f3"):
            delattr(self, branch)
