"""What a live run reports while it goes on: a state for programs, and a sentence for people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from hasn_edge.errors import Cure, HasnEdgeError


class Tell(Protocol):
    """Receives a sentence for the user, and what helps."""

    def __call__(self, text: str, *cures: Cure, note: bool = False) -> None:
        """Print both, in the words of whoever started the run; a note explains, and nothing is amiss."""


class RunState(str, Enum):
    """How a run is; what a view does depends on this, never on the words of a notice."""

    RUNNING = "running"
    """All is well."""
    OPENING = "opening"
    """Another engine is being opened, and frames go on with the old one."""
    TROUBLE = "trouble"
    """The source is lost or damaged, or an engine could not be opened."""
    ENDED = "ended"
    """It is over."""


_WORST_FIRST = (RunState.TROUBLE, RunState.OPENING, RunState.RUNNING, RunState.ENDED)


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something that the user should know at the moment."""

    state: RunState
    text: str
    """One or several sentences."""
    cures: tuple[Cure, ...] = ()
    """What helps; the run adds them to the text in the words of whoever started it."""
    opening: str | None = None
    """The engine that is being opened."""


def trouble(text: str, *cures: Cure) -> Notice:
    """Return the notice of something that went wrong, and what helps."""
    return Notice(state=RunState.TROUBLE, text=text, cures=cures)


def join_notices(notices: Iterable[Notice]) -> Notice | None:
    """Return what holds at the same time as one notice, in the worst of the states; ``None`` of none."""
    every = [*notices]
    if len(every) < 2:
        return every[0] if every else None
    return Notice(
        state=min((notice.state for notice in every), key=_WORST_FIRST.index),
        text="; ".join(notice.text for notice in every),
        cures=tuple(cure for notice in every for cure in notice.cures),
        opening=next((notice.opening for notice in every if notice.opening is not None), None),
    )


def words_of(error: BaseException) -> tuple[str, tuple[Cure, ...]]:
    """Return an error's message and what helps against it, apart."""
    return (error.message, error.cures) if isinstance(error, HasnEdgeError) else (str(error), ())
