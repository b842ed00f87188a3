"""What resuming reads from a run's folder: ``run.json``, and full states that are checked by their hashes."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from hasn_edge.config import config_from_mapping
from hasn_edge.errors import CheckpointError, ConfigError
from hasn_edge.files import claimed, writing
from hasn_edge.model.checkpoint import torch_bytes
from hasn_edge.model.zoo import RUN_FILE as FILE
from hasn_edge.train.recipe import Recipe

_MAGIC = b"HASN-EDGE TRAINING STATE 1\n"
_NAME = re.compile(r"state-(\d{9})\.pt")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """What resuming needs to know: written when a run begins, and when its end moves."""

    recipe: Recipe
    data: tuple[str, ...]
    """Prepared folders, absolute."""
    fingerprint: str
    """Of the data; resuming on other data is refused."""
    sets: tuple[str, ...]
    """Validation sets as ``NAME=DIR`` or ``DIR``, absolute; the best weights are chosen on the first."""
    start: str | None
    """The weights the run began with, as the user named them; ``None`` for the recipe's initialization."""
    start_sha256: str | None = None
    quantize_sha256: str | None = None
    """Of the file of the INT8 recipe, where there is one; resuming by an edited one is refused."""
    branched_at: int | None = None
    """The iteration of another run whose full state this one began with; ``None`` where it began at 0."""
    planned: Recipe | None = None
    """The recipe before its end was first moved: it has the phases that a nearer end left out. ``None`` where
    it was not."""
    versions: Mapping[str, str]


_claimed: set[Path] = set()
"""Folders of this process's runs."""


@contextmanager
def trained_here(folder: Path) -> Iterator[None]:
    """Keep a run to this process: two that train it would replace each other's states.

    Inside the block the process may claim the folder again. See :func:`hasn_edge.files.claimed`.

    Raises:
        ConfigError: another process trains the run.
        OutputError: the folder cannot be made.
    """
    place = Path(folder).resolve()
    if place in _claimed:
        yield
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(claimed(Path(folder)))
        except BlockingIOError:
            raise ConfigError(
                f"{folder}: another process is training this run; stop it first, or train in another folder"
            ) from None
        _claimed.add(place)
        stack.callback(_claimed.discard, place)
        yield


def write_run_file(folder: Path, run: RunFile) -> None:
    """Write ``run.json`` into ``folder``."""
    with writing(folder / FILE) as temporary:
        temporary.write_text(json.dumps(msgspec.to_builtins(run), indent=1) + "\n", encoding="utf-8")


def read_run_file(folder: Path) -> RunFile:
    """Read what :func:`write_run_file` wrote.

    Raises:
        ConfigError: ``folder`` holds no run, or a damaged one.
    """
    path = Path(folder) / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{folder}: not a training run ({FILE} is missing); give the folder that "
                          "'hasn-edge train' printed when it began") from None  # fmt: skip
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path}: not readable ({exc})") from exc
    return config_from_mapping(values, RunFile, source=str(path))


def state_path(run: Path, iteration: int) -> Path:
    """Return where the state after ``iteration`` steps is kept."""
    return run / "states" / f"state-{iteration:09d}.pt"


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain values) with a hash in front, whole or not at all.

    Raises:
        OutputError: the file could not be written.
    """
    payload = torch_bytes(state)
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


def load_newest(run: Path) -> dict[str, Any] | None:
    """Return the newest state that is whole, or ``None`` if there is none yet; warn of damaged ones."""
    for iteration in saved_iterations(run):
        try:
            return load_state(state_path(run, iteration))
        except CheckpointError as exc:
            log.warning("%s; going back to the state before", exc)
    return None


def prune(run: Path, *, keep: int, always: Iterable[int] = ()) -> None:
    """Delete all but the newest ``keep`` states and those of the iterations in ``always``."""
    for iteration in set(saved_iterations(run)[keep:]).difference(always):
        state_path(run, iteration).unlink(missing_ok=True)


def parse_state(text: str) -> tuple[Path, int | None] | None:
    """Return folder and iteration of ``RUN@N`` (also ``RUN@100k``); ``None`` if no folder is named like that.

    The iteration is ``None`` where what follows the ``@`` is no number.
    """
    head, at, tail = text.rpartition("@")
    if not at or not Path(head).is_dir():
        return None
    digits, factor = (tail[:-1], 1000) if tail[-1:] in ("k", "K") else (tail, 1)
    return Path(head), int(digits) * factor if digits.isdigit() else None


def find_state(run: Path, iteration: int | None, *, named: str) -> Path:
    """Return where ``run`` keeps the state after ``iteration``.

    Raises:
        CheckpointError: it keeps none; the message begins with ``named``, what the user wrote.
    """
    kept = saved_iterations(run)
    if iteration is None or iteration not in kept:
        raise CheckpointError(
            f"{named}: {run} keeps no state of iteration {named.rpartition('@')[2]}; it keeps "
            f"{sorted(kept) or 'none'}; list wanted iterations in the recipe's keep_at"
        )
    return state_path(run, iteration)
