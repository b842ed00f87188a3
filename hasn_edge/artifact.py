"""A built file and its sidecar: what it is, what it was made from, and publishing it whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from hasn_edge.errors import ArtifactError, ConfigError, OutputError
from hasn_edge.spec import ModelSpec, Precision

SCHEMA = 1
"""Version of the sidecar format; a reader refuses every other one."""

_unfinished: dict[Path, Path] = {}
"""Temporary files that exist now, each with the name it is to take."""
_naming = threading.RLock()


class Kind(str, Enum):
    """What sort of file an artifact is."""

    TORCHSCRIPT = "torchscript"
    ONNX = "onnx"
    ENGINE = "engine"

    @property
    def suffix(self) -> str:
        """File name ending, with the dot."""
        return {"torchscript": ".ts", "onnx": ".onnx", "engine": ".engine"}[self.value]


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file produced by one stage. Its sidecar is ``<file>.json``."""

    path: Path
    kind: Kind
    spec: ModelSpec
    precision: Precision
    sha256: str
    """Hash of the file's bytes, checked on load."""
    source: str
    """SHA-256 of the checkpoint at the start of the chain."""
    parent: str | None = None
    """SHA-256 of the file this one was made from; ``None`` where that is the checkpoint."""
    made_by: Mapping[str, str] = field(default_factory=dict)
    """Versions of the tools that took part."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What only this kind of file has: shapes, fusion, ranges, observer, target. Plain JSON values."""

    @property
    def size(self) -> tuple[int, int] | None:
        """The one (height, width) that a static artifact accepts; ``None`` where they are dynamic."""
        size = self.details.get("size")
        return None if size is None else (int(size[0]), int(size[1]))

    @property
    def pixels(self) -> bool:
        """Whether the file takes and gives NHWC uint8 instead of NCHW float32."""
        return bool(self.details.get("pixels"))

    def to_dict(self) -> dict[str, Any]:
        """Return the sidecar's content."""
        return {
            "schema": SCHEMA,
            "kind": self.kind.value,
            "precision": self.precision.value,
            "sha256": self.sha256,
            "source": self.source,
            "parent": self.parent,
            "spec": self.spec.to_dict(),
            "tensors": "NHWC, RGB, uint8" if self.pixels else "NCHW, RGB, float32 in [0, 1]",
            "made_by": dict(self.made_by),
            "details": dict(self.details),
        }


def sidecar_path(path: Path) -> Path:
    """Return the path of the sidecar of the artifact at ``path``."""
    return path.with_name(path.name + ".json")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def load_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Read an artifact's sidecar and check the file against it.

    Raises:
        ArtifactError: no such file, no or unreadable sidecar, another schema version, or bytes that
            differ from those that were published. The message says how to make the file again.
    """
    path = Path(path)
    again = "make it again with 'hasn-edge build' or 'hasn-edge export'"
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; 'hasn-edge build' prints the paths of what it made")
    if path.suffix not in {kind.suffix for kind in Kind}:
        endings = ", ".join(kind.suffix for kind in Kind)
        raise ArtifactError(f"{path}: not a built file, which ends in one of {endings}; {again}")
    side = sidecar_path(path)
    try:
        values = json.loads(side.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: its sidecar {side.name} is missing; keep both files together, or {again}"
        ) from None
    except (ValueError, OSError) as exc:
        raise ArtifactError(f"{side}: not a readable sidecar ({exc}); {again}") from exc
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        found = values.get("schema") if isinstance(values, dict) else None
        raise ArtifactError(
            f"{side}: sidecar schema is {found!r}, this version of hasn-edge reads {SCHEMA}; {again}"
        )
    try:
        artifact = Artifact(
            path=path,
            kind=Kind(values["kind"]),
            spec=ModelSpec.from_dict(values["spec"]),
            precision=Precision(values["precision"]),
            sha256=str(values["sha256"]),
            source=str(values["source"]),
            parent=values["parent"],
            made_by=dict(values["made_by"]),
            details=_with_new_words(values["details"]),
        )
    except (KeyError, TypeError, ValueError, ConfigError) as exc:
        raise ArtifactError(f"{side}: damaged sidecar ({type(exc).__name__}: {exc}); {again}") from exc
    try:
        actual = file_sha256(path)
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read ({exc.strerror}); check its permissions") from exc
    if actual != artifact.sha256:
        raise ArtifactError(
            f"{path}: its bytes changed since it was made (SHA-256 {actual[:12]}..., sidecar says "
            f"{artifact.sha256[:12]}...); {again}"
        )
    return artifact


def _with_new_words(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return the details of a sidecar; those of version 0.1 under the names of today."""
    words = {"minimum": "min", "typical": "opt", "maximum": "max"}
    forms = {"weak": "weakly-typed", "weak-10": "weakly-typed-trt10", "strong": "strongly-typed"}
    new = dict(details)
    if isinstance(profile := new.get("profile"), dict):
        new["profile"] = {words.get(key, key): shape for key, shape in profile.items()}
    if isinstance(form := new.get("form"), str):
        new["form"] = forms.get(form, form)
    return new


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, remove it on failure.

    The temporary file keeps ``path``'s suffix, so that writers that look at it still work.

    Raises:
        OutputError: the folder cannot be made or written, or the disk is full; nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem[:80]}.{secrets.token_hex(8)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _naming:
            _unfinished[temporary] = path  # before it exists: an interrupt may come at any time
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        with _naming:
            temporary.replace(path)
            del _unfinished[temporary]
    except OSError as exc:
        raise output_error(path, exc) from exc
    finally:
        if _unfinished.pop(temporary, None) is not None:
            temporary.unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Refuse a file that could not be written, before the work that it is to hold; leaves nothing behind.

    Raises:
        OutputError: its folder, or the nearest one that exists, cannot be written, or it is a folder itself.
    """
    path = Path(path)
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        raise output_error(path, exc) from exc


def abandon() -> tuple[Path, ...]:
    """Remove every temporary file of :func:`writing`, right before the process is left by ``os._exit``.

    For when a thread that writes hangs in a library. From now on no other thread can begin or finish a file.

    Returns:
        The names that they were to take.
    """
    _naming.acquire()  # for ever: what was not whole by now never is
    dropped = tuple(_unfinished.values())
    for temporary in list(_unfinished):
        temporary.unlink(missing_ok=True)
    return dropped


def output_error(path: Path, exc: OSError) -> OutputError:
    """Turn an operating system error on writing ``path`` into a message with its cure."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free
        return OutputError(
            f"cannot write {path}: {exc.strerror} ({free / 1e6:.0f} MB free); free some space or choose "
            "another folder; nothing was left behind"
        )
    return OutputError(f"cannot write {path}: {exc.strerror or exc}; choose a folder that you may write to")


def publish(
    data: bytes,
    path: Path,
    *,
    kind: Kind,
    spec: ModelSpec,
    precision: Precision,
    source: str,
    parent: str | None = None,
    made_by: Mapping[str, str] | None = None,
    details: Mapping[str, Any] | None = None,
) -> Artifact:
    """Write a finished, verified file under its name, with its sidecar beside it.

    The sidecar takes its name first: a crash between the two renames leaves a file with a sidecar that
    does not match it, which is refused on load, never an unchecked file.

    Raises:
        OutputError: the folder cannot be written or is full; nothing half-written stays.
    """
    path = Path(path)
    artifact = Artifact(
        path=path,
        kind=kind,
        spec=spec,
        precision=precision,
        sha256=hashlib.sha256(data).hexdigest(),
        source=source,
        parent=parent,
        made_by=dict(made_by or {}),
        details=dict(details or {}),
    )
    text = json.dumps(artifact.to_dict(), indent=1, allow_nan=False) + "\n"
    with writing(path) as temporary:
        with temporary.open("wb") as stream:
            stream.write(data)
            os.fsync(stream.fileno())
        with writing(sidecar_path(path)) as side:
            side.write_text(text, encoding="utf-8")
    return artifact
