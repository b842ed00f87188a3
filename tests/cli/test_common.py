"""What a model runs as where ``./engines`` holds a measured choice for it."""

from __future__ import annotations

import sys

import click
import numpy as np
import pytest
from click.testing import CliRunner

from hasn_edge.artifact import load_artifact, publish
from hasn_edge.cli import cli
from hasn_edge.cli.common import NamesOption, open_chosen
from hasn_edge.cli.upscale_files import frame_of
from hasn_edge.model.zoo import bundled_onnx
from hasn_edge.runtime.choice import describe_machine
from hasn_edge.sidecar import AutotuneRecord, Kind
from hasn_edge.spec import Precision
from hasn_edge.video.formats import PIPE
from tests.support.samples import details_of

MODEL = "hasn-x4-small"


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """``./engines`` with a graph that was measured to be best here, by OpenVINO."""
    monkeypatch.chdir(tmp_path)
    shipped = load_artifact(bundled_onnx(MODEL))
    record = AutotuneRecord(
        candidates=(),
        left_out=(),
        why="it is faster",
        backend="openvino",
        machine=describe_machine(),
        when="2026",
    )
    return publish(
        shipped.path.read_bytes(),
        tmp_path / "engines" / "small.onnx",
        spec=shipped.spec,
        precision=Precision.FP32,
        source=shipped.source,
        details=details_of(Kind.ONNX, autotune=record),
    )


@pytest.mark.slow
def test_a_model_runs_as_what_was_measured_and_one_line_states_it(measured, capsys):
    x = np.random.default_rng(0).random((1, 3, 20, 24), dtype=np.float32)
    with open_chosen(MODEL, None, threads=1, engines=True) as session:
        assert session.backend == "openvino"
        found = session.run(x)
    line = f"Using engines/small.onnx (it is faster); --no-engines runs {MODEL} itself\n"
    assert capsys.readouterr().err == line
    for options in ({"engines": False}, {"engines": True, "model": "hasn-x4"}):
        with open_chosen(**{"model": MODEL, "artifact": None, "threads": 1, **options}) as session:
            assert session.backend == "onnxruntime"
            if not options["engines"]:
                np.testing.assert_allclose(found, session.run(x), rtol=0, atol=1e-5)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize(("frame", "size"), [((20, 24), (20, 24)), ((14, 24), None), ((2000, 2000), None)])
def test_it_is_opened_for_the_frames_that_come_unless_they_are_padded_or_tiled(measured, frame, size):
    with open_chosen(MODEL, None, threads=1, engines=True, frame=frame) as session:
        assert session.size == size


def test_frames_have_one_size_where_one_video_is_upscaled(tmp_path, clip):
    video = clip
    assert frame_of([video]) == (96, 160)
    assert frame_of([video, video]) is frame_of([tmp_path / "image.png"]) is frame_of([PIPE]) is None
    (tmp_path / "cut.avi").write_bytes(video.read_bytes()[:200])
    assert frame_of([tmp_path / "cut.avi"]) is None


def test_what_does_not_open_is_said_and_the_model_runs_itself(measured, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with open_chosen(MODEL, None, threads=1, engines=True) as session:
        assert session.backend == "onnxruntime"
    told = capsys.readouterr().err
    assert told.startswith("engines/small.onnx is left out: ")
    assert "pip install 'hasn-edge[openvino]'" in told


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "bench --estimate orin-nano --runs 5 --threads 1 --html a.html",
            "--estimate measures nothing: leave out --runs, --html, --threads",
        ),
        (
            "bench --estimate orin-nano --artifact a.onnx --compare span --columns all",
            "--estimate measures nothing: leave out --artifact, --compare, --columns",
        ),
        (
            "bench --size 320x180 --json a.json diff a.json b.json",
            "bench diff has options of its own, behind its name: leave out --size, --json",
        ),
        (
            "train --recipe hasn-x4 --show --data photos -o run",
            "--show trains nothing: leave out --data, -o",
        ),
    ],
)
def test_options_without_effect_are_refused(tmp_path, monkeypatch, command, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("a.json", "b.json"):
        (tmp_path / name).touch()
    done = CliRunner().invoke(cli, command.split())
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == f"Error: {message}"


@pytest.mark.parametrize("verb", ["bench", "build", "demo", "sensitivity", "train", "upscale", "inspect"])
def test_help_has_every_name_whole_and_sizes_as_they_are_typed(verb):
    command = cli.get_command(click.Context(cli), verb)
    text = CliRunner().invoke(cli, [verb, "--help"], terminal_width=80).output
    assert max(map(len, text.splitlines())) <= 80
    assert text.isascii()
    words = {word.strip("(),;.:") for word in text.split()}
    shown = [each for each in command.params if isinstance(each, NamesOption) and "{names}" in each.help]
    assert {name for each in shown for name in each.names()} <= words
    assert ("--size WxH" in text) == any(each.name == "size" for each in command.params)


@pytest.mark.parametrize("verb", ["upscale", "eval", "bench"])
def test_help_names_every_kind_of_file_that_is_opened(verb):
    text = " ".join(CliRunner().invoke(cli, [verb, "--help"]).output.split())
    listed = text.partition(" --artifact PATH ")[2].partition("(")[2].partition(")")[0]
    assert set(listed.split(", ")) == {kind.suffix for kind in Kind}
