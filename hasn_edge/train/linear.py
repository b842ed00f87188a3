"""The best linear upsampler of training patches, and how stem and upsampler of a network begin as it.

Stem and upsampler are 3x3 convolutions with nothing but the body's part added in between, so that together
they can be any linear 5x5 filter: the stem keeps the 27 values of each 3x3 neighbourhood, rotated into its
channels, and the upsampler reads 3x3 of them. Without this start the first some hundred iterations find that
filter by gradient steps; with it they go into the body.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hasn_edge.model.hasn import HASN

_CHUNK = 32  # patches taken at once
_RIDGE = 1e-4
"""Added to the second moments of the taps, as a fraction of their mean: settles what patches leave open."""


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
    taps = 25 * channels
    moments = torch.zeros(taps + 1, taps + 1, dtype=torch.float64)
    products = torch.zeros(taps + 1, channels * scale**2, dtype=torch.float64)
    for first in range(0, len(lr_NCHW), _CHUNK):
        x, y = (t[first : first + _CHUNK].double() for t in (lr_NCHW, hr_NCHW))
        inner = F.pixel_unshuffle(y, scale)[:, :, 2:-2, 2:-2].flatten(2).transpose(0, 1).flatten(1)
        rows = F.pad(F.unfold(x, 5), (0, 0, 0, 1), value=1.0).transpose(0, 1).flatten(1)  # last: the bias
        moments += rows @ rows.T
        products += rows @ inner.T
    diagonal = moments.diagonal()
    diagonal[:-1] += _RIDGE * diagonal[:-1].mean()
    solution = torch.linalg.solve(moments, products)
    return solution[:-1].T.reshape(-1, channels, 5, 5), solution[-1]


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
    assert stem.bias is not None
    assert last.bias is not None
    features, channels = stem.weight.shape[:2]
    basis = torch.empty(features, 9 * channels, dtype=torch.float64)
    nn.init.orthogonal_(basis, generator=random)
    with torch.no_grad():
        stem.weight.copy_(basis.reshape(features, channels, 3, 3))
        stem.bias.zero_()
        shares = _split(weight.double())
        last.weight.copy_(torch.einsum("ocklyx,fckl->ofyx", shares, basis.view_as(stem.weight)))
        last.bias.copy_(bias)


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
