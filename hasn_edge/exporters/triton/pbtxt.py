"""A model's configuration for NVIDIA Triton Inference Server: the settings, their rules and their text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hasn_edge.errors import ConfigError

ANY = -1
"""A dimension of any size."""

DATA_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
}
"""Triton's name of a NumPy type; the types that a tensor of ours can have."""

KINDS = {"auto": "KIND_AUTO", "gpu": "KIND_GPU", "cpu": "KIND_CPU"}
"""Where instances run; ``auto`` is a GPU where the server has one."""


@dataclass(frozen=True)
class ServerBackend:
    """A part of the server that runs one kind of file."""

    name: str
    platform: str
    """Empty where the server knows none."""
    filename: str
    """What the file that the server opens must be called in each version's folder."""


ONNX_RUNTIME = ServerBackend("onnxruntime", "onnxruntime_onnx", "model.onnx")
TENSORRT = ServerBackend("tensorrt", "tensorrt_plan", "model.plan")
PYTHON = ServerBackend("python", "", "model.py")

BACKENDS = {backend.name: backend for backend in (PYTHON, ONNX_RUNTIME, TENSORRT)}
"""By the name that the server has for them."""


@dataclass(frozen=True, kw_only=True)
class TensorSettings:
    """An input or output as clients see it."""

    name: str
    dtype: str
    """NumPy's name of the type, e.g. ``"float32"``."""
    dims: tuple[int, ...]
    """Sizes; :data:`ANY` where every size is taken. Without the batch where the model is batched."""


def require_model_name(name: str) -> None:
    """Refuse what the server takes for no model's name.

    Raises:
        ConfigError: the message names the rule.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", name):
        raise ConfigError(
            f"Triton configuration of {name!r}: name is also a folder's and part of a URL; expected letters, "
            "digits, '_', '-' and '.', the first a letter, a digit or '_'"
        )


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """The content of one ``config.pbtxt``.

    Making one checks what a user or a file decides by the rules that the server checks when it loads a
    model, so that a mistake does not show in a server's log first. Source of the rules: Triton's *Model
    Configuration* page, the comments of its ``model_config.proto`` and its core's ``model_config_utils.cc``.

    Raises:
        ConfigError: a rule is broken; the message names the field, its value and the rule.
    """

    name: str
    """The model's folder bears the same name."""
    backend: ServerBackend
    inputs: tuple[TensorSettings, ...]
    outputs: tuple[TensorSettings, ...]
    max_batch_size: int = 0
    """Largest batch; 0 for a model whose tensors have no batch dimension, or one that is fixed."""
    kind: str = "auto"
    """A key of :data:`KINDS`."""
    queue_delay_us: int | None = None
    """Let the server join requests into batches, waiting this long for more; ``None`` for no joining."""
    warmup: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shape by input, without the batch, of a request of zeros that precedes the first real one."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Free text by key; the server hands it to whoever asks for the model's configuration."""

    def __post_init__(self) -> None:
        require_model_name(self.name)
        for problem in self._problems():
            raise ConfigError(f"Triton configuration of {self.name!r}: {problem}")

    def text(self) -> str:
        """Return the content of ``config.pbtxt``: one message in protocol buffers' text format."""
        fields: list[tuple[str, Any]] = [
            ("name", self.name),
            *([("platform", self.backend.platform)] if self.backend.platform else []),
            ("backend", self.backend.name),
            ("default_model_filename", self.backend.filename),
            ("max_batch_size", self.max_batch_size),
            *(("input", _tensor(tensor)) for tensor in self.inputs),
            *(("output", _tensor(tensor)) for tensor in self.outputs),
            ("instance_group", [("count", 1), ("kind", Symbol(KINDS[self.kind]))]),
            ("version_policy", [("latest", [("num_versions", 1)])]),
        ]
        if self.queue_delay_us is not None:
            fields.append(("dynamic_batching", [("max_queue_delay_microseconds", self.queue_delay_us)]))
        if self.warmup:
            fields.append(("model_warmup", self._warmup()))
        fields += parameter_fields(self.parameters)
        return message_text(fields)

    def _warmup(self) -> list[tuple[str, Any]]:
        types = {tensor.name: tensor.dtype for tensor in self.inputs}
        sample: list[tuple[str, Any]] = [("name", "zeros"), ("batch_size", 1)]
        for name, shape in self.warmup.items():
            value = [
                ("data_type", Symbol(DATA_TYPES[types[name]])),
                ("dims", shape),
                # Not random_data: that fills floats with random bytes, among them infinities and NaN.
                ("zero_data", True),
            ]
            sample.append(("inputs", [("key", name), ("value", value)]))
        return sample

    def _problems(self) -> Iterator[str]:
        for tensor in (*self.inputs, *self.outputs):
            if tensor.dtype not in DATA_TYPES:
                yield f"{tensor.name!r} has type {tensor.dtype!r}; the server takes {', '.join(DATA_TYPES)}"


def split_batch(
    tensors: Iterable[tuple[str, str, Sequence[int]]],
) -> tuple[bool, tuple[TensorSettings, ...]]:
    """Decide whether a model is batched and drop the batch from its shapes if so.

    The server may join requests only where the first dimension of every tensor is free; a first dimension of
    fixed size, also of 1, is to the server a dimension like any other, and clients send it.

    Args:
        tensors: Name, NumPy type and shape of every input and output as the file has them, :data:`ANY` for
            dynamic sizes.

    Returns:
        Whether batched, and the settings in the same order.
    """
    known = [(name, dtype, tuple(shape)) for name, dtype, shape in tensors]
    batched = all(len(shape) > 1 and shape[0] == ANY for _, _, shape in known)
    return batched, tuple(
        TensorSettings(name=name, dtype=dtype, dims=shape[1:] if batched else shape)
        for name, dtype, shape in known
    )


class Symbol(str):
    """Text that is written without quotes: the name of an enum's value."""


def parameter_fields(parameters: Mapping[str, str]) -> list[tuple[str, Any]]:
    """Return the fields of a map from text to text; more of them may be appended to a finished file."""
    return [
        ("parameters", [("key", key), ("value", [("string_value", value)])])
        for key, value in parameters.items()
    ]


def message_text(fields: Sequence[tuple[str, Any]], indent: str = "") -> str:
    """Write fields in the text format of protocol buffers.

    Args:
        fields: Name and value: ``str``, :class:`Symbol`, ``bool``, ``int``, a tuple of ``int`` for a repeated
            field, or a list of fields for a message.
        indent: In front of each line.
    """
    lines = []
    for name, value in fields:
        if isinstance(value, list):
            lines.append(f"{indent}{name} {{\n{message_text(value, indent + '  ')}{indent}}}\n")
        else:
            lines.append(f"{indent}{name}: {_scalar(value)}\n")
    return "".join(lines)


def _scalar(value: str | bool | int | tuple[int, ...]) -> str:
    if isinstance(value, Symbol):
        return str(value)
    if isinstance(value, str):
        return '"' + "".join(_escape(byte) for byte in value.encode("utf-8")) + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return f"[ {', '.join(str(int(item)) for item in value)} ]"


def _escape(byte: int) -> str:
    """Return one byte of a quoted text: itself if printable ASCII, else in octal."""
    character = chr(byte)
    if character in '"\\':
        return "\\" + character
    return character if 0x20 <= byte < 0x7F else f"\\{byte:03o}"


def _tensor(tensor: TensorSettings) -> list[tuple[str, Any]]:
    return [
        ("name", tensor.name),
        ("data_type", Symbol(DATA_TYPES[tensor.dtype])),
        ("dims", tensor.dims),
    ]
