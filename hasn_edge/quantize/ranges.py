"""Ranges of the convolutions' inputs, measured by running the FP32 graph on calibration images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from hasn_edge.errors import ArtifactError, CheckpointError, InputError, say
from hasn_edge.exporters.onnx_graph import Emulator
from hasn_edge.images.arrays import Pixels, to_tensor
from hasn_edge.quantize.freeze import find_gates
from hasn_edge.quantize.graph import convolutions
from hasn_edge.quantize.observers import LEVELS, MagnitudeHistogram, Observer, observed_range
from hasn_edge.quantize.recipe import Rounding
from hasn_edge.quantize.rounding import RoundedWeights, compensated_codes
from hasn_edge.quantize.spread import (
    Spread,
    channel_counts,
    choose_steps,
    spread_inputs,
    spread_of,
)
from hasn_edge.sidecar import RangesRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasn_edge.quantize.recipe import QuantRecipe


LEARNED = "int8"
"""What a checkpoint's provenance calls ranges that were learned with its weights."""


class CalibrationBatches(Protocol):
    """Images to measure ranges on; see :class:`hasn_edge.data.calibration.CalibrationData`."""

    @property
    def fingerprint(self) -> str:
        """Hash of the pixels and of how they became tensors."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[NDArray[np.float32]]: ...


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """What was measured: for each convolution, the magnitude of its input that code 127 stands for."""

    values: Mapping[str, float]
    """Range by convolution name; 0 where the input was zero everywhere (a dead ReLU)."""
    peaks: Mapping[str, float]
    """Largest magnitude seen, by convolution name: above 65504 FP16 cannot hold the tensor."""
    lows: Mapping[str, float] = field(default_factory=dict)
    """The value that code -128 stands for, where the input is shifted so that all 256 codes are used."""
    spread: Mapping[str, Spread] = field(default_factory=dict)
    """What is subtracted from each channel, and what it is multiplied by then, in front of a convolution; its
    range is that of the result."""
    gates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Mean over the calibration images of each channel attention that is frozen, a value a channel."""
    codes: Mapping[str, RoundedWeights] = field(default_factory=dict, repr=False, compare=False)
    """Weights that are not rounded to the nearest, by convolution name."""
    observer: Observer
    percentile: float | None
    fingerprint: str
    """Of the calibration data."""
    images: int

    def of(self, name: str) -> float:
        """Return the range of the input of convolution ``name``.

        Raises:
            ArtifactError: it was not measured; the ranges are another network's.
        """
        try:
            return self.values[name]
        except KeyError:
            some = ", ".join(list(self.values)[:4]) or "none"
            raise ArtifactError(
                f"no range was measured for convolution {name}; these ranges have {some}, ...: they belong "
                "to another network or recipe",
                say("measure them again"),
            ) from None

    def only(self, names: Iterable[str]) -> Ranges:
        """Return the ranges of some of the convolutions."""
        kept = set(names)

        def chosen(found: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in found.items() if name in kept}

        return replace(
            self,
            values=chosen(self.values),
            peaks=chosen(self.peaks),
            lows=chosen(self.lows),
            spread=chosen(self.spread),
            codes=chosen(self.codes),
        )

    def learned(self, found: Mapping[str, Mapping[str, Any]]) -> Ranges:
        """Return them with those in place that were learned with the weights, see :func:`learned_ranges`.

        A convolution whose input is shifted or spread in one of the two only keeps its own.
        """
        lows, spread = found["lows"], found.get("spread", {})
        same = {
            name
            for name in set(found["values"]) & set(self.values)
            if (name in lows, name in spread) == (name in self.lows, name in self.spread)
        }
        return replace(
            self,
            values={
                name: found["values"][name] if name in same else own for name, own in self.values.items()
            },
            lows={name: lows[name] if name in same else own for name, own in self.lows.items()},
            spread={name: _pair(spread[name]) if name in same else own for name, own in self.spread.items()},
            codes={},  # those of other ranges: see `with_codes`
        )

    def to_record(self) -> RangesRecord:
        """Return what a sidecar states of them."""
        facts = {name: value for name, value in vars(self).items() if name != "codes"}  # the graph has them
        return RangesRecord(**{**facts, "observer": self.observer.value})


def learned_ranges(
    provenance: Mapping[str, Any], data: CalibrationBatches
) -> Mapping[str, Mapping[str, Any]] | None:
    """Return ranges that were learned with a checkpoint's weights: ``values``, ``lows``, ``spread`` by name.

    They hold for a network as it is, without equalization. ``None`` where there are none, or where ``data``
    is not what they were learned on: then ranges are to be measured, as of any checkpoint.
    """
    found = provenance.get(LEARNED)
    return found if found is not None and found["fingerprint"] == data.fingerprint else None


def ranges_from_onnx(proto: ModelProto, data: CalibrationBatches, recipe: QuantRecipe) -> Ranges:
    """Measure the input ranges of the convolutions that ``recipe`` quantizes.

    Args:
        proto: The FP32 graph; not modified.
        data: Float32 batches ``(N, C, H, W)`` in [0, 1]. The result does not depend on how they are batched.
        recipe: Chooses the convolutions and the observer.

    Raises:
        InputError: there is no calibration image.
        CheckpointError: the network's own values are not finite on an image; the convolution is named.
        ConfigError: the recipe selects no convolution.
    """
    chosen = recipe.select(conv.name for conv in convolutions(proto))
    found_spread = measure_spread(proto, data, recipe.spread_out(chosen), recipe.error_power)
    spread = {name: each for name, (each, _) in found_spread.items()}
    plain, proto = proto, spread_inputs(proto, spread)
    lows = input_minima(proto, data, recipe.shifted(chosen))
    histograms = input_histograms(proto, data, chosen, lows)
    percentile = recipe.percentile if recipe.observer is Observer.PERCENTILE else None
    # Convolutions that read one tensor share a histogram; searching it once is enough.
    found: dict[tuple[int, int], float] = {}
    values: dict[str, float] = {}
    gates = measure_gates(plain, data, recipe.frozen(find_gates(plain)))
    image = {conv.name for conv in convolutions(proto) if conv.input == proto.graph.input[0].name}
    for name, histogram in histograms.items():
        levels = 2 * LEVELS + 1 if name in lows else LEVELS
        key = (id(histogram), levels)
        if key not in found:
            limit = observed_range(
                histogram, recipe.observer, percentile=percentile, power=recipe.error_power, levels=levels
            )
            # Zero needs a code too: borders are padded with it.
            found[key] = max(limit, -lows.get(name, 0.0)) * LEVELS / levels
        # An image has 8 bits: shifted by half, its codes are its levels, and nothing is lost.
        values[name] = LEVELS / 255 if name in image and name in lows else found[key]
    values.update({name: limit for name, (_, limit) in found_spread.items()})
    found_ranges = Ranges(
        values=values,
        peaks={name: histogram.peak for name, histogram in histograms.items()},
        lows=lows,
        spread=spread,
        gates={name: mean for name, (mean, _) in gates.items()},
        observer=recipe.observer,
        percentile=percentile,
        fingerprint=data.fingerprint,
        images=len(data),
    )
    return with_codes(found_ranges, plain, data, recipe)


def with_codes(ranges: Ranges, proto: ModelProto, data: CalibrationBatches, recipe: QuantRecipe) -> Ranges:
    """Return them with the weights' codes that go with them, where ``recipe`` does not round to the nearest.

    Args:
        ranges: Of the same network; as the rest of :func:`ranges_from_onnx`.
        proto: The FP32 graph.
        data: Images.
        recipe: Chooses the convolutions and the rounding.
    """
    codes: dict[str, RoundedWeights] = {}
    if recipe.rounding is Rounding.COMPENSATED:
        proto = spread_inputs(proto, ranges.spread)
        chosen = recipe.select(conv.name for conv in convolutions(proto))
        read = set(_readers(proto, chosen).values())
        codes = compensated_codes(proto, tensors_on(proto, data, read), chosen, recipe, ranges.spread)
    return replace(ranges, codes=codes)


def input_histograms(
    proto: ModelProto,
    batches: Iterable[NDArray[np.float32]],
    names: Iterable[str],
    lows: Mapping[str, float] | None = None,
) -> dict[str, MagnitudeHistogram]:
    """Return a histogram of the input of each convolution called in ``names``.

    Convolutions that read the same tensor share one.

    Args:
        proto: The FP32 graph.
        batches: As of :func:`ranges_from_onnx`.
        names: Convolutions.
        lows: By name, what is subtracted first.

    Raises:
        InputError: there is no calibration image.
        CheckpointError: a value is not finite.
    """
    readers = {name: (tensor, (lows or {}).get(name, 0.0)) for name, tensor in _readers(proto, names).items()}
    histograms = {read: MagnitudeHistogram() for read in readers.values()}
    for number, tensors in enumerate(tensors_on(proto, batches, {tensor for tensor, _ in histograms}), 1):
        for (tensor, low), histogram in histograms.items():
            try:
                values = tensors[tensor] - np.float32(low) if low else tensors[tensor]
                histogram.add(values)
            except InputError:
                first = next(name for name, read in readers.items() if read == (tensor, low))
                raise CheckpointError(
                    f"the input of convolution {first} has values that are not finite on calibration image "
                    f"{number}: this checkpoint overflows float32",
                    say("use another checkpoint"),
                ) from None
    return {name: histograms[read] for name, read in readers.items()}


def measure_gates(
    proto: ModelProto, batches: Iterable[NDArray[np.float32]], names: Iterable[str]
) -> dict[str, tuple[tuple[float, ...], float]]:
    """Return the mean over images of each channel attention's gate, and how much it varies.

    Args:
        proto: The FP32 graph.
        batches: As of :func:`ranges_from_onnx`.
        names: As :func:`~hasn_edge.quantize.freeze.find_gates` calls them.

    Returns:
        By name: means, and the mean over channels of the standard deviation over that mean.

    Raises:
        InputError: there is no calibration image.
    """
    gates = find_gates(proto)
    wanted = {name: gates[name].tensor for name in names}
    rows: dict[str, list[NDArray[np.float64]]] = {name: [] for name in wanted}
    if wanted:
        for tensors in tensors_on(proto, batches, set(wanted.values())):
            for name, tensor in wanted.items():
                rows[name] += list(tensors[tensor].astype(np.float64)[:, :, 0, 0])
    found = {}
    for name, values in rows.items():
        mean, deviation = np.mean(values, axis=0), np.std(values, axis=0)
        found[name] = tuple(mean.tolist()), float((deviation / np.maximum(np.abs(mean), 1e-12)).mean())
    return found


def shares_outside(proto: ModelProto, ranges: Ranges, images: Iterable[Pixels]) -> dict[str, float]:
    """Return the share of each convolution's input values that lies outside its range, 0 to 1, by name.

    Args:
        proto: The FP32 graph that ``ranges`` were measured on.
        ranges: Of its convolutions. One whose input was always zero has no range, so each other value counts.
        images: ``(H, W, 3)`` RGB, other ones than those of the ranges.

    Raises:
        InputError: there is no image.
    """
    proto = spread_inputs(proto, ranges.spread)
    readers = _readers(proto, ranges.values)
    counts, sizes = dict.fromkeys(readers, 0), dict.fromkeys(readers, 0)
    for tensors in tensors_on(proto, map(to_tensor, images), set(readers.values())):
        for name, tensor in readers.items():
            values, low = tensors[tensor], ranges.lows.get(name)
            # Shifted, 256 codes begin at the low; else 127 go in either direction.
            high = ranges.of(name) if low is None else low + ranges.of(name) * (2 * LEVELS + 1) / LEVELS
            least = -high if low is None else low
            if name in ranges.spread:  # all 256 codes, and what is rounded to the outermost
                high, least = high * (LEVELS + 0.5) / LEVELS, -high * (LEVELS + 1.5) / LEVELS
            sizes[name] += values.size
            counts[name] += int(np.count_nonzero(values > high) + np.count_nonzero(values < least))
    return {name: counts[name] / sizes[name] for name in readers}


def input_minima(
    proto: ModelProto, batches: Iterable[NDArray[np.float32]], names: Iterable[str]
) -> dict[str, float]:
    """Return the smallest value that each convolution called in ``names`` reads, padding (0) included.

    Raises:
        InputError: there is no calibration image.
    """
    readers = _readers(proto, names)
    found = dict.fromkeys(readers.values(), 0.0)
    if found:
        for tensors in tensors_on(proto, batches, set(found)):
            found = {tensor: min(low, float(tensors[tensor].min())) for tensor, low in found.items()}
    return {name: found[tensor] for name, tensor in readers.items()}


def measure_spread(
    proto: ModelProto, batches: Iterable[NDArray[np.float32]], names: Iterable[str], power: float
) -> dict[str, tuple[Spread, float]]:
    """Return shifts and factors of the channels that each of some convolutions reads, and its range.

    Convolutions whose input is zero everywhere have none.

    Args:
        proto: The FP32 graph.
        batches: As of :func:`ranges_from_onnx`.
        names: Convolutions.
        power: What errors are raised to.

    Raises:
        InputError: there is no calibration image.
        CheckpointError: a value is not finite.
    """
    readers = _readers(proto, names)
    if not readers:
        return {}
    ends: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for tensors in tensors_on(proto, batches, set(readers.values())):
        for name, tensor in readers.items():
            own = tensors[tensor].min(axis=(0, 2, 3)), tensors[tensor].max(axis=(0, 2, 3))
            if not (np.isfinite(own[0]).all() and np.isfinite(own[1]).all()):
                raise CheckpointError(
                    f"the input of convolution {name} has values that are not finite on a calibration image: "
                    "this checkpoint overflows float32",
                    say("use another checkpoint"),
                )
            low, high = ends.get(tensor, (np.zeros(len(own[0])), np.zeros(len(own[0]))))
            ends[tensor] = np.minimum(low, own[0]), np.maximum(high, own[1])
    ends = {tensor: pair for tensor, pair in ends.items() if (pair[1] > pair[0]).any()}
    counts = channel_counts(tensors_on(proto, batches, set(ends)), ends)
    found = {
        tensor: spread_of(*choose_steps(counts[tensor], low, high, power), high > low)
        for tensor, (low, high) in ends.items()
    }
    return {name: found[tensor] for name, tensor in readers.items() if tensor in found}


def _readers(proto: ModelProto, names: Iterable[str]) -> dict[str, str]:
    """Return the tensor that each convolution reads, by the convolution's name."""
    wanted = set(names)
    return {conv.name: conv.input for conv in convolutions(proto) if conv.name in wanted}


def tensors_on(
    proto: ModelProto, batches: Iterable[NDArray[np.float32]], tensors: set[str]
) -> Iterator[Mapping[str, NDArray[np.float32]]]:
    """Run the graph on each batch and yield the tensors that were asked for, and some others.

    Raises:
        InputError: there is no batch.
    """
    graph_input = proto.graph.input[0].name
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    outputs = {output.name for output in watched.graph.output} | {graph_input}
    watched.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in sorted(tensors - outputs))
    emulator = Emulator(watched, exact=False)
    empty = True
    for batch in batches:
        empty = False
        yield {**emulator.run_all(batch), graph_input: batch}
    if empty:
        raise InputError("there is no calibration image", say("give a folder with images"))


def _pair(values: Any) -> Spread:
    shifts, factors = values
    return tuple(shifts), tuple(factors)
