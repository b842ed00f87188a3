"""The whole way through the child process for TensorRT: a fake module, a fake driver, real files."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hasn_edge.artifact import publish
from hasn_edge.engine.capabilities import ask_capabilities
from hasn_edge.engine.compatibility import require_compatible
from hasn_edge.engine.compile import BuiltEngine, engine_from_onnx
from hasn_edge.engine.target import EngineRuntime, EngineTarget, ShapeRange
from hasn_edge.engine.worker import choose_workspace
from hasn_edge.engine.worker_process import CalibratorInput
from hasn_edge.errors import ArtifactError, BuildError, ShapeError, UnsupportedError
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.interrupt import die_with_parent
from hasn_edge.progress import Step
from hasn_edge.spec import ModelSpec, Precision
from tests.support.compiling import MakeOnnx
from tests.support.samples import NANO, as_json

ROOT = Path(__file__).parents[2]
SHAPES = ShapeRange(min=(1, 3, 32, 32), opt=(1, 3, 32, 32), max=(1, 3, 64, 64))
MIB = 1 << 20
TARGET = EngineTarget(name="board", runtime=EngineRuntime.TENSORRT, shapes=SHAPES)

Install = Callable[..., None]


@pytest.fixture
def install(libcuda: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """``install("10.3.0")``: from now on ``import tensorrt`` gives the fake of that version."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(libcuda.parent))
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
    monkeypatch.syspath_prepend(folder)  # the parent looks for it, and does not import it

    def write(version: str, before: str = "", **settings: object) -> None:
        (folder / "tensorrt.py").write_text(
            f"import sys\n{before}\nfrom tests.support.fake_builder import fake_tensorrt\n"
            f"sys.modules[__name__] = fake_tensorrt({version!r}, **{settings!r})\n"
        )

    return write


def images(count: int = 2, side: int = 32) -> Iterator[np.ndarray]:
    for i in range(count):
        yield np.full((1, 3, side, side), i / 10, np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "form", "flags"),
    [
        ("8.5.2", "weakly-typed", ["INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"]),
        ("10.3.0", "weakly-typed-trt10", ["INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"]),
        ("11.4.0.106", "strongly-typed", []),
    ],
)
def test_asked_and_built_in_a_child(
    install: Install, hasn_onnx: MakeOnnx, tmp_path: Path, version: str, form: str, flags: list[str]
) -> None:
    install(version)
    able = ask_capabilities(EngineRuntime.TENSORRT)
    assert (able.title, able.form) == (f"TensorRT {version}", form)
    cache = tmp_path / "cache"
    steps: list[str] = []
    engine = engine_from_onnx(
        hasn_onnx("int8", form=form),
        TARGET,
        precision=Precision.INT8,
        cache=cache,
        progress=lambda step: steps.append(step.text),
    )
    assert "tensorrt" not in sys.modules
    details = as_json(engine.details())
    assert engine.precision is Precision.INT8
    assert engine.version == details["version"]
    assert engine.version.startswith(version)
    assert engine.made_by == {"TensorRT": engine.version}
    assert (engine.header.version is None) is (version == "8.5.2")
    wanted = {
        "target": "board",
        "runtime": "tensorrt",
        "gpu": "Orin",
        "compute_capability": "8.7",
        "sm_count": 8,
        "integrated": True,
        "cuda": "12.6",
    }
    assert {key: details[key] for key in wanted} == wanted
    assert details["flags"]["builder_flags"] == flags
    assert details["flags"]["workspace_from"] == "free memory"
    assert details["flags"]["workspace_bytes"] % (1 << 20) == 0
    assert steps[0] == "reading the graph"
    (kept,) = cache.iterdir()
    assert kept.name.startswith("timing-Orin-sm8.7-8x-")
    assert kept.name.endswith(f"-{version}.cache")
    assert kept.read_bytes() == b"+timings"


LAYERS = [
    {
        "Name": "{ForeignNode[block_1.ln.Sqrt...block_1.ln.Div]}",
        "LayerType": "Myelin",
        "Inputs": [{"Name": "a", "Dimensions": [1, 8, -1, -1], "Format/Datatype": "Row major linear FP16"}],
        "Outputs": [{"Name": "b", "Dimensions": [1, 8, -1, -1], "Format/Datatype": "Row major linear FP16"}],
    },
]


@pytest.mark.slow
def test_pinned_layers_that_may_not_be_fp32_are_told(install: Install, hasn_onnx: MakeOnnx) -> None:
    """TensorRT 8.6 puts a normalization into one kernel whose inside it does not state.

    A version-compatible plan is listed as well, although it holds code for the CPU.
    """
    install("8.6.1", layers=LAYERS)
    target = replace(TARGET, version_compatible=True)
    built = engine_from_onnx(hasn_onnx("fp32", form="weakly-typed"), target, precision=Precision.FP16)
    assert built.warnings[0].startswith(
        "kernels that do not state what they compute in hold at least 2 layers"
    )
    assert built.details().kernels is not None
    assert built.details().kernels.all == 1
    assert built.details().kernels.size == (32, 32)
    assert built.details().kernels.moved_bytes == 2 * 2 * 8 * 32 * 32, "open sizes are of the optimal shape"


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"crashes_when_it_loads": True}])
def test_an_engine_that_cannot_be_loaded_where_it_was_made_is_kept(
    install: Install, hasn_onnx: MakeOnnx, settings: dict[str, bool]
) -> None:
    """Memory that the compiler had is not always there again."""
    install("10.3.0", **settings)
    built = engine_from_onnx(hasn_onnx("fp32", form="weakly-typed-trt10"), TARGET)
    assert built.plan.startswith(b"ftrt")
    assert built.details().kernels is None


@pytest.mark.slow
def test_a_plan_of_8_5_is_known_by_its_sidecar(install: Install, hasn_onnx: MakeOnnx, tmp_path: Path) -> None:
    install("8.5.2")
    built = engine_from_onnx(hasn_onnx("fp32", form="weakly-typed"), TARGET)
    assert built.plan.startswith(b"ptrt")
    engine = publish(
        built.plan,
        tmp_path / "x.engine",
        spec=ModelSpec(),
        precision=built.precision,
        source="0" * 64,
        details=built.details(),
    )
    require_compatible(engine, gpu=NANO, runtime_version="8.5.2")
    with pytest.raises(ArtifactError, match=r"built by TensorRT 8\.5\.2, and 8\.6\.1 is here, which runs"):
        require_compatible(engine, gpu=NANO, runtime_version="8.6.1")


@pytest.mark.slow
def test_the_next_build_starts_from_kept_timings(
    install: Install, hasn_onnx: MakeOnnx, tmp_path: Path
) -> None:
    install("8.6.1", good_timings=(b"+timings",))
    graph, cache = hasn_onnx("fp32", form="weakly-typed"), tmp_path / "cache"

    def build() -> BuiltEngine:
        return engine_from_onnx(graph, TARGET, precision=Precision.FP16, cache=cache)

    assert build().facts["timing_cache"] is None
    assert len(build().facts["timing_cache"]) == 64
    assert [path.read_bytes() for path in cache.iterdir()] == [b"+timings+timings"]


@pytest.mark.slow
def test_calibration_through_the_driver_and_kept(
    install: Install, hasn_onnx: MakeOnnx, tmp_path: Path
) -> None:
    install("8.6.1")
    graph, cache = hasn_onnx("fp32", form="weakly-typed"), tmp_path / "cache"
    steps: list[Step] = []

    def build(batches: Iterator[np.ndarray], fingerprint: str = "abc") -> BuiltEngine:
        steps.clear()
        return engine_from_onnx(
            graph,
            TARGET,
            cache=cache,
            calibrator=CalibratorInput(
                batches=batches, fingerprint=fingerprint, float_layers=("conv_1", "upsampler.0")
            ),
            progress=steps.append,
        )

    first = build(images(3))
    assert first.precision is Precision.INT8
    assert [s for s in steps if s.text == "calibrating"] == [Step("calibrating", i, 3) for i in (1, 2, 3)]
    assert first.facts["calibrator"] == {
        "algorithm": "entropy 2",
        "fingerprint": "abc",
        "batches": 3,
        "shape": [1, 3, 32, 32],
    }
    assert first.facts["flags"]["fp16_layers"] == ["conv_1", "upsampler.0"]
    (ranges,) = cache.glob("calibration-*.cache")
    assert ranges.read_bytes() == b"TRT-EntropyCalibration2 3"
    build(images(3))
    assert not [step for step in steps if step.text == "calibrating"]
    build(images(2), fingerprint="other images")
    assert len(list(cache.glob("calibration-*.cache"))) == 2


def test_images_that_cannot_calibrate(install: Install, hasn_onnx: MakeOnnx) -> None:
    install("8.6.1")

    def refused(batches: list[np.ndarray], kind: type[Exception] = ShapeError, **options: object) -> str:
        with pytest.raises(kind) as info:
            engine_from_onnx(
                hasn_onnx("fp32", form="weakly-typed"),
                TARGET,
                calibrator=CalibratorInput(batches=batches, fingerprint="x"),
                **options,
            )
        return str(info.value)

    assert "no image to calibrate on" in refused([])
    assert "batch 2 has shape (1, 3, 40, 40), the first one (1, 3, 32, 32)" in refused(
        [*images(1), *images(1, 40)]
    )
    assert "batch 1 is float64" in refused([np.zeros((1, 3, 32, 32))])
    assert "a calibrator makes INT8 engines" in refused([], UnsupportedError, precision=Precision.FP16)


@pytest.mark.slow
def test_known_bad_versions(install: Install, hasn_onnx: MakeOnnx) -> None:
    install("10.3.0", before="import tests.support.fake_builder")
    Path(next(p for p in sys.path if p.endswith("site")), "tensorrt.py").write_text(
        "import sys\nfrom tests.support.fake_builder import fake_tensorrt\nmodule = fake_tensorrt('10.3.0')\n"
        "module.__version__ = '10.2.0'\nsys.modules[__name__] = module\n"
    )
    with pytest.raises(UnsupportedError, match=r"10\.2\.0 looks for Windows' .*; install any other version"):
        engine_from_onnx(hasn_onnx("fp32", form="weakly-typed"), TARGET)
    install("10.16.1.11")
    path = Path(next(p for p in sys.path if p.endswith("site")), "tensorrt.py")
    path.write_text(path.read_text() + "sys.modules[__name__].__version__ = '10.16.2.10'\n")
    graph = hasn_onnx("int8")
    (said,) = engine_from_onnx(graph, TARGET, precision=Precision.INT8).warnings
    assert "TensorRT 10.16.2 on Orin fails to build" in said
    assert "github.com/NVIDIA/TensorRT/issues/4832" in said


@pytest.mark.slow
def test_a_gpu_is_asked_for_before_tensorrt_is_imported(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("10.3.0", before="raise SystemExit('imported')")
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "0")
    for ask in (lambda: ask_capabilities(EngineRuntime.TENSORRT), lambda: engine_from_onnx(b"", TARGET)):
        with pytest.raises(UnsupportedError, match="and its driver sees no GPU here; run the build on the"):
            ask()


@pytest.mark.slow
def test_a_child_that_dies_while_it_is_asked(install: Install) -> None:
    install("10.3.0", before="import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(BuildError, match=r"TensorRT crashed \(SIGSEGV\)"):
        ask_capabilities(EngineRuntime.TENSORRT)
    install("10.3.0", before="raise ImportError('libnvinfer.so.10: cannot open')")
    with pytest.raises(BuildError, match="'tensorrt'.* cannot be loaded: libnvinfer.so.10: cannot open"):
        ask_capabilities(EngineRuntime.TENSORRT)


@pytest.mark.slow
def test_a_cache_folder_that_cannot_be_written_costs_no_engine(
    install: Install, hasn_onnx: MakeOnnx, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install("8.6.1")
    (tmp_path / "cache").write_text("a file")
    built = engine_from_onnx(hasn_onnx("fp32", form="weakly-typed"), TARGET, cache=tmp_path / "cache")
    assert built.plan
    assert "the next build begins anew: " in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="the system's parent-death signal is Linux's")
def test_a_child_dies_with_a_parent_that_is_killed(install: Install) -> None:
    install(
        "10.3.0",
        before="import time\nprint('ready', flush=True)\ntime.sleep(20)\nprint('survived', flush=True)",
    )
    parent = (
        "import subprocess, sys, time\n"
        "command = [sys.executable, '-m', 'hasn_edge.engine.worker', '--ask', 'tensorrt']\n"
        "subprocess.Popen(command, stderr=subprocess.STDOUT)\ntime.sleep(60)"
    )
    paths = [str(ROOT), os.environ["PYTHONPATH"]]
    with subprocess.Popen(
        [sys.executable, "-c", parent],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
        assert process.stdout.read() == ""  # the end comes when the last holder of the pipe is gone


def test_the_compilers_process_starts_on_windows_too() -> None:
    """That knows neither the call nor the library it is in; here both would do something."""
    get_parent_death_signal, found = 2, ctypes.c_int()
    die_with_parent("win32")
    assert ctypes.CDLL(None).prctl(get_parent_death_signal, ctypes.byref(found)) == 0
    assert found.value == 0


class TestWorkspace:
    JETSON = GpuFacts(
        name="Orin",
        compute_capability="8.7",
        total_memory_bytes=8 << 30,
        driver=None,
        cuda="12.6",
        integrated=True,
        l4t="36.4.3",
        sm_count=8,
    )

    def choose(self, facts: GpuFacts | None, free: int | None = 0, **target: int) -> tuple[int | None, str]:
        return choose_workspace(EngineTarget(runtime=EngineRuntime.TENSORRT, **target), facts, free)

    def test_a_quarter_of_free_memory_on_a_jetson(self) -> None:
        assert self.choose(self.JETSON, 4000 * MIB + 5) == (1000 * MIB, "free memory")
        assert self.choose(self.JETSON, 100 * MIB) == (64 * MIB, "free memory")
        assert self.choose(self.JETSON, None) == (None, "the compiler's default")

    def test_half_of_a_cards_free_memory(self) -> None:
        assert self.choose(replace(self.JETSON, integrated=False), free=9000 * MIB)[0] == 4500 * MIB

    def test_the_target_decides_and_without_a_gpu_the_compiler(self) -> None:
        assert self.choose(self.JETSON, workspace_bytes=1 << 28) == (1 << 28, "target")
        assert self.choose(None) == (None, "the compiler's default")
