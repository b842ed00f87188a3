"""A run without a pipeline, and viewers without a browser, for the tests of the web view."""

from __future__ import annotations

import http.client
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
from websockets.sync.client import connect

from hasn_edge.errors import InputError
from hasn_edge.live.frame import Frame, UpscaledFrame
from hasn_edge.live.stats import Stats
from hasn_edge.live.web import messages as protocol
from hasn_edge.live.web.view import WebView
from tests.support.live_rig import stamps

PATIENCE_S = 20.0


class FakeRun:
    """What a view may use of a live run."""

    scale = 4
    engines = ("first", "second")
    engine = "first"

    def __init__(self) -> None:
        self.stats = Stats(source="test")
        self.selected: list[str] = []
        self.seen: list[UpscaledFrame] = []
        self.stats.displayed = self.seen.append

    def select(self, name: str) -> None:
        if name not in self.engines:
            raise InputError(f"no engine called {name!r}")
        self.selected.append(name)


def shown(index: int, *, size: tuple[int, int] = (24, 32), age_s: float = 0.0) -> UpscaledFrame:
    """Return a smooth frame whose brightness tells its number, and pixels that are not bicubic's."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    pixels = np.stack([(3 * x + index) % 200, (4 * y) % 250, np.full_like(x, index % 256)], -1).astype(
        np.uint8
    )
    now = time.monotonic() - age_s
    return UpscaledFrame(
        frame=Frame(index=index, pixels=pixels, time_s=None, captured=now),
        upscaled=np.ascontiguousarray(pixels.repeat(4, 0).repeat(4, 1)),
        scale=4,
        engine="first",
        stamps=stamps(now),
    )


@contextmanager
def serving(run: Any = None, **settings: Any) -> Iterator[tuple[WebView, Any]]:
    """Serve on a free port until the end of the block."""
    view = WebView(port=0, **settings)
    run = FakeRun() if run is None else run
    view.start(run)
    try:
        yield view, run
    finally:
        view.stop()


def port(view: WebView) -> int:
    return int(view.addresses[0].split("#")[0].rstrip("/").rpartition(":")[2])


def decode_image(message: bytes) -> tuple[protocol.ImageMessage, list[bytes]]:
    """Return header and files of a binary message, as the page does."""
    (length,) = struct.unpack_from(">I", message)
    header = msgspec.json.decode(message[4 : 4 + length], type=protocol.ImageMessage)
    files, start = [], 4 + length
    for size in header.lengths:
        files.append(message[start : start + size])
        start += size
    return header, files


class Client:
    """A viewer over the real protocol; everything that comes is kept."""

    def __init__(self, view: WebView, *, token: str | None = None, origin: str | None = "", **settings: Any):
        place = f"127.0.0.1:{port(view)}"
        origin = f"http://{place}" if origin == "" else origin
        settings = {"compression": None, "close_timeout": 0.3, **settings}
        self._connecting = connect(f"ws://{place}/live", origin=origin, **settings)
        self.socket = self._connecting.__enter__()
        self.notes: dict[str, dict[str, Any]] = {}
        self.say("hello", token=token)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._connecting.__exit__(None, None, None)

    def watch(self, **wanted: Any) -> None:
        """Say which images are wanted, and wait until the server knows."""
        self.say("want", **{"watch": True, **wanted})
        self.say("still", frame=-1)
        self.next("refused")

    def say(self, kind: str, **content: Any) -> None:
        self.socket.send(msgspec.json.encode({"type": kind, **content}).decode())

    def receive(self) -> tuple[protocol.ImageMessage, list[bytes]]:
        """Return the next image; texts on the way are kept by type."""
        while True:
            message = self.socket.recv(timeout=PATIENCE_S)
            if isinstance(message, bytes):
                return decode_image(message)
            note = msgspec.json.decode(message)
            self.notes[note["type"]] = note

    def next(self, kind: str, wanted: Callable[[dict[str, Any]], bool] = lambda note: True) -> dict[str, Any]:
        """Return the next text of a type for which ``wanted`` holds."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            message = self.socket.recv(timeout=max(0.0, deadline - time.monotonic()))
            if isinstance(message, str):
                note = msgspec.json.decode(message)
                self.notes[note["type"]] = note
                if note["type"] == kind and wanted(note):
                    return note

    def greeted(self) -> dict[str, Any]:
        """Wait until this viewer is in."""
        return self.next("stats") and self.notes["welcome"]

    def nothing_for(self, seconds: float) -> bool:
        """Whether no image comes for so long; waiting longer cannot make a right program fail."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                if isinstance(self.socket.recv(timeout=left), bytes):
                    return False
            except TimeoutError:
                return True
        return True


class Deaf:
    """A viewer that never reads, on a bare socket with a small buffer; closing it is a reset."""

    def __init__(self, view: WebView) -> None:
        place = f"127.0.0.1:{port(view)}"
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(("127.0.0.1", port(view)))
        self._socket.sendall(
            f"GET /live HTTP/1.1\r\nHost: {place}\r\nOrigin: http://{place}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        until(lambda: b"\r\n\r\n" in self._socket.recv(4096, socket.MSG_PEEK))
        self.say("hello")
        self.say("want", watch=True, compare=True, quality="best")

    def say(self, kind: str, **content: Any) -> None:
        text = msgspec.json.encode({"type": kind, **content})
        assert len(text) < 126
        # RFC 6455: a final text frame, masked, here by zeros.
        self._socket.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)

    def vanish(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


def until(condition: Callable[[], Any]) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def get(view: WebView, path: str = "/", **headers: str) -> tuple[int, dict[str, str], str]:
    """Return status, headers and text of a request over HTTP; names are written with ``_`` for ``-``."""
    connection = http.client.HTTPConnection("127.0.0.1", port(view), timeout=PATIENCE_S)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.getheaders()), text
