"""A finished engine is tried before it gets its name, and what was found is said."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

import hasn_edge
from hasn_edge.artifact import Kind, load_artifact
from hasn_edge.errors import ArtifactError, NoCudaError
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.model.checkpoint import save_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.pipeline import autotune as fastest
from hasn_edge.pipeline import build as builder
from hasn_edge.runtime.tensorrt import open as open_engine
from hasn_edge.spec import ModelSpec
from tests.support.fake_session import FakeSession

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed: extra [rtx]")

ADA = GpuFacts(
    name="NVIDIA GeForce RTX 4090",
    compute_capability="8.9",
    total_memory_bytes=24 << 30,
    driver="580.65",
    cuda="13.0",
    integrated=False,
    l4t=None,
    sm_count=128,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(path, HASN(ModelSpec(features=8, blocks=1)))
    return path


def build(tiny, folder):
    return hasn_edge.build(tiny, precision="fp32", target="rtx", size=(32, 40), output=folder)


def files(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_file()) if folder.exists() else []


def test_an_engine_runs_before_it_is_published(tiny, tmp_path, monkeypatch):
    seen = []

    def opened(artifact):
        assert load_artifact(artifact.path).kind is Kind.ENGINE
        assert files(tmp_path / "out") == []
        seen.append(FakeSession())
        return seen[-1]

    monkeypatch.setattr(builder, "gpu_facts", lambda: ADA)
    monkeypatch.setattr(builder, "open_session", opened)
    built = build(tiny, tmp_path / "out")
    assert [session.closed for session in seen] == [True]
    assert built.summary[-1] == "the fp32 engine for rtx ran: its golden image came out right"
    assert len(files(tmp_path / "out")) == 4


def test_one_that_computes_something_else_is_not_published(tiny, tmp_path, monkeypatch):
    def lies(artifact):
        raise ArtifactError("it loads, but computes something else")

    monkeypatch.setattr(builder, "gpu_facts", lambda: ADA)
    monkeypatch.setattr(builder, "open_session", lies)
    with pytest.raises(ArtifactError, match="computes something else"):
        build(tiny, tmp_path / "out")
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("gpu", [None, replace(ADA, compute_capability="7.5")], ids=["none", "another"])
def test_without_its_gpu_it_is_said_not_to_have_run(tiny, tmp_path, monkeypatch, gpu):
    monkeypatch.setattr(builder, "gpu_facts", lambda: gpu)
    monkeypatch.setattr(builder, "open_session", lambda artifact: pytest.fail("there is no GPU for it"))
    built = build(tiny, tmp_path / "out")
    assert built.summary[-1] == "the fp32 engine for rtx was not executed: that needs its GPU"


@pytest.fixture
def no_cuda_package(monkeypatch):
    """A Jetson as it often is: a GPU, TensorRT, PyTorch for the CPU, and nothing that opens CUDA."""
    for name in ("cuda", "pycuda"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for module in (builder, fastest, open_engine):
        monkeypatch.setattr(module, "gpu_facts", lambda index=0: ADA)


@pytest.mark.usefixtures("no_cuda_package")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NVIDIA's bindings, which are loaded here
def test_without_a_cuda_package_it_is_built_and_the_cure_said(tiny, tmp_path):
    built = build(tiny, tmp_path / "out")
    said = built.summary[-1]
    assert said.startswith("the fp32 engine for rtx was not executed: running an engine needs a Python ")
    assert "pip install" in said
    assert f"torch: CUDA (through torch): PyTorch {torch.__version__} here sees no GPU" in said
    assert len(files(tmp_path / "out")) == 4


@pytest.mark.usefixtures("no_cuda_package")
def test_without_a_cuda_package_auto_compiles_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(fastest, "build_one", lambda *args, **rest: pytest.fail("it began to build"))
    with pytest.raises(NoCudaError, match="running an engine needs a Python package"):
        hasn_edge.build(tiny, precision="auto", target="rtx", size=(32, 40), output=tmp_path / "out")
    assert files(tmp_path / "out") == []
