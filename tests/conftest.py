"""Fixtures that every test may use."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

SHARED_DATA = Path(os.environ.get("HASN_EDGE_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""Published pictures and weights that may be used for comparison but not redistributed."""


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"comparison data not found at {SHARED_DATA}; set HASN_EDGE_DATA to its folder")
    return SHARED_DATA
