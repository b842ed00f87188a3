"""Small networks as graphs, made once for all tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.model.hasn import HASN
from hasn_edge.quantize.ranges import Ranges, ranges_from_onnx
from hasn_edge.quantize.recipe import QuantRecipe
from hasn_edge.spec import ModelSpec

TINY = ModelSpec(features=8, blocks=1, esa_channels=4, kernel_size=3)


class Images:
    """Calibration data made of noise."""

    fingerprint = "noise"

    def __init__(self, count: int = 2, side: int = 24, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.batches = [rng.random((1, 3, side, side), dtype=np.float32) for _ in range(count)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def tiny_model(seed: int = 0, **changes: object) -> HASN:
    torch.manual_seed(seed)
    model = HASN(replace(TINY, **changes)).eval().requires_grad_(False)
    # A fresh LayerNorm is the identity and would hide mistakes.
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.5, 0.5)
    return model


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Run a graph exactly as written; independent of the package's own runner."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@dataclass(frozen=True)
class Tiny:
    """One small network in the forms that quantization starts from."""

    model: HASN
    weakly_typed: onnx.ModelProto
    """Opset 17, with LayerNorm as one node."""
    decomposed: onnx.ModelProto
    strongly_typed: onnx.ModelProto
    """Opset 20, FP32: what becomes FP16."""
    ranges: Ranges
    """Of all convolutions."""


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    torch.set_num_threads(1)
    model = tiny_model()
    weakly_typed = onnx_from_model(model, opset=17)
    return Tiny(
        model,
        weakly_typed,
        onnx_from_model(model, opset=17, decompose_norm=True),
        onnx_from_model(model, opset=20),
        ranges_from_onnx(weakly_typed, Images(), QuantRecipe()),
    )


@pytest.fixture(scope="session")
def images() -> type[Images]:
    return Images


@pytest.fixture(scope="session")
def make_model():
    return tiny_model


@pytest.fixture(scope="session")
def run_graph():
    return run
