"""The compiler's process, seen from the parent: started, listened to, and understood however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hasn_edge.errors import BuildError, HasnEdgeError, MissingDependencyError, OutputError, UnsupportedError

Progress = Callable[[str, int, int], None]
"""Called with the compiler's phase, its steps done and its steps in all."""

MEMORY_CURE = (
    "free some, lower workspace_bytes, the maximum shape or optimization_level in the target, or add swap"
)

_ERRORS: Mapping[str, type[HasnEdgeError]] = {
    "UnsupportedError": UnsupportedError,
    "OutputError": OutputError,
    "BuildError": BuildError,
}
_KEPT_MESSAGES = 40
_NO_DRIVER = "[checkMacros.cpp::catchCudaError"
"""TensorRT for RTX adds this on a machine without a GPU when anything fails; it is never the reason."""


@dataclass
class Conversation:
    """What the child process said, and how it ended."""

    title: str = ""
    messages: dict[tuple[str, str], int] = field(default_factory=dict)
    """(severity, text) and how often, in order of first appearance."""
    failed: Mapping[str, Any] | None = None
    result: dict[str, Any] | None = None
    returncode: int = 0
    stderr: str = ""

    def hear(self, line: str, progress: Progress) -> None:
        """Take in one line of the child's output."""
        values = json.loads(line)
        event = values["event"]
        if event == "loaded":
            self.title = values["title"]
        elif event == "message":
            key = (values["severity"], values["text"])
            self.messages[key] = self.messages.get(key, 0) + 1
        elif event == "step":
            progress(values["phase"], values["done"], values["steps"])
        elif event == "failed":
            self.failed = values
        elif event == "done":
            self.result = values["result"]

    def texts(self, *severities: str) -> list[str]:
        """Return the messages of these severities, each once, the last ones."""
        found = [
            text if count == 1 else f"{text} ({count} times)"
            for (severity, text), count in self.messages.items()
            if severity in severities
        ]
        return found[-_KEPT_MESSAGES:]

    def outcome(self, title: str) -> dict[str, Any]:
        """Return what a child that finished its work left; raise the error of one that did not.

        Args:
            title: What to call the compiler where the child did not come to say so.
        """
        title = self.title or title
        if self.failed is not None:
            raise self._error(title, self.failed)
        if self.result is not None and self.returncode == 0:
            return self.result
        said = self.texts("INTERNAL_ERROR", "ERROR", "WARNING", "INFO")[-10:]
        said += self.stderr.strip().splitlines()[-15:]
        raise BuildError(_with_messages(f"{title} {_ending(self.returncode)}", "the last that it said", said))

    def _error(self, title: str, failed: Mapping[str, Any]) -> HasnEdgeError:
        if failed["kind"] == "MissingDependencyError":
            return MissingDependencyError(**failed["arguments"])
        lines = [line for line in failed["text"].splitlines() if _NO_DRIVER not in line]
        said = self.texts("INTERNAL_ERROR", "ERROR", "WARNING")
        if any("bad_alloc" in message or "OutOfMemory" in message for message in said):
            lines[-1] += f": it ran out of memory; {MEMORY_CURE}"
        if len(lines) > 1:  # the parser's errors are in the text; its log says them again
            known = {line.strip() for line in lines}
            said = [m for m in said if not m.startswith("ModelImporter.cpp") and m not in known]
            said = [m for m in said if _NO_DRIVER not in m]
        kind = _ERRORS.get(failed["kind"], BuildError)
        return kind(_with_messages("\n".join(lines), f"messages of {title}", said))


def converse(
    folder: Path, *arguments: str, progress: Progress = lambda phase, done, steps: None
) -> Conversation:
    """Run the worker in ``folder`` with ``arguments`` and listen until it ends.

    The child dies with this call: Ctrl-C, or an exception out of ``progress``, kills it.
    """
    conversation = Conversation()
    with (
        (folder / "stderr.txt").open("w+b") as stderr,
        subprocess.Popen(
            command(*arguments),
            cwd=folder,  # not the user's: a tensorrt.py there would be imported
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
        ) as child,
    ):
        try:
            assert child.stdout is not None
            for line in child.stdout:
                conversation.hear(line, progress)
        except BaseException:  # Ctrl-C, or the caller's progress function: the child must not outlive this
            child.kill()
            raise
        conversation.returncode = child.wait()
        stderr.seek(0)
        conversation.stderr = stderr.read().decode("utf-8", errors="replace")
    return conversation


def command(*arguments: str) -> list[str]:
    """Return the command line of the worker."""
    return [sys.executable, "-m", "hasn_edge.engine.worker", *arguments]


def _with_messages(text: str, title: str, messages: list[str]) -> str:
    """Put messages below a text, indented."""
    if not messages:
        return text
    joint = "\n  " if "\n" in text else "; "
    return "\n  ".join([f"{text}{joint}{title}:", *(m.replace("\n", "\n    ") for m in messages)])


def _ending(returncode: int) -> str:
    """Say how the compiler's process ended."""
    if returncode >= 0:
        return f"stopped with exit code {returncode} before it was done"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    if name == "SIGKILL":
        return (
            f"was killed (SIGKILL) while it compiled: the system most likely ran out of memory; {MEMORY_CURE}"
        )
    return (
        f"crashed ({name}) while it compiled, which it also does when memory runs out; a smaller maximum "
        "shape or optimization_level may avoid it"
    )


def _environment() -> dict[str, str]:
    """Let the child import this very package, also from a checkout that is not installed."""
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parents[2])
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        paths = [root, *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment
