"""What a build with ``auto`` timed."""

from __future__ import annotations

from pathlib import Path

from hasn_edge.artifact import Artifact
from hasn_edge.evaluation.latency import Latency
from hasn_edge.pipeline.autotune import Candidate
from hasn_edge.pipeline.build import Built
from hasn_edge.sidecar import Kind
from hasn_edge.spec import ModelSpec, Precision
from tests.support.samples import details_of, measured


def candidate(precision: str, milliseconds: list[float], loss: float = 0.0, images: int = 1) -> Candidate:
    artifact = Artifact(
        path=Path(f"{precision}.onnx"),
        spec=ModelSpec(),
        precision=Precision(precision),
        sha256="",
        source="",
        details=details_of(Kind.ONNX, measured=measured(loss)),
    )
    rounds = tuple((ms / 1e3,) * 3 for ms in milliseconds)
    built = Built(artifacts=(artifact,), summary=())
    return Candidate(built=built, latency=Latency(rounds=rounds), images=images)
