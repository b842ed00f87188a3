"""Real streams over loopback: MJPEG by HTTP, JPEG by RTSP over TCP, a file by HTTP; and what goes wrong."""

from __future__ import annotations

import time

import pytest
from live_rig import Session, Watcher, number_of
from stream_servers import SIZE, FileServer, MjpegServer, RtspServer

from hasn_edge.errors import SourceError, StageError
from hasn_edge.video.live import Live, lingering
from hasn_edge.video.sources import open_source

SERVERS = pytest.mark.parametrize("kind", [MjpegServer, RtspServer], ids=["http", "rtsp"])


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
    assert lingering(4) == ()


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
    assert ("no frame for 0.5 s" if fault == "stall" else "no picture came") in told[0]
    assert "secret" not in told[0]
    assert view.messages[-1] is None


@SERVERS
def test_garbage_between_pictures_is_survived(serve, kind):
    server = serve(kind, "garbage")
    view = Watcher(stop_at=12)
    live = Live(open_source(server.url, stall_s=3), Session(), [view], seconds=10)
    live.run()
    assert len(view.shown) >= 12
    assert server.connections == 1


@SERVERS
def test_a_server_that_does_not_answer(serve, kind):
    server = serve(kind, "refuse")
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"no (video came|answer)") as refused:
        open_source(server.url, stall_s=0.5, open_s=0.7)
    assert time.monotonic() - start < 3
    assert "secret" not in str(refused.value)
    server.stopping.set()


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


def test_a_file_that_breaks_off_on_its_way_is_an_error(serve, clip):
    server = serve(FileServer, clip, cut=clip.stat().st_size // 2)
    view = Watcher()
    with pytest.raises((StageError, SourceError), match=r"lost at frame|no video came"):
        Live(open_source(server.url), Session(), [view]).run()
