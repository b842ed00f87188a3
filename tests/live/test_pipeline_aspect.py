"""Pixels that are not square: what a file says of them is what is shown, through the whole pipeline."""

from __future__ import annotations

from fractions import Fraction

import pytest

from hasn_edge.live.pipeline import Live
from hasn_edge.live.sources.capture import open_file
from hasn_edge.live.sources.frame_source import Paced
from hasn_edge.live.sources.remote import Remote
from tests.support.live_rig import Session, Watcher, Writer

pytest.importorskip("av")

from tests.support.clips import make, patch_matrix

TURNED = (0, 1, -1, 0)


@pytest.mark.parametrize(
    ("matrix", "size", "aspect", "shown"),
    [(None, (48, 64), 2.0, (48, 128)), (TURNED, (64, 48), 0.5, (128, 48))],
    ids=["as it is", "turned"],
)
def test_a_clip_is_shown_and_recorded_as_wide_as_it_is_meant(tmp_path, matrix, size, aspect, shown):
    path = make(tmp_path / "wide.mp4", width=64, height=48, count=3, aspect=Fraction(2))
    if matrix is not None:
        patch_matrix(path, matrix)
    view, writer = Watcher(), Writer()
    source = Paced(Remote(lambda: open_file(path), "wide.mp4"))
    assert (source.size, source.aspect) == (size, pytest.approx(aspect))
    values = Live(source, Session(), [view], open_writer=writer).run().snapshot()
    assert (tuple(values["source_size"]), tuple(values["input"])) == (size, shown)
    assert values["pixel_aspect"] == pytest.approx(aspect)
    assert [one.upscaled.shape[:2] for one in view.shown] == [(4 * shown[0], 4 * shown[1])] * 3
    assert writer.size == (4 * shown[0], 4 * shown[1])


def test_a_file_that_says_nothing_has_square_pixels(tmp_path, clip):
    view = Watcher()
    with open_file(clip) as source:
        assert source.aspect in (None, 1.0)
        Live(source, Session(), [view]).run()
    assert view.shown[0].frame.size == (96, 160)
