"""The door to the WebSocket library."""

from __future__ import annotations

from typing import Any

from hasn_edge.optional import require


def websockets(module: str) -> Any:
    """Return a module of the package ``websockets``, e.g. ``"exceptions"``.

    Raises:
        MissingDependencyError: it is not installed.
    """
    return require(f"websockets.{module}", extra="demo", needed_for="The web view")
