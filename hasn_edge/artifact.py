"""A built file: what its sidecar states of it, and publishing both whole or not at all."""

from __future__ import annotations

import hashlib
import html
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from hasn_edge.errors import ArtifactError, ConfigError, call, say
from hasn_edge.files import file_sha256, writing
from hasn_edge.sidecar import (
    Details,
    EngineDetails,
    Form,
    GraphDetails,
    Kind,
    ProgramDetails,
    TorchScriptDetails,
)
from hasn_edge.spec import NetworkSpec, Precision

SCHEMA = 2
"""Version of the sidecar format; a reader takes this one and converts the one before."""

AGAIN = (call("build"), call("export"))
"""How a file that cannot be used is made again."""

_DETAILS = {cls.kind: cls for cls in (TorchScriptDetails, ProgramDetails, GraphDetails, EngineDetails)}


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file produced by one stage. Its sidecar is ``<file>.json``."""

    path: Path
    spec: NetworkSpec
    precision: Precision
    sha256: str
    """Hash of the file's bytes, checked on load."""
    source: str
    """SHA-256 of the checkpoint at the start of the chain."""
    details: Details
    """What this kind of file states."""
    parent: str | None = None
    """SHA-256 of the file this one was made from; ``None`` where that is the checkpoint."""
    made_by: Mapping[str, str] = field(default_factory=dict)
    """Versions of the tools that took part."""

    @property
    def kind(self) -> Kind:
        """What sort of file it is."""
        return self.details.kind

    @property
    def size(self) -> tuple[int, int] | None:
        """The one (height, width) that a static artifact accepts; ``None`` where they are dynamic."""
        return self.details.size

    @property
    def pixels(self) -> bool:
        """Whether the file takes and gives NHWC uint8 instead of NCHW float32."""
        return self.details.pixels

    @property
    def graph(self) -> GraphDetails:
        """What an ONNX graph states; only for one."""
        assert isinstance(self.details, GraphDetails)
        return self.details

    @property
    def program(self) -> ProgramDetails:
        """What a ``.pt2`` file states; only for one."""
        assert isinstance(self.details, ProgramDetails)
        return self.details

    @property
    def engine(self) -> EngineDetails:
        """What an engine states; only for one."""
        assert isinstance(self.details, EngineDetails)
        return self.details

    def __str__(self) -> str:
        takes = "any size" if self.size is None else f"{self.size[1]}x{self.size[0]} pixels"
        lines = [f"{self.path}: {self.precision.value} {self.kind.value}, x{self.spec.scale}, takes {takes}"]
        held_out = self.details.measured.held_out if self.details.measured else None
        if held_out is not None:
            lines.append(f"PSNR-Y on held-out images: {held_out.dpsnr_db:+.4f} dB against FP32")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def publish_copy(self, data: bytes, path: Path, details: Details | None = None) -> Artifact:
        """Publish the file's bytes under another name, with other details where they are given."""
        return publish(
            data,
            path,
            spec=self.spec,
            precision=self.precision,
            source=self.source,
            details=details or self.details,
            parent=self.parent,
            made_by=self.made_by,
        )

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
            "details": msgspec.to_builtins(self.details),
        }

    @classmethod
    def from_dict(cls, path: Path, values: dict[str, Any]) -> Artifact:
        """Build the artifact at ``path`` from its sidecar's content, of this schema or the one before.

        Raises:
            KeyError, TypeError, ValueError, ConfigError: something is missing or of another type.
        """
        details = dict(values["details"])
        if values["schema"] == 1:
            details = _details_of_schema_1(details)
        if "max_abs" in (measured := details.get("measured") or {}):
            details["measured"] = _with_noise_apart(measured)
        return cls(
            path=path,
            spec=NetworkSpec.from_dict(values["spec"]),
            precision=Precision(values["precision"]),
            sha256=str(values["sha256"]),
            source=str(values["source"]),
            parent=values["parent"],
            made_by=dict(values["made_by"]),
            details=msgspec.convert(details, _DETAILS[Kind(values["kind"])]),
        )


def _with_noise_apart(measured: dict[str, Any]) -> dict[str, Any]:
    """Return what was measured as it is written today: once the figures on noise stood beside the others."""
    apart = {key: value for key, value in measured.items() if key in ("against", "held_out", "pixels")}
    return {**apart, "noise": {key: value for key, value in measured.items() if key not in apart}}


def _details_of_schema_1(details: dict[str, Any]) -> dict[str, Any]:
    """Return the details that version 0.1 wrote in the words of today."""
    words = {"auto": "autotune", "minimum": "min", "typical": "opt", "maximum": "max"}
    words["pictures"] = "images"  # version 0.1 called them so

    def rename(value: Any) -> Any:
        return {words.get(k, k): rename(v) for k, v in value.items()} if isinstance(value, dict) else value

    forms = {"weak": Form.WEAKLY_TYPED, "strong": Form.STRONGLY_TYPED}
    forms["weak-10"] = Form.WEAKLY_TYPED_TRT10  # version 0.1 called it so
    converted: dict[str, Any] = rename(details)
    if "form" in converted:
        converted["form"] = forms.get(converted["form"], converted["form"])
    return converted


def sidecar_path(path: Path) -> Path:
    """Return the path of the sidecar of the artifact at ``path``."""
    return path.with_name(path.name + ".json")


def read_sidecar(path: str | os.PathLike[str]) -> Artifact:
    """Return what an artifact's sidecar states, without a look at the file's bytes.

    Raises:
        ArtifactError: no such file, no or unreadable sidecar, or another schema version.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, expected a built file" if path.is_dir() else "no such file"
        raise ArtifactError(
            f"{path}: {what}", say("give one of the paths that 'hasn-edge build' prints"), *AGAIN
        )
    if path.suffix not in {kind.suffix for kind in Kind}:
        endings = ", ".join(kind.suffix for kind in Kind)
        raise ArtifactError(f"{path}: not a built file, which ends in one of {endings}", *AGAIN)
    side = sidecar_path(path)
    try:
        values = json.loads(side.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: its sidecar {side.name} is missing", say("keep both files together"), *AGAIN
        ) from None
    except (ValueError, OSError) as exc:
        raise ArtifactError(f"{side}: not a readable sidecar ({exc})", *AGAIN) from exc
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema not in (1, SCHEMA):
        raise ArtifactError(
            f"{side}: sidecar schema is {schema!r}, this version of hasn-edge reads 1 and {SCHEMA}", *AGAIN
        )
    try:
        return Artifact.from_dict(path, values)
    except (KeyError, TypeError, ValueError, ConfigError) as exc:
        raise ArtifactError(f"{side}: damaged sidecar ({type(exc).__name__}: {exc})", *AGAIN) from exc


def load_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Read an artifact's sidecar and check the file against it.

    Raises:
        ArtifactError: as :func:`read_sidecar`, or bytes that differ from those that were published. The
            message states how to make the file again.
    """
    artifact = read_sidecar(path)
    path = artifact.path
    try:
        actual = file_sha256(path)
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read ({exc.strerror})", say("check its permissions")) from exc
    if actual != artifact.sha256:
        raise ArtifactError(
            f"{path}: its bytes changed since it was made (SHA-256 {actual[:12]}..., its sidecar states "
            f"{artifact.sha256[:12]}...)",
            *AGAIN,
        )
    return artifact


def publish(
    data: bytes,
    path: Path,
    *,
    spec: NetworkSpec,
    precision: Precision,
    source: str,
    details: Details,
    parent: str | None = None,
    made_by: Mapping[str, str] | None = None,
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
        spec=spec,
        precision=precision,
        sha256=hashlib.sha256(data).hexdigest(),
        source=source,
        details=details,
        parent=parent,
        made_by=dict(made_by or {}),
    )
    text = json.dumps(artifact.to_dict(), indent=1, allow_nan=False) + "\n"
    with writing(path) as temporary:
        with temporary.open("wb") as stream:
            stream.write(data)
            os.fsync(stream.fileno())
        with writing(sidecar_path(path)) as side:
            side.write_text(text, encoding="utf-8")
    return artifact
