"""Fixtures of the doctor's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from hasn_edge.doctor.environment import Environment
from tests.support.environments import make_desktop, make_jetson


@pytest.fixture
def desktop(tmp_path: Path) -> Environment:
    return make_desktop(tmp_path)


@pytest.fixture
def jetson(orin_nano: Path) -> Environment:
    return make_jetson(orin_nano)
