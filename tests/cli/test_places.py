"""What cannot be written, or is not installed, is said before any work and not after."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hasn_edge.cli import cli
from hasn_edge.errors import OutputError
from hasn_edge.files import require_writable

EVERY_VERB = [
    ["inspect", "a.onnx", "--json", "{}"],
    ["bench", "--json", "{}"],
    ["bench", "--markdown", "{}"],
    ["bench", "--estimate", "orin-nano", "--markdown", "{}"],
    ["eval", "--json", "{}"],
    ["build", "--precision", "int8", "-o", "{}"],
    ["export", "-o", "{}"],
]


@pytest.mark.parametrize("arguments", EVERY_VERB, ids=" ".join)
def test_a_place_that_cannot_be_written_is_refused_first(tmp_path, monkeypatch, arguments):
    (tmp_path / "file").write_text("no folder")
    where = tmp_path / "file" / "report.json"

    def never(*args, **options):
        raise AssertionError("the work began")

    monkeypatch.setattr("hasn_edge.pipeline.context.load_model_checkpoint", never)
    monkeypatch.setattr("hasn_edge.runtime.open.open_session", never)
    monkeypatch.setattr("hasn_edge.bench.benchmark.benchmark", never)
    # The last one: what is imported while it is replaced would keep the replacement for all later tests.
    monkeypatch.setattr("hasn_edge.model.zoo.load_model_checkpoint", never)
    done = CliRunner().invoke(cli, [text.format(where) for text in arguments])
    assert done.exit_code == 1
    assert "cannot write" in done.output


def test_trying_leaves_nothing_behind(tmp_path):
    require_writable(tmp_path / "new" / "folder" / "file")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="cannot write"):
        require_writable(tmp_path)


WITHOUT = """
import sys
sys.modules["torch"] = None
from hasn_edge.__main__ import main
sys.argv = ["hasn-edge", *{arguments!r}]
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "portable", "rtx"])
def test_a_build_without_pytorch_says_what_to_install(tmp_path, target):
    arguments = ["build", "--target", target, "-o", str(tmp_path)]
    code = WITHOUT.format(arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "pip install 'hasn-edge[export]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["upscale", "{image}", "--model", "{text}"], "not weights but text that begins with 'these are"),
        (["bench", "--artifact", "{text}"], "not a built file, which ends in one of .ts, .pt2, .onnx"),
        (["build", "--recipe", "conservative"], "use --precision int8, or leave out --recipe"),
    ],
)
def test_the_wrong_kind_of_file(tmp_path, arguments, said):
    image = Path(__file__).parents[2] / "calibration" / "heldout" / "LRbicx4" / "coffee-0.png"
    (tmp_path / "notes.txt").write_text("these are notes")
    places = {"image": image, "text": tmp_path / "notes.txt"}
    done = CliRunner().invoke(cli, [text.format(**places) for text in arguments])
    assert done.exit_code == 1
    assert said in " ".join(done.output.split())


def test_a_recording_too(tmp_path):
    (tmp_path / "file").write_text("no folder")
    place = str(tmp_path / "file" / "clip.mp4")
    done = CliRunner().invoke(cli, ["demo", "--source", "pattern", "--view", "none", "--record", place])
    assert done.exit_code == 1
    assert "cannot write" in done.output
    assert "frames" not in done.output


@pytest.mark.parametrize(
    "words",
    [
        ["export", "-o", "net.onnx"],
        ["build", "-o", "out/net.engine"],
        ["data", "prepare", "photos", "-o", "set.npz"],
        ["data", "synthesize", "-o", "NET.PTH"],
        ["data", "degrade", "photos", "-o", "a.pt"],
        ["train", "-o", "best.safetensors"],
    ],
    ids=" ".join,
)
def test_the_name_of_a_built_file_is_no_folder(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    message = " ".join(done.stderr.split())
    assert f"'{words[-1]}' is a file's name, and a folder's is expected; " in message
    assert ("--name sets how" in message) == (words[0] in ("export", "build"))
    assert message.endswith(f"for a folder write {words[-1]}/")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
