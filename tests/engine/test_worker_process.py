"""The compiler's process, seen from the parent: however it ends is one error with its messages."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

import pytest

from hasn_edge.engine import capabilities, worker_process
from hasn_edge.engine import compile as compile_module
from hasn_edge.engine.compile import engine_from_onnx
from hasn_edge.engine.target import EngineRuntime, EngineTarget
from hasn_edge.errors import BuildError, OutputError, UnsupportedError
from hasn_edge.progress import Step

RTX = EngineTarget(name="test", compute_capabilities=("ampere", "ada", "blackwell"))


class TestTheChild:
    """How the parent takes it when the compiler's process ends in other ways than it should."""

    @pytest.fixture(autouse=True)
    def _compiler_present(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compile_module, "find_module", lambda runtime: "any")

    def child(self, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
        code = (
            f"import json, os, signal, sys, time\nsay = lambda **v: print(json.dumps(v), flush=True)\n{code}"
        )
        monkeypatch.setattr(
            worker_process, "command", lambda *arguments: [sys.executable, "-c", code, *arguments]
        )

    def test_killed_for_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.child(
            monkeypatch,
            "say(event='loaded', title='TensorRT for RTX 9.9')\n"
            "for _ in range(3): say(event='message', severity='WARNING', text='getting large')\n"
            "os.kill(os.getpid(), signal.SIGKILL)",
        )
        with pytest.raises(
            BuildError, match=r"(?s)9.9 was killed \(SIGKILL\).*ran out of memory.*lower workspace_bytes"
        ) as info:
            engine_from_onnx(b"", RTX)
        assert info.value.message.endswith("its last messages:\n  getting large (3 times)")

    @pytest.mark.skipif(capabilities.driver_present(), reason="this machine has an NVIDIA driver")
    def test_tensorrt_on_a_machine_without_a_gpu(self) -> None:
        with pytest.raises(
            UnsupportedError, match="no NVIDIA driver .*or choose a target of TensorRT for RTX"
        ):
            engine_from_onnx(b"", EngineTarget(runtime=EngineRuntime.TENSORRT))

    def test_crashed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.child(monkeypatch, "os.kill(os.getpid(), signal.SIGSEGV)")
        with pytest.raises(BuildError, match=r"TensorRT for RTX crashed \(SIGSEGV\) while it compiled"):
            engine_from_onnx(b"", RTX)

    def test_stopped_with_words_on_stderr(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.child(monkeypatch, "sys.exit('some library: cannot go on')")
        with pytest.raises(
            BuildError, match="exit code 1 before it was done; .*:\n  some library: cannot go"
        ):
            engine_from_onnx(b"", RTX)

    def test_a_plan_that_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.child(
            monkeypatch,
            "say(event='message', severity='ERROR', text='line one\\nline two')\n"
            "say(event='failed', kind='BuildError', text='could not compile', cures=[])\nsys.exit(1)",
        )
        with pytest.raises(BuildError, match="could not compile; messages of .*:\n  line one\n    line two$"):
            engine_from_onnx(b"", RTX)

    def test_memory_that_ran_out_inside_the_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.child(
            monkeypatch,
            "say(event='message', severity='ERROR', text='Unexpected exception std::bad_alloc')\n"
            "say(event='failed', kind='BuildError', text='could not compile the graph', cures=[])\n"
            "sys.exit(1)",
        )
        with pytest.raises(
            BuildError,
            match=r"(?s)the graph: it ran out of memory; .*:\n  Unexpected.*bad_alloc\nWhat helps: free some",
        ):
            engine_from_onnx(b"", RTX)

    def test_a_disk_without_room(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        cure = {"action": "say", "text": "make some"}
        self.child(
            monkeypatch,
            f"say(event='failed', kind='OutputError', text='no room', cures=[{cure}])\nsys.exit(1)",
        )
        with pytest.raises(OutputError, match="^no room; make some$"):
            engine_from_onnx(b"", RTX)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
        with pytest.raises(OutputError, match="temporary files in .*absent.*set TMPDIR"):
            engine_from_onnx(b"", RTX)

    def test_a_caller_that_gives_up_takes_the_child_along(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.child(
            monkeypatch,
            f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
            "say(event='step', phase='a', done=0, steps=1)\ntime.sleep(60)",
        )

        def give_up(step: Step) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            engine_from_onnx(b"", RTX, progress=give_up)
        assert time.monotonic() - started < 30
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)
        assert [path.name for path in tmp_path.iterdir()] == ["pid"]


def test_messages_go_to_the_log_by_severity_and_all_but_the_most_detailed_are_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = worker_process.WorkerProcess()
    worker_process.log.addHandler(caplog.handler)  # the command line may have ended propagation
    caplog.set_level(logging.DEBUG, logger=worker_process.log.name)
    try:
        for severity, text in (("WARNING", "slow"), ("INFO", "parsing"), ("VERBOSE", "tactic 1")):
            event = {"event": "message", "severity": severity, "text": text}
            worker.on_event(json.dumps(event), worker_process.ignore)
    finally:
        worker_process.log.removeHandler(caplog.handler)
    logged = dict.fromkeys((record.levelno, record.getMessage()) for record in caplog.records)
    assert list(logged) == [
        (logging.INFO, "warning: slow"),
        (logging.INFO, "parsing"),
        (logging.DEBUG, "tactic 1"),
    ]
    assert list(worker.messages) == [("WARNING", "slow"), ("INFO", "parsing")]
