"""What is quantized and how: a recipe, read from TOML, that selects convolutions by name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hasn_edge.config import config_from_mapping, read_toml
from hasn_edge.errors import ConfigError, say
from hasn_edge.files import shipped_path
from hasn_edge.quantize.observers import Observer

WORST = 5.0
"""How many times the mean's budget one image may lose, unless the recipe states a limit."""


_PATTERNS = ("quantize", "keep_float", "shift", "spread", "freeze")
"""Keys that hold patterns of names."""

GATE = ".gate"
"""A channel attention is called by the convolution that it scales, with this behind."""


class Granularity(str, Enum):
    """How many scales the weights of one convolution have."""

    PER_CHANNEL = "per_channel"
    """One per output channel (axis 0)."""
    PER_TENSOR = "per_tensor"
    """One for all weights; for comparison, it is never better."""


class WeightRange(str, Enum):
    """How the range of a channel's weights is chosen."""

    MINMAX = "minmax"
    """Up to the largest weight."""
    MSE = "mse"
    """The range with the smallest squared error of the weights."""


class Rounding(str, Enum):
    """How weights become codes."""

    NEAREST = "nearest"
    """Each to the nearest."""
    COMPENSATED = "compensated"
    """So that errors cancel on the calibration images; see `quantize/rounding.py`."""


class Saving(str, Enum):
    """What a search for a placement of INT8 saves."""

    MACS = "macs"
    """Multiply-accumulates in float: known everywhere."""
    BYTES = "bytes"
    """Bytes that the compiler's kernels read and write: where it compiles without the device."""
    MS = "ms"
    """Milliseconds, measured on the device."""

    @property
    def words(self) -> str:
        """What a gain is a share of, after a percentage: ``37 % of the MACs in INT8``."""
        return {"macs": "of the MACs in INT8", "bytes": "of the bytes saved", "ms": "of the time saved"}[
            self.value
        ]


@dataclass(frozen=True, kw_only=True)
class QuantRecipe:
    """One way to quantize a network: which convolutions, which ranges, which cost is accepted."""

    observer: Observer = Observer.MSE
    """How the range of each convolution's input is chosen: minmax, percentile, mse or entropy."""
    percentile: float = 99.99
    """Percentage of values inside the range, for the percentile observer."""
    error_power: float = 2.0
    """What errors are raised to by the mse observer; 2.4 clips less of what is rare and strong."""
    quantize: tuple[str, ...] = ("*",)
    """Names of the convolutions that are quantized; *, ? and [2-5] stand for any text, any and one of some
    characters."""
    keep_float: tuple[str, ...] = ()
    """Names that stay in float although `quantize` names them."""
    shift: tuple[str, ...] = ()
    """Names of convolutions whose input is shifted by a constant first, so that all 256 codes are used
    although the zero point is 0: for what lies on one side of zero, as the image and what leaves GELU."""
    spread: tuple[str, ...] = ()
    """Names of convolutions whose input is shifted and scaled first, each channel by itself, so that each
    channel uses all 256 codes; see `quantize/spread.py`. For these, `shift` has no effect."""
    freeze: tuple[str, ...] = ()
    """Names of channel attentions whose gates become constants, their mean over the calibration images: the
    convolution that they scale with .gate behind, as block_4.cab.cab.2.gate. What that loses counts like
    INT8's loss."""
    equalize: float | None = None
    """Make channels alike across layers before measuring, with this exponent from 0 (weights only) to 1
    (activations only); see `quantize/equalize.py`. Left out: not at all."""
    weights: Granularity = Granularity.PER_CHANNEL
    """Scales of the weights: per_channel or per_tensor."""
    weight_range: WeightRange = WeightRange.MINMAX
    """How the range of the weights is chosen: minmax or mse."""
    rounding: Rounding = Rounding.NEAREST
    """How weights become codes: nearest or compensated."""
    budget_db: float = 0.06
    """Largest accepted loss of mean PSNR-Y on each part of the held-out images (photographs; text and line
    art) against the FP32 network, in dB."""
    max_drop_worst: float | None = None
    """Largest accepted loss of one held-out image's PSNR-Y in dB; five times `budget_db` where left out."""
    calibration: str = "patches"
    """Where ranges are measured unless the user gives images: "patches" for those that ship, the name of a
    manifest under calibration/manifests, or a path as the user gives it."""

    def __post_init__(self) -> None:
        if not 50 <= self.percentile <= 100:
            raise ConfigError(f"percentile is {self.percentile}; expected a percentage from 50 to 100")
        if not 1 <= self.error_power <= 8:
            raise ConfigError(f"error_power is {self.error_power}; expected a number from 1 to 8")
        for name in ("budget_db", "max_drop_worst"):
            limit = getattr(self, name)
            if limit is not None and not (math.isfinite(limit) and limit >= 0):
                raise ConfigError(f"{name} is {limit}; expected a number of dB, 0 or more")
        if self.equalize is not None and not 0 <= self.equalize <= 1:
            raise ConfigError(f"equalize is {self.equalize}; expected a number from 0 to 1")
        if self.freeze and not self.can_freeze:
            raise ConfigError(
                'a gate that is frozen scales each channel of weights, and rounding = "compensated" with '
                'weights = "per_tensor" has one scale for all; expected one of freeze and these two',
                say('write weights = "per_channel" or rounding = "nearest"'),
            )
        if not self.quantize:
            raise ConfigError(
                'quantize is empty; expected patterns of names, for example ["block_*.f1.conv"]'
            )

    @property
    def can_freeze(self) -> bool:
        """Whether gates may become constants: compensated codes of one common scale cannot follow them."""
        return self.rounding is Rounding.NEAREST or self.weights is Granularity.PER_CHANNEL

    @property
    def budget(self) -> tuple[float, float]:
        """Largest accepted loss in dB: of a part's mean, and of one image."""
        worst = self.max_drop_worst
        return self.budget_db, WORST * self.budget_db if worst is None else worst

    def select(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return those of ``names`` that are quantized, in their order.

        Raises:
            ConfigError: none is; the message lists some of the names.
        """
        names = tuple(names)
        chosen = tuple(
            name for name in names if _matches(name, self.quantize) and not _matches(name, self.keep_float)
        )
        if not chosen:
            some = ", ".join(names[:6]) or "none"
            raise ConfigError(
                f"the recipe quantizes no convolution of this network: {', '.join(self.quantize[:4])}"
                f" less {', '.join(self.keep_float[:4]) or 'nothing'} against {some}, ..."
            )
        return chosen

    def shifted(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return those of ``names`` whose input is shifted by one constant."""
        return tuple(name for name in names if _matches(name, self.shift) and not _matches(name, self.spread))

    def spread_out(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return those of ``names`` whose input is shifted and scaled by channel."""
        return tuple(name for name in names if _matches(name, self.spread))

    def frozen(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return those of ``names`` that become constants."""
        return tuple(name for name in names if _matches(name, self.freeze))

    def unmatched(self, convolutions: Iterable[str], gates: Iterable[str]) -> list[str]:
        """Return a warning for each key with patterns that name nothing of a network.

        Those of recipes that ship are left out: they are for several networks, and others inherit them.
        """
        convolutions, gates, found = tuple(convolutions), tuple(gates), []
        shipped = [load_quant_recipe(name) for name in shipped_recipes()]
        for key in _PATTERNS:
            what, names = ("channel attention", gates) if key == "freeze" else ("convolution", convolutions)
            known = {pattern for recipe in shipped for pattern in getattr(recipe, key)}
            idle = [
                pattern
                for pattern in getattr(self, key)
                if pattern not in known and not any(_matches(name, [pattern]) for name in names)
            ]
            if idle:
                left = " or ".join(idle)
                found.append(
                    f"warning: no {what} of this network is called {left}, as the recipe's {key} has it"
                )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, one per field."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def load_quant_recipe(name: str | Path = "default", *, overrides: Iterable[str] = ()) -> QuantRecipe:
    """Read a recipe that ships (``default``, ``conservative``, ``div2k``) or the TOML file at a path.

    What a file leaves out is as in the ``default`` recipe; with ``inherit = false`` in it, as the attributes
    of :class:`QuantRecipe` are by themselves.

    Args:
        name: A bare name, or a path that ends in ``.toml``.
        overrides: ``"key=value"`` settings that win over the file.

    Raises:
        ConfigError: no such recipe (those that ship are listed), or a wrong key or value in it.
    """
    path = recipe_path(name)
    values = read_toml(path)
    inherit = values.pop("inherit", True)
    if type(inherit) is not bool:
        raise ConfigError(f"{path}: inherit is {inherit!r}; expected true or false")
    if inherit:
        values = {**read_toml(recipe_path("default")), **values}
    return config_from_mapping(values, QuantRecipe, source=str(path), overrides=overrides)


def recipe_path(name: str | Path) -> Path:
    """Return the file of a recipe that ships, or the path itself.

    Raises:
        ConfigError: a bare name that no shipped recipe has.
    """
    if str(name) in shipped_recipes():
        return shipped_path("calibration", "recipes", f"{name}.toml")
    path = Path(name)
    if path.suffix == ".toml":
        return path
    raise ConfigError(
        f"no recipe called {str(name)!r}; those that ship: {', '.join(shipped_recipes())}",
        say("give the path of a .toml file"),
    )


def shipped_recipes() -> tuple[str, ...]:
    """Return the names of the recipes that ship, sorted."""
    return tuple(sorted(path.stem for path in shipped_path("calibration", "recipes").glob("*.toml")))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value
