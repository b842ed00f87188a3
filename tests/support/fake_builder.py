"""A TensorRT that compiles nothing: it has exactly the names of one recorded version, and keeps its rules.

``fake_tensorrt("10.3.0")`` is a module to build with. A name that the version lacks is an AttributeError, a
wrong number of arguments a TypeError. A broken rule (order of calls, flags, profiles, lifetime) is an
AssertionError at once, or no plan and an error in the log where TensorRT does so. Graphs are real: the parser
reads ONNX.
"""

from __future__ import annotations

import enum
import functools
import importlib.machinery
import re
import types
from collections.abc import Callable
from typing import Any

from tests.support import record_api
from tests.support.fake_objects import MODELLED
from tests.support.fake_strict import Strict

# What the sources of 8.5 lack of 8.6, whose bindings could be recorded.
NOT_IN_8_5 = (
    r"IBuilderConfig\.(builder_optimization_level|hardware_compatibility_level|max_aux_streams)",
    r"HardwareCompatibilityLevel(\..*)?",
    r"BuilderFlag\.(VERSION_COMPATIBLE|EXCLUDE_LEAN_RUNTIME)",
    r"Runtime\.engine_host_code_allowed",
)


def versions() -> list[str]:
    """Return what can be faked, oldest first; TensorRT for RTX last."""
    return ["8.5.2", *record_api.load()["versions"]]


@functools.cache
def names_of(version: str) -> dict[str, str]:
    """Return the recorded names of a version with their signatures."""
    recorded = "8.6.1" if version == "8.5.2" else version
    names = {
        name: what
        for name, entry in record_api.load()["names"].items()
        for what, found in entry.items()
        if recorded in found
    }
    names = dict(sorted(names.items()))  # a class before its members
    if version == "8.5.2":
        names = {n: w for n, w in names.items() if not any(re.fullmatch(p, n) for p in NOT_IN_8_5)}
    return names


def fake_tensorrt(version: str, **settings: Any) -> Any:
    """Return a module with the names of ``version`` and nothing else.

    Its ``calls`` record networks and builds, its ``config`` is the last one. Settings: ``device`` (False: no
    builder), ``refuses`` (an error instead of a plan), ``refuses_profiles``, ``unknown_operators``,
    ``good_timings``, ``chatter`` (messages of every build), ``layers`` (what the inspector lists),
    ``crashes_when_it_loads``, ``host_code`` (in the plan; as in those that are version-compatible).
    """
    module: Any = types.ModuleType("tensorrt_rtx" if version.startswith("rtx") else "tensorrt")
    module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)  # who looks for it finds it
    module.__version__ = version.removeprefix("rtx ")
    module.calls, module.config = [], None
    module.device, module.refuses, module.refuses_profiles = True, None, False
    module.unknown_operators, module.good_timings = (), ()
    module.chatter, module.first_logger = [], None
    module.layers, module.crashes_when_it_loads, module.host_code = None, False, False
    module.runs_on_device = not version.startswith("rtx")
    module.plan = plan(module.__version__, b"ftrt" if module.runs_on_device else b"vtrt")
    for name, value in settings.items():
        assert hasattr(module, name), name
        setattr(module, name, value)
    members: dict[str, dict[str, str]] = {}
    for name, what in names_of(version).items():
        owner, _, member = name.partition(".")
        if member:
            members[owner][member] = what
        else:
            members[owner] = {}
    for name, what in names_of(version).items():
        if what == "enum":
            setattr(module, name, _enumeration(name, list(members[name])))
        elif what == "class":
            setattr(module, name, _class(name, members[name], module))
    return module


def plan(version: str, magic: bytes) -> bytes:
    """Return what begins as a plan of that version does; before 8.6 without saying which version it is."""
    numbers = [int(n) for n in version.split(".")] + [0, 0]
    size = 2048
    if numbers[:2] == [8, 5]:
        head = b"ptrt" + bytes(4) + bytes([232])  # the serialization number
        return head + bytes(size - len(head))
    head = magic + bytes(12) + size.to_bytes(8, "little") + bytes(numbers[:4])
    return head + bytes(size - len(head))


def _enumeration(name: str, members: list[str]) -> Any:
    if name == "NetworkDefinitionCreationFlag":  # bits of a mask: their values matter
        return enum.IntEnum(name, {m: {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}.get(m, 7) for m in members})
    return enum.IntEnum(name, members, start=0)


def _class(name: str, members: dict[str, str], module: Any) -> type:
    model = MODELLED.get(name, Strict)
    body: dict[str, Any] = {"_trt": module}
    for member, what in members.items():
        if name == "ILogger" and member == "Severity":
            body[member] = enum.IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])
        elif what == "value":
            body[member] = _value(name, member, model)
        else:
            body[member] = _method(name, member, what, getattr(model, f"_do_{member}", None))
    return type(name, (model,), body)


def _value(owner: str, member: str, model: type) -> property:
    getter = getattr(model, f"_get_{member}", None)
    setter = getattr(model, f"_set_{member}", None)

    def read(self: Any) -> Any:
        if getter is not None:
            return getter.fget(self)
        assert member in self.__dict__.get("_plain", {}), f"{owner}.{member} is not modelled"
        return self._plain[member]

    def write(self: Any, value: object) -> None:
        if setter is not None:
            setter(self, value)
        else:
            self.__dict__.setdefault("_plain", {})[member] = value

    return property(read, write)


def _method(owner: str, member: str, signature: str, do: Callable[..., Any] | None) -> Callable[..., Any]:
    def call(self: Any, *args: Any) -> Any:
        least, most = arity(signature)
        if not least <= len(args) <= most:
            raise TypeError(f"{owner}.{member}{signature} got {len(args)} arguments")
        assert do is not None, f"{owner}.{member} is not modelled"
        return do(self, *args)

    return call


def arity(signature: str) -> tuple[int, float]:
    """Return how few and how many arguments a recorded signature takes, ``self`` not counted."""
    if signature.startswith("(*args"):  # overloaded
        return 0, float("inf")
    depth, parameters = 0, [""]
    for character in signature.partition(" ->")[0][1:-1]:
        depth += (character in "[(<") - (character in "])>")
        if character == "," and depth == 0:
            parameters.append("")
        else:
            parameters[-1] += character
    parameters = [p for p in parameters[1:] if p.strip()]
    return sum("=" not in p for p in parameters), len(parameters)
