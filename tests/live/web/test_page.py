"""The real page in a real Chromium: what a person would do with the image, and what they would see."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.support.browser_rig import first_image, page, painted, paused, running, waits
from tests.support.web_rig import Client, until

pytestmark = pytest.mark.browser


@pytest.mark.slow
def test_a_refused_still_does_not_block_the_next_one(chromium):
    with running() as (view, _, _), page(chromium, view.addresses[0]) as tab:
        first_image(tab)
        refusals = "refused({ about: 'still', text: 'this image is gone' })"
        assert tab.evaluate(f"still = {{ take() {{}} }}; {refusals}; still") is None
        assert tab.evaluate("still = { take() {} }; refused({ about: 'select', text: 'no' }); still !== null")
        tab.evaluate("still = null")
        with tab.expect_download():
            tab.get_by_label("Save a snapshot").click()


@pytest.mark.slow
def test_the_divider_moves_by_mouse_and_keys(chromium):
    with running() as (view, _, _), page(chromium, view.addresses[0]) as tab:
        first_image(tab)
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


@pytest.mark.slow
def test_zoom_is_the_same_for_both_halves(chromium):
    with running() as (view, _, watcher), page(chromium, view.addresses[0]) as tab:
        first_image(tab)
        paused(tab)
        index = tab.evaluate("view.shown.header.index")
        one = next(shown for shown in watcher.shown if shown.frame.index == index)
        for mode, pixels in (("hasn", one.upscaled), ("bicubic", one.frame.bicubic(4))):
            tab.evaluate(f"view.show('{mode}'); view.fit(); view.zoomBy(8 / view.perPixel())")
            assert tab.evaluate("view.perPixel()") == pytest.approx(8)
            canvas = painted(tab)
            place = tab.evaluate("view.place()")
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
        zoom = tab.evaluate("view.zoom")
        tab.mouse.move(300, 300)
        tab.mouse.wheel(0, 200)
        waits(tab, f"view.zoom < {zoom}")
        tab.keyboard.press("0")
        assert tab.evaluate("view.zoom") == 1


@pytest.mark.slow
def test_a_snapshot_is_what_the_network_computed(chromium, tmp_path):
    with running() as (view, _, watcher), page(chromium, view.addresses[0]) as tab:
        first_image(tab)
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


@pytest.mark.slow
def test_pausing_is_one_viewers_own(chromium):
    with running() as (view, _, watcher), page(chromium, view.addresses[0]) as tab:
        first_image(tab)
        tab.get_by_label("Pause").click()
        waits(tab, "byId('badge').textContent === 'Paused, lossless'")
        number, many = tab.evaluate("view.number"), len(watcher.shown)
        until(lambda: len(watcher.shown) > many + 5)
        assert tab.evaluate("view.number") == number
        tab.get_by_label("Go on").click()
        waits(tab, f"view.number > {number}")


@pytest.mark.slow
def test_a_second_viewer_joins_and_vanishes(chromium):
    with running() as (view, _, _), page(chromium, view.addresses[0]) as tab:
        first_image(tab)
        viewers = (
            "[...byId('details').children].find((e) => e.textContent === 'Viewers').nextSibling.textContent"
        )
        with page(chromium, view.addresses[0]) as other:
            first_image(other)
            waits(tab, f"{viewers} === '2'")
        waits(tab, f"{viewers} === '1'")
        number = tab.evaluate("view.number")
        waits(tab, f"view.number > {number} + 2")


@pytest.mark.slow
def test_the_token_leaves_the_address_and_lasts_as_long_as_the_tab(chromium):
    with running(token="a token & more") as (view, _, _):
        with page(chromium, view.addresses[0]) as tab:
            first_image(tab)
            assert "token" not in tab.url
            tab.reload()
            first_image(tab)
        with page(chromium, view.addresses[0].split("#")[0]) as tab:
            tab.wait_for_selector("#ask[open]")
            tab.locator("#token").fill("a wrong one")
            tab.keyboard.press("Enter")
            waits(tab, "byId('toast').textContent.includes('not the token')")
            tab.locator("#token").fill("a token & more")
            tab.keyboard.press("Enter")
            first_image(tab)


@pytest.mark.slow
def test_it_works_on_a_phone(chromium):
    phone = {
        "viewport": {"width": 360, "height": 740},
        "device_scale_factor": 2,
        "has_touch": True,
        "is_mobile": True,
    }
    with running() as (view, _, _), page(chromium, view.addresses[0], **phone) as tab:
        first_image(tab)
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
        waits(tab, "view.zoom > 2.5")


@pytest.mark.slow
def test_a_hidden_tab_is_sent_nothing(chromium):
    with running() as (view, _, watcher), page(chromium, view.addresses[0]) as tab:
        first_image(tab)
        tab.evaluate(
            "Object.defineProperty(document, 'hidden', { value: true, configurable: true });"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        with Client(view) as barrier:
            barrier.watch(watch=False)
        encoded = view.server.encoder.encoded
        many = len(watcher.shown)
        until(lambda: len(watcher.shown) > many + 5)
        assert view.server.encoder.encoded <= encoded + 2, "what was under way"
        tab.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
        number = tab.evaluate("view.number")
        waits(tab, f"view.number > {number}")
