"""A finished engine is tried before it gets its name, and what was found is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import hasn_edge
from hasn_edge import builder, engine_job
from hasn_edge.artifact import Kind, load_artifact
from hasn_edge.engine.gpu import GpuFacts
from hasn_edge.errors import ArtifactError, MissingDependencyError
from hasn_edge.model.checkpoint import save_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.runtime.fake import FakeSession
from hasn_edge.spec import ModelSpec

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
    monkeypatch.setattr(engine_job, "open_session", opened)
    built = build(tiny, tmp_path / "out")
    assert [session.closed for session in seen] == [True]
    assert built.summary[-1] == "the fp32 engine for rtx ran: its golden picture came out right"
    assert len(files(tmp_path / "out")) == 4


def test_one_that_computes_something_else_is_not_published(tiny, tmp_path, monkeypatch):
    def lies(artifact):
        raise ArtifactError("it loads, but computes something else")

    monkeypatch.setattr(builder, "gpu_facts", lambda: ADA)
    monkeypatch.setattr(engine_job, "open_session", lies)
    with pytest.raises(ArtifactError, match="computes something else"):
        build(tiny, tmp_path / "out")
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("gpu", [None, replace(ADA, compute_capability="7.5")], ids=["none", "another"])
def test_without_its_gpu_it_is_said_not_to_have_run(tiny, tmp_path, monkeypatch, gpu):
    monkeypatch.setattr(builder, "gpu_facts", lambda: gpu)
    monkeypatch.setattr(engine_job, "open_session", lambda artifact: pytest.fail("there is no GPU for it"))
    built = build(tiny, tmp_path / "out")
    assert built.summary[-1] == "the fp32 engine for rtx was not executed: that needs its GPU"


def test_without_a_cuda_package_it_is_built_and_the_cure_said(tiny, tmp_path, monkeypatch):
    def lacks(artifact):
        raise MissingDependencyError("cuda-python", extra="cuda", needed_for="Running an engine")

    monkeypatch.setattr(builder, "gpu_facts", lambda: ADA)
    monkeypatch.setattr(engine_job, "open_session", lacks)
    built = build(tiny, tmp_path / "out")
    assert "was not executed: Running an engine needs" in built.summary[-1]
    assert "hasn-edge[cuda]" in built.summary[-1]
    assert len(files(tmp_path / "out")) == 4
