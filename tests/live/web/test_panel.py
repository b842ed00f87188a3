"""The page around the image, in a real Chromium: figures, charts, colours, the engine, what is told."""

from __future__ import annotations

import json
import re
import threading
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from hasn_edge.errors import BuildError
from hasn_edge.live.frame import FrameQuality
from hasn_edge.live.notices import Notice, RunState, trouble
from hasn_edge.live.web import document, messages
from tests.support.browser_rig import first_image, page, painted, running, waits
from tests.support.live_rig import Session
from tests.support.web_rig import port, shown

pytestmark = pytest.mark.browser

FITS = "[...document.querySelectorAll('.tiles dd')].every((e) => e.scrollWidth <= e.clientWidth)"
"""Whether nothing in a tile is wider than the tile."""


@pytest.mark.slow
def test_the_image_moves_and_the_numbers_change(chromium):
    with running() as (view, _, _), page(chromium, view.addresses[0]) as tab:
        first_image(tab)
        assert tab.title() == "pattern · hasn-edge live"
        before = painted(tab)
        number = tab.evaluate("view.number")  # not before: frames come while it is painted
        waits(tab, f"view.number > {number} + 2")
        assert np.abs(painted(tab).astype(int) - before).mean() > 0.5
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


@pytest.mark.slow
def test_charts_show_a_gap_where_nothing_was_known(chromium):
    with running() as (view, _, _), page(chromium, view.addresses[0]) as tab:
        parts = "unbroken([1, 2, null, null, 3, null].map((p) => ({ p })), (s) => s.p)"
        assert tab.evaluate(f"{parts}.map((part) => part.map((s) => s.p))") == [[1, 2], [3]]
        assert tab.evaluate("unbroken([{}], (s) => s.p)") == []


@pytest.mark.slow
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
            assert tab.evaluate(FITS)
            live.stats.frame_shown(replace(shown(0), quality=FrameQuality(hasn_db=33.02, bicubic_db=31.0)))
            waits(tab, "byId('dropped-share').textContent === '+2.02 over bicubic'")
            assert tab.evaluate(FITS)
            for count, text in ((99_999, [99_999, ""]), (100_000, ["100", "k"]), (999_600, ["1.00", "M"])):
                assert tab.evaluate(f"compact({count})") == text


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_selector_changes_the_engine(chromium):
    with running() as (view, live, _), page(chromium, view.addresses[0]) as tab:
        first_image(tab)
        assert tab.locator("#engine option").all_inner_texts() == ["second int8", "first fp32"]
        assert tab.locator("#engine").input_value() == "first fp32"
        tab.locator("#engine").select_option("second int8")
        waits(tab, "view.shown.header.engine === 'second int8'")
        assert live.engine == "second int8"
        live.select("first fp32")  # somebody else did
        waits(tab, "engine.value === 'first fp32'")


@pytest.mark.slow
def test_an_engine_that_was_chosen_is_opening_until_it_computes(chromium):
    going = threading.Event()

    def slow() -> Session:
        assert going.wait(60)
        return Session()

    with running(engines={"slow.onnx": slow}) as (view, _, _), page(chromium, view.addresses[0]) as tab:
        first_image(tab)
        waits(tab, "document.body.dataset.state === 'running'")
        tab.locator("#engine").select_option("slow.onnx")
        waits(tab, "document.body.dataset.state === 'opening'")
        waits(tab, "document.body.dataset.state === 'opening'")
        assert tab.evaluate("view.shown.header.engine") == "first fp32"
        going.set()
        waits(tab, "byId('banner').textContent === 'slow.onnx computes now'")
        waits(tab, "document.body.dataset.state === 'running'")


@pytest.mark.slow
@pytest.mark.parametrize("words", ["opening x; camera lost", "x computes now", "\u2591"])
def test_the_state_decides_and_never_the_words(chromium, words):
    with running() as (view, _, _), page(chromium, view.addresses[0]) as tab:
        first_image(tab)
        for state in (*RunState, RunState.RUNNING):
            view.notify(Notice(state=state, text=f"{words} {state.name}"))
            waits(tab, f"byId('banner').textContent === {json.dumps(f'{words} {state.name}')}")
            assert tab.evaluate("document.body.dataset.state") == state.value
            assert tab.evaluate("byId('status').textContent === STATES[document.body.dataset.state]")
        tab.evaluate("notice({ state: 'running', text: null })")
        assert tab.locator("#banner").is_hidden()


@pytest.mark.slow
def test_rewording_every_sentence_changes_nothing_that_the_page_does(chromium, monkeypatch):
    """An engine that opens slowly and one that fails, while every text that the server sends is the same."""
    going = threading.Event()

    def slow() -> Session:
        assert going.wait(60)
        return Session()

    def broken() -> Session:
        raise BuildError("made for another GPU")

    def reworded(encode):
        def encode_reworded(message):
            data = json.loads(encode(message))
            for key in {"text"} & set(data):
                data[key] = data[key] and "\u2591"
            if "stats" in data:
                data["stats"].update(notice="\u2591", notices=["\u2591"])
            return json.dumps(data)

        return encode_reworded

    monkeypatch.setattr(messages, "encode_message", reworded(messages.encode_message))
    engines = {"slow.onnx": slow, "broken.onnx": broken}
    with running(engines=engines) as (view, _, _), page(chromium, view.addresses[0]) as tab:
        first_image(tab)
        waits(tab, "document.body.dataset.state === 'running'")
        tab.locator("#engine").select_option("slow.onnx")
        waits(tab, "document.body.dataset.state === 'opening' && byId('banner').textContent === '\u2591'")
        tab.wait_for_timeout(2500)  # longer than a choice counts by itself
        assert tab.evaluate("engine.value") == "slow.onnx"
        assert tab.evaluate("engine.parentElement.classList.contains('busy')")
        going.set()
        waits(tab, "view.shown.header.engine === 'slow.onnx' && document.body.dataset.state === 'running'")
        waits(tab, "!engine.parentElement.classList.contains('busy')")
        tab.locator("#engine").select_option("broken.onnx")
        waits(tab, "document.body.dataset.state === 'trouble'")
        waits(tab, "engine.value === 'slow.onnx'")


@pytest.mark.slow
def test_the_page_compares_no_words_and_knows_every_state_and_code(chromium):
    scripts = re.findall(r"<script>(.*?)</script>", document.page()[0].decode(), re.DOTALL)
    code = re.sub(r"//[^\n]*", "", "\n".join(scripts))
    methods = "includes|startsWith|endsWith|match|search|split|indexOf|slice"
    assert not re.findall(rf"\b(?:text|notice|reason|message)\b\??\.(?:{methods})", code)
    assert not re.findall(r"\b(text|notice|reason)\s*[!=]==?\s*[\"'`]", code)
    for number, name in re.findall(r"\b([A-Z_]+) = (\d{4})\b", code):
        assert int(name) == messages.CloseCode[number], number
    with running() as (view, _, _), page(chromium, view.addresses[0]) as tab:
        assert set(tab.evaluate("Object.keys(STATES)")) >= {state.value for state in RunState}


@pytest.mark.slow
def test_a_number_and_its_unit_stay_on_one_line(chromium):
    with running() as (view, _, _), page(chromium, view.addresses[0]) as tab:
        waits(tab, "/p50 [0-9.]+\u00a0m?s, p95 [0-9.]+\u00a0m?s/.test(byId('details').textContent)")
        assert tab.evaluate("milliseconds(1180)") == "1.18\u00a0s"
        assert tab.evaluate("decibels(30)") == "30.00\u00a0dB"


@pytest.mark.slow
def test_what_goes_wrong_is_said_over_the_image(chromium):
    with running() as (view, live, _), page(chromium, view.addresses[0]) as tab:
        first_image(tab)
        view.notify(trouble("Camera lost; trying again in 2 s"))
        tab.wait_for_selector("#banner:not([hidden])")
        assert tab.locator("#banner").inner_text() == "Camera lost; trying again in 2 s"
        view.notify(None)
        tab.wait_for_selector("#banner", state="hidden")
        live.stop()
        waits(tab, "byId('banner').textContent.startsWith('The run has ended')")


@pytest.mark.slow
def test_a_long_reason_can_be_read_to_its_end_on_a_phone(chromium):
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    with running() as (view, _, _), page(chromium, view.addresses[0], **phone) as tab:
        first_image(tab)
        view.notify(trouble("the engine could not be opened, for reasons that are long " * 12))
        tab.wait_for_selector("#banner:not([hidden])")
        banner, inside = (tab.locator(name).bounding_box() for name in ("#banner", "#stage"))
        assert banner["y"] + banner["height"] <= inside["y"] + inside["height"]
        tab.evaluate("byId('banner').scrollTop = 10000")
        assert tab.evaluate("byId('banner').scrollTop > 0")


@pytest.mark.slow
def test_after_the_end_it_keeps_saying_so_until_the_next_run(chromium):
    """The server is gone then, so that trying again fails as it does where a connection is lost."""
    said = "byId('banner').textContent.startsWith('The run has ended')"
    ended = f"document.body.dataset.state === 'ended' && {said}"
    with ExitStack() as stack:
        with running() as (view, _, _):
            number = port(view)
            tab = stack.enter_context(page(chromium, view.addresses[0]))
            first_image(tab)
        waits(tab, ended)
        tab.evaluate("clearTimeout(link.timer); link.open()")  # it would in three seconds, as it does below
        waits(tab, "link.tries >= 2 && !link.socket")
        assert tab.evaluate(ended)
        with running(port=number):
            waits(tab, "document.body.dataset.state === 'running'")
            assert tab.evaluate("[link.ended, byId('banner').hidden]") == [False, True]
