"""How a benched case opens what it times, in a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hasn_edge.artifact import Artifact
from hasn_edge.bench import case_process
from hasn_edge.bench.case_process import Case, CaseHost, Worker
from hasn_edge.data.pairs import load_eval_set
from hasn_edge.errors import BuildError, CheckpointError
from hasn_edge.images.codec import write_image
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


@pytest.mark.parametrize(
    ("kind", "device", "on_gpu"),
    [
        (Kind.ENGINE, None, True),
        (Kind.ONNX, None, False),
        (Kind.ONNX, "cuda", True),
        (None, "cpu", False),
        (None, "cuda:1", True),
    ],
)
def test_which_case_is_on_a_gpu(kind, device, on_gpu):
    artifact = SimpleNamespace(kind=kind) if kind else None
    assert Case(label="x", artifact=artifact, device=device).on_gpu == on_gpu


@dataclass(frozen=True, kw_only=True)
class Hanging(Case):
    """Waits in a driver for ever."""

    def open(self, frame=None):
        time.sleep(3600)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "cure"), [("cpu", "bench it alone"), ("cuda", "end other programs .* GPU")]
)
def test_a_worker_that_hangs_is_stopped(monkeypatch, device, cure):
    monkeypatch.setattr(case_process, "SILENCE_S", 3)
    with Worker(Hanging(label="case", device=device)) as worker:
        with pytest.raises(
            BuildError, match=f"case: stopped, .* for 0.05 minutes while asked to open; {cure}"
        ):
            worker.open((32, 32))
        worker._process.join(timeout=60)
        assert worker._process.exitcode == -signal.SIGKILL


def test_a_child_that_survives_its_end_is_not_waited_for():
    """By Python, which joins its children when it ends; a process that waits for a driver never does."""

    asked: list[str | float] = []

    class Stuck(case_process._Child):
        def is_alive(self):
            return True

        def terminate(self):
            asked.append("terminate")

        def kill(self):
            asked.append("kill")

    worker = object.__new__(Worker)
    worker._process, (worker._connection, _) = Stuck(), multiprocessing.Pipe()
    worker._process._popen = SimpleNamespace(wait=asked.append)  # receives the time to wait
    worker.close()
    worker._process.join()  # as Python does
    assert asked == [5.0, "terminate", 5.0, "kill", 5.0, 5.0]


class Line:
    """A connection that a case is served on: requests, and what is sent for them."""

    def __init__(self, *requests):
        self.requests, self.sent = [*requests, None], []

    def recv(self):
        return self.requests.pop(0)

    def send(self, value):
        self.sent.append(value)


class Slow(FakeSession):
    """Takes a second for each image, by a clock of its own."""

    seconds = 0

    def _run(self, x_NCHW):
        Slow.seconds += 1
        return super()._run(x_NCHW)


@pytest.mark.parametrize(
    ("every", "signs"), [(0, "|....|..|"), (1, "|....|..|"), (2, "|..|.|"), (3, "|.|.|"), (7, "|||")]
)
def test_a_worker_that_works_gives_signs_of_life(monkeypatch, tmp_path, every, signs):
    """Between calls and images, seldom: however long all of them take, it is not stopped.

    Four calls and two images, a second each. A dot is a sign, a bar the answer to a request.
    """
    monkeypatch.setattr(case_process, "ALIVE_S", every)
    monkeypatch.setattr(Slow, "seconds", 0)
    monkeypatch.setattr(case_process, "time", SimpleNamespace(monotonic=lambda: Slow.seconds))
    for name in ("ignore", "die_with_parent"):
        monkeypatch.setattr(case_process.interrupt, name, lambda: None)
    for name in ("0.png", "1.png"):
        write_image(tmp_path / "S" / name, np.zeros((96, 96, 3), np.uint8))
    images = load_eval_set(("S", tmp_path / "S"), SPEC.scale)
    line = Line(("open", ((32, 32),)), ("time", (1, 3, 0)), ("score", (images, True)))
    case = Case(label="x")
    monkeypatch.setattr(Case, "open", lambda self, frame=None: Slow(SPEC))
    case_process._serve(line, case)
    assert "".join("." if answer is None else "|" for answer in line.sent) == signs
    opened, timed, scored = (answer for answer in line.sent if answer is not None)
    assert opened == (True, {"backend": "fake", "precision": "fp32", "device": "cpu"})
    answers = iter(line.sent[1:])

    class Connection:
        """The parent's end: what a child sent, as soon as it is asked for."""

        def send(self, request):
            pass

        def poll(self, seconds):
            assert seconds == case_process.SILENCE_S
            return True

        def recv(self):
            return next(answers)

    worker = object.__new__(Worker)
    worker.case, worker._connection = case, Connection()
    assert worker.time(warmup=1, at_least=3) is timed[1]
    assert worker.score(images) is scored[1]
    assert (len(timed[1].total), [image.name for image in scored[1].images]) == (3, ["0", "1"])


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
