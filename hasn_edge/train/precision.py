"""Reduced-precision training that leaves depthwise convolutions and LayerNorm in float32."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from hasn_edge.model.blocks import ChannelNorm
from hasn_edge.train.recipe import Autocast

_DTYPES = {Autocast.BF16: torch.bfloat16, Autocast.FP16: torch.float16}


def autocast(kind: Autocast, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which the forward pass runs."""
    if kind is Autocast.FP32:
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[kind])


def keep_exact(model: nn.Module, device: torch.device) -> None:
    """Make the depthwise convolutions and LayerNorms of ``model`` compute in float32 under autocast.

    A 7x7 sum over one channel and a variance gain little from short numbers and lose the most by them.
    """
    for module in model.modules():
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        if depthwise or isinstance(module, ChannelNorm):
            module.forward = _without_autocast(module.forward, device.type)


def _without_autocast(forward: Callable[[Tensor], Tensor], device: str) -> Callable[[Tensor], Tensor]:
    def exact(x: Tensor) -> Tensor:
        with torch.autocast(device, enabled=False):
            return forward(x.float())

    return exact
