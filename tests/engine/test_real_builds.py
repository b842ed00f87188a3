"""NVIDIA's compiler takes every variant of the network, every precision and shape mode; it needs no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hasn_edge.engine.compile import engine_from_onnx
from hasn_edge.engine.target import EngineRuntime, EngineTarget
from hasn_edge.spec import ModelSpec, Precision
from tests.support.compiling import SHAPES, MakeOnnx
from tests.support.samples import as_json

# One generation of GPUs: each costs time, and test_tensorrt.py builds for several.
RTX = EngineTarget(name="test", shapes=SHAPES, compute_capabilities=("ada",))
SIZE = (40, 56)

VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "no ESA": {"esa": False},
    "no CAB": {"cab": False},
    "no norm": {"norm": False},
    "convolutions only": {"esa": False, "cab": False, "norm": False},
    "added gate": {"gate": "add"},
    "ReLU": {"activation": "relu"},
    "leaky ReLU": {"activation": "leaky_relu"},
    "x2": {"scale": 2},
    "x3": {"scale": 3},
    "3x3": {"kernel_size": 3},
    "5x5": {"kernel_size": 5},
    "9x9": {"kernel_size": 9},
    "residual": {"residual": True},
    "no skip": {"skip": False},
    "gray": {"channels": 1},
}
MODES = ("static", "dynamic", "pixels")


def cases() -> Iterator[tuple[str, str, str]]:
    """Yield each variant in FP32 and FP16, and every fourth in INT8; the modes take turns."""
    for index, name in enumerate(VARIANTS):
        for turn, precision in enumerate(("fp32", "fp16", "int8")):
            if precision == "int8" and index % 4:
                continue
            yield name, precision, MODES[(index + turn) % len(MODES)]


CASES = tuple(cases())


def test_nothing_is_left_out() -> None:
    assert {(name, precision) for name, precision, _ in CASES} >= {
        (name, precision) for name in VARIANTS for precision in ("fp32", "fp16")
    }
    assert {(precision, mode) for _, precision, mode in CASES} == {
        (precision.value, mode) for precision in Precision for mode in MODES
    }


@pytest.mark.usefixtures("needs_rtx")
@pytest.mark.parametrize(("name", "precision", "mode"), CASES)
def test_a_variant_is_built(hasn_onnx: MakeOnnx, name: str, precision: str, mode: str) -> None:
    spec = ModelSpec(**{"features": 8, "blocks": 1, "esa_channels": 4, **VARIANTS[name]})
    size = SIZE if mode == "static" else None
    graph = hasn_onnx(precision, spec=spec, size=size, pixels=mode == "pixels")
    engine = engine_from_onnx(graph, RTX.with_size(*SIZE) if size else RTX, precision=Precision(precision))
    assert engine.header.runtime is EngineRuntime.RTX
    details = as_json(engine.details())
    assert (engine.precision.value, details.get("size")) == (precision, list(size) if size else None)
    n, c, h, w = spec.output_shape((1, spec.channels, *SIZE)) if size else (1, spec.channels, -1, -1)
    wanted = ("uint8", [n, h, w, c]) if mode == "pixels" else ("float32", [n, c, h, w])
    assert [(end["dtype"], end["shape"]) for end in details["outputs"]] == [wanted]
    assert (details["layers"]["half_convolution"] > 0) is (precision != "fp32")
    assert (details["layers"]["quantize"] > 0) is (precision == "int8")


@pytest.mark.usefixtures("needs_rtx")
def test_the_published_network_takes_a_range_of_sizes(hasn_onnx: MakeOnnx) -> None:
    engine = engine_from_onnx(hasn_onnx("fp16", spec=ModelSpec()), RTX, precision=Precision.FP16)
    details = as_json(engine.details())
    assert details["layers"]["convolution"] == 93
    assert details["profile"]["max"] == [1, 3, 96, 96]
    assert details["outputs"] == [{"name": "output", "dtype": "float32", "shape": [1, 3, -1, -1]}]
