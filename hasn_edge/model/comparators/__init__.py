"""Networks of other papers, written from them: to compare cost with, at random weights."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from hasn_edge.errors import InputError

if TYPE_CHECKING:
    from hasn_edge.model.comparators.comparator import Comparator

NAMES = ("fsrcnn", "imdn", "rfdn", "span")
"""Those that there are; each has a module of its name."""


def make_comparator(name: str) -> Comparator:
    """Return the x4 network called ``name`` in evaluation mode, with PyTorch's random weights.

    Raises:
        InputError: no network is called so; those that there are are listed.
        MissingDependencyError: PyTorch is not installed.
    """
    if name not in NAMES:
        raise InputError(f"no network called {name!r} to compare with; choose from: {', '.join(NAMES)}")
    module = importlib.import_module(f"hasn_edge.model.comparators.{name}")
    network: Comparator = module.make().eval().requires_grad_(False)
    return network
