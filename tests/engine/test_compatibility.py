"""Engines from elsewhere are refused before TensorRT sees them, with the reason and the command to type."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from hasn_edge.artifact import Artifact, load_artifact, sidecar_path
from hasn_edge.cli.cures import cure_text, message_of
from hasn_edge.engine.compatibility import rebuild, require_compatible
from hasn_edge.errors import ArtifactError
from hasn_edge.hardware.gpu import GpuFacts
from hasn_edge.pipeline.context import BuildOptions
from tests.support.samples import ADA, AGX, HOPPER, NANO, TURING, engine, plan


def refused(artifact: Artifact, gpu: GpuFacts | None = NANO, version: str | None = "10.3.0") -> str:
    with pytest.raises(ArtifactError) as info:
        require_compatible(artifact, gpu=gpu, runtime_version=version)
    return message_of(info.value)


def command(artifact: Artifact, gpu: GpuFacts | None = None, *, again: bool = False) -> str:
    return cure_text(rebuild(artifact, gpu=gpu, again=again)).removeprefix("run: ")


def test_an_engine_at_home(tmp_path: Path) -> None:
    for version in ("10.3.0", "10.3.0.30", "10.3", None):
        require_compatible(engine(tmp_path), gpu=NANO, runtime_version=version)


def test_every_difference_is_named_with_the_command(tmp_path: Path) -> None:
    said = refused(engine(tmp_path), ADA, "10.16.1.11")
    assert said == (
        f"{tmp_path}/a.engine: this engine cannot run here: it was built by TensorRT 10.3.0.30, and "
        "10.16.1.11 is here, which runs its own engines only; it was built on Orin (compute capability 8.7), "
        "and here is NVIDIA GeForce RTX 4090 (128 SM, compute capability 8.9); run: hasn-edge build "
        "--model hasn-x4-small --precision int8 --target tensorrt --size 320x180 "
        f"--output {tmp_path}"
    )


@pytest.mark.parametrize("model", ["net-int8-weakly-typed.onnx", "net-finetuned.safetensors"])
def test_files_of_the_users_are_named_without_their_folder(tmp_path: Path, model: str) -> None:
    assert f"only the name of '{model}' is known here" in refused(engine(tmp_path, model=model), ADA)


def test_another_build_of_the_same_version(tmp_path: Path) -> None:
    assert "built by TensorRT 10.3.0.30, and 10.3.0.26 is here" in refused(
        engine(tmp_path), version="10.3.0.26"
    )
    assert "and 10.3.1 is here" in refused(engine(tmp_path), version="10.3.1")


def test_a_plan_that_does_not_say_its_version(tmp_path: Path) -> None:
    content = plan(b"ptrt", (0, 0, 0, 0))
    told = engine(tmp_path, content=content, version="8.5.2.2")
    for version in ("8.5.2.2", "8.5.2", None):
        require_compatible(told, gpu=NANO, runtime_version=version)
    assert "built by TensorRT 8.5.2.2, and 8.6.2 is here" in refused(told, version="8.6.2")


def test_boards_of_one_name_are_told_apart(tmp_path: Path) -> None:
    assert "built on Orin with 8 SM, and here is Orin (16 SM" in refused(engine(tmp_path), AGX)
    assert "in another power mode" in refused(engine(tmp_path), AGX)
    assert "in another power mode" not in refused(engine(tmp_path), ADA)
    assert "and there is none" in refused(engine(tmp_path), None)


@pytest.mark.parametrize(
    ("made", "running", "fine"),
    [
        ((10, 3, 0, 30), "10.3.0", True),
        ((10, 3, 0, 30), "10.7.0", True),
        ((10, 3, 0, 30), "11.4.0.106", True),
        ((8, 6, 1, 6), "10.3.0", True),
        ((8, 6, 1, 6), "11.4.0", False),
        ((10, 7, 0, 23), "10.3.0", False),
        ((11, 0, 0, 114), "10.16.1", False),
    ],
)
def test_version_compatible_engines_run_on_newer_versions(
    tmp_path: Path, made: tuple[int, ...], running: str, fine: bool
) -> None:
    version = ".".join(map(str, made))
    artifact = engine(
        tmp_path, content=plan(b"ftrt", made), version=version, flags={"version_compatible": True}
    )
    if fine:
        require_compatible(artifact, gpu=NANO, runtime_version=running)
    else:
        assert "which runs its own engines only" in refused(artifact, version=running)


@pytest.mark.parametrize(
    ("level", "gpu", "fine"),
    [
        (None, HOPPER, False),
        ("ampere_plus", HOPPER, True),
        ("ampere_plus", TURING, False),
        ("same_compute_capability", replace(ADA, sm_count=24, name="NVIDIA GeForce RTX 4060"), True),
        ("same_compute_capability", HOPPER, False),
    ],
)
def test_hardware_compatible_engines_run_on_other_gpus(
    tmp_path: Path, level: str | None, gpu: GpuFacts, fine: bool
) -> None:
    artifact = engine(
        tmp_path,
        gpu=ADA.name,
        compute_capability="8.9",
        sm_count=128,
        flags={"hardware_compatibility": level},
    )
    if fine:
        require_compatible(artifact, gpu=gpu, runtime_version="10.3.0")
    else:
        assert f"built on {ADA.name}" in refused(artifact, gpu)


def test_rtx_engines_run_on_the_gpus_they_were_built_for(tmp_path: Path) -> None:
    artifact = engine(
        tmp_path,
        content=plan(b"vtrt", (1, 7, 1, 116)),
        runtime="rtx",
        version="1.7.1.116",
        gpu=None,
        compute_capability=None,
        compute_capabilities=["8.6", "8.9"],
        target="rtx",
    )
    require_compatible(artifact, gpu=ADA, runtime_version="1.7.1.116")
    assert "built for compute capability 8.6, 8.9, and here is NVIDIA H200" in refused(
        artifact, HOPPER, "1.7.1.116"
    )
    assert "built by TensorRT for RTX 1.7.1.116, and 1.8.0.1 is here" in refused(artifact, ADA, "1.8.0.1")


def test_the_build_is_for_as_many_images(tmp_path: Path) -> None:
    assert " --size 320x180 --batch 4 " in command(engine(tmp_path, batch=[1, 4]))
    assert " --batch" not in command(engine(tmp_path))


def test_the_build_takes_the_recipe_that_a_search_left(tmp_path: Path) -> None:
    """With the default one it would be another INT8, which loses more than was asked for."""
    searched = engine(tmp_path, asked={"recipe": "net-int8-search.toml", "calibration": None})
    assert " --recipe net-int8-search.toml " in command(searched)
    assert "only the name of 'net-int8-search.toml' is known here" in refused(searched, ADA)
    (tmp_path / "net-int8-search.toml").touch()
    assert f" --recipe {tmp_path}/net-int8-search.toml " in command(searched)
    assert "is known here" not in refused(searched, ADA)


@pytest.mark.slow
def test_the_build_is_one_for_the_gpu_that_is_here(tmp_path: Path) -> None:
    """The engine's own target would give the same engine again, or refuse."""
    rtx = engine(tmp_path, target="rtx", runtime="rtx")
    assert " --target rtx " in command(rtx)
    assert " --target rtx " in command(rtx, ADA)
    assert " --target rtx-turing " in command(rtx, TURING)
    assert " --target tensorrt " in command(rtx, HOPPER)
    board = engine(tmp_path, target="orin-nano")
    assert " --target orin-nano " in command(board, AGX)
    assert " --target tensorrt " in command(board, ADA)
    assert command(board, again=True).endswith(" --rebuild")


def test_a_sidecar_of_another_engine(tmp_path: Path) -> None:
    said = refused(engine(tmp_path, content=plan(b"vtrt", (10, 3, 0, 30))))
    assert "its sidecar states runtime tensorrt, the plan is one of TensorRT for RTX" in said
    said = refused(engine(tmp_path, content=plan(b"ftrt", (10, 7, 0, 23))), version="10.7.0")
    assert "its sidecar states version 10.3.0.30, the plan 10.7.0.23" in said


def test_truncated_tampered_and_foreign_files(tmp_path: Path) -> None:
    artifact = engine(tmp_path)
    content = artifact.path.read_bytes()
    artifact.path.write_bytes(content[:700])
    assert "only 700 bytes of a TensorRT plan; it was cut short" in refused(artifact)
    artifact.path.write_bytes(b"\x08\x09" + content)
    assert "not a TensorRT plan" in refused(artifact)
    artifact.path.write_bytes(content[:-1] + b"x")
    with pytest.raises(ArtifactError, match="its bytes changed since it was made"):
        load_artifact(artifact.path)


@pytest.mark.parametrize(
    "damage",
    [
        {"flags": None},
        {"version": "new"},
        {"flags": "none"},
        {"compute_capabilities": "all"},
        {"inputs": [{"dtype": "uint8"}]},
        {"profile": {"min": 3}},
        {"sm_count": "many"},
        {"target": 7},
        {"asked": "much"},
    ],
)
def test_a_damaged_sidecar_is_refused_in_one_message(tmp_path: Path, damage: dict[str, Any]) -> None:
    artifact = engine(tmp_path)
    side = sidecar_path(artifact.path)
    values = json.loads(side.read_text())
    values["details"].update(damage)
    side.write_text(json.dumps(values))
    (key,) = damage
    with pytest.raises(ArtifactError, match=rf"damaged sidecar .*(\$\.{key}|Expected)"):
        load_artifact(artifact.path)


@pytest.mark.parametrize(
    ("details", "options"),
    [
        ({}, "--target tensorrt --size 320x180"),
        ({"model": "", "target": "my board"}, "--target 'my board.toml' --size 320x180"),
        ({"model": "my net.pth"}, "--target tensorrt --size 320x180"),
        ({"asked": {"recipe": "conservative", "calibration": None}},
         "--recipe conservative --target tensorrt --size 320x180"),
        ({"asked": {"recipe": "default", "calibration": "my photos"}},
         "--calibration 'my photos' --target tensorrt --size 320x180"),
        ({"int8_method": "calibrator"}, "--target tensorrt --int8-method calibrator --size 320x180"),
        ({"pixels": True}, "--target tensorrt --pixels --size 320x180"),
        (
            {"size": None, "profile": {k: [1, 3, h, w] for k, h, w in (
                ("min", 32, 48), ("opt", 180, 320), ("max", 360, 640))}},
            "--target tensorrt --dynamic 48x32 320x180 640x360",
        ),
        (
            {"size": None, "target": "rtx", "profile": {k: [1, 3, h, w] for k, h, w in (
                ("min", 32, 32), ("opt", 180, 320), ("max", 540, 960))}},
            "--target rtx",
        ),
    ],
)  # fmt: skip
def test_the_build_that_makes_it_again(tmp_path: Path, details: dict[str, Any], options: str) -> None:
    from hasn_edge.cli import build

    folder = tmp_path / "my engines"
    typed = command(engine(folder, **details))
    model = details.get("model", "hasn-x4-small")
    wanted = ["--model", shlex.quote(model)] if model else []
    assert typed == " ".join(
        ["hasn-edge build", *wanted, "--precision int8", options, f"--output '{folder}'"]
    )
    # The command line takes it as it is.
    read = build.command.make_context("build", shlex.split(typed)[2:])
    assert read.params["model"] == (model or None)
    assert read.params["output"] == folder


ASKED = {"recipe": "mine.toml", "calibration": "photos", "evaluation": "own set", "name": "door"}


def test_every_option_of_a_build_is_in_the_command(tmp_path: Path) -> None:
    """Without one of them it would be another engine, or another file beside this one."""
    made = engine(
        tmp_path,
        asked=ASKED,
        target="rtx",
        int8_method="calibrator",
        pixels=True,
        batch=[1, 4],
        model="a.pth",
    )
    sized = rebuild(made, again=True).arguments
    shapes = {"min": [1, 32, 48, 3], "opt": [1, 180, 320, 3], "max": [1, 360, 640, 3]}
    ranged = rebuild(engine(tmp_path, size=None, profile=shapes, pixels=True)).arguments
    assert ranged["dynamic"] == ((32, 48), (180, 320), (360, 640))
    held_by_files = {"max_drop", "cost", "finetune"}  # the searched recipe and the adapted weights, beside it
    for_others = {"max_latency", "force"}  # of several precisions; and the user's to say again
    options = {field.name for field in fields(BuildOptions)}
    assert {*sized, *ranged} == options - held_by_files - for_others
    assert {name: sized[name] for name in ASKED} == ASKED
    named = "'a.pth' and of 'mine.toml' and of 'photos' and of 'own set'"
    assert f"only the name of {named} is known here" in refused(made, ADA)
    (tmp_path / "own set").mkdir()
    assert f" --evaluation '{tmp_path}/own set' " in command(made)


def test_a_file_behind_a_name_is_found_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = engine(tmp_path, model="fsrcnn=a.pth")
    assert "only the name of 'fsrcnn=a.pth' is known here" in refused(made, ADA)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").touch()
    assert "only the name" not in refused(made, ADA)
    assert " --model fsrcnn=a.pth " in command(made)


def test_an_engine_of_a_bundle_is_built_from_it_again(tmp_path: Path) -> None:
    made = engine(tmp_path, model="for-the-board/")
    assert " --model for-the-board/ " in command(made)
    assert "only the name of 'for-the-board/' is known here" in refused(made, ADA)
    (tmp_path / "for-the-board").mkdir()
    assert f" --model {tmp_path}/for-the-board " in command(made)


@pytest.mark.parametrize(
    ("details", "files"),
    [
        ({}, ""),
        ({"model": "my net.pth"}, "'my net.pth'"),
        ({"target": "board"}, "'board.toml'"),
        ({"asked": {"recipe": "conservative", "calibration": None}}, ""),
        (
            {"asked": {"recipe": "mine.toml", "calibration": "photos"}},
            "'mine.toml' and of 'photos'",
        ),
    ],
)
def test_files_whose_folder_is_not_known_are_named(
    tmp_path: Path, details: dict[str, Any], files: str
) -> None:
    artifact = engine(tmp_path, **details)
    note = f"; only the name of {files} is known here: write the folder as well" if files else ""
    assert refused(artifact, ADA).endswith(f"compute capability 8.9){note}; run: {command(artifact, ADA)}")
