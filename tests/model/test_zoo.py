"""The models that ship: their files belong together, and what they are said to reach is what they reach."""

from __future__ import annotations

import pytest

from hasn_edge.artifact import load_artifact
from hasn_edge.errors import CheckpointError
from hasn_edge.files import file_sha256
from hasn_edge.model import zoo
from hasn_edge.spec import Precision


@pytest.mark.parametrize("name", zoo.bundled_models())
def test_the_onnx_file_is_of_the_weights_beside_it(name):
    path = zoo.bundled_onnx(name)
    assert path is not None
    artifact = load_artifact(path)
    assert artifact.source == file_sha256(zoo.model_path(name)), (
        "make it again: hasn-edge build --precision fp32"
    )
    assert artifact.precision is Precision.FP32
    assert artifact.spec == zoo.load_model(name).spec


@pytest.mark.parametrize("name", zoo.bundled_models())
def test_files_are_small_and_have_a_card(name):
    for path in (zoo.model_path(name), zoo.bundled_onnx(name)):
        assert path.stat().st_size <= 4e6
    assert (zoo.WEIGHTS / f"{name}.md").read_text(encoding="utf-8").startswith(f"# {name}")


def test_the_default_is_bundled():
    assert zoo.DEFAULT_MODEL in zoo.bundled_models()


def test_provenance_is_read_without_tensors():
    provenance = zoo.bundled_provenance(zoo.DEFAULT_MODEL)
    assert provenance["iterations"] > 0
    assert provenance["scores"]["Set5"]["psnr_y"] > 28.5


def test_unknown_name_lists_the_bundled():
    with pytest.raises(CheckpointError, match=f"no model called 'hasn-x9'; bundled: .*{zoo.DEFAULT_MODEL}"):
        zoo.model_path("hasn-x9")
