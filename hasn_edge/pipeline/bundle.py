"""Finished graphs, a bundle of them or one alone, from which a board builds engines without PyTorch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, cast

import msgspec

from hasn_edge.artifact import Artifact, load_artifact, read_sidecar
from hasn_edge.engine.target import EngineTarget
from hasn_edge.errors import (
    ArtifactError,
    UnsupportedError,
    VerificationError,
    call,
    omit,
    say,
    use,
)
from hasn_edge.files import file_sha256, require_new_folder, require_writable, writing_folder
from hasn_edge.model.zoo import is_foreign_network, require_name
from hasn_edge.optional import require
from hasn_edge.pipeline.context import (
    BuildContext,
    BuildOptions,
    FinishedFile,
    ImageSize,
    load_context,
    publish_file,
    require_size,
)
from hasn_edge.pipeline.variants import Variants
from hasn_edge.progress import Progress, Step, ignore
from hasn_edge.runtime.golden import find_difference, make_golden
from hasn_edge.runtime.onnxruntime import OnnxRuntimeSession
from hasn_edge.sidecar import Form, Golden, Kind
from hasn_edge.spec import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

    from hasn_edge.pipeline.foreign_graph import ForeignGraph
    from hasn_edge.spec import NetworkSpec

INDEX, SUMS = "bundle.json", "SHA256SUMS"

FORMS = (
    (Form.WEAKLY_TYPED, Precision.FP32),
    (Form.WEAKLY_TYPED_TRT10, Precision.FP32),
    (Form.STRONGLY_TYPED, Precision.FP32),
    (Form.STRONGLY_TYPED, Precision.FP16),
    (Form.WEAKLY_TYPED, Precision.INT8),
    (Form.WEAKLY_TYPED_TRT10, Precision.INT8),
    (Form.STRONGLY_TYPED, Precision.INT8),
)
"""What TensorRT 8.5 to 11 and TensorRT for RTX make FP32, FP16 and INT8 engines of."""

_GOLDEN_SIZE = (90, 160)

_COPY_AGAIN = say("copy the bundle again, and compare with: sha256sum -c SHA256SUMS")


class _Index(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle states of itself."""

    name: str
    model: str
    source: str
    """SHA-256 of the weights."""
    files: dict[str, str]
    """Names of its graphs, by form and precision."""
    golden: Golden | None
    """What the FP32 graph makes of an image that every machine computes alike."""


def export_bundle(
    model: str | Path,
    output: str | Path = "bundle",
    *,
    recipe: str | Path = "default",
    calibration: str | Path | None = None,
    name: str | None = None,
    force: bool = False,
    progress: Progress = ignore,
) -> Path:
    """Write the graphs of a model that a board builds its engines from; the folder is whole or not there.

    Args:
        model: Bundled name, ``.safetensors`` or ``.pth``.
        output: The folder, which must not exist or be empty.
        recipe: INT8 recipe by name or file.
        calibration: Images for INT8 ranges instead of the recipe's.
        name: What its files' names begin with; the model's own where ``None``.
        force: Write INT8 of a network that is worse than bicubic interpolation too.
        progress: Receives what is under way.

    Returns:
        The folder.

    Raises:
        InputError: the name is no file's name.
        VerificationError: a graph misses its budget; nothing was written.
        OutputError: the folder is not empty or cannot be written.
        HasnEdgeError: the model, the recipe or the images cannot be read.
    """
    output = Path(output)
    require_name(name)
    require_new_folder(output)
    require_writable(output, folder=True)
    options: dict[str, Any] = {"called": name, "force": force, "progress": progress}
    variants = Variants(load_context(model, recipe=recipe, calibration=calibration, **options), progress)
    files = [variants.make_graph(form, precision, size=None) for form, precision in FORMS]
    context = variants.context
    with OnnxRuntimeSession(files[0].data, context.checkpoint.spec) as session:
        golden = make_golden(session, _GOLDEN_SIZE)
    with writing_folder(output) as staging:
        artifacts = [publish_file(context, file, staging, progress) for file in files]
        index = _Index(
            name=context.name,
            model=context.model,
            source=context.checkpoint.sha256,
            files={_key(*kind): made.path.name for kind, made in zip(FORMS, artifacts, strict=True)},
            golden=golden,
        )
        text = json.dumps(msgspec.to_builtins(index), indent=1, allow_nan=False)
        (staging / INDEX).write_text(text + "\n", encoding="utf-8")
        (staging / "README.md").write_text(_readme(context.name, artifacts), encoding="utf-8")
        sums = [f"{file_sha256(path)}  {path.name}\n" for path in sorted(staging.iterdir())]
        (staging / SUMS).write_text("".join(sums), encoding="utf-8")
    return output


def require_bundle(folder: Path) -> Path:
    """Return a folder that is a bundle.

    Raises:
        ArtifactError: it is none.
    """
    if not is_bundle(folder):
        raise ArtifactError(f"{folder}: no bundle, it has no {INDEX}", call("export", format="bundle"))
    return folder


def is_bundle(model: str | Path) -> bool:
    """Whether a model is the folder of a bundle."""
    return Path(model, INDEX).is_file()


def is_finished(model: str | Path) -> bool:
    """Whether a model is a bundle, or one graph of ours with its sidecar: it is compiled as it is."""
    return is_bundle(model) or (Path(model).suffix == ".onnx" and not is_foreign_network(model))


@dataclass(frozen=True, kw_only=True)
class BundledGraphs:
    """Finished graphs of one model: what a checkpoint is to a network of ours."""

    path: Path
    """The bundle's folder, or the file."""
    index: _Index
    graphs: dict[tuple[Form, Precision], Artifact]

    @property
    def spec(self) -> NetworkSpec:
        """The network."""
        return next(iter(self.graphs.values())).spec

    @property
    def sha256(self) -> str:
        """Hash of the weights that the graphs were made of."""
        return self.index.source

    def find(self, form: Form, precision: Precision) -> Artifact | None:
        """Return the graph of one kind, or one that the same TensorRT reads; ``None`` without it."""
        found = self.graphs.get((form, precision))
        if found is None and form is Form.WEAKLY_TYPED_TRT10:
            return self.graphs.get((Form.WEAKLY_TYPED, precision))
        return found

    def of(self, form: Form, precision: Precision) -> Artifact:
        """Return the graph of one kind.

        Raises:
            UnsupportedError: there is none; says of what form they are.
        """
        found = self.find(form, precision)
        if found is not None:
            return found
        if self.path.is_dir():
            raise UnsupportedError(
                f"{self.path}: a bundle has graphs for TensorRT, and none of form {form.words}",
                use(target="tensorrt"),
                use(target="rtx"),
            )
        ((own, _),) = self.graphs
        raise UnsupportedError(
            f"{self.path}: its form is {own.words}, and what compiles here reads {form.words} graphs",
            say("take the file of that form"),
            call("export", format="bundle"),
        )


def name_and_source(model: str | Path) -> tuple[str, str]:
    """Return what files made of finished graphs are called after, and the SHA-256 of the weights.

    Raises:
        ArtifactError: the bundle's index or the graph's sidecar cannot be read.
    """
    path = Path(model)
    if is_bundle(path):
        index = _read_index(path)
        return index.name, index.source
    artifact = read_sidecar(path)
    return _name_of(artifact), artifact.source


def _read_index(folder: Path) -> _Index:
    try:
        return msgspec.json.decode((folder / INDEX).read_bytes(), type=_Index)
    except (OSError, msgspec.MsgspecError) as exc:
        raise ArtifactError(f"{folder / INDEX}: no readable bundle ({exc})", _COPY_AGAIN) from exc


def _name_of(artifact: Artifact) -> str:
    """Return what a graph's name has before the precision, which the model's own may have in it too."""
    return artifact.path.name.rpartition(f"-{artifact.precision.value}-")[0] or artifact.path.stem


def load_bundle(folder: Path) -> BundledGraphs:
    """Open a bundle: every graph against its sidecar, and the FP32 one against the golden image.

    Raises:
        ArtifactError: something is missing or was changed.
        VerificationError: ONNX Runtime computes something else here than where the bundle was made.
    """
    index = _read_index(folder)
    graphs = {}
    for kind in FORMS:
        if _key(*kind) not in index.files:
            raise ArtifactError(f"{folder / INDEX}: it names no {_key(*kind)} graph", _COPY_AGAIN)
        graphs[kind] = load_artifact(folder / index.files[_key(*kind)])
    bundle = BundledGraphs(path=folder, index=index, graphs=graphs)
    if index.golden is None:
        raise ArtifactError(f"{folder / INDEX}: it states no golden image", _COPY_AGAIN)
    with OnnxRuntimeSession(graphs[FORMS[0]].path, bundle.spec) as session:
        if (problem := find_difference(session, index.golden)) is not None:
            raise VerificationError(
                f"{folder}: the golden image comes out wrong in ONNX Runtime on this machine: {problem}",
                say("install another version of ONNX Runtime"),
            )
    return bundle


def load_graph(path: Path, precision: Precision) -> BundledGraphs:
    """Open one graph that was built elsewhere, to compile it as it is.

    Args:
        path: The file, its sidecar beside it.
        precision: What the engine shall compute in: the graph's own.

    Raises:
        ArtifactError: it was changed, or is no graph.
        UnsupportedError: it is for ONNX Runtime, of another precision, or not of one float image.
    """
    artifact = load_artifact(path)
    if artifact.kind is not Kind.ONNX:
        raise ArtifactError(f"{path}: no graph but of kind {artifact.kind.value}")
    form, own = artifact.graph.form, artifact.precision
    if form is Form.CPU:
        raise UnsupportedError(
            f"{path}: a graph for ONNX Runtime on a CPU, and engines are compiled of weakly or strongly "
            "typed ones",
            call("build", target="portable"),
            call("export", format="bundle"),
        )
    if own is not precision:
        raise UnsupportedError(
            f"{path}: its precision is {own.value}, and {precision.value} was asked for",
            use(precision=own.value),
        )
    if artifact.pixels or artifact.details.batch != (1, 1):
        raise UnsupportedError(
            f"{path}: it takes 8-bit pixels or several images, and graphs of one float image are compiled",
            call("build", target="portable"),
        )
    index = _Index(name=_name_of(artifact), model=path.name, source=artifact.source, files={}, golden=None)
    return BundledGraphs(path=path, index=index, graphs={(form, own): artifact})


@dataclass(frozen=True, kw_only=True)
class _BundleContext(BuildContext):
    """A bundle that is made into files; its graphs are known by their hashes."""

    bundle: BundledGraphs

    def makes(self, form: Form, precision: Precision) -> bool:
        """Say whether there is a graph of this kind."""
        return self.bundle.find(form, precision) is not None

    def identity(self, form: Form, precision: Precision, size: ImageSize | None) -> str:
        """Return a hash of everything that decides a graph, without making it."""
        return f"{self.bundle.of(form, precision).sha256} {size}"


class BundleVariants(Variants):
    """Hands out finished graphs, which were checked when they were made, of one size where that is asked.

    Args:
        options: What is built; its model is the bundle's folder, or one graph.
        target: What it is built for.
        progress: Receives what is under way.

    Raises:
        UnsupportedError: options that a bundle does not have.
    """

    def __init__(self, options: BuildOptions, target: EngineTarget, progress: Progress) -> None:
        require("onnx", extra="export", needed_for="Building of finished graphs")
        given = {
            "pixels": options.pixels,
            "int8_method": options.calibrator,
            "calibration": options.calibration is not None,
            "recipe": str(options.recipe) != "default",
            "evaluation": options.evaluation is not None,
            "max_drop": options.max_drop is not None,
            "finetune": options.finetune is not None,
            "batch": target.shapes.max[0] != 1,
            "name": options.name is not None,
        }
        if any(given.values()):
            raise UnsupportedError(
                f"{options.model}: finished graphs take one float image at a time, and were quantized and "
                "measured where they were made",
                omit(*(name for name, asked in given.items() if asked)),
            )
        progress(Step("checking the finished graphs"))
        path = Path(options.model)
        named = path if path.name not in ("", "..") else path.resolve()  # a link keeps its own name
        bundle = load_bundle(path) if path.is_dir() else load_graph(path, Precision(options.precision))
        require_size(bundle.index.name, bundle.spec, *options.sizes(target))
        context = _BundleContext(
            name=bundle.index.name,
            # What it is built from again: with the weights it would be other graphs.
            model=f"{named.name}/" if path.is_dir() else path.name,
            checkpoint=cast("ForeignGraph", bundle),  # a build of it asks for spec and hash only
            held_out=(),
            bundle=bundle,
        )
        super().__init__(context, progress)
        self.bundle = bundle

    @property
    def exporter(self) -> BundleVariants:  # type: ignore[override]
        """What makes graphs of floats."""
        return self

    def export(
        self, form: Form, precision: Precision, *, size: ImageSize | None, batch: int | None = 1
    ) -> ModelProto:
        """Return a graph, of one size where that is given."""
        import onnx

        from hasn_edge.exporters.least_side import without_padding
        from hasn_edge.exporters.onnx_graph import with_fixed_size

        made = self.bundle.of(form, precision)
        graph = onnx.load(str(made.path))
        if made.size is not None and size != made.size:
            raise UnsupportedError(f"{made.path}: it takes one size only", use(size=made.size))
        if size is None or size == made.size:
            return graph
        return with_fixed_size(without_padding(graph), size, self.bundle.spec.scale)

    def make_graph(
        self,
        form: Form,
        precision: Precision,
        *,
        size: ImageSize | None,
        suffix: str | None = None,
        opset: int | None = None,
    ) -> FinishedFile:
        """Return a graph of the bundle as a file; see :meth:`export`."""
        graph, made = self.export(form, precision, size=size), self.bundle.of(form, precision)
        as_it_is = size == made.size
        details = made.graph if as_it_is else msgspec.structs.replace(made.graph, size=size, padded=False)
        return FinishedFile(
            data=made.path.read_bytes() if as_it_is else graph.SerializeToString(),
            precision=precision,
            suffix=f"-{form.value}" if suffix is None else suffix,
            details=details,
            notes=(),
            parent=made.sha256,
            original=made if as_it_is else None,
        )


def _key(form: Form, precision: Precision) -> str:
    return f"{form.value} {precision.value}"


def _readme(name: str, artifacts: Sequence[Artifact]) -> str:
    rows = []
    for artifact in artifacts:
        measured = artifact.details.measured
        parts = measured.parts if measured else ()
        drift = ", ".join(f"{part.set} {part.dpsnr_db:+.4f} dB" for part in parts) or "not scored"
        rows.append(f"| {artifact.path.name} | {artifact.path.stat().st_size} | {drift} |")
    page = Template(Path(__file__).with_name("bundle.md").read_text(encoding="utf-8"))
    return page.substitute(name=name, sums=SUMS, rows="\n".join(rows))
