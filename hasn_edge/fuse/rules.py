"""Weight algebra of fusion: convolutions in, one equivalent convolution out, exact or refused."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hasn_edge.errors import UnsupportedError, say

APART = say("leave them apart")


def fold_affine(scale: Tensor, shift: Tensor, conv: nn.Conv2d) -> nn.Conv2d:
    """Return the convolution that does to ``x`` what ``conv`` does to ``scale * x + shift``.

    Args:
        scale: ``(C,)``, one factor for each input channel, e.g. LayerNorm's weight.
        shift: ``(C,)``, e.g. LayerNorm's bias.
        conv: Reads ``C`` channels.

    Raises:
        UnsupportedError: ``conv`` pads with zeros or is grouped; see :func:`compose`.
    """
    channels = scale.numel()
    affine = nn.Conv2d(channels, channels, 1, dtype=scale.dtype, device=scale.device)
    with torch.no_grad():
        affine.weight.copy_(torch.diag(scale.detach())[:, :, None, None])
        affine.bias.copy_(shift.detach())  # type: ignore[union-attr]
    return compose(affine, conv)


def compose(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """Return the one convolution that equals ``second(first(x))`` for a 1x1 ``first``.

    ``W[o, i, u, v] = sum_m W2[o, m, u, v] W1[m, i]`` and ``b = b2 + sum_{m,u,v} W2[o, m, u, v] b1[m]``,
    summed in float64.

    Raises:
        UnsupportedError: ``first`` is not a plain 1x1 convolution, ``second`` is grouped, or ``second`` pads
            what ``first``'s bias shifted: outside the image ``first(0)`` is its bias, the padding is zero,
            and the border would come out wrong.
    """
    if first.kernel_size != (1, 1) or first.stride != (1, 1) or first.padding != (0, 0) or first.groups != 1:
        raise UnsupportedError(
            f"cannot compose {_describe(first)} with the convolution after it: only a plain 1x1 convolution "
            "without stride, padding or groups composes exactly",
            APART,
        )
    if second.groups != 1 or second.in_channels != first.out_channels:
        raise UnsupportedError(
            f"cannot compose {_describe(first)} with {_describe(second)}: the second must read all the "
            "first's channels without groups",
            APART,
        )
    biased = first.bias is not None and bool((first.bias != 0).any())
    if biased and second.padding not in ((0, 0), "valid"):
        raise UnsupportedError(
            f"cannot compose {_describe(first)}, which has a bias, with {_describe(second)}: its zero "
            "padding would not carry the bias, and border pixels would change",
            APART,
        )
    w1, w2 = first.weight.detach().double()[:, :, 0, 0], second.weight.detach().double()
    weight = torch.einsum("omuv,mi->oiuv", w2, w1)
    bias = torch.zeros(second.out_channels, dtype=torch.float64, device=weight.device)
    if second.bias is not None:
        bias = bias + second.bias.detach().double()
    if biased:
        bias = bias + torch.einsum("omuv,m->o", w2, first.bias.detach().double())  # type: ignore[union-attr]
    return _conv_like(second, weight, bias)


def merge(convs: Sequence[nn.Conv2d]) -> nn.Conv2d:
    """Return one convolution whose output channels are those of ``convs``, all reading the same tensor.

    Raises:
        UnsupportedError: they differ in anything but their output channels, or are grouped.
    """
    first = convs[0]
    for conv in convs:
        if conv.groups != 1 or _geometry(conv) != _geometry(first):
            raise UnsupportedError(
                f"cannot merge {_describe(first)} with {_describe(conv)}: they must have the same "
                "input channels, kernel, stride, padding and dilation, and no groups",
                APART,
            )
    weight = torch.cat([conv.weight.detach() for conv in convs]).double()
    biases = [
        torch.zeros(conv.out_channels, dtype=torch.float64, device=weight.device)
        if conv.bias is None
        else conv.bias.detach().double()
        for conv in convs
    ]
    return _conv_like(first, weight, torch.cat(biases))


def _geometry(conv: nn.Conv2d) -> tuple[object, ...]:
    return (
        conv.in_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.padding_mode,
    )


def _conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    result = nn.Conv2d(
        weight.shape[1],
        weight.shape[0],
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        dilation=conv.dilation,  # type: ignore[arg-type]
        padding_mode=conv.padding_mode,
        dtype=conv.weight.dtype,
        device=conv.weight.device,
    )
    with torch.no_grad():
        result.weight.copy_(weight)
        result.bias.copy_(bias)  # type: ignore[union-attr]
    return result.requires_grad_(conv.weight.requires_grad).train(conv.training)


def _describe(conv: nn.Conv2d) -> str:
    size = "x".join(map(str, conv.kernel_size))
    groups = f", {conv.groups} groups" if conv.groups != 1 else ""
    padding = f", padding {conv.padding}" if conv.padding not in ((0, 0), "valid") else ""
    return f"the {size} convolution {conv.in_channels} -> {conv.out_channels}{padding}{groups}"
