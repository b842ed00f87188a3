"""``-v`` and ``-q`` of every verb: what each of them leaves on standard error."""

from __future__ import annotations

import importlib
import json
import logging
import shutil
from pathlib import Path
from unittest.mock import Mock

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from hasn_edge.bench.report import SCHEMA
from hasn_edge.cli import VERBS, cli, terminal
from hasn_edge.exporters.onnx import onnx_from_model
from hasn_edge.images.codec import write_image
from hasn_edge.live import launch
from hasn_edge.model.checkpoint import save_checkpoint
from hasn_edge.model.hasn import HASN
from hasn_edge.spec import ModelSpec
from tests.support.live_rig import Session

NETWORK = "--model tiny.safetensors"
TRAINING = " --recipe train.toml --device cpu --threads 1"
COMMANDS = {
    "doctor": ("doctor", ""),
    "models": ("models", ""),
    "upscale": (f"upscale photos/0.png photos/deeper/0.png -o out --tile 32 {NETWORK}", "drift from the"),
    "eval": (f"eval --data photos {NETWORK}", ""),
    "export": (f"export {NETWORK}", ""),
    "build": (f"build --target cpu {NETWORK}", "held-out images"),
    "inspect": ("inspect graph.onnx --size 40x32", "--layers prints all"),
    "sensitivity": (f"sensitivity {NETWORK}", ""),
    "bench": (f"bench --estimate orin-nano {NETWORK}", ""),
    "bench diff": ("bench diff old.json new.json", ""),
    "demo": ("demo --source pattern --view none --seconds 0.2 --size 32x16", ""),
    "data prepare": ("data prepare photos -o data --min-side 64", ""),
    "data synthesize": ("data synthesize -o drawn --images 1 --side 64 --kind pattern", ""),
    "data degrade": ("data degrade photos/deeper -o degraded", ""),
    "data bench": ("data bench ready --recipe train.toml --seconds 0.1 --device cpu", ""),
    "train": (f"train --data photos -o run --iterations 1{TRAINING}", "not prepared yet"),
}
"""Each verb's command, and what of its notes is on standard error without ``-q``."""
RESULTS = {
    "upscale": "out/0_x4.png\nout/0_x4_2.png\n",
    "export": "engines/tiny-fp32.onnx\n",
    "build": "engines/tiny-fp16-cpu.onnx\n",
    "train": "run: train, 1 iteration on cpu\nfinished; weights: run/best.safetensors, log: run/log.csv\n",
}
"""All of standard output with ``-q``, where it does not depend on the machine."""
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    save_checkpoint(folder / "tiny.safetensors", HASN(ModelSpec(features=8, blocks=1)))
    (folder / "train.toml").write_text(
        'name = "train"\nvalidate_every = 1\ncheckpoint_every = 1\noptimizer = {warmup = 0}\n'
        "model = {features = 8, blocks = 1}\nphases = [{patch = 60, batch_size = 2}]\n"
    )
    (folder / "graph.onnx").write_bytes(
        onnx_from_model(HASN(ModelSpec(features=8, blocks=1)), simplify=False).SerializeToString()
    )
    size = {"height": 16, "width": 16}
    report = {"schema": SCHEMA, "size": size, "cases": [], "environment": {}, "busy_cores": None}
    for name in ("old.json", "new.json"):
        (folder / name).write_text(json.dumps(report))
    random = np.random.default_rng(0)
    for name in ("photos/0.png", "photos/1.png", "photos/deeper/0.png"):
        write_image(folder / name, random.integers(256, size=(88, 96, 3), dtype=np.uint8))
    done = CliRunner().invoke(
        cli, ["data", "prepare", str(folder / "photos"), "-o", str(folder / "ready"), "--min-side", "64"]
    )
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def run(files, tmp_path, monkeypatch):
    """Run a command in a folder of its own; nothing of ``-v`` and ``-q`` outlives the test."""
    logger = logging.getLogger("hasn_edge")
    before = logger.level, list(logger.handlers), logger.propagate
    monkeypatch.setattr(launch, "open_first", lambda *_args: ("fake", Session()))
    monkeypatch.delenv("DISPLAY", raising=False)
    count = iter(range(9))

    def run(arguments: str) -> Result:
        folder = tmp_path / str(next(count))
        shutil.copytree(files, folder)
        monkeypatch.chdir(folder)
        return CliRunner().invoke(cli, arguments.split(), prog_name="hasn-edge")

    yield run
    logger.level, logger.handlers, logger.propagate = before
    terminal.set_verbosity(0, quiet=False)


def leaves() -> dict[str, click.Command]:
    """Every verb, and instead of a group the verbs below it."""
    found: dict[str, click.Command] = {}
    for verb in VERBS:
        command = cli.get_command(click.Context(cli), verb)
        if isinstance(command, click.Group):
            found |= {f"{verb} {name}": below for name, below in command.commands.items()}
        if not isinstance(command, click.Group) or command.invoke_without_command:
            found[verb] = command
    return found


def test_no_verb_is_left_out():
    assert set(leaves()) == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("verb", COMMANDS)
def test_q_leaves_results_only(run, verb):
    command, _ = COMMANDS[verb]
    quiet = run(f"{command} -q")
    assert quiet.exit_code == 0, quiet.output
    assert quiet.stderr == ""
    assert quiet.stdout == RESULTS.get(verb, quiet.stdout)
    assert quiet.stdout


@pytest.mark.slow
@pytest.mark.parametrize("verb", COMMANDS)
def test_json_is_all_of_standard_output_or_a_file(run, verb):
    command, note = COMMANDS[verb]
    piped = run(f"{command} --json")
    assert piped.exit_code == 0, piped.output
    content = json.loads(piped.stdout)
    assert isinstance(content, dict)
    assert content
    assert piped.stderr, "what people read is there"
    quiet = run(f"{command} --json -q")
    assert (set(json.loads(quiet.stdout)), quiet.stderr) == (set(content), "")
    filed = run(f"{command} --json figures.json")
    assert filed.exit_code == 0, filed.output
    assert filed.stdout.splitlines()[-1] == "figures.json"
    assert note in " ".join(filed.stderr.split()), "without -q it is there"
    assert set(json.loads(Path("figures.json").read_text())) == set(content)


@pytest.mark.slow
@pytest.mark.parametrize("verb", [verb for verb in COMMANDS if verb not in ("upscale", "train")])
def test_figures_are_written_though_nobody_reads_the_table(run, monkeypatch, verb):
    """``| head`` leaves before all is printed: what took minutes to measure is in its file by then.

    ``upscale`` and ``train`` print each file and step when it is done, and stop there.
    """

    def echo(message: str, err: bool = False, **_more: object) -> None:
        if not err:
            raise BrokenPipeError

    module = importlib.import_module(f"hasn_edge.cli.{verb.split()[0]}")
    monkeypatch.setattr(module, "console", Mock(side_effect=BrokenPipeError), raising=False)
    monkeypatch.setattr(click, "echo", echo)
    assert isinstance(run(f"{COMMANDS[verb][0]} --json figures.json").exception, BrokenPipeError)
    assert json.loads(Path("figures.json").read_text())


def test_json_alone_takes_no_photograph_for_its_file(run):
    for command in ("upscale --json photos/0.png", "data prepare -o new --json photos", "bench --json diff"):
        refused = run(command)
        assert refused.exit_code == 2
        assert "expected a file's name that ends in .json" in " ".join(refused.output.split())
    assert Path("photos/0.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("verb", COMMANDS)
def test_v_shows_what_is_logged(run, monkeypatch, verb):
    def callback(**_options: object) -> None:
        logging.getLogger("hasn_edge.engine.builder").info("some news")
        terminal.note("a note")

    monkeypatch.setattr(leaves()[verb], "callback", callback)
    command = COMMANDS[verb][0].replace("ready", ".").replace("photos ", ". ")
    assert run(command).stderr == "a note\n"
    assert run(f"{command} -q").stderr == ""
    assert run(f"{command} -v").stderr == "info: hasn_edge.engine.builder: some news\na note\n"
