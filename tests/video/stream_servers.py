"""Servers on loopback that stream the test pattern, and misbehave as told: MJPEG by HTTP, JPEG by RTSP."""

from __future__ import annotations

import http.server
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2

from hasn_edge.video.source import PatternSource

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
            ``"reset"``, ``"garbage"`` (every third picture, no end), ``"refuse"`` (no answer at all); all is
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
            for index, picture in enumerate(jpegs()):
                if self.rig.stopping.is_set():
                    return
                if index == self.rig.after and fault == "stall":
                    self.rig.hang()
                    return
                if index == self.rig.after and fault == "reset":
                    reset(self.connection)
                    return
                data = bytes(range(256)) * 8 if fault == "garbage" and index % 3 == 2 else picture
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
        data = self.rig.path.read_bytes()
        start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
        cut = self.rig.cut or len(data)
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
    """Serves one video file; breaks off at byte ``cut``, again and again."""

    handler = _File

    def __init__(self, path: Path, *, cut: int | None = None) -> None:
        self.path = path
        self.cut = cut
        super().__init__()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.path.name}"


def rtp_payloads(jpeg: bytes) -> Iterator[tuple[bytes, bool]]:
    """Cut a baseline JPEG of 4:2:0 into payloads of RFC 2435; yield each, and whether it is the last."""
    tables, position = b"", 2
    while True:
        marker, length = jpeg[position + 1], struct.unpack(">H", jpeg[position + 2 : position + 4])[0]
        segment = jpeg[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == 0xDB:  # one byte of number and precision before each table
            tables += b"".join(segment[start + 1 : start + 65] for start in range(0, len(segment), 65))
        if marker == 0xDA:
            break
    scan = jpeg[position:-2]
    for offset in range(0, len(scan), 1200):
        part = scan[offset : offset + 1200]
        head = struct.pack(">I", offset) + bytes([1, 255, SIZE[1] // 8, SIZE[0] // 8])
        if offset == 0:
            head += struct.pack(">BBH", 0, 0, len(tables)) + tables
        yield head + part, offset + 1200 >= len(scan)


class _Rtsp(socketserver.StreamRequestHandler):
    rig: RtspServer

    def handle(self) -> None:
        fault = self.rig.fault()
        if fault == "refuse":
            self.rig.hang()
            return
        try:
            while self._answer():
                pass
            self._play(fault)
        except OSError:
            pass

    def _answer(self) -> bool:
        """Answer one request; ``False`` once it was PLAY."""
        lines = []
        while (line := self.rfile.readline().decode().strip()) or not lines:
            if not line:
                raise ConnectionError
            lines.append(line)
        method = lines[0].split()[0]
        number = next(line.split(":")[1].strip() for line in lines if line.lower().startswith("cseq"))
        body, extra = "", ""
        if method == "OPTIONS":
            extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\n"
            body += "m=video 0 RTP/AVP 26\r\na=control:track\r\n"
            extra = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        elif method == "SETUP":
            extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
        elif method == "PLAY":
            extra = "Session: 1\r\n"
        self.wfile.write(f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{extra}\r\n{body}".encode())
        return method != "PLAY"

    def _play(self, fault: str) -> None:
        sequence = 0
        start = time.monotonic()
        for index, picture in enumerate(jpegs()):
            if self.rig.stopping.is_set():
                return
            if index == self.rig.after and fault == "stall":
                self.rig.hang()
                return
            if index == self.rig.after and fault == "reset":
                reset(self.connection)
                return
            ticks = round(90000 * (time.monotonic() - start)) & 0xFFFFFFFF
            for payload, last in rtp_payloads(picture):
                if fault == "garbage" and index % 3 == 2:
                    payload = bytes(range(256)) * 4
                head = struct.pack(">BBHII", 0x80, 26 | (0x80 if last else 0), sequence & 0xFFFF, ticks, 7)
                sequence += 1
                packet = head + payload
                self.wfile.write(b"$\0" + struct.pack(">H", len(packet)) + packet)


class RtspServer(Server):
    handler = _Rtsp
    after = 50  # FFmpeg looks at some twenty pictures before it says that a stream is open

    @property
    def url(self) -> str:
        return f"rtsp://viewer:secret@127.0.0.1:{self.port}/stream"
