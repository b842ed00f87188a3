"""What benchmarks/gpu.py is made of, rehearsed on the CPU: steps, figures, reasons, the result file."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hasn_edge.bench.board import find_board
from hasn_edge.errors import BuildError, UnsupportedError
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.hardware.gpu import gpu_facts as find_gpu
from hasn_edge.model.hasn import HASN
from hasn_edge.sidecar import KernelRecord, Kind
from hasn_edge.spec import ModelSpec, Precision
from tests.support import gpu_steps_fake
from tests.support.samples import details_of
from tests.support.scripts import load_script

SPEC = ModelSpec(features=8, blocks=1)


@pytest.fixture(scope="module")
def isolate():
    return load_script("benchmarks/gpu_isolate.py")


@pytest.fixture(scope="module")
def steps(isolate):
    load_script("benchmarks/gpu_case.py")
    return load_script("benchmarks/gpu_steps.py")


@pytest.fixture(scope="module")
def gpu(steps):
    return load_script("benchmarks/gpu.py")


@pytest.fixture
def bench(steps):
    return steps.Bench(device="cpu", seconds=0.0, runs=3, source=None)


@pytest.fixture
def setting(steps, tmp_path):
    return steps.Setting(model="hasn-x4-small", device="cpu", seconds=0.0, runs=2, folder=tmp_path)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return HASN(SPEC).eval()


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((1, 3, 16, 18), dtype=np.float32)


class TestSteps:
    """A step that fails, crashes or hangs loses nothing; fakes stand for what a GPU's libraries do."""

    @pytest.mark.slow
    def test_each_is_on_its_own(self, isolate, tmp_path):
        reports = []
        names = ("succeed", "refuse", "crash", "not_json", "crash_at_the_end", "succeed")
        every = [isolate.Step(name=name, work=getattr(gpu_steps_fake, name)) for name in names]
        found = isolate.run_steps(
            every, deadline_s=300, report=lambda found: reports.append([entry["state"] for entry in found])
        )
        assert [entry["state"] for entry in found] == ["done", "failed", "failed", "failed", "done", "done"]
        refused, crashed, broken = (found[index]["reason"] for index in (1, 2, 3))
        assert refused == "the engine cannot run on this GPU"
        assert crashed == "its process ended with exit code -11: Segmentation fault"
        assert broken.startswith("ValueError: Out of range float values")
        processes = {found[index]["result"]["process"] for index in (0, 4, 5)}
        assert len(processes) == 3
        assert os.getpid() not in processes
        assert reports[0] == ["waiting"] * 6
        assert reports[1][0] == "running"
        assert ["done", "failed", "running", *["waiting"] * 3] in reports, "told before and after each"

    @pytest.mark.slow
    def test_one_that_hangs_ends_with_what_it_started(self, isolate, tmp_path):
        work = functools.partial(gpu_steps_fake.hang, tmp_path / "mark")
        found = isolate.run_alone(isolate.Step(name="hang", work=work), limit_s=1.5)
        assert found == (None, "it took longer than 2 s and was ended")
        until = time.monotonic() + 10  # what was killed may take a moment to go
        while alive := [
            path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path) in _text(path)
        ]:
            assert time.monotonic() < until, alive
            time.sleep(0.05)

    @pytest.mark.slow
    @pytest.mark.skipif(sys.platform != "linux", reason="the system's parent-death signal is Linux's")
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_one_ends_with_the_program_that_is_killed(self, isolate, tmp_path, number):
        """It would go on timing on the GPU beside whatever is measured next."""
        mark = tmp_path / "mark"
        program = (
            "import functools, signal, sys\n"
            "from pathlib import Path\n"
            f"sys.path[:0] = {[str(Path(isolate.__file__).parent), str(Path(__file__).parents[2])]!r}\n"
            "import gpu_isolate\n"
            "from tests.support import gpu_steps_fake\n"
            "import gpu\n"
            "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
            "gpu.end_by_signals()\n"
            "assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN\n"
            f"work = functools.partial(gpu_steps_fake.stay, Path({str(mark)!r}))\n"
            "gpu_isolate.run_alone(gpu_isolate.Step(name='stay', work=work), limit_s=60)\n"
        )
        parent = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while not (mark.exists() and mark.read_text()):
            assert time.monotonic() < until
            assert parent.poll() is None
            time.sleep(0.02)
        parent.send_signal(number)
        parent.wait(10)
        until = time.monotonic() + 10
        while _text(Path("/proc", mark.read_text(), "cmdline")):
            assert time.monotonic() < until, "the step lives on"
            time.sleep(0.02)

    def test_the_deadline_ends_one_and_skips_the_rest(self, isolate, monkeypatch):
        now, limits = [0.0], []

        def alone(step, *, limit_s):
            limits.append(limit_s)
            now[0] += min(limit_s, 200)
            return (None, "it took longer than it may") if limit_s < 100 else ({}, None)

        monkeypatch.setattr(isolate, "run_alone", alone)
        every = [isolate.Step(name=name, work=dict, limit_s=250) for name in "abcde"]
        found = isolate.run_steps(every, deadline_s=480, report=lambda found: None, clock=lambda: now[0])
        assert limits == [250, 250, 80], "no step has more than what is left"
        assert [entry["state"] for entry in found] == ["done", "done", "failed", "skipped", "skipped"]
        assert [entry["reason"] for entry in found[2:]] == [
            "out of time: it took longer than it may", "out of time", "out of time",
        ]  # fmt: skip

    def test_the_limit_of_each_is_what_is_asked_for(self, steps, setting):
        """A Jetson compiles one engine for minutes."""
        every = steps.steps_of(setting, [(16, 18)], [steps.TENSORRT], limit_s=900.0)
        assert {one.limit_s for one in every} == {900.0}

    def test_what_builds_has_more_time(self, steps, setting):
        """One that is ended while it builds takes the steps that need its engine along."""
        limits = {one.name: one.limit_s for one in steps.steps_of(setting, [(16, 18)], [steps.TENSORRT])}
        assert {limit for name, limit in limits.items() if "TensorRT" in name or "ONNX" in name} == {300.0}
        assert {limit for name, limit in limits.items() if "PyTorch" in name or "torch." in name} == {120.0}

    def test_their_order(self, steps, gpu, setting):
        assert gpu._sizes(gpu.SIZES) == [(180, 320), (360, 640)]
        assert gpu.DEADLINE_S == 8 * 60
        names = [one.name for one in steps.steps_of(setting, gpu._sizes(gpu.SIZES), [steps.RTX])]
        wanted = [
            "does an engine load", "golden image", "eager fp32, 320x180", "eager fp16, 320x180",
            "RTX fp16, 320x180", "RTX int8, 320x180", "compile fp16, 320x180", "eager fp32, 640x360",
            "eager fp16, 640x360", "RTX fp16, 640x360", "RTX int8, 640x360", "compile fp16, 640x360",
            "CUDA graphs", "mapped memory", "inspect on the device",
        ]  # fmt: skip
        for name, end in zip(names, wanted, strict=False):
            assert name.endswith(end)
        assert len(set(names)) == len(names)
        assert gpu.engine_runtimes(SimpleNamespace(jetson=None))[0] == steps.RTX
        assert gpu.engine_runtimes(SimpleNamespace(jetson="here")) == [steps.TENSORRT]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def test_a_module_is_timed_and_its_output_kept(steps, bench, model, x):
    case = steps.Case(label="eager", precision="fp32")
    with torch.inference_mode():
        bench.module(case, model, torch.from_numpy(x))
        assert (case.output == model(torch.from_numpy(x)).numpy()).all()
    assert len(case.gpu.seconds) == len(case.host.seconds) == 3
    assert case.difference(case.output) == (0.0, math.inf)
    largest, psnr = case.difference(case.output + np.float32(0.01))
    assert largest == pytest.approx(0.01, rel=1e-3)
    assert psnr == pytest.approx(40, abs=1e-2)


def test_an_output_that_is_no_number_is_the_reason_beside_the_times(steps, bench, setting, x):
    """A plan in FP16 may overflow: that is the finding, and JSON has no NaN to lose the times by."""
    size = (16, 18)

    def overflows(tensor):
        result = tensor.clone()
        result[0, 0, 0, :2] = math.nan
        result[0, 1, 0, 0] = math.inf
        return result

    for precision in ("fp32", "fp16"):  # the first is the reference of the others
        case = steps.Case(label="PyTorch eager", precision=precision)
        work = functools.partial(bench.module, case, overflows, torch.from_numpy(x))
        (found,) = steps._whole([steps._run(setting, size, case, work)])["cases"]
        text = json.dumps(found, allow_nan=False)
        assert "3 of 864 values of its output are no numbers (NaN or infinity)" in text
        assert (found["max_abs_difference"], found["psnr_db"]) == (None, None)
        assert (found["gpu"]["samples"], found["host"]["samples"]) == (3, 3)
    assert not list(setting.folder.glob("*.npy")), "it is no reference"


@pytest.mark.slow
def test_a_step_keeps_the_case_that_ran_beside_the_one_that_did_not(steps, setting):
    """TorchScript runs here, its CUDA graph does not; eager FP32 is the reference of all."""
    size = (16, 18)
    (first,) = steps.eager(setting, size, "fp32")["cases"]
    assert (first["max_abs_difference"], first["size"]) == (0.0, {"height": 16, "width": 18})
    plain, graph = steps.scripted(setting, size, "fp32")["cases"]
    assert plain["error"] is None
    assert plain["gpu"]["samples"] == 2
    assert 0 <= plain["max_abs_difference"] < 1e-5
    assert (graph["error"], graph["gpu"]) == ("CUDA graphs need a GPU", None)
    with pytest.raises(BuildError, match="of the first; ZeroDivisionError"):
        case = steps.Case(label="x", precision="fp32", refused=("of the first",))
        steps._whole([steps._run(setting, size, case, lambda: 1 / 0)])


@pytest.mark.slow
def test_an_artifact_is_timed_through_its_session(steps, bench, model, x, tmp_path):
    from hasn_edge.artifact import publish
    from hasn_edge.spec import Precision

    graph = publish(
        onnx_from_model(model).SerializeToString(), tmp_path / "n.onnx", spec=SPEC,
        precision=Precision.FP32, source="0" * 64, details=details_of(Kind.ONNX),
    )  # fmt: skip
    case = steps.Case(label="o", precision="fp32")
    bench.session(case, graph.path, x)
    assert case.gpu is None
    assert len(case.host.seconds) == 3
    with torch.inference_mode():
        assert np.abs(case.output - model(torch.from_numpy(x)).numpy()).max() < 1e-5


HOPPER = GpuFacts(
    name="NVIDIA H100 80GB HBM3", compute_capability="9.0", total_memory_bytes=80 << 30, driver="580.65.06",
    cuda="13.0", integrated=False, l4t=None, sm_count=132,
)  # fmt: skip


def test_tensorrt_for_rtx_is_asked_without_naming_the_gpu_too(steps, setting, tmp_path, monkeypatch):
    """Its list has no SM 9.0 and our check compares with what was named: unnamed, it answers itself."""
    from hasn_edge.engine.compatibility import _gpu_problems
    from hasn_edge.engine.engine_file import PlanHeader
    from hasn_edge.engine.target import EngineRuntime, load_target

    targets = steps.rtx_targets(HOPPER, tmp_path)
    assert [load_target(t).compute_capabilities for t in targets] == [
        ("9.0",), (), load_target("rtx").compute_capabilities,
    ]  # fmt: skip
    header = PlanHeader(runtime=EngineRuntime.RTX, version=(1, 7, 1, 116), file_bytes=4096)

    def problems(target):
        able = list(load_target(target).compute_capabilities)
        return list(_gpu_problems(details_of(Kind.ENGINE, compute_capabilities=able), header, HOPPER))

    assert [bool(problems(target)) for target in targets] == [False, False, True]

    refusal = (
        "TensorRT for RTX could not run it:\n  ERROR: " + "x" * 500 + "\n  The engine cannot run on this GPU"
    )
    asked = []

    def refuse(model, *, target, **options):
        asked.append(target)
        raise BuildError(f"SM90 is not known\nto it, {target}" if "this-gpu" in target else refusal)

    monkeypatch.setattr(steps, "gpu_facts", lambda: HOPPER)
    monkeypatch.setattr(steps, "build", refuse)
    on_gpu = replace(setting, device="cuda")
    for step in (steps.load_engine, steps.golden_image):
        with pytest.raises(BuildError, match=r"^this-gpu: SM90.*; unnamed-gpu: .*this GPU; rtx: .*this GPU$"):
            step(on_gpu, steps.RTX, (180, 320))
    assert len(asked) == 3, "what was refused is not built again for the next step"

    def end(model, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "build", end)
    with pytest.raises(KeyboardInterrupt):
        steps.load_engine(on_gpu, steps.TENSORRT, (180, 320))
    with pytest.raises(BuildError, match="an earlier step ended while it built this"):
        steps.golden_image(on_gpu, steps.TENSORRT, (180, 320))


def test_what_was_refused_before_stays_with_what_ran(steps, setting, tmp_path, monkeypatch):
    engine = SimpleNamespace(kind=Kind.ENGINE, path=tmp_path / "e.engine")
    graph = SimpleNamespace(kind=Kind.ONNX, path=tmp_path / "g.onnx")

    def some(model, *, target, **options):
        if "this-gpu" in target:
            raise BuildError("SM90 is not known")
        return SimpleNamespace(artifacts=(graph, engine))

    monkeypatch.setattr(steps, "gpu_facts", lambda: HOPPER)
    monkeypatch.setattr(steps, "build", some)
    made = steps.Engines(replace(setting, device="cuda")).get(steps.RTX, "int8", (180, 320))
    assert made == steps.Made(path=engine.path, refused=["this-gpu: SM90 is not known"])
    monkeypatch.setattr(
        steps.Bench, "session", lambda self, case, path, x: setattr(case, "facts", {"p": str(path)})
    )
    (case,) = steps.built(replace(setting, folder=tmp_path), steps.RTX, (180, 320), "int8")["cases"]
    assert (case["session"], case["refused"]) == ({"p": str(engine.path)}, ["this-gpu: SM90 is not known"])


def test_an_inspector_that_lists_nothing_is_the_steps_reason(steps, setting, monkeypatch):
    made = steps.Made(path=Path("e.engine"), refused=[])
    monkeypatch.setattr(steps.Engines, "get", lambda self, runtime, precision, size: made)
    kernels = KernelRecord(
        all=2, rounding=0, read_bytes=3, written_bytes=4, convolutions={"Half -> Half": 2}, size=(180, 320)
    )
    stated = SimpleNamespace(moved_bytes=9)
    artifact = SimpleNamespace(
        precision=Precision.FP16, path=made.path, engine=SimpleNamespace(kernels=stated)
    )
    monkeypatch.setattr(steps, "load_artifact", lambda path: artifact)
    monkeypatch.setattr(steps, "kernels_of_engine", lambda artifact, *, loaded: kernels)
    found = steps.inspect(setting, steps.RTX, (180, 320))["fp16"]
    assert (found["moved_bytes"], found["moved_bytes_in_sidecar"], found["kernels"]) == (7, 9, 2)

    def refuse(artifact, *, loaded):
        raise UnsupportedError("there is no GPU here")

    monkeypatch.setattr(steps, "kernels_of_engine", refuse)
    with pytest.raises(BuildError, match="^there is no GPU here; there is no GPU here$"):
        steps.inspect(setting, steps.RTX, (180, 320))


def test_trained_networks_of_both_sizes(gpu):
    from hasn_edge.model.zoo import CAMERA_MODEL, bundled_models, load_model
    from hasn_edge.spec import ModelSpec as Spec

    others = {CAMERA_MODEL, "hasn-x2"}  # of the same body
    assert set(gpu.MODELS) == set(bundled_models()) - others
    large = load_model(gpu.MODELS[0])
    assert replace(large.spec, residual=False) == Spec(), "the published network's convolutions"
    assert sum(p.numel() for p in large.parameters()) == 435_272


def test_the_result_file_says_it_was_a_rehearsal(gpu, tmp_path):
    board = find_board("cpu")
    arguments = (board, board.facts(), [{"name": "s"}], "rehearsal", True)
    assert gpu.write(*arguments, None) is None
    path = gpu.write(*arguments, tmp_path / "r.json")
    content = json.loads(path.read_text())
    assert content["rehearsal"] is True
    assert content["versions"]["torch"] == torch.__version__
    assert content["steps"] == [{"name": "s"}]
    assert content["device"]["power"] == "rehearsal"


def test_without_a_gpu_it_refuses_in_one_message(gpu):
    if find_gpu() is not None:
        pytest.skip("this machine has a GPU")
    result = CliRunner().invoke(gpu.main, [])
    assert result.exit_code == 1
    (line,) = result.output.strip().splitlines()
    assert re.match(r"Error: device 'cuda': no NVIDIA GPU .*; --rehearse goes through the steps", line)


def test_the_result_is_written_after_each_step(gpu, steps, isolate, tmp_path, monkeypatch):
    """What ends the process in the second step takes nothing of the first along."""
    path = tmp_path / "r.json"
    seen = []

    def alone(step, *, limit_s):
        seen.append([entry["state"] for entry in json.loads(path.read_text())["steps"]])
        if len(seen) == 2:
            raise KeyboardInterrupt
        return {"value": 1}, None

    monkeypatch.setattr(isolate, "run_alone", alone)
    monkeypatch.setattr(
        steps,
        "steps_of",
        lambda *args, **rest: [isolate.Step(name=name, work=dict) for name in ("a", "b", "c")],
    )
    CliRunner().invoke(gpu.main, ["--rehearse", "--model", "hasn-x4-small", "-o", str(path)])
    assert seen == [["running", "waiting", "waiting"], ["done", "running", "waiting"]]
    first = json.loads(path.read_text())["steps"][0]
    assert (first["result"], first["reason"]) == ({"value": 1}, None)


def test_the_table_has_a_row_for_each_case_and_each_step_without_one(gpu, steps, setting):
    case = steps.eager(setting, (16, 18), "fp32")["cases"][0]
    failed = {**case, "label": "TorchScript", "error": "no graph", "gpu": None, "host": None}
    found = [
        {"name": "s: eager", "state": "done", "reason": None, "result": {"cases": [case, failed]}},
        {"name": "s: int8", "state": "failed", "reason": "refused " * 100, "result": None},
    ]
    assert gpu.table("title", found).row_count == 3
    first, second = gpu.reasons(found)
    assert first == "s: eager, TorchScript: no graph"
    assert len(gpu.short(second)) < 310
