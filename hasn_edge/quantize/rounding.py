"""Weights rounded so that their errors cancel on what a convolution reads, not each to the nearest code.

Neighbouring pixels and channels go together, so the error of one weight can be made up by the next ones: each
column of weights is rounded in turn, and what it is off is taken off the columns that are left, as far as
their inputs are correlated. After Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers" (2022), and Hassibi and Stork, "Second Order Derivatives for Network Pruning:
Optimal Brain Surgeon" (1992). The graph computes as before and takes as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from hasn_edge.images.arrays import Float64
from hasn_edge.quantize.graph import Convolution, array_of, convolutions, initializers
from hasn_edge.quantize.observers import LEVELS

if TYPE_CHECKING:
    from hasn_edge.quantize.recipe import QuantRecipe
    from hasn_edge.quantize.spread import Spread

SAMPLES = 400
"""Places of an image's output that are looked at, chosen by a fixed seed."""

DAMPING = 1e-3
"""What is added to the diagonal, as a part of its mean: inputs that never vary would move weights far."""


@dataclass(frozen=True, kw_only=True)
class RoundedWeights:
    """Codes of one convolution's weights, which mean nothing with other scales than they were chosen for."""

    codes: NDArray[np.int8]
    """``(out, in / groups, height, width)``, as the weights."""
    limits: Float64
    """What code 127 stands for: ``(out,)``, or ``()`` for all."""
    weights: Float64
    """What was rounded."""

    def codes_of(self, weights: NDArray[np.floating]) -> tuple[Float64, Float64]:
        """Return codes and limits of the same weights with each output channel times a factor.

        A frozen gate is such a factor; it may be 0 or negative. FP16 weights are the same but for rounding.
        """
        if not self.limits.ndim:
            return self.codes.astype(np.float64), self.limits
        before, now = (each.reshape(len(each), -1).astype(np.float64) for each in (self.weights, weights))
        power = np.square(before).sum(axis=1)
        factors = (before * now).sum(axis=1) / np.maximum(power, np.finfo(np.float64).tiny)
        codes = self.codes * np.sign(factors).reshape(-1, 1, 1, 1)
        return np.clip(codes, -LEVELS - 1, LEVELS), self.limits * np.abs(factors)


def compensated_codes(
    proto: ModelProto,
    tensors: Iterable[Mapping[str, NDArray[np.float32]]],
    names: Iterable[str],
    recipe: QuantRecipe,
    spread: Mapping[str, Spread] | None = None,
) -> dict[str, RoundedWeights]:
    """Return the codes of the weights of each convolution called in ``names``.

    Args:
        proto: The FP32 graph.
        tensors: What the convolutions read, by tensor, ``(N, C, H, W)`` a batch.
        names: Convolutions.
        recipe: Chooses the scales, see :func:`hasn_edge.quantize.int8.weight_ranges`.
        spread: Shifts and factors that the graph has in front of some of them. Biases take up what codes make
            of a shift, so errors are those on the input without it.
    """
    from hasn_edge.quantize.int8 import scale_of, weight_ranges

    wanted = set(names)
    convs = [conv for conv in convolutions(proto) if conv.name in wanted]
    moments: dict[str, Float64] = {}
    zeros = {
        name: np.multiply(*each).astype(np.float32).reshape(-1, 1, 1) for name, each in (spread or {}).items()
    }
    images = 0
    for batch in tensors:
        for number in range(len(batch[convs[0].input])):
            for conv in convs:
                x = batch[conv.input][number]
                own = input_moments(conv, x + zeros[conv.name] if conv.name in zeros else x, seed=images)
                moments[conv.name] = own if conv.name not in moments else moments[conv.name] + own
            images += 1
    constants = initializers(proto)
    codes = {}
    for conv in convs:
        weights = array_of(constants[conv.weight]).astype(np.float64)
        limits = weight_ranges(weights, recipe)
        scales = scale_of(limits, np.dtype(np.float32)).astype(np.float64)
        rows = weights.reshape(conv.groups, len(weights) // conv.groups, -1)
        steps = np.broadcast_to(scales, len(weights)).reshape(conv.groups, -1)
        groups = zip(rows, steps, moments[conv.name], strict=True)
        found = np.stack([compensate(w, s, moment) for w, s, moment in groups])
        whole = found.reshape(weights.shape).astype(np.int8)
        codes[conv.name] = RoundedWeights(codes=whole, limits=limits, weights=weights)
    return codes


def input_moments(conv: Convolution, x_CHW: NDArray[np.float32], *, seed: int = 0) -> Float64:
    """Return the sums of products of what one output reads, over some places of an image.

    Args:
        conv: Its strides and padding are the graph's.
        x_CHW: Its input, one image.
        seed: Chooses the places.

    Returns:
        ``(groups, K, K)``, ``K`` the weights of one output channel.
    """
    height, width = conv.shape[2:]
    top, left, bottom, right = conv.pads
    padded = np.pad(x_CHW, ((0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    windows = windows[:, :: conv.strides[0], :: conv.strides[1]]
    places = windows.shape[1] * windows.shape[2]
    chosen = np.arange(places)
    if places > SAMPLES:
        chosen = np.random.default_rng(seed).choice(places, SAMPLES, replace=False)
    rows, columns = np.divmod(chosen, windows.shape[2])
    seen = windows[:, rows, columns].reshape(conv.groups, -1, len(chosen), height * width)
    flat = seen.transpose(0, 1, 3, 2).reshape(conv.groups, -1, len(chosen))
    moments: Float64 = (flat @ flat.transpose(0, 2, 1)).astype(np.float64)
    return moments


def compensate(weights: Float64, scales: Float64, moments: Float64) -> Float64:
    """Return codes of ``weights`` whose error on inputs with these ``moments`` is small.

    Args:
        weights: ``(outputs, K)``.
        scales: ``(outputs,)``, the value of one code.
        moments: ``(K, K)``, positive semidefinite. Where inputs were always zero, each code is the nearest.
    """
    size, trace = len(moments), float(np.trace(moments))
    if trace == 0:  # behind a dead ReLU, or a dead channel of a depthwise convolution
        return np.clip(np.rint(weights / scales[:, None]), -LEVELS - 1, LEVELS)
    damping = DAMPING * trace / size
    inverse = np.linalg.inv(moments + damping * np.eye(size))
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T  # upper: row i is about the columns from i on
    left, codes = weights.copy(), np.zeros_like(weights)
    for i in range(size):
        codes[:, i] = np.clip(np.rint(left[:, i] / scales), -LEVELS - 1, LEVELS)
        error = (left[:, i] - codes[:, i] * scales) / factor[i, i]
        left[:, i + 1 :] -= np.outer(error, factor[i, i + 1 :])
    return codes
