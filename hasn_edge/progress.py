"""What long work reports while it goes on: one callback type for every verb."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """What is under way now."""

    text: str
    """The thing that is worked on, in a few words: ``"timing hasn-x4-int8.onnx"``."""
    done: int | None = None
    """How many of ``total`` are finished; ``None`` where nothing is counted."""
    total: int | None = None
    """How many there are, where that is known."""
    keep: bool = False
    """Whether the text states a result that should stay on the screen: the scores of a validation."""


Progress = Callable[[Step], None]
"""Called in the thread that works, each time something else begins; it may raise to stop the work."""


def ignore(step: Step) -> None:
    """Report to no one: the default of every ``progress`` argument."""
