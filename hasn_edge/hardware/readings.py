"""What was found out about a machine, and for what was not, why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(kw_only=True)
class Readings:
    """Values by name. ``None`` stands for what could not be read, with its reason in :attr:`reasons`."""

    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def ask(self, name: str, read: Callable[[], Any]) -> Any:
        """Store what ``read`` returns under ``name``; an :class:`OSError` or ``ValueError`` is the reason."""
        try:
            value = read()
        except (OSError, ValueError, LookupError) as exc:
            value = None
            self.reasons[name] = reason(exc)
        self.values[name] = value
        return value

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: every name, then the reasons of those that are ``None``."""
        return {**self.values, "not_read": dict(self.reasons)}


def reason(exc: Exception) -> str:
    """Say in a few words why a reading failed."""
    if isinstance(exc, PermissionError):
        return f"{exc.filename}: readable only by root"
    if isinstance(exc, FileNotFoundError):
        return f"{exc.filename}: no such file"
    if isinstance(exc, OSError) and exc.filename:
        return f"{exc.filename}: {exc.strerror}"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc.args[0]) if exc.args else type(exc).__name__


def text_of(path: Path) -> str:
    """Return a small file's text without trailing white space or the NUL of device trees."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\x00 \n\t")
    except OSError as exc:
        # Reading (not opening) a sensor that is switched off fails without a file name.
        raise type(exc)(exc.errno, exc.strerror, str(path)) from exc


def text_or_nothing(path: Path) -> str:
    """Return a small file's text likewise; an empty one where it cannot be read."""
    try:
        return text_of(path)
    except OSError:
        return ""
