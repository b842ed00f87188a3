"""Weight algebra of fusion: convolutions in, one equivalent convolution out, exact or refused."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hasn_edge.errors import UnsupportedError, say

APART = say("leave them apart")

LARGEST_CONDITION = 1000.0
"""Of a matrix that is inverted: rounding grows by this factor, so 1e-13 of float64 is still kept."""


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
    if not _is_plain(first):
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
    bias = _bias(second)
    if biased:
        bias = bias + torch.einsum("omuv,m->o", w2, first.bias.detach().double())  # type: ignore[union-attr]
    return _conv_like(second, weight, bias)


def compose_behind(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """Return the one convolution that equals ``second(first(x))`` for a 1x1 ``second``, whatever is first.

    ``W[o, i, u, v] = sum_m W2[o, m] W1[m, i, u, v]`` and ``b = b2 + sum_m W2[o, m] b1[m]``, summed in
    float64. A 1x1 reads what ``first`` wrote and nothing beside it, so the border is exact.

    Raises:
        UnsupportedError: ``second`` is not a plain 1x1 convolution, or ``first`` is grouped.
    """
    if not _is_plain(second) or first.groups != 1 or second.in_channels != first.out_channels:
        raise UnsupportedError(
            f"cannot compose {_describe(second)} with {_describe(first)} before it: only a plain 1x1 "
            "convolution that reads all channels of one without groups composes exactly",
            APART,
        )
    w1, w2 = first.weight.detach().double(), second.weight.detach().double()[:, :, 0, 0]
    bias = w2 @ _bias(first) + _bias(second)
    return _conv_like(first, torch.einsum("om,miuv->oiuv", w2, w1), bias)


def pad_between(first: nn.Conv2d, second: nn.Conv2d, multiple: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Return both with zero channels between them, so that their number is a multiple of ``multiple``.

    What stands between them must work on each channel alone and make zero of zero, as activations do.

    Raises:
        UnsupportedError: one of them is grouped.
    """
    if first.groups != 1 or second.groups != 1 or second.in_channels != first.out_channels:
        raise UnsupportedError(
            f"cannot pad the channels between {_describe(first)} and {_describe(second)}: the second must "
            "read all of the first's without groups",
            APART,
        )
    extra = -first.out_channels % multiple
    w1, w2 = first.weight.detach().double(), second.weight.detach().double()
    w1 = torch.cat([w1, w1.new_zeros(extra, *w1.shape[1:])])
    w2 = torch.cat([w2, w2.new_zeros(w2.shape[0], extra, *w2.shape[2:])], 1)
    bias = torch.cat([_bias(first), w1.new_zeros(extra)])
    return _conv_like(first, w1, bias), _conv_like(second, w2, _bias(second))


def split_outputs(conv: nn.Conv2d, first: int) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
    """Return three convolutions that make together what ``conv`` makes.

    The first makes the ``first`` channels. For the others, the second, a 1x1, makes one channel for each of
    their taps, and the third sums these, each shifted to its tap's place: ``sum_t (w_t x)(p + t)`` instead of
    ``sum_t w_t x(p + t)``. The padding's zeros stay zeros behind a 1x1 without a bias: the border is exact.

    Raises:
        UnsupportedError: ``conv`` is grouped.
    """
    if conv.groups != 1:
        raise UnsupportedError(f"cannot split the output channels of {_describe(conv)}", APART)
    weight, bias = conv.weight.detach().double(), _bias(conv)
    rest, inputs, *kernel = weight[first:].shape
    count = math.prod(kernel)
    taps = nn.Conv2d(inputs, rest * count, 1, bias=False, dtype=conv.weight.dtype, device=conv.weight.device)
    with torch.no_grad():
        taps.weight.copy_(weight[first:].permute(0, 2, 3, 1).reshape(-1, inputs, 1, 1))
    # Each output channel reads its own taps, tap t at place t only.
    places = torch.eye(count).expand(rest, count, count)
    summed = torch.zeros(rest, rest, count, count)
    summed[range(rest), range(rest)] = places
    return (
        _conv_like(conv, weight[:first], bias[:first]),
        taps.requires_grad_(conv.weight.requires_grad).train(conv.training),
        _conv_like(conv, summed.reshape(rest, rest * count, *kernel), bias[first:]),
    )


def centre(conv: nn.Conv2d) -> nn.Conv2d:
    """Return the 1x1 convolution that does to ``x`` what ``conv`` does to ``x`` less its mean over channels.

    Raises:
        UnsupportedError: ``conv`` is not a plain 1x1 convolution.
    """
    if not _is_plain(conv):
        raise UnsupportedError(f"cannot take the mean over channels into {_describe(conv)}", APART)
    weight = conv.weight.detach().double()
    return _conv_like(conv, weight - weight.mean(1, keepdim=True), _bias(conv))


def condition(conv: nn.Conv2d) -> float:
    """Return the condition number of a 1x1 convolution's weights; infinite where they are not square."""
    weight = conv.weight.detach().double()[:, :, 0, 0]
    square = _is_plain(conv) and weight.shape[0] == weight.shape[1]
    return float(torch.linalg.cond(weight)) if square else math.inf


def invert(conv: nn.Conv2d) -> nn.Conv2d:
    """Return the 1x1 convolution, without a bias, that undoes the weights of ``conv``.

    Raises:
        UnsupportedError: they have no inverse that float64 holds to 1e-12.
    """
    found = condition(conv)
    if not found <= LARGEST_CONDITION:
        raise UnsupportedError(
            f"cannot invert {_describe(conv)}: its condition number is {found:.3g}, expected at most "
            f"{LARGEST_CONDITION:g}",
            APART,
        )
    weight = torch.linalg.inv(conv.weight.detach().double()[:, :, 0, 0])[:, :, None, None]
    return _conv_like(conv, weight, weight.new_zeros(len(weight)))


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
    return _conv_like(first, weight, torch.cat([_bias(conv) for conv in convs]))


def _is_plain(conv: nn.Conv2d) -> bool:
    """Whether it is 1x1 without stride, padding or groups."""
    return (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)


def _bias(conv: nn.Conv2d) -> Tensor:
    if conv.bias is None:
        return conv.weight.new_zeros(conv.out_channels, dtype=torch.float64)
    return conv.bias.detach().double()


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
