"""``export --format triton``: from a model or from a finished file to a repository that a server loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from hasn_edge import export
from hasn_edge.artifact import load_artifact
from hasn_edge.cli import cli
from hasn_edge.errors import UnsupportedError
from hasn_edge.model.checkpoint import save_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import ModelSpec


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(path, HASN(ModelSpec(features=8, blocks=1)))
    return path


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["export", *map(str, args)], prog_name="hasn-edge")


@pytest.mark.slow
def test_from_a_model(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("--model", tiny, "--format", "triton", "--precision", "fp16")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == "triton/tiny-fp16/1/model.onnx"
    made = load_artifact("triton/tiny-fp16/1/model.onnx")
    assert made.precision.value == "fp16"
    assert {path.name for path in tmp_path.iterdir()} == {"triton"}
    assert "TYPE_FP32" in Path("triton/tiny-fp16/config.pbtxt").read_text(encoding="utf-8")
    again = run("--model", tiny, "--format", "triton", "--precision", "fp16")
    assert again.output.splitlines()[-1] == "triton/tiny-fp16/1/model.onnx", "nothing new to add"


@pytest.mark.slow
def test_from_a_file_under_a_name(tiny, tmp_path):
    made = export(tiny, size=(24, 32), output=tmp_path / "files")
    result = run("--artifact", made.path, "--format", "triton", "--name", "sr", "-o", tmp_path / "repo")
    assert result.exit_code == 0, result.output
    copy = load_artifact(tmp_path / "repo/sr/1/model.onnx")
    assert copy.sha256 == made.sha256
    assert "dims: [ 1, 3, 24, 32 ]" in (tmp_path / "repo/sr/config.pbtxt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_from_python(tiny, tmp_path):
    made = export(tiny, format="triton", output=tmp_path / "repo")
    assert made.path == tmp_path / "repo" / "tiny-fp32" / "1" / "model.onnx"
    with pytest.raises(UnsupportedError, match="onnx, pt2, aoti, torchscript, triton"):
        export(tiny, format="openvino", output=tmp_path)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--artifact", "x.onnx"], "--artifact goes with --format triton"),
        (["--format", "triton", "--artifact", "x.onnx", "--model", "m"], "leave out --model"),
        (["--format", "triton", "--force"], "adds a version and replaces none; leave out --force"),
        (["--format", "triton", "--artifact", "x.onnx", "--precision", "fp16"], "leave out --precision"),
        (["--format", "triton", "--artifact", "x.onnx", "--size", "32x32"], "leave out --size"),
    ],
)
def test_options_that_do_not_go_together(args, said):
    result = run(*args)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


@pytest.mark.slow
def test_refusals(tiny, tmp_path):
    made = export(tiny, format="torchscript", output=tmp_path / "files")
    result = run("--artifact", made.path, "--format", "triton", "-o", tmp_path / "repo")
    assert result.exit_code == 1
    assert "a torchscript file" in result.output
    result = run("--artifact", tmp_path / "absent.onnx", "--format", "triton", "-o", tmp_path / "repo")
    assert result.exit_code == 1
    assert "no such file" in result.output
    assert not (tmp_path / "repo").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--name", "a b", "expected letters, digits, '_', '-' and '.'"),
        ("--backend", "tensorrt", "Triton's backend 'tensorrt' does not run; use --backend onnxruntime"),
    ],
)
def test_what_cannot_be_is_refused_before_the_export(tiny, tmp_path, monkeypatch, option, value, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hasn_edge.pipeline.api.export", lambda *_, **__: pytest.fail("exported"))
    result = run("--model", tiny, "--format", "triton", option, value)
    assert result.exit_code == 1
    assert message in result.output
