"""The one door through which optional packages enter."""

from __future__ import annotations

import importlib
import re
from importlib import metadata
from types import ModuleType

from hasn_edge.errors import MissingDependencyError


def require(module: str, *, extra: str, needed_for: str) -> ModuleType:
    """Import ``module`` now, or say which extra provides it.

    Args:
        module: Dotted import name, e.g. ``"onnxruntime"``.
        extra: Extra of hasn-edge that installs it, e.g. ``"export"``.
        needed_for: What the user was doing, as the start of a sentence.

    Raises:
        MissingDependencyError: ``module`` is not installed. A package that is installed but broken
            raises its own error, which is the useful one.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name is not None and exc.name.split(".")[0] != module.split(".")[0]:
            raise
        missing = module if exc.name is not None and "." in exc.name else module.partition(".")[0]
        raise MissingDependencyError(missing, extra=extra, needed_for=needed_for) from exc


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or ``None``; imports nothing."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def version_tuple(version: str) -> tuple[int, ...]:
    """Return the numbers of ``"10.13.3.9"``; what follows them (``"dev0"``) does not count."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])
