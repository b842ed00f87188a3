"""The models that ship, and finding a model by name or path."""

from __future__ import annotations

import json
import os
import re
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hasn_edge.errors import CheckpointError, Cure, InputError, call, say
from hasn_edge.files import file_sha256
from hasn_edge.model.comparators import NETWORKS, RANDOM, split_name
from hasn_edge.optional import require
from hasn_edge.spec import SPEC_KEY

if TYPE_CHECKING:
    from hasn_edge.model.checkpoint import Checkpoint
    from hasn_edge.model.hasn import HASN
    from hasn_edge.spec import ModelSpec

WEIGHTS = Path(__file__).parent / "weights"

RUN_FILE = "run.json"
"""What the folder of a training run holds."""
_NAMES_OF_RUNS = ("best", "last")

_LONGEST_NAME = 180
"""Bytes: with precision, target, sizes and ending, file systems take 255."""

DEFAULT_MODEL = "hasn-x4"
"""The bundled model that is used when none is named: the better one on Set5."""

CAMERA_MODEL = "hasn-x4-camera"
"""The bundled model for cameras, streams and JPEG files: it was trained with blur, noise and JPEG."""


def bundled_models() -> tuple[str, ...]:
    """Return the names of the models that ship, sorted."""
    return tuple(sorted(path.stem for path in WEIGHTS.glob("*.safetensors")))


def model_path(name: str | Path) -> Path:
    """Return the weights file of a bundled name or of a path, which exists unless weights are random.

    Raises:
        CheckpointError: neither a bundled name nor an existing file.
    """
    if str(name) in bundled_models():
        return WEIGHTS / f"{name}.safetensors"
    other = split_name(name)
    path = Path(name if other is None else other[1])
    if path.is_file() or (other is not None and other[1] == RANDOM):
        return path
    if other is not None or path.suffix in (".safetensors", ".pth", ".pt"):
        raise CheckpointError(f"{path}: no such weights file")
    raise _unknown(
        name,
        say("give the path of a .safetensors or .pth file"),
        *([say(f"give its weights: {name}=FILE")] if str(name) in NETWORKS else []),
    )


def _bundled_path(name: str) -> Path:
    if name not in bundled_models():
        raise _unknown(name)
    return WEIGHTS / f"{name}.safetensors"


def _unknown(name: str | Path, *cures: Cure) -> CheckpointError:
    names = ", ".join(bundled_models()) or "none in this build"
    return CheckpointError(f"no model called {str(name)!r}; bundled: {names}", *cures)


def model_name(name: str | Path) -> str:
    """Return what files made from a model are called after.

    The bundled name; the run's, where training wrote the file (every run's weights are called ``best`` and
    ``last``): its folder's name, or its recipe's where the file was copied away; otherwise the file's own.
    """
    if str(name) in bundled_models():
        return str(name)
    other = split_name(name)
    if other is not None:
        return other[0] if other[1] == RANDOM else Path(other[1]).stem
    path = Path(name)
    if path.stem not in _NAMES_OF_RUNS:
        return path.stem
    if (path.parent / RUN_FILE).is_file():
        run = path.resolve().parent.name
    else:
        try:
            run = str(read_provenance(path).get("recipe") or "")
        except (OSError, ValueError, KeyError, AttributeError):
            run = ""
    run = re.sub(r"[^\w.+-]+", "-", run).strip("-.")
    if not run:
        return path.stem
    return run if path.stem == _NAMES_OF_RUNS[0] else f"{run}-{path.stem}"


def require_name(called: str | None) -> None:
    """Refuse what no file's name can begin with, where a name was asked for.

    Raises:
        InputError: it is empty, hidden, too long, or has characters that name folders or nothing.
    """
    bad = r'^$|^\.|[/\\\0:*?"<>|]'
    if called is not None and (re.search(bad, called) or len(os.fsencode(called)) > _LONGEST_NAME):
        raise InputError(
            f"name is {called!r}; expected the start of a file's name, of at most {_LONGEST_NAME} bytes, "
            "such as hasn-x4-mine"
        )


def is_foreign_network(model: str | Path) -> bool:
    """Say whether a model is somebody else's: an ``.onnx`` file without a sidecar, or ``"NETWORK=FILE"``."""
    if split_name(model) is not None:
        return True
    path = Path(model)
    return path.suffix == ".onnx" and not path.with_name(f"{path.name}.json").is_file()


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
    if path.suffix == ".onnx":
        raise CheckpointError(
            f"{path}: a finished graph and no weights",
            say("run or bench it as the artifact"),
            call("export", format="bundle"),
        )
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


class BundledModel(NamedTuple):
    """What one needs to know to choose a bundled model; all of it is read from the files that ship."""

    name: str
    purpose: str
    """What it is for, as plain text: the paragraph of its card that begins with "For"."""
    scale: int
    parameters: int
    scores: dict[str, dict[str, float]]
    """``psnr_y`` in dB and ``ssim_y`` by set, as its weights file states them: 8-bit output, luma of BT.601,
    ``scale`` pixels cut from each side, LR by MATLAB's bicubic, no self-ensemble."""
    weights_bytes: int
    """Size of its weights file."""


def describe_bundled(name: str) -> BundledModel:
    """Return what a bundled model is, without loading its tensors.

    Raises:
        CheckpointError: no model of this name is bundled, or one of its files is missing or damaged.
    """
    path = _bundled_path(name)
    card = path.with_suffix(".md")
    try:
        purpose = re.search(r"^\*\*For\*\*: (.+?)\.?\n\n", card.read_text(encoding="utf-8"), re.M | re.S)
        if purpose is None:
            raise ValueError("it does not state what the model is for")
    except (OSError, ValueError) as exc:
        raise _damaged(card, exc) from exc
    try:
        header = _read_header(path)
        facts = header.pop("__metadata__")
        return BundledModel(
            name=name,
            purpose=" ".join(purpose[1].replace("`", "").split()),
            scale=json.loads(facts[SPEC_KEY])["scale"],
            parameters=sum(prod(tensor["shape"]) for tensor in header.values()),
            scores=json.loads(facts["hasn_edge.provenance"])["scores"],
            weights_bytes=path.stat().st_size,
        )
    except (OSError, ValueError, KeyError) as exc:
        raise _damaged(path, exc) from exc


def bundled_provenance(name: str) -> dict[str, Any]:
    """Return how a bundled model was trained and what it reaches, without loading its tensors.

    Raises:
        CheckpointError: no model of this name is bundled, or its file is damaged.
    """
    path = _bundled_path(name)
    try:
        return read_provenance(path)
    except (OSError, ValueError, KeyError) as exc:
        raise _damaged(path, exc) from exc


def _damaged(path: Path, exc: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path}: damaged ({exc})", say("repair it with: pip install --force-reinstall hasn-edge")
    )


def read_provenance(path: Path) -> dict[str, Any]:
    """Return what the header of a ``.safetensors`` file states of its training.

    Raises:
        OSError, ValueError, KeyError: no such file, no such header, or nothing of it there.
    """
    provenance: dict[str, Any] = json.loads(_read_header(path)["__metadata__"]["hasn_edge.provenance"])
    return provenance


def _read_header(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("header longer than the file")
        header: dict[str, Any] = json.loads(stream.read(length))
    return header
