"""What the doctor found: a name, how it stands, and the cure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(str, Enum):
    """How a finding stands."""

    OK = "ok"
    MISSING = "missing"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fact about the machine, with the cure where something is wrong."""

    name: str
    state: State
    detail: str
    cure: str = ""

    @property
    def wrong(self) -> bool:
        """Whether there is something to mend."""
        return self.state in (State.MISSING, State.WARNING)

    def to_dict(self) -> dict[str, str]:
        """Return plain JSON values."""
        return {"name": self.name, "state": self.state.value, "detail": self.detail, "cure": self.cure}
