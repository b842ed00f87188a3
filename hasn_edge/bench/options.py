"""What a benchmark is asked to do: one object from the command line down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hasn_edge.runtime.open import GraphBackend

DEFAULT_SIZE = (180, 320)
"""Input (height, width) of the latency figures where neither the user nor a file names another."""

RUNS, SECONDS, WARMUP = 20, 1.0, 2
"""The same figures on a CPU as below on a device."""

DEVICE_RUNS, DEVICE_SECONDS, DEVICE_WARMUP = 200, 10.0, 10
"""Timed calls and time of each case on a device, whichever is longer; and calls before the first timed one,
in which clocks rise, TensorRT sets itself up and graphs are recorded."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What to compare, where, and how much to measure."""

    model: str | None = None
    """Bundled name or weights file, whose unfused network in PyTorch is the reference of every ratio and
    drift; ``None`` for the bundled model that the first of ``artifacts`` was made from, of which nothing is
    built then. Where that is none of them, the first of ``artifacts`` is the reference."""
    artifacts: Sequence[Path] = ()
    """Built files to measure as they are."""
    device: str | None = None
    """``"cpu"``, ``"cuda"`` (TensorRT, PyTorch and ONNX Runtime on an NVIDIA GPU), ``"rtx"`` (TensorRT for
    RTX) or ``"jetson"`` (as cuda, with the module's power rails); ``None`` for the device of the engines
    among ``artifacts``, else the CPU."""
    precisions: Sequence[str] = ("fp32", "fp16", "int8")
    """Precisions to build for the device and measure."""
    graph_backends: Sequence[GraphBackend] = ("onnxruntime",)
    """What runs each ONNX graph on a CPU, a case each."""
    compiled: bool = False
    """Also measure PyTorch's network through ``torch.compile``."""
    compare: Sequence[str] = ()
    """Networks of other papers to measure beside the model, by name; with random weights, which tell cost
    alone, or with those of a file as ``"span=FILE"``: see
    :func:`~hasn_edge.model.comparators.load_comparator`."""
    data: Sequence[str] = ()
    """Evaluation sets, ``"NAME=DIR"``; the images that ship where empty."""
    size: tuple[int, int] | None = None
    """Input (height, width) of the latency figures, pixels; ``None`` for the files' own, else
    :data:`DEFAULT_SIZE`."""
    runs: int | None = None
    """Timed calls of each case, at least; ``None`` for :data:`RUNS` on a CPU, :data:`DEVICE_RUNS` on a
    device."""
    recipe: str = "default"
    """INT8 recipe."""
    tile: int | None = None
    """Tile side in pixels whose drift from whole frames is reported too."""
    threads: int | None = None
    """CPU threads; all cores where ``None``."""
    cuda: str | None = None
    """What gives engines their memory and streams: see :func:`~hasn_edge.runtime.open.open_session`."""
    sustained_minutes: float | None = None
    """After the rounds, run each case for so long without a pause."""
    set_clocks: bool = False
    """Set a Jetson's clocks to the power mode's maximum meanwhile, and back afterwards."""
    evidence: bool = False
    """Also keep the worst crops of each case and compare the layers of INT8 graphs, for
    :meth:`~hasn_edge.bench.report.BenchReport.write_html`; it takes some more seconds."""
    command: str = ""
    """The command that the report names as its origin."""

    def timing(self, device: str) -> TimingOptions:
        """Return how much is measured of a case on ``device``, ``"cpu"`` or another."""
        cpu = device == "cpu"
        return TimingOptions(
            runs=self.runs or (RUNS if cpu else DEVICE_RUNS),
            seconds=SECONDS if cpu else DEVICE_SECONDS,
            warmup=WARMUP if cpu else DEVICE_WARMUP,
            sustained_minutes=self.sustained_minutes,
            set_clocks=self.set_clocks,
        )


@dataclass(frozen=True, kw_only=True)
class TimingOptions:
    """How much is measured of one case."""

    runs: int
    """Timed calls, at least."""
    seconds: float
    """Time that the calls take together, at least."""
    warmup: int
    """Calls before the first timed one; one more before each further round."""
    sustained_minutes: float | None = None
    """Time that the case runs without a pause after the rounds."""
    set_clocks: bool = False
    """Run a Jetson's clocks at the power mode's maximum meanwhile."""
