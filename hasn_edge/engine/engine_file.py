"""The first bytes of a TensorRT plan, readable without TensorRT: what built it, and whether it is whole."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hasn_edge.engine.target import EngineRuntime
from hasn_edge.errors import ArtifactError, Cure, call, say
from hasn_edge.optional import version_tuple

Stated = TypeVar("Stated", bound="str | None")

HEADER_BYTES = 64
MINIMUM_BYTES = 1024
"""A plan below this size is a broken one: the smallest network's has hundreds of kilobytes."""

_MAGIC = {b"ftrt": EngineRuntime.TENSORRT, b"ptrt": EngineRuntime.TENSORRT, b"vtrt": EngineRuntime.RTX}
_VERSIONED = (8, 6)
"""The TensorRT from which on a plan states which one made it; before, there is only a serialization number
(232 for 8.5.3.1), and other bytes are where the version came to be."""
_LARGEST_MAJOR = 99
_FOREIGN: tuple[tuple[bytes, str, tuple[Cure, ...]], ...] = (
    (b"PK\x03\x04", "a zip archive, such as TorchScript", ()),
    (b"\x08", "probably an ONNX graph", (call("build"),)),
    (b"{", "JSON text", (say("name the engine itself: <engine>.json is its sidecar"),)),
    (b"version https://git-lfs", "a Git LFS pointer", (say("fetch the file with 'git lfs pull'"),)),
)


@dataclass(frozen=True, kw_only=True)
class PlanHeader:
    """What a plan states about itself."""

    runtime: EngineRuntime
    version: tuple[int, int, int, int] | None
    """Major, minor, patch and build of the TensorRT that made the plan: bytes 24 to 27, as NVIDIA's
    ``trtexec --getPlanVersionOnly`` reads them. ``None`` for plans of TensorRT 8.5, which lack it."""
    file_bytes: int | None
    """Size that the file must have. Only plans of TensorRT for RTX are known to carry it (bytes 16 to 23)."""

    def version_or(self, stated: Stated) -> str | Stated:
        """Return the version as ``"1.7.1.116"``.

        Args:
            stated: What a sidecar or the compiler states; it holds where the plan cannot know better.
        """
        if self.version is None:
            return stated
        # Whatever a plan of 8.5 has in these bytes, and were it a number that could be one.
        if (
            stated is not None
            and self.runtime is EngineRuntime.TENSORRT
            and version_tuple(stated) < _VERSIONED
        ):
            return stated
        return ".".join(map(str, self.version))


def parse_plan_header(plan: bytes, *, file_bytes: int, name: str) -> PlanHeader:
    """Read the header from a plan's first :data:`HEADER_BYTES` bytes and check it against the file's size.

    Args:
        plan: The plan, or at least its beginning.
        file_bytes: Size of the whole plan.
        name: What error messages call it.

    Raises:
        ArtifactError: not a plan, or one that is cut short.
    """
    again = call("build")
    if file_bytes == 0:
        raise ArtifactError(f"{name}: the file is empty", again)
    runtime = _MAGIC.get(plan[:4])
    if runtime is None:
        found = (kind for kind in _FOREIGN if plan.startswith(kind[0]))
        _, what, cures = next(found, (b"", "another kind of file", ()))
        raise ArtifactError(
            f"{name}: not a TensorRT plan: it begins with {plan[:4]!r}, expected b'ftrt', "
            f"b'ptrt' or b'vtrt'; it is {what}",
            *cures,
        )
    if file_bytes < MINIMUM_BYTES or len(plan) < HEADER_BYTES:
        raise ArtifactError(f"{name}: only {file_bytes} bytes of a TensorRT plan; it was cut short", again)
    expected = struct.unpack_from("<Q", plan, 16)[0] if runtime is EngineRuntime.RTX else None
    if expected is not None and expected != file_bytes:
        raise ArtifactError(
            f"{name}: a TensorRT plan of {expected} bytes, but {file_bytes} are here; it was cut short or "
            "changed",
            again,
        )
    return PlanHeader(runtime=runtime, version=_version(plan, runtime), file_bytes=expected)


def read_plan(path: Path) -> tuple[bytes, PlanHeader]:
    """Read the whole plan at ``path``.

    Raises:
        ArtifactError: it cannot be read, is not a plan, or is cut short.
    """
    try:
        plan = path.read_bytes()
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    return plan, parse_plan_header(plan, file_bytes=len(plan), name=str(path))


def read_plan_header(path: str | os.PathLike[str]) -> PlanHeader:
    """Read the header of the plan at ``path``; the rest of the file is not read.

    Raises:
        ArtifactError: no such file, not a plan, or one that is cut short.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(HEADER_BYTES)
        size = path.stat().st_size
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: no such file", say("name a file that a build made: it prints their paths")
        ) from None
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    return parse_plan_header(start, file_bytes=size, name=str(path))


def _version(plan: bytes, runtime: EngineRuntime) -> tuple[int, int, int, int] | None:
    """Return what bytes 24 to 27 hold, where they are a version."""
    major, minor, patch, build = plan[24:28]
    least = (1, 0) if runtime is EngineRuntime.RTX else _VERSIONED
    if plan.startswith(b"ptrt") or (major, minor) < least or major > _LARGEST_MAJOR:
        return None
    return major, minor, patch, build
