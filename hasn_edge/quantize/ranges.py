"""Ranges of the convolutions' inputs, measured by running the FP32 graph on calibration images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from hasn_edge.errors import ArtifactError, CheckpointError, InputError, say
from hasn_edge.exporters.onnx_graph import Emulator
from hasn_edge.quantize.graph import convolutions
from hasn_edge.quantize.observers import MagnitudeHistogram, Observer, observed_range
from hasn_edge.sidecar import RangesRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasn_edge.quantize.recipe import QuantRecipe


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

    def to_record(self) -> RangesRecord:
        """Return what a sidecar states of them."""
        return RangesRecord(**{**vars(self), "observer": self.observer.value})


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
    histograms = input_histograms(proto, data, recipe.select(conv.name for conv in convolutions(proto)))
    percentile = recipe.percentile if recipe.observer is Observer.PERCENTILE else None
    # Convolutions that read one tensor share a histogram; searching it once is enough.
    found = {
        id(histogram): observed_range(
            histogram, recipe.observer, percentile=percentile, power=recipe.error_power
        )
        for histogram in {id(histogram): histogram for histogram in histograms.values()}.values()
    }
    return Ranges(
        values={name: found[id(histogram)] for name, histogram in histograms.items()},
        peaks={name: histogram.peak for name, histogram in histograms.items()},
        observer=recipe.observer,
        percentile=percentile,
        fingerprint=data.fingerprint,
        images=len(data),
    )


def input_histograms(
    proto: ModelProto, batches: Iterable[NDArray[np.float32]], names: Iterable[str]
) -> dict[str, MagnitudeHistogram]:
    """Return a histogram of the input of each convolution called in ``names``.

    Convolutions that read the same tensor share one.

    Raises:
        InputError: there is no calibration image.
        CheckpointError: a value is not finite.
    """
    wanted = set(names)
    readers = {conv.name: conv.input for conv in convolutions(proto) if conv.name in wanted}
    histograms = {tensor: MagnitudeHistogram() for tensor in readers.values()}
    graph_input = proto.graph.input[0].name
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    outputs = {output.name for output in watched.graph.output} | {graph_input}
    watched.graph.output.extend(
        onnx.ValueInfoProto(name=tensor) for tensor in histograms if tensor not in outputs
    )
    emulator = Emulator(watched, exact=False)
    count = 0
    for batch in batches:
        tensors = {**emulator.run_all(batch), graph_input: batch}
        for tensor, histogram in histograms.items():
            try:
                histogram.add(tensors[tensor])
            except InputError:
                first = next(name for name, read in readers.items() if read == tensor)
                raise CheckpointError(
                    f"the input of convolution {first} has values that are not finite on calibration image "
                    f"{count + 1}: this checkpoint overflows float32",
                    say("use another checkpoint"),
                ) from None
        count += 1
    if count == 0:
        raise InputError("there is no calibration image", say("give a folder with images"))
    return {name: histograms[tensor] for name, tensor in readers.items()}
