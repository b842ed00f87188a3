"""A finished report; an engine, the board that it runs on, and benchmarks of it without children."""

from __future__ import annotations

import math

import pytest

from hasn_edge.artifact import publish
from hasn_edge.bench import measure, options
from hasn_edge.bench.board import Board
from hasn_edge.bench.options import TimingOptions
from hasn_edge.bench.report import BenchReport, SetQuality
from hasn_edge.hardware.jetson import Jetson
from hasn_edge.sidecar import Kind
from hasn_edge.spec import ModelSpec, Precision
from tests.support import boards
from tests.support.bench_rig import ORIN, SLOW, SPEC, BenchRig, make_row
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


@pytest.fixture
def report() -> BenchReport:
    base = SetQuality(images=5, psnr_y_db=32.181, ssim_y=0.8948)
    equal = SetQuality(
        images=5, psnr_y_db=32.181, ssim_y=0.8948, dpsnr_db=0.0, dssim=0.0, fidelity_db=math.inf
    )
    worse = SetQuality(
        images=5, psnr_y_db=32.131, ssim_y=0.8938, dpsnr_db=-0.05, dssim=-0.001, fidelity_db=47.3,
        worst_image="butterfly", worst_dpsnr_db=-0.091,
    )  # fmt: skip
    cases = (
        make_row("eager", file=None, sha256=None, file_bytes=None, quality={"Set5": base}),
        make_row("same", quality={"Set5": equal}),
        make_row("int8", precision="int8", latency=SLOW, quality={"Set5": worse}),
        make_row(
            "emulated", precision="int8", latency=None, peak_bytes=None, not_measured=("latency: a reason",)
        ),
    )
    return BenchReport(
        model="net",
        spec=ModelSpec(),
        size=(180, 320),
        cases=cases,
        environment={"CPU": "P"},
        date="2026-11-23",
        timing=TimingOptions(runs=20, seconds=1.0, warmup=2),
        threads=None,
        command="hasn-edge bench",
    )
