"""FFmpeg itself as the server, H.264 in an MPEG transport stream by HTTP, behind a relay that misbehaves."""

from __future__ import annotations

import http.client
import shutil
import socket
import socketserver
import subprocess
import time

from tests.support.stream_servers import SIZE, Server, reset

FFMPEG = shutil.which("ffmpeg")
PIECE = 7 * 188  # bytes: packets of a transport stream


class _Relay(socketserver.BaseRequestHandler):
    rig: FfmpegServer

    def handle(self) -> None:
        fault = self.rig.fault()
        if fault == "refuse":
            self.rig.hang()
            return
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        height, width = SIZE
        command = [
            *(FFMPEG, "-nostdin", "-loglevel", "error", "-re", "-f", "lavfi"),
            *("-i", f"testsrc2=size={width}x{height}:rate={self.rig.fps}", "-c:v", "libx264", "-g", "10"),
            *("-preset", "ultrafast", "-tune", "zerolatency", "-flush_packets", "1", "-f", "mpegts"),
            *("-listen", "1", f"http://127.0.0.1:{port}/live.ts"),
        ]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as ffmpeg:
            try:
                with _connected(port) as upstream:
                    upstream.sendall(self.request.recv(4096))  # the viewer's own request
                    # Damage is done to the video, not to HTTP's chunks.
                    answer = http.client.HTTPResponse(upstream)
                    answer.begin()
                    self.request.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
                    self._relay(answer, fault)
            except OSError:
                pass
            finally:
                ffmpeg.kill()

    def _relay(self, answer: http.client.HTTPResponse, fault: str) -> None:
        end = time.monotonic() + self.rig.after_s if fault else float("inf")
        while not self.rig.stopping.is_set() and (data := answer.read1(PIECE)):
            if time.monotonic() > end:
                if fault == "stall":
                    self.rig.hang()
                    return
                if fault == "reset":
                    reset(self.request)
                    return
                self.rig.damaged += 1
                if self.rig.damaged % 3 == 0:  # garbage
                    data = bytes(range(256)) * 5
            self.request.sendall(data)


def _connected(port: int) -> socket.socket:
    """Wait until FFmpeg listens."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


class FfmpegServer(Server):
    """A process of FFmpeg for every viewer."""

    handler = _Relay
    fps = 50
    after_s = 3.0

    damaged = 0
    """Pieces that came since garbage began, of which it is every third one."""

    @property
    def url(self) -> str:
        return f"http://viewer:secret@127.0.0.1:{self.port}/live.ts"
