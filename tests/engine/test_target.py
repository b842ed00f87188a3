from __future__ import annotations

from pathlib import Path

import pytest

from hasn_edge.engine.target import EngineRuntime, EngineTarget, ShapeRange, load_target, shipped_targets
from hasn_edge.errors import ConfigError, UnsupportedError
from hasn_edge.spec import ModelSpec


def test_the_shipped_targets_load_and_can_run_the_network() -> None:
    assert {"cpu", "portable", "rtx", "rtx-720p", "rtx-turing"} <= set(shipped_targets())
    for name in shipped_targets():
        target = load_target(name)
        assert target.name == name
        assert ModelSpec().size.padding(*target.shapes.min[2:]) == (0, 0)
    assert load_target("cpu").runtime is EngineRuntime.CPU
    assert load_target("portable").runtime is EngineRuntime.PORTABLE
    assert load_target("rtx").compute_capabilities == ("8.0", "8.6", "8.9", "12.0", "12.1")
    assert load_target("rtx").shapes.size is None
    assert load_target("rtx-720p").shapes.size == (180, 320)


def test_a_target_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "my board.toml"
    path.write_text('compute_capabilities = ["Ada", "7.5", "8.9"]\n[shapes]\nmaximum = [2, 3, 720, 1280]\n')
    target = load_target(path)
    assert target.name == "my board"
    assert target.compute_capabilities == ("7.5", "8.9")
    assert target.shapes.max == (2, 3, 720, 1280)
    static = target.with_size(64, 48)
    assert static.shapes == ShapeRange(min=(1, 3, 64, 48), opt=(1, 3, 64, 48), max=(1, 3, 64, 48))
    assert static.shapes.size == (64, 48)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "runtime = 'rtxx'",
            r"runtime is 'rtxx' .*expected one of: cpu, portable, rtx, tensorrt; did you mean 'rtx'",
        ),
        ("compute_capability = ['ada']", "unknown key compute_capability; did you mean compute_capabilities"),
        ("compute_capabilities = ['volta']", "'volta' is no GPU generation .turing, ampere, ada"),
        ("compute_capabilities = ['ada']\nruntime = 'tensorrt'", "only TensorRT for RTX .* builds for GPUs"),
        ("optimization_level = 6", "optimization_level is 6; expected 0 to 5"),
        ("workspace_bytes = 5", "workspace_bytes is 5; expected at least 1048576"),
        ("name = '../rtx'", r"name is '../rtx'; expected letters, digits, spaces, '.', '_' and '-'"),
        ("name = '/tmp/rtx'", "name is '/tmp/rtx'; expected letters"),
        (r"name = 'a\b'", r"name is 'a\\\\b'; expected letters"),
        (r'name = "a\nb"', r"name is 'a\\nb'; expected letters"),
        ("[shapes]\nmin = [1, 3, 32]", "shapes.min is .*; expected a list of length 4"),
        ("[shapes]\nmax = [1, 3, 100, 960]", "shapes: height is 32 / 180 / 100; expected 1 <= min"),
        ("[shapes]\nmin = [0, 3, 32, 32]", "shapes: batch is 0 / 1 / 1; expected 1 <= min"),
    ],
)
def test_a_wrong_target_file_is_named_with_its_mistake(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"wrong.toml: .*{message}"):
        load_target(path)


def test_a_target_file_of_version_0_1_still_loads(tmp_path: Path) -> None:
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    shapes = "[shapes]\n{} = [1, 3, 16, 24]\n{} = [1, 3, 32, 48]\n{} = [1, 3, 64, 96]\n"
    old.write_text(shapes.format("minimum", "typical", "maximum"))
    new.write_text(shapes.format("min", "opt", "max"))
    assert (
        load_target(old).shapes
        == load_target(new).shapes
        == ShapeRange(min=(1, 3, 16, 24), opt=(1, 3, 32, 48), max=(1, 3, 64, 96))
    )
    old.write_text("[shapes]\nminimum = [1, 3, 16, 24]\nmin = [1, 3, 16, 24]\n")
    with pytest.raises(ConfigError, match="unknown key shapes.minimum"):
        load_target(old)


def test_an_unknown_target_lists_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedError, match="unknown target 'rtz'; choose one of: a2, agx-orin-32gb, .*cpu, .*rtx, "
    ):
        load_target("rtz")
    with pytest.raises(ConfigError, match="absent.toml: no such file"):
        load_target(tmp_path / "absent.toml")


def test_targets_are_checked_in_python_too() -> None:
    with pytest.raises(ConfigError, match="no GPU generation"):
        EngineTarget(compute_capabilities=("8",))
    with pytest.raises(ConfigError, match="name is 'a/b'; expected letters"):
        EngineTarget(name="a/b")
