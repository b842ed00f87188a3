"""Cases open at once or one after the other, as the memory allows."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from hasn_edge.artifact import load_artifact
from hasn_edge.bench import schedule
from hasn_edge.bench.board import Board
from hasn_edge.bench.case_process import Case
from hasn_edge.bench.cases import CaseMaker
from hasn_edge.bench.report import Remark
from hasn_edge.bench.schedule import why_apart
from hasn_edge.bench.table import markdown, notes
from hasn_edge.engine import device_memory
from hasn_edge.engine.worker_process import Ended
from hasn_edge.errors import BuildError, UnsupportedError, say
from hasn_edge.spec import ModelSpec
from tests.support.bench_rig import ORIN, SPEC, Steady, TimedSession


@pytest.fixture
def three(engine, monkeypatch):
    """Three cases, of which one is scored only."""
    artifact = load_artifact(engine)
    found = [
        Case(label="PyTorch", model="m", device="cuda"),
        Case(label="emulated", artifact=artifact, timed=False),
        Case(label="engine", artifact=artifact, device="cuda"),
    ]
    monkeypatch.setattr(CaseMaker, "cases", lambda maker, artifacts: found)
    return found


@pytest.mark.slow
def test_a_small_board_holds_one_case_at_a_time(rig, three):
    rig.free = 5_900_000_000
    source = Steady()
    report = rig.run((source, ""), runs=30, sustained_minutes=0.001)
    assert rig.log == [("PyTorch",), ("emulated",), ("engine",)]
    assert rig.open_now == []
    assert [case.latency and len(case.latency.seconds) for case in report.cases] == [30, None, 30]
    assert [case.sustained is None for case in report.cases] == [False, True, False]
    assert report.cases[2].energy.idle_watts == pytest.approx(6)
    assert report.cases[2].quality["shipped"].fidelity_db is not None, "against the first, closed long ago"
    assert source.closed == 1
    said = "\n".join(report.conventions)
    assert "cases run one after the other" in said
    assert "3 open at once need an estimated 6.0 GB, and 5.9 GB are free" in said
    assert "of rounds with one number, which were not taken at one time" in said
    assert "idle: before the first case was opened" in said
    assert "timed in rounds" not in said
    assert report.to_dict()["one_after_the_other"] == report.apart
    assert report.before["title"] == report.after["title"] == "Orin Nano"


@pytest.mark.slow
def test_where_memory_suffices_cases_are_timed_in_rounds(rig, three):
    report = rig.run((Steady(), ""), runs=30)
    assert rig.log[-1] == ("PyTorch", "emulated", "engine")
    assert rig.open_now == []
    said = "\n".join(report.conventions)
    assert "cases timed in rounds" in said
    assert "every case open and none running" in said
    assert "one after the other" not in said
    assert report.to_dict()["one_after_the_other"] is None


def broken():
    raise UnsupportedError("no", say("another"))


def test_a_first_case_that_fails_ends_the_run_and_leaves_none_open(rig, three):
    rig.sessions["PyTorch"] = broken
    for free in (64 << 30, 1 << 30):
        rig.free = free
        source = Steady()
        with pytest.raises(UnsupportedError, match="no"):
            rig.run((source, ""), runs=5)
        assert rig.open_now == []
        assert source.closed == (free == 1 << 30), "in rounds, all are open before power is read"


class Fails(TimedSession):
    """Runs some times."""

    def __init__(self, runs: int) -> None:
        super().__init__(SPEC, size=(48, 64))
        self.left = runs

    def times(self, x):
        self.left -= 1
        if self.left < 0:
            raise BuildError("lost the GPU")
        return super().times(x)


@pytest.mark.slow
@pytest.mark.parametrize("free", [64 << 30, 1 << 30], ids=["in rounds", "apart"])
@pytest.mark.parametrize(
    ("make", "message"),
    [(broken, "no"), (lambda: Fails(0), "lost the GPU"), (lambda: Fails(9), "lost the GPU")],
    ids=["opening", "warming up", "timing"],
)
def test_another_one_that_fails_is_a_row_with_its_reason(rig, three, free, make, message):
    rig.sessions["engine"], rig.free = make, free
    report = rig.run((Steady(), ""), runs=30)
    assert rig.open_now == []
    first, emulated, failed = report.cases
    assert len(first.latency.seconds) == 30
    assert first.quality.keys() == emulated.quality.keys() != set()
    assert (failed.label, failed.precision, failed.latency, failed.quality) == ("engine", "fp16", None, {})
    assert failed.failure.text == message
    assert f"engine failed: {message}" in "\n".join(notes(report))
    assert report.to_dict()["cases"][2]["failure"] == message
    assert "| engine | " in markdown(report)


def test_one_whose_build_failed_is_a_row_too(rig, three):
    failure = BuildError("could not compile", say("another"))
    three[2] = Case(label="TensorRT int8", precision="int8", failure=failure, timed=False)
    report = rig.run((Steady(), ""), runs=5)
    assert report.cases[2].precision == "int8"
    assert report.remarks[0] == Remark("TensorRT int8 failed: could not compile", failure.cures)
    assert rig.log[-1] == ("PyTorch", "emulated")


def test_how_many_cases_fit(nano):
    """By hand: 320 x 180 = 57,600 pixels at 4 x (7 x 156 + 3 x 52 + 2 x 48) bytes."""
    frame = 57_600 * 5376
    assert frame == 309_657_600
    on_gpu, beside = Case(label="a", device="cuda"), Case(label="b")
    seven = [on_gpu] * 6 + [beside]
    card = Board(kind="cuda", title="card", gpu=replace(ORIN, integrated=False))

    def why(board, free, cases=seven):
        return why_apart(cases, board, ModelSpec(), (180, 320), lambda gpu: free)

    for board, need in ((nano, 7 * (2_000_000_000 + frame)), (card, 6 * (500_000_000 + frame))):
        assert why(board, need) == ""
        assert f"need an estimated {need / 1e9:.1f} GB" in why(board, need - 1)
        assert why(board, need - 1, [on_gpu]) == "", "one has to be open"
        assert why(board, None) == ""
    assert why(Board(kind="cpu", title="P"), 0) == ""


def test_free_memory_of_a_board_and_of_a_card(monkeypatch):
    monkeypatch.setattr(schedule.host, "available_memory_bytes", lambda: 5_000)
    assert schedule.free_bytes(ORIN) == 5_000
    monkeypatch.setattr(device_memory, "DeviceMemory", lambda: SimpleNamespace(free_bytes=lambda: 777))
    late = iter((False, True))

    def run(option, code, *, limit_s):
        assert (option, limit_s) == ("-c", 60.0)
        with redirect_stdout(io.StringIO()) as out:
            exec(code, {})
        return Ended(0, "", "", True) if next(late) else Ended(0, out.getvalue(), "", False)

    monkeypatch.setattr(schedule, "run_python", run)
    card = replace(ORIN, integrated=False)
    assert schedule.free_bytes(card) == 777
    assert schedule.free_bytes(card) is None, "a child that was stopped has printed nothing"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that the test wants missing")
def test_without_an_answer_free_memory_is_not_known():
    assert schedule.free_bytes(replace(ORIN, integrated=False)) is None
