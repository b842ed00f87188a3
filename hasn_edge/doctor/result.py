"""What one check of the doctor found: a name, how it stands, and what helps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hasn_edge.errors import Cure


class State(str, Enum):
    """How a result stands."""

    OK = "ok"
    MISSING = "missing"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """One fact about the machine."""

    name: str
    state: State
    detail: str
    cures: tuple[Cure, ...] = ()
    """What helps where something is wrong, any one of them; what to do next where all is well."""

    @property
    def wrong(self) -> bool:
        """Whether there is something to repair."""
        return self.state in (State.MISSING, State.WARNING)
