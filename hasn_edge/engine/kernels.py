"""The kernels of a compiled engine: what each reads, writes and computes, as the compiler lists them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from hasn_edge.sidecar import KernelLine, KernelRecord

LIST_START = "Layers:"
"""How the message begins, of the severity ``VERBOSE``, in which TensorRT for RTX lists what it compiled."""

ACTIVATIONS = "Total Activation Memory: "
"""How the message begins, of the severity ``INFO``, in which every TensorRT states the bytes of scratch that
an execution needs."""

_BYTES = {"Float": 4, "Half": 2, "BFloat16": 2, "Int8": 1, "UInt8": 1, "Bool": 1, "Int32": 4, "Int64": 8}
_NAMES = {"fp32": "Float", "float": "Float", "fp16": "Half", "half": "Half", "int8": "Int8", "int32": "Int32"}
_TENSOR = re.compile(r"Dimensions: \[([-\d,]*)\].*?Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_CONVOLUTION = re.compile("conv|correlation", re.IGNORECASE)
_FUSED_CONVOLUTION = re.compile("^__myl_[A-Za-z]*Corr")
_ROUNDING = re.compile("MinMaxRounCast|Quantize")
_OPAQUE = re.compile("myelin|foreign", re.IGNORECASE)


@dataclass(frozen=True)
class KernelTensor:
    """One end of a kernel."""

    kind: str
    """``"Float"``, ``"Half"``, ``"Int8"``, ..."""
    shape: tuple[int, ...]
    """-1 where it is dynamic."""

    @property
    def bytes(self) -> int | None:
        """Its size; ``None`` where that is open."""
        known = min(self.shape, default=1) >= 0 and self.kind in _BYTES
        return prod(self.shape) * _BYTES[self.kind] if known else None


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One step of an engine."""

    name: str = ""
    """The compiler's own name of it."""
    kind: str
    """What the compiler calls its sort: ``"correlation"`` and ``"CaskConvolution"`` are convolutions."""
    reads: tuple[KernelTensor, ...]
    constants: tuple[KernelTensor, ...] = ()
    writes: tuple[KernelTensor, ...]
    nodes: tuple[str, ...]
    """Nodes of the graph that it computes."""

    @property
    def convolution(self) -> bool:
        """Whether it is a convolution, alone or with what follows it."""
        fused = self.kind == "runtime_fusion" and _FUSED_CONVOLUTION.search(self.name)
        return bool(fused or _CONVOLUTION.search(self.kind))

    @property
    def rounding(self) -> bool:
        """Whether it quantizes or dequantizes and is no convolution: Q/DQ that was not fused into one."""
        return not self.convolution and _ROUNDING.search(self.name) is not None

    @property
    def opaque(self) -> bool:
        """Whether several nodes were compiled into it whose types in between are not stated."""
        return _OPAQUE.search(self.kind) is not None


def kernels_of_log(text: str) -> tuple[Kernel, ...]:
    """Read the message of TensorRT for RTX that begins with :data:`LIST_START`.

    Where an engine is for several compute capabilities, it lists the kernels of one of them.
    """
    return tuple(_kernel_of_line(line) for line in text.splitlines() if line.startswith("Name: "))


def kernels_of_inspector(text: str) -> tuple[Kernel, ...]:
    """Read what TensorRT's engine inspector returns as JSON; nothing where it names its layers only."""
    layers = json.loads(text).get("Layers", [])
    return tuple(_kernel_of_layer(layer) for layer in layers if isinstance(layer, dict))


def describe_kernels(
    kernels: Sequence[Kernel],
    *,
    size: tuple[int, int] | None = None,
    images: int = 1,
    activation_bytes: int | None = None,
) -> KernelRecord:
    """Return what a sidecar states of an engine's kernels.

    A kernel that reads or writes a part of a tensor counts the whole, one that reads a tensor twice counts it
    once for each time that the compiler lists it. What reads and writes nothing, such as a stream that waits
    for another, is no kernel.

    Args:
        kernels: In the order that they run in.
        size: (height, width) of the input that their sizes hold for.
        images: Of the input likewise.
        activation_bytes: Scratch memory of one execution, as the compiler states it.
    """
    lines = tuple(_line(kernel) for kernel in kernels if kernel.reads or kernel.writes)
    return KernelRecord(
        all=len(lines),
        convolutions=dict(Counter(f"{one.reads} -> {one.writes}" for one in lines if one.convolution)),
        read_bytes=_total(line.read_bytes for line in lines),
        written_bytes=_total(line.written_bytes for line in lines),
        rounding=sum(kernel.rounding for kernel in kernels),
        activation_bytes=activation_bytes,
        size=size,
        images=images,
        lines=lines,
    )


def _line(kernel: Kernel) -> KernelLine:
    # What a convolution computes in is its weights' type: a fused one may read its operands first.
    first = (*kernel.constants[:1], *kernel.reads) if kernel.convolution else kernel.reads
    return KernelLine(
        name=kernel.name,
        convolution=kernel.convolution,
        reads=first[0].kind if first else "",
        writes=kernel.writes[0].kind if kernel.writes else "",
        read_bytes=_total(tensor.bytes for tensor in (*kernel.reads, *kernel.constants)),
        written_bytes=_total(tensor.bytes for tensor in kernel.writes),
        nodes=" ".join(kernel.nodes),
    )


def _total(sizes: Iterable[int | None]) -> int | None:
    known = list(sizes)
    return None if None in known else sum(size for size in known if size is not None)


def find_unverified(kernels: Iterable[Kernel], pinned: Iterable[str]) -> list[str]:
    """Return the pinned layers that the engine may compute in another type than FP32.

    Those are within a kernel that does not state what it computes in, or that reads and writes less alone.
    """
    wanted = set(pinned)
    return [
        node
        for kernel in kernels
        if kernel.opaque or "Float" not in {tensor.kind for tensor in (*kernel.reads, *kernel.writes)}
        for node in kernel.nodes
        if node in wanted
    ]


def _kernel_of_line(line: str) -> Kernel:
    inputs, _, outputs = line.partition("Outputs: [")
    inputs, _, constants = inputs.partition("Constants: [")
    found = re.search(r"LayerType: (\w+)", line)
    return Kernel(
        name=line.removeprefix("Name: ").partition(", LayerType: ")[0],
        kind=found[1] if found else "",
        reads=_tensors(inputs),
        constants=_tensors(constants),
        writes=_tensors(outputs),
        nodes=tuple(_NODE.findall(line)),
    )


def _tensors(text: str) -> tuple[KernelTensor, ...]:
    return tuple(
        KernelTensor(kind, tuple(int(side) for side in shape.split(",") if side))
        for shape, kind in _TENSOR.findall(text)
    )


def _kernel_of_layer(layer: dict[str, Any]) -> Kernel:
    names = _NODE.findall(layer.get("Metadata", ""))
    return Kernel(
        name=str(layer.get("Name", "")),
        kind=str(layer.get("ParameterType") or layer.get("LayerType", "")),
        reads=_ends(layer.get("Inputs", ())),
        constants=_ends(layer.get("Constants", ())),
        writes=_ends(layer.get("Outputs", ())),
        # Without metadata (TensorRT 8.5) the kernel bears the names of its nodes, joined.
        nodes=tuple(names or re.split(r" \+ |\.\.\.|[{}\[\]]", str(layer.get("Name", "")))),
    )


def _ends(tensors: Iterable[dict[str, Any]]) -> tuple[KernelTensor, ...]:
    return tuple(
        KernelTensor(
            _kind(str(tensor.get("Datatype") or tensor.get("Format/Datatype", ""))),
            tuple(int(side) for side in tensor.get("Dimensions", ())),
        )
        for tensor in tensors
    )


def _kind(text: str) -> str:
    """Return the type that a format names, e.g. of ``"Row major linear FP16 format"``."""
    words = (_NAMES.get(word) for word in re.findall(r"\w+", text.lower()))
    return next((word for word in words if word is not None), text)
