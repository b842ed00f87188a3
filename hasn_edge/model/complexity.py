"""What a network of the HASN family computes and moves at one input size, layer by layer.

"FLOP" is not well defined. Here everything is counted by fvcore's rules, the ones behind the paper's
"FLOPs (G)": one multiply-accumulate of a convolution is one, biases are free, LayerNorm is 5 per element,
bilinear interpolation 4 per output element, average pooling 1 per input element. Not counted: max-pooling,
element-wise products and sums, activations, sigmoid, pixel shuffle. Always quote the input size with it.

A layer reads and writes each tensor once. Activations, sums, products and gates that follow a convolution
are computed before its result is written, and read their other operands then; LayerNorm, pooling, resizing,
the channel gate and the pixel shuffle are layers of their own.

The network is written here a second time, beside :mod:`hasn_edge.model.blocks`, because these figures are
wanted where neither PyTorch nor the onnx package is installed, and the graphs that ship are fused: they
compute less. Tests hold it against fvcore, PyTorch's own counter and the exported ONNX graph.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from hasn_edge.spec import ModelSpec

UNCOUNTED = ("max_pool", "mul", "add", "activation", "gelu", "sigmoid", "pixel_shuffle")
"""Operators that the counts leave out."""

PAPER_SIZE = (256, 256)
"""Input (height, width) at which the paper's counts come out."""

INPUT, OUTPUT = "input", "output"
"""The tensors at the network's ends."""

TensorShape = tuple[int, int, int]
"""Channels, height and width of a tensor; the batch is 1."""


class Op(str, Enum):
    """What a layer does."""

    CONV = "conv"
    DEPTHWISE = "depthwise"
    NORM = "layer_norm"
    RESIZE = "bilinear"
    POOL = "average_pool"
    MAX_POOL = "max_pool"
    GATE = "gate"
    SHUFFLE = "pixel_shuffle"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer at one input size."""

    name: str
    """Path of the module, as in the checkpoint; a convolution's is what recipes select it by."""
    op: Op
    parameters: int
    """Values of weights and biases."""
    count: int
    """Multiply-accumulates for convolutions; fvcore's count for the rest, 0 for what it leaves out."""
    reads: tuple[str, ...]
    """Tensors: first what the layer itself takes, then the operands of what is computed behind it."""
    writes: str
    """The tensor that it makes: its own name, of the last layer :data:`OUTPUT`."""

    @property
    def is_convolution(self) -> bool:
        """Whether a recipe may select it."""
        return self.op in (Op.CONV, Op.DEPTHWISE)


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """The layers of one network at one input size, batch 1, in the order they run."""

    layers: tuple[Layer, ...]
    elements: Mapping[str, int]
    """Values of each tensor, by name."""

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
        return sum(layer.count for layer in self.layers if layer.is_convolution)

    @property
    def activations(self) -> int:
        """Values that the convolutions write: the "#Activations" of efficiency challenges."""
        return sum(self.elements[layer.writes] for layer in self.layers if layer.is_convolution)

    def readers(self, tensor: str) -> tuple[tuple[Layer, bool], ...]:
        """Return the layers that read a tensor, each with whether it is the layer's own input."""
        return tuple((layer, layer.reads[0] == tensor) for layer in self.layers if tensor in layer.reads)

    @property
    def gated(self) -> Mapping[str, Layer]:
        """The channel gates, by the convolution that they scale."""
        return {layer.reads[0]: layer for layer in self.layers if layer.op is Op.GATE}

    def without_gates(self, convolutions: Collection[str]) -> Complexity:
        """Return it with constants for the gates of these convolutions, which then add the residual."""
        gates = {name: gate for name, gate in self.gated.items() if name in convolutions}
        gone = tuple(gate.name for gate in gates.values())
        layers = []
        for layer in self.layers:
            if layer.name in gone or layer.name.startswith(tuple(f"{name}." for name in gone)):
                continue
            if (gate := gates.get(layer.name)) is not None:
                layer = replace(layer, reads=(*layer.reads, *gate.reads[2:]), writes=gate.writes)
            layers.append(layer)
        return replace(self, layers=tuple(layers))


@dataclass(frozen=True, kw_only=True)
class NetworkCounts:
    """What a network is and computes at one input size, in three numbers."""

    parameters: int
    macs: int
    """By fvcore's rules; of a graph of somebody else's, of its convolutions alone."""
    activations: int
    """As :attr:`Complexity.activations`."""


def count(spec: ModelSpec, height: int, width: int) -> NetworkCounts:
    """Return :func:`complexity` as three numbers."""
    found = complexity(spec, height, width)
    return NetworkCounts(parameters=found.parameters, macs=found.total, activations=found.activations)


def complexity(spec: ModelSpec, height: int, width: int) -> Complexity:
    """Return the layers of the unfused network for one ``height`` x ``width`` image.

    Raises:
        ValueError: the size is below ``spec.size.minimum``.
    """
    if min(height, width) < spec.size.minimum:
        raise ValueError(f"{height}x{width} is below the network's minimum side {spec.size.minimum}")
    net = _Network((spec.channels, height, width))
    x = stem = net.conv("conv_1", INPUT, spec.features, 3)
    for index in range(1, spec.blocks + 1):
        x = _add_block(net, spec, f"block_{index}", x)
    x = net.conv("conv_2", x, spec.features, 3, operands=(stem,))
    x = net.conv("upsampler.0", x, spec.channels * spec.scale**2, 3)
    frame = (spec.channels, height * spec.scale, width * spec.scale)
    net.add("pixel_shuffle", Op.SHUFFLE, (x,), frame, writes=OUTPUT)
    elements = {name: math.prod(shape) for name, shape in net.shapes.items()}
    return Complexity(layers=tuple(net.layers), elements=elements)


def _add_block(net: _Network, spec: ModelSpec, path: str, x: str) -> str:
    features, expanded = spec.features, spec.features * spec.expansion
    y = net.conv(f"{path}.dwconv.conv", x, features, spec.kernel_size, depthwise=True)
    if spec.norm:
        shape = net.shapes[y]
        y = net.add(f"{path}.ln", Op.NORM, (y,), shape, count=5 * math.prod(shape), parameters=2 * features)
    first = net.conv(f"{path}.f1.conv", y, expanded, 1)
    mixed = net.conv(f"{path}.f2.conv", y, expanded, 1, operands=(first,))
    if spec.esa:
        third = net.conv(f"{path}.f3.conv", y, expanded, 1)
        mixed = _add_esa(net, spec, f"{path}.esa", third, mixed)
    y = net.conv(f"{path}.g.conv", mixed, features, 1)
    plain_sum = spec.skip or (spec.residual and not spec.cab)
    skip = (x,) if plain_sum else ()
    y = net.conv(f"{path}.dwconv2.conv", y, features, spec.kernel_size, depthwise=True, operands=skip)
    return _add_cab(net, spec, f"{path}.cab.cab", y, (x,) if spec.residual else ()) if spec.cab else y


def _add_esa(net: _Network, spec: ModelSpec, path: str, x: str, mixed: str) -> str:
    """Add the spatial gate of ``x``, whose product is added to ``mixed``."""
    channels = spec.esa_channels
    squeezed = net.conv(f"{path}.conv1", x, channels, 1)
    fine = net.conv(f"{path}.conv2", squeezed, channels, 3, stride=2)
    _, height, width = net.shapes[fine]
    pooled = (channels, (height - 7) // 3 + 1, (width - 7) // 3 + 1)
    coarse = net.conv(f"{path}.conv3", net.add(f"{path}.max_pool", Op.MAX_POOL, (fine,), pooled), channels, 3)
    full = net.shapes[squeezed]
    resized = net.add(f"{path}.resize", Op.RESIZE, (coarse,), full, count=4 * math.prod(full))
    gate = net.conv(f"{path}.conv_f", squeezed, channels, 1, operands=(resized,))
    return net.conv(f"{path}.conv4", gate, net.shapes[x][0], 1, operands=(x, mixed))


def _add_cab(net: _Network, spec: ModelSpec, path: str, x: str, residual: tuple[str, ...]) -> str:
    features, shape = spec.features, net.shapes[x]
    y = net.conv(f"{path}.2", net.conv(f"{path}.0", x, spec.cab_channels, 3), features, 3)
    attention = f"{path}.3.attention"
    gate = net.add(f"{attention}.0", Op.POOL, (y,), (features, 1, 1), count=math.prod(shape))
    gate = net.conv(f"{attention}.1", gate, spec.squeeze_channels, 1)
    gate = net.conv(f"{attention}.3", gate, features, 1)
    return net.add(f"{path}.3", Op.GATE, (y, gate, *residual), shape)


class _Network:
    """Collects layers; every method returns the name of the tensor that the layer writes."""

    def __init__(self, frame: TensorShape) -> None:
        self.layers: list[Layer] = []
        self.shapes: dict[str, TensorShape] = {INPUT: frame}

    def add(
        self,
        name: str,
        op: Op,
        reads: tuple[str, ...],
        shape: TensorShape,
        *,
        count: int = 0,
        parameters: int = 0,
        writes: str | None = None,
    ) -> str:
        writes = writes or name
        self.layers.append(
            Layer(name=name, op=op, parameters=parameters, count=count, reads=reads, writes=writes)
        )
        self.shapes[writes] = shape
        return writes

    def conv(
        self,
        name: str,
        x: str,
        outputs: int,
        kernel: int,
        *,
        operands: tuple[str, ...] = (),
        stride: int = 1,
        depthwise: bool = False,
    ) -> str:
        """Add a convolution with a bias; the frame keeps its size, and with a stride it is not padded."""
        inputs, height, width = self.shapes[x]
        if stride > 1:
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        weights = kernel * kernel * outputs * (1 if depthwise else inputs)
        return self.add(
            name,
            Op.DEPTHWISE if depthwise else Op.CONV,
            (x, *operands),
            (outputs, height, width),
            count=weights * height * width,
            parameters=weights + outputs,
        )
