"""An engine from an ONNX graph: the compiler runs in a child process, and however that ends is an answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from hasn_edge.engine.capabilities import NAMES, find_module
from hasn_edge.engine.engine_file import PlanHeader, parse_plan_header
from hasn_edge.engine.target import EngineTarget
from hasn_edge.errors import BuildError, HasnEdgeError, OutputError, UnsupportedError

Progress = Callable[[str, int, int], None]
"""Called with the compiler's phase, its steps done and its steps in all."""

_ERRORS: Mapping[str, type[HasnEdgeError]] = {
    "UnsupportedError": UnsupportedError,
    "OutputError": OutputError,
    "BuildError": BuildError,
}
_KEPT_MESSAGES = 40
_NO_DRIVER = "[checkMacros.cpp::catchCudaError"
"""TensorRT for RTX adds this on a machine without a GPU when anything fails; it is never the reason."""

_MEMORY_CURE = (
    "free some, lower workspace_bytes, the maximum shape or optimization_level in the target, or add swap"
)


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A compiled plan and what is known about it."""

    plan: bytes
    """A plain TensorRT plan, nothing added: other tools load it too."""
    target: EngineTarget
    header: PlanHeader
    made_by: Mapping[str, str]
    """Name and version of the compiler, for a sidecar."""
    warnings: tuple[str, ...]
    """What the compiler warned of, each text once."""
    seconds: float
    """Wall-clock time of the build, the child's start included."""
    facts: Mapping[str, Any] = field(repr=False)
    """Inputs, outputs, layer counts, profile and flags, as plain JSON values."""

    def details(self) -> dict[str, Any]:
        """Return what belongs into the engine's sidecar, as plain JSON values.

        ``size`` is there for a static engine only, as :attr:`hasn_edge.artifact.Artifact.size` expects.
        """
        size = self.target.shapes.size
        return {
            **({"size": list(size)} if size else {}),
            "target": self.target.name,
            "runtime": self.target.runtime.value,
            "version": self.header.version_text,
            "compute_capabilities": list(self.target.compute_capabilities),
            **self.facts,
            "warnings": list(self.warnings),
        }


def engine_from_onnx(onnx: bytes, target: EngineTarget, *, progress: Progress | None = None) -> BuiltEngine:
    """Compile an ONNX graph for ``target``.

    The compiler runs in a process of its own, so a crash of it, or the system killing it for memory, is an
    error here and not the end of this program. TensorRT for RTX needs no GPU.

    Args:
        onnx: The serialized strong artefact: opset 20, types and Q/DQ as the engine shall have them.
        target: What to build for.
        progress: Called from this thread while the compiler works.

    Raises:
        MissingDependencyError: TensorRT is not installed.
        UnsupportedError: this TensorRT cannot build for the target, or the graph's fixed size is another.
        BuildError: the compiler refused, crashed or was killed; carries its messages.
        OutputError: no room for the temporary files.
    """
    if target.runtime not in NAMES:
        raise UnsupportedError(
            f"the target {target.name!r} has no engine: its runtime, {target.runtime.value!r}, takes the "
            "graph itself; choose a target of TensorRT, such as 'rtx'"
        )
    find_module(target.runtime)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="hasn-edge-build-") as name:
            folder = Path(name)
            (folder / "model.onnx").write_bytes(onnx)
            (folder / "target.json").write_bytes(msgspec.json.encode(target))
            conversation = _converse(folder, progress or (lambda phase, done, steps: None))
            facts = conversation.outcome(target)
            plan = (folder / "engine.plan").read_bytes()
    except OSError as exc:
        raise OutputError(
            f"cannot keep the build's temporary files in {tempfile.gettempdir()}: {exc.strerror or exc}; "
            "free some space there, or set TMPDIR to another folder"
        ) from exc
    header = parse_plan_header(plan, file_bytes=len(plan), name=f"the plan for target {target.name!r}")
    return BuiltEngine(
        plan=plan,
        target=target,
        header=header,
        made_by={NAMES[target.runtime]: header.version_text},
        warnings=tuple(conversation.texts("WARNING")),
        seconds=time.monotonic() - started,
        facts=facts,
    )


@dataclass
class _Conversation:
    """What the child process said, and how it ended."""

    title: str = ""
    messages: dict[tuple[str, str], int] = field(default_factory=dict)
    """(severity, text) and how often, in order of first appearance."""
    failed: tuple[str, str] | None = None
    facts: dict[str, Any] | None = None
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
            self.failed = (values["kind"], values["text"])
        elif event == "done":
            self.facts = values["facts"]

    def texts(self, *severities: str) -> list[str]:
        """Return the messages of these severities, each once, the last ones."""
        found = [
            text if count == 1 else f"{text} ({count} times)"
            for (severity, text), count in self.messages.items()
            if severity in severities
        ]
        return found[-_KEPT_MESSAGES:]

    def outcome(self, target: EngineTarget) -> dict[str, Any]:
        """Return the facts of a finished build; raise the error of a failed one."""
        title = self.title or NAMES[target.runtime]
        if self.failed is not None:
            kind, text = self.failed
            lines = [line for line in text.splitlines() if _NO_DRIVER not in line]
            said = self.texts("INTERNAL_ERROR", "ERROR", "WARNING")
            if any("bad_alloc" in message for message in said):
                lines[-1] += f": it ran out of memory; {_MEMORY_CURE}"
            if len(lines) > 1:  # the parser's errors are in the text; its log says them again
                known = {line.strip() for line in lines}
                said = [m for m in said if not m.startswith("ModelImporter.cpp") and m not in known]
                said = [m for m in said if _NO_DRIVER not in m]
            raise _ERRORS.get(kind, BuildError)(
                _with_messages("\n".join(lines), f"messages of {title}", said)
            )
        if self.facts is not None and self.returncode == 0:
            return self.facts
        said = self.texts("INTERNAL_ERROR", "ERROR", "WARNING", "INFO")[-10:]
        said += self.stderr.strip().splitlines()[-15:]
        raise BuildError(_with_messages(f"{title} {_ending(self.returncode)}", "the last that it said", said))


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
            "was killed (SIGKILL) while it compiled: the system most likely ran out of memory; "
            f"{_MEMORY_CURE}"
        )
    return (
        f"crashed ({name}) while it compiled, which it also does when memory runs out; a smaller maximum "
        "shape or optimization_level may avoid it"
    )


def _converse(folder: Path, progress: Progress) -> _Conversation:
    """Run the worker on ``folder`` and listen until it ends."""
    conversation = _Conversation()
    with (
        (folder / "stderr.txt").open("w+b") as stderr,
        subprocess.Popen(
            _command(folder),
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


def _command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "hasn_edge.engine.worker", str(folder)]


def _environment() -> dict[str, str]:
    """Let the child import this very package, also from a checkout that is not installed."""
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parents[2])
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        paths = [root, *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment
