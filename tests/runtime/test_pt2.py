""".pt2 sessions beyond the contract: what was compiled elsewhere, files that are none, opening by sidecar."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hasn_edge.artifact import Artifact, load_artifact, publish
from hasn_edge.errors import ArtifactError, UnsupportedError
from hasn_edge.exporters.pt2 import program_bytes, program_from_model
from hasn_edge.model.hasn import HASN
from hasn_edge.runtime.open import open_session
from hasn_edge.runtime.pt2 import CompiledSession, ProgramSession, package_host
from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.sidecar import Kind, ProgramDetails
from hasn_edge.spec import ModelSpec, Precision

SPEC = ModelSpec(features=8, blocks=1, esa_channels=4)


@pytest.fixture(scope="module")
def program() -> bytes:
    torch.manual_seed(0)
    return program_bytes(program_from_model(HASN(SPEC).eval()))


def published(data: bytes, folder: Path, **details) -> Artifact:
    path = publish(
        data,
        folder / "net-fp32.pt2",
        spec=SPEC,
        precision=Precision.FP32,
        source="0" * 64,
        details=ProgramDetails(least_side=21, **details),
    ).path
    return load_artifact(path)


@pytest.mark.slow
def test_an_artifact_opens_and_any_image_is_upscaled(program, tmp_path):
    artifact = published(program, tmp_path)
    assert artifact.kind is Kind.PT2
    with open_session(artifact, threads=1) as session, Upscaler(session) as upscaler:
        assert (session.backend, session.smallest) == ("pt2", (21, 21))
        image = np.random.default_rng(0).integers(0, 256, (16, 30, 3), np.uint8)
        out = upscaler.upscale(image)
        assert upscaler.last_report.padded == (5, 0)
        torch.manual_seed(0)
        x = torch.from_numpy(np.pad(image, ((0, 5), (0, 0), (0, 0)), "edge") / np.float32(255))
        with torch.no_grad():
            y = HASN(SPEC).eval()(x.permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
        assert np.abs(out - 255 * np.clip(y, 0, 1)[:64]).max() <= 0.51


def test_what_was_compiled_for_another_machine_is_refused_before_it_runs(tmp_path):
    foreign = "PyTorch 2.9.0, aarch64 asimd"
    artifact = published(b"machine code", tmp_path, compiled_for=foreign, device="cpu")
    with pytest.raises(
        UnsupportedError, match=rf"compiled for {foreign}, and this is PyTorch .*format='aoti'"
    ):
        open_session(artifact)
    with pytest.raises(UnsupportedError, match="compiled for cpu, and cuda was asked for; leave out device"):
        open_session(artifact, device="cuda")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04" + bytes(100), None])
def test_files_that_are_no_programs(tmp_path, program, content):
    path = tmp_path / "broken.pt2"
    path.write_bytes(program[: len(program) // 2] if content is None else content)
    with pytest.raises(ArtifactError, match=r"broken\.pt2: PyTorch .* does not read it; .*format='pt2'"):
        ProgramSession(path, SPEC, least_side=21)
    with pytest.raises(ArtifactError, match=r"broken\.pt2: PyTorch .* does not read it; .*format='aoti'"):
        CompiledSession(path, SPEC, least_side=21, compiled_for=package_host("cpu"), device="cpu")


def test_a_missing_program(tmp_path):
    with pytest.raises(ArtifactError, match=r"gone\.pt2: no such file; call hasn_edge\.export"):
        ProgramSession(tmp_path / "gone.pt2", SPEC, least_side=21)
