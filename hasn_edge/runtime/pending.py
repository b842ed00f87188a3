"""A result that may still be under way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=NDArray[Any])
U = TypeVar("U", bound=NDArray[Any])


class Pending(Generic[T]):
    """What :meth:`~hasn_edge.runtime.session.Session.submit` returns: ask for the result when it is needed.

    Args:
        wait: Returns the result, after waiting for it where that is necessary; called once.
    """

    def __init__(self, wait: Callable[[], T]) -> None:
        self._wait: Callable[[], T] | None = wait
        self._result: T | None = None
        self._error: BaseException | None = None

    @classmethod
    def of(cls, result: T) -> Pending[T]:
        """Return one whose result is there already."""
        return cls(lambda: result)

    @classmethod
    def joined(cls, parts: Iterable[Pending[T]]) -> Pending[Any]:
        """Return one whose result are those of ``parts``, one after the other along the first axis."""
        waiting = list(parts)
        return cls(lambda: np.concatenate([part.result() for part in waiting]))  # type: ignore[return-value, arg-type]

    def result(self) -> T:
        """Return the result; blocks until it is in host memory. Every call returns the same array.

        Raises:
            HasnEdgeError: as ``run`` would have; again in every call.
        """
        if self._wait is not None:
            wait, self._wait = self._wait, None
            try:
                self._result = wait()
            except BaseException as exc:
                self._error = exc
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def then(self, change: Callable[[T], U]) -> Pending[U]:
        """Return one whose result is ``change(result)``, computed when it is asked for."""
        return Pending(lambda: change(self.result()))
