"""Bad input on the command line: one clear message, the right exit code, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from hasn_edge.artifact import sidecar_path
from hasn_edge.cli import cli
from hasn_edge.images.codec import read_image, write_image
from hasn_edge.model.checkpoint import save_checkpoint, save_pth
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import ModelSpec


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny model, a good image and every kind of bad file."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    model = HASN(ModelSpec(features=8, blocks=1))
    save_checkpoint(folder / "tiny.safetensors", model)
    save_pth(folder / "tiny.pth", model)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    write_image(folder / "good.png", pixels)
    data = (folder / "good.png").read_bytes()
    (folder / "truncated.png").write_bytes(data[: len(data) // 2])
    (folder / "text.png").write_text("this is no image")
    (folder / "empty.png").write_bytes(b"")
    checkpoint = (folder / "tiny.pth").read_bytes()
    (folder / "cut.pth").write_bytes(checkpoint[: len(checkpoint) // 2])
    (folder / "evil.pth").write_bytes(pickle.dumps(Bomb()))
    torch.save({"params": {"body.0.weight": torch.zeros(3, 3)}}, folder / "other.pth")
    return folder


class Bomb:
    def __reduce__(self):
        return os.system, ("touch executed",)


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in args], prog_name="hasn-edge")


def one_message(result: Result, code: int = 1) -> str:
    """The error text, after checking that it is a message and not a crash."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
    return " ".join(result.output.split())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.png", "no such file"),
        ("truncated.png", "truncated.png"),
        ("text.png", "text.png"),
        ("empty.png", "empty.png"),
    ],
)
def test_bad_image(folder, tmp_path, name, words):
    result = run("upscale", folder / name, "-o", tmp_path / "out", "--model", folder / "tiny.safetensors")
    assert words in one_message(result)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["none.png", "more.png"], "Error: none.png: no such file"),
        (["*.gif"], "Error: *.gif: no such file; name files that are there: the shell found none like this"),
    ],
)
def test_names_of_no_file_cost_no_time(folder, tmp_path, monkeypatch, names, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hasn_edge.cli.upscale.open_chosen", None)  # not called
    result = run("upscale", *names, "-o", tmp_path / "out", "--model", folder / "tiny.safetensors")
    assert one_message(result) == expected


def test_one_bad_image_does_not_stop_the_rest(folder, tmp_path):
    images = [folder / "text.png", folder / "good.png", folder / "truncated.png"]
    result = run("upscale", *images, "-o", tmp_path, "--model", folder / "tiny.safetensors")
    message = one_message(result)
    assert "2 of 3 images could not be upscaled" in message
    assert "text.png" in message
    assert "truncated.png" in message
    assert [p.name for p in tmp_path.iterdir()] == ["good_x4.png"]
    assert read_image(tmp_path / "good_x4.png").shape == (96, 80, 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cut.pth", "not a complete PyTorch file"),
        ("evil.pth", "Nothing in it was executed"),
        ("other.pth", "not a HASN checkpoint"),
        ("none.safetensors", "no such weights file"),
        ("hasn-x9", "no model called 'hasn-x9'"),
    ],
)
@pytest.mark.parametrize("verb", ["export", "eval"])
def test_bad_checkpoint(folder, tmp_path, monkeypatch, name, words, verb):
    monkeypatch.chdir(tmp_path)
    model = folder / name if "." in name else name
    assert words in one_message(run(verb, "--model", model))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", ["missing.safetensors", "span=missing.pth"])
@pytest.mark.parametrize(
    "verb",
    [("upscale", "good.png"), ("eval",), ("demo", "--source", "pattern", "--view", "none"), ("build",)],
    ids=lambda verb: verb[0],
)
def test_weights_that_are_not_there_beside_built_files(folder, tmp_path, monkeypatch, verb, model):
    """Built files are compared with the weights' hash, which a misspelt name does not have."""
    monkeypatch.chdir(tmp_path)
    Path("good.png").write_bytes((folder / "good.png").read_bytes())
    Path("engines").mkdir()
    Path("engines/any.onnx").write_bytes(b"any")
    message = one_message(run(*verb, "--model", model))
    assert message == f"Error: {model.removeprefix('span=')}: no such weights file"


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("engines")
    result = run("export", "--model", folder / "tiny.pth", "-o", output)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(output / "tiny-fp32.onnx")
    return output / "tiny-fp32.onnx"


def copy(source: Path, folder: Path) -> Path:
    target = folder / source.name
    target.write_bytes(source.read_bytes())
    sidecar_path(target).write_bytes(sidecar_path(source).read_bytes())
    return target


@pytest.mark.parametrize("verb", ["upscale", "eval", "bench"])
def test_changed_artifact(folder, exported, tmp_path, verb):
    path = copy(exported, tmp_path)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    first = [folder / "good.png"] if verb == "upscale" else []
    message = one_message(run(verb, *first, "--artifact", path))
    assert "its bytes changed since it was made" in message
    assert "hasn-edge build" in message


def test_artifact_without_sidecar(exported, tmp_path):
    path = copy(exported, tmp_path)
    sidecar_path(path).unlink()
    assert "its sidecar tiny-fp32.onnx.json is missing" in one_message(run("eval", "--artifact", path))


def test_sidecar_of_another_schema(exported, tmp_path):
    path = copy(exported, tmp_path)
    content = json.loads(sidecar_path(path).read_text())
    sidecar_path(path).write_text(json.dumps({**content, "schema": 0}))
    assert "sidecar schema is 0" in one_message(run("eval", "--artifact", path))


def test_usage_errors_exit_with_2(folder, tmp_path):
    assert "'int4' is not one of" in one_message(run("build", "--precision", "int4"), code=2)
    assert "No such command 'upscal'" in one_message(run("upscal"), code=2)
    assert "--model and --artifact" in one_message(
        run("upscale", folder / "text.png", "--model", "x", "--artifact", tmp_path / "y.onnx"), code=2
    )
    assert "is no size" in one_message(run("export", "--size", "320"), code=2)
    assert "Missing argument" in one_message(run("upscale"), code=2)


def test_unknown_target_lists_the_known(folder):
    message = one_message(run("build", "--model", folder / "tiny.pth", "--target", "orin"))
    assert "unknown target 'orin'" in message
    listed = message.partition("choose one of: ")[2].split(", ")
    assert {"cpu", "portable", "rtx", "orin-nano"} <= set(listed)


def test_unknown_precision_in_bench(folder):
    message = one_message(run("bench", "--model", folder / "tiny.pth", "--precision", "fp32,int4"))
    assert "unknown precision 'int4'; choose one of: fp32, fp16, int8" in message


def test_unknown_recipe(folder):
    message = one_message(
        run("build", "--model", folder / "tiny.pth", "--precision", "int8", "--recipe", "best")
    )
    assert "no recipe called 'best'" in message


def test_misspelt_data_folder(folder, tmp_path):
    message = one_message(run("eval", "--model", folder / "tiny.pth", "--data", f"Set5={tmp_path / 'Set6'}"))
    assert "Set6" in message


LONG = "a" * 300


@pytest.mark.parametrize(
    "words",
    [
        ["upscale", LONG],
        ["upscale", "GOOD", "-o", f"{LONG}.png"],
        ["upscale", "GOOD", "--model", f"{LONG}.pth"],
        ["eval", "--data", f"Set5={LONG}"],
        ["build", "--calibration", LONG, "--precision", "int8"],
        ["build", "-o", LONG],
        ["export", "-o", LONG],
        ["sensitivity", "--html", f"{LONG}.html"],
    ],
    ids=lambda words: " ".join(words).replace(LONG, "LONG"),
)
def test_a_name_that_the_system_refuses(folder, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    words = [str(folder / "good.png") if word == "GOOD" else word for word in words]
    assert "File name too long; choose " in one_message(run(*words))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/in/a.png"),
            "/in/a.png: Permission denied; choose",
        ),
        (PermissionError(errno.EACCES, "Permission denied", Path("/in")), "/in: Permission denied; choose"),
        (
            OSError(errno.EACCES, "Permission denied"),
            None,
        ),  # of no path: a fault of ours, which a traceback finds
        (OSError(errno.EBADF, "Bad file descriptor", "/in"), None),
    ],
)
def test_a_path_without_permission(folder, monkeypatch, error, message):
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("hasn_edge.cli.upscale.find_files", fail)
    result = run("upscale", folder / "good.png")
    if message is None:
        assert result.exception is error
    else:
        assert message in one_message(result)


@pytest.mark.parametrize("verb", ["export", "upscale"])
def test_unwritable_output(folder, tmp_path, verb):
    (tmp_path / "file").write_text("")
    first = [folder / "good.png"] if verb == "upscale" else []
    result = run(verb, *first, "--model", folder / "tiny.pth", "-o", tmp_path / "file" / "deep")
    assert "cannot write" in one_message(result)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["export", "upscale"])
def test_full_disk(folder, tmp_path, verb):
    """A real failing write in a process that may not write more than 4 kB to a file."""
    first = [str(folder / "good.png")] if verb == "upscale" else []
    args = [verb, *first, "--model", str(folder / "tiny.pth"), "-o", str(tmp_path / "out")]
    code = f"""
import resource, signal, sys
from hasn_edge.cli import cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
cli({args!r}, prog_name="hasn-edge")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "File too large" in " ".join(done.stderr.split())
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_every_verb_has_an_example():
    from hasn_edge.cli import VERBS

    for verb in VERBS:
        command = cli.get_command(click.Context(cli), verb)
        paths = [[verb], *([verb, name] for name in getattr(command, "commands", {}))]
        for path in paths:
            result = run(*path, "--help")
            assert result.exit_code == 0
            rest = result.output.partition("\n")[2]
            assert "hasn-edge " + " ".join(path) in rest, path
            assert max(map(len, result.output.splitlines())) <= 80, path


def test_a_result_never_overwrites_a_image_to_upscale(folder, tmp_path):
    pixels = read_image(folder / "good.png")
    for name in ("a.png", "a_x4.png"):
        write_image(tmp_path / name, pixels)
    before = (tmp_path / "a_x4.png").read_bytes()
    result = run("upscale", tmp_path / "a.png", tmp_path / "a_x4.png", "-o", tmp_path)
    assert "a_x4.png is one of the images to upscale and would be overwritten" in one_message(result)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "a_x4.png"]
    assert (tmp_path / "a_x4.png").read_bytes() == before


def test_two_sets_of_one_name(folder, tmp_path):
    write_image(tmp_path / "set/a.png", read_image(folder / "good.png"))
    options = ("--data", f"S={tmp_path / 'set'}", "--data", f"S={tmp_path / 'set'}")
    result = run("bench", "--model", folder / "tiny.safetensors", *options)
    assert "two sets are called S; name them apart" in one_message(result)


@pytest.mark.slow
def test_eval_says_where_memory_made_it_use_tiles(folder, tmp_path, monkeypatch):
    image = np.random.default_rng(1).integers(0, 256, (768, 512, 3), np.uint8)
    write_image(tmp_path / "set/big.png", image)
    arguments = ("eval", "--model", folder / "tiny.safetensors", "--data", f"S={tmp_path / 'set'}")
    assert "tiles" not in run(*arguments).output
    monkeypatch.setattr("hasn_edge.runtime.upscaler.default_limit_bytes", lambda: 12_000_000)
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "computed in tiles because of memory, which changes the figures: big" in result.output


@pytest.mark.slow
def test_eval_says_where_a_file_of_one_size_made_it_use_tiles(folder, tmp_path):
    write_image(tmp_path / "set/a.png", np.random.default_rng(1).integers(0, 256, (160, 120, 3), np.uint8))
    made = run("export", "--model", folder / "tiny.safetensors", "--size", "24x24", "-o", tmp_path)
    assert made.exit_code == 0, made.output
    artifact = made.stdout.splitlines()[-1]
    result = run("eval", "--artifact", artifact, "--data", f"S={tmp_path / 'set'}")
    assert result.exit_code == 0, result.output
    assert "in tiles because the file has one size, which changes the figures: a" in result.output
