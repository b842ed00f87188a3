"""Sessions of every kind give the same frames, in order."""

from __future__ import annotations

import numpy as np
import pytest

av = pytest.importorskip("av")
from hasn_edge.errors import OutOfMemoryError
from hasn_edge.runtime.session import Pending
from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.spec import ModelSpec
from hasn_edge.video import transcode as transcode_module
from hasn_edge.video.runner import Runner
from hasn_edge.video.transcode import upscale_video
from tests.support.clips import make, packets, upscale
from tests.support.fake_session import FakeSession


@pytest.mark.parametrize("count", [1, 3])
def test_sessions_with_frames_in_flight_keep_the_order(tmp_path, count):
    class Concurrent(FakeSession):
        in_flight = count

        def __init__(self):
            super().__init__(ModelSpec(scale=2))
            self.under_way = self.most = 0

        def _begin(self, x_NCHW):
            self.under_way += 1
            self.most = max(self.most, self.under_way)

            def wait():
                self.under_way -= 1
                return self._run(x_NCHW)

            return Pending(wait)

    source = make(tmp_path / "clip.mp4", 8)
    plain = upscale(source, tmp_path / "plain.mkv", codec="ffv1")
    session = Concurrent()
    slotted = upscale(source, tmp_path / "slotted.mkv", codec="ffv1", session=session)
    assert packets(slotted.path, "video") == packets(plain.path, "video")
    assert session.most == count


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("size", [(40, 60), (20, 40), (40, 20), (90, 60), (40, 130)])
def test_an_engine_of_a_range_takes_frames_outside_of_it_too(size, pixels):
    """As the shipped target rtx has one: smaller frames are padded, larger ones computed in tiles."""

    class OfARange(FakeSession):
        in_flight = 2

        def _run_pixels(self, x_NHWC):
            return np.repeat(np.repeat(x_NHWC, 4, axis=1), 4, axis=2)

    session = OfARange()
    session.pixels, session.smallest, session.largest = pixels, (32, 32), (80, 120)
    runner = Runner(session)
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    y = runner.finish(runner.submit(runner.prepare(frame)).result())
    np.testing.assert_array_equal(y, frame.repeat(4, 0).repeat(4, 1))


@pytest.mark.parametrize("pixels", [False, True])
def test_frames_in_flight_are_tiled_where_memory_does_not_suffice(pixels, caplog):
    class ShortOfMemory(FakeSession):
        in_flight = 2

        def _run(self, x_NCHW):
            self._require(x_NCHW.shape[2:])
            return super()._run(x_NCHW)

        def _run_pixels(self, x_NHWC):
            self._require(x_NHWC.shape[1:3])
            return np.repeat(np.repeat(x_NHWC, 4, axis=1), 4, axis=2)

        def _require(self, size):
            if size[0] * size[1] > 5000:
                raise OutOfMemoryError("no room")

    session = ShortOfMemory()
    session.pixels = pixels
    runner = Runner(session)
    frame = np.random.default_rng(0).integers(0, 256, (100, 150, 3), np.uint8)
    for _ in range(2):
        y = runner.finish(runner.submit(runner.prepare(frame)).result())
        np.testing.assert_array_equal(y, frame.repeat(4, 0).repeat(4, 1))
    assert "trying again with" in caplog.text


def test_sessions_of_pixels_and_tiles_give_the_same(tmp_path, monkeypatch):
    class OfPixels(FakeSession):
        pixels = True

        def _run_pixels(self, x_NHWC):
            return np.repeat(np.repeat(x_NHWC, 2, axis=1), 2, axis=2)

    source = make(tmp_path / "clip.mp4", 3)
    expected = packets(upscale(source, tmp_path / "plain.mkv", codec="ffv1").path, "video")
    pixels = upscale(source, tmp_path / "pixels.mkv", codec="ffv1", session=OfPixels(ModelSpec(scale=2)))
    assert packets(pixels.path, "video") == expected
    monkeypatch.setattr(transcode_module, "_LARGE", 0)
    tiled = upscale_video(
        source,
        tmp_path / "tiled.mkv",
        Upscaler(FakeSession(ModelSpec(scale=2)), tile=32, overlap=8),
        codec="ffv1",
    )
    assert packets(tiled.path, "video") == expected
    assert "each image was computed in 6 tiles" in " ".join(tiled.notes)
