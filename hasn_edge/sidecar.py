"""What a sidecar states: a record for every kind of fact, and what each kind of file has of them."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, ClassVar

import msgspec

Shape = tuple[int, int, int, int]
"""Of a tensor: NCHW, or NHWC where a file takes pixels; -1 for any number."""


class Kind(str, Enum):
    """What sort of file an artifact is."""

    TORCHSCRIPT = "torchscript"
    PT2 = "pt2"
    """A program of ``torch.export``, or a package that AOTInductor compiled of one."""
    ONNX = "onnx"
    ENGINE = "engine"

    @property
    def suffix(self) -> str:
        """File name ending, with the dot."""
        return {"torchscript": ".ts", "pt2": ".pt2", "onnx": ".onnx", "engine": ".engine"}[self.value]


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
    budget_worst_db: float | None = None
    """Largest accepted loss of one image's PSNR-Y in dB; ``None`` where none was set."""
    optimized_dpsnr_db: float | None = None
    """The drift as ONNX Runtime's optimized integer kernels of the building CPU compute it; ``None`` where
    the file is not run so."""
    optimized_worst_dpsnr_db: float | None = None
    outside: float | None = None
    """Largest share of a convolution's INT8 input that lies outside its range on these images, 0 to 1."""
    outside_convolution: str = ""
    """The convolution that has it."""


class PixelLevels(_Record, frozen=True, kw_only=True):
    """8-bit output of a file that takes and gives pixels, against the file of floats."""

    levels: int
    """How many were compared."""
    differing: int
    largest: int
    """Largest difference."""


class NoiseRecord(_Record, frozen=True, kw_only=True):
    """How far a file's output is from its reference on noise; see :mod:`hasn_edge.evaluation.compare`.

    It shows a wrong file and not the quality of a right one: noise exceeds every range that photographs set,
    so that INT8 saturates on it.
    """

    max_abs: float | None
    psnr_db: float | None
    worst_psnr_db: float | None
    worst: int
    images: int
    not_finite: int


class QualityRecord(_Record, frozen=True, kw_only=True, omit_defaults=True):
    """How far a file's output is from its reference: on images first."""

    against: str
    held_out: HeldOut | None = None
    """``None`` for FP32, which must agree value by value."""
    further: tuple[HeldOut, ...] = ()
    """The other parts of the held-out images, each of which has to keep the budget."""
    pixels: PixelLevels | None = None
    """``None`` for a file of floats."""
    noise: NoiseRecord

    @property
    def parts(self) -> tuple[HeldOut, ...]:
        """All parts of the held-out images."""
        return () if self.held_out is None else (self.held_out, *self.further)


class RangesRecord(_Record, frozen=True, kw_only=True):
    """The ranges of an INT8 graph; see :class:`hasn_edge.quantize.ranges.Ranges`."""

    observer: str
    percentile: float | None
    fingerprint: str
    images: int
    values: dict[str, float]
    peaks: dict[str, float]
    lows: dict[str, float] = {}
    spread: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {}
    gates: dict[str, tuple[float, ...]] = {}


class AutotuneRecord(_Record, frozen=True, kw_only=True):
    """Why this precision was kept, where it was measured instead of chosen."""

    candidates: tuple[str, ...]
    left_out: tuple[str, ...]
    why: str
    backend: str | None = None
    """What runs the file fastest; ``None`` where only one backend runs it."""
    machine: str = ""
    """Where it was measured, see :func:`hasn_edge.runtime.choice.describe_machine`."""
    when: str = ""
    """UTC, ISO 8601."""
    max_latency_ms: float | None = None
    """The largest median latency of a call that was accepted; ``None`` where the fastest was wanted."""


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


class KernelLine(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One kernel of an engine."""

    name: str
    """The compiler's own."""
    convolution: bool
    reads: str
    """Type of its first input, of a convolution that of its weights: ``"Half"``, ``"Int8"``, ``"Float"``."""
    writes: str
    """Type of its first output."""
    read_bytes: int | None
    """Of inputs and constants, whole tensors; ``None`` where the size is open."""
    written_bytes: int | None
    nodes: str
    """Nodes of the graph that it computes, with spaces between."""

    @property
    def moved_bytes(self) -> int | None:
        """Read and written."""
        return _both(self.read_bytes, self.written_bytes)


def _both(read: int | None, written: int | None) -> int | None:
    return None if read is None or written is None else read + written


class KernelRecord(_Record, frozen=True, kw_only=True):
    """The kernels of an engine, as its compiler lists them."""

    all: int
    convolutions: dict[str, int]
    """How many read and write which types: ``"Half -> Half"``, ``"Int8 -> Float"``."""
    read_bytes: int | None = None
    """For one input of :attr:`images`; ``None`` where its size is open."""
    written_bytes: int | None = None
    rounding: int = 0
    """Kernels that quantize or dequantize alone: Q/DQ that was not fused into a convolution."""
    activation_bytes: int | None = None
    """Scratch memory of one execution at ``size``, as the compiler states it; ``None`` where it does not."""
    size: tuple[int, int] | None = None
    """(height, width) that all sizes here hold for: of an engine that takes several, its optimal one."""
    images: int = 1
    """How many images of that size they hold for: an engine's optimal batch."""
    lines: tuple[KernelLine, ...] = ()
    """All of them, in the order that they run in."""

    @property
    def moved_bytes(self) -> int | None:
        """Read and written for one input of :attr:`images`."""
        return _both(self.read_bytes, self.written_bytes)

    @property
    def convolutions_all(self) -> int:
        """Kernels that are convolutions."""
        return sum(self.convolutions.values())

    @property
    def integer(self) -> int:
        """Convolutions that compute in INT8."""
        return sum(n for types, n in self.convolutions.items() if types.startswith("Int8"))

    @property
    def wide(self) -> int:
        """Those of them that write FP32: what follows is not fused into them."""
        return self.convolutions.get("Int8 -> Float", 0)


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


class BuildAskedFor(_Record, frozen=True, kw_only=True):
    """What the user gave for a build and its result does not show: names of files, without their folders."""

    recipe: str | None = None
    """For INT8, as are the images of :attr:`calibration`."""
    calibration: str | None = None
    evaluation: str | None = None
    """The images that the budget was kept on; those that ship where ``None``."""
    name: str | None = None
    """What the files' names begin with; the model's own where ``None``."""


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


class ProgramDetails(Details, frozen=True, kw_only=True, omit_defaults=True):
    """What only a ``.pt2`` file's sidecar states."""

    kind = Kind.PT2

    least_side: int
    """Least height and width in pixels that it takes."""
    compiled_for: str | None = None
    """PyTorch and machine of a package of AOTInductor; ``None`` for a program of ``torch.export``."""
    device: str | None = None
    """``"cpu"`` or ``"cuda"``: what a package was compiled for."""


class GraphDetails(Details, frozen=True, kw_only=True, omit_defaults=True):
    """What only an ONNX graph's sidecar states."""

    kind = Kind.ONNX

    form: Form
    opset: int
    builder_flags: tuple[str, ...] = ()
    """What TensorRT must be given besides a weakly typed graph."""
    fused: tuple[str, ...] = ()
    """Fusion rules that were applied."""
    least_side: int | None = None
    """Least height and width in pixels that the network takes; ``None`` in files of version 0.1."""
    padded: bool = False
    """Whether the graph pads smaller images to :attr:`least_side` itself, and crops its output."""
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
    kernels: KernelRecord | None = None
    """``None`` where the compiler did not list them."""
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
    asked: BuildAskedFor | None = None
    emulated_as: str = ""
    """The graph that predicts on a CPU what the engine computes."""
    golden: Golden | None = None
    cache_key: str | None = None
    """Hash of everything that decides the engine: one that has it need not be built again."""
