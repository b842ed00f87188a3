"""One benchmark as data: cases, figures with their conventions, and what could not be measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hasn_edge.artifact import writing
from hasn_edge.bench.complexity import PAPER_SIZE, UNCOUNTED, complexity
from hasn_edge.bench.latency import Latency
from hasn_edge.spec import ModelSpec

SCHEMA = 2
"""Version of the JSON report."""


@dataclass(frozen=True, kw_only=True)
class SetQuality:
    """Quality of one case on one set of pictures."""

    images: int
    psnr_y_db: float
    ssim_y: float
    dpsnr_db: float | None = None
    """Against the FP32 reference on the same pictures; negative is a loss."""
    dssim: float | None = None
    fidelity_db: float | None = None
    """Mean PSNR of the 8-bit RGB output against the reference's output; infinite where equal."""
    worst_image: str | None = None
    """The picture that lost most PSNR-Y against the reference."""
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
    quality: Mapping[str, SetQuality] = field(default_factory=dict)
    not_measured: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """A finished benchmark. The first case is the reference of every ratio and drift."""

    model: str
    spec: ModelSpec
    size: tuple[int, int]
    """Input (height, width) of the latency figures."""
    cases: tuple[BenchCase, ...]
    environment: Mapping[str, str]
    date: str
    warmup_calls: int
    threads: int | None
    command: str = ""

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
            f"latency: batch 1, {width}x{height} -> {width * scale}x{height * scale}, float32 array in to "
            f"float32 array out, {span} samples a case after {self.warmup_calls} warm-up calls, cases "
            f"timed in turns, {self.threads or 'all'} threads, frame size known to ONNX Runtime",
            "speed-up: median over turns of the ratio within a turn, which a busy machine disturbs least",
            "parameters and MACs: of the unfused network; fvcore's rules (multiply-accumulates; LayerNorm 5, "
            f"bilinear 4, average pool 1 an element); not counted: {', '.join(UNCOUNTED)}",
            f"PSNR / SSIM: Y of BT.601 studio range, 8-bit rounded output, border of {scale} pixels cut, "
            "11x11 Gaussian SSIM, mean over images",
            f"drift: against {self.cases[0].label}; fidelity is the PSNR of the 8-bit RGB outputs",
            "peak memory: resident set of a process that ran only this case up to the end of its timing, "
            "libraries included",
        )

    @property
    def findings(self) -> tuple[str, ...]:
        """What a reader should not overlook."""
        found = []
        for case in self.cases:
            same = [c for c in self.cases if (c.backend, c.precision) == (case.backend, "fp32") and c.latency]
            if case.precision == "fp32" or case.latency is None or not same or same[0].latency is None:
                continue
            ratio = case.latency.times(same[0].latency)
            word, share = ("slower", f"{ratio:.2f}x") if ratio >= 1 else ("faster", f"1/{1 / ratio:.2f} of")
            found.append(
                f"{case.precision.upper()} is {word} than FP32 here: {case.label} took {share} the time of "
                f"{same[0].label}"
            )
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; raw samples included, infinite values as ``null``."""
        counted = complexity(self.spec, *self.size)
        return {
            "schema": SCHEMA,
            "model": self.model,
            "spec": self.spec.to_dict(),
            "size": {"height": self.size[0], "width": self.size[1]},
            "parameters": counted.parameters,
            "macs": {
                "256x256": complexity(self.spec, *PAPER_SIZE).total,
                f"{self.size[1]}x{self.size[0]}": counted.total,
            },
            "cases": [_case_dict(case, self.cases[0]) for case in self.cases],
            "conventions": list(self.conventions),
            "findings": list(self.findings),
            "environment": dict(self.environment),
            "date": self.date,
            "command": self.command,
        }

    def write_json(self, path: Path) -> None:
        """Write :meth:`to_dict`, whole or not at all."""
        with writing(Path(path)) as temporary:
            text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")


def _finite(value: float | None) -> float | None:
    return None if value is None or value in (float("inf"), float("-inf")) else value


def _case_dict(case: BenchCase, reference: BenchCase) -> dict[str, Any]:
    latency = None
    if case.latency is not None:
        latency = {
            "median_ms": case.latency.median_ms,
            "p90_ms": case.latency.quantile_ms(0.9),
            "p99_ms": case.latency.quantile_ms(0.99),
            "fps": case.latency.fps,
            "speedup": reference.latency.times(case.latency) if reference.latency else None,
            "turns_seconds": [list(turn) for turn in case.latency.turns],
        }
    return {
        "label": case.label,
        "backend": case.backend,
        "precision": case.precision,
        "file": case.file,
        "sha256": case.sha256,
        "file_bytes": case.file_bytes,
        "latency": latency,
        "peak_bytes": case.peak_bytes,
        "quality": {
            name: {key: _finite(v) if isinstance(v, float) else v for key, v in vars(quality).items()}
            for name, quality in case.quality.items()
        },
        "not_measured": list(case.not_measured),
    }
