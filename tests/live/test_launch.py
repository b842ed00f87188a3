"""Where a live run is shown: a window, the browser or nowhere."""

from __future__ import annotations

import pytest

from hasn_edge.errors import UnsupportedError, say
from hasn_edge.live import launch
from hasn_edge.live.launch import DemoOptions
from hasn_edge.live.views.window_check import IN_THE_BROWSER
from tests.support.live_rig import Told


def views(monkeypatch, **working: bool) -> tuple[list, list[str]]:
    """Choose a view with those that work; return the views and what was told."""

    def opener(name):
        def open_(request, tell):
            if not working[name]:
                raise UnsupportedError(f"{name} does not work", say(f"repair the {name}"), IN_THE_BROWSER)
            return f"{name} at {request.host}:{request.port}"

        return open_

    monkeypatch.setattr(launch, "_OPEN", {name: opener(name) for name in working})
    told = Told()
    return launch._views(DemoOptions(model="m", host="h", port=1), told), told


def test_the_view_is_a_window_else_the_browser_else_none(monkeypatch):
    monkeypatch.setattr(launch, "has_display", lambda: False)
    assert views(monkeypatch, window=True, web=True) == (["window at h:1"], [])
    assert views(monkeypatch, window=False, web=True) == (["web at h:1"], [])
    chosen, told = views(monkeypatch, window=False, web=False)
    assert chosen == []
    assert told == [
        "nothing is shown, only measured (window: window does not work; web: web does not work); "
        "repair the window, or repair the web"
    ]


def test_where_a_window_is_expected_it_is_said_why_there_is_none(monkeypatch):
    monkeypatch.setattr(launch, "has_display", lambda: True)
    assert views(monkeypatch, window=True, web=True)[1] == []
    (told,) = views(monkeypatch, window=False, web=True)[1]
    assert told == "shown in the browser: window does not work; repair the window"


def test_a_view_that_was_asked_for_must_work(monkeypatch):
    monkeypatch.setattr(
        launch, "_OPEN", {"web": lambda request, tell: (_ for _ in ()).throw(UnsupportedError("no"))}
    )
    with pytest.raises(UnsupportedError):
        launch._views(DemoOptions(model="m", view="web"), Told())
