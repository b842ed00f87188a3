"""What benchmarks/gpu.py runs through sessions, built for the GPU here, or why it was refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hasn_edge.errors import HasnEdgeError
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.pipeline.api import build
from hasn_edge.sidecar import Kind

WORDS = 4000
"""Characters of a message that are kept: compilers print the reason last."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """One file, or why there is none."""

    path: Path | None
    refused: tuple[str, ...]
    """Why the targets that were tried before it refused."""


def build_all(gpu: GpuFacts | None, model: str, size: tuple[int, int], folder: Path) -> dict[str, Made]:
    """Build for every backend and precision; the names are those of the result's cases."""
    engines = ("fp32", "fp16", "int8")
    found = {}
    for label, targets, precisions in (
        ("ONNX Runtime CUDA", ("cpu",), ("fp32", "fp16")),
        ("TensorRT", ("tensorrt",), engines),
        ("TensorRT for RTX", rtx_targets(gpu, folder), engines),
    ):
        for precision in precisions:
            found[f"{label} {precision}"] = _made(model, precision, targets, size, folder)
    return found


def rtx_targets(gpu: GpuFacts | None, folder: Path) -> tuple[str, ...]:
    """Return the targets to try in turn until one is built and, where there is a GPU, ran on it.

    First for this very GPU by its capability; then without any, which leaves the choice to TensorRT for RTX:
    then neither its list of capabilities nor our check keeps the engine from the GPU, and its answer is its
    own; last the target that ships.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unnamed = folder / "unnamed-gpu.toml"
    unnamed.write_text('runtime = "rtx"\n', encoding="utf-8")
    if gpu is None:
        return (str(unnamed), "rtx")
    this = folder / "this-gpu.toml"
    this.write_text(
        f'runtime = "rtx"\ncompute_capabilities = ["{gpu.compute_capability}"]\n', encoding="utf-8"
    )
    return (str(this), str(unnamed), "rtx")


def _made(model: str, precision: str, targets: Sequence[str], size: tuple[int, int], folder: Path) -> Made:
    refused: list[str] = []
    for target in targets:
        kind, wanted = (Kind.ONNX, None) if target == "cpu" else (Kind.ENGINE, size)
        try:
            artifacts = build(model, precision=precision, target=target, size=wanted, output=folder).artifacts
        except HasnEdgeError as exc:
            refused.append(f"{Path(target).stem}: {words(exc)}")
            continue
        path = next(artifact.path for artifact in artifacts if artifact.kind is kind)
        return Made(path=path, refused=tuple(refused))
    return Made(path=None, refused=tuple(refused))


def words(exc: Exception) -> str:
    """Return a message whole, in one line; only the end of one that is very long."""
    text = " | ".join(line.strip() for line in str(exc).splitlines() if line.strip()) or "no message"
    return text if len(text) <= WORDS else "... " + text[-WORDS:]
