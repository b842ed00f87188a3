"""What a measurement on this machine chose for a model: found again by the record in its sidecar."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from hasn_edge.artifact import Artifact, load_artifact, read_sidecar
from hasn_edge.errors import ArtifactError
from hasn_edge.hardware.gpu import gpu_facts
from hasn_edge.hardware.host import compute_cores, cpu_name, vector_units
from hasn_edge.hardware.jetson import power_mode
from hasn_edge.model.zoo import bundled_onnx, model_path
from hasn_edge.optional import installed_version
from hasn_edge.runtime.graph_probe import source_sha256
from hasn_edge.runtime.open import GraphBackend
from hasn_edge.sidecar import AutotuneRecord, Kind
from hasn_edge.spec import Precision

ENGINES = Path("engines")
"""Folder in which built files are looked for: where a build puts them unless another folder is named."""


@dataclass(frozen=True, kw_only=True)
class MeasuredChoice:
    """A built file, and the backend that was fastest for it here within the budget."""

    artifact: Artifact
    backend: GraphBackend | None
    """``None`` for what only one backend runs."""
    why: str
    """What the measurement found, as a sentence."""


def describe_machine(root: Path = Path("/")) -> str:
    """Return what decides which file and backend is fastest here; a record holds where it is the same.

    Args:
        root: Where the file system starts.
    """
    gpu, mode = gpu_facts(), power_mode(root)
    versions = (f"{name} {installed_version(name)}" for name in ("onnxruntime", "openvino"))
    units = " ".join(vector_units())
    facts = (
        cpu_name(),
        units,
        f"{compute_cores()} cores",
        *versions,
        "no GPU" if gpu is None else gpu.name,
        mode and f"power mode {mode}",
    )
    return ", ".join(filter(None, facts))


def source_of(model: str | Path) -> str:
    """Return the SHA-256 of a model's weights, by which sidecars name it; nothing where they are random.

    Raises:
        CheckpointError: no such model.
        ArtifactError: the ONNX file that ships with it is damaged.
    """
    if (shipped := bundled_onnx(model)) is not None:
        return read_sidecar(shipped).source
    path = model_path(model)
    return source_sha256(path) if path.is_file() else ""


def find_choice(
    model: str | Path,
    folder: Path = ENGINES,
    *,
    size: tuple[int, int] | None = None,
    machine: str | None = None,
) -> MeasuredChoice | None:
    """Return the newest choice for a model that was measured on this machine.

    Args:
        model: Bundled name or weights file.
        folder: Where built files lie.
        size: The one (height, width) that will come; ``None`` for any, which files of one size and engines do
            not take.
        machine: As :func:`describe_machine`, which is asked where ``None``.

    Returns:
        ``None`` where nothing was measured, or where the choice is what the model runs as anyway.
    """
    machine = machine or describe_machine()
    found: list[tuple[AutotuneRecord, Artifact]] = []
    paths = [path for kind in Kind for path in folder.glob(f"*{kind.suffix}")]
    source = source_of(model) if paths else None
    for path in paths:
        with suppress(ArtifactError):
            artifact = read_sidecar(path)
            record = artifact.details.autotune
            takes = artifact.size == size or (artifact.size is None and artifact.kind is Kind.ONNX)
            if artifact.source == source and record is not None and record.machine == machine and takes:
                found.append((record, artifact))
    if not found:
        return None
    record, newest = max(found, key=lambda each: each[0].when)
    backend = cast(GraphBackend, record.backend) if record.backend in get_args(GraphBackend) else None
    as_shipped = newest.precision is Precision.FP32 and backend == "onnxruntime"
    if as_shipped and bundled_onnx(model) is not None:
        return None
    try:
        load_artifact(newest.path)
    except ArtifactError:  # its bytes changed since
        return None
    return MeasuredChoice(artifact=newest, backend=backend, why=record.why)
