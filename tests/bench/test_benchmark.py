"""Benchmarks of a tiny network on this CPU, and of an engine on a board that the tests make up."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hasn_edge.artifact import load_artifact, publish
from hasn_edge.bench import benchmark as runner
from hasn_edge.bench import measure
from hasn_edge.bench.benchmark import benchmark, run_benchmark
from hasn_edge.bench.case_process import Case, Worker
from hasn_edge.bench.cases import CaseMaker
from hasn_edge.bench.options import DEVICE_RUNS, RUNS, BenchOptions
from hasn_edge.bench.table import columns, machine_line, markdown, notes
from hasn_edge.cli import cli
from hasn_edge.errors import InputError, OutOfMemoryError, ShapeError, UnsupportedError
from hasn_edge.files import file_sha256
from hasn_edge.model.zoo import bundled_onnx, model_path
from hasn_edge.sidecar import Kind
from hasn_edge.spec import Precision
from tests.support.bench_rig import ORIN, SPEC, Here, Steady, TimedSession
from tests.support.fake_session import FakeSession
from tests.support.samples import details_of


def test_the_public_function_takes_the_options_with_their_defaults():
    given = {name: one.default for name, one in inspect.signature(benchmark).parameters.items()}
    del given["progress"]
    assert given == {field.name: field.default for field in dataclasses.fields(BenchOptions)}


def rows(report) -> dict[str, list[str]]:
    """The figures of the cases, without bicubic."""
    return {one.heading: one.cells[: len(report.cases)] for one in columns(report)}


@pytest.fixture(scope="module")
def content(tiny, tmp_path_factory):
    """The JSON of one benchmark through the command line; two of its cases have their processes."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "loose.toml").write_text("budget_db = 5.0\n")

    def worker(case):
        return Worker(case) if case.label in ("PyTorch fp32", "ONNX Runtime fp32") else Here(case)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "run_benchmark", functools.partial(run_benchmark, worker=worker))
        result = CliRunner().invoke(
            cli,
            [
                *("bench", "--model", str(tiny), "--precision", "fp32,int8", "--size", "48x32"),
                *("--runs", "5", "--recipe", str(folder / "loose.toml"), "--tile", "32"),
                *(
                    "--compare",
                    "fsrcnn",
                    "--json",
                    str(folder / "r.json"),
                    "--markdown",
                    str(folder / "r.md"),
                ),
            ],
        )
    assert result.exit_code == 0, result.output
    assert (folder / "r.md").read_text().startswith("# tiny.safetensors, 48x32 -> 192x128")
    return json.loads((folder / "r.json").read_text())


@pytest.mark.slow
def test_cases(content):
    labels = [case["label"] for case in content["cases"]]
    assert labels == [
        "PyTorch fp32",
        "ONNX Runtime fp32",
        "TorchScript fp32",
        "ONNX Runtime int8",
        "INT8 emulated exactly",
        "fsrcnn, PyTorch fp32",
        "fsrcnn, ONNX Runtime fp32",
        "PyTorch fp32, tiles of 32",
    ]
    int8 = content["cases"][3]
    assert (int8["budget_db"], int8["budget_worst_db"]) == (5, 25)
    for case in content["cases"]:
        if case["network"] is None:
            assert case["quality"]["shipped"]["images"] == 8
            assert (case["latency"] is None) == bool(case["not_measured"])
        else:
            assert case["latency"]
            assert case["quality"] == {}
            assert case["not_measured"] == ["quality: its weights are random, and tell what it costs alone"]


@pytest.mark.slow
def test_samples_are_kept_and_memory_is_each_cases_own(content):
    timed = [case for case in content["cases"] if case["latency"]]
    assert len(timed) == 6
    for case in timed:
        assert len(case["latency"]["rounds_seconds"]) == 5
        assert all(case["latency"]["rounds_seconds"])
        assert case["latency"]["median_ms"] > 0
    peaks = {case["label"]: case["peak_bytes"] for case in timed}
    assert peaks["ONNX Runtime fp32"] < peaks["PyTorch fp32"], "a process without PyTorch is smaller"


@pytest.mark.slow
def test_drift_is_of_the_same_images(content):
    by_label = {one["label"]: one["quality"]["shipped"] for one in content["cases"] if not one["network"]}
    reference = by_label["PyTorch fp32"]
    assert reference["dpsnr_db"] is None
    for label, quality in by_label.items():
        if label != "PyTorch fp32":
            expected = quality["psnr_y_db"] - reference["psnr_y_db"]
            assert quality["dpsnr_db"] == pytest.approx(expected, abs=1e-9)
    assert by_label["ONNX Runtime fp32"]["dpsnr_db"] == pytest.approx(0, abs=1e-3)
    tiles = by_label["PyTorch fp32, tiles of 32"]["fidelity_db"]
    assert tiles is not None
    assert tiles < by_label["INT8 emulated exactly"]["fidelity_db"] + 100


@pytest.mark.slow
def test_an_engine_on_a_jetson(rig):
    source = Steady()
    report = rig.run(power=(source, ""), sustained_minutes=0.001)
    (case,) = report.cases
    # Ten warm-up calls, forty timed ones, then each round one warm-up call and forty timed ones again.
    expected = [start + k for start in (11, 52, 93, 134, 175) for k in range(40)]
    assert case.parts["gpu"].seconds == pytest.approx(np.array(expected) / 1000)
    assert case.latency.seconds == pytest.approx(np.array(expected) / 1000 + 0.5)
    assert case.parts["enqueue"].median_ms == pytest.approx(50)
    assert case.parts["transfers"].median_ms == pytest.approx(300)
    assert case.latency.tenths_ms == pytest.approx((520.5, 704.5))
    assert (case.device, case.backend, case.precision) == ("cuda", "tensorrt", "fp16")

    assert case.energy.rail == "VDD_IN"
    assert case.energy.watts == pytest.approx(6)
    assert case.energy.idle_watts == pytest.approx(6)
    assert case.energy.frames == 5 * 40 + 10 + 4
    assert 0 < case.energy.joules_per_frame < 6
    assert case.energy.joules_above_idle == pytest.approx(0, abs=1e-9)
    assert case.energy.rails == pytest.approx({"VDD_IN": 6, "VDD_GPU": 2})
    assert source.closed == 1
    assert case.sustained.minutes == 0.001
    assert case.sustained.latency.seconds[0] > case.latency.seconds[-1]

    table = rows(report)
    assert table["GPU median, ms"] == [f"{np.median(expected):.3f}"]
    assert table["GPU p99, ms"] == [f"{np.percentile(expected, 99):.3f}"]
    assert table["GPU std, ms"] == [f"{np.std(expected, ddof=1):.3f}"]
    assert table["transfers, ms"] == ["300.000"]
    assert table["CUDA graphs"] == ["no"]
    assert table["last / first tenth"] == ["1.35x"]
    assert table["power of VDD_IN, W"] == ["6.00"]
    assert float(table["energy of VDD_IN, mJ a frame"][0]) == pytest.approx(
        case.energy.joules_per_frame * 1e3, abs=0.06
    )
    assert table["GPU clock, MHz"] == ["1000"]
    said = "\n".join(notes(report))
    assert "no CUDA graphs: pycuda has no CUDA graphs" in said
    assert "1.35x the time of the first: the device throttled, or something else ran" in said
    assert (
        "the clocks of this Jetson float (power mode MAXN_SUPER) and can be held at its maximum while it "
        "measures; use set_clocks=True" in said
    )
    assert "rail VDD_IN, read every 0.1 s" in said
    assert "TensorRT 10.3, memory page-locked, copied, CUDA by cuda-python" in said
    assert "one 64x48 frame with the set's images side by side" in said
    assert "power mode MAXN_SUPER" in machine_line(report)
    assert "jetpack 6.2" in machine_line(report)
    lines = [line for line in markdown(report).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {4}

    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["schema"] == 5
    assert content["device"]["kind"] == "jetson"
    assert content["device"]["before"]["jetson"]["clocks_locked"] is False
    assert "celsius.cv0" in content["device"]["after"]["jetson"]["not_read"]
    (one,) = content["cases"]
    assert one["parts"]["gpu"]["samples"] == 200
    assert one["latency"]["first_tenth_ms"] == pytest.approx(520.5)
    assert one["energy"]["rail"] == "VDD_IN"
    assert one["energy"]["celsius"]["gpu"] == {"first": 50, "last": 50, "highest": 50}
    assert len(one["sustained"]["tenths_median_ms"]) <= 10
    assert one["sustained"]["frames"] == len(case.sustained.latency.seconds)
    assert one["session"]["graphs"] is False
    assert content["timing"]["runs"] == 200


@pytest.mark.slow
def test_a_case_on_the_cpu_is_not_run_as_often(rig, monkeypatch):
    """A frame there may take seconds: 200 of them would take ten minutes."""
    found = [
        Case(label="PyTorch fp32, CPU", model="m"),
        Case(label="engine", artifact=load_artifact(rig.engine), device="cuda"),
    ]
    monkeypatch.setattr(CaseMaker, "cases", lambda maker, artifacts: found)
    monkeypatch.setattr(runner, "SECONDS", 0.0)
    report = rig.run((Steady(), ""))
    assert [len(case.latency.seconds) for case in report.cases] == [RUNS, DEVICE_RUNS]
    assert "20 to 200 samples a case" in report.conventions[0]
    report = rig.run((Steady(), ""), runs=30)
    assert [len(case.latency.seconds) for case in report.cases] == [30, 30]


@pytest.mark.slow
def test_power_comes_from_the_boards_own_files(rig, monkeypatch):
    report = rig.run(runs=20)
    assert report.cases[0].energy.watts == pytest.approx(4.85376)
    assert report.cases[0].energy.celsius["tj"] == (49.031, 49.031, 49.031)
    assert len(report.cases[0].latency.seconds) == 20


@pytest.mark.slow
def test_what_was_not_read_is_a_gap_with_its_reason(rig, monkeypatch):
    rig.sessions[rig.engine.name] = lambda: FakeSession(SPEC, precision=Precision.FP16, size=(48, 64))
    report = rig.run(power=(None, "power: no sensor"), runs=5)
    (case,) = report.cases
    assert case.energy is None
    assert case.parts == {}
    assert case.not_measured == (
        "GPU time, enqueue, transfers: this backend is timed host to host only",
        "power: no sensor",
    )
    assert f"{rig.engine.name}: power: no sensor" in notes(report)
    assert not [name for name in rows(report) if name.startswith(("power", "energy", "GPU", "transfers"))]
    assert report.to_dict()["cases"][0]["energy"] is None


@pytest.mark.slow
def test_mapped_memory_has_no_transfers(rig, monkeypatch):
    rig.sessions[rig.engine.name] = lambda: TimedSession(SPEC, size=(48, 64), mapped=True)
    report = rig.run(power=(None, "x"), runs=5)
    assert set(report.cases[0].parts) == {"gpu", "enqueue"}
    assert "transfers, ms" not in rows(report)


@pytest.mark.slow
def test_a_sensor_that_fails_half_way_gives_no_energy(rig, monkeypatch):
    class Failing(Steady):
        reads = 0

        def read(self):
            self.reads += 1
            if self.reads > 4:
                raise OSError("sensor gone")
            return super().read()

    report = rig.run(power=(Failing(), ""), runs=5)
    found = report.cases[0].energy
    assert found.joules_per_frame is None
    assert found.not_read == "sensor gone"
    assert any("could be read only for a part of the time: sensor gone" in note for note in notes(report))
    assert "energy of VDD_IN, mJ a frame" not in rows(report)


@pytest.mark.slow
def test_a_module_whose_rails_have_no_known_total(rig, monkeypatch):
    class Unknown(Steady):
        total = ()

    report = rig.run(power=(Unknown(), ""), runs=5)
    found = report.cases[0]
    assert (found.energy.rail, found.energy.watts, found.energy.joules_per_frame) == (None, None, None)
    assert found.energy.rails == pytest.approx({"VDD_IN": 6, "VDD_GPU": 2})
    assert found.not_measured == (
        "power: which of the rails VDD_IN, VDD_GPU add up to the module is not known; the JSON has each",
    )


@pytest.mark.slow
def test_clocks_are_set_only_when_asked(rig, monkeypatch):
    calls = []

    @contextmanager
    def full_clocks():
        calls.append("set")
        yield
        calls.append("back")

    monkeypatch.setattr(measure, "full_clocks", full_clocks)
    with pytest.raises(UnsupportedError, match="setting .*clocks needs"):  # before anything is built
        rig.run(power=(None, "x"), set_clocks=True)
    monkeypatch.setattr(runner, "require_clocks", lambda: None)
    rig.run(power=(None, "x"), runs=5)
    assert calls == []
    report = rig.run(power=(None, "x"), runs=5, set_clocks=True)
    assert calls == ["set", "back"]
    assert not any("float" in remark.text for remark in report.remarks)


def test_an_engine_chooses_its_device(engine, monkeypatch):
    asked = []

    def find(kind):
        asked.append(kind)
        raise UnsupportedError("not here")

    monkeypatch.setattr(runner, "gpu_facts", lambda: ORIN)
    for jetson in (False, True):
        monkeypatch.setattr(runner.Jetson, "present", jetson)
        with pytest.raises(UnsupportedError, match="not here"):
            run_benchmark(BenchOptions(artifacts=[engine]), board=find)
    with pytest.raises(UnsupportedError, match="not here"):
        run_benchmark(BenchOptions(model="hasn-x4-small"), board=find)
    assert asked == ["cuda", "jetson", "cpu"]
    with pytest.raises(
        UnsupportedError, match="is an engine and runs on its GPU only; leave out device, or bench the .onnx"
    ):
        benchmark(artifacts=[engine], device="cpu")


def test_an_engine_without_a_gpu_says_what_to_bench_instead(engine, monkeypatch):
    monkeypatch.setattr(runner, "gpu_facts", lambda: None)
    with pytest.raises(UnsupportedError, match=r"net-fp16-64x48.engine: this machine cannot run") as caught:
        benchmark(artifacts=[engine])
    assert "--device" not in str(caught.value)
    assert "run the graph that it was made from on any CPU" in str(caught.value)


@pytest.mark.slow
def test_a_file_alone_is_compared_with_the_network_that_it_came_from(rig, tmp_path):
    spec = load_artifact(bundled_onnx("hasn-x4-small")).spec
    weights = file_sha256(model_path("hasn-x4-small"))
    made = [
        publish(
            b"ftrt" + bytes(2000), tmp_path / folder / "net.engine", spec=spec, precision=Precision.FP16,
            source=source, details=details_of(Kind.ENGINE, size=[48, 64], pixels=folder == "b"),
        ).path
        for folder, source in (("a", weights), ("b", weights), ("c", "1" * 64))
    ]  # fmt: skip
    engines = ("a/net.engine", "b/net.engine", "c/net.engine")
    for name in (*engines, "PyTorch fp32, CPU", "PyTorch fp32, GPU"):
        rig.sessions[name] = lambda: FakeSession(spec, size=(48, 64))
    report = rig.run(power=(None, "x"), runs=5, artifacts=made)
    labels = [case.label for case in report.cases]
    assert labels[0].startswith("PyTorch fp32, ")
    assert labels[1:] == [*engines], "names differ where files do"
    assert "float32 array out (b/net.engine: 8-bit pixels in to" in report.conventions[0]
    (warned,) = (str(remark) for remark in report.remarks if "other weights" in remark.text)
    assert warned.startswith(f"c/net.engine was made of other weights than {labels[0]}: its drift is")
    assert report.model == "hasn-x4-small"
    assert report.cases[1].quality["shipped"].dpsnr_db == 0
    assert report.bicubic["shipped"].dpsnr_db is not None
    assert not report.own_reference


@pytest.mark.slow
def test_a_file_of_an_unknown_network_is_not_silently_compared_with_itself(rig):
    report = rig.run(power=(None, "x"), runs=5)
    assert report.own_reference
    (found,) = (str(remark) for remark in report.remarks if "drift" in remark.text)
    assert found.startswith("the drift is not that from FP32: net-fp16-64x48.engine is compared with itself")
    assert any(
        "because the FP32 network it was made from is no bundled model" in c for c in report.conventions
    )


def test_frames_that_the_network_does_not_take_are_refused_before_anything_is_timed():
    with pytest.raises(ShapeError, match="takes no less than 15x15 pixels, and 20x14 was asked for"):
        benchmark(model="hasn-x4-small", precisions=["fp32"], size=(14, 20), progress=pytest.fail)


@pytest.mark.slow
def test_tiles_that_no_image_fills_are_reported(rig):
    label = f"{rig.engine.name}, tiles of 64"
    rig.sessions[label] = lambda: FakeSession(SPEC)
    case = rig.run(power=(None, "x"), runs=5, tile=64).cases[1]
    assert (case.label, case.quality) == (label, {})
    assert case.not_measured[-1] == "drift on shipped: no image is larger than a tile"
    rig.sessions[label.replace("64", "40")] = lambda: FakeSession(SPEC)
    case = rig.run(power=(None, "x"), runs=5, tile=40).cases[1]
    assert case.quality["shipped"].fidelity_db is not None


class Mixing(FakeSession):
    """Its output depends on the whole frame, as with channel attention."""

    def _run(self, x_NCHW):
        return np.clip(super()._run(x_NCHW) + 0.2 * (x_NCHW.mean() - 0.5), 0, 1)


class Ranged(Mixing):
    """An engine of a range below the sizes of the images that ship."""

    smallest, largest = (32, 32), (50, 64)


class ShortOfMemory(Mixing):
    """Its memory suffices for the frame that is timed, and not for the images that ship."""

    def _run(self, x_NCHW):
        if x_NCHW.shape[2] * x_NCHW.shape[3] > 48 * 64:
            raise OutOfMemoryError("used up")
        return super()._run(x_NCHW)


def two_files(tmp_path, **facts):
    kinds = {"net.onnx": (Kind.ONNX, {}), "net.engine": (Kind.ENGINE, facts)}
    return [
        publish(
            b"ftrt" + bytes(2000), tmp_path / name, spec=SPEC, precision=Precision.FP16, source="0" * 64,
            details=details_of(kind, **own),
        ).path
        for name, (kind, own) in kinds.items()
    ]  # fmt: skip


@pytest.mark.slow
def test_images_outside_of_an_engines_range_count_as_no_drift(rig, tmp_path):
    shapes = {"min": [1, 3, 32, 32], "opt": [1, 3, 48, 64], "max": [1, 3, 50, 64]}
    rig.sessions = {"net.onnx": lambda: Mixing(SPEC), "net.engine": lambda: Ranged(SPEC)}
    files = two_files(tmp_path, profile=shapes)
    report = rig.run(power=(None, "x"), runs=5, artifacts=files, size=(48, 64))
    quality = report.cases[1].quality["shipped"]
    assert (quality.images, quality.dpsnr_db, quality.worst_dpsnr_db) == (1, 0, 0)
    assert any("one 64x48 frame with the set's images side by side" in text for text in report.conventions)


@pytest.mark.slow
def test_tiles_for_which_memory_is_the_reason_count_as_no_drift(rig, tmp_path, monkeypatch):
    monkeypatch.setattr("hasn_edge.runtime.tiling.SMALLEST_TILE", 16)
    rig.sessions = {"net.onnx": lambda: Mixing(SPEC), "net.engine": lambda: ShortOfMemory(SPEC)}
    files = two_files(tmp_path)
    report = rig.run(power=(None, "x"), runs=5, artifacts=files, size=(48, 64), evidence=True)
    case = report.cases[1]
    quality = case.quality["shipped"]
    assert (quality.images, quality.dpsnr_db, quality.fidelity_db) == (8, None, None)
    assert quality.psnr_y_db > 20
    assert case.not_measured[-1].startswith(
        "drift: shipped/camera-0 was computed whole by the reference and "
    )
    assert list(report.evidence) == ["net.onnx"]


@pytest.mark.slow
def test_the_size_is_the_engines_own(rig, monkeypatch):
    report = rig.run(power=(None, "x"), runs=5)
    assert report.size == (48, 64)
    with pytest.raises(
        InputError, match="takes 64x48 pixels only .*; use size=.48, 64., or bench it on its own"
    ):
        rig.run(size=(180, 320))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that the test wants missing")
@pytest.mark.parametrize("device", ["jetson", "rtx", "cuda"])
def test_a_device_that_is_not_here_is_refused(device):
    result = CliRunner().invoke(cli, ["bench", "--device", device])
    assert result.exit_code == 1
    assert "hasn-edge bench --estimate" in result.output
    assert "Linux on" in result.output


def test_figures_that_were_asked_for_and_that_no_case_has_are_named(report, monkeypatch):
    monkeypatch.setattr(runner, "run_benchmark", lambda *_, **__: report)
    result = CliRunner().invoke(cli, ["bench", "--columns", "median,energy,gpu"])
    assert result.exit_code == 0, result.output
    assert "No case has these figures: energy, gpu\n" in result.stderr
    assert "No case has" not in CliRunner().invoke(cli, ["bench", "--columns", "all"]).stderr
    assert "No case has" not in CliRunner().invoke(cli, ["bench"]).stderr
