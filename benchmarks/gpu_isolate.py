"""Steps that run one after the other, each in a process of its own, so that none takes another along.

A crash, an error or a step that hangs is the step's reason; the steps behind it run all the same. As a
program, ``gpu_isolate.py ANSWER`` does the one step that it reads from its standard input.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hasn_edge.errors import HasnEdgeError
from hasn_edge.interrupt import die_with_parent

WAITING, RUNNING, DONE, FAILED, SKIPPED = "waiting", "running", "done", "failed", "skipped"
LIMIT_S = 120.0
"""What a step may take where nothing else is asked for."""
BUILD_LIMIT_S = 300.0
"""What one may take that builds an engine first: TensorRT times every kernel that it knows."""
LEAST_S = 5.0
"""With less time than this left no step begins: starting Python and CUDA alone takes it."""
WORDS = 4000
"""Characters of a message that are kept: compilers state the reason last."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing to do."""

    name: str
    work: Callable[[], dict[str, Any]]
    """Returns plain JSON values. It is pickled for the other process: a function of a module, not of main."""
    limit_s: float = LIMIT_S


def run_steps(
    steps: Sequence[Step],
    *,
    deadline_s: float,
    report: Callable[[list[dict[str, Any]]], None],
    clock: Callable[[], float] = time.monotonic,
) -> list[dict[str, Any]]:
    """Run steps in order, until a deadline.

    Args:
        steps: What to do.
        deadline_s: Seconds from now: a step that is under way then is ended, those behind it are skipped.
        report: Receives all steps before the first one, and before and after each.
        clock: Returns seconds.

    Returns:
        For each step ``name``, ``state`` (one of the above), ``seconds``, ``reason`` and ``result``.
    """
    begin = clock()
    found: list[dict[str, Any]] = [
        {"name": step.name, "state": WAITING, "seconds": None, "reason": None, "result": None}
        for step in steps
    ]
    report(found)
    for step, entry in zip(steps, found, strict=True):
        left = deadline_s - (clock() - begin)
        if left < LEAST_S:
            entry |= {"state": SKIPPED, "reason": "out of time"}
        else:
            entry["state"] = RUNNING
            report(found)
            started = clock()
            entry["result"], reason = run_alone(step, limit_s=min(step.limit_s, left))
            if reason is not None and left < step.limit_s and clock() - begin >= deadline_s:
                reason = f"out of time: {reason}"
            state = DONE if reason is None else FAILED
            entry |= {"state": state, "reason": reason, "seconds": round(clock() - started, 1)}
        report(found)
    return found


def run_alone(step: Step, *, limit_s: float) -> tuple[dict[str, Any] | None, str | None]:
    """Return what a step returned, or ``None`` and why it returned nothing."""
    with tempfile.TemporaryDirectory(prefix="hasn-edge-step-") as folder:
        answer, messages = Path(folder) / "answer.json", Path(folder) / "stderr.txt"
        with messages.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, __file__, str(answer)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # compilers run in processes of their own, which end with this one
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        try:
            process.communicate(pickle.dumps(step.work), timeout=limit_s)
        except subprocess.TimeoutExpired:
            if not answer.exists():
                return None, f"it took longer than {limit_s:.0f} s and was ended"
        finally:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if answer.exists():  # what it frees at its end may crash: the result is here
            result, reason = json.loads(answer.read_text(encoding="utf-8"))
            return result, reason
        last = (messages.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1]
        return None, f"its process ended with exit code {process.returncode}: {last}".rstrip(": ")


def words(exc: BaseException) -> str:
    """Return an error's message as one line, its end where it is very long."""
    text = " ".join(str(exc).split())
    return text if len(text) <= WORDS else "... " + text[-WORDS:]


def main(answer: Path) -> None:
    """Do the step of the standard input and write its result, or the reason, whole."""
    die_with_parent()  # it would go on timing on the GPU, in a session that no Ctrl-C reaches
    try:
        text = json.dumps([pickle.load(sys.stdin.buffer)(), None], allow_nan=False)
    except HasnEdgeError as exc:
        text = json.dumps([None, words(exc)])
    except BaseException as exc:
        text = json.dumps([None, f"{type(exc).__name__}: {words(exc)}"])
    temporary = answer.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(answer)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
