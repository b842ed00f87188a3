"""Starting weights that let the body of the network learn from the first iterations.

There is no residual around CAB in the published network, so at PyTorch's default initialization each block
passes on a few per cent of its input's signal, and for thousands of iterations only the linear path from
stem to upsampler learns. Here every convolution is rescaled until its output, on real patches, has a set
root mean square around its channel means (LSUV, Mishkin and Matas 2016); ``delta`` also begins as an
orthogonal matrix on the centre tap (Xiao et al. 2018) plus a little noise.

Stem and upsampler may also begin as the best linear upsampler of training patches. They are 3x3 convolutions
with nothing but the body's part added in between, so that together they can be any linear 5x5 filter: the
stem keeps the 27 values of each 3x3 neighbourhood, rotated into its channels, and the upsampler reads 3x3 of
them. Without this start the first some hundred iterations find that filter by gradient steps; with it they
go into the body.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hasn_edge.model.hasn import HASN
from hasn_edge.train.recipe import InitConfig, InitKind

_NOISE = 0.3
"""Root mean square of ``delta``'s noise over all taps of a filter; the orthogonal tap has about 1."""
_TARGETS = {"conv_1": 0.5, "upsampler.0": 0.25, "dwconv2.conv": 0.5}
"""Root mean square wanted of a convolution's output, by the end of its name; 1 for those not named, and what
the recipe has for ``conv_2``, which ends the body."""
_CHUNK = 32  # patches that are fitted at once
_RIDGE = 1e-4
"""Added to the second moments of the taps, as a fraction of their mean: settles what patches leave open."""


def initialize(
    model: HASN,
    config: InitConfig,
    patches_NCHW: Tensor,
    *,
    seed: int,
    linear: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Set ``model``'s weights in place.

    Args:
        model: A network just constructed, hence with PyTorch's default weights.
        config: What to do; ``default`` leaves the weights alone.
        patches_NCHW: A batch of LR patches, float32 in [0, 1], on which the scales are measured.
        seed: Seed of the random matrices.
        linear: Weight and bias of the 5x5 filter that stem and upsampler begin as, where ``config`` has
            ``least_squares``; see :func:`fit_linear`.
    """
    if config.kind is InitKind.DEFAULT:
        return
    random = torch.Generator().manual_seed(seed)
    convolutions = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        for name, conv in convolutions:
            begin(name, conv, config, random)
        targets = {**_TARGETS, "conv_2": config.body}
        if linear is not None:
            begin_linear(model, *linear, random)
            gain = _TARGETS["conv_1"] / max(signal(model, model.conv_1, patches_NCHW), 1e-6)
            model.conv_1.weight.mul_(gain)
            next(model.upsampler.parameters()).div_(gain)
        set_already = () if linear is None else ("conv_1", "upsampler.0")
        for name, conv in convolutions:
            if ".attention." not in name and ".esa." not in name and name not in set_already:
                target = next((t for end, t in targets.items() if name.endswith(end)), 1.0)
                conv.weight.mul_(target / max(signal(model, conv, patches_NCHW), 1e-6))


def begin(name: str, conv: nn.Conv2d, config: InitConfig, random: torch.Generator) -> None:
    """Set a convolution's weights by ``config.kind``, which is not ``default``; their scale is still open.

    Args:
        name: Of the convolution in the network or in its block.
        conv: Changed in place, without a record for gradients: the caller turns those off.
        config: What to do.
        random: Makes the matrices.
    """
    nn.init.zeros_(_bias(conv))
    if ".attention." in name:
        _set_attention(name, conv, config.gate_bias, random)
    elif config.kind is InitKind.DELTA:
        _set_delta(conv, random)
    else:
        _set_orthogonal(conv, random)
    if name.endswith("esa.conv4"):
        conv.weight.mul_(0.5)  # the gate begins near 0.5 everywhere, where its slope is largest


def signal(model: nn.Module, module: nn.Module, x_NCHW: Tensor) -> float:
    """Return the :func:`size` of what ``module`` gives; see :func:`outputs`."""
    return size(outputs(model, module, x_NCHW))


def size(y_NCHW: Tensor) -> float:
    """Return the root mean square around the channel means."""
    return float((y_NCHW - y_NCHW.mean((0, 2, 3), keepdim=True)).square().mean().sqrt())


def outputs(model: nn.Module, module: nn.Module, x_NCHW: Tensor) -> Tensor:
    """Return what ``module`` of ``model`` gives, ``(N, C, H, W)``, while ``model`` computes ``x``."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    model(x_NCHW)
    handle.remove()
    return seen[0]


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _set_orthogonal(conv: nn.Conv2d, random: torch.Generator) -> None:
    if conv.groups == 1:
        nn.init.orthogonal_(conv.weight.view(conv.out_channels, -1), generator=random)
    else:
        nn.init.normal_(conv.weight, std=1 / conv.kernel_size[0], generator=random)


def _set_delta(conv: nn.Conv2d, random: torch.Generator) -> None:
    weight, centre = conv.weight, conv.kernel_size[0] // 2
    weight.zero_()
    if conv.groups == 1:
        side = max(conv.out_channels, conv.in_channels)
        matrix = nn.init.orthogonal_(torch.empty(side, side), generator=random)
        weight[:, :, centre, centre] = matrix[: conv.out_channels, : conv.in_channels]
    else:
        weight[:, :, centre, centre] = 1.0
    noise = torch.empty_like(weight).normal_(std=_NOISE / math.sqrt(weight[0].numel()), generator=random)
    weight.add_(noise)


def _set_attention(name: str, conv: nn.Conv2d, bias: float, random: torch.Generator) -> None:
    nn.init.kaiming_normal_(conv.weight, generator=random)
    if name.endswith(".attention.3"):
        nn.init.constant_(_bias(conv), bias)
        conv.weight.mul_(0.1)


def fit_linear(lr_NCHW: Tensor, hr_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a 5x5 convolution and pixel shuffle from LR to HR by least squares.

    Args:
        lr_NCHW: LR patches in [0, 1], ``(N, C, P, P)`` with sides of 5 and more.
        hr_NCHW: Their HR patches in [0, 1], ``(N, C, scale P, scale P)``.

    Returns:
        Weight ``(C scale^2, C, 5, 5)`` and bias ``(C scale^2)`` of the convolution, float64. Only positions
        whose neighbourhood lies inside of the patch are fitted.
    """
    scale, channels = hr_NCHW.shape[-1] // lr_NCHW.shape[-1], lr_NCHW.shape[1]

    def read(part: slice) -> tuple[Tensor, Tensor]:
        wanted = F.pixel_unshuffle(hr_NCHW[part].double(), scale)[:, :, 2:-2, 2:-2]
        return F.unfold(lr_NCHW[part].double(), 5), wanted.flatten(2)

    weight, bias = _least_squares(read, len(lr_NCHW))
    return weight.reshape(-1, channels, 5, 5), bias


def fit_upsampler(model: HASN, lr_NCHW: Tensor, hr_NCHW: Tensor) -> None:
    """Set the upsampler to the one with the smallest squared error for the features that ``model`` has.

    So a network begins whose body comes from another scale: the last convolution is linear in what it reads,
    hence its best weights on training patches are known without a step of training.

    Args:
        model: Its stem and body stay as they are.
        lr_NCHW: LR patches in [0, 1], ``(N, C, P, P)``.
        hr_NCHW: Their HR patches in [0, 1], ``(N, C, scale P, scale P)``.
    """
    last = model.upsampler[0]
    assert isinstance(last, nn.Conv2d)
    seen: list[Tensor] = []

    def read(part: slice) -> tuple[Tensor, Tensor]:
        model(lr_NCHW[part])
        wanted = F.pixel_unshuffle(hr_NCHW[part].double(), model.spec.scale)
        return F.unfold(seen.pop().double(), 3, padding=1), wanted.flatten(2)

    handle = last.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        weight, bias = _least_squares(read, len(lr_NCHW))
        handle.remove()
        last.weight.copy_(weight.reshape(last.weight.shape))
        _bias(last).copy_(bias)


def _least_squares(read: Callable[[slice], tuple[Tensor, Tensor]], patches: int) -> tuple[Tensor, Tensor]:
    """Return weight ``(outputs, taps)`` and bias ``(outputs)`` with the smallest squared error, float64.

    ``read`` returns, of some patches, what is read ``(N, taps, positions)`` and wanted ``(N, outputs, ...)``.
    """
    moments = products = torch.zeros((), dtype=torch.float64)
    for first in range(0, patches, _CHUNK):
        taps, wanted = read(slice(first, first + _CHUNK))
        rows = F.pad(taps, (0, 0, 0, 1), value=1.0).transpose(0, 1).flatten(1)  # the last one is the bias
        moments = moments + rows @ rows.T
        products = products + rows @ wanted.transpose(0, 1).flatten(1).T
    diagonal = moments.diagonal()[:-1]
    diagonal += _RIDGE * diagonal.mean()
    solution = torch.linalg.solve(moments, products)
    return solution[:-1].T, solution[-1]


def begin_linear(model: HASN, weight: Tensor, bias: Tensor, random: torch.Generator) -> None:
    """Set stem and upsampler of ``model`` so that together they are a 5x5 convolution and pixel shuffle.

    Exact where the 5x5 neighbourhood lies inside of the image and the body adds nothing. The stem becomes an
    orthogonal matrix from the values of a 3x3 neighbourhood to its channels. A tap of the filter that several
    pairs of taps lead to is shared equally among them, which makes the weights of the upsampler small.

    Args:
        model: At least nine features for each colour.
        weight: ``(C scale^2, C, 5, 5)``.
        bias: ``(C scale^2)``.
        random: Makes the orthogonal matrix.
    """
    stem, last = model.conv_1, model.upsampler[0]
    assert isinstance(last, nn.Conv2d)
    features, channels = stem.weight.shape[:2]
    basis = torch.empty(features, 9 * channels, dtype=torch.float64)
    nn.init.orthogonal_(basis, generator=random)
    with torch.no_grad():
        stem.weight.copy_(basis.reshape(features, channels, 3, 3))
        _bias(stem).zero_()
        shares = _split(weight.double())
        last.weight.copy_(torch.einsum("ocklyx,fckl->ofyx", shares, basis.view_as(stem.weight)))
        _bias(last).copy_(bias)


def _split(weight: Tensor) -> Tensor:
    """Return ``(O, C, 3, 3, 3, 3)``: shares of a 5x5 filter by the stem's tap and the upsampler's tap.

    Tap ``(k, l)`` of the stem under tap ``(y, x)`` of the upsampler is tap ``(k + y, l + x)`` of the filter.
    """
    shares = weight.new_zeros(*weight.shape[:2], 3, 3, 3, 3)
    ways = torch.tensor([1, 2, 3, 2, 1], dtype=weight.dtype)  # pairs of taps that lead to one, on one axis
    equal = weight / torch.outer(ways, ways)
    for k in range(3):
        for m in range(3):
            shares[:, :, k, m] = equal[:, :, k : k + 3, m : m + 3]
    return shares
