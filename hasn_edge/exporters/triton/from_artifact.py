"""What Triton must know of an artifact: its tensors, whether it is batched, a shape to warm it up with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from hasn_edge.artifact import Artifact
from hasn_edge.errors import UnsupportedError, call, say, use
from hasn_edge.exporters.triton.pbtxt import (
    ANY,
    BACKENDS,
    ONNX_RUNTIME,
    PYTHON,
    TENSORRT,
    ServerBackend,
    TritonConfig,
    split_batch,
)
from hasn_edge.sidecar import Form, GraphDetails, Kind
from hasn_edge.spec import Precision

LARGEST_BATCH = 8
"""What an ONNX graph is given that takes any number of images and whose sidecar names no limit: the graph
itself knows none, memory does."""

QUEUE_DELAY_US = 1000
"""How long a request waits for others to share a batch with: short next to the time of a frame."""

WARMUP_SIZE = (180, 320)
"""Height and width of the request that warms up a model which takes any size."""


def triton_config(artifact: Artifact, data: bytes, *, name: str, backend: str | None = None) -> TritonConfig:
    """Return the configuration of a model that consists of one artifact.

    Args:
        artifact: An ONNX graph or an engine of TensorRT; for the Python backend any built file.
        data: Its bytes.
        name: The model's.
        backend: See :func:`~hasn_edge.exporters.triton.repository.triton_repository`.

    Raises:
        UnsupportedError: the server cannot run this kind of file.
        ConfigError: a rule of the server is broken.
    """
    if backend not in (None, *BACKENDS):
        raise UnsupportedError(f"unknown backend {backend!r}; choose one of: {', '.join(BACKENDS)}")
    if backend == PYTHON.name:
        model = _any_file(artifact)
    else:
        model = _engine(artifact) if artifact.kind is Kind.ENGINE else _graph(artifact, data)
    if backend not in (None, model.backend.name):
        raise UnsupportedError(
            f"{artifact.path}: a file of kind {artifact.kind.value}, which Triton's backend {backend!r} does "
            "not run",
            use(backend=model.backend.name),
            use(backend=PYTHON.name),
        )
    engine = artifact.kind is Kind.ENGINE
    batched, tensors = split_batch([*model.inputs, *model.outputs])
    inputs, outputs = tensors[: len(model.inputs)], tensors[len(model.inputs) :]
    largest = model.largest_batch if batched else 0
    details = artifact.details
    for_cpu = (
        isinstance(details, GraphDetails)
        and details.form is Form.CPU
        and artifact.precision is Precision.INT8
    )
    return TritonConfig(
        name=name,
        backend=model.backend,
        inputs=inputs,
        outputs=outputs,
        max_batch_size=largest,
        kind="gpu" if engine else "cpu" if for_cpu or backend == PYTHON.name else "auto",
        queue_delay_us=QUEUE_DELAY_US if largest > 1 else None,
        warmup={inputs[0].name: model.opt[1:] if batched else model.opt},
    )


_Tensor = tuple[str, str, tuple[int, ...]]
"""Name, NumPy type and shape, with -1 where any size is taken."""


@dataclass(frozen=True, kw_only=True)
class _Model:
    """What the server has to know of a file."""

    backend: ServerBackend
    inputs: Sequence[_Tensor]
    outputs: Sequence[_Tensor]
    opt: tuple[int, ...]
    """A shape of the one input that the file takes."""
    largest_batch: int


def _any_file(artifact: Artifact) -> _Model:
    """Return what the Python backend offers: images of any size, whatever the file takes."""
    channels, details = artifact.spec.channels, artifact.details
    shape = (ANY, ANY, ANY, channels) if artifact.pixels else (ANY, channels, ANY, ANY)
    dtype = "uint8" if artifact.pixels else "float32"
    profile = artifact.engine.profile.opt if artifact.kind is Kind.ENGINE else None
    height, width = details.size or WARMUP_SIZE
    usual = (1, height, width, channels) if artifact.pixels else (1, channels, height, width)
    return _Model(
        backend=PYTHON,
        inputs=[("input", dtype, shape)],
        outputs=[("output", dtype, shape)],
        opt=profile or usual,
        largest_batch=max(details.batch[1], LARGEST_BATCH),
    )


def _engine(artifact: Artifact) -> _Model:
    """Read the sidecar: without a GPU the plan itself cannot be read."""
    details = artifact.engine
    if details.runtime != "tensorrt":
        raise UnsupportedError(
            f"{artifact.path}: an engine of TensorRT for RTX, which Triton has no backend for",
            say("give it the graph (.onnx) that was published with the engine"),
            say("build with TensorRT on the serving machine"),
        )
    inputs, outputs = (
        [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors]
        for tensors in (details.inputs, details.outputs)
    )
    profile = details.profile
    return _Model(
        backend=TENSORRT,
        inputs=inputs,
        outputs=outputs,
        opt=profile.opt,
        largest_batch=profile.max[0],
    )


def _graph(artifact: Artifact, data: bytes) -> _Model:
    """Read an ONNX graph's ends."""
    if artifact.kind is not Kind.ONNX:
        raise UnsupportedError(
            f"{artifact.path}: a {artifact.kind.value} file; Triton takes .onnx and TensorRT .engine files",
            use(backend=PYTHON.name),
            call("export", format="triton"),
        )

    def ends(values: Any) -> list[_Tensor]:
        found = []
        for value in values:
            kind = value.type.tensor_type
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
            shape = tuple(d.dim_value if d.HasField("dim_value") else ANY for d in kind.shape.dim)
            found.append((value.name, dtype, shape))
        return found

    graph = onnx.load_from_string(data).graph
    inputs, outputs = ends(graph.input), ends(graph.output)
    (_, dtype, shape), *others = inputs
    if others or len(shape) != 4:
        raise UnsupportedError(f"{artifact.path}: expected one input of four dimensions, found {inputs}")
    height, width = (max(size, artifact.spec.size.minimum) for size in WARMUP_SIZE)
    channels = artifact.spec.channels
    usual = (1, height, width, channels) if dtype == "uint8" else (1, channels, height, width)
    opt = tuple(size if known == ANY else known for size, known in zip(usual, shape, strict=True))
    stated = artifact.details.batch[1]
    return _Model(
        backend=ONNX_RUNTIME,
        inputs=inputs,
        outputs=outputs,
        opt=opt,
        largest_batch=stated if stated > 1 else LARGEST_BATCH,
    )
