"""A run's full state on disk: written whole, checked by hash, and found again after any interruption."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from hasn_edge.errors import CheckpointError
from hasn_edge.files import writing

_MAGIC = b"HASN-EDGE TRAINING STATE 1\n"
_NAME = re.compile(r"state-(\d{9})\.pt")


def state_path(run: Path, iteration: int) -> Path:
    """Return where the state after ``iteration`` steps is kept."""
    return run / "states" / f"state-{iteration:09d}.pt"


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain values) with a hash in front, whole or not at all.

    Raises:
        OutputError: the file could not be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getbuffer()
    with writing(path) as temporary, temporary.open("wb") as stream:
        stream.write(_MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n")
        stream.write(payload)


def load_state(path: Path) -> dict[str, Any]:
    """Read what :func:`save_state` wrote.

    Raises:
        CheckpointError: no such file, another kind of file, or bytes that do not match its hash.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    head = len(_MAGIC) + 65
    if not content.startswith(_MAGIC):
        raise CheckpointError(f"{path}: not a training state of this version of hasn-edge")
    payload = memoryview(content)[head:]
    if hashlib.sha256(payload).hexdigest().encode() != content[len(_MAGIC) : head - 1]:
        raise CheckpointError(f"{path}: truncated or damaged; its bytes do not match its hash")
    state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    return state


def saved_iterations(run: Path) -> list[int]:
    """Return the iterations whose states lie in ``run``, newest first."""
    found = [_NAME.fullmatch(path.name) for path in (run / "states").glob("state-*.pt")]
    return sorted((int(match[1]) for match in found if match), reverse=True)


def load_newest(run: Path, *, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the newest state that is whole, or ``None`` if there is none yet.

    Args:
        run: The run's folder.
        warn: Told of each damaged state that was passed over.
    """
    for iteration in saved_iterations(run):
        try:
            return load_state(state_path(run, iteration))
        except CheckpointError as exc:
            warn(f"{exc}; going back to the state before")
    return None


def prune(run: Path, *, keep: int, always: Iterable[int] = ()) -> None:
    """Delete all but the newest ``keep`` states and those of the iterations in ``always``."""
    for iteration in set(saved_iterations(run)[keep:]).difference(always):
        state_path(run, iteration).unlink(missing_ok=True)
