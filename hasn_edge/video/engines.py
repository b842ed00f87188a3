"""Which engines a live run can choose from, best first for this machine, and how each is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hasn_edge.artifact import Artifact, Kind, file_sha256, load_artifact
from hasn_edge.errors import ArtifactError, HasnEdgeError, InputError
from hasn_edge.machine import has_integer_dot_product
from hasn_edge.model.zoo import bundled_onnx, model_name, model_path
from hasn_edge.runtime.open import open_model, open_session
from hasn_edge.runtime.session import Session
from hasn_edge.spec import Precision

SLOTS = 2
"""Of a TensorRT engine: one frame is copied while another is computed."""

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One way to compute."""

    open: Callable[[Size | None], Session]
    """Opens it for frames of a (height, width); ``None`` where that is not known."""
    size: Size | None = None
    """The one (height, width) that it takes; ``None`` for any."""


def engines_of(
    model: str,
    artifacts: Iterable[Path] = (),
    *,
    folder: Path = Path("engines"),
    size: Size | None = None,
    threads: int | None = None,
) -> dict[str, Engine]:
    """Return engines by name, the one to begin with first.

    Args:
        model: Bundled name or weights file.
        artifacts: Built files; where there are any, only these, in this order.
        folder: Where built files of ``model`` are looked for otherwise. Best first: TensorRT engines, FP16
            before INT8; INT8 graphs on a processor that gains by them; the model itself in FP32; the others,
            those for another size last.
        size: (height, width) that was asked for; ``None`` for any.
        threads: Processor threads; ``None`` for the backend's choice.

    Raises:
        ArtifactError: one of ``artifacts`` is missing, damaged or changed.
        CheckpointError: no such model.
    """
    named = [load_artifact(path) for path in artifacts]
    if named:
        return {artifact.path.stem: _built(artifact, threads) for artifact in named}
    shipped = bundled_onnx(model)
    source = file_sha256(model_path(model)) if shipped is None else load_artifact(shipped).source
    ranked = sorted(
        ((_rank(artifact, size), artifact) for artifact in _in(folder) if artifact.source == source),
        key=lambda item: item[0],
    )
    better = {a.path.stem: _built(a, threads) for rank, a in ranked if rank < _MODEL}
    worse = {a.path.stem: _built(a, threads) for rank, a in ranked if rank > _MODEL}
    return {**better, f"{model_name(model)} fp32": _own(model, shipped, threads), **worse}


def open_first(
    engines: Mapping[str, Engine], wanted: str | None, size: Size | None, tell: Callable[[str], None]
) -> tuple[str, Session]:
    """Open the engine to begin with: the one that was named, or the first that works.

    Args:
        engines: As :func:`engines_of` returned them.
        wanted: Its name; ``None`` for the best.
        size: (height, width) of the frames where an engine takes any; ``None`` where it is not known.
        tell: Told about each one that does not work here.

    Raises:
        InputError: no engine of that name.
        HasnEdgeError: the one that was named, or the last of all, does not work.
    """
    if wanted is not None and wanted not in engines:
        raise InputError(f"no engine called {wanted!r}; choose one of: {', '.join(engines)}")
    names = list(engines) if wanted is None else [wanted]
    for name in names[:-1]:
        try:
            return name, engines[name].open(engines[name].size or size)
        except HasnEdgeError as exc:
            tell(f"{name} is left out: {exc}")
    return names[-1], engines[names[-1]].open(engines[names[-1]].size or size)


def _own(model: str, shipped: Path | None, threads: int | None) -> Engine:
    if shipped is None:
        return Engine(open=lambda size: open_model(model, threads=threads))
    return Engine(open=lambda size: open_session(shipped, threads=threads, frame=size))


def _built(artifact: Artifact, threads: int | None) -> Engine:
    def opened(size: Size | None) -> Session:
        if artifact.kind is Kind.ENGINE:
            return open_session(artifact, slots=SLOTS)
        known = size if artifact.kind is Kind.ONNX and artifact.size is None else None
        return open_session(artifact, threads=threads, frame=known)

    return Engine(open=opened, size=artifact.size)


def _in(folder: Path) -> list[Artifact]:
    """Return the artefacts in a folder; files that are none, or damaged, are no choice."""
    suffixes = {kind.suffix for kind in Kind}
    artifacts = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix in suffixes:
            try:
                artifacts.append(load_artifact(path))
            except ArtifactError:
                continue
    return artifacts


_MODEL = 10  # where the model itself, in FP32, stands among the ranks


def _rank(artifact: Artifact, size: Size | None) -> int:
    if None not in (size, artifact.size) and artifact.size != size:
        return 30
    if artifact.kind is Kind.ENGINE:
        return {Precision.FP16: 0, Precision.INT8: 1}.get(artifact.precision, 2)
    if artifact.kind is Kind.ONNX and artifact.precision is Precision.INT8 and has_integer_dot_product():
        return 5
    return 20 if artifact.kind is Kind.ONNX else 21
