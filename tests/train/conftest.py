"""A small set of prepared images and a network that trains in milliseconds."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from hasn_edge.data.resize import imresize
from hasn_edge.data.shards import Shards, ShardWriter
from hasn_edge.images.codec import write_image
from hasn_edge.spec import ModelSpec
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.loop import train_run
from hasn_edge.train.recipe import (
    InitConfig,
    InitKind,
    MemoryFormat,
    OptimizerConfig,
    Phase,
    Recipe,
    Schedule,
)
from hasn_edge.train.runs import begin_run

TINY = ModelSpec(
    features=8, blocks=1, expansion=2, esa_channels=4, cab_compression=2, cab_reduction=4, residual=True
)


def image(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth random colours: something a network can learn to upscale."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return imresize(coarse, size=(height, width))


@contextmanager
def one_thread():
    """Runs are bit-identical with the same number of threads only."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")  # runs that a module shares must have it too
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Shards:
    folder = tmp_path_factory.mktemp("shards")
    writer = ShardWriter(folder, 4)
    with writer:
        for number, (height, width) in enumerate(((96, 128), (160, 80), (88, 88))):
            hr = image(height, width, number)
            writer.add(f"{number}.png", imresize(hr, scale=0.25), hr)
    return writer.publish({})


@pytest.fixture(scope="session")
def eval_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("eval") / "HR"
    for number in range(2):
        write_image(folder / f"{number}.png", image(80, 96, 100 + number))
    return folder.parent


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(
        name="tiny",
        model=TINY,
        iterations=12,
        phases=(Phase(until=0.5, patch=60, batch_size=4), Phase(until=1.0, patch=72, batch_size=2)),
        optimizer=OptimizerConfig(lr=2e-3, schedule=Schedule.COSINE, warmup=3),
        init=InitConfig(kind=InitKind.DELTA, gate_bias=2.0),
        ema=0.9,
        ema_warmup=True,
        validate_every=6,
        checkpoint_every=4,
        keep=2,
        memory_format=MemoryFormat.CONTIGUOUS,  # measured, two runs could differ
    )


@pytest.fixture(scope="session")
def finished(recipe, shards, eval_folder, tmp_path_factory):
    """A whole run, which the tests only read, and the steps that it reported."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    steps = []
    run = begin_run(recipe, folder, data=[shards.folder], sets=[f"Two={eval_folder}"], start=None)
    with one_thread():  # this fixture may be made before that of the module
        train_run(folder, run, DistributedContext(device=torch.device("cpu")), progress=steps.append)
    return folder, steps
