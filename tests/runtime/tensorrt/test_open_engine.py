"""Opening an engine: what is checked, in which order, and what a machine without a GPU is told."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from hasn_edge.artifact import publish, sidecar_path
from hasn_edge.cli import cli
from hasn_edge.errors import ArtifactError, MissingDependencyError, UnsupportedError
from hasn_edge.images.codec import write_image
from hasn_edge.runtime.golden import make_golden
from hasn_edge.runtime.open import open_session
from hasn_edge.sidecar import Golden, Kind
from hasn_edge.spec import ModelSpec, Precision
from tests.support.fake_gpu import CudaError
from tests.support.fake_session import FakeSession
from tests.support.samples import details_of

SPEC = ModelSpec(features=8, blocks=1, esa_channels=4)
FACTS = {
    "target": "orin-nano",
    "model": "net",
    "gpu": "Orin",
    "sm_count": 8,
    "compute_capability": "8.7",
}


def golden() -> Golden:
    with FakeSession(SPEC) as session:
        return make_golden(session, (32, 48))


@pytest.fixture
def engine(lab):
    """Return a function that publishes an engine with a whole sidecar."""
    lab.set_up()

    def make(name: str = "x4", *, details: dict | None = None, **plan):
        return lab.engine(name, details={**FACTS, "golden": golden(), **(details or {})}, **plan)

    return make


class Untouched(types.ModuleType):
    """Is found where somebody looks for it."""

    def __getattr__(self, name: str) -> None:
        raise AssertionError(f"TensorRT was asked for {name}")


@pytest.fixture
def no_import(lab, engine, monkeypatch):
    """TensorRT must not be touched."""
    module = Untouched("tensorrt")
    module.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt", module)


@pytest.mark.parametrize("cuda", ["cuda-python", "pycuda", "torch"])
@pytest.mark.parametrize("device", [None, "cuda", "cuda:0"])
def test_a_good_one_runs(engine, lab, cuda, device):
    artifact = engine()
    lab.set_up(cuda)
    x = np.random.default_rng(0).random((1, 3, 16, 20), dtype=np.float32)
    for what in (artifact, artifact.path):
        with open_session(what, device=device, cuda=cuda, in_flight=2) as session:
            assert session.facts()["cuda"] == cuda
            assert session.in_flight == 2
            np.testing.assert_array_equal(session.run(x)[..., ::4, ::4], x)


def test_pixels_too(engine):
    with open_session(engine(dtype="UINT8", minimum=(1, 15, 15, 3), maximum=(1, 64, 80, 3))) as session:
        x = np.random.default_rng(0).integers(0, 256, (1, 16, 20, 3), dtype=np.uint8)
        np.testing.assert_array_equal(session.run_pixels(x)[:, ::4, ::4], x)


@pytest.mark.parametrize(("integrated", "usual"), [(False, False), (True, True)])
def test_memory_is_mapped_where_it_is_shared_unless_one_chooses(engine, lab, integrated, usual):
    artifact = engine()
    lab.set_up(integrated=integrated)
    for asked, mapped in ((None, usual), (True, True), (False, False)):
        with open_session(artifact, mapped=asked) as session:
            assert session.facts()["mapped"] is mapped


class TestOrder:
    """Each engine here has this fault and all later ones; the earlier fault is the one that is told."""

    def test_1_the_sidecar(self, engine, no_import, lab):
        artifact = engine(behaviour="zeros")
        artifact.path.write_bytes(b"another")
        lab.driver.gpus = 0
        with pytest.raises(ArtifactError, match="its bytes changed since it was made"):
            open_session(artifact.path)

    def test_2_the_header(self, engine, no_import, lab):
        artifact = engine(behaviour="zeros")
        data = artifact.path.read_bytes()[:500]
        cut = publish(
            data,
            artifact.path,
            spec=SPEC,
            precision=Precision.FP32,
            source="0" * 64,
            details=artifact.details,
        )
        lab.driver.gpus = 0
        with pytest.raises(ArtifactError, match="only 500 bytes of a TensorRT plan"):
            open_session(cut.path)

    def test_3_a_gpu(self, engine, no_import, lab):
        lab.driver.gpus = 0
        with pytest.raises(UnsupportedError, match="this machine cannot run an engine"):
            open_session(engine(behaviour="zeros", details={"compute_capability": "7.2"}).path)

    @pytest.mark.slow
    def test_4_the_package(self, engine, no_import, monkeypatch):
        artifact = engine(behaviour="zeros", details={"compute_capability": "7.2"})
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        with pytest.raises(
            MissingDependencyError,
            match=r"^Running an engine with TensorRT needs .* 'hasn-edge\[tensorrt-cu12\]'",
        ):
            open_session(artifact.path)

    def test_5_the_same_gpu(self, engine, no_import):
        with pytest.raises(
            ArtifactError,
            match=r"it was built on Orin \(compute capability 7\.2\), and here is Orin .*"
            r"build\(model='net', precision='fp32', target='orin-nano', size=\(16, 20\), output=",
        ):
            open_session(engine(behaviour="zeros", size=(16, 20), details={"compute_capability": "7.2"}).path)

    @pytest.mark.parametrize(("shown", "number"), [(None, "1"), ("0,3", "3"), ("GPU-a, GPU-b", "GPU-b")])
    def test_5_another_than_the_first_gpu(self, engine, lab, no_import, monkeypatch, shown, number):
        """The build that is advised compiles on the first one, whichever the engine was to run on."""
        lab.driver.gpus = 2
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if shown is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        other = engine(behaviour="zeros", details={"compute_capability": "7.2"})
        with pytest.raises(
            ArtifactError, match=rf"and here is Orin .*CUDA_VISIBLE_DEVICES={number} .*build\("
        ):
            open_session(other.path, device="cuda:1")
        with pytest.raises(ArtifactError) as info:
            open_session(other.path, device="cuda:0")
        assert "CUDA_VISIBLE_DEVICES" not in str(info.value)

    def test_6_the_version_as_the_package_says_it(self, engine, lab):
        lab.set_up(package="10.7.0")
        with pytest.raises(ArtifactError, match=r"built by TensorRT 10\.3\.0\.26, and 10\.7\.0 is here"):
            open_session(engine(behaviour="zeros").path)

    def test_7_the_version_as_the_module_says_it(self, engine, lab):
        artifact = engine(behaviour="foreign")
        lab.set_up(version="10.7.0", package="10.3.0")
        with pytest.raises(ArtifactError, match=r"built by TensorRT 10\.3\.0\.26, and 10\.7\.0 is here"):
            open_session(artifact.path)
        assert "create_stream" not in lab.gpu.calls

    def test_8_loading(self, engine):
        with pytest.raises(ArtifactError, match=r"(?s)does not load this engine.*expecting compute 8\.9"):
            open_session(engine(behaviour="foreign").path)

    @pytest.mark.parametrize(("behaviour", "message"), [("zeros", "all zeros"), ("dark", "differs by")])
    def test_9_what_it_computes(self, engine, behaviour, message):
        with pytest.raises(
            ArtifactError,
            match=rf"x4\.engine: it loads, but computes something else .*{message}.*"
            r"hasn_edge\.build\(model='net', precision='fp32', target='orin-nano', "
            r"dynamic=\(\(32, 32\), \(180, 320\), \(540, 960\)\), output='\S+', rebuild=True\)$",
        ):
            open_session(engine(behaviour=behaviour).path)

    def test_9_what_it_computes_also_where_closing_fails(self, engine, lab, caplog, monkeypatch):
        free = lab.gpu.free

        def fail(allocation):
            free(allocation)
            raise CudaError("cudaErrorIllegalAddress")

        monkeypatch.setattr(lab.gpu, "free", fail)
        with pytest.raises(ArtifactError, match="it loads, but computes something else"):
            open_session(engine(behaviour="zeros").path)
        assert "cleaning up after an error failed as well: CUDA" in caplog.text

    def test_10_an_engine_without_a_golden_image(self, engine):
        with pytest.raises(ArtifactError, match="no image whose result is known"):
            open_session(engine(details={"golden": None}).path)


def test_tensorrt_8_5_whose_plans_do_not_say_their_version(engine, lab):
    lab.set_up(version="8.5.2.2")
    artifact = engine(version=(8, 5, 2, 2), details={"version": "8.5.2.2"})
    assert artifact.path.read_bytes().startswith(b"ptrt")
    with open_session(artifact.path) as session:
        assert session.facts()["runtime"] == "TensorRT 8.5.2.2"
    lab.set_up(version="8.6.2")
    with pytest.raises(ArtifactError, match=r"built by TensorRT 8\.5\.2\.2, and 8\.6\.2 is here"):
        open_session(artifact.path)
    lab.driver.gpus = 0
    with pytest.raises(UnsupportedError, match=r"with its driver, and TensorRT 8\.5\.2\.2\. Without"):
        open_session(artifact.path)


def test_tensorrt_for_rtx(lab):
    lab.set_up(version="1.7.1.116", rtx=True)
    details = {"compute_capabilities": ["8.7"], "golden": golden()}
    artifact = lab.engine(version=(1, 7, 1, 116), rtx=True, details=details)
    kernels = {False: "general ones run until they are compiled", True: "compiled before it runs"}
    for eager, said in kernels.items():
        with open_session(artifact.path, eager=eager) as session:
            assert session.facts()["runtime"] == "TensorRT for RTX 1.7.1.116"
            assert session.facts()["kernels"] == said


@pytest.mark.parametrize("device", ["cpu", "tensorrt", "cuda:x", "gpu"])
def test_other_devices(engine, device):
    with pytest.raises(
        UnsupportedError, match=rf"runs on cuda or cuda:<index>, not on '{device}'; name the .onnx"
    ):
        open_session(engine().path, device=device)


def test_exact_arithmetic_is_onnx_runtimes(engine):
    with pytest.raises(
        UnsupportedError, match=r"x4\.engine: exact arithmetic .* of kind engine; leave out exact"
    ):
        open_session(engine().path, exact=True)


class TestNoGpu:
    @pytest.fixture(autouse=True)
    def _none(self, lab, engine, no_import):
        lab.driver.gpus = 0

    def test_no_driver(self, engine, lab):
        lab.driver = None
        with pytest.raises(
            UnsupportedError,
            match=r"x4\.engine: this machine cannot run an engine: it has no NVIDIA driver \(libcuda\), so "
            r"no GPU that could run it\. It takes an NVIDIA GPU \(Orin\) with its driver, and TensorRT "
            r"10\.3\.0\.26\. Without them, run the graph that it was made from on any CPU; name the \.onnx "
            r"file that it was made from, or call hasn_edge\.build\(model='net', precision='fp32', "
            r"target='cpu'\)$",
        ):
            open_session(engine().path)
        with pytest.raises(UnsupportedError) as info:  # a bundle has no graph for a CPU
            open_session(engine("other", details={"model": "for-the-board/"}).path)
        assert [cure.action for cure in info.value.cures] == ["say"]

    def test_a_driver_without_that_gpu(self, engine):
        with pytest.raises(UnsupportedError, match=r"knows no GPU number 3 \(a container .* --gpus all\)"):
            open_session(engine().path, device="cuda:3")

    def test_the_graph_beside_it_is_named(self, engine, tmp_path):
        artifact = engine()
        graph = publish(
            b"onnx", tmp_path / "x4-strongly-typed.onnx", spec=SPEC, precision=Precision.FP32,
            source="0" * 64, details=details_of(Kind.ONNX),
        )  # fmt: skip
        (tmp_path / "broken.onnx.json").write_text("{")
        (tmp_path / "list.onnx.json").write_text("[]")
        side = sidecar_path(artifact.path)
        side.write_text(side.read_text().replace('"parent": null', f'"parent": "{graph.sha256}"'))
        with pytest.raises(UnsupportedError, match=rf"any CPU; use artifact='{graph.path}'$"):
            open_session(artifact.path)

    def test_an_engine_for_many_gpus(self, engine):
        details = {
            "gpu": None,
            "compute_capabilities": ["8.6", "8.9"],
        }
        artifact = engine(version=(1, 7, 1, 116), rtx=True, details=details)
        with pytest.raises(
            UnsupportedError, match=r"\(of compute capability 8\.6, 8\.9\) .* TensorRT for RTX 1\.7"
        ):
            open_session(artifact.path)

    @pytest.mark.parametrize("verb", ["upscale", "eval"])
    def test_the_command_line_says_it_in_one_message(self, engine, tmp_path, verb):
        image = tmp_path / "in.png"
        write_image(image, np.zeros((20, 20, 3), np.uint8))
        words = [verb, "--artifact", str(engine().path)]
        words += [str(image), "-o", str(tmp_path / "out")] if verb == "upscale" else []
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 1
        assert "this machine cannot run an engine" in done.output
        assert "Traceback" not in done.output
        assert "--target cpu" in " ".join(done.output.split())


class TestCommandLine:
    @pytest.mark.parametrize("cuda", ["cuda-python", "pycuda", "torch"])
    def test_upscale_through_a_chosen_backend(self, engine, lab, tmp_path, cuda):
        artifact = engine(size=(32, 48))
        lab.set_up(cuda)
        image = tmp_path / "in.png"
        pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
        write_image(image, pixels)
        words = ["upscale", str(image), "-o", str(tmp_path / "out"), "--artifact", str(artifact.path)]
        done = CliRunner().invoke(cli, [*words, "--cuda", cuda, "--device", "cuda:0"])
        assert done.exit_code == 0, done.output
        from hasn_edge.images.codec import read_image

        np.testing.assert_array_equal(read_image(tmp_path / "out" / "in_x4.png")[::4, ::4], pixels)
        assert "network" in lab.gpu.calls

    def test_cuda_is_for_engines(self, tmp_path):
        done = CliRunner().invoke(cli, ["upscale", "x.png", "--cuda", "pycuda"])
        assert done.exit_code in (1, 2)
        done = CliRunner().invoke(cli, ["eval", "--cuda", "pycuda"])
        assert done.exit_code == 2
        assert "--cuda is for engines" in done.output

    def test_device_reaches_the_backend(self):
        done = CliRunner().invoke(cli, ["eval", "--device", "cuda"])
        assert done.exit_code == 1
        assert "device 'cuda' needs CUDAExecutionProvider" in " ".join(done.output.split())


def test_the_sidecar_is_read_once(engine):
    artifact = engine()
    with open_session(replace(artifact, precision=Precision.FP16)) as session:
        assert session.precision is Precision.FP16
    assert "tensorrt" in sys.modules
