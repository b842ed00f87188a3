"""The compiler's process, seen from the parent: however it ends is one error with its messages."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hasn_edge.engine import worker_process
from hasn_edge.engine.compile import engine_from_onnx
from hasn_edge.engine.target import EngineRuntime, EngineTarget
from hasn_edge.engine.worker_process import ask_python, ask_worker, run_python, run_worker
from hasn_edge.errors import BuildError, OutputError, UnsupportedError
from hasn_edge.hardware.gpu import driver_present
from hasn_edge.progress import Progress, Step, ignore
from tests.support.fake_builder import fake_tensorrt

RTX = EngineTarget(name="test", compute_capabilities=("ampere", "ada", "blackwell"))


class TestTheChild:
    """How the parent takes it when the compiler's process ends in other ways than it should."""

    @pytest.fixture
    def result_of(self, tmp_path: Path) -> Callable[..., dict[str, Any]]:
        def run(code: str, progress: Progress = ignore) -> dict[str, Any]:
            start = (
                "import json, os, signal, sys, time\n"
                "say = lambda **v: print(json.dumps(v), flush=True)\n"
                "def fail(kind, message, *cures):\n"
                "    error = {'kind': kind, 'message': message, 'cures': cures, 'more': {}}\n"
                "    say(event='failed', error=error)\n"
                "    sys.exit(1)\n"
            )
            child = run_worker(tmp_path, [sys.executable, "-c", start + code], progress=progress)
            return child.outcome("TensorRT for RTX")

        return run

    def test_killed_for_memory(self, result_of: Callable[..., Any]) -> None:
        with pytest.raises(
            BuildError, match=r"(?s)9.9 was killed \(SIGKILL\).*ran out of memory.*lower workspace_bytes"
        ) as info:
            result_of(
                "say(event='loaded', title='TensorRT for RTX 9.9')\n"
                "for _ in range(3): say(event='message', severity='WARNING', text='getting large')\n"
                "os.kill(os.getpid(), signal.SIGKILL)"
            )
        assert info.value.message.endswith("its last messages:\n  getting large (3 times)")

    @pytest.mark.slow
    @pytest.mark.skipif(driver_present(), reason="this machine has an NVIDIA driver")
    def test_tensorrt_on_a_machine_without_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt("10.3.0"))
        with pytest.raises(
            UnsupportedError, match="no NVIDIA driver .*or choose a target of TensorRT for RTX"
        ):
            engine_from_onnx(b"", EngineTarget(runtime=EngineRuntime.TENSORRT))

    def test_crashed(self, result_of: Callable[..., Any]) -> None:
        with pytest.raises(BuildError, match=r"TensorRT for RTX crashed \(SIGSEGV\) while it compiled"):
            result_of("os.kill(os.getpid(), signal.SIGSEGV)")

    def test_hung(self, python: Callable[[str], str]) -> None:
        loaded = '{"event": "loaded", "title": "TensorRT 9.9"}'
        child = ask_worker(python=python(f"echo '{loaded}'; exec sleep 60"), limit_s=0.3)
        with pytest.raises(BuildError, match=r"^TensorRT 9\.9 did not answer within 0\.3 s") as info:
            child.outcome("TensorRT")
        assert "restart the device" in info.value.cures[1].text
        assert "memory" not in info.value.message

    def test_one_that_no_signal_ends_is_left_alone(
        self, python: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As one that waits for the driver: here another process holds the pipe open."""
        monkeypatch.setattr(worker_process, "_GRACE_S", 0.1)
        script = f"sleep 20 & echo $! > {tmp_path / 'pid'}; wait"
        child = ask_worker(python=python(script), limit_s=0.3)
        os.kill(int((tmp_path / "pid").read_text()), 9)  # it is still there
        with pytest.raises(BuildError, match=r"^TensorRT did not answer within 0\.3 s and was stopped"):
            child.outcome("TensorRT")

    def test_hung_after_it_failed(self, python: Callable[[str], str]) -> None:
        error = {"kind": "BuildError", "message": "the reason", "cures": [], "more": {}}
        failed = json.dumps({"event": "failed", "error": error})
        child = ask_worker(python=python(f"echo '{failed}'; exec sleep 60"), limit_s=0.3)
        with pytest.raises(BuildError, match="^the reason"):
            child.outcome("TensorRT")

    def test_stopped_with_words_on_stderr(self, result_of: Callable[..., Any]) -> None:
        with pytest.raises(
            BuildError, match="exit code 1 before it was done; .*:\n  some library: cannot go"
        ):
            result_of("sys.exit('some library: cannot go on')")

    def test_a_plan_that_is_none(self, result_of: Callable[..., Any]) -> None:
        with pytest.raises(BuildError, match="could not compile; messages of .*:\n  line one\n    line two$"):
            result_of(
                "say(event='message', severity='ERROR', text='line one\\nline two')\n"
                "fail('BuildError', 'could not compile')"
            )

    @pytest.mark.parametrize(
        "text",
        [
            "Unexpected exception std::bad_alloc",
            "Error Code 2: OutOfMemory (Requested size was 1 bytes.)",
            "Error Code 1: Cuda Runtime (out of memory)",
            "Skipping tactic 3 due to insufficient memory on requested size of 5 detected for tactic 4.",
            "UNSUPPORTED_STATE: Skipping tactic 0 due to insufficient workspace",
            "Error Code 10: Internal Error (Could not find any implementation for node {ForeignNode[a]}.)",
            "NvMapMemAllocInternalTagged: 1075072515 error 12",
            "Requested amount of GPU memory (1375731712 bytes) could not be allocated.",
        ],
    )
    def test_memory_that_ran_out_inside_the_compiler(self, result_of: Callable[..., Any], text: str) -> None:
        with pytest.raises(
            BuildError,
            match=rf"(?s)the graph: memory did not suffice; .*:\n  {re.escape(text)}\nWhat helps: free some",
        ):
            result_of(
                f"say(event='message', severity='ERROR', text={text!r})\n"
                "fail('BuildError', 'could not compile the graph')"
            )

    def test_a_disk_without_room(
        self, result_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        cure = {"action": "say", "text": "make some"}
        with pytest.raises(OutputError, match="^no room; make some$"):
            result_of(f"fail('OutputError', 'no room', {cure})")
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt("rtx 1.7.1.116"))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
        with pytest.raises(OutputError, match="temporary files in .*absent.*set TMPDIR"):
            engine_from_onnx(b"", RTX)

    def test_a_caller_that_gives_up_takes_the_child_along(
        self, result_of: Callable[..., Any], tmp_path: Path
    ) -> None:
        def give_up(step: Step) -> None:
            raise KeyboardInterrupt

        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            result_of(
                "open('pid', 'w').write(str(os.getpid()))\n"
                "say(event='step', phase='a', done=0, steps=1)\ntime.sleep(60)",
                give_up,
            )
        assert time.monotonic() - started < 30
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


def test_python_of_its_own_has_the_users_packages_and_says_what_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works in another folder, and a system's own encoding may not be UTF-8: it is not on Windows."""
    monkeypatch.chdir(tmp_path)
    Path("site").mkdir()
    Path("site/of_the_user.py").write_text("WORDS = 'Le module spécifié est introuvable'", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", "site")
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    code = "import sys, of_the_user; print(of_the_user.WORDS); sys.exit(of_the_user.WORDS)"
    words = "Le module spécifié est introuvable\n"
    assert run_python("-c", code, limit_s=60) == (1, words, words, False)


def test_messages_go_to_the_log_by_severity_and_all_but_the_most_detailed_are_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = worker_process.WorkerProcess()
    worker_process.log.addHandler(caplog.handler)  # the command line may have ended propagation
    caplog.set_level(logging.DEBUG, logger=worker_process.log.name)
    try:
        for severity, text in (("WARNING", "slow"), ("INFO", "parsing"), ("VERBOSE", "tactic 1")):
            event = {"event": "message", "severity": severity, "text": text}
            worker.on_event(json.dumps(event), ignore)
    finally:
        worker_process.log.removeHandler(caplog.handler)
    logged = dict.fromkeys((record.levelno, record.getMessage()) for record in caplog.records)
    assert list(logged) == [
        (logging.INFO, "warning: slow"),
        (logging.INFO, "parsing"),
        (logging.DEBUG, "tactic 1"),
    ]
    assert list(worker.messages) == [("WARNING", "slow"), ("INFO", "parsing")]


def test_an_answer_is_found_among_what_libraries_print(tmp_path, monkeypatch):
    (tmp_path / "noisy.py").write_text(
        "from hasn_edge.engine.worker_process import answer\n"
        "print('a driver says hello', end='')\n"
        "answer(lambda: {'ms': [1.5]})\n"
        "print('and goes', end='')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = ask_python("noisy", work="measured", late="nothing was measured", limit_s=60)
    assert found == {"ms": [1.5]}
