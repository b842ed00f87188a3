"""The web view where viewers, connections or the server itself go wrong: nobody else is held up."""

from __future__ import annotations

import socket
import sys
from contextlib import AbstractContextManager, ExitStack

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from hasn_edge.errors import InputError, MissingDependencyError
from hasn_edge.live.web import encoding as web_encoding
from hasn_edge.live.web import messages as protocol
from hasn_edge.live.web import server as web_server
from hasn_edge.live.web import view as web
from hasn_edge.live.web.view import WebView
from hasn_edge.live.web.viewer import Viewer
from tests.support.web_rig import Client, Deaf, FakeRun, port, serving, shown, until


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", 4400),
        ('{"type":"shutdown"}', 4400),
        ('{"type":"drawn","frame":"1"}', 4400),
        ('{"type":"want","watch":true,"quality":"lossless"}', 4400),
        ('{"type":"drawn","frame":1,"more":2}', 4400),
        (b"\xff\xfe", 4400),
        ("x" * 5000, 1009),
    ],
)
def test_nonsense_ends_that_connection_only(text, code):
    with serving() as (view, _), Client(view) as good, Client(view) as bad:
        bad.greeted()
        bad.socket.send(text)
        with pytest.raises(ConnectionClosed) as closed:
            bad.next("never")
        assert closed.value.rcvd.code == code
        good.say("want", watch=True)
        view.show(shown(1))
        assert good.receive()[0].index == 1


def test_there_is_a_limit_to_viewers():
    with serving(viewers=2) as (view, _), Client(view) as one, Client(view) as two:
        one.greeted()
        two.greeted()
        with Client(view) as three, pytest.raises(ConnectionClosed) as closed:
            three.greeted()
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (
            4429,
            "2 viewers watch already; close one of them",
        )


@pytest.mark.slow
def test_a_viewer_that_stops_reading_holds_nobody_up():
    """Its socket is full of images that it claims to have drawn; everybody else gets every newest frame."""
    with serving() as (view, _), Client(view) as good:
        good.watch()
        bad = Deaf(view)
        until(lambda: len(view.server.viewers) == 2)
        for index in range(40):
            # Random pixels make large files: a few fill what the kernel buffers.
            frame = shown(index, size=(120, 160))
            frame.upscaled[:] = np.random.default_rng(index).integers(0, 256, frame.upscaled.shape, np.uint8)
            view.show(frame)
            header, _ = good.receive()
            assert header.index == index
            good.say("drawn", frame=header.frame)
            bad.say("drawn", frame=header.frame)
        assert len(view.server.viewers) == 2
        bad.vanish()
        until(lambda: len(view.server.viewers) == 1)


def test_a_viewer_that_vanishes_is_forgotten():
    with serving() as (view, _), Client(view) as viewer:
        viewer.greeted()
        viewer.socket.socket.shutdown(socket.SHUT_RDWR)
        until(lambda: not view.server.viewers)
        view.show(shown(0))


def test_a_port_in_use_is_named_with_its_cure():
    with (
        serving() as (view, _),
        pytest.raises(InputError, match=rf"port {port(view)} is in use; use port=0"),
    ):
        WebView(port=port(view)).start(FakeRun())
    with pytest.raises(InputError, match="it must be an address of this machine; use host='0.0.0.0'"):
        WebView(host="192.0.2.7", port=0).start(FakeRun())


def test_a_missing_library_is_named(monkeypatch):
    def missing(module):
        raise MissingDependencyError("websockets", extra="demo", needed_for="The web view")

    monkeypatch.setattr(web, "websockets", missing)
    with pytest.raises(MissingDependencyError, match=r"hasn-edge\[demo\]"):
        WebView()


def test_what_breaks_in_the_server_ends_the_run(monkeypatch):
    def broken(*_):
        raise ValueError("no such colour")

    monkeypatch.setattr(web_encoding, "encode", broken)
    with serving() as (view, _), Client(view) as viewer:
        viewer.watch()
        view.show(shown(0))
        until(lambda: not view._thread.is_alive())
        with pytest.raises(RuntimeError, match="the web server ended") as raised:
            view.show(shown(1))
        assert isinstance(raised.value.__cause__, ValueError)


def test_what_breaks_in_serving_one_viewer_is_that_viewers_end_only(monkeypatch):
    real = Viewer._drew

    def broken(viewer, request):
        if request.frame == 77:
            raise ZeroDivisionError("a bug")
        real(viewer, request)

    monkeypatch.setitem(Viewer._do, protocol.Drawn, broken)
    with serving() as (view, run), Client(view) as good, Client(view) as bad:
        good.watch()
        bad.say("drawn", frame=77)
        with pytest.raises(ConnectionClosed) as closed:
            bad.next("never")
        assert closed.value.rcvd.code == 1011
        view.show(shown(0))
        assert good.receive()[0].index == 0
        assert run.stats.notices == ["a viewer of the web page was let go: ZeroDivisionError: a bug"]
        assert run.stats.notice is None, "it is nothing to show over the image"


def silent(view: WebView, address: str) -> AbstractContextManager[ClientConnection]:
    """Open a WebSocket from an address of this machine, and say nothing."""
    place = f"127.0.0.1:{port(view)}"
    bare = socket.create_connection(("127.0.0.1", port(view)), source_address=(address, 0))
    return connect(f"ws://{place}/live", sock=bare, origin=f"http://{place}", close_timeout=0.3)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="127.0.0.2 is an address on Linux only")
def test_silent_connections_keep_nobody_out(monkeypatch):
    """Where too many wait, the oldest of the address with most of them goes, and no other."""
    monkeypatch.setattr(web_server, "_STRANGERS", 4)
    monkeypatch.setattr(web_server, "HELLO_S", 60.0)
    with serving() as (view, _), ExitStack() as stack:
        patient = stack.enter_context(silent(view, "127.0.0.1"))
        rude = [stack.enter_context(silent(view, "127.0.0.2")) for _ in range(6)]
        until(lambda: list(view.server._strangers.values()).count("127.0.0.2") == 3)
        with Client(view) as good:
            assert good.greeted()["source"] == "test"
        for one in rude[:3]:
            with pytest.raises(ConnectionClosed):
                one.recv(timeout=20)
        patient.send('{"type":"hello"}')
        assert "welcome" in patient.recv(timeout=20)
