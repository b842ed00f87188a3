"""Cross-layer equalization: channels of unlike size are made alike before INT8, and the network stays the same.

A tensor has one scale, so its smallest channels get few of the 255 codes. Where everything between the layers
that write a tensor and those that read it keeps positive factors (addition, ReLU, max-pool, resizing, a mean), a
channel can be divided by a factor in the writers' weights and multiplied by it in the readers'. The choice of the
factors follows Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), and
Xiao et al., "SmoothQuant" (2022), whose exponent shares the range between activations and weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hasn_edge.model.blocks import CAB, HASB, ChannelNorm
from hasn_edge.model.hasn import HASN

ALPHA = 0.7
"""How far activations are made alike at the cost of weights; 0 looks at weights only, 1 at activations only."""

_LARGEST = 64.0  # of a factor or its inverse: FP16 tensors have to hold the result


@dataclass
class Link:
    """One tensor whose channels may be scaled: who writes it and who reads it."""

    writers: list[nn.Module] = field(default_factory=list)
    """Convolutions and LayerNorms; their output channels are divided by the factors."""
    readers: list[nn.Conv2d] = field(default_factory=list)
    """Their input channels are multiplied."""
    attention: list[nn.Conv2d] = field(default_factory=list)
    """Readers that are never quantized, so that their weights do not count: the channel attention's."""


def links(model: HASN) -> Iterator[Link]:
    """Yield the tensors of a network that can be scaled exactly.

    GELU and ReLU6 do not keep factors, so what CAB's second convolution and the gate's first branch read or
    write stays as it is, and so does the image.
    """
    stem = Link(writers=[model.conv_1])
    stream = stem
    found = [stem]
    for block in model.blocks:
        if isinstance(block.ln, ChannelNorm):
            found.append(Link([block.ln], _branches(block)))
        found += _gated(block)
        stream.readers.append(block.dwconv.conv)
        if block.skip:
            stream.writers.append(block.dwconv2.conv)
            summed = stream
        else:
            summed = Link([block.dwconv2.conv])
            found.append(summed)
        if not isinstance(block.cab, CAB):
            if block.residual and summed is not stream:
                stream.writers += summed.writers
                found.remove(summed)
            stream = stream if block.residual else summed
            continue
        first, _, second, attention = block.cab.cab
        summed.readers.append(first)
        if not block.residual:
            stream = Link()
            found.append(stream)
        stream.writers.append(second)
        # The attention's own reading of the second convolution: its mean has the same factors.
        stream.attention.append(attention.attention[1])
    stream.readers.append(model.conv_2)
    stem.writers.append(model.conv_2)
    stem.readers.append(model.upsampler[0])
    return iter(found)


def _branches(block: HASB) -> list[nn.Conv2d]:
    return [block.f1.conv, block.f2.conv] + ([block.f3.conv] if block.esa is not None else [])


def _gated(block: HASB) -> Iterator[Link]:
    mixed = Link([block.f2.conv], [block.g.conv])
    if not block.multiply:
        if isinstance(block.act, nn.ReLU6):
            return
        mixed.writers.append(block.f1.conv)
    if block.esa is not None:
        esa = block.esa
        mixed.writers.append(block.f3.conv)
        mixed.readers.append(esa.conv1)
        yield Link([esa.conv1], [esa.conv_f, esa.conv2])
        yield Link([esa.conv2], [esa.conv3])
        yield Link([esa.conv3, esa.conv_f], [esa.conv4])
    yield mixed
    yield Link([block.g.conv], [block.dwconv2.conv])


def equalize(model: HASN, maxima: Mapping[str, NDArray[np.floating]], *, alpha: float = ALPHA) -> HASN:
    """Return the same function with other weights, whose tensors lose less by one scale for all channels.

    Args:
        model: Not fused; not modified.
        maxima: Largest magnitude of each input channel ``(C,)`` by convolution, from
            :func:`hasn_edge.quantize.ranges.input_maxima`. A tensor without measured reader stays as it is.
        alpha: See :data:`ALPHA`.

    Returns:
        A network in ``model``'s dtype. Outputs agree up to rounding: the algebra is done in float64.
    """
    result = copy.deepcopy(model).double()
    names = {module: name for name, module in result.named_modules()}
    with torch.no_grad():
        for link in links(result):
            wishes = [
                _wish(reader, maxima[names[reader]], alpha) for reader in link.readers if names[reader] in maxima
            ]
            if not wishes:
                continue
            log = np.mean(wishes, axis=0)
            factors = torch.from_numpy(np.exp(np.clip(log - log.mean(), -np.log(_LARGEST), np.log(_LARGEST))))
            for writer in link.writers:
                for parameter in (writer.weight, writer.bias):
                    parameter.div_(factors.view(-1, *[1] * (parameter.ndim - 1)))
            for reader in (*link.readers, *link.attention):
                depthwise = reader.groups > 1
                reader.weight.mul_(factors.view((-1, 1, 1, 1) if depthwise else (1, -1, 1, 1)))
    parameter = next(model.parameters())
    return result.to(parameter.dtype).train(model.training)


def _wish(reader: nn.Conv2d, maxima: NDArray[np.floating], alpha: float) -> NDArray[np.float64]:
    """Return the logarithms of the factors that would suit one reader best, with mean 0.

    A depthwise convolution has a scale of its own for each channel's weights, so only its input counts.
    Channels that are always zero take no part.
    """
    magnitude = np.asarray(maxima, np.float64)
    weights = reader.weight.abs().amax((0, 2, 3) if reader.groups == 1 else (1, 2, 3)).numpy()
    alive = (magnitude > 0) & (weights > 0)
    if reader.groups > 1:
        alpha, weights = 1.0, np.ones_like(weights)
    log = np.zeros(len(magnitude))
    log[alive] = alpha * np.log(magnitude[alive]) - (1 - alpha) * np.log(weights[alive])
    log[alive] -= log[alive].mean() if alive.any() else 0.0
    return log
