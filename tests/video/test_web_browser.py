"""The real page in a real Chromium: what a person would do, and what they would see."""

from __future__ import annotations

import base64
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import pytest
from live_rig import Session, Watcher
from web_rig import PATIENCE_S, Client, until

from hasn_edge.video.live import Live
from hasn_edge.video.source import PatternSource
from hasn_edge.video.web import WebView

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; apt-get install chromium"),
]

SIZE = (48, 64)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # As root, as in containers, Chromium's sandbox does not start.
        arguments = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@contextmanager
def running(**settings: Any) -> Iterator[tuple[WebView, Live, Watcher]]:
    """Run the test pattern live for as long as the block takes."""
    view, watcher = WebView(port=0, **settings), Watcher()
    source = PatternSource(SIZE, fps=10.0)
    live = Live(source, Session(), [view, watcher], name="first fp32", engines={"second int8": Session})
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


def first_picture(tab: Any) -> None:
    waits(tab, "picture.number >= 0")


def paused(tab: Any) -> None:
    """Pause and wait for the lossless picture."""
    tab.keyboard.press("Space")
    waits(tab, "byId('badge').textContent === 'Paused, lossless' && !picture.next")


def painted(tab: Any) -> np.ndarray:
    """Return what is on the canvas, as ``(H, W, 3)``."""
    tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    file = base64.b64decode(tab.evaluate("picture.canvas.toDataURL('image/png')").split(",")[1])
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_the_picture_moves_and_the_numbers_change(chromium):
    with running() as (view, _, _), page(chromium, view.addresses[0]) as tab:
        first_picture(tab)
        assert tab.title() == "pattern · hasn-edge live"
        before = tab.evaluate("picture.number"), painted(tab)
        waits(tab, f"picture.number > {before[0]} + 2")
        assert np.abs(painted(tab).astype(int) - before[1]).mean() > 0.5
        waits(tab, "parseFloat(byId('fps').textContent) > 0")
        waits(tab, "parseFloat(byId('latency').textContent) > 0")
        waits(tab, "byId('fps-name').textContent === 'On screen'")
        assert tab.locator("#stages tr").count() == 6
        assert "Waiting" in tab.locator("#stages").inner_text()
        assert "64×48 → 256×192" in tab.locator("#details").inner_text()
        first = tab.locator("#details").inner_text()
        waits(tab, f"byId('details').innerText !== {json.dumps(first)}")
        assert "p95" in tab.evaluate("byId('latency-chart').ariaLabel")
        drawn = "[...byId('fps-chart').getContext('2d').getImageData(0, 0, 200, 80).data].some(Boolean)"
        assert tab.evaluate(drawn)


def test_charts_show_a_gap_where_nothing_was_known(chromium):
    with running() as (view, _, _), page(chromium, view.addresses[0]) as tab:
        parts = "unbroken([1, 2, null, null, 3, null].map((p) => ({ p })), (s) => s.p)"
        assert tab.evaluate(f"{parts}.map((part) => part.map((s) => s.p))") == [[1, 2], [3]]
        assert tab.evaluate("unbroken([{}], (s) => s.p)") == []


def test_large_numbers_fit_their_tiles(chromium):
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
    for settings in (phone, {"viewport": {"width": 1280, "height": 800}}):
        with running() as (view, live, _), page(chromium, view.addresses[0], **settings) as tab:
            live.stats.drops = lambda: {"network busy": 1_234_567, "source": 0, "end of run": 0}
            waits(tab, "byId('dropped').textContent === '1.23M'")
            assert tab.evaluate("byId('dropped').title") == "1234567"
            assert "1234567" in tab.locator("#details").inner_text()
            width = settings["viewport"]["width"]
            assert tab.evaluate("document.documentElement.scrollWidth") == width
            assert tab.evaluate(
                "[...document.querySelectorAll('.tiles dd')].every((e) => "
                "e.classList.contains('small') || e.scrollWidth <= e.clientWidth)"
            )
            for count, text in ((99_999, [99_999, ""]), (100_000, ["100", "k"]), (999_600, ["1.00", "M"])):
                assert tab.evaluate(f"compact({count})") == text


def test_a_refused_still_does_not_block_the_next_one(chromium):
    with running() as (view, _, _), page(chromium, view.addresses[0]) as tab:
        first_picture(tab)
        refusals = "refused({ about: 'still', text: 'this picture is gone' })"
        assert tab.evaluate(f"still = {{ take() {{}} }}; {refusals}; still") is None
        assert tab.evaluate("still = { take() {} }; refused({ about: 'select', text: 'no' }); still !== null")
        tab.evaluate("still = null")
        with tab.expect_download():
            tab.get_by_label("Save a snapshot").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(chromium, scheme):
    """WCAG 2's contrast of at least 4.5, computed as it says."""

    def luminance(colour: str) -> float:
        levels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    with running() as (view, _, _), page(chromium, view.addresses[0], color_scheme=scheme) as tab:
        colour = {
            name: tab.evaluate(
                f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()"
            )
            for name in ("hasn", "hasn-ink", "other", "surface", "text", "muted", "ground", "raised")
        }
    for ink, behind in (
        ("hasn-ink", "hasn"),
        ("other", "surface"),
        ("text", "surface"),
        ("muted", "surface"),
        ("muted", "ground"),
        ("muted", "raised"),
    ):
        low, high = sorted(luminance(colour[name]) for name in (ink, behind))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, behind)


def test_the_divider_moves_by_mouse_and_keys(chromium):
    with running() as (view, _, _), page(chromium, view.addresses[0]) as tab:
        first_picture(tab)
        paused(tab)
        box = tab.locator("#stage").bounding_box()
        middle = box["y"] + box["height"] / 2
        tab.mouse.move(box["x"] + box["width"] / 2, middle)
        tab.mouse.down()
        tab.mouse.move(box["x"] + box["width"] * 0.25, middle, steps=3)
        tab.mouse.up()
        assert tab.locator("#divider").get_attribute("aria-valuenow") == "25"
        both = painted(tab)
        tab.get_by_role("radio", name="HASN").click()
        assert tab.locator("#divider").is_hidden()
        hasn = painted(tab)
        tab.keyboard.press("b")
        bicubic = painted(tab)
        edge = round(both.shape[1] * 0.25)
        assert np.abs(hasn.astype(int) - bicubic).mean() > 1
        np.testing.assert_array_equal(both[:, : edge - 2], bicubic[:, : edge - 2])
        np.testing.assert_array_equal(both[:, edge + 2 :], hasn[:, edge + 2 :])
        tab.keyboard.press("c")
        tab.keyboard.press("ArrowRight")
        assert tab.locator("#divider").get_attribute("aria-valuenow") == "27"


def test_zoom_is_the_same_for_both_halves(chromium):
    with running() as (view, _, watcher), page(chromium, view.addresses[0]) as tab:
        first_picture(tab)
        paused(tab)
        index = tab.evaluate("picture.shown.header.index")
        one = next(shown for shown in watcher.shown if shown.frame.index == index)
        for mode, pixels in (("hasn", one.upscaled), ("bicubic", one.frame.bicubic(4))):
            tab.evaluate(f"picture.show('{mode}'); picture.fit(); picture.zoomBy(8 / picture.perPixel())")
            assert tab.evaluate("picture.perPixel()") == pytest.approx(8)
            canvas = painted(tab)
            place = tab.evaluate("picture.place()")
            # The middles of the enlarged pixels hold the pixels of the frame, exactly.
            rows = np.arange(canvas.shape[0])
            sources = (rows + 0.5 - round(place["top"])) / 8
            inner = rows[(sources % 1 > 0.2) & (sources % 1 < 0.8)]
            columns = np.arange(200, canvas.shape[1] - 200)  # beside the map in the corner
            across = (columns + 0.5 - round(place["left"])) / 8
            columns = columns[(across % 1 > 0.2) & (across % 1 < 0.8)]
            expected = pixels[
                np.ix_(sources[inner].astype(int), ((columns + 0.5 - round(place["left"])) / 8).astype(int))
            ]
            np.testing.assert_array_equal(canvas[np.ix_(inner, columns)], expected)
        zoom = tab.evaluate("picture.zoom")
        tab.mouse.move(300, 300)
        tab.mouse.wheel(0, 200)
        waits(tab, f"picture.zoom < {zoom}")
        tab.keyboard.press("0")
        assert tab.evaluate("picture.zoom") == 1


def test_a_snapshot_is_what_the_network_computed(chromium, tmp_path):
    with running() as (view, _, watcher), page(chromium, view.addresses[0]) as tab:
        first_picture(tab)
        for mode in ("hasn", "compare"):
            tab.locator(f"[data-mode={mode}]").click()
            with tab.expect_download() as download:
                tab.get_by_label("Save a snapshot").click()
            name = download.value.suggested_filename
            download.value.save_as(tmp_path / name)
            saved = cv2.cvtColor(cv2.imread(str(tmp_path / name)), cv2.COLOR_BGR2RGB)
            index = int(name.split("frame")[1][:6])
            one = next(shown for shown in watcher.shown if shown.frame.index == index)
            part = 0 if mode == "hasn" else saved.shape[1] // 2
            np.testing.assert_array_equal(saved[:, part:], one.upscaled[:, part:])
            np.testing.assert_array_equal(saved[:, :part], one.frame.bicubic(4)[:, :part])


def test_the_selector_changes_the_engine(chromium):
    with running() as (view, live, _), page(chromium, view.addresses[0]) as tab:
        first_picture(tab)
        assert tab.locator("#engine option").all_inner_texts() == ["second int8", "first fp32"]
        assert tab.locator("#engine").input_value() == "first fp32"
        tab.locator("#engine").select_option("second int8")
        waits(tab, "picture.shown.header.engine === 'second int8'")
        assert live.engine == "second int8"
        live.select("first fp32")  # somebody else did
        waits(tab, "engine.value === 'first fp32'")


def test_pausing_is_one_viewers_own(chromium):
    with running() as (view, _, watcher), page(chromium, view.addresses[0]) as tab:
        first_picture(tab)
        tab.get_by_label("Pause").click()
        waits(tab, "byId('badge').textContent === 'Paused, lossless'")
        number, many = tab.evaluate("picture.number"), len(watcher.shown)
        until(lambda: len(watcher.shown) > many + 5)
        assert tab.evaluate("picture.number") == number
        tab.get_by_label("Go on").click()
        waits(tab, f"picture.number > {number}")


def test_a_second_viewer_joins_and_vanishes(chromium):
    with running() as (view, _, _), page(chromium, view.addresses[0]) as tab:
        first_picture(tab)
        viewers = (
            "[...byId('details').children].find((e) => e.textContent === 'Viewers').nextSibling.textContent"
        )
        with page(chromium, view.addresses[0]) as other:
            first_picture(other)
            waits(tab, f"{viewers} === '2'")
        waits(tab, f"{viewers} === '1'")
        number = tab.evaluate("picture.number")
        waits(tab, f"picture.number > {number} + 2")


def test_what_goes_wrong_is_said_over_the_picture(chromium):
    with running() as (view, live, _), page(chromium, view.addresses[0]) as tab:
        first_picture(tab)
        view.message("camera lost; trying again in 2 s")
        tab.wait_for_selector("#banner:not([hidden])")
        assert tab.locator("#banner").inner_text() == "Camera lost; trying again in 2 s"
        view.message(None)
        tab.wait_for_selector("#banner", state="hidden")
        live.stop()
        waits(tab, "byId('banner').textContent.startsWith('The run has ended')")


def test_the_token_leaves_the_address_and_lasts_as_long_as_the_tab(chromium):
    with running(token="a token & more") as (view, _, _):
        with page(chromium, view.addresses[0]) as tab:
            first_picture(tab)
            assert "token" not in tab.url
            tab.reload()
            first_picture(tab)
        with page(chromium, view.addresses[0].split("#")[0]) as tab:
            tab.wait_for_selector("#ask[open]")
            tab.locator("#token").fill("a wrong one")
            tab.keyboard.press("Enter")
            waits(tab, "byId('toast').textContent.includes('not the token')")
            tab.locator("#token").fill("a token & more")
            tab.keyboard.press("Enter")
            first_picture(tab)


def test_it_works_on_a_phone(chromium):
    phone = {
        "viewport": {"width": 360, "height": 740},
        "device_scale_factor": 2,
        "has_touch": True,
        "is_mobile": True,
    }
    with running() as (view, _, _), page(chromium, view.addresses[0], **phone) as tab:
        first_picture(tab)
        waits(tab, "byId('details').children.length > 0")
        assert tab.evaluate("document.documentElement.scrollWidth") == 360
        small = """[...document.querySelectorAll('.icon, [data-mode], select')].filter((e) => e.offsetHeight)
            .filter((e) => e.offsetHeight < 36 || e.offsetWidth < 36).length"""
        assert tab.evaluate(small) == 0, "too small for a finger"
        tab.get_by_label("Pause").tap()
        waits(tab, "byId('badge').textContent === 'Paused, lossless'")
        # Two fingers apart.
        session = tab.context.new_cdp_session(tab)
        box = tab.locator("#stage").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for kind, apart in (("touchStart", 20), ("touchMove", 40), ("touchMove", 60), ("touchEnd", None)):
            points = [] if apart is None else [{"x": x - apart, "y": y}, {"x": x + apart, "y": y}]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        waits(tab, "picture.zoom > 2.5")


def test_a_hidden_tab_is_sent_nothing(chromium):
    with running() as (view, _, watcher), page(chromium, view.addresses[0]) as tab:
        first_picture(tab)
        tab.evaluate(
            "Object.defineProperty(document, 'hidden', { value: true, configurable: true });"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        with Client(view) as barrier:
            barrier.watch(watch=False)
        encoded = view.server.pictures.encoded
        many = len(watcher.shown)
        until(lambda: len(watcher.shown) > many + 5)
        assert view.server.pictures.encoded <= encoded + 2, "what was under way"
        tab.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
        number = tab.evaluate("picture.number")
        waits(tab, f"picture.number > {number}")
