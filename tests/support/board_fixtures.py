"""Fixtures of the device tests: three boards as folders, and the management library of cards."""

from __future__ import annotations

import sys

import pytest

from tests.support import boards
from tests.support.fake_nvml import FakeNvml


@pytest.fixture
def orin_nano(tmp_path):
    return boards.orin_nano(tmp_path / "orin-nano")


@pytest.fixture
def agx_orin(tmp_path):
    return boards.agx_orin(tmp_path / "agx-orin")


@pytest.fixture
def xavier_nx(tmp_path):
    return boards.xavier_nx(tmp_path / "xavier-nx")


@pytest.fixture
def nvml(monkeypatch):
    def install(*names, **options):
        fake = FakeNvml(*names, **options)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return install
