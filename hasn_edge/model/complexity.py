"""Parameters and operation counts of a network, layer by layer, in closed form.

"FLOP" is not well defined. Here everything is counted by fvcore's rules, the ones behind the paper's
"FLOPs (G)": one multiply-accumulate of a convolution is one, biases are free, LayerNorm is 5 per element,
bilinear interpolation 4 per output element, average pooling 1 per input element. Not counted: max-pooling,
element-wise products and sums, activations, sigmoid, pixel shuffle. Always quote the input size with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hasn_edge.spec import ModelSpec

UNCOUNTED = ("max_pool", "mul", "add", "activation", "gelu", "sigmoid", "pixel_shuffle")
"""Operators that the counts leave out."""

PAPER_SIZE = (256, 256)
"""Input (height, width) at which the paper's counts come out."""


class Op(str, Enum):
    """What a counted layer does."""

    CONV = "conv"
    DEPTHWISE = "depthwise"
    NORM = "layer_norm"
    RESIZE = "bilinear"
    POOL = "average_pool"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One counted layer at one input size."""

    name: str
    """Path of the module, as in the checkpoint."""
    op: Op
    parameters: int
    count: int
    """Multiply-accumulates for convolutions; fvcore's count for the rest."""
    input_elements: int
    output_elements: int


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """Counts of a whole network at one input size."""

    height: int
    width: int
    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        """Trainable values, biases included."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def total(self) -> int:
        """Count by fvcore's rules."""
        return sum(layer.count for layer in self.layers)

    @property
    def conv_macs(self) -> int:
        """Multiply-accumulates of the convolutions alone."""
        return sum(layer.count for layer in self.layers if layer.op in (Op.CONV, Op.DEPTHWISE))


def complexity(spec: ModelSpec, height: int, width: int) -> Complexity:
    """Count a network of the HASN family for one ``height`` x ``width`` input (batch 1).

    Raises:
        ValueError: the size is below ``spec.size.minimum``.
    """
    if min(height, width) < spec.size.minimum:
        raise ValueError(f"{height}x{width} is below the network's minimum side {spec.size.minimum}")
    counter = _Counter(height, width)
    counter.conv("conv_1", spec.channels, spec.features, 3)
    for index in range(1, spec.blocks + 1):
        _count_block(counter, f"block_{index}", spec)
    counter.conv("conv_2", spec.features, spec.features, 3)
    counter.conv("upsampler.0", spec.features, spec.channels * spec.scale**2, 3)
    return Complexity(height=height, width=width, layers=tuple(counter.layers))


def _count_block(counter: _Counter, path: str, spec: ModelSpec) -> None:
    features, expanded = spec.features, spec.features * spec.expansion
    counter.conv(f"{path}.dwconv.conv", features, features, spec.kernel_size, depthwise=True)
    if spec.norm:
        pixels = features * counter.height * counter.width
        counter.other(f"{path}.ln", Op.NORM, 5 * pixels, pixels, pixels, parameters=2 * features)
    branches = ("f1", "f2", "f3") if spec.esa else ("f1", "f2")
    for branch in branches:
        counter.conv(f"{path}.{branch}.conv", features, expanded, 1)
    if spec.esa:
        _count_esa(counter, f"{path}.esa", expanded, spec.esa_channels)
    counter.conv(f"{path}.g.conv", expanded, features, 1)
    counter.conv(f"{path}.dwconv2.conv", features, features, spec.kernel_size, depthwise=True)
    if spec.cab:
        cab = f"{path}.cab.cab"
        pixels = features * counter.height * counter.width
        counter.conv(f"{cab}.0", features, spec.cab_channels, 3)
        counter.conv(f"{cab}.2", spec.cab_channels, features, 3)
        counter.other(f"{cab}.3.attention.0", Op.POOL, pixels, pixels, features)
        counter.conv(f"{cab}.3.attention.1", features, spec.squeeze_channels, 1, size=(1, 1))
        counter.conv(f"{cab}.3.attention.3", spec.squeeze_channels, features, 1, size=(1, 1))


def _count_esa(counter: _Counter, path: str, expanded: int, channels: int) -> None:
    height, width = counter.height, counter.width
    half = ((height - 3) // 2 + 1, (width - 3) // 2 + 1)
    coarse = ((half[0] - 7) // 3 + 1, (half[1] - 7) // 3 + 1)
    counter.conv(f"{path}.conv1", expanded, channels, 1)
    counter.conv(f"{path}.conv2", channels, channels, 3, size=half, input_size=(height, width))
    counter.conv(f"{path}.conv3", channels, channels, 3, size=coarse)
    full = channels * height * width
    counter.other(f"{path}.resize", Op.RESIZE, 4 * full, channels * coarse[0] * coarse[1], full)
    counter.conv(f"{path}.conv_f", channels, channels, 1)
    counter.conv(f"{path}.conv4", channels, expanded, 1)


class _Counter:
    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.layers: list[Layer] = []

    def conv(
        self,
        name: str,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        size: tuple[int, int] | None = None,
        input_size: tuple[int, int] | None = None,
        depthwise: bool = False,
    ) -> None:
        height, width = size or (self.height, self.width)
        in_height, in_width = input_size or (height, width)
        weights = kernel * kernel * outputs * (1 if depthwise else inputs)
        self.layers.append(
            Layer(
                name=name,
                op=Op.DEPTHWISE if depthwise else Op.CONV,
                parameters=weights + outputs,
                count=weights * height * width,
                input_elements=inputs * in_height * in_width,
                output_elements=outputs * height * width,
            )
        )

    def other(
        self, name: str, op: Op, count: int, input_elements: int, output_elements: int, *, parameters: int = 0
    ) -> None:
        self.layers.append(
            Layer(
                name=name,
                op=op,
                parameters=parameters,
                count=count,
                input_elements=input_elements,
                output_elements=output_elements,
            )
        )
