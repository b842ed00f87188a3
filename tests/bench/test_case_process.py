"""How a benched case opens what it times, in a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hasn_edge.artifact import Artifact
from hasn_edge.bench import case_process
from hasn_edge.bench.case_process import Case, CaseHost, Worker
from hasn_edge.errors import BuildError, CheckpointError
from hasn_edge.runtime import open as opening
from hasn_edge.runtime.session import Timing
from hasn_edge.sidecar import Kind
from hasn_edge.spec import Precision
from tests.support.bench_rig import SPEC, TimedSession
from tests.support.fake_session import FakeSession
from tests.support.samples import details_of


def test_what_is_timed_compiles_its_kernels_before(monkeypatch):
    """TensorRT for RTX runs general kernels until those for a size are there: they would be what is timed."""
    asked = []

    def open_session(artifact, *, frame, eager, **rest):
        asked.append((frame, eager))
        return FakeSession()

    monkeypatch.setattr(opening, "open_session", open_session)
    engine = Artifact(
        path=Path("x4.engine"),
        spec=SPEC,
        precision=Precision.FP16,
        sha256="0",
        source="0",
        details=details_of(Kind.ENGINE),
    )
    case = Case(label="rtx", artifact=engine)
    case.open((180, 320))
    case.open()  # to score images of many sizes, each once
    assert asked == [((180, 320), True), (None, False)]


@pytest.mark.slow
def test_worker_passes_our_errors_on(tmp_path):
    case = Case(label="gone", model=str(tmp_path / "none.safetensors"))
    with Worker(case) as worker, pytest.raises(CheckpointError, match="no such weights file"):
        worker.open((32, 32))


def test_killed_worker_is_a_message(tmp_path):
    with Worker(Case(label="case", model=str(tmp_path / "none.safetensors"))) as worker:
        worker._process.kill()
        with pytest.raises(
            BuildError,
            match="case: stopped while asked to open: the system killed it, .*; bench a smaller size",
        ):
            worker.open((32, 32))


def test_a_case_ends_with_a_benchmark_that_is_killed(monkeypatch):
    """Before it computes anything, for minutes perhaps."""
    done = []

    class Gone:
        def recv(self):
            done.append("recv")
            raise EOFError

    for name in ("ignore", "die_with_parent"):
        monkeypatch.setattr(case_process.interrupt, name, lambda name=name: done.append(name))
    case_process._serve(Gone(), Case(label="x"))
    assert done == ["ignore", "die_with_parent", "recv"]


def test_times_of_pixels_are_of_pixels():
    class Pixels(TimedSession):
        pixels = True
        seen = None

        def times(self, x):
            self.seen = x
            return Timing(total_s=1, gpu_s=1, enqueue_s=1)

    session = Pixels(SPEC)
    host = CaseHost(lambda frame=None: session)
    host.sessions, host.frame = [session], (48, 64)
    found = host.time(0, 3, 0)
    assert session.seen.shape == (1, 48, 64, 3)
    assert session.seen.dtype == np.uint8
    assert session.seen.max() > 200
    assert (len(found.total), found.transfers) == (3, ())
