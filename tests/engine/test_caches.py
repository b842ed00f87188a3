"""An engine is found again exactly while nothing that decides it changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hasn_edge.artifact import sidecar_path
from hasn_edge.engine.caches import engine_key, lookup, timing_cache_name
from hasn_edge.engine.capabilities import Capabilities
from hasn_edge.engine.target import EngineRuntime, EngineTarget
from hasn_edge.spec import Precision
from tests.support.samples import AGX, NANO, engine

ABLE = Capabilities(
    runtime=EngineRuntime.TENSORRT,
    version="10.3.0",
    strong_typing=False,
    native_normalization=True,
    strong_typing_flag=True,
    explicit_batch_flag=True,
    precision_flags=True,
    calibrator=True,
    calibration_profile=True,
    compute_capabilities=(),
    optimization_level=True,
    hardware_compatibility=(),
    version_compatible=True,
    timing_cache=True,
    progress_monitor=True,
    parser_names_nodes=True,
)
TARGET = EngineTarget(name="board", runtime=EngineRuntime.TENSORRT)


def key(graph: str = "aa", target: EngineTarget = TARGET, **changes: Any) -> str:
    asked: dict[str, Any] = {"precision": Precision.INT8, "capabilities": ABLE, "gpu": NANO, **changes}
    return engine_key(graph, target, **asked)


def test_the_same_build_has_the_same_key() -> None:
    assert key() == key()
    assert key(target=replace(TARGET, name="other")) == key()


@pytest.mark.parametrize(
    "changes",
    [
        {"graph": "bb"},
        {"precision": Precision.FP16},
        {"target": TARGET.with_size(180, 320)},
        {"target": replace(TARGET, optimization_level=5)},
        {"target": replace(TARGET, workspace_bytes=1 << 28)},
        {"target": replace(TARGET, tf32=True)},
        {"target": replace(TARGET, hardware_compatibility="ampere_plus")},
        {"target": replace(TARGET, version_compatible=True)},
        {"capabilities": replace(ABLE, version="10.7.0")},
        {"capabilities": replace(ABLE, native_normalization=False)},
        {"capabilities": replace(ABLE, strong_typing=True)},
        {"gpu": AGX},
        {"gpu": replace(NANO, driver="540.5.0")},
        {"gpu": replace(NANO, cuda="12.9")},
        {"gpu": replace(NANO, l4t="36.5.0")},
        {"calibration": "images"},
    ],
)
def test_whatever_decides_the_engine_changes_the_key(changes: dict[str, Any]) -> None:
    assert key(**changes) != key()


def test_engines_that_are_not_bound_to_a_machine() -> None:
    able = replace(ABLE, runtime=EngineRuntime.RTX, version="1.7.1.116", strong_typing=True)
    target = EngineTarget(name="rtx")
    assert key(target=target, capabilities=able, gpu=None) == key(target=target, capabilities=able)


def test_timings_of_kernels_are_of_one_power_mode() -> None:
    usual = "timing-Orin-sm8.7-8x-540.4.0-10.3.0"
    assert timing_cache_name(NANO, "10.3.0") == f"{usual}.cache"
    assert timing_cache_name(NANO, "10.3.0", "MAXN_SUPER") == f"{usual}-MAXN_SUPER.cache"
    assert timing_cache_name(NANO, "10.3.0", "mode 7") == f"{usual}-mode_7.cache"


def test_a_published_engine_is_found_by_its_key(tmp_path: Path) -> None:
    assert lookup(tmp_path / "absent", key()) is None
    made = engine(tmp_path, cache_key=key())
    (tmp_path / "b.engine").write_bytes(b"no sidecar")
    (tmp_path / "a.engine.json.tmp").write_text("{}")
    found = lookup(tmp_path, key())
    assert found is not None
    assert found.path == made.path
    assert lookup(tmp_path, key("bb")) is None
    assert lookup(tmp_path, key(), start="other-") is None
    assert lookup(tmp_path, key(), start="a") == found


def test_a_file_that_changed_is_not_found(tmp_path: Path) -> None:
    made = engine(tmp_path, cache_key=key())
    content = made.path.read_bytes()
    made.path.write_bytes(content[:-1] + b"x")
    assert lookup(tmp_path, key()) is None
    made.path.write_bytes(content)
    side = sidecar_path(made.path)
    values = json.loads(side.read_text())
    for damaged in ("", "[]", '{"details": 3}', json.dumps({**values, "schema": 99})):
        side.write_text(damaged)
        assert lookup(tmp_path, key()) is None
