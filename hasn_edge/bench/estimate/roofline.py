"""How fast a board that is not here could run a network: a roofline, layer by layer. Never a measurement."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from hasn_edge.bench.estimate.kernels import INPUT, OUTPUT, Dataflow, Kernel
from hasn_edge.hardware.profiles import DeviceProfile
from hasn_edge.model.complexity import Op
from hasn_edge.spec import Precision

BYTES = {Precision.FP32: 4, Precision.FP16: 2, Precision.INT8: 1}
MEMORY = "memory"
"""The resource that bounds a layer when it is not one of the units that compute."""

CONVENTIONS = (
    "each layer takes the longer of two times: its bytes over the memory's peak bandwidth, its "
    "multiply-accumulates over the peak dense rate of its units; the layers run one after the other",
    "bytes: every tensor read once and written once at its format, weights read once, nothing kept in cache; "
    "activations, sums, products and gates are fused behind a convolution and cost the operands they read; "
    "LayerNorm, pooling, resizing, channel gate and pixel shuffle are kernels of their own",
    "units: tensor cores for convolutions in FP16 and INT8, CUDA cores for depthwise ones, for everything in "
    "FP32 (no TF32) and for what is no convolution; no structured sparsity; LayerNorm counts 5 operations, "
    "bilinear 4 and average pooling 1 an element, max-pool, gate and pixel shuffle none",
    "INT8: the convolutions that the recipe selects; the rest in FP16. A tensor is INT8 where only such "
    "convolutions take it as their input",
    "network unfused, batch 1, float32 input and output on the device, no copies to or from the host",
    "missing: launches, partial tiles and channels that fill no tile make it slower; caches that hold a "
    "tensor, and a compiler that fuses more, make it faster",
)


@dataclass(frozen=True, kw_only=True)
class LayerEstimate:
    """The reckoning of one layer; times in seconds."""

    name: str
    op: str
    precision: Precision
    operations: int
    bytes: int
    """Read and written together."""
    memory_seconds: float
    compute_seconds: float
    unit: str
    """``"tensor cores"`` or ``"CUDA cores"``."""

    @property
    def seconds(self) -> float:
        """The longer of the two times."""
        return max(self.memory_seconds, self.compute_seconds)

    @property
    def bound(self) -> str:
        """The resource that takes that long."""
        return self.unit if self.compute_seconds > self.memory_seconds else MEMORY


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The reckoning of a network in one precision on one device."""

    precision: Precision
    layers: tuple[LayerEstimate, ...]

    @property
    def seconds(self) -> float:
        """Sum over the layers."""
        return sum(layer.seconds for layer in self.layers)

    @property
    def shares(self) -> dict[str, float]:
        """Part of the time that each resource bounds, largest first."""
        spent: dict[str, float] = {}
        for layer in self.layers:
            spent[layer.bound] = spent.get(layer.bound, 0.0) + layer.seconds / self.seconds
        return dict(sorted(spent.items(), key=lambda item: -item[1]))

    @property
    def bound(self) -> str:
        """The resource that bounds the larger part of the time."""
        return next(iter(self.shares))

    @property
    def bytes(self) -> int:
        """Bytes of all layers."""
        return sum(layer.bytes for layer in self.layers)


def estimate(
    flow: Dataflow, device: DeviceProfile, precision: Precision, int8: Collection[str] = ()
) -> Estimate:
    """Reckon every layer of a network.

    Args:
        flow: The kernels at one size.
        device: What to reckon with.
        precision: Number format; INT8 means ``int8`` in INT8 and the rest in FP16.
        int8: Names of the convolutions in INT8.
    """
    base = Precision.FP16 if precision is Precision.INT8 else precision
    chosen = set(int8) if precision is Precision.INT8 else set()
    width = {name: BYTES[_format(flow, name, base, chosen)] for name in flow.elements}
    return Estimate(
        precision=precision,
        layers=tuple(
            _layer(kernel, flow, device, Precision.INT8 if kernel.name in chosen else base, width)
            for kernel in flow.kernels
        ),
    )


def _format(flow: Dataflow, tensor: str, base: Precision, int8: set[str]) -> Precision:
    if tensor in (INPUT, OUTPUT):
        return Precision.FP32
    readers = flow.readers(tensor)
    return Precision.INT8 if all(own and kernel.name in int8 for kernel, own in readers) else base


def _layer(
    kernel: Kernel, flow: Dataflow, device: DeviceProfile, precision: Precision, width: Mapping[str, int]
) -> LayerEstimate:
    moved = sum(flow.elements[name] * width[name] for name in (*kernel.reads, kernel.writes))
    moved += kernel.weights * BYTES[precision]
    rate, unit = device.rate(precision, tensor_cores=kernel.op == Op.CONV.value)
    return LayerEstimate(
        name=kernel.name,
        op=kernel.op,
        precision=precision,
        operations=kernel.operations,
        bytes=moved,
        memory_seconds=moved / device.bandwidth_bytes_per_s,
        compute_seconds=kernel.operations / rate,
        unit=unit,
    )
