"""The real page in a real Chromium, for the tests that use it: running it, opening it, looking at it."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np

from hasn_edge.live.pipeline import Live
from hasn_edge.live.sources.frame_source import PatternSource
from hasn_edge.live.web.view import WebView
from tests.support.live_rig import Session, Watcher
from tests.support.web_rig import PATIENCE_S, until

SIZE = (48, 64)


@contextmanager
def running(
    engines: dict[str, Any] | None = None, **settings: Any
) -> Iterator[tuple[WebView, Live, Watcher]]:
    """Run the test pattern live for as long as the block takes."""
    view, watcher = WebView(**{"port": 0, **settings}), Watcher()
    source = PatternSource(SIZE, fps=10.0)
    engines = engines or {"second int8": Session}
    live = Live(source, Session(), [view, watcher], name="first fp32", engines=engines)
    thread = threading.Thread(target=live.run)
    thread.start()
    until(lambda: view.addresses)
    try:
        yield view, live, watcher
    finally:
        live.stop()
        thread.join(5)
        assert not thread.is_alive()


@contextmanager
def page(chromium: Any, address: str, **settings: Any) -> Iterator[Any]:
    """Open the page; nothing may be wrong in its console but connections that end."""
    # A small window is quickly painted where there is no GPU.
    context = chromium.new_context(**{"viewport": {"width": 720, "height": 560}, **settings})
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
    tab.set_default_timeout(20_000)
    tab.goto(address)
    try:
        yield tab
    finally:
        context.close()
    assert [text for text in wrong if "WebSocket connection" not in text] == []


def waits(tab: Any, condition: str) -> None:
    """Wait until an expression holds; not by Playwright, which evaluates strings as the policy forbids."""
    deadline = time.monotonic() + PATIENCE_S
    while not tab.evaluate(condition):
        assert time.monotonic() < deadline, condition
        tab.wait_for_timeout(30)


def first_image(tab: Any) -> None:
    waits(tab, "view.number >= 0")


def paused(tab: Any) -> None:
    """Pause and wait for the lossless image."""
    tab.keyboard.press("Space")
    waits(tab, "byId('badge').textContent === 'Paused, lossless' && !view.next")


def painted(tab: Any) -> np.ndarray:
    """Return what is on the canvas, as ``(H, W, 3)``."""
    tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    file = base64.b64decode(tab.evaluate("view.canvas.toDataURL('image/png')").split(",")[1])
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
