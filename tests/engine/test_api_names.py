"""The compiler code against modules that have exactly the names that NVIDIA's real bindings have.

The recorded names of TensorRT 8.6 to 11.4 stand in for the versions that cannot run here: a call to a name
that a version lacks fails as it would on that version.
"""

from __future__ import annotations

import enum
import json
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hasn_edge.engine.capabilities import probe
from hasn_edge.engine.compiler import compile_plan
from hasn_edge.engine.target import EngineRuntime, EngineTarget, ShapeRange
from hasn_edge.errors import BuildError, UnsupportedError

WEAK = ("8.6.1", "10.0.1", "10.3.0", "10.7.0")
STRONG = ("10.13.3.9", "10.15.1.29", "10.16.1.11", "11.0.0.114", "11.4.0.106")
TARGET = EngineTarget(
    name="board", runtime=EngineRuntime.TENSORRT, workspace_bytes=1 << 28, optimization_level=4
)


class Member:
    """A recorded attribute: a canned method where the scenario has one, otherwise a value to set and read."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, obj: Any, owner: type) -> Any:
        if obj is None:
            return self
        key = f"{owner.__mro__[-3].__name__}.{self.name}"
        answer = obj._scenario.get(key)
        if callable(answer):
            return lambda *args: (obj._calls.append((key, args)), answer(*args))[1]
        if key in obj._scenario or key in obj._values:
            return obj._values.get(key, answer)
        return lambda *args: obj._calls.append((key, args))

    def __set__(self, obj: Any, value: object) -> None:
        key = f"{type(obj).__name__}.{self.name}"
        obj._values[key] = value
        obj._calls.append((f"{key}=", (value,)))


class Strict:
    """An object of the fake module: any name that was not recorded is an AttributeError."""

    _scenario: dict[str, Any]
    _calls: list[tuple[str, tuple[Any, ...]]]

    def __new__(cls, *args: object) -> Strict:
        made = super().__new__(cls)
        object.__setattr__(made, "_values", {})
        return made

    def __init__(self, *args: object) -> None:
        pass

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__} has no {name}")
        object.__setattr__(self, name, value)


def fake_module(path: Path, **scenario: Any) -> Any:
    """Build a module from a record; ``calls`` collects what was called and set, in order."""
    recorded = json.loads(path.read_text())
    module: Any = types.ModuleType("tensorrt")
    module.__version__ = recorded["version"]
    module.calls = []
    for name, facts in recorded["api"].items():
        if "enum" in facts:
            setattr(module, name, enum.IntEnum(name, facts["enum"], start=0))
        elif "members" in facts:
            members = {m: Member(m) for m in facts["members"] if not m.startswith("_")}
            setattr(module, name, type(name, (Strict,), {**members, "_calls": module.calls, "_scenario": {}}))
    tensor = module.ITensor()
    layer = module.ILayer()
    network, config = module.INetworkDefinition(), module.IBuilderConfig()
    answers = {
        "Builder.create_network": lambda flags: network,
        "Builder.create_builder_config": lambda: config,
        "Builder.create_optimization_profile": lambda: module.IOptimizationProfile(),
        "Builder.build_serialized_network": lambda network, config: b"plan",
        "IBuilderConfig.add_optimization_profile": lambda profile: 0,
        "IBuilderConfig.set_compute_capability": lambda capability, i: True,
        "OnnxParser.parse": lambda data: True,
        "OnnxParser.num_errors": 1,
        "OnnxParser.get_error": lambda i: module.ParserError(),
        "ParserError.node": lambda: 7,
        "ParserError.node_name": lambda: "conv_1",
        "ParserError.node_operator": lambda: "Conv",
        "ParserError.desc": lambda: "types differ",
        "INetworkDefinition.num_inputs": 1,
        "INetworkDefinition.num_outputs": 1,
        "INetworkDefinition.num_layers": 1,
        "INetworkDefinition.get_input": lambda i: tensor,
        "INetworkDefinition.get_output": lambda i: tensor,
        "INetworkDefinition.get_layer": lambda i: layer,
        "ITensor.name": "input",
        "ITensor.shape": (1, 3, -1, -1),
        "ITensor.dtype": module.DataType.FLOAT,
        "ILayer.type": module.LayerType.CONVOLUTION,
    }
    answers.update(scenario)
    for name in (
        "Builder",
        "OnnxParser",
        "ParserError",
        "IBuilderConfig",
        "INetworkDefinition",
        "ITensor",
        "ILayer",
    ):
        getattr(module, name)._scenario = answers
    return module


@pytest.fixture
def records(shared_data: Path) -> Path:
    folder = shared_data / "tensorrt_api"
    if not folder.is_dir():
        pytest.skip(f"no records of TensorRT's names at {folder}")
    return folder


def compile_with(
    trt: Any, target: EngineTarget, *, runtime: EngineRuntime, force: bool = False
) -> dict[str, Any]:
    able = probe(trt, runtime)
    able = replace(able, strong_typing=True) if force else able
    plan, facts = compile_plan(
        trt, able, b"onnx", target, on_message=lambda *_: None, on_step=lambda *_: True
    )
    assert plan == b"plan"
    return facts


@pytest.mark.parametrize("version", WEAK + STRONG)
def test_only_names_that_the_version_has_are_used(records: Path, version: str) -> None:
    trt = fake_module(records / f"tensorrt-{version}.json")
    facts = compile_with(trt, TARGET, runtime=EngineRuntime.TENSORRT, force=version in WEAK)
    calls = dict(trt.calls)
    (flags,) = calls["Builder.create_network"]
    kinds = trt.NetworkDefinitionCreationFlag
    assert flags == sum(1 << int(kind) for kind in kinds if kind.name in ("EXPLICIT_BATCH", "STRONGLY_TYPED"))
    assert calls["IOptimizationProfile.set_shape"] == (
        "input",
        (1, 3, 32, 32),
        (1, 3, 180, 320),
        (1, 3, 540, 960),
    )
    assert calls["IBuilderConfig.clear_flag"] == (trt.BuilderFlag.TF32,)
    assert calls["IBuilderConfig.set_memory_pool_limit"] == (trt.MemoryPoolType.WORKSPACE, 1 << 28)
    assert calls["IBuilderConfig.builder_optimization_level="] == (4,)
    assert ("IBuilderConfig.progress_monitor=" in calls) == (version != "8.6.1")
    assert trt.calls[-1][0] == "Builder.build_serialized_network"
    assert facts["layers"] == {"all": 1, "convolution": 1, "quantize": 0}


def test_rtx_gets_the_gpus_one_by_one(records: Path) -> None:
    trt = fake_module(records / "tensorrt_rtx-1.7.1.116.json")
    target = EngineTarget(name="rtx", compute_capabilities=("ada", "8.6"), tf32=True)
    compile_with(trt, target, runtime=EngineRuntime.RTX)
    sm = trt.ComputeCapability
    chosen = [args for name, args in trt.calls if name == "IBuilderConfig.set_compute_capability"]
    assert chosen == [(sm.SM86, 0), (sm.SM89, 1)]
    assert ("IBuilderConfig.num_compute_capabilities=", (2,)) in trt.calls
    assert ("IBuilderConfig.set_flag", (trt.BuilderFlag.TF32,)) in trt.calls


@pytest.mark.parametrize("version", WEAK)
def test_versions_that_take_precision_from_flags_are_refused(records: Path, version: str) -> None:
    trt = fake_module(records / f"tensorrt-{version}.json")
    with pytest.raises(UnsupportedError, match=f"TensorRT {version} reads precision from builder flags"):
        compile_with(trt, TARGET, runtime=EngineRuntime.TENSORRT)


def test_capabilities_say_what_the_records_say(records: Path) -> None:
    rtx = probe(fake_module(records / "tensorrt_rtx-1.7.1.116.json"), EngineRuntime.RTX)
    assert rtx.title == "TensorRT for RTX 1.7.1.116"
    assert rtx.compute_capabilities == ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
    old = probe(fake_module(records / "tensorrt-8.6.1.json"), EngineRuntime.TENSORRT)
    assert (old.strong_typing_flag, old.explicit_batch_flag, old.progress_monitor) == (False, True, False)
    assert old.compute_capabilities == ()
    new = probe(fake_module(records / "tensorrt-11.4.0.106.json"), EngineRuntime.TENSORRT)
    assert (new.strong_typing, new.strong_typing_flag, new.explicit_batch_flag) == (True, True, False)


@pytest.mark.parametrize(
    ("version", "where"), [("8.6.1", "node 7"), ("11.4.0.106", r"node 'conv_1' \(Conv\)")]
)
def test_parser_errors_are_told_as_well_as_the_version_can(records: Path, version: str, where: str) -> None:
    trt = fake_module(records / f"tensorrt-{version}.json", **{"OnnxParser.parse": lambda data: False})
    with pytest.raises(BuildError, match=f"cannot read the ONNX graph:\n  {where}: types differ$"):
        compile_with(trt, TARGET, runtime=EngineRuntime.TENSORRT, force=True)


def test_refusals_of_the_compiler(records: Path) -> None:
    record = records / "tensorrt-11.4.0.106.json"

    def refused(target: EngineTarget = TARGET, **scenario: Any) -> str:
        with pytest.raises((BuildError, UnsupportedError)) as info:
            compile_with(fake_module(record, **scenario), target, runtime=EngineRuntime.TENSORRT)
        return str(info.value)

    assert refused(**{"Builder.build_serialized_network": lambda *_: None}).endswith(
        "could not compile the graph"
    )
    assert "has 2 inputs; expected one" in refused(**{"INetworkDefinition.num_inputs": 2})
    assert "has shape (1, 3); expected (N, C, H, W)" in refused(**{"ITensor.shape": (1, 3)})
    assert "refused the input range (1, 3, 32, 32)" in refused(
        **{"IBuilderConfig.add_optimization_profile": lambda profile: -1}
    )
    batches = ShapeRange(minimum=(2, 3, 32, 32), typical=(2, 3, 32, 32), maximum=(2, 3, 32, 32))
    assert "fixed to (1, 3, -1, -1), but the target asks for (2, 3, 32, 32)" in refused(
        replace(TARGET, shapes=batches)
    )
    gray = fake_module(record, **{"ITensor.shape": (-1, 1, -1, -1)})
    facts = compile_with(gray, TARGET, runtime=EngineRuntime.TENSORRT)
    assert facts["profile"]["maximum"] == [1, 1, 540, 960]
