"""Every name of TensorRT that the sources use exists in every recorded version, or is asked for first.

The sources are read, not run: a path that no test takes is checked as well.
"""

from __future__ import annotations

import ast
import functools
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hasn_edge.engine.capabilities import Capabilities, probe
from hasn_edge.engine.target import EngineRuntime
from tests.support import record_api
from tests.support.fake_builder import fake_tensorrt, names_of, versions

PACKAGE = Path(__file__).parents[2] / "hasn_edge"
SOURCES = sorted(
    path
    for folder in ("engine", "runtime")
    for path in (PACKAGE / folder).rglob("*.py")
    if any(word in path.read_text() for word in ("trt.", "execute_async_v3", "deserialize_cuda_engine"))
    or path.name in ("precision.py", "caches.py", "network.py")
)

VARIABLES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "error": "ParserError",
    "layer": "ILayer",
    "tensor": "ITensor",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "runtime_cache": "IRuntimeCache",
    "inspector": "EngineInspector",
}
"""How the sources call TensorRT's objects; ``self._engine`` counts as ``engine``."""

OWN = {
    "caches.py": {"engine", "runtime"},
    "open_engine.py": set(VARIABLES),
    "capabilities.py": set(VARIABLES) - {"trt"},
    "worker.py": set(VARIABLES),
    "tensorrt.py": {"runtime", "error"},
}
"""Files where these variables hold something else; their uses of the module itself are checked."""

OTHER = {"plan.py": {"config": "IRuntimeConfig"}}
"""Files where a variable holds another object of TensorRT."""

GATED = {
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": "strong_typing_flag",
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": "explicit_batch_flag",
    "BuilderFlag.FP16": "precision_flags",
    "BuilderFlag.INT8": "precision_flags",
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS": "precision_flags",
    "ILayer.precision": "precision_flags",
    "ILayer.set_output_type": "precision_flags",
    "IInt8EntropyCalibrator2": "calibrator",
    "IInt8EntropyCalibrator2.__init__": "calibrator",
    "IBuilderConfig.int8_calibrator": "calibrator",
    "IBuilderConfig.set_calibration_profile": "calibration_profile",
    "IBuilderConfig.builder_optimization_level": "optimization_level",
    "IBuilderConfig.hardware_compatibility_level": "hardware_compatibility",
    "HardwareCompatibilityLevel": "hardware_compatibility",
    "BuilderFlag.VERSION_COMPATIBLE": "version_compatible",
    "IProgressMonitor": "progress_monitor",
    "IProgressMonitor.__init__": "progress_monitor",
    "IBuilderConfig.progress_monitor": "progress_monitor",
    "ParserError.node_name": "parser_names_nodes",
    "ParserError.node_operator": "parser_names_nodes",
    "ComputeCapability": "compute_capabilities",
    "IBuilderConfig.num_compute_capabilities": "compute_capabilities",
    "IBuilderConfig.set_compute_capability": "compute_capabilities",
    "Runtime.engine_host_code_allowed": "version_compatible",
    "ExecutionContextAllocationStrategy": "hasattr IExecutionContext.set_device_memory",
    "ExecutionContextAllocationStrategy.USER_MANAGED": "hasattr IExecutionContext.set_device_memory",
    "IExecutionContext.set_device_memory": "hasattr IExecutionContext.set_device_memory",
    "IExecutionContext.update_device_memory_size_for_shapes": "hasattr IExecutionContext.set_device_memory",
    "ICudaEngine.device_memory_size_v2": "hasattr IExecutionContext.set_device_memory",
    "CudaGraphStrategy": "hasattr IRuntimeCache",
    "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE": "hasattr IRuntimeCache",
    "DynamicShapesKernelSpecializationStrategy": "hasattr IRuntimeCache",
    "DynamicShapesKernelSpecializationStrategy.EAGER": "hasattr IRuntimeCache",
    "ICudaEngine.create_runtime_config": "hasattr IRuntimeCache",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy": "hasattr IRuntimeCache",
    "IRuntimeConfig.cuda_graph_strategy": "hasattr IRuntimeCache",
    "IRuntimeConfig.set_execution_context_allocation_strategy": "hasattr IRuntimeCache",
    "IRuntimeConfig.create_runtime_cache": "hasattr IRuntimeCache",
    "IRuntimeConfig.set_runtime_cache": "hasattr IRuntimeCache",
    "IRuntimeCache.deserialize": "hasattr IRuntimeCache",
    "IRuntimeCache.reset": "hasattr IRuntimeCache",
    "IRuntimeCache.serialize": "hasattr IRuntimeCache",
}
"""Names that some versions lack, and the capability, or the name, that is asked for before they are used."""


def names_used(path: Path) -> Iterator[tuple[str, int]]:
    """Yield what a source takes from TensorRT as ``Class.member``, with the line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = OWN.get(path.name, set())
    asked = {id(name) for call in calls(tree, "hasattr") for name in ast.walk(call)}
    for call in calls(tree, "getattr"):  # getattr(trt.BuilderFlag, name): only the class is known here
        chain = dotted(call.args[0])
        if chain is not None:
            yield chain, call.lineno
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in asked:
            chain = dotted(node)
            if chain is not None:
                yield chain, node.lineno
            base = node.value
            name = base.id if isinstance(base, ast.Name) else getattr(base, "attr", "")
            name = name.lstrip("_")
            if name in VARIABLES and name not in own:
                owner = OTHER.get(path.name, {}).get(name, VARIABLES[name])
                yield f"{owner}.{node.attr}", node.lineno


def calls(tree: ast.AST, function: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function:
            yield node


def dotted(node: ast.AST) -> str | None:
    """Return ``BuilderFlag.TF32`` of ``trt.BuilderFlag.TF32``; ``self._trt`` counts as ``trt``."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and node.attr.lstrip("_") != "trt":
        parts.append(node.attr)
        node = node.value
    root = getattr(node, "attr", getattr(node, "id", "")).lstrip("_")
    return ".".join(reversed(parts)) if root == "trt" and parts else None


@functools.cache
def capabilities(version: str) -> Capabilities:
    rtx = version.startswith("rtx")
    return probe(fake_tensorrt(version), EngineRuntime.RTX if rtx else EngineRuntime.TENSORRT)


def answer(version: str, asked: str) -> bool:
    """Return what the code is told when it asks, on that version."""
    if asked.startswith("hasattr "):
        return asked.removeprefix("hasattr ") in names_of(version)
    return bool(getattr(capabilities(version), asked))


def test_the_sources_are_found() -> None:
    names = {path.name for path in SOURCES}
    assert {"builder.py", "network.py", "precision.py", "calibrator.py", "caches.py"} <= names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_names_exist_in_every_version_or_are_asked_for(path: Path) -> None:
    missing = []
    for name, line in sorted(set(names_used(path))):
        plain = name.removesuffix(".name").removesuffix(".value") if name.count(".") > 1 else name
        if plain == "__version__":
            continue
        lacking = [v for v in versions() if plain not in names_of(v) and not is_init(plain, v)]
        if lacking and plain not in GATED:
            missing.append(f"{path.name}:{line} {plain}: not in {', '.join(lacking)}")
    assert not missing, "\n".join(missing)


def is_init(name: str, version: str) -> bool:
    owner, _, member = name.rpartition(".")
    return member == "__init__" and owner in names_of(version)


@pytest.mark.parametrize("version", versions())
def test_a_capability_is_claimed_only_where_all_its_names_exist(version: str) -> None:
    for name, asked in GATED.items():
        exists = name in names_of(version) or is_init(name, version)
        if answer(version, asked):
            assert exists, f"{version}: {asked} without {name}"


@pytest.mark.slow
def test_every_gated_name_is_used_and_lacking_somewhere() -> None:
    used = {name for path in SOURCES for name, _ in names_used(path)}
    flags = {"BuilderFlag.FP16", "BuilderFlag.INT8"}  # by getattr, from a table
    for name in GATED:
        assert name in used | flags, f"{name} is not used any more"
        assert any(name not in names_of(v) and not is_init(name, v) for v in versions()), name


def test_capabilities_are_what_is_known_of_each_version() -> None:
    """By hand, from NVIDIA's release notes."""
    eight = {"explicit_batch_flag", "precision_flags", "calibrator", "calibration_profile", "timing_cache"}
    from_8_6 = eight | {"optimization_level", "hardware_compatibility", "version_compatible"}
    ten = from_8_6 | {
        "native_normalization", "strong_typing_flag", "progress_monitor", "parser_names_nodes"
    }  # fmt: skip
    eleven = (ten | {"strong_typing"}) - {
        "explicit_batch_flag", "precision_flags", "calibrator", "calibration_profile"
    }  # fmt: skip
    rtx = eleven - {"timing_cache", "hardware_compatibility", "version_compatible"} | {"compute_capabilities"}
    expected = {
        "8.5.2": eight,
        "8.6.1": from_8_6,
        **dict.fromkeys(("10.0.1", "10.3.0", "10.7.0"), ten),
        **dict.fromkeys(("10.13.3.9", "10.15.1.29", "10.16.1.11"), ten | {"strong_typing"}),
        **dict.fromkeys(("11.0.0.114", "11.4.0.106"), eleven),
        "rtx 1.7.1.116": rtx,
    }
    assert set(expected) == set(versions())
    asked = set(Capabilities.__annotations__) - {"runtime", "version"}
    for version, able in expected.items():
        assert {name for name in asked if answer(version, name)} == able, version


@pytest.mark.slow
@pytest.mark.parametrize("version", record_api.load()["versions"])
def test_the_fake_that_runs_engines_has_only_names_that_tensorrt_has(lab: Any, version: str) -> None:
    rtx = version.startswith("rtx ")
    trt = lab.fakes.make_tensorrt(lab.gpu, version=version.removeprefix("rtx "), rtx=rtx)
    checked = 0
    for name, thing in vars(trt).items():
        if not isinstance(thing, type):
            continue
        assert name in names_of(version), f"TensorRT {version} has no {name}"
        members = getattr(thing, "__members__", None) or {n for n in vars(thing) if not n.startswith("_")}
        for member in members:
            known = f"{name}.{member}" in names_of(version) or (name, member) == ("DataType", "FP8")
            assert known, f"TensorRT {version} has no {name}.{member}"
            checked += 1
    assert checked >= 20
    gc.collect()


@pytest.mark.usefixtures("needs_rtx")
def test_the_record_is_what_the_module_here_has() -> None:
    from hasn_edge.engine.capabilities import find_module

    version, names = record_api.record(find_module(EngineRuntime.RTX))
    if version not in versions():
        pytest.skip(f"{version} is not recorded; python tests/support/record_api.py adds it")
    assert names == names_of(version)
