"""RTSP servers on loopback that stream the test pattern as JPEG or H.264, and misbehave as told."""

from __future__ import annotations

import base64
import socketserver
import struct
import time
from collections.abc import Iterator
from fractions import Fraction

import av

from hasn_edge.live.sources.frame_source import PatternSource
from tests.support.stream_servers import FPS, SIZE, Server, jpegs

PAYLOAD = 1200  # bytes of an RTP packet, so that it would fit into one of a network

Payload = tuple[bytes, bool]
"""Of one RTP packet, and whether it is the last one of an image."""


def jpeg_payloads(jpeg: bytes) -> Iterator[Payload]:
    """Cut a baseline JPEG of 4:2:0 into payloads of RFC 2435."""
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
    for offset in range(0, len(scan), PAYLOAD):
        part = scan[offset : offset + PAYLOAD]
        head = struct.pack(">I", offset) + bytes([1, 255, SIZE[1] // 8, SIZE[0] // 8])
        if offset == 0:
            head += struct.pack(">BBH", 0, 0, len(tables)) + tables
        yield head + part, offset + PAYLOAD >= len(scan)


def units(stream: bytes) -> list[bytes]:
    """Cut an H.264 byte stream (ITU-T H.264, annex B) at its start codes."""
    return [unit.rstrip(b"\0") for unit in stream.split(b"\0\0\1") if unit.rstrip(b"\0")]


class H264:
    """The test pattern as H.264, a key frame every ten images, each as it is due."""

    def __init__(self) -> None:
        self._encoder = av.CodecContext.create("libx264", "w")
        self._encoder.height, self._encoder.width = SIZE
        self._encoder.pix_fmt, self._encoder.time_base = "yuv420p", Fraction(1, FPS)
        self._encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "10"}
        self._encoder.flags |= av.codec.context.Flags.global_header
        self._encoder.open()
        self.parameters = units(self._encoder.extradata)[:2]
        """Sequence and image parameter set."""

    def images(self) -> Iterator[list[bytes]]:
        """Yield the units of each image, parameter sets before the key frames as cameras send them."""
        with PatternSource(SIZE, fps=FPS) as source:
            while True:
                pixels = source.read().pixels
                for packet in self._encoder.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                    yield [*(self.parameters if packet.is_keyframe else []), *units(bytes(packet))]


def h264_payloads(image: list[bytes]) -> Iterator[Payload]:
    """Cut an image's units into payloads of RFC 6184: whole ones, FU-A for those that are too long."""
    for number, unit in enumerate(image):
        final = number == len(image) - 1
        if len(unit) <= PAYLOAD:
            yield unit, final
            continue
        body = unit[1:]
        for offset in range(0, len(body), PAYLOAD):
            first, last = offset == 0, offset + PAYLOAD >= len(body)
            head = bytes([unit[0] & 0xE0 | 28, first << 7 | last << 6 | unit[0] & 0x1F])
            yield head + body[offset : offset + PAYLOAD], final and last


class _Rtsp(socketserver.StreamRequestHandler):
    rig: RtspServer
    kind = 26
    """RTP's number of the format: JPEG has one, others get theirs in the description."""

    def media(self) -> str:
        """Return further lines of the description."""
        return ""

    def images(self) -> Iterator[list[Payload]]:
        """Yield the payloads of each image."""
        for jpeg in jpegs():
            yield list(jpeg_payloads(jpeg))

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
            body += f"m=video 0 RTP/AVP {self.kind}\r\na=control:track\r\n{self.media()}"
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
        for index, payloads in enumerate(self.images()):
            if self.rig.stopping.is_set() or self.rig.breaks_off(fault, index, self.connection):
                return
            ticks = round(90000 * (time.monotonic() - start)) & 0xFFFFFFFF
            for payload, last in payloads:
                if fault == "garbage" and index % 3 == 2:
                    payload = bytes(range(256)) * 4
                kind = self.kind | (0x80 if last else 0)
                head = struct.pack(">BBHII", 0x80, kind, sequence & 0xFFFF, ticks, 7)
                sequence += 1
                packet = head + payload
                self.wfile.write(b"$\0" + struct.pack(">H", len(packet)) + packet)


class RtspServer(Server):
    handler = _Rtsp
    after = 50  # FFmpeg looks at some twenty images before it says that a stream is open

    @property
    def url(self) -> str:
        return f"rtsp://viewer:secret@127.0.0.1:{self.port}/stream"


class _RtspH264(_Rtsp):
    kind = 96

    def setup(self) -> None:
        super().setup()
        self._h264 = H264()

    def media(self) -> str:
        sets = ",".join(base64.b64encode(unit).decode() for unit in self._h264.parameters)
        form = f"packetization-mode=1; sprop-parameter-sets={sets}"
        return f"a=rtpmap:{self.kind} H264/90000\r\na=fmtp:{self.kind} {form}\r\n"

    def images(self) -> Iterator[list[Payload]]:
        for image in self._h264.images():
            yield list(h264_payloads(image))


class RtspH264Server(RtspServer):
    """As network cameras do it."""

    handler = _RtspH264
