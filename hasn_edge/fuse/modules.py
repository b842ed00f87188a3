"""What a block looks like after fusion: a class of its own, never a mode of the trained one."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Collection

import torch
from torch import Tensor, nn

from hasn_edge.fuse.rules import compose, fold_affine, merge
from hasn_edge.model.blocks import ESA, HASB, ChannelNorm


class ComposedESA(ESA):
    """ESA whose first convolution reads what the branch that it gates was made from."""

    def __init__(self, esa: ESA, conv1: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        for name, module in esa.named_children():
            self.add_module(name, conv1 if name == "conv1" else module)

    def forward(self, x_NEHW: Tensor, y_NCHW: Tensor) -> Tensor:  # type: ignore[override]
        """Return ``x`` times the gate computed from ``y``, same shape as ``x``."""
        return x_NEHW * self.gate(self.conv1(y_NCHW))


class FusedBlock(HASB):
    """A block with some of its convolutions folded together; the same function as the block it came from.

    ``f1``, ``f2``, ``f3`` may be one convolution ``f123`` (``f12`` without ESA); ``esa.conv1`` may read the
    norm's output directly, composed with ``f3``; the norm may have lost its weight and bias.

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
        if self.composed:
            self._compose()
        if "norm_affine" in rules and isinstance(block.ln, ChannelNorm):
            self._fold_norm(block.ln)
        if self.merged:
            self._merge()

    def mix(self, y_NCHW: Tensor) -> Tensor:
        """Return ``act(f1) * f2 + ESA(f3)``, shape ``(N, E, H, W)``."""
        if self.merged:
            name = "f12" if self.esa is None else "f123"
            a, b, *rest = self.get_submodule(name)(y_NCHW).split(self.expanded, 1)
        else:
            a, b = self.f1(y_NCHW), self.f2(y_NCHW)
            rest = [] if self.esa is None else [self.f3(y_NCHW)]
        a = self.act(a)
        mixed: Tensor = a * b if self.multiply else a + b
        if self.esa is None:
            return mixed
        gated: Tensor = self.esa(rest[0], y_NCHW) if self.composed else self.esa(rest[0])
        return mixed + gated

    def _branches(self) -> list[str]:
        return ["f1", "f2"] + ([] if self.esa is None else ["f3"])

    def _compose(self) -> None:
        assert self.esa is not None
        self.esa = ComposedESA(self.esa, compose(self.f3.conv, self.esa.conv1))  # type: ignore[arg-type]

    def _fold_norm(self, norm: ChannelNorm) -> None:
        scale, shift = norm.weight, norm.bias
        for name in self._branches():
            branch = self.get_submodule(name)
            branch.conv = fold_affine(scale, shift, branch.conv)  # type: ignore[arg-type]
        if self.composed and self.esa is not None:
            self.esa.conv1 = fold_affine(scale, shift, self.esa.conv1)
        # The norm must not keep parameters: a plain LayerNorm is what remains.
        plain = ChannelNorm(norm.normalized_shape, eps=norm.eps, elementwise_affine=False)
        self.ln = plain.train(norm.training)

    def _merge(self) -> None:
        names = self._branches()
        convs: list[nn.Conv2d] = [self.get_submodule(name).conv for name in names]  # type: ignore[misc]
        name = "f12" if self.esa is None else "f123"
        self.add_module(name, nn.Sequential(OrderedDict(conv=merge(convs))))
        for branch in names:
            delattr(self, branch)
