"""On a machine with an NVIDIA GPU (``pytest -m gpu``): every backend computes there what it computes here."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

from hasn_edge.bench import options
from hasn_edge.bench.board import find_board
from hasn_edge.bench.report import SCHEMA
from hasn_edge.cli import cli
from hasn_edge.engine.capabilities import find_module
from hasn_edge.engine.target import EngineRuntime
from hasn_edge.errors import BuildError, HasnEdgeError, MissingDependencyError, UnsupportedError
from hasn_edge.hardware.gpu import gpu_facts
from hasn_edge.model.checkpoint import save_checkpoint
from hasn_edge.model.zoo import DEFAULT_MODEL, load_model
from hasn_edge.pipeline.api import build, export
from hasn_edge.runtime.open import open_session
from hasn_edge.sidecar import Kind
from hasn_edge.spec import ModelSpec
from tests.support.scripts import load_script

pytestmark = pytest.mark.gpu

SIZE = (48, 64)
FLOOR_DB = {"fp32": 100, "fp16": 55, "int8": 35}
"""Least PSNR (range 1) of a precision's output against FP32 on the CPU."""


@pytest.fixture(scope="module")
def facts():
    found = gpu_facts()
    if found is None:
        pytest.skip("no NVIDIA driver answers on this machine")
    return found


@pytest.fixture(scope="module")
def cuda(facts):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} sees no GPU")
    return torch


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((1, 3, *SIZE), dtype=np.float32)


@pytest.fixture(scope="module")
def expected(x):
    from hasn_edge.runtime.pytorch import PyTorchSession

    with PyTorchSession(load_model(DEFAULT_MODEL)) as session:
        return session.run(x)


def psnr(a, b) -> float:
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)


def test_the_driver_and_pytorch_agree(facts, cuda):
    properties = cuda.cuda.get_device_properties(0)
    assert facts.name == properties.name
    assert facts.compute_capability == f"{properties.major}.{properties.minor}"
    assert facts.sm_count == properties.multi_processor_count
    assert facts.integrated == bool(properties.is_integrated)


def test_pytorch_computes_fp32_without_tf32(cuda, x, expected):
    from hasn_edge.runtime.pytorch import PyTorchSession

    with PyTorchSession(load_model(DEFAULT_MODEL), device="cuda") as session:
        assert np.abs(session.run(x) - expected).max() < 1e-4


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_torchscript(cuda, x, expected, tmp_path, precision):
    made = export(DEFAULT_MODEL, format="torchscript", precision=precision, output=tmp_path)
    with open_session(made, device="cuda") as session:
        assert psnr(session.run(x), expected) > FLOOR_DB[precision]


@pytest.mark.parametrize("runtime", [EngineRuntime.TENSORRT, EngineRuntime.RTX])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_engines(facts, x, expected, tmp_path, runtime, precision):
    try:
        find_module(runtime)
    except MissingDependencyError as exc:
        pytest.skip(str(exc))
    target = runtime.value
    if runtime is EngineRuntime.RTX:
        target = tmp_path / "here.toml"
        target.write_text(f'runtime = "rtx"\ncompute_capabilities = ["{facts.compute_capability}"]\n')
    try:
        made = build(DEFAULT_MODEL, precision=precision, target=target, size=SIZE, output=tmp_path)
    except (BuildError, HasnEdgeError) as exc:
        if runtime is EngineRuntime.RTX:
            pytest.skip(f"TensorRT for RTX does not build for {facts.title}: {exc}")
        raise
    engine = next(artifact for artifact in made.artifacts if artifact.kind is Kind.ENGINE)
    with open_session(engine) as session:
        first, second, third = (session.run(x) for _ in range(3))  # as it is, recorded, replayed
        assert psnr(first, expected) > FLOOR_DB[precision]
        assert (first == second).all()
        assert (first == third).all()
        timing = session.times(x)
        assert 0 < timing.gpu_s <= timing.total_s
        other = np.ascontiguousarray(x[..., ::-1])
        assert psnr(session.run(other), expected) < 40, "a replayed graph must read the new input"


@pytest.mark.parametrize("runtime", [EngineRuntime.TENSORRT, EngineRuntime.RTX])
def test_a_range_of_sizes_takes_memory_for_those_in_use(facts, x, expected, tmp_path, runtime):
    try:
        find_module(runtime)
    except MissingDependencyError as exc:
        pytest.skip(str(exc))
    target = runtime.value
    if runtime is EngineRuntime.RTX:
        target = tmp_path / "here.toml"
        target.write_text(f'runtime = "rtx"\ncompute_capabilities = ["{facts.compute_capability}"]\n')
    sizes = ((32, 32), SIZE, (1080, 1920))
    try:
        made = build(DEFAULT_MODEL, precision="fp16", target=target, dynamic=sizes, output=tmp_path)
    except HasnEdgeError as exc:
        if runtime is EngineRuntime.RTX:
            pytest.skip(f"TensorRT for RTX does not build for {facts.title}: {exc}")
        raise
    engine = next(artifact for artifact in made.artifacts if artifact.kind is Kind.ENGINE)
    kernels = engine.engine.kernels
    assert kernels is not None
    assert "Half -> Half" in kernels.convolutions
    with open_session(engine, in_flight=2) as session:
        assert psnr(session.run(x), expected) > FLOOR_DB["fp16"]
        small = session.facts()
        frame = np.random.default_rng(1).random((1, 3, 540, 960), dtype=np.float32)
        for pending in [session.submit(frame) for _ in range(2)]:
            assert pending.result().shape == (1, 3, 2160, 3840)
        lent = small["activations"] == "of the sizes in use"  # TensorRT 10.3 and newer
        assert session.facts()["gpu_memory_bytes"] > small["gpu_memory_bytes"] or not lent
        assert psnr(session.run(x), expected) > FLOOR_DB["fp16"]
    for mapped in (False, True):
        with open_session(engine, mapped=mapped) as session:
            for _ in range(3):
                assert psnr(session.run(x), expected) > FLOOR_DB["fp16"]


def test_a_card_tells_its_power(facts):
    board = find_board("cuda")
    source, why = board.power()
    if source is None:
        pytest.skip(why)
    try:
        watts = source.read().watts
    except OSError as exc:
        pytest.skip(f"this GPU does not tell its power: {exc}")
    finally:
        source.close()
    assert all(0 < value < 2000 for value in watts.values())
    json.dumps(board.facts())


def test_bench_on_the_gpu(cuda, tmp_path, monkeypatch):
    from hasn_edge.model.hasn import HASN

    monkeypatch.setattr(options, "DEVICE_SECONDS", 0.5)
    tiny = tmp_path / "tiny.safetensors"
    cuda.manual_seed(0)
    save_checkpoint(tiny, HASN(ModelSpec(features=16, blocks=1)))
    command = ["bench", "--device", "cuda", "--model", str(tiny), "--precision", "fp16", "--size", "64x48"]
    result = CliRunner().invoke(cli, [*command, "--runs", "20", "--json", str(tmp_path / "r.json")])
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["schema"] == SCHEMA
    assert content["device"]["before"]["gpu"]["name"] == gpu_facts().name
    assert {case["device"] for case in content["cases"] if case["latency"]} <= {"cuda", "cuda:0"}
    assert all(case["latency"]["samples"] >= 20 for case in content["cases"] if case["latency"])


@pytest.mark.parametrize("graphs", [False, True])
def test_the_gpu_benchmark_times_what_it_computes(cuda, x, expected, graphs):
    gpu_case = load_script("benchmarks/gpu_case.py")
    bench = gpu_case.Bench(device="cuda", seconds=0.0, runs=5, source=None)
    case = gpu_case.Case(label="eager", precision="fp32", graphs=graphs)
    with cuda.inference_mode():
        bench.module(case, load_model(DEFAULT_MODEL).cuda(), cuda.from_numpy(x).cuda())
    assert psnr(case.output, expected) > FLOOR_DB["fp32"]
    assert len(case.gpu.seconds) == len(case.host.seconds) == 5
    assert case.gpu.median_ms > 0


def test_rtx_is_refused_on_a_jetson(facts):
    if facts.l4t is None:
        pytest.skip("this machine is no Jetson")
    with pytest.raises(UnsupportedError, match="is for desktop GPUs"):
        find_board("rtx")
