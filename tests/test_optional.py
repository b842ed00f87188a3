"""Optional packages: what is missing is named, with the extra that has it."""

from __future__ import annotations

import importlib
import re
from unittest.mock import Mock

import pytest

from hasn_edge.errors import MissingDependencyError
from hasn_edge.optional import require


@pytest.mark.parametrize(
    ("lacks", "message"),
    [
        (
            "hasn_fake",
            "the Python package 'hasn_fake', which is not installed; install it with: pip install 'h",
        ),
        (
            "hasn_fake.inside",
            "hasn_fake.inside.part, which the installed version of the Python package 'hasn_f",
        ),
    ],
)
def test_a_package_that_is_missing_and_one_that_is_too_old(monkeypatch, lacks, message):
    error = ModuleNotFoundError(f"No module named {lacks!r}", name=lacks)
    monkeypatch.setattr(importlib, "import_module", Mock(side_effect=error))
    with pytest.raises(MissingDependencyError, match=re.escape(f"The page needs {message}")):
        require("hasn_fake.inside.part", extra="demo", needed_for="The page")
