"""TorchScript sessions beyond the contract: sizes, devices, files that are none."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from hasn_edge.errors import ArtifactError, ShapeError, UnsupportedError
from hasn_edge.exporters.torchscript import quiet_jit, torchscript_from_model
from hasn_edge.model.hasn import HASN
from hasn_edge.runtime.torchscript import TorchScriptSession
from hasn_edge.spec import ModelSpec

SPEC = ModelSpec(features=8, blocks=1, esa_channels=4)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).random(shape, dtype=np.float32)


@pytest.fixture(scope="module")
def script() -> bytes:
    buffer = io.BytesIO()
    with quiet_jit():
        torch.jit.save(torchscript_from_model(HASN(SPEC)), buffer)
    return buffer.getvalue()


def test_a_cuda_device_that_is_not_here(script):
    with pytest.raises(UnsupportedError, match=r"device 'cuda:63' is not here: PyTorch .*; use device='cpu'"):
        TorchScriptSession(script, SPEC, device="cuda:63")


def test_a_script_from_a_file_takes_any_size(tmp_path: Path, script):
    path = tmp_path / "ünï code.ts"
    path.write_bytes(script)
    with TorchScriptSession(path, SPEC, threads=1) as session:
        assert session.run(noise(2, 3, 31, 17)).shape == (2, 3, 124, 68)
    with (
        TorchScriptSession(path, SPEC, size=(16, 16)) as static,
        pytest.raises(ShapeError, match="exactly 16 x 16"),
    ):
        static.run(noise(1, 3, 16, 17))


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04" + bytes(100), None])
def test_files_that_are_no_scripts(tmp_path: Path, script, content):
    path = tmp_path / "broken.ts"
    path.write_bytes(script[: len(script) // 2] if content is None else content)
    with pytest.raises(
        ArtifactError, match=r"^\S*broken\.ts: not a complete TorchScript file; [^.;]*; call hasn_edge.export"
    ):
        TorchScriptSession(path, SPEC)


def test_a_missing_script(tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"gone\.ts: no such file; call hasn_edge.export"):
        TorchScriptSession(tmp_path / "gone.ts", SPEC)
