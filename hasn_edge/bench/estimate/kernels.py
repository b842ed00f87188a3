"""The kernels that an engine of a network runs by our convention of fusion, and the tensors between them.

The convention: every convolution is a kernel; activations, sums, products and gates that follow it are done
before its result is written, and read their other operands then. LayerNorm, pooling, resizing, the channel
gate and the pixel shuffle are kernels of their own. Each kernel reads and writes each tensor once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hasn_edge.model.complexity import Layer, Op, complexity
from hasn_edge.spec import ModelSpec

INPUT, OUTPUT = "input", "output"
"""The tensors at the network's ends, which are float32 whatever is inside."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One kernel. Its result is a tensor of the kernel's name, the last one's is :data:`OUTPUT`."""

    name: str
    """Path of the module; a convolution's is what recipes select it by."""
    op: str
    """A value of :class:`~hasn_edge.model.complexity.Op`, or ``max_pool``, ``gate``, ``pixel_shuffle``."""
    operations: int
    """Multiply-accumulates of a convolution; of the others fvcore's count, 0 for those it leaves out."""
    weights: int
    """Values of weights and biases."""
    reads: tuple[str, ...]
    """Tensors: first what the layer itself takes, then the operands of what is fused behind it."""
    writes: str

    @property
    def is_convolution(self) -> bool:
        """Whether a recipe may select it."""
        return self.op in (Op.CONV.value, Op.DEPTHWISE.value)


@dataclass(frozen=True, kw_only=True)
class Dataflow:
    """The kernels of one network at one input size, batch 1, in the order they run."""

    height: int
    width: int
    kernels: tuple[Kernel, ...]
    elements: Mapping[str, int]
    """Values of each tensor, by name."""

    def readers(self, tensor: str) -> tuple[tuple[Kernel, bool], ...]:
        """Return the kernels that read a tensor, each with whether it is the layer's own input."""
        return tuple((k, k.reads[0] == tensor) for k in self.kernels if tensor in k.reads)


def dataflow(spec: ModelSpec, height: int, width: int) -> Dataflow:
    """Return the kernels of the unfused network for one ``height`` x ``width`` image.

    Raises:
        ValueError: the size is below ``spec.size.minimum``.
    """
    flow = _Flow(spec, height, width)
    stem = flow.run("conv_1", INPUT)
    x = stem
    for index in range(1, spec.blocks + 1):
        x = _block(flow, spec, f"block_{index}", x)
    x = flow.run("conv_2", x, stem)
    x = flow.run("upsampler.0", x)
    flow.extra("pixel_shuffle", "pixel_shuffle", x, elements=flow.elements[x], writes=OUTPUT)
    return Dataflow(height=height, width=width, kernels=tuple(flow.kernels), elements=flow.elements)


def _block(flow: _Flow, spec: ModelSpec, path: str, x: str) -> str:
    y = flow.run(f"{path}.dwconv.conv", x)
    if spec.norm:
        y = flow.run(f"{path}.ln", y)
    first = flow.run(f"{path}.f1.conv", y)
    mixed = flow.run(f"{path}.f2.conv", y, first)
    if spec.esa:
        third = flow.run(f"{path}.f3.conv", y)
        squeezed = flow.run(f"{path}.esa.conv1", third)
        fine = flow.run(f"{path}.esa.conv2", squeezed)
        coarse = flow.extra(
            f"{path}.esa.max_pool",
            "max_pool",
            fine,
            elements=flow.counted[f"{path}.esa.conv3"].input_elements,
        )
        coarse = flow.run(f"{path}.esa.conv3", coarse)
        coarse = flow.run(f"{path}.esa.resize", coarse)
        summed = flow.run(f"{path}.esa.conv_f", squeezed, coarse)
        mixed = flow.run(f"{path}.esa.conv4", summed, third, mixed)
    y = flow.run(f"{path}.g.conv", mixed)
    residual = (x,) if spec.residual else ()
    skip = (x,) if spec.skip or (spec.residual and not spec.cab) else ()
    y = flow.run(f"{path}.dwconv2.conv", y, *skip)
    if spec.cab:
        cab = f"{path}.cab.cab"
        y = flow.run(f"{cab}.2", flow.run(f"{cab}.0", y))
        gate = flow.run(f"{cab}.3.attention.0", y)
        gate = flow.run(f"{cab}.3.attention.3", flow.run(f"{cab}.3.attention.1", gate))
        y = flow.extra(f"{cab}.3", "gate", y, gate, *residual, elements=flow.elements[y])
    return y


class _Flow:
    def __init__(self, spec: ModelSpec, height: int, width: int) -> None:
        self.counted: dict[str, Layer] = {
            layer.name: layer for layer in complexity(spec, height, width).layers
        }
        self.elements = {INPUT: spec.channels * height * width}
        self.kernels: list[Kernel] = []

    def run(self, name: str, *reads: str) -> str:
        """Add a layer that ``complexity`` counts; return the tensor that it writes."""
        layer = self.counted[name]
        return self._add(
            Kernel(
                name=name,
                op=layer.op.value,
                operations=layer.count,
                weights=layer.parameters,
                reads=reads,
                writes=name,
            ),
            layer.output_elements,
        )

    def extra(self, name: str, op: str, *reads: str, elements: int, writes: str | None = None) -> str:
        """Add a kernel that only moves data; return the tensor that it writes."""
        kernel = Kernel(name=name, op=op, operations=0, weights=0, reads=reads, writes=writes or name)
        return self._add(kernel, elements)

    def _add(self, kernel: Kernel, elements: int) -> str:
        self.kernels.append(kernel)
        self.elements[kernel.writes] = elements
        return kernel.writes
