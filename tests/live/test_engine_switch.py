"""Changing the engine of a run while frames keep coming, and the notices of it."""

from __future__ import annotations

import threading
import time

import pytest

from hasn_edge.errors import BuildError, InputError
from hasn_edge.live import engine_switch as switching
from hasn_edge.live.engine_switch import NOTICE_S, EngineSwitch
from hasn_edge.live.notices import Notice, RunState
from hasn_edge.live.pipeline import Live
from hasn_edge.live.sources.frame_source import PatternSource
from hasn_edge.spec import ModelSpec
from hasn_edge.video.runner import Runner
from tests.support.fake_session import FakeSession
from tests.support.live_rig import SIZE, Clock, Session, Watcher, recording, texts


def test_engines_are_changed_while_frames_keep_coming():
    opened: list[Session] = []

    def another() -> Session:
        time.sleep(0.1)
        opened.append(Session(seconds=0.001))
        return opened[-1]

    class Chooser(Watcher):
        def show(self, shown):
            super().show(shown)
            if len(self.shown) == 3:
                self._live.select("other")
            if shown.engine == "other" and self.shown[-2].engine == "other":
                self._live.stop()

    first, view = Session(), Chooser()
    live = Live(
        PatternSource(SIZE, fps=100), first, [view], name="first", engines={"other": another}, seconds=5
    )
    live.run()
    assert live.engines == ("other", "first")
    assert live.engine == "other"
    names = [shown.engine for shown in view.shown]
    assert names == sorted(names, key=["first", "other"].index)
    assert names.count("first") > 5, "frames went on while the other one was opened"
    assert "Opening other" in view.messages
    assert view.messages[-1] == "other computes now"
    assert live.stats.notices == ["Opening other", "other computes now"]
    used = live.stats.snapshot()["engines_used"]
    assert list(used) == ["first", "other"]
    assert used == {name: names.count(name) for name in used}
    assert opened[0].closed
    assert not first.closed


def test_going_back_to_the_first_engine_closes_the_other_and_opens_nothing():
    opened: list[Session] = []

    class Chooser(Watcher):
        def show(self, shown):
            super().show(shown)
            if len(self.shown) == 3:
                self._live.select("other")
            if shown.engine == "other" and self.shown[-2].engine != "other":
                self._live.select("first")
            if shown.engine == "first" and "other" in [before.engine for before in self.shown]:
                self._live.stop()

    def other() -> Session:
        opened.append(Session())
        return opened[-1]

    first, view = Session(), Chooser()
    engines = {"other": other, "first": lambda: pytest.fail("opened again")}
    live = Live(PatternSource(SIZE, fps=100), first, [view], name="first", engines=engines, seconds=5)
    live.run()
    assert [session.closed for session in opened] == [True]
    assert not first.closed
    names = [shown.engine for shown in view.shown]
    assert names[0] == names[-1] == "first"
    assert "other" in names


def test_an_engine_that_cannot_be_opened_is_reported_and_the_old_one_goes_on():
    def broken() -> Session:
        raise BuildError("broken.engine: made for another GPU")

    class Chooser(Watcher):
        def show(self, shown):
            super().show(shown)
            if len(self.shown) == 2:
                self._live.select("broken")

    view = Chooser()
    live = Live(PatternSource(SIZE, fps=50), FakeSession(), [view], engines={"broken": broken}, seconds=0.5)
    live.run()
    assert "made for another GPU" in view.messages[-1]
    assert {shown.engine for shown in view.shown} == {"engine"}
    assert len(view.shown) > 10


def failing_switch() -> tuple[EngineSwitch, Clock, list[Notice | None]]:
    """Return one whose second engine could not be opened just now, a clock, and the notices."""

    def broken() -> Session:
        raise BuildError("made for another GPU")

    clock, told = Clock(), []
    switch = EngineSwitch(Runner(Session()), "first", {"broken": broken}, told.append, clock)
    switch.select("broken")
    deadline = time.monotonic() + 20
    while switch._opener is not None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert [notice.state for notice in told] == [RunState.OPENING, RunState.TROUBLE]
    assert told[0].opening == "broken"
    assert texts(told) == [
        "Opening broken",
        "broken could not be opened, first goes on: made for another GPU",
    ]
    return switch, clock, told


def test_the_notice_of_an_engine_that_failed_goes_away():
    switch, clock, told = failing_switch()
    clock.now += NOTICE_S - 1
    switch.tend()
    assert told[-1] is not None
    clock.now += 2
    switch.tend()
    switch.tend()
    assert texts(told[2:]) == [None]


def test_choosing_the_engine_that_computes_is_an_answer_to_a_failure():
    switch, _, told = failing_switch()
    switch.select("first")
    switch.select("first")
    assert texts(told[2:]) == [None]


def opened_switch(**engines: FakeSession) -> tuple[EngineSwitch, Clock, list[Notice | None]]:
    """Return one that computes with ``first`` and has opened the others, the last one being pending."""
    clock, told = Clock(), []
    opens = {name: lambda session=session: session for name, session in engines.items()}
    switch = EngineSwitch(Runner(FakeSession(size=SIZE)), "first", opens, told.append, clock)
    select(switch, *engines)
    return switch, clock, told


def select(switch: EngineSwitch, *names: str) -> None:
    for name in names:
        switch.select(name)
        deadline = time.monotonic() + 20
        while switch._opener is not None:
            assert time.monotonic() < deadline
            time.sleep(0.002)


def test_the_notice_that_an_engine_computes_goes_away():
    switch, clock, told = opened_switch(other=FakeSession())
    switch.current(swap=False, size=SIZE)
    assert texts(told) == ["Opening other"]
    switch.current(swap=True, size=SIZE)
    switch.current(swap=True, size=SIZE)
    clock.now += NOTICE_S - 1
    switch.tend()
    assert texts(told) == ["Opening other", "other computes now"]
    clock.now += 2
    switch.tend()
    switch.tend()
    assert texts(told[2:]) == [None]


def test_an_engine_that_takes_another_size_is_noticed_when_it_begins():
    switch, _, told = opened_switch(small=FakeSession(size=(32, 40)))
    switch.current(swap=True, size=SIZE)
    text = "small computes now; small takes 40x32: frames of 64x48 are padded or computed in tiles"
    assert texts(told) == ["Opening small", text]
    select(switch, "first")
    switch.current(swap=True, size=SIZE)
    assert texts(told[2:]) == ["Opening first", "first computes now"]


def test_the_size_in_the_notice_is_that_of_the_frames():
    class Chooser(Watcher):
        def show(self, shown):
            super().show(shown)
            if len(self.shown) == 2:
                self._live.select("small")
            if shown.engine == "small":
                self._live.stop()

    live = Live(
        PatternSource(SIZE, fps=50),
        FakeSession(),
        [Chooser()],
        engines={"small": lambda: FakeSession(size=(32, 40))},
        seconds=20,
    )
    assert live.run().snapshot()["ended"] == "stopped"
    assert "small takes 40x32: frames of 64x48 are padded" in live.stats.notices[-1]


def test_while_one_begins_the_next_is_still_being_opened():
    going, told = threading.Event(), []

    def slow() -> Session:
        assert going.wait(20)
        return Session()

    switch = EngineSwitch(Runner(Session()), "first", {"a": Session, "b": slow}, told.append, Clock())
    select(switch, "a")
    switch.select("b")
    deadline = time.monotonic() + 20
    while told[-1].opening != "b":
        assert time.monotonic() < deadline
        time.sleep(0.002)
    switch.current(swap=True)
    assert told[-1] == Notice(state=RunState.OPENING, text="a computes now; opening b", opening="b")
    going.set()
    select(switch, "b")
    switch.current(swap=True)
    assert told[-1] == Notice(state=RunState.RUNNING, text="b computes now")


def test_an_engine_that_is_open_only_after_the_end_is_closed_and_never_computes():
    begun, going, late = threading.Event(), threading.Event(), Session()

    def slow() -> Session:
        begun.set()
        assert going.wait(20)
        return late

    switch = EngineSwitch(Runner(Session()), "first", {"late": slow}, [].append, Clock())
    switch.select("late")
    opener = switch._opener
    assert begun.wait(20)
    switch.close(time.monotonic(), keep=False)
    going.set()
    opener.join(20)
    assert late.closed
    assert not switch.pending
    assert switch.current(swap=True)[1] == "first"


def test_a_run_takes_back_the_notice_of_an_engine(monkeypatch):
    monkeypatch.setattr(switching, "NOTICE_S", 0.1)

    class Patient(Watcher):
        def show(self, shown):
            super().show(shown)
            stats = self._live.stats
            if any("enlarges 2 times" in text for text in stats.notices) and stats.notice is None:
                self._live.stop()

    view, engines = Patient(), {"x2": lambda: FakeSession(ModelSpec(scale=2))}
    live = Live(PatternSource(SIZE, fps=50), Session(), [view], engines=engines, seconds=20)
    live.select("x2")
    assert live.run().snapshot()["ended"] == "stopped"


def test_an_engine_of_another_scale_is_refused():
    view = Watcher()
    live = Live(
        PatternSource(SIZE, fps=50),
        FakeSession(),
        [view],
        engines={"x2": lambda: FakeSession(ModelSpec(scale=2))},
        seconds=0.4,
    )
    live.select("x2")
    live.run()
    assert live.engine == "engine"
    assert any("enlarges 2 times" in text for text in live.stats.notices)


def test_only_engines_that_exist_can_be_selected():
    live = Live(recording(1), FakeSession())
    with pytest.raises(InputError, match="no engine called 'x'; choose one of engine"):
        live.select("x")
    live.run()
