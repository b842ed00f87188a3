"""A Triton model repository: an artifact in folders as the server wants them, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

from hasn_edge.artifact import AGAIN, Artifact, load_artifact
from hasn_edge.errors import ArtifactError, OutputError, say
from hasn_edge.exporters.triton.from_artifact import triton_config
from hasn_edge.exporters.triton.pbtxt import (
    ONNX_RUNTIME,
    PYTHON,
    TENSORRT,
    TritonConfig,
    message_text,
    parameter_fields,
)
from hasn_edge.exporters.triton.readme import readme
from hasn_edge.files import naming_errors, staging_folder, writing
from hasn_edge.sidecar import Kind

CONFIG, README = "config.pbtxt", "README.md"

SERVED = Path(__file__).parents[2] / "runtime" / "triton_model.py"
"""What becomes ``model.py``, which Triton's Python backend runs."""


def triton_repository(
    artifact: Artifact,
    output: str | os.PathLike[str],
    *,
    name: str | None = None,
    backend: str | None = None,
) -> Path:
    """Add an artifact to a model repository, which is made if it is not there.

    The model's folder gets ``config.pbtxt``, a README and ``<version>/model.onnx`` or ``model.plan`` with its
    sidecar; for the Python backend also ``<version>/model.py``, which runs the file in a session of ours. It
    is made beside the repository and then renamed, so that a server never sees half of it. A further version
    leaves ``config.pbtxt`` as it is but for parameters that it appends. An artifact that is there already is
    not added again. An engine gets a GPU, an INT8 graph made for CPUs a CPU, and any other graph a GPU where
    the server has one; for the Python backend a CPU but for engines.

    Args:
        artifact: An ONNX graph, or an engine of TensorRT.
        output: The repository's folder.
        name: The model's; the file's own, without its ending, where ``None``.
        backend: The server's part that runs the file: ``"onnxruntime"`` for graphs, ``"tensorrt"`` for
            engines, ``"python"`` for any file, by hasn-edge's own session, with images of any size. By the
            kind of file where ``None``.

    Returns:
        The version's folder.

    Raises:
        UnsupportedError: the server cannot run this kind of file.
        ArtifactError: the file changed since it was published, or the model there has other tensors.
        ConfigError: the name, or what the graph states, breaks a rule of the server.
        OutputError: the folder is no model repository, or it cannot be written.
    """
    data = _read(artifact)
    config = triton_config(artifact, data, name=name or artifact.path.stem, backend=backend)
    output = Path(output)
    folder = output / config.name
    present = _versions(folder)
    same = [number for number, known in present.items() if known.sha256 == artifact.sha256]
    if same:
        return folder / str(max(same))
    chosen = max(present, default=0) + 1
    if present:
        _check_exchangeable(artifact, config, present[max(present)])
    else:
        _check_repository(output)
    facts = _parameters(artifact, chosen)
    autotune = artifact.details.autotune
    if config.backend == PYTHON and autotune is not None and autotune.backend:
        facts[f"hasn_edge.{chosen}.session_backend"] = autotune.backend  # what was measured to be fastest
    with naming_errors(folder):
        output.mkdir(parents=True, exist_ok=True)
        with staging_folder(output, config.name) as staging:  # which no server looks into
            made = staging / str(chosen)
            if config.backend == PYTHON:
                artifact.publish_copy(data, made / f"model{artifact.kind.suffix}")
                (made / PYTHON.filename).write_bytes(SERVED.read_bytes())
            else:
                artifact.publish_copy(data, made / config.backend.filename)
            if present:
                made.rename(folder / made.name)
                _append(folder / CONFIG, message_text(parameter_fields(facts)))
            else:
                (staging / CONFIG).write_text(replace(config, parameters=facts).text(), encoding="utf-8")
                (staging / README).write_text(readme(config, artifact), encoding="utf-8")
                staging.rename(folder)
    return folder / str(chosen)


def model_file(version: Path) -> Path:
    """Return the model's file in a version's folder."""
    names = {ONNX_RUNTIME.filename, TENSORRT.filename, *(f"model{kind.suffix}" for kind in Kind)}
    files = [version / name for name in sorted(names)]
    return next((file for file in files if file.exists()), files[0])


def _read(artifact: Artifact) -> bytes:
    """Return the artifact's bytes; what is checked here is what is written."""
    try:
        data = artifact.path.read_bytes()
    except OSError as exc:
        raise ArtifactError(f"{artifact.path}: cannot be read: {exc.strerror or exc}") from exc
    if hashlib.sha256(data).hexdigest() != artifact.sha256:
        raise ArtifactError(f"{artifact.path}: its bytes changed since it was made", *AGAIN)
    return data


def _versions(folder: Path) -> dict[int, Artifact]:
    """Return the artifacts of a model that is there already, by version."""
    if not folder.exists():
        return {}
    found = {}
    for version in folder.iterdir() if folder.is_dir() else ():
        if version.name.isdecimal():
            found[int(version.name)] = load_artifact(model_file(version))
    if not found or not (folder / CONFIG).is_file():
        raise OutputError(
            f"{folder} exists and is no model of hasn-edge: {CONFIG} or the versions are missing",
            say("choose another name"),
            say("choose another folder"),
        )
    return found


def _check_repository(output: Path) -> None:
    """Refuse a folder with subfolders that the server would take for models and fail on."""
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file", say("give a folder"))
    for entry in sorted(output.iterdir()) if output.exists() else ():
        if entry.is_dir() and not (entry / CONFIG).is_file():
            raise OutputError(
                f"{output} is no model repository: Triton would take its folder {entry.name!r} for a model",
                say("choose another folder"),
            )


def _check_exchangeable(artifact: Artifact, config: TritonConfig, present: Artifact) -> None:
    """Refuse a version that clients of the present ones could not use: the configuration is common to all."""
    backend = PYTHON.name if present.path.with_name(PYTHON.filename).exists() else None
    known = triton_config(present, present.path.read_bytes(), name=config.name, backend=backend)
    for what, new, old in (
        ("backend", config.backend.name, known.backend.name),
        ("inputs", config.inputs, known.inputs),
        ("outputs", config.outputs, known.outputs),
        ("largest batch", config.max_batch_size, known.max_batch_size),
        ("scale", artifact.spec.scale, present.spec.scale),
    ):
        if new != old:
            raise ArtifactError(
                f"{artifact.path} cannot be a version beside {present.path}: {what} of the one is {new}, of "
                f"the other {old}, and all versions share one configuration",
                say("choose another name"),
            )


def _parameters(artifact: Artifact, version: int) -> dict[str, str]:
    """Say what a version is, for whoever asks the server."""
    start = f"hasn_edge.{version}."
    return {
        start + "sha256": artifact.sha256,
        start + "source": artifact.source,
        start + "precision": artifact.precision.value,
        start + "least_side": str(artifact.spec.size.minimum),
        start + "spec": json.dumps(artifact.spec.to_dict(), separators=(",", ":")),
    }


def _append(path: Path, text: str) -> None:
    """Add fields to a finished message, at whose end they may stand; what a person edited stays."""
    present = path.read_text(encoding="utf-8")
    with writing(path) as temporary:
        temporary.write_text(present.rstrip("\n") + "\n" + text, encoding="utf-8")
