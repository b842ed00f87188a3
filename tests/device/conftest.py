"""Fixtures of the device tests: three boards as folders."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("boards", Path(__file__).with_name("boards.py"))
boards = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(boards)


@pytest.fixture
def orin_nano(tmp_path):
    return boards.orin_nano(tmp_path / "orin-nano")


@pytest.fixture
def agx_orin(tmp_path):
    return boards.agx_orin(tmp_path / "agx-orin")


@pytest.fixture
def xavier_nx(tmp_path):
    return boards.xavier_nx(tmp_path / "xavier-nx")
