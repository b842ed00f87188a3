"""The compiler's process, seen from the parent: what it is asked, what it reports, and how it ends."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from hasn_edge.engine.messages import means_no_memory
from hasn_edge.engine.target import EngineTarget
from hasn_edge.errors import (
    BuildError,
    Cure,
    HasnEdgeError,
    MissingDependencyError,
    OutputError,
    ShapeError,
    error_from_values,
    error_to_values,
    say,
)
from hasn_edge.images.arrays import Float32
from hasn_edge.progress import Progress, Step, ignore
from hasn_edge.sidecar import KernelRecord
from hasn_edge.spec import Precision

log = logging.getLogger(__name__)

GRAPH, PLAN, TIMING, CALIBRATION = "model.onnx", "engine.plan", "timing.cache", "calibration.cache"
"""Names in the build folder: what comes in, and what the compiler leaves."""

MORE_MEMORY = say(
    "free some memory, lower workspace_bytes, the maximum shape or optimization_level in the target, or add "
    "swap"
)

ANSWER_S = 600.0
"""After so long a process that compiles nothing has to have ended: what only loads TensorRT or an engine
takes seconds, and a minute on a slow board."""

NO_ANSWER = (
    say("end other programs that use the GPU"),
    say("restart the device, whose driver may hang"),
)
"""What helps where it does not end."""

_GRACE_S = 5.0
"""How long a process that was killed is waited for."""
WORKER = ("-m", "hasn_edge.engine.worker")
"""Python's arguments that start the worker."""
_REQUEST = "request.json"
_VERBOSE = "VERBOSE"
_KEPT_MESSAGES = 40
_NO_DRIVER = "[checkMacros.cpp::catchCudaError"
"""TensorRT for RTX adds this on a machine without a GPU when anything fails; it is never the reason."""


@dataclass(frozen=True, kw_only=True)
class CalibratorInput:
    """Images for TensorRT's own entropy calibrator, the legacy method."""

    batches: Iterable[Float32]
    """float32 ``(N, 3, H, W)`` RGB in [0, 1], all of one shape; the graph's, where that is static."""
    fingerprint: str
    """Hash of the images: a calibration is kept and found again by it."""
    float_layers: tuple[str, ...] = ()
    """Names of convolutions that stay in FP16, as a recipe's ``keep_float`` chose them."""


@dataclass(frozen=True, kw_only=True)
class CalibrationFiles:
    """The images of a :class:`CalibratorInput` in the build folder."""

    fingerprint: str
    count: int
    shape: tuple[int, int, int, int]
    float_layers: tuple[str, ...]

    @classmethod
    def write(cls, calibrator: CalibratorInput, folder: Path) -> CalibrationFiles:
        """Write a calibrator's images for the child.

        Raises:
            ShapeError: no image, another type or rank than float32 ``(N, C, H, W)``, or several shapes.
        """
        shape: tuple[int, ...] | None = None
        count = 0
        for count, batch in enumerate(calibrator.batches, start=1):
            if batch.dtype != np.float32 or batch.ndim != 4:
                raise ShapeError(
                    f"calibration batch {count} is {batch.dtype} of shape {batch.shape}; expected float32 "
                    "(N, C, H, W)"
                )
            shape = shape or batch.shape
            if batch.shape != shape:
                raise ShapeError(
                    f"calibration batch {count} has shape {batch.shape}, the first one {shape}, and "
                    "TensorRT's calibrator takes one shape only",
                    say("cut the images to one size"),
                )
            np.save(_batch(folder, count - 1), np.ascontiguousarray(batch))
        if shape is None:
            raise ShapeError("there is no image to calibrate on", say("give the calibrator at least one"))
        return cls(
            fingerprint=calibrator.fingerprint,
            count=count,
            shape=(shape[0], shape[1], shape[2], shape[3]),
            float_layers=calibrator.float_layers,
        )

    def read(self, folder: Path) -> Iterator[Float32]:
        """Yield the batches in order."""
        for index in range(self.count):
            yield np.load(_batch(folder, index), allow_pickle=False)


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """All that the compiler gets beside the graph, as a file in the build folder."""

    target: EngineTarget
    precision: Precision | None
    """``None``: as the graph states it."""
    cache: str | None
    """Folder of timings and calibrations to start from."""
    calibration: CalibrationFiles | None
    verbose: bool = False
    """Whether TensorRT's most detailed messages are wanted as well: tens of thousands."""

    def write(self, folder: Path) -> None:
        """Write the request for the child."""
        (folder / _REQUEST).write_bytes(msgspec.json.encode(self))

    @classmethod
    def read(cls, folder: Path) -> BuildRequest:
        """Read what the parent wrote."""
        return msgspec.json.decode((folder / _REQUEST).read_bytes(), type=cls)


@dataclass
class WorkerProcess:
    """What the child process reported, and how it ended."""

    title: str = ""
    messages: dict[tuple[str, str], int] = field(default_factory=dict)
    """(severity, text) and how often, in order of first appearance."""
    failed: HasnEdgeError | None = None
    result: dict[str, Any] | None = None
    kernels: KernelRecord | None = None
    """What :func:`hasn_edge.engine.kernels.describe_kernels` returned in the child."""
    unverified: tuple[str, ...] = ()
    """Layers that shall compute in FP32, and may not."""
    returncode: int = 0
    stderr: str = ""

    def on_event(self, line: str, progress: Progress) -> None:
        """Take in one line of the child's output."""
        values = json.loads(line)
        event = values["event"]
        if event == "loaded":
            self.title = values["title"]
        elif event == "message":
            self._on_message(values["severity"], values["text"])
        elif event == "step":
            progress(Step(values["phase"], values["done"], values["steps"]))
        elif event == "failed":
            self.failed = error_from_values(values["error"])
        elif event == "done":
            self.result = values["result"]
        elif event == "kernels":
            self.kernels = msgspec.convert(values["kernels"], KernelRecord)
            self.unverified = tuple(values["unverified"])

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
            title: What to call the compiler where the child did not come to name it.
        """
        title = self.title or title
        if self.failed is not None:
            raise self._error(title, self.failed)
        if self.result is not None:
            if self.returncode != 0:
                log.info("%s ended afterwards, while it loaded what it made: %s", title, self.stderr.strip())
            return self.result
        last = self.texts("INTERNAL_ERROR", "ERROR", "WARNING", "INFO")[-10:]
        last += self.stderr.strip().splitlines()[-15:]
        text, cure = _ending(self.returncode)
        raise BuildError(_with_messages(f"{title} {text}", "its last messages", last), *cure)

    def _on_message(self, severity: str, text: str) -> None:
        prefix = "" if severity in ("INFO", _VERBOSE) else f"{severity.lower()}: "
        log.log(logging.DEBUG if severity == _VERBOSE else logging.INFO, "%s%s", prefix, text)
        if severity != _VERBOSE:
            self.messages[severity, text] = self.messages.get((severity, text), 0) + 1

    def _error(self, title: str, failed: HasnEdgeError) -> HasnEdgeError:
        if isinstance(failed, MissingDependencyError):
            return failed
        lines = [line for line in failed.message.splitlines() if _NO_DRIVER not in line]
        cures = list(failed.cures)
        found = self.texts("INTERNAL_ERROR", "ERROR", "WARNING")
        if any(map(means_no_memory, (*lines, *found))):
            lines[-1] += ": memory did not suffice"
            cures.append(MORE_MEMORY)
        if len(lines) > 1:  # the parser's errors are in the text; its log has them again
            known = {line.strip() for line in lines}
            found = [m for m in found if not m.startswith("ModelImporter.cpp") and m not in known]
            found = [m for m in found if _NO_DRIVER not in m]
        return type(failed)(_with_messages("\n".join(lines), f"messages of {title}", found), *cures)


def run_worker(folder: Path, command: Sequence[str], *, progress: Progress = ignore) -> WorkerProcess:
    """Run the worker in ``folder`` and take in its events until it ends: compiling may take hours.

    The child dies with this call: Ctrl-C, or an exception out of ``progress``, kills it.

    Args:
        folder: Where it works.
        command: The whole command, with :data:`WORKER` and ``folder``.
        progress: Receives its steps.
    """
    worker = WorkerProcess()
    with (folder / "stderr.txt").open("w+b") as stderr:
        child = subprocess.Popen(
            command,
            cwd=folder,  # not the user's: a tensorrt.py there would be imported
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
        )
        with child:
            try:
                assert child.stdout is not None
                for line in child.stdout:
                    worker.on_event(line, progress)
            except BaseException:  # Ctrl-C, or the caller's progress function: it must not outlive this
                child.kill()
                raise
        worker.returncode = child.returncode
        stderr.seek(0)
        worker.stderr = stderr.read().decode("utf-8", errors="replace")
    return worker


def ask_worker(*arguments: str, limit_s: float = ANSWER_S, python: str = sys.executable) -> WorkerProcess:
    """Run the worker for an answer, without compiling; one that is late has failed.

    Args:
        arguments: Of the worker.
        limit_s: As for :func:`run_python`, like ``python``.
        python: The interpreter.
    """
    worker = WorkerProcess()
    ended = run_python(*WORKER, *arguments, limit_s=limit_s, python=python)
    for line in ended.output.split("\n")[:-1]:  # the last one is empty, or cut
        worker.on_event(line, ignore)
    if ended.late and worker.result is None and worker.failed is None:
        text = f"{worker.title or 'TensorRT'} did not answer within {limit_s:g} s and was stopped"
        worker.failed = BuildError(text, *NO_ANSWER)
    worker.returncode, worker.stderr = ended.code or 0, ended.errors
    return worker


class Ended(NamedTuple):
    """How a process of Python's ended."""

    code: int | None
    """Its exit code; ``None`` of one that no signal ends."""
    output: str
    errors: str
    late: bool
    """Whether it was killed for its time."""


def run_python(*arguments: str, limit_s: float, python: str = sys.executable) -> Ended:
    """Run Python in a process of its own, which may crash, hang or be killed; this very package is there.

    It is killed after ``limit_s`` seconds, or with what is raised here, such as Ctrl-C. One that waits for a
    driver that hangs survives even that: it is left alone, and what it wrote is lost.

    Args:
        arguments: Of the interpreter. The current folder is another one: paths are absolute.
        limit_s: Seconds.
        python: The interpreter.

    Raises:
        BuildError: it does not start.
    """
    try:
        child = subprocess.Popen(
            [python, *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            encoding="utf-8", errors="replace", env=child_environment(),
            cwd="/",  # not the user's: a tensorrt.py there would be imported
        )  # fmt: skip
    except OSError as exc:
        raise BuildError(f"{python} could not be started: {exc.strerror}") from exc
    output, late = ("", ""), False
    try:
        output = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        late = True
    finally:
        if child.returncode is None:
            child.kill()
            try:
                output = child.communicate(timeout=_GRACE_S)
            except subprocess.TimeoutExpired:
                child.poll()
                for pipe in filter(None, (child.stdout, child.stderr)):
                    pipe.close()
    return Ended(child.returncode, *output, late)


def ask_python(
    module: str, *arguments: str, work: str, late: str, limit_s: float, python: str = sys.executable
) -> Any:
    """Return what a module of ours answers by :func:`answer` in a process of its own; raise its error.

    Args:
        module: Its name.
        arguments: As for :func:`run_python`, like ``limit_s`` and ``python``.
        work: What the process did, for messages: ``"started CUDA"``.
        late: What had not happened in time: ``"CUDA did not start"``.
        limit_s: Seconds.
        python: The interpreter.

    Raises:
        BuildError: the process does not start, crashed, or did not end in time.
        HasnEdgeError: what the module raised.
    """
    ended = run_python("-m", module, *arguments, limit_s=limit_s, python=python)
    if ended.late:
        raise BuildError(f"{late} within {limit_s:g} s", *NO_ANSWER)
    # Libraries write there too, before and behind it.
    answers = [line for line in ended.output.splitlines() if line.startswith(('{"answer"', '{"error"'))]
    try:
        found = json.loads(answers[-1])
    except (ValueError, IndexError):
        last = (ended.errors.strip().splitlines() or ["it said nothing"])[-1]
        raise BuildError(f"the process that {work} ended with exit code {ended.code}: {last}") from None
    if "error" in found:
        raise error_from_values(found["error"])
    return found["answer"]


def answer(work: Callable[[], Any]) -> None:
    """Print for :func:`ask_python` what ``work`` returns, plain JSON values, or how it failed."""
    try:
        found = {"answer": work()}
    except HasnEdgeError as exc:
        found = {"error": error_to_values(exc)}
    sys.stdout.write(f"\n{json.dumps(found)}\n")


def no_room(exc: OSError) -> OutputError:
    """Return the error for temporary files that cannot be kept."""
    return OutputError(
        f"cannot keep the build's temporary files in {tempfile.gettempdir()}: {exc.strerror or exc}",
        say("free some space there"),
        say("set TMPDIR to another folder"),
    )


def _batch(folder: Path, index: int) -> Path:
    return folder / f"batch-{index:05}.npy"


def _with_messages(text: str, title: str, messages: list[str]) -> str:
    """Put messages below a text, indented."""
    if not messages:
        return text
    joint = "\n  " if "\n" in text else "; "
    return "\n  ".join([f"{text}{joint}{title}:", *(m.replace("\n", "\n    ") for m in messages)])


def _ending(returncode: int) -> tuple[str, list[Cure]]:
    """Return how the compiler's process ended, and what helps."""
    if returncode >= 0:
        return f"stopped with exit code {returncode} before it was done", []
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    if name == "SIGKILL":
        cause = "the system most likely ran out of memory"
        return f"was killed (SIGKILL) while it compiled: {cause}", [MORE_MEMORY]
    return (
        f"crashed ({name}) while it compiled, which it also does when memory runs out",
        [say("choose a smaller maximum shape or optimization_level in the target")],
    )


def child_environment() -> dict[str, str]:
    """Let the child import what is found here, also this very package from a checkout that is not installed.

    Folders of ``PYTHONPATH`` are made absolute, for it works in another one, and it writes UTF-8, as its
    parent reads: a system's own encoding, as on Windows, may be another.
    """
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    given = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    paths = [str(Path(path).absolute()) for path in given]
    root = str(Path(__file__).resolve().parents[2])
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        paths.insert(0, root)
    if paths:
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment
