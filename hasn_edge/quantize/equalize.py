"""Cross-layer equalization: channels of unlike size are made alike before INT8; the network stays the same.

A tensor has one scale, so its smallest channels get few of the 255 codes. Where everything between the layers
that write a tensor and those that read it keeps positive factors (sums, ReLU, max-pool, resizing, a mean), a
channel can be divided by a factor in the writers' weights and multiplied by it in the readers'. The choice
of the factors follows Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction"
(2019), and Xiao et al., "SmoothQuant" (2022), whose exponent shares the range between activations and
weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hasn_edge.model.hasn import HASN
from hasn_edge.spec import Activation, Gate, ModelSpec

_LARGEST = 64.0  # of a factor or its inverse: FP16 tensors have to hold the result


@dataclass
class Link:
    """One tensor whose channels may be scaled, by the names of the layers that write and read it."""

    writers: list[str] = field(default_factory=list)
    """Convolutions and LayerNorms; their output channels are divided by the factors."""
    readers: list[str] = field(default_factory=list)
    """Convolutions; their input channels are multiplied."""


def links(spec: ModelSpec) -> list[Link]:
    """Return the tensors of a network that can be scaled exactly.

    GELU and ReLU6 do not keep factors, so what CAB's second convolution reads and what the gate's first
    branch writes stays as it is, and so do the image and the output.
    """
    stem = Link(["conv_1", "conv_2"], ["upsampler.0"])
    stream, found = stem, [stem]

    def begin(*writers: str) -> Link:
        found.append(Link(list(writers)))
        return found[-1]

    for number in range(1, spec.blocks + 1):
        block = f"block_{number}"
        found += _inside(block, spec)
        stream.readers.append(f"{block}.dwconv.conv")
        summed = stream if spec.skip else begin()
        summed.writers.append(f"{block}.dwconv2.conv")
        if spec.cab:
            summed.readers.append(f"{block}.cab.cab.0")
            stream = stream if spec.residual else begin()
            stream.writers.append(f"{block}.cab.cab.2")
            # Channel attention reads the mean of what the convolution wrote, which has the same factors.
            stream.readers.append(f"{block}.cab.cab.3.attention.1")
        elif not spec.residual:
            stream = summed
        elif summed is not stream:  # their sum is the block's output
            stream.writers += summed.writers
            found.remove(summed)
    stream.readers.append("conv_2")
    return found


def _inside(block: str, spec: ModelSpec) -> Iterator[Link]:
    """Yield the tensors inside one block."""
    branches = [f"{block}.f{n}.conv" for n in (1, 2, 3)[: 3 if spec.esa else 2]]
    if spec.norm:
        yield Link([f"{block}.ln"], branches)
    yield Link([f"{block}.g.conv"], [f"{block}.dwconv2.conv"])
    mixed = Link(branches[1:], [f"{block}.g.conv"])
    if spec.gate is Gate.ADD:
        mixed.writers.append(branches[0])
    if spec.esa:
        conv = f"{block}.esa.conv"
        mixed.readers.append(f"{conv}1")
        yield Link([f"{conv}1"], [f"{conv}_f", f"{conv}2"])
        yield Link([f"{conv}2"], [f"{conv}3"])
        yield Link([f"{conv}3", f"{conv}_f"], [f"{conv}4"])
    if spec.gate is Gate.MULTIPLY or spec.activation is not Activation.RELU6:
        yield mixed


def equalize(model: HASN, images: Iterable[NDArray[np.float32]], *, alpha: float) -> HASN:
    """Return the same function with other weights, whose tensors lose less by one scale for all channels.

    Args:
        model: Not fused; not modified.
        images: Batches ``(N, C, H, W)`` float32 in [0, 1], on which activations are measured.
        alpha: How far activations are made alike at the cost of weights; 0 looks at weights only, 1 at
            activations only.

    Returns:
        A network in ``model``'s dtype. Outputs agree up to rounding: the algebra is done in float64.
    """
    # All convolutions count, quantized or not: on the published weights that loses 0.004 dB less on Set5.
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return rescale(model, input_maxima(model, images, names), alpha=alpha)


def input_maxima(
    model: HASN, images: Iterable[NDArray[np.float32]], names: Iterable[str]
) -> dict[str, Tensor]:
    """Return the largest magnitude of each input channel ``(C,)`` of the convolutions called in ``names``."""
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def note(_conv: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            largest = inputs[0].abs().amax((0, 2, 3))
            found[name] = torch.maximum(found.get(name, largest), largest)

        return note

    hooks = [_conv(model, name).register_forward_pre_hook(watch(name)) for name in names]
    try:
        with torch.no_grad():
            for batch in images:
                model(torch.from_numpy(batch).to(next(model.parameters()).dtype))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def rescale(model: HASN, maxima: Mapping[str, Tensor], *, alpha: float) -> HASN:
    """Return the same function with channels scaled as the inputs' ``maxima`` ask; see :func:`equalize`."""
    result = copy.deepcopy(model).double()
    with torch.no_grad():
        for link in links(model.spec):
            readers = {name: _conv(result, name) for name in link.readers}
            wishes = [
                _wish(conv, maxima[name], alpha)
                for name, conv in readers.items()
                if name in maxima and "attention" not in name
            ]
            if not wishes:
                continue
            limit = np.log(_LARGEST)
            factors = torch.from_numpy(np.exp(np.clip(np.mean(wishes, axis=0), -limit, limit)))
            for name in link.writers:
                for parameter in result.get_submodule(name).parameters():
                    parameter.div_(factors.view(-1, *[1] * (parameter.ndim - 1)))
            for conv in readers.values():
                conv.weight.mul_(factors.view((-1, 1, 1, 1) if conv.groups > 1 else (1, -1, 1, 1)))
    return result.to(next(model.parameters()).dtype).train(model.training)


def _conv(model: HASN, name: str) -> nn.Conv2d:
    conv = model.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    return conv


def _wish(reader: nn.Conv2d, maxima: Tensor, alpha: float) -> NDArray[np.float64]:
    """Return the logarithms of the factors that would suit one reader best, with mean 0.

    A depthwise convolution has a scale of its own for each channel's weights, so only its input counts.
    Channels that are always zero take no part.
    """
    depthwise = reader.groups > 1
    magnitude = maxima.double().numpy()
    weights = reader.weight.abs().amax((1, 2, 3) if depthwise else (0, 2, 3)).numpy()
    alive = (magnitude > 0) & (weights > 0)
    log = np.zeros(len(magnitude))
    log[alive] = np.log(magnitude[alive])
    if not depthwise:
        log[alive] = alpha * log[alive] - (1 - alpha) * np.log(weights[alive])
    log[alive] -= log[alive].mean() if alive.any() else 0.0
    return log
