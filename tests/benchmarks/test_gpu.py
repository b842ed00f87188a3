"""What benchmarks/gpu.py is made of, rehearsed on the CPU: figures, reasons, the result file."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hasn_edge.bench.board import find_board
from hasn_edge.errors import BuildError
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.model.hasn import HASN
from hasn_edge.sidecar import Kind
from hasn_edge.spec import ModelSpec
from tests.support.samples import details_of

SPEC = ModelSpec(features=8, blocks=1)


def load(name: str):
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gpu():
    load("gpu_case")
    load("gpu_build")
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


@pytest.mark.slow
def test_an_artifact_is_timed_through_its_session(gpu, bench, model, x, tmp_path):
    from hasn_edge.artifact import publish
    from hasn_edge.spec import Precision

    graph = publish(
        onnx_from_model(model).SerializeToString(), tmp_path / "n.onnx", spec=SPEC,
        precision=Precision.FP32, source="0" * 64, details=details_of(Kind.ONNX),
    )  # fmt: skip
    case = gpu.run(gpu.Case(label="o", precision="fp32"), lambda c: bench.session(c, graph.path, x))
    assert case.error is None
    assert case.gpu is None
    assert len(case.host.seconds) == 3
    with torch.inference_mode():
        assert np.abs(case.output - model(torch.from_numpy(x)).numpy()).max() < 1e-5


HOPPER = GpuFacts(
    name="NVIDIA H100 80GB HBM3", compute_capability="9.0", total_memory_bytes=80 << 30, driver="580.65.06",
    cuda="13.0", integrated=False, l4t=None, sm_count=132,
)  # fmt: skip


def test_tensorrt_for_rtx_is_asked_without_naming_the_gpu_too(gpu, tmp_path, monkeypatch):
    """Its list has no SM 9.0 and our check compares with what was named: unnamed, it answers itself."""
    from hasn_edge.engine.compatibility import _gpu_problems
    from hasn_edge.engine.engine_file import PlanHeader
    from hasn_edge.engine.target import EngineRuntime, load_target

    builds = sys.modules["gpu_build"]
    targets = builds.rtx_targets(HOPPER, tmp_path)
    assert [load_target(t).compute_capabilities for t in targets] == [
        ("9.0",), (), load_target("rtx").compute_capabilities,
    ]  # fmt: skip
    header = PlanHeader(runtime=EngineRuntime.RTX, version=(1, 7, 1, 116), file_bytes=4096)

    def problems(target):
        able = list(load_target(target).compute_capabilities)
        return list(_gpu_problems(details_of(Kind.ENGINE, compute_capabilities=able), header, HOPPER))

    assert [bool(problems(target)) for target in targets] == [False, False, True]

    refusal = (
        "TensorRT for RTX could not run it:\n  ERROR: " + "x" * 500 + "\n  The engine cannot run on this GPU"
    )

    def refuse(model, *, target, **options):
        raise BuildError(f"SM90 is not known\nto it, {target}" if "this-gpu" in target else refusal)

    monkeypatch.setattr(builds, "build", refuse)
    made = builds.build_all(HOPPER, "hasn-x4", (180, 320), tmp_path)["TensorRT for RTX fp16"]
    assert made.path is None
    assert [text.split(":")[0] for text in made.refused] == ["this-gpu", "unnamed-gpu", "rtx"]
    assert made.refused[1].endswith("The engine cannot run on this GPU"), "its words, whole"
    (case,) = gpu.cases_of_files(None, {"TensorRT for RTX fp16": made}, None)
    assert "The engine cannot run on this GPU" in case.to_dict(None)["error"]
    assert case.to_dict(None)["refused"] == gpu.reasons(case) == list(made.refused)
    assert len(gpu.short(case.error)) < 310


def test_what_was_refused_before_stays_with_what_ran(gpu, tmp_path, monkeypatch):
    builds = sys.modules["gpu_build"]
    engine = SimpleNamespace(kind=Kind.ENGINE, path=tmp_path / "e.engine")
    graph = SimpleNamespace(kind=Kind.ONNX, path=tmp_path / "g.onnx")

    def some(model, *, target, **options):
        if "this-gpu" in target:
            raise BuildError("SM90 is not known")
        return SimpleNamespace(artifacts=(graph, engine))

    monkeypatch.setattr(builds, "build", some)
    made = builds.build_all(HOPPER, "hasn-x4", (180, 320), tmp_path)["TensorRT for RTX int8"]
    assert made == builds.Made(path=engine.path, refused=("this-gpu: SM90 is not known",))
    ran = SimpleNamespace(session=lambda case, path, x: setattr(case, "facts", {"path": str(path)}))
    (case,) = gpu.cases_of_files(ran, {"TensorRT for RTX int8": made}, None)
    assert (case.error, case.facts["path"]) == (None, str(engine.path))
    assert case.to_dict(None)["refused"] == gpu.reasons(case) == ["this-gpu: SM90 is not known"]
    case.error = "it ran and failed"
    assert gpu.reasons(case) == ["this-gpu: SM90 is not known", "it ran and failed"]


def test_trained_networks_of_both_sizes_at_three_sizes(gpu):
    from hasn_edge.model.zoo import CAMERA_MODEL, bundled_models, load_model
    from hasn_edge.spec import ModelSpec as Spec

    others = {CAMERA_MODEL, "hasn-x2"}  # of the same body
    assert set(gpu.MODELS) == set(bundled_models()) - others
    large = load_model(gpu.MODELS[0])
    assert replace(large.spec, residual=False) == Spec(), "the published network's convolutions"
    assert sum(p.numel() for p in large.parameters()) == 435_272
    assert gpu._sizes(gpu.SIZES) == [(180, 320), (360, 640), (540, 960)]


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


def test_what_ends_the_process_takes_no_finished_case_along(gpu, tmp_path, monkeypatch):
    from click.testing import CliRunner

    def one_then_none(bench, model, files, x):
        yield gpu.Case(label="first", precision="fp32")
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "cases", one_then_none)
    monkeypatch.setattr(gpu, "build_all", lambda *args: {})
    path = tmp_path / "r.json"
    CliRunner().invoke(
        gpu.main, ["--rehearse", "--model", "hasn-x4-small", "--size", "16x16", "-o", str(path)]
    )
    (result,) = json.loads(path.read_text())["results"]
    assert [case["label"] for case in result["cases"]] == ["first"]
