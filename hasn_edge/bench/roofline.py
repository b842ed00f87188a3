"""How fast a board that is not here could run a network: a roofline, layer by layer. Never a measurement."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from hasn_edge.hardware.profiles import DeviceProfile
from hasn_edge.model.complexity import INPUT, OUTPUT, Complexity, Layer, Op
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
    """The estimate of one layer; times in seconds."""

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
    """The estimate of a network in one precision on one device."""

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
    network: Complexity, device: DeviceProfile, precision: Precision, int8: Collection[str] = ()
) -> Estimate:
    """Estimate every layer of a network.

    Args:
        network: Its layers at one size.
        device: Its peak rates and bandwidth.
        precision: Number format; INT8 means ``int8`` in INT8 and the rest in FP16.
        int8: Names of the convolutions in INT8.
    """
    base = Precision.FP16 if precision is Precision.INT8 else precision
    chosen = set(int8) if precision is Precision.INT8 else set()
    width = {name: BYTES[_format(network, name, base, chosen)] for name in network.elements}
    return Estimate(
        precision=precision,
        layers=tuple(
            _estimate_layer(each, network, device, Precision.INT8 if each.name in chosen else base, width)
            for each in network.layers
        ),
    )


def _format(network: Complexity, tensor: str, base: Precision, int8: set[str]) -> Precision:
    if tensor in (INPUT, OUTPUT):
        return Precision.FP32
    readers = network.readers(tensor)
    return Precision.INT8 if all(own and layer.name in int8 for layer, own in readers) else base


def _estimate_layer(
    layer: Layer, network: Complexity, device: DeviceProfile, precision: Precision, width: Mapping[str, int]
) -> LayerEstimate:
    moved = sum(network.elements[name] * width[name] for name in (*layer.reads, layer.writes))
    moved += layer.parameters * BYTES[precision]
    rate, unit = device.rate(precision, tensor_cores=layer.op is Op.CONV)
    return LayerEstimate(
        name=layer.name,
        op=layer.op.value,
        precision=precision,
        operations=layer.count,
        bytes=moved,
        memory_seconds=moved / device.bandwidth_bytes_per_s,
        compute_seconds=layer.count / rate,
        unit=unit,
    )
