"""Ctrl-C, SIGTERM and a full disk in a real process: it ends in time, with the right code, in one piece."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hasn_edge.live.pipeline import JOIN_S
from hasn_edge.live.sources.capture import open_file
from tests.support.children import hear
from tests.support.live_rig import number_of

pytest.importorskip("av")

CHILD = Path(__file__).parents[1] / "support" / "demo_child.py"
STAGES = {
    "opening": ("--source", "camera"),
    "lost": ("--source", "camera"),
    "infer": ("--source", "pattern"),
    "present": ("--source", "pattern", "--self-test"),
    "record": ("--source", "pattern"),
    "finishing": ("--source", "12"),
    "dropped": ("--source", "12"),
    "meanwhile": ("--source", "12"),
    "running": ("--source", "pattern"),
    "hung up": ("--source", "12"),
    "end": ("--source", "15"),
    "noise": ("--source", "pattern", "--seconds", "30"),
}


class Child:
    """One run of the demo that records into a folder of its own."""

    def __init__(self, stage: str, folder: Path) -> None:
        self.folder = folder / stage
        self.folder.mkdir()
        self.report = folder / f"{stage}.json"
        options = (
            "--size",
            "64x48",
            "--view",
            "none",
            "--record",
            self.folder / "a.mkv",
            "--json",
            self.report,
        )

        def prepare() -> None:
            # A test run in the background of a shell ignores SIGINT, under nohup SIGHUP, and its children
            # would too.
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            if stage == "noise":
                resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

        self._process = subprocess.Popen(
            [sys.executable, str(CHILD), stage, *STAGES[stage], *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHILD.parents[2])},
            preexec_fn=prepare,
        )

    def signal(self, number: int, after: str = "READY") -> None:
        """Send it once the child is in its stage, or has said something else."""
        hear(self._process, after)
        self._process.send_signal(number)

    def finish(self, code: int) -> None:
        """Wait for the end; check the code and that it was an orderly one."""
        self.output, self.errors = self._process.communicate(timeout=60)
        assert self._process.returncode == code, self.errors
        assert "Traceback" not in self.errors

    def joined_s(self) -> float:
        return float(next(line.split()[1] for line in self.errors.splitlines() if line.startswith("JOINED")))

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def numbers(self) -> list[int]:
        """Play the recording."""
        told: list[str | None] = []
        numbers = []
        with open_file(self.folder / "a.mkv") as source:
            source.report = told.append
            while (frame := source.read()) is not None:
                numbers.append(number_of(frame.pixels))
        assert told == []
        return numbers

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def children(tmp_path_factory):
    """All of them at once: most of what they do is to wait."""
    folder = tmp_path_factory.mktemp("runs")
    children = {stage: Child(stage, folder) for stage in STAGES}
    yield children
    for child in children.values():
        child.kill()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["infer", "present", "record", "finishing"])
def test_interrupt(children, stage):
    child = children[stage]
    child.signal(signal.SIGINT)
    child.finish(130)
    # A recording is waited for however long it takes to finish.
    assert child.joined_s() < JOIN_S + (0.7 if stage in ("record", "finishing") else 0)
    assert child.files() == ["a.mkv"]
    assert str(child.folder / "a.mkv") in child.output
    numbers = child.numbers()
    assert len(numbers) == json.loads(child.report.read_text())["frames"]["shown"] > 0
    assert numbers == sorted(set(numbers))


@pytest.mark.slow
def test_a_second_interrupt_drops_the_recording_and_leaves_nothing(children):
    child = children["dropped"]
    child.signal(signal.SIGINT)
    child.signal(signal.SIGINT, after="a.mkv is being finished; Ctrl-C again drops it")
    child.finish(130)
    assert "Dropping the recording" in child.errors
    assert f"nothing of {child.folder / 'a.mkv'} was kept" in " ".join(child.errors.split())
    assert "a.mkv" not in child.output
    assert child.files() == []


@pytest.mark.slow
def test_a_recording_that_was_finished_in_the_meantime_is_named(children):
    child = children["meanwhile"]
    child.signal(signal.SIGINT)
    child.signal(signal.SIGINT, after="Ctrl-C again drops it")
    child.finish(130)
    assert "was dropped" not in child.errors
    assert child.output.splitlines()[-1] == str(child.folder / "a.mkv")
    assert child.numbers() == list(range(12))


@pytest.mark.slow
def test_interrupt_while_the_source_is_opened(children):
    child = children["opening"]
    child.signal(signal.SIGINT)
    child.finish(130)
    assert child.files() == []
    assert not child.report.exists()


@pytest.mark.slow
def test_interrupt_while_the_source_is_lost(children):
    child = children["lost"]
    child.signal(signal.SIGINT)
    child.finish(130)
    assert child.joined_s() < JOIN_S
    assert child.files() == []
    assert json.loads(child.report.read_text())["frames"]["captured"] == 0
    assert "Nothing to record: no frame was shown" in child.errors


@pytest.mark.slow
def test_terminate_is_an_orderly_end_too(children):
    child = children["running"]
    child.signal(signal.SIGTERM)
    child.finish(143)
    assert child.joined_s() < JOIN_S
    assert child.files() == ["a.mkv"]
    assert child.numbers()


@pytest.mark.slow
def test_a_lost_connection_finishes_the_recording(children):
    """The shell sends SIGHUP, and when that ends, so does the system: the second one drops nothing."""
    child = children["hung up"]
    child.signal(signal.SIGHUP)
    child.signal(signal.SIGHUP, after="a.mkv is being finished")
    child.finish(129)
    assert child.files() == ["a.mkv"]
    assert child.numbers() == list(range(12))


@pytest.mark.slow
def test_disk_is_full(children):
    """The system refuses to let the file grow: the run ends, says so, and leaves nothing."""
    child = children["noise"]
    child.finish(1)
    assert "Error: record" in child.errors
    assert "a.mkv: File too large" in child.errors
    assert child.files() == []


@pytest.mark.slow
def test_the_end_of_the_source_is_success(children):
    child = children["end"]
    child.finish(0)
    assert "15 captured, 15 shown, 0 dropped" in child.output
    assert child.numbers() == list(range(15))
