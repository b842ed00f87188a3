"""The verb: options that do not go together, what is printed and written."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from hasn_edge.cli import cli
from hasn_edge.errors import UnsupportedError
from hasn_edge.live import launch
from hasn_edge.live.engines import EngineChoice
from hasn_edge.live.notices import trouble
from hasn_edge.live.pipeline import Live
from hasn_edge.live.sources.frame_source import PatternSource
from hasn_edge.live.views.terminal_view import TerminalView
from tests.support.fake_session import FakeSession
from tests.support.live_rig import Script, Session, Watcher


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the verb with a fake network in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    sessions: list[Session] = []

    def open_first(engines, wanted, size, tell):
        sessions.append(Session())
        return "fake", sessions[-1]

    monkeypatch.setattr(launch, "open_first", open_first)

    def run(*args: object) -> Result:
        result = CliRunner().invoke(cli, ["demo", *map(str, args)], prog_name="hasn-edge")
        result.sessions = sessions
        return result

    return run


def test_the_table_names_what_was_measured(run):
    result = run("--source", "pattern", "--view", "none", "--seconds", 0.4, "--size", "32x16")
    assert result.exit_code == 0, result.output
    for text in (
        "pattern",
        "32x16 to 128x64",
        "captured",
        "latency",
        "p95",
        "limited by",
        "network, host to host",
    ):
        assert text in result.stdout
    assert result.sessions[0].closed


@pytest.mark.slow
def test_json_on_standard_output_is_nothing_else(run):
    options = ("--source", "pattern", "--size", "32x16", "--seconds", 0.5, "--self-test")
    result = run("--view", "none", "--json", "-", *options)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["input"] == [16, 32]
    assert report["quality"]["frames"] == report["frames"]["shown"]
    assert "numpy" in report["environment"]
    assert "latency" in result.stderr


@pytest.mark.slow
def test_json_file_and_recording(run, clip):
    pytest.importorskip("av")
    result = run(
        *("--source", clip, "--size", "native", "--view", "none"),
        *("--json", "out/run.json", "--record", "out/a.mp4"),
    )
    assert result.exit_code == 0, result.output
    report = json.loads(Path("out/run.json").read_text())
    assert report["frames"]["shown"] == 40
    assert report["output"] == [384, 640]
    assert {path.name for path in Path("out").iterdir()} == {"a.mp4", "run.json"}
    assert result.stdout.splitlines()[-2:] == ["out/run.json", "out/a.mp4"]


def sources(monkeypatch, size: tuple[int, int], *, aspect: float | None = None) -> list:
    """Let every file and stream deliver three frames of that size; return what was asked of them."""
    asked = []

    def open_source(text, size_asked):
        asked.append(size_asked)
        source = PatternSource(size, frames=3, live=False)
        source.aspect = aspect
        return source

    monkeypatch.setattr(launch, "open_source", open_source)
    return asked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("captured", "options", "computed", "said"),
    [
        ((640, 360), (), "180x320 to 720x1280", "360x640, made smaller to 180x320"),
        ((36, 64), (), "64x36 to 256x144", "64x36"),
        ((135, 97), (), "96x134 to 384x536", "97x135, of which the middle 96x134"),
        ((640, 360), ("--size", "320x180"), "320x180 to 1280x720", "middle 360x202, made smaller to 320x180"),
        ((36, 64), ("--size", "320x180"), "320x180 to 1280x720", "64x36, enlarged to 320x180"),
        ((36, 64), ("--size", "native"), "64x36 to 256x144", "64x36"),
        ((144, 256), ("--self-test",), "64x36 to 256x144", "256x144"),
    ],
)
def test_files_keep_their_shape_unless_a_size_is_asked_for(
    run, monkeypatch, captured, options, computed, said
):
    assert not sources(monkeypatch, captured)
    result = run("--source", "x.mp4", "--view", "none", *options, "--json", "x.json")
    assert result.exit_code == 0, result.output
    assert computed in result.stdout
    assert f"{said} " in " ".join(result.stdout.split())  # which 80 columns fold
    report = json.loads(Path("x.json").read_text())
    assert tuple(report["source_size"]) == captured
    assert report["ended"] == "end of source"


@pytest.mark.parametrize("source", ["none.mp4", "rtsq://nowhere/x"])
@pytest.mark.parametrize("model", [(), ("--model", "auto")])
def test_an_error_is_the_only_message(run, source, model):
    result = run("--source", source, "--view", "none", *model)
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {source}: no such ")
    assert len(result.output.splitlines()) == 1


def test_a_file_with_wide_pixels_keeps_the_shape_that_is_shown(run, monkeypatch):
    sources(monkeypatch, (180, 160), aspect=2.0)
    result = run("--source", "x.mp4", "--view", "none")
    assert "160x180 with pixels of 2:1, resized to 320x180" in result.stdout
    assert "320x180 to 1280x720" in result.stdout


def test_cameras_are_asked_for_the_size(run, monkeypatch):
    asked = sources(monkeypatch, (48, 64))
    run("--source", "0", "--view", "none")
    run("--source", "/dev/video2", "--view", "none", "--self-test", "--size", "32x16")
    run("--source", "rtsp://camera/stream", "--view", "none")
    assert asked == [(180, 320), (64, 128), None]


def test_a_self_test_of_too_small_images_is_refused(run):
    result = run("--source", "pattern", "--view", "none", "--self-test", "--size", "2x40")
    assert result.exit_code == 1
    assert "2x40 is too small for a self-test at x4" in result.stderr


def test_what_fails_early_is_found_before_anything_runs(run):
    pytest.importorskip("websockets")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        options = ("--source", "pattern", "--seconds", 0.3)
        result = run(*options, "--view", "web", "--port", number)
    assert result.exit_code == 1
    assert f"port {number} is in use; use --port 0" in result.stderr
    result_of_host = run(*options, "--view", "web", "--host", "192.0.2.7", "--port", 0)
    assert "it must be an address of this machine; use --host 0.0.0.0" in result_of_host.stderr
    Path("file").touch()
    result_of_json = run(*options, "--view", "none", "--json", "file/run.json")
    assert "cannot write file/run.json" in result_of_json.stderr
    for failed in (result, result_of_host, result_of_json):
        assert failed.exit_code == 1
        assert failed.stdout == "", "no table of zeros"
    assert result.sessions == []


def test_a_port_that_was_claimed_for_nothing_is_given_back(run):
    pytest.importorskip("websockets")
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    for _ in range(2):
        result = run("--source", "nothing.mp4", "--view", "web", "--port", number)
        assert "nothing.mp4: no such file" in result.stderr


def test_without_a_frame_there_is_no_table_but_the_reason_in_the_figures(run, monkeypatch):
    monkeypatch.setattr(launch, "open_source", lambda text, size: Script(60.0))
    result = run("--source", "0", "--view", "none", "--seconds", 0.1, "--json", "x.json")
    assert result.exit_code == 0
    assert result.stdout == "x.json\n"
    assert "no frame came" in result.stderr
    assert json.loads(Path("x.json").read_text())["ended"] == "time"


@pytest.mark.slow
def test_a_time_too_short_for_a_frame_is_said_instead_of_a_table(run, monkeypatch):
    monkeypatch.setattr(launch, "open_first", lambda *args: ("slow", Session(seconds=1.5)))
    result = run("--source", "pattern", "--view", "none", "--seconds", 0.3, "--size", "32x16")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "no frame was shown: the time was too short for the first one; use --seconds 10" in result.stderr


def test_the_ending_of_an_engine_may_be_left_out(run, monkeypatch):
    wanted = []
    monkeypatch.setattr(
        launch, "list_engines", lambda *args, **options: {"a.onnx": EngineChoice(open=Session)}
    )
    monkeypatch.setattr(
        launch, "open_first", lambda *args: (wanted.append(args[1]), ("a.onnx", Session()))[1]
    )
    assert run("--engine", "a", "--view", "none", "--source", "pattern", "--seconds", 0.1).exit_code == 0
    assert wanted == ["a.onnx"]


def test_an_engine_for_another_size_is_told(run, monkeypatch):
    monkeypatch.setattr(launch, "open_first", lambda *args: ("static", FakeSession(size=(32, 32))))
    result = run("--source", "pattern", "--view", "none", "--seconds", 0.2, "--size", "48x40")
    assert "static takes 32x32: frames of 48x40 are padded or computed in tiles" in result.stderr
    assert "48x40 to 192x160" in result.stdout
    result = run("--source", "pattern", "--view", "none", "--seconds", 0.2)
    assert "32x32 to 128x128" in result.stdout
    assert result.stderr == ""


@pytest.mark.slow
def test_figures_are_drawn_on_a_terminal_and_only_messages_elsewhere():
    for terminal in (True, False):
        text = io.StringIO()
        source = Script(3, 0.7, 3)
        view = TerminalView(Console(file=text, force_terminal=terminal, width=100))
        live = Live(source, FakeSession(), [view])
        live.stats.report(trouble("before the run no view shows it"))
        reporting = threading.Timer(0.1, lambda source=source: source.report(trouble("the camera is lost")))
        reporting.start()
        live.run()
        reporting.join()
        assert text.getvalue().count("the camera is lost") >= 1
        assert ("fps shown" in text.getvalue()) == terminal


def test_without_a_camera_it_is_the_pattern(run, monkeypatch):
    monkeypatch.setattr(launch, "first_camera", lambda size: None)
    result = run("--view", "none", "--seconds", 0.2)
    assert result.exit_code == 0
    assert "no camera found: showing the test pattern; " in result.stderr
    assert "use --source clip.mp4" in result.stderr


@pytest.mark.parametrize(
    ("options", "view"),
    [
        ([], "window"),
        (["--view", "auto"], "window"),
        (["--port", "0"], "web"),
        (["--view", "auto", "--host", "127.0.0.1"], "web"),
        (["--token", "T"], "web"),
    ],
)
def test_an_option_of_the_page_asks_for_the_page(run, monkeypatch, options, view):
    """Where there is a display, auto opens a window, which would ignore it."""
    opened = []

    def open_view(name, wanted, tell):
        opened.append(name)
        return Watcher()

    monkeypatch.setattr(launch, "_OPEN", {name: partial(open_view, name) for name in ("window", "web")})
    result = run("--source", "pattern", "--seconds", 0.1, "--size", "32x16", *options)
    assert result.exit_code == 0, result.output
    assert opened == [view]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--model", "x", "--artifact", "y.onnx"], 2, "--model and --artifact exclude each other"),
        (["--codec", "libx264"], 2, "--codec and --quality belong to --record"),
        (["--host", "0.0.0.0"], 2, "--host is for the web page, and --view none serves none"),
        (["--port", "8765"], 2, "--port is for the web page, and --view none serves none"),
        (
            ["--view", "window", "--token", "T"],
            2,
            "--token is for the web page, and --view window serves none",
        ),
        (["--allow-host", "x"], 2, "--allow-host is for the web page"),
        (["--allow-origin", "nonsense"], 2, "--allow-origin is for the web page"),
        (["--size", "320"], 2, "'320' is no size; expected WIDTHxHEIGHT"),
        (["--seconds", "0"], 2, "--seconds"),
        (["--view", "tv"], 2, "'tv' is not one of"),
        (["--device", "gpu"], 1, "no device called 'gpu'; choose cpu, cuda"),
        (["--cuda", "torch"], 1, "run: hasn-edge build, or use --artifact FILE.engine, or leave out --cuda"),
        (
            ["--source", "nothing.mp4"],
            1,
            "nothing.mp4: no such file; a source is a camera",
        ),
        (["--source", "ftp://x/y"], 1, "ftp://x/y: no such kind of source"),
        (["--record", "out.gif"], 1, "unknown ending '.gif'"),
        (["--record", "out.mp4", "--codec", "nonsense"], 1, "libx265, libsvtav1"),
        (["--record", "out.mp4", "--quality", "99"], 1, "takes 0 (best) to 51"),
    ],
)
def test_bad_options(run, options, code, message):
    if "--record" in options:
        pytest.importorskip("av")
    result = run("--view", "none", "--seconds", 0.1, *options)
    assert result.exit_code == code, result.output
    assert message in result.output.replace("'nonsense'", "nonsense")
    assert "Traceback" not in result.output
    assert not any(Path().iterdir())


@pytest.mark.slow
def test_a_recording_is_played_at_its_speed_for_people_and_at_full_speed_for_none(run, clip, monkeypatch):
    lengths = {}
    monkeypatch.setattr(launch, "_OPEN", {"web": lambda request, tell: Watcher()})
    for view in ("web", "none"):
        result = run("--source", clip, "--size", "32x16", "--view", view, "--json", "-")
        assert result.exit_code == 0, result.output
        lengths[view] = json.loads(result.stdout)["seconds"]
    assert lengths["web"] >= 39 / 25
    assert lengths["none"] < lengths["web"]


@pytest.mark.slow
def test_a_file_that_nobody_asked_to_see_in_the_browser_waits_for_nobody(run, clip, monkeypatch):
    view = Watcher()
    view.watched = threading.Event()
    monkeypatch.setattr(launch, "has_display", lambda: False)
    refused = UnsupportedError("no display")
    monkeypatch.setattr(launch, "_OPEN", {"window": Mock(side_effect=refused), "web": lambda *_: view})
    result = run("--source", clip, "--size", "32x16", "--json", "figures.json")
    assert "begins at once; to have it wait for the page; use --view web" in " ".join(result.stderr.split())
    assert "40 captured, 40 shown" in result.stdout
    figures = json.loads(Path("figures.json").read_text())
    assert (figures["state"], figures["ended"]) == ("ended", "end of source")
    assert run("--source", clip, "--size", "32x16", "-q").stderr == ""


@pytest.mark.slow
def test_a_file_in_the_browser_begins_when_the_page_is_opened(run, clip, monkeypatch):
    view = Watcher()
    view.watched = threading.Event()
    monkeypatch.setattr(launch, "_OPEN", {"web": lambda request, tell: view})
    opening = threading.Timer(0.5, view.watched.set)
    opening.start()
    begin = time.monotonic()
    result = run("--source", clip, "--size", "32x16", "--view", "web")
    assert "begins when somebody opens the page" in result.stderr
    assert "40 captured, 40 shown" in result.stdout
    assert view.shown[0].stamps.captured > begin + 0.5
    view.watched.clear()
    assert "begins when" not in run("--source", "pattern", "--view", "web", "--seconds", 0.1).stderr
