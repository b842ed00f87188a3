"""Fixtures of the device tests: three boards as folders."""

from __future__ import annotations

import pytest

from tests.support import boards


@pytest.fixture
def orin_nano(tmp_path):
    return boards.orin_nano(tmp_path / "orin-nano")


@pytest.fixture
def agx_orin(tmp_path):
    return boards.agx_orin(tmp_path / "agx-orin")


@pytest.fixture
def xavier_nx(tmp_path):
    return boards.xavier_nx(tmp_path / "xavier-nx")
