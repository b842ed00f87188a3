"""Opening built files and models by name: the backend that fits, and one message where none does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hasn_edge.artifact import Artifact, load_artifact, publish, sidecar_path
from hasn_edge.errors import ArtifactError, CheckpointError, UnsupportedError
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.exporters.torchscript import quiet_jit, torchscript_from_model
from hasn_edge.model import zoo
from hasn_edge.model.checkpoint import save_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.runtime.open import open_model, open_session
from hasn_edge.sidecar import Kind
from hasn_edge.spec import ModelSpec, Precision
from tests.support.samples import details_of

SPEC = ModelSpec(features=8, blocks=1, esa_channels=4)
X = np.random.default_rng(1).random((1, 3, 16, 20), dtype=np.float32)


@pytest.fixture(scope="module")
def model() -> HASN:
    torch.manual_seed(0)
    return HASN(SPEC).eval()


@pytest.fixture(scope="module")
def expected(model):
    with torch.no_grad():
        return model(torch.from_numpy(X)).numpy()


@pytest.fixture(scope="module")
def files(model, tmp_path_factory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("built")
    made = {}

    def add(name: str, data: bytes, kind: Kind, **details) -> None:
        made[name] = publish(
            data,
            folder / f"{name}{kind.suffix}",
            spec=SPEC,
            precision=Precision.FP32,
            source="0" * 64,
            details=details_of(kind, **details),
        )

    add("any", onnx_from_model(model, simplify=False).SerializeToString(), Kind.ONNX)
    static = onnx_from_model(model, simplify=False, size=(16, 20)).SerializeToString()
    add("static", static, Kind.ONNX, size=[16, 20])
    with quiet_jit():
        torch.jit.save(torchscript_from_model(model), str(folder / "script"))
    add("script", (folder / "script").read_bytes(), Kind.TORCHSCRIPT)
    return made


@pytest.fixture
def bundle(model, files, tmp_path, monkeypatch) -> Path:
    """A folder of bundled models: ``with-onnx`` and ``weights-only``."""
    for name in ("with-onnx", "weights-only"):
        save_checkpoint(tmp_path / f"{name}.safetensors", model)
    publish(
        files["any"].path.read_bytes(),
        tmp_path / "with-onnx-fp32-cpu.onnx",
        spec=SPEC,
        precision=Precision.FP32,
        source="0" * 64,
        details=details_of(Kind.ONNX),
    )
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "backend", "size"),
    [("any", "onnxruntime", None), ("static", "onnxruntime", (16, 20)), ("script", "torchscript", None)],
)
def test_the_kind_chooses_the_backend(files, expected, name, backend, size):
    for artifact in (files[name], files[name].path, str(files[name].path)):
        with open_session(artifact, threads=1) as session:
            assert (session.backend, session.spec, session.size) == (backend, SPEC, size)
            np.testing.assert_allclose(session.run(X), expected, atol=1e-5)


def test_exact_is_for_onnx(files, expected):
    with open_session(files["any"], exact=True, threads=1) as session:
        np.testing.assert_allclose(session.run(X), expected, atol=1e-5)
    with pytest.raises(UnsupportedError, match=r"script\.ts: exact arithmetic .* ONNX Runtime"):
        open_session(files["script"], exact=True)


def test_options_of_engines_are_for_engines(files):
    for name, options in (
        ("any", {"cuda": "pycuda"}),
        ("script", {"in_flight": 2}),
        ("any", {"mapped": True}),
    ):
        with pytest.raises(
            UnsupportedError,
            match=rf"{files[name].path.name}: .* are for engines, and .*; leave out (cuda|in_flight|mapped)",
        ):
            open_session(files[name], **options)


def test_a_sidecar_that_lies_about_the_size(files, tmp_path):
    artifact = publish(
        files["any"].path.read_bytes(),
        tmp_path / "lie.onnx",
        spec=SPEC,
        precision=Precision.FP32,
        source="0" * 64,
        details=details_of(Kind.ONNX, size=[16, 20]),
    )
    with pytest.raises(ArtifactError, match="its sidecar states"):
        open_session(artifact)


def test_changed_files_are_refused(files, tmp_path):
    path = tmp_path / "changed.onnx"
    path.write_bytes(files["any"].path.read_bytes() + b"\0")
    sidecar_path(path).write_bytes(sidecar_path(files["any"].path).read_bytes())
    with pytest.raises(ArtifactError, match="its bytes changed since it was made"):
        open_session(path)
    assert load_artifact(files["any"].path) == files["any"]


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # PyTorch's compiler imports it
@pytest.mark.parametrize(
    ("name", "backend", "got"),
    [
        ("with-onnx", None, "onnxruntime"),
        ("with-onnx", "onnxruntime", "onnxruntime"),
        ("with-onnx", "pytorch", "pytorch"),
        ("with-onnx", "torch.compile", "torch.compile"),
        ("weights-only", None, "pytorch"),
    ],
)
def test_bundled_models_open_in_the_fastest_backend(bundle, expected, name, backend, got):
    # The compiler's own work takes a minute; forced, a compiled network runs eagerly.
    with torch.compiler.set_stance("force_eager"), open_model(name, backend=backend, threads=1) as session:
        assert (session.backend, session.spec) == (got, SPEC)
        np.testing.assert_allclose(session.run(X), expected, atol=1e-5)


def test_a_path_opens_in_pytorch_even_if_it_is_called_like_a_bundled_model(bundle):
    with open_model(bundle / "with-onnx.safetensors", threads=1) as session:
        assert session.backend == "pytorch"


def test_the_default_model_is_opened_where_none_is_named():
    with open_model(threads=1) as session, open_model(zoo.DEFAULT_MODEL, threads=1) as named:
        assert session.spec == named.spec
        np.testing.assert_array_equal(session.run(X), named.run(X))


def test_backends_that_cannot(bundle):
    with pytest.raises(UnsupportedError, match=r"no ONNX file ships with it .*hasn_edge.export.model='w"):
        open_model("weights-only", backend="onnxruntime")
    with pytest.raises(
        UnsupportedError, match="unknown backend 'openvino' for a model; use backend='onnxruntime'"
    ):
        open_model("with-onnx", backend="openvino")
    with pytest.raises(CheckpointError, match="no model called 'wit-onnx'; bundled: weights-only, with-onnx"):
        open_model("wit-onnx")


@pytest.mark.slow
def test_a_bundled_model_needs_no_pytorch(bundle):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = sys.modules['safetensors'] = None\n"
        "from pathlib import Path; import numpy as np; from hasn_edge.model import zoo\n"
        "zoo.WEIGHTS = Path(sys.argv[1])\n"
        "from hasn_edge.runtime.open import open_model\n"
        "from hasn_edge.runtime.upscaler import Upscaler\n"
        "with Upscaler(open_model('with-onnx', threads=1)) as upscaler:\n"
        "    print(upscaler(np.zeros((3, 5, 3), np.uint8)).shape)\n"
        "try: open_model('weights-only')\n"
        "except Exception as exc: print(type(exc).__name__, exc)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == "(12, 20, 3)"
    assert second.startswith("MissingDependencyError Loading a checkpoint needs the Python package 'torch'")
