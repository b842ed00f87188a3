"""Real streams over loopback: MJPEG and H.264 by HTTP and by RTSP, a file; and what goes wrong."""

from __future__ import annotations

import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")
from hasn_edge.errors import SourceError, StageError
from hasn_edge.live.pipeline import Live, lingering_threads
from hasn_edge.live.sources.opening import open_source
from tests.support.clips import make, patch_matrix
from tests.support.ffmpeg_server import FFMPEG, FfmpegServer
from tests.support.live_rig import Session, Watcher, number_of
from tests.support.rtsp_servers import RtspH264Server, RtspServer
from tests.support.stream_servers import SIZE, FileServer, MjpegServer

SERVERS = pytest.mark.parametrize(
    "kind", [MjpegServer, RtspServer, RtspH264Server], ids=["http", "rtsp", "rtsp-h264"]
)
BY_FFMPEG = pytest.mark.skipif(FFMPEG is None, reason="no ffmpeg; apt-get install ffmpeg")


@pytest.fixture
def serve():
    """Start servers, and end them with the test."""
    servers = []

    def start(kind, *args, **settings):
        servers.append(kind(*args, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
    assert lingering_threads(4) == ()


@pytest.mark.slow
@SERVERS
def test_a_stream_is_read_in_order_and_in_time(serve, kind):
    server = serve(kind)
    with open_source(server.url) as source:
        assert source.live
        assert "secret" not in source.name
        assert f"127.0.0.1:{server.port}" in source.name
        numbers = []
        for _ in range(20):
            frame = source.read()
            assert frame.pixels.shape == (*SIZE, 3)
            numbers.append(number_of(frame.pixels))
    assert numbers == sorted(set(numbers))


@pytest.mark.slow
@SERVERS
@pytest.mark.parametrize("fault", ["stall", "reset"])
def test_a_broken_stream_is_reported_and_resumed(serve, kind, fault):
    server = serve(kind, fault)
    view = Watcher(stop_at=server.after + 8)
    source = open_source(server.url, stall_s=0.5)
    live = Live(source, Session(), [view], seconds=10)
    live.run()
    assert server.connections == 2
    assert len(view.shown) >= server.after + 8
    told = [text for text in view.messages if text]
    assert "trying again in 0.5 s (attempt 1)" in told[0]
    assert ("no frame for 0.5 s" if fault == "stall" else "no image came") in told[0]
    assert "secret" not in told[0]
    assert view.messages[-1] is None


@pytest.mark.slow
@SERVERS
def test_garbage_between_images_is_survived(serve, kind):
    server = serve(kind, "garbage")
    view = Watcher(stop_at=12)
    live = Live(open_source(server.url, stall_s=3), Session(), [view], seconds=10)
    live.run()
    assert len(view.shown) >= 12
    assert server.connections == 1


@pytest.mark.slow
@SERVERS
def test_a_server_that_does_not_answer(serve, kind):
    server = serve(kind, "refuse")
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"no (video came|answer)") as refused:
        open_source(server.url, stall_s=0.5, open_s=0.7)
    assert time.monotonic() - start < 3
    assert "secret" not in str(refused.value)
    server.stopping.set()


@pytest.mark.slow
@BY_FFMPEG
def test_ffmpeg_streams(serve):
    with open_source(serve(FfmpegServer).url) as source:
        assert source.live
        frames = [source.read() for _ in range(20)]
    assert all(frame.pixels.shape == (*SIZE, 3) for frame in frames)
    moved = [np.abs(a.pixels.astype(int) - b.pixels).max() for a, b in pairwise(frames)]
    assert min(moved) > 50  # no image comes twice
    times = [frame.time_s for frame in frames]
    assert times == sorted(set(times))


@pytest.mark.slow
@BY_FFMPEG
@pytest.mark.parametrize("fault", ["stall", "reset"])
def test_a_break_in_what_ffmpeg_streams_is_reported_and_resumed(serve, fault):
    server = serve(FfmpegServer, fault)
    resumed = []

    class Resumed(Watcher):
        def notify(self, notice):
            super().notify(notice)
            resumed.extend([len(self.shown)] if notice is None and not resumed else [])

        def show(self, shown):
            super().show(shown)
            if resumed and len(self.shown) >= resumed[0] + 8:
                self._live.stop()

    view = Resumed()
    Live(open_source(server.url, stall_s=1.0), Session(), [view], seconds=40).run()
    assert server.connections == 2
    assert resumed
    assert len(view.shown) >= resumed[0] + 8
    told = [text for text in view.messages if text]
    assert "trying again in 0.5 s (attempt 1)" in told[0]


@pytest.mark.slow
@BY_FFMPEG
def test_garbage_in_what_ffmpeg_streams_is_survived(serve):
    server = serve(FfmpegServer, "garbage")
    view = Watcher()
    Live(open_source(server.url, stall_s=5.0), Session(), [view], seconds=server.after_s + 4).run()
    assert server.connections == 1
    assert server.damaged > 30
    assert view.shown[-1].frame.captured - view.shown[0].frame.captured > server.after_s


def test_nobody_listens():
    with pytest.raises(SourceError, match="http://127.0.0.1:9/x: no video came; check the address"):
        open_source("http://127.0.0.1:9/x")


def test_something_that_is_no_video(serve, tmp_path):
    (tmp_path / "page.mp4").write_text("<html>this is a page</html>" * 100)
    with pytest.raises(SourceError, match="no video came"):
        open_source(serve(FileServer, tmp_path / "page.mp4").url)


def test_a_file_on_a_web_server_loses_no_frame(serve, clip):
    source = open_source(serve(FileServer, clip).url)
    assert not source.live
    view = Watcher()
    Live(source, Session(seconds=0.002), [view]).run()
    assert view.numbers == list(range(40))


@pytest.mark.parametrize(
    ("matrix", "connections"),
    [((1, 0, 0, 1), 1), ((0, 1, -1, 0), 2), ((-1, 0, 0, 1), 2), ((0, 1, 1, 0), 2), ((0, -1, -1, 0), 2)],
    ids=["upright", "turned", "mirrored", "transposed", "turned and mirrored"],
)
def test_a_file_on_a_web_server_is_shown_as_from_a_disk(serve, tmp_path, matrix, connections):
    path = make(tmp_path / "clip.mp4", 2)
    patch_matrix(path, matrix)
    server = serve(FileServer, path)
    with open_source(str(path)) as near, open_source(server.url) as far:
        assert np.array_equal(near.read().pixels, far.read().pixels)
    assert server.connections == connections


def test_a_file_whose_server_closes_connections_comes_whole(serve, clip):
    server = serve(FileServer, clip, piece=clip.stat().st_size // 3)
    assert read(open_source(server.url)) == (40, [])
    assert server.connections >= 3


def test_a_file_that_breaks_off_on_its_way_is_an_error(serve, clip):
    server = serve(FileServer, clip, cut=clip.stat().st_size // 2)
    view = Watcher()
    with pytest.raises((StageError, SourceError), match=r"lost at frame|no video came"):
        Live(open_source(server.url), Session(), [view]).run()


CASES = Path(__file__).parents[2] / "video" / "cases"


def whole_files(folder: Path) -> dict[Path, int]:
    """Files whose length, start and times fit together in different ways, and their numbers of images."""
    seconds = Fraction(1, 1000)
    slides = {"pts": [0, 10_000, 20_000], "time_base": seconds, "last": 10_000}
    return {
        CASES / "starts-late.mkv": 20,
        make(folder / "slides.mkv", 3, **slides): 3,
        make(folder / "slides.mp4", 3, **slides): 3,
        make(folder / "late.mp4", 20, pts=[270_000 + 3000 * n for n in range(20)]): 20,
        make(folder / "broadcast.ts", 60, container={"output_ts_offset": "60000"}): 60,
    }


def read(source) -> tuple[int, list[str]]:
    """Read to the end; return how many images came and what was reported."""
    told: list[str] = []
    source.report = lambda notice: told.append(notice and notice.text)
    with source:
        count = 0
        while source.read() is not None:
            count += 1
    return count, told


def test_whole_files_end_without_a_word_from_a_disk_and_from_a_server(serve, tmp_path):
    for path, count in whole_files(tmp_path).items():
        assert read(open_source(str(path))) == (count, []), path.name
        assert read(open_source(serve(FileServer, path).url)) == (count, []), path.name


def test_half_of_a_file_that_begins_late_is_not_whole(serve, tmp_path):
    times = {"pts": [3000 + 100 * n for n in range(60)], "time_base": Fraction(1, 1000)}
    data = make(tmp_path / "late.mkv", 60, rate=10, options={"g": "5", "bf": "0"}, **times).read_bytes()
    half = tmp_path / "half.mkv"
    half.write_bytes(data[: len(data) // 2])
    count, told = read(open_source(str(half)))
    assert 20 < count < 40
    assert told == [f"half.mkv: damaged or cut off: it ends at {2.9 + count / 10:.1f} of 9.0 s"]
    with pytest.raises(SourceError, match="no image came"):
        read(open_source(serve(FileServer, half).url))
