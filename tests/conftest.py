"""Fixtures that every test may use."""

from __future__ import annotations

import os
import random
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # As many workers as cores: threads of each would wait for the others', in children of a test too.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

pytest_plugins = tuple(f"tests.support.{name}_fixtures" for name in ("board", "engine", "gpu", "live"))

pytest.register_assert_rewrite("tests.support.engine_runs", "tests.support.session_contract")

SHARED_DATA = Path(os.environ.get("HASN_EDGE_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""Published images and weights that may be used for comparison but not redistributed."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU unless ``-m gpu`` asks for it, and say so."""
    if "gpu" in config.option.markexpr:
        return
    left_out = pytest.mark.skip(reason="needs an NVIDIA GPU with its driver; run with: pytest -m gpu")
    for item in items:
        if item.get_closest_marker("gpu") is not None:  # keywords hold names of folders too
            item.add_marker(left_out)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"comparison data not found at {SHARED_DATA}; set HASN_EDGE_DATA to its folder")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network that is nearly a bilinear upsampler: its images look like images."""
    import torch

    from hasn_edge.model.checkpoint import save_checkpoint
    from hasn_edge.model.hasn import HASN
    from hasn_edge.spec import ModelSpec

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(path, HASN(ModelSpec(features=16, blocks=1)))
    return path
