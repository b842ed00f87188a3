"""One benchmark as data: cases, figures with their conventions, and what could not be measured."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hasn_edge.errors import Cure, HasnEdgeError, counted, say, use, with_cures
from hasn_edge.evaluation.latency import Latency
from hasn_edge.files import writing
from hasn_edge.hardware.power import INTERVAL_SECONDS
from hasn_edge.images.metrics import finite_or_none
from hasn_edge.model.complexity import PAPER_SIZE, UNCOUNTED, NetworkCounts, count
from hasn_edge.spec import ModelSpec, NetworkSpec

if TYPE_CHECKING:
    from hasn_edge.bench.case_process import ComparedNetwork
    from hasn_edge.bench.energy import Energy
    from hasn_edge.bench.evidence import CaseEvidence
    from hasn_edge.bench.measure import Sustained
    from hasn_edge.bench.options import TimingOptions

_AGAINST = (
    " within a round; their medians show the opposite, because the machine was not equally fast in all rounds"
)

SCHEMA = 5
"""Version of the JSON report; 4 had no ``bicubic`` and no ``busy_cores``, and a ``speedup`` for each time."""

APART = 0.2
"""Spread of the rounds' ratios, relative to their median, above which no speed-up is given."""

BUSY_CORES = 0.2
"""Work of other programs before the first round, in cores, above which the machine counts as busy."""

LAUNCH_BOUND = 0.9
"""Share of the GPU time from which on the time to start the network is as long as it."""

THROTTLED = 1.05
"""How many times as long as the first tenth of its frames the last one takes before it is reported."""


def disagree(ratios: Sequence[float]) -> bool:
    """Say whether the rounds' ratios of two cases differ by too much to tell which is faster."""
    return max(ratios) - min(ratios) > APART * float(np.median(ratios))


@dataclass(frozen=True)
class Remark:
    """What a reader of a report should not overlook, and what helps."""

    text: str
    cures: tuple[Cure, ...] = ()

    def __str__(self) -> str:
        return with_cures(self.text, map(str, self.cures))


@dataclass(frozen=True, kw_only=True)
class SetQuality:
    """Quality of one case on one set of images."""

    images: int
    psnr_y_db: float
    ssim_y: float
    dpsnr_db: float | None = None
    """Against the FP32 reference on the same images; negative is a loss."""
    dssim: float | None = None
    fidelity_db: float | None = None
    """Mean PSNR of the 8-bit RGB output against the reference's output; infinite where equal."""
    worst_image: str | None = None
    """The image whose PSNR-Y fell most against the reference."""
    worst_dpsnr_db: float | None = None


@dataclass(frozen=True, kw_only=True)
class BenchCase:
    """One row of the benchmark: a model in one form, run by one backend."""

    label: str
    backend: str
    precision: str
    file: str | None
    """Name of the benched file; ``None`` for the network run by PyTorch itself."""
    sha256: str | None
    file_bytes: int | None
    latency: Latency | None
    """Host to host; ``None`` where a time would mean nothing, with the reason in ``not_measured``."""
    peak_bytes: int | None
    """Largest resident memory of a process that ran only this case, libraries included."""
    network: ComparedNetwork | None = None
    """What ran where it was not the report's own network."""
    other_weights: bool = False
    """Whether its file was made of other weights than those that it is compared with."""
    tile: int | None = None
    """Side in pixels of the tiles that its quality is of; ``None`` for whole frames."""
    budget_db: float | None = None
    """What its file was built to lose at most of mean PSNR-Y on the held-out images; ``None`` without one."""
    budget_worst_db: float | None = None
    """The same of one image's PSNR-Y."""
    pixels: bool = False
    """Whether it takes and gives 8-bit pixels instead of floats."""
    device: str = "cpu"
    """Where it ran."""
    parts: Mapping[str, Latency] = field(default_factory=dict)
    """Durations inside a call where the backend reports them: ``gpu``, ``enqueue``, ``transfers``."""
    energy: Energy | None = None
    sustained: Sustained | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """How the session ran, as it reports it: CUDA graphs, memory, CUDA access."""
    quality: Mapping[str, SetQuality] = field(default_factory=dict)
    not_measured: tuple[str, ...] = ()
    failure: Remark | None = None
    """Why it did not run."""


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """A finished benchmark. The first case is the reference of every ratio and drift."""

    model: str
    spec: NetworkSpec
    size: tuple[int, int]
    """Input (height, width) of the latency figures."""
    cases: tuple[BenchCase, ...]
    environment: Mapping[str, str]
    date: str
    timing: TimingOptions
    threads: int | None
    device: str = "cpu"
    """Its kind: see :attr:`hasn_edge.bench.options.BenchOptions.device`."""
    before: Mapping[str, Any] = field(default_factory=dict)
    """What the device reported before the first round; ``after`` likewise after the last one."""
    after: Mapping[str, Any] = field(default_factory=dict)
    apart: str = ""
    """Why the cases ran one after the other; empty where they were timed in rounds."""
    bicubic: Mapping[str, SetQuality] = field(default_factory=dict)
    """Quality of bicubic interpolation, with its drift from the reference; empty where not measured."""
    busy_cores: float | None = None
    """How many cores other programs used right before the first round; ``None`` where that is not known."""
    own_reference: bool = False
    """The first case is one of the given files, whose FP32 network is none of the bundled models."""
    framed: bool = False
    """Quality is of one frame with the set's images side by side, for engines that do not take each whole."""
    graph_counts: Mapping[tuple[int, int], NetworkCounts] = field(default_factory=dict)
    """By input (height, width), counts of a network that came as a graph; see :meth:`counts`."""
    evidence: Mapping[str, CaseEvidence] = field(default_factory=dict, repr=False)
    """By label, what shows where quality is lost; empty where it was not asked for."""
    without_engines: HasnEdgeError | None = None
    """Why no engine was benched although some were asked for, and what helps."""
    command: str = ""

    def __str__(self) -> str:
        from hasn_edge.bench.table import brief  # which prints this class

        return brief(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def counts(self, size: tuple[int, int], case: BenchCase | None = None) -> NetworkCounts | None:
        """Return a case's counts at an input (height, width), or the report's own network's.

        ``None`` where they are not known.
        """
        if case is not None and case.network is not None:
            return case.network.counts.get(size)
        if isinstance(self.spec, ModelSpec):
            return count(self.spec, *size)
        return self.graph_counts.get(size)

    @property
    def reference(self) -> str:
        """What the first case is called where the others are compared with it."""
        return self.cases[0].label if self.own_reference else "FP32"

    @property
    def busy(self) -> str:
        """Sentence on what other programs did; empty where the machine was free, or nothing is known."""
        if self.busy_cores is None or self.busy_cores < BUSY_CORES:
            return ""
        return (
            f"BUSY: other programs kept {self.busy_cores:.1f} of {os.cpu_count()} cores at work before the "
            "first round; times are longer than those of a free machine"
        )

    def speedup(self, case: BenchCase) -> tuple[float | None, str]:
        """Return how many times as fast as the reference a case is, or ``None`` and why not."""
        reference = self.cases[0].latency
        if case.latency is None or reference is None:
            return None, ""
        ratios = reference.ratios(case.latency)
        if disagree(ratios):
            return None, (
                f"speed-up: the rounds disagree, from {min(ratios):.2f}x to {max(ratios):.2f}x: something "
                "else ran, or the device changed its speed"
            )
        return float(np.median(ratios)), ""

    @property
    def conventions(self) -> tuple[str, ...]:
        """How each figure was obtained, one sentence each."""
        height, width = self.size
        scale = self.spec.scale
        samples = sorted({len(case.latency.seconds) for case in self.cases if case.latency})
        span = (
            f"{samples[0]} to {samples[-1]}" if len(set(samples)) > 1 else f"{samples[0] if samples else 0}"
        )
        return (
            f"latency: batch 1, {width}x{height} -> {width * scale}x{height * scale}, "
            f"{self._arrays}, {span} samples a case after {counted(self.timing.warmup, 'warm-up call')}, "
            f"cases {'run one after the other' if self.apart else 'timed in rounds'}, "
            f"{counted(self.threads, 'thread') if self.threads else 'all threads'}, "
            "frame size known to ONNX Runtime",
            *self._device_conventions,
            "speed-up: median over rounds of the ratio "
            + (
                "of rounds with one number, which were not taken at one time"
                if self.apart
                else "within a round, which a busy machine disturbs least"
            )
            + f"; not given where rounds differ by more than {APART:.0%}",
            "parameters and MACs: of the unfused network; fvcore's rules (multiply-accumulates; LayerNorm 5, "
            f"bilinear 4, average pool 1 an element); not counted: {', '.join(UNCOUNTED)}"
            if isinstance(self.spec, ModelSpec)
            else "parameters and MACs: of the graph's convolutions alone",
            *(
                [
                    "networks of other papers: MACs of convolutions alone, on luma where one computes luma; "
                    "enlarging the image or its colour is timed, and not counted"
                ]
                if any(case.network for case in self.cases)
                else []
            ),
            f"PSNR / SSIM: Y of BT.601 studio range, 8-bit rounded output, border of {scale} pixels cut, "
            "11x11 Gaussian SSIM, mean over images"
            + (f"; one {width}x{height} frame with the set's images side by side" if self.framed else ""),
            f"drift: against {self.cases[0].label}"
            + (
                ", because the FP32 network it was made from is no bundled model"
                if self.own_reference
                else ""
            )
            + "; fidelity is the PSNR of the 8-bit RGB outputs",
            "peak memory: resident set of a process that ran only this case up to the end of its timing, "
            "libraries included",
        )

    @property
    def _arrays(self) -> str:
        timed = [case for case in self.cases if case.latency]
        pixels = [case.label for case in timed if case.pixels]
        found = "float32 array in to float32 array out"
        if not pixels:
            return found
        of_bytes = "8-bit pixels in to 8-bit pixels out"
        return of_bytes if len(pixels) == len(timed) else f"{found} ({', '.join(pixels)}: {of_bytes})"

    @property
    def _device_conventions(self) -> tuple[str, ...]:
        found = []
        if self.apart:
            found.append(
                "order: each case was opened, timed, scored and closed before the next, not in rounds with "
                f"the others ({self.apart}): a device that gets slower meanwhile makes the later cases look "
                "slow; of cases that are close, bench two alone"
            )
        if any(case.parts for case in self.cases):
            found += [
                "latency is host to host: checks, copies in and out, network, waiting; GPU time: the network "
                "between two events on its stream, no copies, and without a CUDA graph the gaps in which the "
                "GPU waits for the next launch; enqueue: the CPU's part of starting it; transfers: the "
                "copies to the GPU and back between events",
                "trtexec of TensorRT 8 and 10 uses by default no CUDA graph, waits asleep and copies frames; "
                "that of 11 uses a graph, spins and copies none: its GPU Compute Time compares with the GPU "
                "time here only where both had a graph or both had none (--useCudaGraph; in 11 "
                "--noCudaGraph), its latency and throughput with nothing here, since it starts each frame "
                "before the last one is done",
            ]
        idle_together = "before the first round, every case open and none running"
        rails = sorted({case.energy.rail or "no total known" for case in self.cases if case.energy})
        if rails:
            found.append(
                f"power and energy: rail {', '.join(rails)}, read every {INTERVAL_SECONDS:g} s; mean over "
                "the rounds; energy: all that the rail delivered in them over all frames, warm-up included; "
                f"idle: {'before the first case was opened' if self.apart else idle_together}"
            )
        if self.timing.sustained_minutes is not None:
            found.append(
                f"sustained: {self.timing.sustained_minutes:g} min without a pause after the rounds; "
                "median of the last tenth of the frames"
            )
        return tuple(found)

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """What a reader should not overlook."""
        return tuple(self._remarks())

    def _remarks(self) -> Iterator[Remark]:
        why, first, jetson = self.without_engines, self.cases[0].label, self.before.get("jetson", {})
        if why is not None:
            yield Remark(f"no engine was benched: {why.message}", why.cures)
        for case in self.cases:
            if case.failure is not None:
                yield Remark(f"{case.label} failed: {case.failure.text}", case.failure.cures)
        for case in self.cases:
            for text in (*_throttling_texts(case), *_launch_texts(case)):
                yield Remark(text)
        for case in self.cases:
            if case.other_weights:
                yield Remark(
                    f"{case.label} was made of other weights than {first}: its drift is what the weights "
                    "differ by, too",
                    (say("bench it on its own, or with its own weights as the model"),),
                )
        if self.own_reference:
            unknown = f"the drift is not that from FP32: {first} is compared with itself"
            yield Remark(unknown, (say("name the weights that it was made from as the model"),))
        if jetson.get("clocks_locked") is False and not self.timing.set_clocks:
            floating = f"the clocks of this Jetson float (power mode {jetson.get('power_mode')})"
            held = f"{floating} and can be held at its maximum while it measures"
            yield Remark(held, (use(set_clocks=True),))
        for case in self.cases:
            yield from map(Remark, _precision_texts(case, self.cases))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; raw samples included, infinite values as ``null``."""
        counted, paper = self.counts(self.size), self.counts(PAPER_SIZE)
        return {
            "schema": SCHEMA,
            "model": self.model,
            "spec": self.spec.to_dict(),
            "size": {"height": self.size[0], "width": self.size[1]},
            "parameters": counted.parameters if counted else None,
            "macs": {
                "256x256": paper.macs if paper else None,
                f"{self.size[1]}x{self.size[0]}": counted.macs if counted else None,
            },
            "activations": {"256x256": paper.activations if paper else None},
            "cases": [
                _case_dict(case, *self.speedup(case), self.evidence.get(case.label)) for case in self.cases
            ],
            "bicubic": _quality_dict(self.bicubic),
            "busy_cores": self.busy_cores,
            "one_after_the_other": self.apart or None,
            "conventions": list(self.conventions),
            "findings": [str(remark) for remark in self.remarks],
            "environment": dict(self.environment),
            "device": {"kind": self.device, "before": dict(self.before), "after": dict(self.after)},
            "timing": dict(vars(self.timing)),
            "threads": self.threads,
            "date": self.date,
            "command": self.command,
        }

    def write_html(self, path: Path) -> None:
        """Write one page that needs no other file, whole or not at all; it holds :meth:`to_dict` as JSON.

        It has crops and layers where the benchmark was asked for ``evidence``.
        """
        from hasn_edge.bench.html_page import html_page

        text = html_page(self)
        with writing(Path(path)) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _throttling_texts(case: BenchCase) -> list[str]:
    found = []
    for what, latency in (
        ("", case.latency),
        (" of the sustained run", case.sustained.latency if case.sustained else None),
    ):
        tenths = latency.tenths_ms if latency else None
        if tenths and tenths[1] > THROTTLED * tenths[0]:
            found.append(
                f"{case.label}: the last tenth of the frames{what} took {tenths[1] / tenths[0]:.2f}x the "
                f"time of the first: the device throttled, or something else ran"
            )
    return found


def _launch_texts(case: BenchCase) -> list[str]:
    gpu, enqueue = case.parts.get("gpu"), case.parts.get("enqueue")
    if gpu is None or enqueue is None or case.facts.get("graphs"):
        return []
    if enqueue.median_ms < LAUNCH_BOUND * gpu.median_ms:
        return []
    return [
        f"{case.label}: the CPU takes as long to start the network ({enqueue.median_ms:.3f} ms) as the "
        f"GPU to run it ({gpu.median_ms:.3f} ms), and no CUDA graph is used: the GPU waits for launches, and "
        "its time includes that"
    ]


def _precision_texts(case: BenchCase, cases: Sequence[BenchCase]) -> list[str]:
    """Compare a case's time with that of FP32 by the same backend, or else by another on that device."""
    alike = ("fp32", case.network)
    floats = [c for c in cases if (c.precision, c.network) == alike and c.latency]
    same = [c for c in floats if c.backend == case.backend] or [c for c in floats if c.device == case.device]
    if case.precision == "fp32" or case.latency is None or not same or same[0].latency is None:
        return []
    ratios = case.latency.ratios(same[0].latency)
    ratio = float(np.median(ratios))
    if disagree(ratios):
        least, most = min(ratios), max(ratios)
        word = "slower" if least > 1 else "faster" if most < 1 else "slower or faster"
        return [
            f"{case.precision.upper()} {'is' if least > 1 or most < 1 else 'may be'} {word} than FP32 here: "
            f"{case.label} took {least:.2f}x to {most:.2f}x the time of {same[0].label}, {ratio:.2f}x in the "
            "median; the rounds disagree, measure again on a quiet machine"
        ]
    word, share = ("slower", f"{ratio:.2f}x") if ratio >= 1 else ("faster", f"1/{1 / ratio:.2f} of")
    # The table shows medians of all samples: a machine that changed its speed may turn them round.
    against = (ratio >= 1) != (case.latency.median_ms >= same[0].latency.median_ms)
    return [
        f"{case.precision.upper()} is {word} than FP32 here: {case.label} took {share} the time of "
        f"{same[0].label}{_AGAINST if against else ''}"
    ]


def _latency_dict(latency: Latency) -> dict[str, Any]:
    first, last = latency.tenths_ms or (None, None)
    return {
        "median_ms": latency.median_ms,
        "p90_ms": latency.quantile_ms(0.9),
        "p99_ms": latency.quantile_ms(0.99),
        "std_ms": latency.std_ms,
        "first_tenth_ms": first,
        "last_tenth_ms": last,
        "samples": len(latency.seconds),
        "rounds_seconds": [list(one) for one in latency.rounds],
    }


def _quality_dict(quality: Mapping[str, SetQuality]) -> dict[str, Any]:
    return {
        name: {key: finite_or_none(v) if isinstance(v, float) else v for key, v in vars(one).items()}
        for name, one in quality.items()
    }


def _network_dict(network: ComparedNetwork) -> dict[str, Any]:
    counts = {f"{width}x{height}": vars(one) for (height, width), one in network.counts.items()}
    return {"name": network.name, "trained": network.trained, "counts": counts}


def _case_dict(
    case: BenchCase, speedup: float | None, no_speedup: str, evidence: CaseEvidence | None
) -> dict[str, Any]:
    latency = None
    if case.latency is not None:
        latency = {**_latency_dict(case.latency), "fps": case.latency.fps, "speedup": speedup}
        latency["no_speedup"] = no_speedup or None
    return {
        "label": case.label,
        "network": case.network and _network_dict(case.network),
        "backend": case.backend,
        "precision": case.precision,
        "device": case.device,
        "file": case.file,
        "sha256": case.sha256,
        "file_bytes": case.file_bytes,
        "tile": case.tile,
        "pixels": case.pixels,
        "budget_db": case.budget_db,
        "budget_worst_db": case.budget_worst_db,
        "latency": latency,
        "parts": {name: _latency_dict(part) for name, part in case.parts.items()},
        "energy": case.energy.to_dict() if case.energy else None,
        "sustained": case.sustained.to_dict() if case.sustained else None,
        "session": dict(case.facts),
        "peak_bytes": case.peak_bytes,
        "quality": _quality_dict(case.quality),
        "not_measured": list(case.not_measured),
        "failure": case.failure.text if case.failure else None,
        "layers": [dict(vars(layer)) for layer in evidence.layers] if evidence else None,
    }
