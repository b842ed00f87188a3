"""Real HASN graphs for the compiler: small ones, and the published network's size with random weights."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hasn_edge.errors import MissingDependencyError
from hasn_edge.spec import ModelSpec

SMALL = ModelSpec(features=8, blocks=1, esa_channels=4)


class Noise:
    """Two repeatable batches: the compiler does not care what the ranges are."""

    fingerprint = "noise"

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        for _ in range(2):
            yield rng.random((1, self.channels, 32, 32), dtype=np.float32)


@pytest.fixture(scope="session")
def hasn_onnx() -> Callable[..., bytes]:
    """``hasn_onnx("int8", form="weakly-typed", spec=..., size=...)``: a serialized graph."""
    from hasn_edge.exporters.onnx import onnx_from_model
    from hasn_edge.exporters.onnx_graph import with_fixed_size
    from hasn_edge.exporters.uint8_io import with_pixels
    from hasn_edge.model.hasn import HASN
    from hasn_edge.quantize.fp16 import fp16_onnx_from_onnx
    from hasn_edge.quantize.int8 import int8_onnx_from_onnx
    from hasn_edge.quantize.ranges import ranges_from_onnx
    from hasn_edge.quantize.recipe import QuantRecipe

    @functools.cache
    def make(
        precision: str,
        *,
        form: str = "strongly-typed",
        spec: ModelSpec = SMALL,
        size: tuple[int, int] | None = None,
        pixels: bool = False,
    ) -> bytes:
        import torch

        torch.manual_seed(0)
        weak = form != "strongly-typed"
        measured = onnx_from_model(
            HASN(spec).eval(), opset=17 if weak else 20, decompose_norm=form == "weakly-typed", simplify=False
        )
        proto = with_fixed_size(measured, size, spec.scale) if size else measured
        if precision != "fp32" and not weak:
            proto = fp16_onnx_from_onnx(proto)
        if precision == "int8":
            recipe = QuantRecipe(keep_float=("conv_1", "upsampler*"))
            ranges = ranges_from_onnx(measured, Noise(spec.channels), recipe)
            proto = int8_onnx_from_onnx(proto, ranges, recipe)
        return (with_pixels(proto) if pixels else proto).SerializeToString()

    return make


@pytest.fixture(scope="session")
def needs_rtx() -> None:
    from hasn_edge.engine.capabilities import find_module
    from hasn_edge.engine.target import EngineRuntime

    try:
        find_module(EngineRuntime.RTX)
    except MissingDependencyError as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def ada(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The target ``rtx`` for one generation of GPUs: each of the three that it is for is compiled for."""
    from hasn_edge.engine.target import shipped_targets

    path = tmp_path_factory.mktemp("targets") / "rtx.toml"
    text = shipped_targets()["rtx"].read_text(encoding="utf-8")
    path.write_text(text.replace('["ampere", "ada", "blackwell"]', '["ada"]'), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A driver library with one GPU, compiled from ``libcuda.c``: ctypes meets real C signatures."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the fake driver needs a C compiler and Linux")
    library = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    source = Path(__file__).with_name("libcuda.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source], check=True)
    return library
