"""What is closed at the end of a ``with`` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

Self = TypeVar("Self", bound="Closeable")


class Closeable(ABC):
    """Anything with a :meth:`close`, as a context manager."""

    @abstractmethod
    def close(self) -> None:
        """Free what it holds. Safe to call twice."""

    def __enter__(self: Self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.close()
