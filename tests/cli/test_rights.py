"""What lies in a folder that may not be entered is never said to be missing."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from hasn_edge.cli import VERBS, cli
from hasn_edge.cli.common import ExistingPath
from hasn_edge.images.codec import write_image

_CAPABILITIES_3 = 0x20080522
_PAST_PERMISSIONS = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of capabilities(7), by which root ignores permissions."""


@pytest.fixture
def locked(tmp_path, monkeypatch) -> Iterator[Path]:
    """Return the current folder, with one in it that this thread, root's or not, may not enter."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
    kept = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; once more for the high bits
    assert libc.capget(header, kept) == 0
    assert libc.capset(header, (ctypes.c_uint32 * 6)(kept[0] & ~_PAST_PERMISSIONS, *kept[1:])) == 0
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "x").mkdir()
    folder.chmod(0)
    try:
        with pytest.raises(PermissionError):
            Path("locked/x").stat()
        yield tmp_path
    finally:
        folder.chmod(0o700)
        assert libc.capset(header, kept) == 0


@pytest.mark.parametrize(
    "words",
    [
        ["upscale", "locked/x"],
        ["upscale", "a.png", "-o", "locked/x"],
        ["upscale", "a.png", "--model", "locked/x"],
        ["demo", "--source", "locked/x", "--view", "none"],
        ["demo", "--source", "pattern", "--view", "none", "--record", "locked/x"],
        ["eval", "--data", "S=locked/x"],
        ["export", "--model", "locked/x.pth"],
        ["build", "--from", "locked/x"],
        ["build", "--target", "locked/x.toml"],
        ["build", "--precision", "int8", "--calibration", "locked/x"],
        ["inspect", "locked/x.onnx"],
        ["sensitivity", "--html", "locked/x"],
        ["bench", "--artifact", "locked/x.onnx"],
        ["bench", "--estimate", "locked/x.toml"],
        ["bench", "diff", "locked/x", "locked/x"],
        ["data", "prepare", "locked/x", "-o", "out"],
        ["data", "degrade", "locked/x", "-o", "out"],
        ["data", "bench", "locked/x"],
        ["data", "synthesize", "--fonts", "locked/x", "-o", "out"],
        ["train", "--data", "locked/x"],
        ["train", "--resume", "locked/x"],
    ],
    ids=" ".join,
)
def test_one_message_says_that_permission_lacks(locked, words):
    (locked / "a.png").write_bytes(b"never read")
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit), done.output
    message = done.output.splitlines()[-1]
    assert "locked/x" in message
    assert message.count("ermission denied") == 1
    assert "exist" not in message
    assert "no such" not in message


def test_photographs_are_prepared_beside_a_folder_that_may_not_be_entered(locked):
    """As ``lost+found`` at the top of a disk: its neighbours are searched for known pixels."""
    pixels = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    write_image(locked / "photos/a.png", pixels)
    done = CliRunner().invoke(cli, ["data", "prepare", "photos", "-o", "out", "--min-side", "64"])
    assert done.exit_code == 0, done.output
    assert (locked / "out/shards.json").is_file()


def test_every_path_that_has_to_be_there_is_looked_for_so():
    commands = [cli.get_command(click.Context(cli), verb) for verb in VERBS]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        for each in command.params:
            if isinstance(each.type, click.Path) and each.type.exists:
                assert isinstance(each.type, ExistingPath), (command.name, each.name)


def test_what_is_not_there_is_said_so(tmp_path):
    (tmp_path / "file").write_text("")
    for name, words in (("none", "does not exist"), ("file/x", "does not exist"), ("file", "is a file")):
        done = CliRunner().invoke(cli, ["data", "prepare", str(tmp_path / name), "-o", str(tmp_path / "out")])
        assert done.exit_code == 2
        assert words in done.output
