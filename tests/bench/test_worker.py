"""How a benched case opens what it times."""

from __future__ import annotations

from pathlib import Path

from hasn_edge.bench.worker import CaseSpec
from hasn_edge.runtime import open as opening
from tests.support.fake_session import FakeSession


def test_what_is_timed_compiles_its_kernels_before(monkeypatch):
    """TensorRT for RTX runs general kernels until those for a size are there: they would be what is timed."""
    asked = []

    def open_session(artifact, *, frame, eager, **rest):
        asked.append((frame, eager))
        return FakeSession()

    monkeypatch.setattr(opening, "open_session", open_session)
    case = CaseSpec(label="rtx", artifact=Path("x4.engine"))
    case.open((180, 320))
    case.open()  # to score images of many sizes, each once
    assert asked == [((180, 320), True), (None, False)]
