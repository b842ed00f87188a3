"""Every exception that hasn-edge raises on purpose.

```
HasnEdgeError                  the user's situation; the command line prints it and exits with 1
├── InputError                 an image, folder or value that cannot be used
│   ├── ShapeError             an array or tensor of the wrong rank, size or dtype
│   └── OutOfMemoryError       an input for which memory does not suffice; smaller ones may do
├── ConfigError                a recipe or target file: unknown key, wrong type, value out of range
├── CheckpointError            a weights file that is broken, unsafe or of another network
├── ArtifactError              a built file that is missing, changed, stale or made for another device
├── MissingDependencyError     an optional package is not installed; names the extra
├── UnsupportedError           asked for something that this version, backend or rule cannot do exactly
│   └── NoCudaError            no Python package for CUDA works here, so that no engine runs
├── BuildError                 a compiler (TensorRT, ONNX Runtime) refused; carries its messages whole
├── OutputError                a file could not be written: folder, permission, full disk
├── SourceError                a camera, stream or video that cannot be opened or was lost
├── StageError                 a stage of the live pipeline failed: its name and the cause's message
└── VerificationError          a quality budget was missed; the command line exits with 3
```

A message names the thing, what came and what was expected. What helps goes with it as :class:`Cure` objects,
which the command line writes as commands and options, and Python as calls and arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

_FUNCTIONS = {
    "build": "build",
    "export": "export",
    "eval": "evaluate",
    "bench": "benchmark",
    "upscale": "Upscaler",
}
"""What is public in Python of the verbs that have it."""


class Cure(NamedTuple):  # and no dataclass, which would cost every start 3 ms
    """One thing that the user can do about an error. Made by the functions below, never by hand.

    ``str()`` is a sentence for somebody who calls hasn-edge from Python; ``cli/cures.py`` writes the same
    for the command line.
    """

    action: str
    """``"use"`` or ``"omit"`` arguments of what was called; ``"call"`` a verb; ``"shell"`` a command of
    another program; ``"say"`` plain words."""
    text: str = ""
    """The verb to call, the command, or the plain words."""
    arguments: Mapping[str, Any] = {}
    """Values by the name that they have in Python; of a command ``where``, if it is not here."""

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        if self.action == "call":
            # Estimating and bundles are for the command line alone.
            alone = "estimate" in self.arguments or self.arguments.get("format") == "bundle"
            function = None if alone else _FUNCTIONS.get(self.text)
            if function is None:
                return f"run: hasn-edge {self.text}" + (f" with {given}" if given else "")
            return f"call hasn_edge.{function}({given})"
        if self.action == "use":
            return f"use {given}"
        if self.action == "shell" and self.arguments:
            return f"{self.arguments['where']}: {self.text}"
        return f"leave out {', '.join(self.arguments)}" if self.action == "omit" else self.text


def use(**arguments: Any) -> Cure:
    """Give what was called these arguments: ``use(device="cpu")``."""
    return Cure("use", arguments=arguments)


def omit(*names: str) -> Cure:
    """Call it again without these arguments."""
    return Cure("omit", arguments=dict.fromkeys(names))


def call(verb: str, **arguments: Any) -> Cure:
    """Call another verb: ``call("build", precision="int8")``."""
    return Cure("call", verb, arguments)


def shell(command: str, *, where: str = "") -> Cure:
    """Type a command of another program, whole; ``where``, unless it is where hasn-edge runs."""
    return Cure("shell", command, {"where": where} if where else {})


def say(text: str) -> Cure:
    """Do something else, in plain words."""
    return Cure("say", text)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number and its noun, for messages: ``1 image``, ``2 images``; ``plural`` if not with ``s``."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def first_line(exc: BaseException) -> str:
    """Return the first line of what another library raised, or the error's kind where it states nothing."""
    return next(filter(None, map(str.strip, str(exc).splitlines())), type(exc).__name__)


def listed(things: Sequence[object], most: int, between: str = ", ") -> str:
    """Return things in one line, for messages; of more than ``most`` the first: ``a, b and 3 more``."""
    more = f" and {len(things) - most} more" if len(things) > most else ""
    return between.join(map(str, things[:most])) + more


def with_cures(message: str, cures: Iterable[str]) -> str:
    """Return a message with its cures as one sentence; below a message of several lines, as one more.

    Empty ones are left out.
    """
    words = ", or ".join(filter(None, cures))
    if not words:
        return message
    return f"{message}\nWhat helps: {words}" if "\n" in message else f"{message}; {words}"


class HasnEdgeError(Exception):
    """Base of all deliberate errors; ``str()`` is one complete message for the user.

    Args:
        message: What, what came, what was expected.
        *cures: What helps, any one of them.
    """

    exit_code = 1

    def __init__(self, message: str = "", *cures: Cure) -> None:
        super().__init__(message, *cures)
        self.message, self.cures = message, cures

    def __str__(self) -> str:
        return with_cures(self.message, map(str, self.cures))

    def within(self, place: str) -> HasnEdgeError:
        """Return the same error with ``place: `` before its message, to be raised from this one."""
        return type(self)(f"{place}: {self.message}", *self.cures)


class InputError(HasnEdgeError):
    """An image, folder or value that cannot be used."""


class ShapeError(InputError):
    """An array or tensor of the wrong rank, size or dtype."""


class OutOfMemoryError(InputError):
    """An input for which memory does not suffice; smaller ones may do."""


class ConfigError(HasnEdgeError):
    """A recipe or target file with an unknown key, a wrong type or a value out of range."""


class CheckpointError(HasnEdgeError):
    """A weights file that is broken, unsafe to read or of another network."""


class ArtifactError(HasnEdgeError):
    """A built file that is missing, changed, stale or made for another device."""


class MissingDependencyError(HasnEdgeError):
    """An optional package is not installed.

    Args:
        module: Its import name; that of a module in it where the package is there, of a version without it.
        extra: The extra of hasn-edge that installs it.
        needed_for: What the user was doing, as the start of a sentence.
        install: The command that installs it, where the machine needs another than the extra's.
    """

    def __init__(self, module: str, *, extra: str, needed_for: str, install: str | None = None) -> None:
        command = install or f"pip install 'hasn-edge[{extra}]'"
        package, inside, _ = module.partition(".")
        lack = f"{module}, which the installed version of the Python package '{package}' does not have"
        missing = lack if inside else f"the Python package '{package}', which is not installed"
        super().__init__(f"{needed_for} needs {missing}; install it with: {command}")
        self.install = install
        self.module = module
        self.extra = extra
        self.needed_for = needed_for

    def within(self, place: str) -> HasnEdgeError:
        """Return the same error with ``place: `` before its message."""
        return MissingDependencyError(
            self.module, extra=self.extra, needed_for=f"{place}: {self.needed_for}", install=self.install
        )

    def __reduce__(self) -> tuple[Any, ...]:
        arguments: dict[str, Any] = {
            "extra": self.extra,
            "needed_for": self.needed_for,
            "install": self.install,
        }
        return functools.partial(type(self), self.module, **arguments), ()


class UnsupportedError(HasnEdgeError):
    """Asked for something that this version, backend or rule cannot do exactly."""


class NoCudaError(UnsupportedError):
    """No Python package for CUDA's memory and streams works here; building needs none, running does."""


class BuildError(HasnEdgeError):
    """A compiler (TensorRT, ONNX Runtime) refused; the message carries its own messages whole."""


class OutputError(HasnEdgeError):
    """A file could not be written."""


class SourceError(HasnEdgeError):
    """A camera, stream or video that cannot be opened, or was lost while it ran."""


class StageError(HasnEdgeError):
    """A stage of the live pipeline failed; ``__cause__`` is what it raised.

    Args:
        stage: ``"capture"``, ``"prepare"``, ``"infer"``, ``"present"`` or ``"record"``.
        cause: What it raised; its message and exit code are taken over.
        frame: Index of the frame it was working on, where there was one.
    """

    def __init__(self, stage: str, cause: BaseException, frame: int | None = None) -> None:
        where = "" if frame is None else f" (frame {frame})"
        cures = cause.cures if isinstance(cause, HasnEdgeError) else ()
        message = cause.message if isinstance(cause, HasnEdgeError) else str(cause)
        super().__init__(f"{stage}{where}: {message}", *cures)
        self.stage = stage
        self.frame = frame
        self.exit_code = getattr(cause, "exit_code", 1)


class VerificationError(HasnEdgeError):
    """A quality budget was missed, so nothing was published."""

    exit_code = 3


def error_to_values(error: HasnEdgeError) -> dict[str, Any]:
    """Return an error as plain JSON values, for another process; :func:`error_from_values` makes it again."""
    more = {name: value for name, value in vars(error).items() if name not in ("message", "cures")}
    cures = [cure._asdict() for cure in error.cures]
    return {"kind": type(error).__name__, "message": error.message, "cures": cures, "more": more}


def error_from_values(values: Mapping[str, Any]) -> HasnEdgeError:
    """Return the error that another process described by :func:`error_to_values`."""
    kinds = [HasnEdgeError]
    for kind in kinds:  # grows while it is read
        kinds += kind.__subclasses__()
    found = next(kind for kind in kinds if kind.__name__ == values["kind"])
    error = found.__new__(found)
    HasnEdgeError.__init__(error, values["message"], *(Cure(**cure) for cure in values["cures"]))
    vars(error).update(values["more"])
    return error
