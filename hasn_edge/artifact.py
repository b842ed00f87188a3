"""A built file and its sidecar: what it is, what it was made from, and publishing it whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec

from hasn_edge.errors import ArtifactError, ConfigError, call, say
from hasn_edge.files import file_sha256, writing
from hasn_edge.spec import ModelSpec, Precision

SCHEMA = 2
"""Version of the sidecar format; a reader takes this one and converts the one before."""

AGAIN = (call("build"), call("export"))
"""How a file that cannot be used is made again."""

Shape = tuple[int, int, int, int]
"""Of a tensor: NCHW, or NHWC where a file takes pixels; -1 for any number."""


class Kind(str, Enum):
    """What sort of file an artifact is."""

    TORCHSCRIPT = "torchscript"
    ONNX = "onnx"
    ENGINE = "engine"

    @property
    def suffix(self) -> str:
        """File name ending, with the dot."""
        return {"torchscript": ".ts", "onnx": ".onnx", "engine": ".engine"}[self.value]


class Form(str, Enum):
    """Who reads a graph; the weights and the ranges are the same in all of them."""

    CPU = "cpu"
    """ONNX Runtime on a CPU: FP32 tensors unless FP16 is asked for, LayerNormalization as one node."""
    WEAKLY_TYPED = "weakly-typed"
    """TensorRT 8.5 to 10.11: opset 17, FP32 tensors, LayerNorm in single operations, which 8 needs;
    precision comes from Q/DQ nodes and from builder flags."""
    WEAKLY_TYPED_TRT10 = "weakly-typed-trt10"
    """TensorRT 10.0 to 10.11: the same, but LayerNormalization as one node, which has kernels of its own."""
    STRONGLY_TYPED = "strongly-typed"
    """TensorRT 10.12 and newer, TensorRT for RTX: opset 20, every tensor has its type, FP16 inside."""

    @property
    def weakly_typed(self) -> bool:
        """Whether its tensors are FP32 and builder flags decide the precision."""
        return self in (Form.WEAKLY_TYPED, Form.WEAKLY_TYPED_TRT10)

    @property
    def words(self) -> str:
        """The form as prose has it."""
        return self.value.replace("-trt10", " (TensorRT 10)").replace("-", " ")


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """Facts in a sidecar, each written whatever its value."""


class HeldOut(_Record, frozen=True, kw_only=True):
    """Quality on the images that were not used for calibration, against the FP32 network."""

    set: str
    images: int
    psnr_y_db: float
    dpsnr_db: float
    """Drift of the mean PSNR-Y in dB; below zero where quality is lost."""
    dssim: float
    fidelity_db: float | None
    """PSNR in dB against the FP32 network's own output; ``None`` where both are equal."""
    worst_image: str
    worst_dpsnr_db: float
    budget_db: float
    """Largest accepted loss of mean PSNR-Y in dB."""


class PixelLevels(_Record, frozen=True, kw_only=True):
    """8-bit output of a file that takes and gives pixels, against the file of floats."""

    levels: int
    """How many were compared."""
    differing: int
    largest: int
    """Largest difference."""


class QualityRecord(_Record, frozen=True, kw_only=True, omit_defaults=True):
    """How far a file's output is from its reference, on noise; see :mod:`hasn_edge.evaluation.compare`."""

    against: str
    max_abs: float | None
    psnr_db: float | None
    worst_psnr_db: float | None
    worst: int
    images: int
    not_finite: int
    held_out: HeldOut | None = None
    """``None`` for FP32, which must agree value by value."""
    pixels: PixelLevels | None = None
    """``None`` for a file of floats."""


class RangesRecord(_Record, frozen=True, kw_only=True):
    """The ranges of an INT8 graph; see :class:`hasn_edge.quantize.ranges.Ranges`."""

    observer: str
    percentile: float | None
    fingerprint: str
    images: int
    values: dict[str, float]
    peaks: dict[str, float]


class AutotuneRecord(_Record, frozen=True, kw_only=True):
    """Why this precision was kept, where it was measured instead of chosen."""

    candidates: tuple[str, ...]
    left_out: tuple[str, ...]
    why: str


class TensorInfo(_Record, frozen=True, kw_only=True):
    """An input or output of an engine."""

    name: str
    dtype: str
    shape: Shape


class InputProfile(_Record, frozen=True, kw_only=True):
    """Shapes of an engine's input."""

    min: Shape
    opt: Shape
    """The one that the engine is fastest at."""
    max: Shape


class LayerCounts(_Record, frozen=True, kw_only=True):
    """Layers of the network that an engine was compiled from."""

    all: int
    convolution: int
    half_convolution: int
    quantize: int


class EngineFlags(_Record, frozen=True, kw_only=True):
    """The compiler's options that decide what an engine is."""

    strongly_typed: bool
    tf32: bool = False
    optimization_level: int | None = None
    workspace_bytes: int | None = None
    workspace_from: str = ""
    """Who chose it."""
    hardware_compatibility: str | None = None
    version_compatible: bool = False
    require_user_allocation: bool = False
    builder_flags: tuple[str, ...] = ()
    fp32_layers: tuple[str, ...] = ()
    fp16_layers: tuple[str, ...] = ()


class CalibratorRecord(_Record, frozen=True, kw_only=True):
    """TensorRT's own calibrator."""

    algorithm: str
    fingerprint: str
    batches: int
    shape: Shape


class CalibrationRecord(_Record, frozen=True, kw_only=True):
    """The images that INT8 ranges were measured on."""

    fingerprint: str
    images: int


class RangesAskedFor(_Record, frozen=True, kw_only=True):
    """What the user gave for INT8 ranges: names of files, without their folders."""

    recipe: str
    calibration: str | None


class Tolerance(_Record, frozen=True, kw_only=True):
    """Accepted difference from a golden image, values in [0, 1]."""

    rms: float
    largest: float


class Golden(_Record, frozen=True, kw_only=True):
    """An image whose result is known; see :mod:`hasn_edge.runtime.golden`."""

    schema: int
    input: str
    shape: Shape
    points: tuple[float, ...]
    cells: tuple[float, ...]
    tolerance: Tolerance


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a sidecar states of every kind of file; only what differs from the defaults is written."""

    kind: ClassVar[Kind]

    size: tuple[int, int] | None = None
    """The one (height, width) that the file takes; any size where ``None``."""
    pixels: bool = False
    """Whether it takes and gives NHWC uint8 instead of NCHW float32."""
    batch: tuple[int, int] = (1, 1)
    """Smallest and largest number of images at a time."""
    measured: QualityRecord | None = None
    autotune: AutotuneRecord | None = None


class TorchScriptDetails(Details, frozen=True, kw_only=True, omit_defaults=True):
    """What only a TorchScript file's sidecar states: nothing yet."""

    kind = Kind.TORCHSCRIPT


class GraphDetails(Details, frozen=True, kw_only=True, omit_defaults=True):
    """What only an ONNX graph's sidecar states."""

    kind = Kind.ONNX

    form: Form
    opset: int
    builder_flags: tuple[str, ...] = ()
    """What TensorRT must be given besides a weakly typed graph."""
    fused: tuple[str, ...] = ()
    """Fusion rules that were applied."""
    recipe: dict[str, Any] | None = None
    """The INT8 recipe, key by key."""
    ranges: RangesRecord | None = None
    int8_convolutions: tuple[str, ...] = ()
    int8_mac_share: float | None = None
    """Share of the convolutions' multiply-accumulates that is INT8, 0 to 1."""


class EngineDetails(Details, frozen=True, kw_only=True, omit_defaults=True):
    """What only an engine's sidecar states."""

    kind = Kind.ENGINE

    target: str
    runtime: str
    """``"tensorrt"`` or ``"rtx"``."""
    version: Annotated[str, msgspec.Meta(pattern=r"^\d")]
    """Of the TensorRT that built it."""
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    profile: InputProfile
    layers: LayerCounts
    flags: EngineFlags
    compute_capabilities: tuple[str, ...] = ()
    """GPUs that it was compiled for, where it is not bound to the one that built it."""
    gpu: str | None = None
    """The GPU that it is bound to, as are the facts that follow."""
    compute_capability: str | None = None
    sm_count: int | None = None
    integrated: bool | None = None
    driver: str | None = None
    cuda: str | None = None
    l4t: str | None = None
    timing_cache: str | None = None
    """SHA-256 of the timings that the compiler started from."""
    build_seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    model: str = ""
    """What the user called the model."""
    int8_method: str | None = None
    """``"calibrator"`` where TensorRT chose the ranges itself."""
    calibrator: CalibratorRecord | None = None
    calibration: CalibrationRecord | None = None
    asked: RangesAskedFor | None = None
    emulated_as: str = ""
    """The graph that predicts on a CPU what the engine computes."""
    golden: Golden | None = None
    cache_key: str | None = None
    """Hash of everything that decides the engine: one that has it need not be built again."""


_DETAILS = {cls.kind: cls for cls in (TorchScriptDetails, GraphDetails, EngineDetails)}


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file produced by one stage. Its sidecar is ``<file>.json``."""

    path: Path
    spec: ModelSpec
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
    def engine(self) -> EngineDetails:
        """What an engine states; only for one."""
        assert isinstance(self.details, EngineDetails)
        return self.details

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
        return cls(
            path=path,
            spec=ModelSpec.from_dict(values["spec"]),
            precision=Precision(values["precision"]),
            sha256=str(values["sha256"]),
            source=str(values["source"]),
            parent=values["parent"],
            made_by=dict(values["made_by"]),
            details=msgspec.convert(details, _DETAILS[Kind(values["kind"])]),
        )


def _details_of_schema_1(details: dict[str, Any]) -> dict[str, Any]:
    """Return the details that version 0.1 wrote in the words of today."""
    words = {"auto": "autotune", "minimum": "min", "typical": "opt", "maximum": "max"}
    words["pictures"] = "images"  # version 0.1 called them so

    def renamed(value: Any) -> Any:
        return {words.get(k, k): renamed(v) for k, v in value.items()} if isinstance(value, dict) else value

    forms = {"weak": Form.WEAKLY_TYPED, "strong": Form.STRONGLY_TYPED}
    forms["weak-10"] = Form.WEAKLY_TYPED_TRT10  # version 0.1 called it so
    converted: dict[str, Any] = renamed(details)
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
        raise ArtifactError(
            f"{path}: no such file", say("give one of the paths that 'hasn-edge build' prints"), *AGAIN
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
    spec: ModelSpec,
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
