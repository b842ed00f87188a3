"""The benchmark on a device: a Jetson's files, a session that tells its times, and what refuses to run."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hasn_edge.artifact import Kind, publish
from hasn_edge.bench import cases as plans
from hasn_edge.bench import energy, measure, run, worker
from hasn_edge.bench import schedule as order
from hasn_edge.bench.board import Board
from hasn_edge.bench.mosaic import mosaic
from hasn_edge.bench.report import BenchReport
from hasn_edge.bench.table import machine_line, markdown, notes, rows
from hasn_edge.cli import cli
from hasn_edge.data.pairs import shipped_eval_set
from hasn_edge.errors import InputError, MissingDependencyError, UnsupportedError
from hasn_edge.evaluation.latency import Latency, Round, latency_of, time_session
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.hardware.jetson import Jetson
from hasn_edge.hardware.power import Sample
from hasn_edge.spec import ModelSpec, Precision
from tests.support import boards
from tests.support.fake_session import FakeSession

SPEC = ModelSpec(features=8, blocks=1)
ORIN = GpuFacts(
    name="Orin", compute_capability="8.7", total_memory_bytes=8 << 30, driver=None, cuda="12.6",
    integrated=True, l4t="36.4.3", sm_count=8,
)  # fmt: skip


@dataclass
class Timing:
    gpu_s: float
    enqueue_s: float
    total_s: float
    to_device_s: float | None
    to_host_s: float | None


class TimedSession(FakeSession):
    """Tells times like TensorRT's session; each call takes a millisecond longer than the one before."""

    backend = "tensorrt"

    def __init__(self, *args, mapped=False, **options):
        super().__init__(*args, **options)
        self.device = "cuda"
        self.count = 0
        self.mapped = mapped

    def times(self, x):
        self.run(x)
        self.count += 1
        gpu = self.count / 1000
        moved = (None, None) if self.mapped else (0.1, 0.2)
        return Timing(gpu, 0.05, gpu + 0.5, *moved)

    def facts(self):
        return {
            "runtime": "TensorRT 10.3",
            "cuda": "cuda-python",
            "memory": "mapped, nothing copied" if self.mapped else "page-locked, copied",
            "graphs": False,
            "graphs_reason": "pycuda has no CUDA graphs",
        }


class InProcess:
    """Answers as a worker does, without a child: a fake session cannot be sent to one."""

    def __init__(self, case):
        self.case = case
        self._host = worker._Host(case)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._host.close()

    def open(self, size):
        return self._host.open(size)

    def time(self, *, warmup, at_least, seconds=0.2):
        return self._host.time(warmup, at_least, seconds)

    def facts(self):
        return self._host.facts()

    def peak_bytes(self):
        return 123_000_000

    def score(self, eval_set, *, framed=False):
        return self._host.score(eval_set, framed)


class Steady:
    """Six watts in all, two of them the GPU's."""

    rails = ("VDD_IN", "VDD_GPU")
    total = ("VDD_IN",)
    closed = 0

    def read(self):
        return Sample(watts={"VDD_IN": 6.0, "VDD_GPU": 2.0}, celsius={"gpu": 50.0}, gpu_hertz=1e9)

    def close(self):
        self.closed += 1


@pytest.fixture
def engine(tmp_path):
    return publish(
        b"ftrt" + bytes(2000),
        tmp_path / "net-fp16-64x48.engine",
        kind=Kind.ENGINE,
        spec=SPEC,
        precision=Precision.FP16,
        source="0" * 64,
        details={"size": [48, 64]},
    ).path


@pytest.fixture
def nano(tmp_path):
    jetson = Jetson(boards.orin_nano(tmp_path / "board"))
    return Board(kind="jetson", title="Orin Nano", gpu=ORIN, jetson=jetson)


@pytest.fixture
def opened(monkeypatch):
    """What :class:`CaseSpec` opens, by label; a timed session of one size unless the test says another."""
    sessions = {}

    def open_case(case, frame=None):
        make = sessions.get(case.label, lambda: TimedSession(SPEC, precision=Precision.FP16, size=(48, 64)))
        return make()

    monkeypatch.setattr(worker.CaseSpec, "open", open_case)
    monkeypatch.setattr(order, "Worker", InProcess)
    monkeypatch.setattr(order, "free_bytes", lambda gpu: 64 << 30)
    monkeypatch.setattr(measure, "IDLE_SECONDS", 0.02)
    monkeypatch.setattr(run, "DEVICE_SECONDS", 0.0)
    return sessions


def bench(nano, engine, monkeypatch, power=None, **options) -> BenchReport:
    monkeypatch.setattr(run, "find_board", lambda kind: nano)
    if power is not None:
        monkeypatch.setattr(Board, "power", lambda board: power)
    return run.benchmark(artifacts=[engine], device="jetson", **options)


def test_an_engine_on_a_jetson(nano, engine, opened, monkeypatch, tmp_path):
    source = Steady()
    report = bench(nano, engine, monkeypatch, power=(source, ""), sustained_minutes=0.001)
    (case,) = report.cases
    # Ten warm-up calls, forty timed ones, then each turn one warm-up call and forty timed ones again.
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

    table = dict(rows(report))
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
    assert "the clocks of this Jetson float (power mode MAXN_SUPER); --set-clocks holds them" in said
    assert "rail VDD_IN, read every 0.1 s" in said
    assert "TensorRT 10.3, memory page-locked, copied, CUDA by cuda-python" in said
    assert "one 64x48 frame with the set's images side by side" in said
    assert "power mode MAXN_SUPER" in machine_line(report)
    assert "jetpack 6.2" in machine_line(report)
    lines = [line for line in markdown(report).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {3}

    report.write_json(tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["schema"] == 3
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
    assert content["effort"]["runs"] == 200


def test_the_processors_case_is_not_run_as_often(nano, engine, opened, monkeypatch):
    """A frame there may take seconds: 200 of them would take ten minutes."""
    found = [
        plans.Plan(case=worker.CaseSpec(label="PyTorch fp32, CPU", model="m")),
        plans.Plan(case=worker.CaseSpec(label="engine", artifact=engine, device="cuda")),
    ]
    monkeypatch.setattr(run, "plans", lambda wanted: found)
    monkeypatch.setattr(run, "SECONDS", 0.0)
    report = bench(nano, engine, monkeypatch, (Steady(), ""))
    assert [len(case.latency.seconds) for case in report.cases] == [run.RUNS, run.DEVICE_RUNS]
    assert "20 to 200 samples a case" in report.conventions[0]
    report = bench(nano, engine, monkeypatch, (Steady(), ""), runs=30)
    assert [len(case.latency.seconds) for case in report.cases] == [30, 30]


class Counted(InProcess):
    """Says which cases are open at once."""

    open_now: ClassVar[list[str]] = []
    log: ClassVar[list[tuple[str, ...]]] = []

    def __enter__(self):
        self.open_now.append(self.case.label)
        self.log.append(tuple(self.open_now))
        return super().__enter__()

    def __exit__(self, *exc):
        self.open_now.remove(self.case.label)
        super().__exit__(*exc)


@pytest.fixture
def three(engine, opened, monkeypatch):
    """Three cases, of which one is scored only."""
    found = [
        plans.Plan(case=worker.CaseSpec(label="PyTorch", model="m", device="cuda")),
        plans.Plan(case=worker.CaseSpec(label="emulated", artifact=engine), timed=False),
        plans.Plan(case=worker.CaseSpec(label="engine", artifact=engine, device="cuda")),
    ]
    monkeypatch.setattr(run, "plans", lambda wanted: found)
    monkeypatch.setattr(order, "Worker", Counted)
    monkeypatch.setattr(Counted, "open_now", [])
    monkeypatch.setattr(Counted, "log", [])


def test_a_small_board_holds_one_case_at_a_time(nano, engine, three, monkeypatch, tmp_path):
    monkeypatch.setattr(order, "free_bytes", lambda gpu: 5_900_000_000)
    source = Steady()
    report = bench(nano, engine, monkeypatch, (source, ""), runs=30, sustained_minutes=0.001)
    assert Counted.log == [("PyTorch",), ("emulated",), ("engine",)]
    assert Counted.open_now == []
    assert [case.latency and len(case.latency.seconds) for case in report.cases] == [30, None, 30]
    assert [case.sustained is None for case in report.cases] == [False, True, False]
    assert report.cases[2].energy.idle_watts == pytest.approx(6)
    assert report.cases[2].quality["shipped"].fidelity_db is not None, "against the first, closed long ago"
    assert source.closed == 1
    said = "\n".join(report.conventions)
    assert "cases run one after the other" in said
    assert "3 open at once are reckoned to need 6.0 GB, and 5.9 GB are free" in said
    assert "of turns with one number, which were not taken at one time" in said
    assert "idle: before the first case was opened" in said
    assert "timed in turns" not in said
    assert report.to_dict()["one_after_the_other"] == report.apart
    assert report.before["title"] == report.after["title"] == "Orin Nano"


def test_where_memory_suffices_cases_are_timed_in_turns(nano, engine, three, monkeypatch):
    report = bench(nano, engine, monkeypatch, (Steady(), ""), runs=30)
    assert Counted.log[-1] == ("PyTorch", "emulated", "engine")
    assert Counted.open_now == []
    said = "\n".join(report.conventions)
    assert "cases timed in turns" in said
    assert "every case open and none running" in said
    assert "one after the other" not in said
    assert report.to_dict()["one_after_the_other"] is None


def test_a_case_that_fails_leaves_none_open(nano, engine, three, opened, monkeypatch):
    def broken():
        raise UnsupportedError("no")

    opened["engine"] = broken
    for free in (64 << 30, 1 << 30):
        monkeypatch.setattr(order, "free_bytes", lambda gpu, free=free: free)
        source = Steady()
        with pytest.raises(UnsupportedError, match="no"):
            bench(nano, engine, monkeypatch, (source, ""), runs=5)
        assert Counted.open_now == []
        assert source.closed == (free == 1 << 30), "in turns, all are open before power is read"


def test_how_many_cases_fit(nano, monkeypatch):
    """By hand: 320 x 180 = 57,600 pixels at 4 x (7 x 156 + 3 x 52 + 2 x 48) bytes."""
    frame = 57_600 * 5376
    assert frame == 309_657_600
    on_gpu = plans.Plan(case=worker.CaseSpec(label="a", device="cuda"))
    beside = plans.Plan(case=worker.CaseSpec(label="b"))
    seven = [on_gpu] * 6 + [beside]
    card = Board(kind="cuda", title="card", gpu=replace(ORIN, integrated=False))

    def why(board, planned=seven):
        return order.too_many(planned, board, ModelSpec(), (180, 320))

    for board, need in ((nano, 7 * (2_000_000_000 + frame)), (card, 6 * (500_000_000 + frame))):
        monkeypatch.setattr(order, "free_bytes", lambda gpu, need=need: need)
        assert why(board) == ""
        monkeypatch.setattr(order, "free_bytes", lambda gpu, need=need: need - 1)
        assert f"need {need / 1e9:.1f} GB" in why(board)
        assert why(board, [on_gpu]) == "", "one has to be open"
        monkeypatch.setattr(order, "free_bytes", lambda gpu: None)
        assert why(board) == ""
    assert why(Board(kind="cpu", title="P")) == ""


def test_free_memory_of_a_board_and_of_a_card(monkeypatch):
    monkeypatch.setattr(order.host, "available_memory_bytes", lambda: 5_000)
    assert order.free_bytes(ORIN) == 5_000
    card = replace(ORIN, integrated=False)
    asked = []

    def answer(argv, **options):
        asked.append(argv)
        return type("Done", (), {"stdout": "777\n"})

    monkeypatch.setattr(order.subprocess, "run", answer)
    assert order.free_bytes(card) == 777
    compile(asked[0][2], "code", "exec")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that the test wants missing")
def test_without_an_answer_free_memory_is_not_known():
    assert order.free_bytes(replace(ORIN, integrated=False)) is None


def test_power_comes_from_the_boards_own_files(nano, engine, opened, monkeypatch):
    report = bench(nano, engine, monkeypatch, runs=20)
    assert report.cases[0].energy.watts == pytest.approx(4.85376)
    assert report.cases[0].energy.celsius["tj"] == (49.031, 49.031, 49.031)
    assert len(report.cases[0].latency.seconds) == 20


def test_what_was_not_read_is_a_gap_with_its_reason(nano, engine, opened, monkeypatch):
    opened[engine.name] = lambda: FakeSession(SPEC, precision=Precision.FP16, size=(48, 64))
    report = bench(nano, engine, monkeypatch, power=(None, "power: no sensor"), runs=5)
    (case,) = report.cases
    assert case.energy is None
    assert case.parts == {}
    assert case.not_measured == (
        "GPU time, enqueue, transfers: this backend is timed host to host only",
        "power: no sensor",
    )
    assert f"{engine.name}: power: no sensor" in notes(report)
    assert not [
        name for name in dict(rows(report)) if name.startswith(("power", "energy", "GPU", "transfers"))
    ]
    assert report.to_dict()["cases"][0]["energy"] is None


def test_mapped_memory_has_no_transfers(nano, engine, opened, monkeypatch):
    opened[engine.name] = lambda: TimedSession(SPEC, size=(48, 64), mapped=True)
    report = bench(nano, engine, monkeypatch, power=(None, "x"), runs=5)
    assert set(report.cases[0].parts) == {"gpu", "enqueue"}
    assert "transfers, ms" not in dict(rows(report))


def test_a_sensor_that_fails_half_way_gives_no_energy(nano, engine, opened, monkeypatch):
    class Failing(Steady):
        reads = 0

        def read(self):
            self.reads += 1
            if self.reads > 4:
                raise OSError("sensor gone")
            return super().read()

    report = bench(nano, engine, monkeypatch, power=(Failing(), ""), runs=5)
    found = report.cases[0].energy
    assert found.joules_per_frame is None
    assert found.not_read == "sensor gone"
    assert any("could be read only for a part of the time: sensor gone" in note for note in notes(report))
    assert "energy of VDD_IN, mJ a frame" not in dict(rows(report))


def test_a_module_whose_rails_have_no_known_total(nano, engine, opened, monkeypatch):
    class Unknown(Steady):
        total = ()

    report = bench(nano, engine, monkeypatch, power=(Unknown(), ""), runs=5)
    found = report.cases[0]
    assert (found.energy.rail, found.energy.watts, found.energy.joules_per_frame) == (None, None, None)
    assert found.energy.rails == pytest.approx({"VDD_IN": 6, "VDD_GPU": 2})
    assert found.not_measured == (
        "power: which of the rails VDD_IN, VDD_GPU add up to the module is not known; the JSON has each",
    )


def test_clocks_are_set_only_when_asked(nano, engine, opened, monkeypatch):
    from contextlib import contextmanager

    calls = []

    @contextmanager
    def full_clocks():
        calls.append("set")
        yield
        calls.append("back")

    monkeypatch.setattr(measure, "full_clocks", full_clocks)
    with pytest.raises(UnsupportedError, match="setting .*clocks needs"):  # before anything is built
        bench(nano, engine, monkeypatch, power=(None, "x"), set_clocks=True)
    monkeypatch.setattr(run, "require_clocks", lambda: None)
    bench(nano, engine, monkeypatch, power=(None, "x"), runs=5)
    assert calls == []
    report = bench(nano, engine, monkeypatch, power=(None, "x"), runs=5, set_clocks=True)
    assert calls == ["set", "back"]
    assert not any("float" in finding for finding in report.findings)


def test_an_engine_chooses_its_device(engine, opened, monkeypatch, tmp_path):
    asked = []

    def find(kind):
        asked.append(kind)
        raise UnsupportedError("not here")

    monkeypatch.setattr(run, "find_board", find)
    monkeypatch.setattr(run, "gpu_facts", lambda: ORIN)
    for jetson in (False, True):
        monkeypatch.setattr(run.Jetson, "present", jetson)
        with pytest.raises(UnsupportedError, match="not here"):
            run.benchmark(artifacts=[engine])
    with pytest.raises(UnsupportedError, match="not here"):
        run.benchmark("hasn-x4-small")
    assert asked == ["cuda", "jetson", "cpu"]
    with pytest.raises(
        UnsupportedError, match="is an engine and runs on its GPU only; leave out --device cpu"
    ):
        run.benchmark(artifacts=[engine], device="cpu")


def test_an_engine_without_a_gpu_says_what_to_bench_instead(engine, monkeypatch):
    monkeypatch.setattr(run, "gpu_facts", lambda: None)
    with pytest.raises(UnsupportedError, match=r"net-fp16-64x48.engine: this machine cannot run") as caught:
        run.benchmark(artifacts=[engine])
    assert "--device" not in str(caught.value)
    assert "run the .onnx that it was made from on any CPU" in str(caught.value)


def test_the_size_is_the_engines_own(nano, engine, opened, monkeypatch):
    report = bench(nano, engine, monkeypatch, power=(None, "x"), runs=5)
    assert report.size == (48, 64)
    with pytest.raises(InputError, match="takes 64x48 pixels only .* give --size 64x48"):
        bench(nano, engine, monkeypatch, size=(180, 320))


def test_times_of_pixels_are_of_pixels():
    class Pixels(TimedSession):
        pixels = True
        seen = None

        def times(self, x):
            self.seen = x
            return Timing(1, 1, 1, None, None)

    session = Pixels(SPEC)
    host = worker._Host(worker.CaseSpec(label="x"))
    host.sessions, host.frame = [session], (48, 64)
    turn = host.time(0, 3, 0)
    assert session.seen.shape == (1, 48, 64, 3)
    assert session.seen.dtype == np.uint8
    assert session.seen.max() > 200
    assert (len(turn.total), turn.transfers) == (3, ())


def test_turns_become_durations():
    turns = [Round(total=(1.0, 3.0), gpu=(0.5, 0.6)), Round(total=(5.0,))]
    assert latency_of(turns).seconds == (1, 3, 5)
    assert latency_of(turns, "gpu") is None, "one turn did not tell it"
    assert latency_of([]) is None
    assert latency_of(turns).std_ms == pytest.approx(2000)
    assert latency_of(turns).tenths_ms is None
    steady = Latency(rounds=(tuple(range(1, 101)),))
    assert steady.tenths_ms == (5500, 95500)


def test_a_session_without_times_is_timed_as_a_whole():
    session = FakeSession(SPEC)
    turn = time_session(session, np.zeros((1, 3, 16, 16), np.float32), at_least=4, seconds=0)
    assert len(turn.total) == len(session.calls) == 4
    assert turn.gpu == turn.enqueue == turn.transfers == ()


def test_energy_is_power_times_time_over_frames():
    from hasn_edge.hardware.power import PowerTrace

    meter = energy.EnergyMeter(Steady())
    meter._traces = [
        PowerTrace(seconds=(0.0, 2.0), samples=(Sample(watts={"VDD_IN": w}),) * 2, total=("VDD_IN",))
        for w in (5.0, 10.0)
    ]
    meter.count(6)
    idle = PowerTrace(seconds=(0.0,), samples=(Sample(watts={"VDD_IN": 3.0}),), total=("VDD_IN",))
    found = meter.result(idle)
    assert found.watts == pytest.approx(7.5)
    assert found.joules_per_frame == pytest.approx((2 * 5 + 2 * 10) / 6)
    assert found.joules_above_idle == pytest.approx((2 * 5 + 2 * 10 - 4 * 3) / 6)
    assert energy.EnergyMeter(None).result() is None


@pytest.mark.parametrize("size", [(180, 320), (48, 64), (37, 500)])
def test_a_mosaic_is_full_of_image(size):
    images = shipped_eval_set(4)
    (pair,) = mosaic(images, size)
    assert pair.lr().shape == (*size, 3)
    assert pair.hr().shape == (4 * size[0], 4 * size[1], 3)
    first = images.pairs[0].lr()
    height, width = (min(a, b) for a, b in zip(size, first.shape, strict=False))
    height, width = min(height, 16), min(width, 16)
    assert (pair.lr()[:height, :width] == first[:height, :width]).all()
    # Each LR pixel stands where its HR pixels are: reducing HR gives LR but for the seams.
    mean = pair.hr().reshape(size[0], 4, size[1], 4, 3).mean((1, 3))
    assert np.abs(mean - pair.lr()).mean() < 4


class Builds:
    """Stands for ``build_one`` and ``export``: publishes what they would, and remembers what was asked."""

    def __init__(self, folder):
        self.folder, self.asked = folder, []

    def artifact(self, name, kind, precision, size=None):
        details = {"size": list(size)} if size else {}
        return publish(
            bytes(2000) + name.encode(), self.folder / name, kind=kind, spec=SPEC,
            precision=Precision(precision), source="0" * 64, details=details,
        )  # fmt: skip

    def build(self, model, precision, options, *, output, cache, known, progress):
        precision, target, size = precision.value, options.target, options.size
        self.asked.append((precision, target, size))
        kept = self.folder / "engines"
        if target == "cpu":
            assert (output, cache, known) == (self.folder, None, ())
        else:
            assert (output, cache, known) == (kept / "cache" / "candidates", kept / "cache", (kept,))
        graph = self.artifact(f"{precision}-{target}.onnx", Kind.ONNX, precision, size)
        if target == "cpu":
            return type("Built", (), {"artifacts": (graph,)})
        engine = self.artifact(f"{precision}-{target}.engine", Kind.ENGINE, precision, size)
        return type("Built", (), {"artifacts": (graph, engine)})

    def export(self, model, *, precision, **options):
        return self.artifact(f"{precision}.ts", Kind.TORCHSCRIPT, precision)


@pytest.fixture
def wanted(tmp_path, monkeypatch):
    builds = Builds(tmp_path)
    monkeypatch.setattr(plans, "build_one", builds.build)
    monkeypatch.setattr(plans, "export", builds.export)

    def make(kind, *, torch_gpu, ort_gpu=False, modules=("tensorrt", "rtx")):
        def find_module(runtime, **options):
            if runtime.value not in modules:
                raise MissingDependencyError(runtime.value, extra=runtime.value, needed_for="Building")

        monkeypatch.setattr(plans, "find_module", find_module)
        monkeypatch.setattr(plans, "_torch_has_gpu", lambda: torch_gpu)
        monkeypatch.setattr(plans, "_onnxruntime_has_gpu", lambda: ort_gpu)
        found = plans.plans(
            plans.Wanted(
                board=Board(kind=kind, title=kind), model="m", artifacts=(), recipe="default",
                precisions=[Precision.FP32, Precision.FP16, Precision.INT8], size=(48, 64), threads=2,
                folder=tmp_path, engines=tmp_path / "engines", cuda="torch",
            )
        )  # fmt: skip
        return found, builds.asked

    return make


def test_what_is_compared_on_a_jetson(wanted):
    found, asked = wanted("jetson", torch_gpu=True)
    assert [(p.case.label, p.case.device, p.case.cuda, p.timed) for p in found] == [
        ("PyTorch fp32, GPU", "cuda", None, True),
        ("TensorRT fp32", "cuda", "torch", True),
        ("TorchScript fp32", "cuda", None, True),
        ("TensorRT fp16", "cuda", "torch", True),
        ("TorchScript fp16", "cuda", None, True),
        ("INT8 emulated exactly", None, None, False),
        ("TensorRT int8", "cuda", "torch", True),
    ]
    assert asked == [(p, "tensorrt", (48, 64)) for p in ("fp32", "fp16", "int8")]


def test_what_is_compared_where_little_is_installed(wanted):
    found, asked = wanted("rtx", torch_gpu=False)
    assert found[0].case.label == "PyTorch fp32, CPU"
    assert found[0].case.device is None
    assert {target for _, target, _ in asked} == {"rtx"}
    found, asked = wanted("cuda", torch_gpu=False, ort_gpu=True, modules=())
    assert [p.case.label for p in found] == [
        "PyTorch fp32, CPU",
        "ONNX Runtime fp32",
        "ONNX Runtime fp16",
    ]
    with pytest.raises(MissingDependencyError, match="tensorrt"):
        wanted("cuda", torch_gpu=False, modules=())
    with pytest.raises(MissingDependencyError, match="tensorrt"):
        wanted("jetson", torch_gpu=True, modules=("rtx",))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that the test wants missing")
@pytest.mark.parametrize("device", ["jetson", "rtx", "cuda"])
def test_a_device_that_is_not_here_is_refused(device):
    result = CliRunner().invoke(cli, ["bench", "--device", device])
    assert result.exit_code == 1
    assert "hasn-edge bench --estimate" in result.output
    assert "Linux on" in result.output
