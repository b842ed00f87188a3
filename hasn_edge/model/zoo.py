"""The models that ship, and finding a model by name or path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hasn_edge.errors import CheckpointError, say
from hasn_edge.files import file_sha256
from hasn_edge.optional import require

if TYPE_CHECKING:
    from hasn_edge.model.checkpoint import Checkpoint
    from hasn_edge.model.hasn import HASN
    from hasn_edge.spec import ModelSpec

WEIGHTS = Path(__file__).parent / "weights"

DEFAULT_MODEL = "hasn-x4"
"""The bundled model that is used when none is named: the better one on Set5."""


def bundled_models() -> tuple[str, ...]:
    """Return the names of the models that ship, sorted."""
    return tuple(sorted(path.stem for path in WEIGHTS.glob("*.safetensors")))


def model_path(name: str | Path) -> Path:
    """Return the weights file of a bundled name or of a path.

    Raises:
        CheckpointError: neither a bundled name nor an existing file.
    """
    if str(name) in bundled_models():
        return WEIGHTS / f"{name}.safetensors"
    path = Path(name)
    if path.suffix in (".safetensors", ".pth", ".pt") or path.is_file():
        return path
    names = ", ".join(bundled_models()) or "none in this build"
    raise CheckpointError(
        f"no model called {str(name)!r}; bundled: {names}",
        say("give the path of a .safetensors or .pth file"),
    )


def model_name(name: str | Path) -> str:
    """Return what files made from a model are called after: the bundled name, or the file's own."""
    return str(name) if str(name) in bundled_models() else Path(name).stem


def bundled_onnx(name: str | Path) -> Path | None:
    """Return the FP32 ONNX file that ships with a bundled model: it runs without PyTorch.

    It is what a build in FP32 for the CPU makes of the model.
    """
    path = WEIGHTS / f"{name}-fp32-cpu.onnx"
    return path if str(name) in bundled_models() and path.is_file() else None


def bundled_by_hash(sha256: str) -> str | None:
    """Return the bundled model whose weights file has a SHA-256, by which sidecars name their network."""
    return next((name for name in bundled_models() if file_sha256(model_path(name)) == sha256), None)


def load_model_checkpoint(name: str | Path, *, spec: ModelSpec | None = None) -> Checkpoint:
    """Load the checkpoint of a bundled name or of a path.

    Args:
        name: Bundled name, or a file's path.
        spec: The network of a file that does not name it.

    Raises:
        CheckpointError: see :func:`hasn_edge.model.checkpoint.load_checkpoint`.
        MissingDependencyError: PyTorch is not installed.
    """
    path = model_path(name)
    require("torch", extra="export", needed_for="Loading a checkpoint")
    require("safetensors", extra="export", needed_for="Loading a checkpoint")
    from hasn_edge.model.checkpoint import load_checkpoint

    return load_checkpoint(path, spec=spec)


def load_model(name: str | Path = DEFAULT_MODEL, *, spec: ModelSpec | None = None) -> HASN:
    """Return a model in evaluation mode from a bundled name, a ``.safetensors`` or a ``.pth``.

    Args:
        name: Bundled name, or a file's path.
        spec: The network of a file that does not name it. ``torch.save(model.state_dict(), ...)`` of what is
            returned writes a file that does.

    Raises:
        CheckpointError: see :func:`hasn_edge.model.checkpoint.load_checkpoint`.
        MissingDependencyError: PyTorch is not installed.
    """
    return load_model_checkpoint(name, spec=spec).model()


def bundled_provenance(name: str) -> dict[str, Any]:
    """Return how a bundled model was trained and what it reaches, without loading its tensors.

    Raises:
        CheckpointError: the bundled file is damaged.
    """
    path = WEIGHTS / f"{name}.safetensors"
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError("header longer than the file")
            header = json.loads(stream.read(length))
        provenance: dict[str, Any] = json.loads(header["__metadata__"]["hasn_edge.provenance"])
    except (OSError, ValueError, KeyError) as exc:
        raise CheckpointError(
            f"{path}: damaged ({exc})", say("repair it with: pip install --force-reinstall hasn-edge")
        ) from exc
    return provenance
