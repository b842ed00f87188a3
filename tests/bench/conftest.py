"""An engine, the board that it runs on, and benchmarks of it without children."""

from __future__ import annotations

import pytest

from hasn_edge.artifact import Kind, publish
from hasn_edge.bench import measure, options
from hasn_edge.bench.board import Board
from hasn_edge.hardware.jetson import Jetson
from hasn_edge.spec import Precision
from tests.support import boards
from tests.support.bench_rig import ORIN, SPEC, BenchRig
from tests.support.samples import details_of


@pytest.fixture
def engine(tmp_path):
    return publish(
        b"ftrt" + bytes(2000),
        tmp_path / "net-fp16-64x48.engine",
        spec=SPEC,
        precision=Precision.FP16,
        source="0" * 64,
        details=details_of(Kind.ENGINE, size=[48, 64]),
    ).path


@pytest.fixture
def nano(tmp_path):
    jetson = Jetson(boards.orin_nano(tmp_path / "board"))
    return Board(kind="jetson", title="Orin Nano", gpu=ORIN, jetson=jetson)


@pytest.fixture
def rig(nano, engine, monkeypatch):
    monkeypatch.setattr(measure, "IDLE_SECONDS", 0.02)
    monkeypatch.setattr(options, "DEVICE_SECONDS", 0.0)
    return BenchRig(board=nano, engine=engine)
