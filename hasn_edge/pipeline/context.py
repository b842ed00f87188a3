"""What is built: the options, the model and the images for its ranges, and files that have no name yet."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hasn_edge.artifact import Artifact, publish, read_sidecar
from hasn_edge.engine.target import EngineRuntime, EngineTarget, load_target
from hasn_edge.errors import (
    ArtifactError,
    OutputError,
    ShapeError,
    UnsupportedError,
    omit,
    say,
    use,
)
from hasn_edge.model.comparators import RANDOM, split_name
from hasn_edge.model.zoo import (
    is_foreign_network,
    load_model_checkpoint,
    model_name,
    model_path,
    require_name,
)
from hasn_edge.optional import installed_version
from hasn_edge.pipeline.foreign_graph import ForeignGraph, load_foreign
from hasn_edge.progress import Progress, Step
from hasn_edge.quantize.recipe import Saving, load_quant_recipe
from hasn_edge.runtime.graph_probe import source_sha256
from hasn_edge.sidecar import Details, Form, Kind
from hasn_edge.spec import NetworkSpec, Precision

if TYPE_CHECKING:
    from hasn_edge.data.calibration import CalibrationData
    from hasn_edge.data.pairs import EvalSet
    from hasn_edge.model.checkpoint import Checkpoint
    from hasn_edge.quantize.recipe import QuantRecipe

AUTO = "auto"
"""The precision that is measured instead of chosen."""

CACHE = "cache"
"""Folder below the output's in which timings and measurements of earlier builds are kept."""

SEARCH = "search"
"""The recipe whose convolutions a search chooses from, unless the user names one."""

TOOLS = ("hasn-edge", "torch", "onnx", "onnxsim", "onnxruntime", "numpy")
"""Distributions whose versions go into sidecars."""

BACKENDS = {
    EngineRuntime.CPU: "onnxruntime",
    EngineRuntime.RTX: "rtx",
    EngineRuntime.TENSORRT: "tensorrt",
    EngineRuntime.PORTABLE: "tensorrt",
}
"""What the fusion rules of a runtime are called."""

ImageSize = tuple[int, int]
"""(height, width) in pixels."""


class Int8Method(str, Enum):
    """Where the ranges of INT8 come from."""

    QDQ = "qdq"
    """Measured here, by our observers, and written into the graph: any TensorRT reads it, and a CPU."""
    CALIBRATOR = "calibrator"
    """TensorRT's own entropy calibrator: 8.5 to 10 only, known on the device only."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What shall be built; the command line fills one, and every function of a build reads it.

    Raises:
        UnsupportedError: a precision or INT8 method that does not exist, or a limit that is no number.
    """

    model: str | Path
    """Bundled name, ``.safetensors``, ``.pth``, the ``.onnx`` of any super-resolution network, or another
    paper's as ``"span=FILE"``."""
    precision: str = "fp16"
    """``"fp32"``, ``"fp16"``, ``"int8"``, or ``"auto"``: those that make sense are built and timed here, on a
    CPU by each backend, and the fastest that keeps its budget is published."""
    target: str | Path | None = None
    """``"cpu"`` for the graph that ONNX Runtime runs here, ``"portable"`` for the weakly and the strongly
    typed graph that TensorRT 8.5 to 11 read, or an engine target by name or file;
    :func:`hasn_edge.pipeline.build.default_target` where ``None``."""
    calibration: str | Path | None = None
    """Images for INT8 ranges: a folder or a manifest; those of the recipe where ``None``."""
    evaluation: str | Path | None = None
    """Images that the budget is kept on instead of those that ship: a folder, see
    :func:`hasn_edge.data.pairs.load_eval_set`."""
    recipe: str | Path = "default"
    """INT8 recipe by name or file."""
    max_drop: float | None = None
    """Search the cheapest placement of INT8 that loses at most so many dB of PSNR-Y, in the mean of each part
    of the held-out images, among what the recipe selects; instead of ``"default"`` that is ``"search"``."""
    cost: str | None = None
    """What a search saves: ``"macs"``, ``"bytes"`` that kernels move, or ``"ms"`` measured here; what the
    target pays where ``None``, see :func:`hasn_edge.pipeline.costs.choose_saving`."""
    finetune: str | None = None
    """Adapt the weights to INT8 for so long (``"90s"``, ``"20m"``, ``"1h"``), without labels: the INT8
    network follows the FP32 network on the calibration images. With ``max_drop``, only where INT8 of all that
    the recipe selects loses more; where it still does afterwards, a placement is searched."""
    max_latency: float | None = None
    """With ``"auto"``: the largest accepted median latency in milliseconds, measured here, of a call with as
    many images as :attr:`batch`; what loses the least of all that keeps it is published instead of the
    fastest."""
    size: ImageSize | None = None
    """The one (height, width) in pixels; otherwise the target's shapes."""
    dynamic: tuple[ImageSize, ImageSize, ImageSize] | None = None
    """Smallest, optimal and largest (height, width) of an engine that takes a range of sizes."""
    batch: int | None = None
    """Images at a time, at most: an engine takes 1 to so many, fastest at so many; a graph any number. The
    target's where ``None``, which is 1 but for a file that states another number."""
    pixels: bool = False
    """Take and give NHWC uint8 instead of NCHW float32: a quarter of the bytes to copy."""
    int8_method: str = Int8Method.QDQ.value
    """``"qdq"``, ranges written into the graph; or ``"calibrator"``, chosen by TensorRT 8.5 to 10 itself, to
    compare with."""
    rebuild: bool = False
    """Compile even if ``output`` holds an engine that was built from the same things."""
    output: str | Path = "engines"
    """Folder of the published files."""
    name: str | None = None
    """What the files' names begin with; :func:`hasn_edge.model.zoo.model_name` where ``None``."""
    force: bool = False
    """Replace files of this name that were made of other weights; and make INT8 of a network that is worse
    than bicubic interpolation."""

    def __post_init__(self) -> None:
        if self.precision != AUTO:
            object.__setattr__(self, "precision", Precision.parse(self.precision).value)
        if self.max_drop is not None and not 0 < self.max_drop < 100:
            raise UnsupportedError(
                f"max_drop is {self.max_drop}; expected a number of dB above 0", use(max_drop=0.03)
            )
        for what, value, kind in (("cost", self.cost, Saving), ("INT8 method", self.int8_method, Int8Method)):
            known = [each.value for each in kind]
            if value is not None and value not in known:
                raise UnsupportedError(f"unknown {what} {value!r}; choose one of: {', '.join(known)}")
        if self.finetune is not None and self.finetune_seconds is None:
            raise UnsupportedError(
                f"finetune is {self.finetune!r}; expected a time of 1 or more seconds, minutes or hours",
                use(finetune="90s"),
                use(finetune="20m"),
                use(finetune="1h"),
            )
        if self.max_latency is not None and not 0 < self.max_latency < math.inf:
            raise UnsupportedError(
                f"max_latency is {self.max_latency}; expected a number of milliseconds above 0",
                use(max_latency=16),
            )

    @property
    def int8_recipe(self) -> str | Path:
        """The recipe that a build in INT8 begins with."""
        return SEARCH if self.max_drop is not None and str(self.recipe) == "default" else self.recipe

    @property
    def finetune_seconds(self) -> int | None:
        """How long the weights are adapted; ``None`` where they are not."""
        found = re.fullmatch(r"([1-9][0-9]{0,5})([smh])", str(self.finetune or ""), re.ASCII)
        return int(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found else None

    @property
    def calibrator(self) -> bool:
        """Whether TensorRT shall choose INT8's ranges itself."""
        return self.int8_method == Int8Method.CALIBRATOR.value

    def resolve_target(self, default: str) -> EngineTarget:
        """Return the target with the shapes asked for.

        Args:
            default: The target's name where none is asked for.

        Raises:
            UnsupportedError: options that exclude each other, or that this target does not have.
            HasnEdgeError: see :func:`hasn_edge.engine.target.load_target`.
        """
        if self.size is not None and self.dynamic is not None:
            raise UnsupportedError(
                "a fixed size and a range of sizes exclude each other", omit("size"), omit("dynamic")
            )
        target = load_target(default if self.target is None else self.target)
        if self.dynamic is not None:
            if not target.runtime.compiles:
                raise UnsupportedError(f"the target {target.name!r} takes any size as it is", omit("dynamic"))
            target = target.with_range(*self.dynamic)
        if self.size is not None:
            target = target.with_size(*self.size)
        return target if self.batch is None else target.with_batch(self.batch)

    def sizes(self, target: EngineTarget) -> tuple[ImageSize, ...]:
        """Return each (height, width) that files for a target have to take; none where a graph takes any."""
        if target.runtime.compiles:
            return target.shapes.sizes
        return () if self.size is None else (self.size,)


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """One model that is made into files: data only."""

    name: str
    """The start of every file's name."""
    model: str
    """What a sidecar calls the model: never a folder of the machine that built the file."""
    checkpoint: Checkpoint | ForeignGraph
    held_out: tuple[EvalSet, ...]
    """Images that quality is measured on, in parts; none of them is used for calibration."""
    rules: tuple[str, ...] = ()
    """Fusion rules of the backend that the files are for."""
    pixels: bool = False
    """Whether graphs take and give 8-bit pixels instead of floats."""
    batch: tuple[int, int] = (1, 1)
    """Smallest and largest number of images that files take at a time."""
    recipe: QuantRecipe | None = None
    """How INT8 is made; ``None`` for other precisions, as are the images."""
    images: CalibrationData | None = None
    force: bool = False
    """Accept INT8 of a network that is worse than bicubic interpolation."""
    adapted: tuple[str, ...] = ()
    """What was changed of the recipe for a graph of somebody else's, and that weights were adapted to INT8, a
    sentence each."""

    @property
    def count(self) -> int | None:
        """How many images a graph takes at a time; ``None`` for any number."""
        return self.batch[1] if self.batch[0] == self.batch[1] else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the images, a sentence each."""
        return (*self.adapted, *(() if self.images is None else self.images.describe()))

    def makes(self, form: Form, precision: Precision) -> bool:
        """Say whether there can be a graph of this kind: from weights all of them."""
        return True

    def identity(self, form: Form, precision: Precision, size: ImageSize | None) -> str:
        """Return a hash of everything that decides a graph, without making it."""
        facts = {
            "source": self.checkpoint.sha256,
            "rules": list(self.rules),
            "pixels": self.pixels,
            "form": form.value,
            "precision": precision.value,
            "size": size,
            "batch": self.count,
            "recipe": self.recipe.to_dict() if self.recipe and precision is Precision.INT8 else None,
            "images": self.images.fingerprint if self.images else None,
            "held_out": [part.fingerprint for part in self.held_out],
            "tools": {tool: installed_version(tool) for tool in TOOLS},
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def load_context(
    model: str | Path,
    *,
    runtime: EngineRuntime | None = None,
    pixels: bool = False,
    batch: tuple[int, int] = (1, 1),
    recipe: str | Path | None = None,
    calibration: str | Path | None = None,
    evaluation: str | Path | None = None,
    sizes: tuple[ImageSize, ...] = (),
    called: str | None = None,
    force: bool = False,
    progress: Progress,
) -> BuildContext:
    """Load a model and, for INT8, its recipe and calibration images.

    Args:
        model: As :attr:`BuildOptions.model`.
        runtime: What the files are for: the network is fused by its rules; not at all where ``None``.
        pixels: As :attr:`BuildContext.pixels`.
        batch: As :attr:`BuildContext.batch`.
        recipe: Name or file; ``None`` where nothing becomes INT8.
        calibration: Images instead of the recipe's.
        evaluation: As :attr:`BuildOptions.evaluation`.
        sizes: What :func:`require_size` shall refuse before images are read.
        called: The start of every file's name; the model's own where ``None``.
        force: As :attr:`BuildContext.force`.
        progress: Receives what is under way.

    Raises:
        ShapeError: one of ``sizes`` is none of the network's.
        HasnEdgeError: the model, the recipe or the images cannot be read.
    """
    from hasn_edge.data.calibration import load_calibration
    from hasn_edge.data.pairs import held_out_sets

    progress(Step("loading the model"))
    name = called or model_name(model)
    checkpoint: Checkpoint | ForeignGraph = (
        load_foreign(model) if is_foreign_network(model) else load_model_checkpoint(model)
    )
    require_size(name, checkpoint.spec, *sizes)
    other = split_name(model)
    untrained = other is not None and other[1] == RANDOM
    loaded = None if recipe is None else load_quant_recipe(recipe)
    adapted: list[str] = []
    rules: tuple[str, ...] = ()
    if isinstance(checkpoint, ForeignGraph):
        if loaded is not None:
            loaded, *adapted = checkpoint.adapt(loaded)
    else:
        if runtime is not None:
            from hasn_edge.fuse.apply import DEFAULT_RULES

            rules = DEFAULT_RULES[BACKENDS[runtime]]
        if "finetuned" in checkpoint.provenance:
            lost = checkpoint.provenance["finetuned"]["loss_db"]
            adapted.append(
                f"{name}: weights that were adapted to INT8, which lost {lost['mean']:.4f} dB then (worst "
                f"image {lost['worst']:.4f}) against the FP32 network that they come from; what is measured "
                "here is against the adapted weights"
            )
    return BuildContext(
        name=name,
        model=Path(model).name if other is None else f"{other[0]}={Path(other[1]).name}",
        checkpoint=checkpoint,
        # Random weights have no quality that could be lost.
        held_out=() if untrained else held_out_sets(checkpoint.spec.scale, evaluation),
        rules=rules,
        pixels=pixels,
        batch=batch,
        recipe=loaded,
        images=load_calibration(calibration or loaded.calibration) if loaded else None,
        adapted=tuple(adapted),
        force=force,
    )


def load_target_context(options: BuildOptions, target: EngineTarget, progress: Progress) -> BuildContext:
    """Load what files for a target are made of, as its shapes and the options ask for it.

    Args:
        options: What is built.
        target: As :meth:`BuildOptions.resolve_target` returns it.
        progress: Receives what is under way.

    Raises:
        ShapeError: the target's sizes are none of the network's.
        HasnEdgeError: the model, the recipe or the images cannot be read.
    """
    least = target.shapes.min[0] if target.runtime.compiles else 1
    return load_context(
        options.model,
        runtime=target.runtime,
        pixels=options.pixels,
        batch=(least, target.shapes.max[0]),
        recipe=options.int8_recipe if options.precision == Precision.INT8.value else None,
        calibration=options.calibration,
        evaluation=options.evaluation,
        sizes=options.sizes(target),
        called=options.name,
        force=options.force,
        progress=progress,
    )


def refuse_other_sources(
    model: str | Path, folder: Path, *, called: str | None, force: bool, source: str | None = None
) -> None:
    """Refuse, before any work, a name that files of other weights have in ``folder``.

    Args:
        model: As :attr:`BuildOptions.model`.
        folder: Where the files will be.
        called: As :attr:`BuildOptions.name`.
        force: Do not refuse.
        source: SHA-256 of the weights, where the model is none but finished graphs of some.

    Raises:
        InputError: the name is no file's name.
        OutputError: a built file of that name was made of other weights.
        CheckpointError: no such model.
    """
    renames = source is None
    if renames:
        require_name(called)
    path = Path(model) if source else model_path(model)
    if force or not folder.is_dir() or (renames and not path.is_file()):
        return
    name, source = called or model_name(model), source or source_sha256(path)
    for file in sorted(folder.glob(f"{glob.escape(name)}-*")):
        try:
            other = read_sidecar(file)
        except ArtifactError:
            continue  # no built file, or one that nothing opens
        rest = file.name.removeprefix(name)
        if other.kind is Kind.ENGINE:  # its target may be called after a precision, as a model may
            rest = rest.replace(f"-{other.engine.target}", "", 1)
        if not re.match(r"-(fp32|fp16|int8)\b(?!.*-(fp32|fp16|int8)\b)", rest):
            continue  # of a longer name
        if other.source != source:
            raise OutputError(
                f"{file} was made of other weights (SHA-256 {other.source[:12]}...) than {model} "
                f"({source[:12]}...), and files of one name would not tell which they are",
                *([use(name="NAME")] if renames else []),
                use(force=True),
                say("choose another folder"),
            )


def require_size(name: str, spec: NetworkSpec, *sizes: ImageSize) -> None:
    """Refuse what the network does not take, before anything is made for it.

    Args:
        name: The model's.
        spec: Of the network.
        sizes: One (height, width), or the smallest, the optimal and the largest of a range.

    Raises:
        ShapeError: one is too small, or not of the multiples that the network takes.
    """
    rule = spec.size
    for height, width in sizes:
        if min(height, width) < rule.minimum:
            least = f"{rule.minimum}x{rule.minimum}"
            raise ShapeError(
                f"{name} takes no less than {least} pixels, and {width}x{height} was asked for: smaller "
                "images are padded to that before they are upscaled",
                say(f"ask for {least} or more, as the size, the range of sizes or the target's shapes"),
            )
    fitting = tuple(rule.fitting(*size) for size in sizes)
    wrong = [f"{size[1]}x{size[0]}" for size, other in zip(sizes, fitting, strict=True) if size != other]
    if wrong:
        one = use(size=fitting[len(fitting) // 2])
        raise ShapeError(
            f"{name} takes sides that {rule.multiple} divides, and {' and '.join(wrong)} "
            f"{'was' if len(wrong) == 1 else 'were'} asked for",
            *([one] if len(sizes) == 1 else [use(dynamic=fitting), one]),
        )


@dataclass(frozen=True, kw_only=True)
class FinishedFile:
    """A checked file that has no name on disk yet."""

    data: bytes = field(repr=False)
    precision: Precision
    suffix: str
    """What its name has after the precision."""
    details: Details
    notes: tuple[str, ...]
    """What was found while it was made and checked, a sentence each."""
    parent: str | None = None
    made_by: Mapping[str, str] = field(default_factory=dict)
    original: Artifact | None = None
    """The published file that these bytes are of: its sidecar goes with them."""


def publish_file(context: BuildContext, file: FinishedFile, folder: Path, progress: Progress) -> Artifact:
    """Give a finished file its name in ``folder``, with its sidecar."""
    details = file.details
    sized = f"-{details.size[1]}x{details.size[0]}" if details.size else ""
    pixels = "-u8" if context.pixels else ""
    several = {"batch": context.batch} if context.batch[1] > 1 else {}
    batch = f"-b{context.batch[1]}" if several else ""
    name = f"{context.name}-{file.precision.value}{file.suffix}{pixels}{sized}{batch}"
    path = folder / f"{name}{details.kind.suffix}"
    progress(Step(f"writing {path}"))
    if (original := file.original) is not None:
        there = path.resolve() == original.path.resolve()
        return original if there else original.publish_copy(file.data, path)
    versions = {tool: version for tool in TOOLS if (version := installed_version(tool))}
    return publish(
        file.data,
        path,
        spec=context.checkpoint.spec,
        precision=file.precision,
        source=context.checkpoint.sha256,
        parent=file.parent,
        made_by={**versions, **file.made_by},
        details=msgspec.structs.replace(details, pixels=context.pixels, **several),
    )
