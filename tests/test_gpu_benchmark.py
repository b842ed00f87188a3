"""What benchmarks/gpu.py is made of, rehearsed on the processor: figures, reasons, the result file."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hasn_edge.device.board import find_board
from hasn_edge.formats.onnx import onnx_from_model
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import ModelSpec

SPEC = ModelSpec(features=8, blocks=1)


def load(name: str):
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gpu():
    load("gpu_case")
    return load("gpu")


@pytest.fixture
def bench(gpu):
    return gpu.Bench(device="cpu", seconds=0.0, runs=3, source=None)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return HASN(SPEC).eval()


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((1, 3, 16, 18), dtype=np.float32)


def test_a_module_is_timed_and_its_output_kept(gpu, bench, model, x):
    case = gpu.run(
        gpu.Case(label="eager", precision="fp32"), lambda c: bench.module(c, model, torch.from_numpy(x))
    )
    assert case.error is None
    assert len(case.gpu.seconds) == len(case.host.seconds) == 3
    with torch.inference_mode():
        assert (case.output == model(torch.from_numpy(x)).numpy()).all()
    assert case.difference(case.output) == (0.0, math.inf)
    largest, psnr = case.difference(case.output + np.float32(0.01))
    assert largest == pytest.approx(0.01, rel=1e-3)
    assert psnr == pytest.approx(40, abs=1e-2)


def test_what_fails_says_why(gpu, bench, model, x):
    graphs = gpu.Case(label="TorchScript", precision="fp32", graphs=True)
    case = gpu.run(graphs, lambda c: bench.module(c, model, torch.from_numpy(x)))
    assert case.error == "CUDA graphs need a GPU"
    broken = gpu.run(gpu.Case(label="x", precision="fp32"), lambda c: 1 / 0)
    assert broken.error == "ZeroDivisionError: division by zero"
    assert broken.to_dict(None)["gpu"] is None


def test_an_artefact_is_timed_through_its_session(gpu, bench, model, x, tmp_path):
    from hasn_edge.artifact import Kind, publish
    from hasn_edge.spec import Precision

    graph = publish(
        onnx_from_model(model).SerializeToString(), tmp_path / "n.onnx", kind=Kind.ONNX, spec=SPEC,
        precision=Precision.FP32, source="0" * 64,
    )  # fmt: skip
    case = gpu.run(gpu.Case(label="o", precision="fp32"), lambda c: bench.session(c, graph.path, x))
    assert case.error is None
    assert case.gpu is None
    assert len(case.host.seconds) == 3
    with torch.inference_mode():
        assert np.abs(case.output - model(torch.from_numpy(x)).numpy()).max() < 1e-5


def test_the_result_file_says_it_was_a_rehearsal(gpu, tmp_path):
    board = find_board("cpu")
    arguments = (board, board.facts(), [{"model": "m"}], "rehearsal", True)
    assert gpu.write(*arguments, None) is None
    path = gpu.write(*arguments, tmp_path / "r.json")
    content = json.loads(path.read_text())
    assert content["rehearsal"] is True
    assert content["versions"]["torch"] == torch.__version__
    assert content["results"] == [{"model": "m"}]
    assert content["device"]["power"] == "rehearsal"


def test_without_a_gpu_it_refuses(gpu):
    from click.testing import CliRunner

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = CliRunner().invoke(gpu.main, [])
    assert result.exit_code != 0
    assert "no NVIDIA GPU" in str(result.exception) + result.output
