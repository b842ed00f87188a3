"""Real processes: killed, interrupted, and several at once. Each loads PyTorch, so they are few."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from hasn_edge.config import dump_config
from hasn_edge.errors import ConfigError, UnsupportedError
from hasn_edge.train.distributed import DistributedContext, join_processes
from hasn_edge.train.loop import train_run
from hasn_edge.train.recorder import read_log
from hasn_edge.train.run_folder import load_state, read_run_file, saved_iterations, state_path
from hasn_edge.train.runs import begin_run

ALONE = DistributedContext(rank=0, size=1, device=torch.device("cpu"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_a_batch_is_shared_out_whole_and_once():
    parts = [
        DistributedContext(rank=r, size=2, device=torch.device("cpu")).part(12, 3, i)
        for i in range(3)
        for r in range(2)
    ]
    assert sorted(n for p in parts for n in range(12)[p]) == list(range(12))
    with pytest.raises(ConfigError, match="12 cannot be shared by 1 process in 5 passes"):
        ALONE.part(12, 5, 0)


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnsupportedError, match="sees no CUDA device"), join_processes("cuda:1"):
        pass
    for name in ("tpu", "cuda:x", "cpu:x"):
        with pytest.raises(UnsupportedError, match="expected auto, cpu"), join_processes(name):
            pass
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UnsupportedError, match="'cuda:2': PyTorch sees 2 here"), join_processes("cuda:2"):
        pass
    for name, value in (("RANK", "2"), ("LOCAL_RANK", "2"), ("WORLD_SIZE", "3")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UnsupportedError, match="'cuda:2': .*; start no more"), join_processes("cuda"):
        pass


@pytest.fixture
def long_recipe(recipe, tmp_path):
    from dataclasses import replace

    long = replace(recipe, iterations=150, checkpoint_every=10, validate_every=1000, keep=3)
    path = tmp_path / "long.toml"
    path.write_text(dump_config(long, comments=False))
    return long, path


def command(*arguments):
    return [sys.executable, "-m", "hasn_edge", "train", "--device", "cpu", *map(str, arguments)]


def wait_for_state(process, folder, iteration):
    until = time.monotonic() + 120
    while not saved_iterations(folder) or saved_iterations(folder)[0] < iteration:
        assert process.poll() is None, "the run ended before it was to be stopped"
        assert time.monotonic() < until
        time.sleep(0.01)


def final(folder):
    return load_state(state_path(folder, saved_iterations(folder)[0]))


def same(a, b):
    return all(
        torch.equal(a[part][name], b[part][name]) for part in ("model", "ema") for name in a[part]
    ) and all(
        torch.equal(one["state"][i][key], other["state"][i][key])
        for one, other in zip(a["optimizers"], b["optimizers"], strict=True)
        for i in one["state"]
        for key in ("exp_avg", "exp_avg_sq", "step")
    )


@pytest.mark.slow
def test_a_killed_and_an_interrupted_run_end_bit_identical_to_an_undisturbed_one(
    long_recipe, shards, tmp_path
):
    recipe, path = long_recipe
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "disturbed"
    train_run(undisturbed, begin_run(recipe, undisturbed, data=[shards.folder], sets=[], start=None), ALONE)

    arguments = command("--recipe", path, "--data", shards.folder, "-o", folder, "--threads", 1)
    with subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.DEVNULL) as process:
        wait_for_state(process, folder, 20)
        process.kill()
    killed_at = saved_iterations(folder)[0]
    assert killed_at < recipe.iterations

    # A power cut may also have left half of the newest state: the one before it serves.
    newest = state_path(folder, killed_at)
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    arguments = command("--resume", folder, "--threads", 1)
    with subprocess.Popen(arguments, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        wait_for_state(process, folder, killed_at + 10)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert f"{newest.name}: truncated or damaged" in said
    assert f"continue with: hasn-edge train --resume {folder}" in said
    stopped_at = saved_iterations(folder)[0]
    assert killed_at < stopped_at < recipe.iterations

    train_run(folder, read_run_file(folder), ALONE)
    assert same(final(undisturbed), final(folder))
    losses = [
        [(r["iteration"], r["loss"]) for r in read_log(f / "log.csv")][-3:] for f in (undisturbed, folder)
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_two_processes_train_as_one_does(recipe, shards, eval_folder, tmp_path):
    from dataclasses import replace

    recipe = replace(recipe, accumulate=2, phases=(replace(recipe.phases[0], until=1.0),), iterations=6)
    path = tmp_path / "two.toml"
    path.write_text(dump_config(recipe, comments=False))
    arguments = [
        "--recipe",
        path,
        "--data",
        shards.folder,
        "-o",
        tmp_path / "two",
        "--val",
        f"Two={eval_folder}",
    ]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*launcher, *command(*arguments)[1:]], env=ENVIRONMENT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("6 iterations on cpu") == 1  # one process speaks

    one = tmp_path / "one"
    train_run(
        one, begin_run(recipe, one, data=[shards.folder], sets=[f"Two={eval_folder}"], start=None), ALONE
    )
    a, b = final(one), final(tmp_path / "two")
    # Adam divides by the gradient's size, so differences of the sums' order (1e-8) show as 1e-6 or so.
    for name, tensor in a["model"].items():
        assert torch.allclose(tensor, b["model"][name], atol=3e-5), name
    scores = [
        [float(r["psnr_y"]) for r in read_log(f / "log.csv") if r["set"]] for f in (one, tmp_path / "two")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)
