"""Servers on loopback that stream the test pattern and misbehave as told: MJPEG and files by HTTP."""

from __future__ import annotations

import http.server
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2

from hasn_edge.live.sources.frame_source import PatternSource

SIZE = (96, 160)
FPS = 100


def jpegs() -> Iterator[bytes]:
    """Yield the pattern's frames as they are due, for ever."""
    with PatternSource(SIZE, fps=FPS) as source:
        while True:
            frame = source.read()
            _, data = cv2.imencode(".jpg", cv2.cvtColor(frame.pixels, cv2.COLOR_RGB2BGR))
            yield data.tobytes()


class Server:
    """A server in threads of its own.

    Args:
        faults: What happens after :attr:`after` frames of the first connections, one each: ``"stall"``,
            ``"reset"``, ``"garbage"`` (every third image, no end), ``"refuse"`` (no answer at all); all is
            well on later ones.
    """

    handler: type[socketserver.BaseRequestHandler]
    after = 10

    def __init__(self, *faults: str) -> None:
        self.faults = list(faults)
        self.connections = 0
        self.stopping = threading.Event()
        outer = self

        class Bound(self.handler):
            rig = outer

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def fault(self) -> str:
        """Return what the connection that was just made shall do."""
        self.connections += 1
        return self.faults.pop(0) if self.faults else ""

    def hang(self) -> None:
        """Say nothing any more."""
        self.stopping.wait(30)

    def breaks_off(self, fault: str, index: int, connection: socket.socket) -> bool:
        """Stall or reset where a fault wants that at image ``index``; whether the stream ends there."""
        if index != self.after or fault not in ("stall", "reset"):
            return False
        if fault == "stall":
            self.hang()
        else:
            reset(connection)
        return True

    def close(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


def reset(connection: socket.socket) -> None:
    """Close with a TCP reset instead of an orderly end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class _Mjpeg(http.server.BaseHTTPRequestHandler):
    rig: MjpegServer

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        fault = self.rig.fault()
        if fault == "refuse":
            self.rig.hang()
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            for index, image in enumerate(jpegs()):
                if self.rig.stopping.is_set() or self.rig.breaks_off(fault, index, self.connection):
                    return
                data = bytes(range(256)) * 8 if fault == "garbage" and index % 3 == 2 else image
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
        except OSError:
            pass


class MjpegServer(Server):
    handler = _Mjpeg

    @property
    def url(self) -> str:
        return f"http://viewer:secret@127.0.0.1:{self.port}/live.mjpg"


class _File(http.server.BaseHTTPRequestHandler):
    rig: FileServer

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.rig.connections += 1
        data = self.rig.path.read_bytes()
        start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
        cut = min(self.rig.cut or len(data), start + (self.rig.piece or len(data)))
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        try:
            self.wfile.write(data[start : max(start, cut)])
            if cut < len(data):
                self.wfile.flush()
                reset(self.connection)
        except OSError:
            pass


class FileServer(Server):
    """Serves one video file; breaks off at byte ``cut``, again and again, or every ``piece`` bytes."""

    handler = _File

    def __init__(self, path: Path, *, cut: int | None = None, piece: int | None = None) -> None:
        self.path = path
        self.cut, self.piece = cut, piece
        super().__init__()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.path.name}"
