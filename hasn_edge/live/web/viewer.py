"""One viewer in a browser: what it asked for, and the newest image whenever it has drawn the last one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from hasn_edge.errors import InputError
from hasn_edge.live.frame import UpscaledFrame
from hasn_edge.live.series import Series
from hasn_edge.live.web import messages as protocol
from hasn_edge.live.web.document import websockets
from hasn_edge.live.web.encoding import MEDIA

if TYPE_CHECKING:
    from hasn_edge.live.web.server import Server

UNDER_WAY = 2
"""Frames that a viewer may not have drawn yet: one travels while the other is decoded. Whatever lies between
here and the eyes, no more than these can be late."""


class Viewer:
    """Serves one connection after it was let in.

    Args:
        connection: A WebSocket of the library ``websockets``.
        host: What it shares with the others; its methods are the event loop's.
    """

    def __init__(self, connection: Any, host: Server) -> None:
        self._connection = connection
        self._host = host
        self._wake = asyncio.Event()
        self._waiting: dict[tuple[type, str], protocol.ServerMessage] = {}
        self._want = protocol.Want(watch=False)
        self._sent = self._before = -1
        self._under_way: dict[int, UpscaledFrame] = {}
        self._on_screen: tuple[int, UpscaledFrame] | None = None
        self._still: tuple[int, UpscaledFrame] | None = None
        self._latency = Series(time.monotonic)

    def post(self, message: protocol.ServerMessage) -> None:
        """Send a message; an older one of its type, and about the same, that still waits is replaced."""
        about = message.about if isinstance(message, protocol.Refused) else ""
        self._waiting[type(message), about] = message
        self._wake.set()

    def wake(self) -> None:
        """Look whether there is a new frame."""
        self._wake.set()

    def figures(self) -> protocol.OwnFigures:
        """Return how this viewer sees the run."""
        now = time.monotonic()
        times = self._latency.times(now, recent=True)
        fps = None if self._latency.stale(now) else self._latency.rate(now)
        return protocol.OwnFigures(fps=fps, p50=times["p50"], p95=times["p95"], max=times["max"])

    async def serve(self) -> None:
        """Send and listen until the connection ends; raises what goes wrong here, not there."""
        closed = websockets("exceptions").ConnectionClosed
        tasks = {asyncio.ensure_future(self._send()), asyncio.ensure_future(self._listen())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except closed:
            pass
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            # This waits while the viewer does not read; meanwhile newer things replace older ones.
            while (message := await self._next()) is not None:
                await self._connection.send(message)

    async def _next(self) -> str | bytes | None:
        """Return the next message: text first, then a still, then a frame if one is due."""
        if self._waiting:
            return protocol.encode_message(self._waiting.pop(next(iter(self._waiting))))
        if self._still is not None:
            number, shown = self._still
            message = await self._image(protocol.ImageKind.STILL, number, shown, "lossless", compare=True)
            self._still = None
            return message
        latest, want = self._host.latest, self._want
        if latest is None or not want.watch or len(self._under_way) >= UNDER_WAY or latest[0] <= self._sent:
            return None
        number, shown = latest
        self._sent = number
        self._under_way[number] = shown
        return await self._image(protocol.ImageKind.FRAME, number, shown, want.quality, compare=want.compare)

    async def _image(
        self,
        kind: protocol.ImageKind,
        number: int,
        shown: UpscaledFrame,
        quality: protocol.ImageQuality,
        *,
        compare: bool,
    ) -> bytes:
        files = await self._host.encoder.files(number, shown, quality, compare=compare)
        header = protocol.ImageMessage(
            kind=kind,
            frame=number,
            index=shown.frame.index,
            time_s=shown.frame.time_s,
            engine=shown.engine,
            width=shown.upscaled.shape[1],
            height=shown.upscaled.shape[0],
            scale=shown.scale,
            media=MEDIA[quality],
            lengths=[len(file) for file in files],
        )
        return protocol.encode_image(header, files)

    async def _listen(self) -> None:
        async for text in self._connection:
            try:
                request = protocol.decode_page_message(text)
            except (msgspec.DecodeError, UnicodeDecodeError):
                await self._connection.close(
                    protocol.CloseCode.WRONG_REQUEST, "This is no message of this version's page"
                )
                return
            self._do[type(request)](self, request)
            self._wake.set()

    def _wanted(self, request: protocol.Want) -> None:
        if (request.compare, request.quality) != (self._want.compare, self._want.quality):
            self._sent = -1  # the newest frame again, as it is wanted now
        if request.watch:
            self._host.watched.set()
        else:
            self._under_way.clear()
        # An image that was waiting before it was wanted is old for no fault of the pipeline.
        self._before = -1 if self._host.latest is None else self._host.latest[0]
        self._want = request

    def _drew(self, request: protocol.Drawn) -> None:
        shown = self._under_way.get(request.frame)
        if shown is None:
            return
        # Older ones were overtaken: the page draws the newest that it has.
        self._under_way = {number: one for number, one in self._under_way.items() if number > request.frame}
        self._on_screen = (request.frame, shown)
        if request.frame > self._before:
            self._latency.add(self._host.live.stats.age(shown))
            self._host.drawn(request.frame, shown)

    def _freeze(self, request: protocol.Still) -> None:
        if self._on_screen is not None and self._on_screen[0] == request.frame:
            self._still = self._on_screen
        else:
            self._refuse("still", "This image is gone; take the next one")

    def _select(self, request: protocol.Select) -> None:
        try:
            self._host.live.select(request.engine)
        except InputError as exc:
            self._refuse("select", str(exc))

    def _refuse(self, about: Literal["still", "select"], text: str) -> None:
        self.post(protocol.Refused(about=about, text=text))

    def _greeted(self, request: protocol.Hello) -> None:
        """Ignore it: this viewer is in already."""

    _do: Mapping[type, Callable[[Viewer, Any], None]] = {
        protocol.Hello: _greeted,
        protocol.Want: _wanted,
        protocol.Drawn: _drew,
        protocol.Still: _freeze,
        protocol.Select: _select,
    }
