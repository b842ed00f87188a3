"""What a super-resolution graph of somebody else's takes and gives, found by running it.

Only ONNX Runtime is needed. The smallest side is looked for in a process of its own: ONNX Runtime divides by
zero where a pooling leaves nothing of a small image, and that ends the process.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hasn_edge.data.likeness import likeness, sample
from hasn_edge.engine.worker_process import run_python
from hasn_edge.errors import ArtifactError, UnsupportedError, counted, first_line, say
from hasn_edge.files import file_sha256
from hasn_edge.hardware.host import compute_cores
from hasn_edge.images.arrays import Float32
from hasn_edge.optional import require
from hasn_edge.spec import GraphSpec

SIDES = (64, 128, 48, 96, 72, 256)
"""Sides that are tried first, until one is taken."""

STEPS = (1, 2, 4, 8, 16, 32, 64)
"""What may have to divide a side."""


_probed: dict[str, GraphSpec] = {}
"""What was found in this process, by the hash of the graph and its weights."""


def probe_graph(path: Path) -> GraphSpec:
    """Return scale, smallest side, multiple and range of the graph at ``path``, confirmed by running it.

    A graph of one size is run at that size only, which its sessions know. A file of the same bytes is not run
    again in one process.

    Raises:
        ArtifactError: no such file, or none of those that hold its weights.
        UnsupportedError: it is no graph with one image in and one out, of an integer scale; the message says
            what it has instead, or where it failed.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    content = source_sha256(path) if path.is_file() else ""
    if content not in _probed:
        _probed[content] = _probe(path)
    return _probed[content]


def source_sha256(path: Path) -> str:
    """Return what sidecars call a model's source: the SHA-256 of its file, and of those of a graph's weights.

    PyTorch's newer exporter writes weights into ``FILE.onnx.data``, of which the graph states the name only.
    A graph that is whole in its file, and weights of any kind, have the hash of that file.
    """
    own = file_sha256(path)
    if path.suffix != ".onnx":
        return own
    parts = [file_sha256(file) for file in _weights_files(path) if file.is_file()]
    return hashlib.sha256(" ".join([own, *parts]).encode()).hexdigest() if parts else own


def _weights_files(path: Path) -> list[Path]:
    """Return the files that a graph names for its weights, whether they are there or not."""
    graph = path.read_bytes()
    # As protobuf writes the key and the value that name such a file, each with its length before it.
    found = re.finditer(rb"\n\x08location\x12([\x80-\xff]?[\x00-\x7f])", graph)
    places = {(each.end(), sum((byte & 127) << 7 * i for i, byte in enumerate(each[1]))) for each in found}
    names = {graph[start : start + length] for start, length in places}
    return [path.parent / os.fsdecode(name) for name in sorted(names) if name and b"\0" not in name]


def _probe(path: Path) -> GraphSpec:
    probe = _Probe(path)
    base, first = probe.first_size()
    scale = first.shape[2] // base[0]
    spec = GraphSpec(scale=scale, peak=probe.peak(base, scale))
    if probe.fixed is not None:
        return spec
    step = probe.step(base, scale)
    least = _smallest_side(path, scale, step, base[0])
    return GraphSpec(scale=scale, peak=spec.peak, multiple=step, minimum=least)


class _Probe:
    """One graph in ONNX Runtime, asked questions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session = _open(path)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise self._refusal(
                f"it has {counted(len(inputs), 'input')} ({_named(inputs)}) and "
                f"{counted(len(outputs), 'output')} ({_named(outputs)})"
            )
        self._input, shape = inputs[0], inputs[0].shape
        if self._input.type != "tensor(float)" or outputs[0].type != "tensor(float)":
            raise self._refusal(f"{_named(inputs)} becomes {_named(outputs)}")
        if len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
            raise self._refusal(f"its input is {_named(inputs)}")
        if isinstance(shape[0], int) and shape[0] > 1:
            raise self._refusal(f"it takes {shape[0]} images at a time")
        sides = [side for side in shape[2:] if isinstance(side, int) and side > 0]
        if len(sides) == 1:
            raise self._refusal(f"one side of its input is fixed and the other is not: {_named(inputs)}")
        self.fixed = (sides[0], sides[1]) if sides else None

    def run(self, x_NCHW: Float32) -> Float32:
        y_NCHW: Float32 = self._session.run(None, {self._input.name: x_NCHW})[0]
        return y_NCHW

    def first_size(self) -> tuple[tuple[int, int], Float32]:
        """Return a size that it takes, and what came out, whose shape is an integer multiple."""
        failures = []
        for size in (self.fixed,) if self.fixed else ((side, side) for side in SIDES):
            try:
                y = self.run(sample(*size))
            except Exception as exc:  # ONNX Runtime's exceptions share no base; their texts name the node
                failures.append(f"{size[1]}x{size[0]}: {first_line(exc)}")
                continue
            scale = y.shape[2] // size[0] if y.ndim == 4 else 0
            if y.ndim != 4 or y.shape != (1, 3, size[0] * scale, size[1] * scale) or scale < 1:
                raise self._refusal(f"an image of 1x3x{size[0]}x{size[1]} becomes {_times(y.shape)}")
            if not np.isfinite(y).all():
                raise self._refusal("its output has values that are not finite numbers")
            return size, y
        raise self._refusal(f"it fails on every size that was tried; {failures[0]}")

    def accepts(self, size: tuple[int, int], scale: int) -> bool:
        try:
            return self.run(sample(*size)).shape == (1, 3, size[0] * scale, size[1] * scale)
        except Exception:  # as in first_size; what a wrong size gives is what is looked for
            return False

    def step(self, base: tuple[int, int], scale: int) -> int:
        """Return what divides the sides that it takes."""
        for step in STEPS:
            if base[0] % step:
                continue
            if all(
                self.accepts((base[0] + a * step, base[1] + b * step), scale) for a, b in ((1, 3), (2, 1))
            ):
                return step
        raise self._refusal(
            f"it takes {base[1]}x{base[0]} pixels, and no size near it whose sides {STEPS[-1]} divides"
        )

    def peak(self, size: tuple[int, int], scale: int) -> float:
        """Return the value of white: with it the output resembles the image."""
        found = likeness(self.run, size, scale)
        if found.problem:
            raise self._refusal(found.problem)
        return found.peak

    def _refusal(self, found: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self.path}: {found}; expected a super-resolution graph with one float32 RGB image "
            "(1, 3, H, W) in, one image out, and an integer scale",
            say("export the network so"),
        )


_PATIENCE_S = 600.0
"""After so long the smallest side that worked until then is taken."""


def _smallest_side(path: Path, scale: int, step: int, base: int) -> int:
    """Return the smallest side that works, trying ever smaller ones until it fails or its process dies."""
    code = (
        "import sys; from hasn_edge.runtime.graph_probe import shrink; "
        "shrink(sys.argv[1], *map(int, sys.argv[2:]))"
    )
    numbers = map(str, (scale, step, base))
    found = run_python("-c", code, str(path.absolute()), *numbers, limit_s=_PATIENCE_S).output.split()
    return int(found[-1]) if found else base


def shrink(path: str, scale: int, step: int, base: int) -> None:
    """Print each side that works, from ``base`` down; the process may die of one that does not."""
    probe = _Probe(Path(path))
    for side in range(base, 0, -step):
        if not probe.accepts((side, side), scale):
            return
        sys.stdout.write(f"{side}\n")
        sys.stdout.flush()


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file", say("give the path of an .onnx file"))
    ort = require("onnxruntime", extra="export", needed_for="Running an ONNX file")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = compute_cores()
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # as above
        lost = [str(file) for file in _weights_files(path) if not file.is_file()]
        if lost:
            raise ArtifactError(
                f"{path}: its weights are in other files, of which there is no {', '.join(lost)}",
                say("copy the graph and these files into one folder, under their own names"),
                say("export it as one file"),
            ) from exc
        raise UnsupportedError(
            f"{path}: ONNX Runtime cannot load it: {first_line(exc)}",
            say("export it again with operators of the ONNX standard"),
        ) from exc


def _named(tensors: Any) -> str:
    return ", ".join(f"{one.name}: {one.type[7:-1]} {_times(one.shape)}" for one in tensors) or "none"


def _times(shape: Any) -> str:
    return "x".join(str(side) for side in shape)
