"""``hasn-edge data`` and ``hasn-edge train`` as a user types them."""

import io
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hasn_edge.cli import cli, train
from hasn_edge.data import prepare
from hasn_edge.data.shards import Shards
from hasn_edge.errors import InputError
from hasn_edge.files import CAN_LOCK
from hasn_edge.images.codec import write_image
from hasn_edge.progress import Step
from hasn_edge.train import runs
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.recipe import load_recipe

SMALL = ["model.features=8", "model.blocks=1", "model.esa_channels=4", "model.expansion=2"]
QUICK = [
    "phases=[{patch = 60, batch_size = 2}]",
    "optimizer.warmup=0",
    "validate_every=2",
    "checkpoint_every=2",
]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    for number in range(2):
        write_image(tmp_path / f"photos/{number}.png", random.integers(256, size=(88, 96, 3), dtype=np.uint8))
    return tmp_path / "photos"


def run(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def settings():
    return [part for text in (*SMALL, *QUICK) for part in ("--set", text)]


@pytest.mark.slow
def test_from_photographs_to_weights(photos, tmp_path):
    done = run("data", "prepare", photos, "-o", tmp_path / "data", "--min-side", 64, "--threads", 1)
    assert done.exit_code == 0, done.output
    assert "2 images, 0.0 megapixels HR, x4; LR made for 2, read for 0; 0 left out" in done.output

    before = signal.getsignal(signal.SIGTERM)
    done = run(
        "train", "--recipe", "hasn-x4-small", "--data", tmp_path / "data", "--val", f"P={photos}",
        "-o", tmp_path / "run", "--iterations", 4, *settings(), "--threads", 1, "--device", "cpu",
        "--set", "optimizer.schedule=constant",  # a run whose rate has decayed is not made longer
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert signal.getsignal(signal.SIGTERM) is before
    assert "4/4  loss" in done.output
    assert "ETA 0:00 h" in done.output
    assert " P " in done.output
    assert "(bicubic " in done.output
    assert (tmp_path / "run/best.safetensors").is_file()

    more = run("train", "--resume", tmp_path / "run", "--iterations", 6, "--threads", 1, "--device", "cpu")
    assert more.exit_code == 0, more.output
    assert "6/6  loss" in more.output
    assert "2/6" not in more.output


@pytest.mark.slow
def test_decayed_weights_beside_a_run_that_goes_on(photos, tmp_path):
    run(
        "train", "--recipe", "hasn-x4-small", "--data", photos, "-o", tmp_path / "run", "--iterations", 100,
        *settings(), "--set", "optimizer.schedule=wsd", "--set", "keep_at=[2]", "--set", "iterations=4",
        "--threads", 1, "--device", "cpu",
    )  # fmt: skip
    done = run(
        "train", "--branch", f"{tmp_path / 'run'}@2", "-o", tmp_path / "decayed",
        "--set", "optimizer.decay=0.33", "--threads", 1, "--device", "cpu",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "3/3  loss" in done.output
    assert (tmp_path / "decayed/best.safetensors").is_file()


@pytest.mark.slow
def test_photographs_that_were_not_prepared_are_prepared_first(photos, tmp_path):
    done = run(
        "train", "--recipe", "hasn-x4-small", "--data", photos, "-o", tmp_path / "run", "--iterations", 1,
        *settings(), "--threads", 1, "--device", "cpu",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "not prepared yet; preparing it into" in done.output
    assert (tmp_path / "run/data/0/shards.json").is_file()


def test_the_data_of_a_run_is_not_replaced_by_another_begin(photos, tmp_path):
    """Its ``--resume`` would refuse other data."""
    folder = tmp_path / "run"
    (folder / "states").mkdir(parents=True)
    (folder / "states/state-000000002.pt").write_bytes(b"never read")
    done = run("train", "--recipe", "hasn-x4-small", "--data", photos, "-o", folder, *settings())
    assert done.exit_code == 1
    assert "holds a run already" in done.output
    assert f"run: hasn-edge train --resume {folder}" in done.output
    assert not (folder / "data").exists()


@pytest.mark.skipif(not CAN_LOCK, reason="nothing can be locked here")
def test_of_two_that_begin_in_one_folder_the_second_is_refused_before_it_prepares(
    photos, tmp_path, monkeypatch
):
    arguments = (
        "train", "--recipe", "hasn-x4-small", "--data", photos, "-o", tmp_path / "run", "--device", "cpu",
        *settings(),
    )  # fmt: skip
    asked = []

    def prepare_slowly(*_arguments, **_more):
        command = [sys.executable, "-m", "hasn_edge", *map(str, arguments)]
        asked.append(subprocess.run(command, capture_output=True, text=True, check=False, timeout=120))
        raise InputError("that is enough")

    monkeypatch.setattr(prepare, "prepare", prepare_slowly)
    assert run(*arguments).output.splitlines()[-1] == "Error: that is enough"
    (second,) = asked
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr == (
        f"Error: {tmp_path / 'run'}: another process is training this run; stop it first, or train in "
        "another folder\n"
    )
    assert not (tmp_path / "run").exists()


def test_an_interrupt_before_the_first_step_ends_at_once(photos, tmp_path, monkeypatch):
    """Which memory format is faster takes minutes to find out on a busy machine."""

    def measure(*_arguments):
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it went on")

    monkeypatch.setattr(runs, "faster_memory_format", measure)
    done = run(
        "train", "--recipe", "hasn-x4-small", "--data", photos, "-o", tmp_path / "run", *settings(),
        "--set", "memory_format=auto", "--threads", 1, "--device", "cpu",
    )  # fmt: skip
    assert done.exit_code == 128 + signal.SIGTERM, done.output
    assert done.stderr.splitlines()[-1] == "Interrupted before the first step; nothing half-written was kept"
    assert not (tmp_path / "run/run.json").exists()


@pytest.mark.slow
def test_the_loader_is_measured_beside_the_network(photos, tmp_path):
    run("data", "prepare", photos, "-o", tmp_path / "data", "--min-side", 64, "--threads", 1)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        'name = "tiny"\nmodel = {features = 8, blocks = 1}\nphases = [{patch = 60, batch_size = 2}]\n'
    )
    done = run("data", "bench", tmp_path / "data", "--recipe", recipe, "--seconds", 0.1, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.output.splitlines()[1:]] == ["loader", "network", "ratio"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "a new run needs --recipe and --data"),
        (("--recipe", "nothing", "--data", "."), 1, "no recipe called 'nothing'"),
        (
            ("--recipe", "hasn-x4-small", "--data", ".", "--set", "optimizer.rate=1"),
            1,
            "--set 'optimizer.rate=1': unknown key optimizer.rate",
        ),
        (("--resume", ".", "--recipe", "hasn-x4-small"), 2, "continues a run as it began"),
        (("--resume", "."), 1, "not a training run"),
        (("--resume", ".", "--set", "seed=1"), 2, "for another decay use --branch"),
        (("--branch", ".", "-o", "x", "--init", "hasn-x4"), 2, "goes on from a run as it began"),
        (("--branch", "."), 2, "give its folder with -o"),
        (("--branch", ".", "-o", "x"), 1, "not a training run"),
    ],
)
def test_mistakes_are_one_message(arguments, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("train", *arguments)
    assert (done.exit_code, message in done.output) == (code, True), done.output
    assert "Traceback" not in done.output


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_bar_has_the_figures_and_validations_stay_above_it(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "__stdout__", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with train._display(DistributedContext(device=torch.device("cpu"))) as show:
        show(Step("loss 0.1", 50, 200))
        show(Step("loss 0.2  Set5 31.5 dB", 100, 200, keep=True))
        show(Step("loss 0.3", 150, 200))
    lines = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", screen.getvalue()).replace("\r", "\n").splitlines()
    assert [line for line in lines if line.startswith(("50/", "100/", "150/"))] == [
        "100/200  loss 0.2  Set5 31.5 dB"
    ]
    assert any(re.search(r"150/200 .*loss 0\.3", line) for line in lines)  # behind the bar


def test_unusable_images_are_one_message(tmp_path):
    write_image(tmp_path / "photos/a.png", np.zeros((20, 20, 3), np.uint8))
    done = run("data", "prepare", tmp_path / "photos", "-o", tmp_path / "data")
    assert done.exit_code == 1
    assert "a.png: 20 x 20 pixels; the shortest side must be 192" in done.output


def test_photographs_with_an_unusable_one_can_be_trained_on_as_the_message_says(photos, tmp_path):
    write_image(photos / "small.png", np.zeros((20, 20, 3), np.uint8))
    words = ("train", "--recipe", "hasn-x4-small", *settings(), "--threads", 1, "--device", "cpu")
    done = run(*words, "--data", photos, "-o", tmp_path / "run")
    assert done.exit_code == 1
    said = re.search(r"or run: hasn-edge (.*), and train with --data DIR", done.output)
    assert said is not None, done.output
    command = said[1].replace("DIR", str(tmp_path / "data")).split()
    assert command[-1] == "--skip-bad"
    assert run(*command).exit_code == 0
    assert len(Shards(tmp_path / "data")) == 2


def test_a_recipe_is_shown_as_a_file_to_start_from(tmp_path):
    done = run("train", "--recipe", "hasn-x4-small", "--set", "iterations=50", "--show")
    assert done.exit_code == 0, done.output
    assert "# Peak learning rate." in done.output
    (tmp_path / "mine.toml").write_text(done.output)
    assert load_recipe(str(tmp_path / "mine.toml")) == load_recipe("hasn-x4-small", ("iterations=50",))
    assert run("train", "--show").exit_code == 2
