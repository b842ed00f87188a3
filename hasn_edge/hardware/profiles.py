"""What is known of a device without having it: memory, bandwidth, peak rates, each with a source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from hasn_edge.errors import ConfigError
from hasn_edge.optional import version_tuple
from hasn_edge.spec import Precision


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Peak dense multiply-accumulates per second of one kind of unit (an operation count is twice that)."""

    fp32: float | None = None
    fp16: float | None = None
    int8: float | None = None

    def __post_init__(self) -> None:
        for precision in Precision:
            rate = getattr(self, precision.value)
            if rate is not None and not rate > 0:
                raise ConfigError(f"{precision.value} is {rate}; expected a rate above 0, or nothing")

    def of(self, precision: Precision) -> float | None:
        """Return the rate of one number format; ``None`` where these units do not compute in it."""
        rate: float | None = getattr(self, precision.value)
        return rate


@dataclass(frozen=True, kw_only=True)
class Versions:
    """A range of versions, both ends included."""

    first: str
    last: str | None = None
    """``None`` where later versions still support the device."""

    def __post_init__(self) -> None:
        for name, version in (("first", self.first), ("last", self.last)):
            if version is not None and not re.fullmatch(r"\d+(\.\d+)*", version):
                raise ConfigError(f'{name} is {version!r}; expected a version such as "10.3"')
        if self.last is not None and version_tuple(self.last) < version_tuple(self.first):
            raise ConfigError(f"last is {self.last!r}, which is before first, {self.first!r}")

    def __contains__(self, version: str) -> bool:
        """Whether ``version`` lies in the range; 10.16.2 is in a range that ends with 10.16."""
        found = version_tuple(version)
        if self.last is not None and found[: self.last.count(".") + 1] > version_tuple(self.last):
            return False
        return found >= version_tuple(self.first)

    def __str__(self) -> str:
        if self.last == self.first:
            return self.first
        return f"{self.first} to {self.last}" if self.last else f"{self.first} and newer"


@dataclass(frozen=True, kw_only=True)
class PowerMode:
    """A power mode of a module, or the board power of a card."""

    name: str
    watts: float | None = None
    """What the maker budgets for the module or card; ``None`` for a mode without a cap."""


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """A board or card on paper. Every figure has its entry in ``sources``, unconfirmed ones say so."""

    title: str
    """What it is called in reports, e.g. ``"NVIDIA Jetson Orin Nano 8GB"``."""
    integrated: bool
    """Whether CPU and GPU share one memory (Jetson) or the GPU has its own behind a bus (a card)."""
    compute_capability: str
    """CUDA compute capability, e.g. ``"8.7"``."""
    sm_count: int
    """Streaming multiprocessors."""
    clock_hz: float
    """Highest GPU clock of the power mode that the rates are for, or a card's boost clock."""
    memory_bytes: int
    """Memory; on a Jetson shared with the CPU."""
    bandwidth_bytes_per_s: float
    """Peak memory bandwidth, reading and writing together."""
    cuda_cores_macs_per_s: Rates
    """Peak of the CUDA cores: depthwise convolutions, and everything in FP32 (no TF32)."""
    tensor_cores_macs_per_s: Rates
    """Peak of the tensor cores, dense (no structured sparsity): the other convolutions in FP16 and INT8."""
    tensorrt: Versions
    """TensorRT versions that run on it."""
    jetpack: Versions | None = None
    """JetPack releases for it; ``None`` for a card."""
    power_modes: tuple[PowerMode, ...]
    """Modes, the one that the rates are for last."""
    dla: str
    """Deep learning accelerators, and why they are of no use to this network."""
    sources: Mapping[str, str] = field(repr=False, hash=False)
    """Where each figure is from, by dotted field name."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+\.\d", self.compute_capability):
            raise ConfigError(
                f'compute_capability is {self.compute_capability!r}; expected for example "8.7"'
            )
        for name in ("sm_count", "clock_hz", "memory_bytes", "bandwidth_bytes_per_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected more than 0")
        if self.cuda_cores_macs_per_s.fp32 is None:
            raise ConfigError("cuda_cores_macs_per_s.fp32 is missing; every GPU has that rate")
        if not self.power_modes:
            raise ConfigError("power_modes is empty; name at least the one that the rates are for")
        figures = set(self.figures())
        if missing := sorted(figures - set(self.sources)):
            raise ConfigError(f"sources: nothing for {', '.join(missing)}; say where each figure is from")
        if loose := sorted(set(self.sources) - figures):
            raise ConfigError(f"sources: {', '.join(loose)} is no figure of this profile")

    def figures(self) -> dict[str, object]:
        """Return every figure by dotted name: what ``sources`` must account for."""
        found: dict[str, object] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Rates):
                rates = {f"{entry.name}.{precision.value}": value.of(precision) for precision in Precision}
                found |= {name: rate for name, rate in rates.items() if rate is not None}
            elif value is not None and entry.name not in ("title", "integrated", "sources"):
                found[entry.name] = value
        return found

    def rate(self, precision: Precision, *, tensor_cores: bool) -> tuple[float, str]:
        """Return the peak multiply-accumulates per second of a layer and the unit that reaches it.

        A format that the tensor cores lack runs on the CUDA cores; one that those lack runs in FP32.

        Args:
            precision: Number format of the layer's inputs.
            tensor_cores: Whether the layer is a matrix product, which tensor cores need.
        """
        if tensor_cores:
            fast = self.tensor_cores_macs_per_s.of(precision)
            if fast is not None:
                return fast, "tensor cores"
        slow = self.cuda_cores_macs_per_s.of(precision)
        plain = self.cuda_cores_macs_per_s.fp32
        assert plain is not None
        return (plain if slow is None else slow), "CUDA cores"

    @property
    def unconfirmed(self) -> tuple[str, ...]:
        """Figures whose source says that they could not be confirmed."""
        return tuple(name for name, text in self.sources.items() if "unconfirmed" in text.lower())
