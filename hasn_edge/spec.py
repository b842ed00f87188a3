"""What a model is and which sizes it accepts: the facts that travel with every file and session."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any, TypeVar

from hasn_edge.errors import ConfigError, UnsupportedError

SPEC_KEY = "hasn_edge.spec"
"""Under which weights files and graphs hold their network, as JSON where they hold strings."""

GRAPH_ARCH = "onnx"
"""Family of the networks that come as a graph of somebody else's."""

N = TypeVar("N", bound="NetworkSpec")


class Precision(str, Enum):
    """Number format of the tensors and convolutions inside an artifact."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"

    @classmethod
    def parse(cls, text: str) -> Precision:
        """Return the precision called ``text``.

        Raises:
            UnsupportedError: no precision has that name; the message lists those that exist.
        """
        try:
            return cls(text.strip().lower())
        except ValueError:
            names = ", ".join(p.value for p in cls)
            raise UnsupportedError(f"unknown precision {text!r}; choose one of: {names}") from None


class Activation(str, Enum):
    """Non-linearity of the gated branch (paper, Table 8)."""

    RELU = "relu"
    LEAKY_RELU = "leaky_relu"
    RELU6 = "relu6"


class Gate(str, Enum):
    """How the activated branch meets the plain one: ``act(a) * b`` as published, or ``act(a) + b``."""

    MULTIPLY = "multiply"
    ADD = "add"


@dataclass(frozen=True, kw_only=True)
class SizeRule:
    """Which heights and widths (in pixels) a network accepts."""

    minimum: int = 1
    """Smallest accepted height and width."""
    multiple: int = 1
    """What divides each accepted height and width; it divides the minimum too."""

    def padding(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns to add so that ``height`` x ``width`` is accepted."""
        rows, columns = (
            max(self.minimum, -(-side // self.multiple) * self.multiple) - side for side in (height, width)
        )
        return rows, columns

    def fitting(self, height: int, width: int) -> tuple[int, int]:
        """Return the smallest accepted (height, width) from ``height`` x ``width`` on."""
        rows, columns = self.padding(height, width)
        return height + rows, width + columns


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """What running a network takes to know of it, whoever made it.

    Tensors at every public boundary are NCHW, RGB, float32 in [0, 1].
    """

    arch: str
    """Family name."""
    scale: int
    """Upscaling factor."""
    channels: int = 3
    """Colour channels of input and output."""

    @property
    def size(self) -> SizeRule:
        """Which heights and widths it accepts."""
        return SizeRule()

    @property
    def peak(self) -> float:
        """The value of white in its files; sessions take and give [0, 1] whatever it is."""
        return 1.0

    @property
    def channel_attention(self) -> bool:
        """Whether it is known to weigh channels by their mean over the whole frame."""
        return False

    @property
    def tile_equivariant(self) -> bool:
        """Whether a tile's interior is known to equal the same region of the whole frame."""
        return False

    def output_shape(self, shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Return the shape of the output for an input of shape ``(N, C, H, W)``."""
        n, c, h, w = shape
        return n, c, h * self.scale, w * self.scale

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, one per field."""
        return {k: v.value if isinstance(v, Enum) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NetworkSpec:
        """Build a spec from :meth:`to_dict`'s values, of the class that their ``arch`` belongs to.

        Raises:
            ConfigError: an unknown field (the nearest name is suggested) or a value out of range.
        """
        foreign = isinstance(values, dict) and values.get("arch") == GRAPH_ARCH
        return (GraphSpec if foreign else ModelSpec)._from_fields(values)

    @classmethod
    def _from_fields(cls: type[N], values: dict[str, Any]) -> N:
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
                raise ConfigError(f"unknown model field {key!r}{hint}")
        try:
            return cls(**values)
        except ValueError as exc:
            raise ConfigError(f"model: {exc}") from exc

    def _check_integers(self, **ranges: tuple[int, int]) -> None:
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(f"model.{name} is {value!r}; expected an integer from {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class GraphSpec(NetworkSpec):
    """A network of which only the graph is known: what runs of it have shown.

    Raises:
        ConfigError: a value out of range.
    """

    arch: str = GRAPH_ARCH
    scale: int = 4
    minimum: int = 1
    """Smallest height and width that it takes."""
    multiple: int = 1
    """What divides every height and width that it takes."""
    peak: float = 1.0
    """The value of white in the file itself, 1 or 255; sessions take and give [0, 1] whatever it is."""

    def __post_init__(self) -> None:
        self._check_integers(scale=(1, 16), channels=(3, 3), minimum=(1, 4096), multiple=(1, 256))
        if self.peak not in (1.0, 255.0):
            raise ConfigError(f"model.peak is {self.peak!r}; expected 1 or 255")

    @property
    def size(self) -> SizeRule:
        """As it was found by trying."""
        return SizeRule(minimum=self.minimum, multiple=self.multiple)


@dataclass(frozen=True, kw_only=True)
class ModelSpec(NetworkSpec):
    """A network of the HASN family, complete: what is needed to build it and to feed it.

    Tensors at every public boundary are NCHW, RGB, float32 in [0, 1]. The defaults are the published
    x4 network (435,272 parameters).
    """

    arch: str = "hasn"
    """Family name; only ``"hasn"`` exists."""
    scale: int = 4
    """Upscaling factor: 2, 3 or 4."""
    channels: int = 3
    """Colour channels of input and output."""
    features: int = 52
    """Width of the body in channels."""
    blocks: int = 6
    """Number of hybrid attention separable blocks (paper, Table 3: 2 to 12)."""
    expansion: int = 3
    """Width of the gated branches in multiples of ``features``."""
    kernel_size: int = 7
    """Side of the depthwise kernels: 3, 5, 7 or 9 (paper, Table 4)."""
    activation: Activation = Activation.RELU6
    """Non-linearity of the gated branch: ``"relu"``, ``"leaky_relu"`` or ``"relu6"`` (paper, Table 8)."""
    gate: Gate = Gate.MULTIPLY
    """``"multiply"`` as published, or ``"add"``: how the activated branch meets the plain one."""
    norm: bool = True
    """LayerNorm over channels after the first depthwise convolution. The published network has it; the
    counts of the paper's convolution-only ablation (227k, 14.73 G) come out only without it."""
    esa: bool = True
    """Enhanced spatial attention on a third branch; without it that branch does not exist."""
    esa_channels: int = 16
    """Width inside ESA."""
    cab: bool = True
    """Channel attention block at the end of each block."""
    cab_compression: int = 3
    """CAB's bottleneck has ``features // cab_compression`` channels (52 -> 17)."""
    cab_reduction: int = 30
    """Channel attention squeezes to ``features // cab_reduction`` channels (52 -> 1)."""
    skip: bool = True
    """Block input added before CAB, as published (paper, equation 6)."""
    residual: bool = False
    """Block input added to the block's output as well: the paper's variant (b) of Table 5."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "activation", Activation(self.activation))
        object.__setattr__(self, "gate", Gate(self.gate))
        self._check_integers(
            channels=(1, 4),
            features=(1, 1024),
            blocks=(1, 64),
            expansion=(1, 16),
            esa_channels=(1, 1024),
            cab_compression=(1, 1024),
            cab_reduction=(1, 1024),
        )
        for name, allowed in (("arch", ("hasn",)), ("scale", (2, 3, 4)), ("kernel_size", (3, 5, 7, 9))):
            value = getattr(self, name)
            if value not in allowed or type(value) is not type(allowed[0]):  # 4.0 equals 4
                raise ConfigError(f"model.{name} is {value!r}; expected one of {allowed}")
        for name in ("norm", "esa", "cab", "skip", "residual"):
            if type(getattr(self, name)) is not bool:
                raise ConfigError(f"model.{name} is {getattr(self, name)!r}; expected true or false")

    @property
    def size(self) -> SizeRule:
        """ESA's stride-2 convolution and 7x7 max-pool leave nothing of a side below 15 pixels."""
        return SizeRule(minimum=15 if self.esa else 1)

    @property
    def channel_attention(self) -> bool:
        """CAB ends in it."""
        return self.cab

    @property
    def tile_equivariant(self) -> bool:
        """Whether a tile's interior equals the same region of the whole frame.

        False where channel attention averages over the frame or ESA's grid depends on its size.
        """
        return not (self.esa or self.cab)

    @property
    def cab_channels(self) -> int:
        """Channels of CAB's bottleneck."""
        return max(1, self.features // self.cab_compression)

    @property
    def squeeze_channels(self) -> int:
        """Channels that channel attention squeezes to."""
        return max(1, self.features // self.cab_reduction)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelSpec:
        """Build a spec from :meth:`to_dict`'s values; missing fields take the published network's.

        Raises:
            ConfigError: an unknown field (the nearest name is suggested) or a value out of range.
        """
        return cls._from_fields(values)
