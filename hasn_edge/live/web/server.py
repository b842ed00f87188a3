"""The server of the web view: one document over HTTP, everything else over WebSockets; in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import msgspec

from hasn_edge.live.frame import UpscaledFrame
from hasn_edge.live.notices import Notice
from hasn_edge.live.snapshot import Snapshot
from hasn_edge.live.views.live_view import LiveRun
from hasn_edge.live.web import messages as protocol
from hasn_edge.live.web.access import AccessPolicy
from hasn_edge.live.web.document import content_policy, http_response, page, websockets
from hasn_edge.live.web.encoding import FrameEncoder, ImageError
from hasn_edge.live.web.viewer import Viewer

TICK_S = 0.5
"""How often viewers get new figures."""
HISTORY = 120
"""Ticks that a new viewer's charts begin with."""
HELLO_S = 5.0
"""How long a connection may take until its hello."""
WRONG_TOKEN_S = 0.5
"""How long a wrong token is kept waiting for its answer."""
CLOSE_S = 0.4
"""How long viewers have to close their connections."""

_STRANGERS = 16  # connections that may wait to be let in; the page sends its hello at once
_ENCODERS = 2

_LOG = logging.getLogger("hasn_edge.web")
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False


class Server:
    """Serves viewers until :meth:`end`. Its methods are the event loop's, in one thread.

    Args:
        run: The run that is shown and steered.
        access: Decides who may.
        viewers: How many may watch at once.
        watched: Is set once somebody watches.
    """

    def __init__(self, run: LiveRun, access: AccessPolicy, *, viewers: int, watched: threading.Event) -> None:
        self.watched = watched
        self.latest: tuple[int, UpscaledFrame] | None = None
        """The newest frame with its number."""
        self.viewers: set[Viewer] = set()
        self.live = run
        self._access = access
        self._most = viewers
        self._strangers: dict[Any, str] = {}
        self._executor = ThreadPoolExecutor(_ENCODERS, thread_name_prefix="hasn-edge web encoder")
        self.encoder = FrameEncoder(self._executor)
        self._history: deque[tuple[float | None, ...]] = deque(maxlen=HISTORY)
        self._notice = protocol.Note()
        self._drawn = -1
        self._ended = asyncio.Event()
        self._failure: BaseException | None = None

    async def run(self, listener: socket.socket) -> None:
        """Serve on a socket that is bound; raises what went wrong for all viewers."""
        library = websockets("asyncio.server")
        transports: set[asyncio.Transport] = set()

        class Connection(library.ServerConnection):  # type: ignore[misc, name-defined]
            """Known from its first byte on, so that none is left at the end."""

            def connection_made(self, transport: asyncio.Transport) -> None:
                transports.add(transport)
                super().connection_made(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                transports.discard(self.transport)

        serving = await library.serve(
            self._connected,
            sock=listener,
            create_connection=Connection,
            process_request=self._answer,
            compression=None,
            max_size=protocol.LARGEST_REQUEST,
            ping_interval=10,
            ping_timeout=10,
            open_timeout=HELLO_S,
            close_timeout=CLOSE_S,
            server_header=None,
            logger=_LOG,
        )
        ticking = asyncio.ensure_future(self._tick())
        ending = asyncio.ensure_future(self._ended.wait())
        await asyncio.wait({ticking, ending}, return_when=asyncio.FIRST_COMPLETED)
        serving.close(code=protocol.CloseCode.ENDED, reason="The run has ended")
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(serving.wait_closed()), 2 * CLOSE_S)
        for transport in list(transports):
            transport.abort()
        while transports:  # the loop calls each one's end
            await asyncio.sleep(0)
        ending.cancel()
        ticking.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._failure is None and ticking.done() and not ticking.cancelled():
            self._failure = ticking.exception()
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """Let every viewer go."""
        self._ended.set()

    def publish(self, shown: UpscaledFrame) -> None:
        """Take the newest frame."""
        self.latest = (0 if self.latest is None else self.latest[0] + 1, shown)
        for viewer in self.viewers:
            viewer.wake()

    def notify(self, notice: Notice | None) -> None:
        """Pass on to every viewer what the user should know, ``None`` when it is over."""
        self._notice = protocol.Note()
        if notice is not None:
            self._notice = protocol.Note(state=notice.state, text=notice.text, opening=notice.opening)
        for viewer in self.viewers:
            viewer.post(self._notice)

    def drawn(self, number: int, shown: UpscaledFrame) -> None:
        """Count the moment when a frame came on the first of all screens."""
        if number > self._drawn:
            self._drawn = number
            self.live.stats.displayed(shown)

    def _answer(self, connection: Any, request: Any) -> Any:
        """Answer a request over HTTP; ``None`` lets a WebSocket begin."""
        hosts, origins = request.headers.get_all("Host"), request.headers.get_all("Origin")
        refused = self._access.refused_host(hosts)
        if refused is not None:
            return http_response(HTTPStatus.MISDIRECTED_REQUEST, f"{refused}\n")
        path = request.path.partition("?")[0]
        if path == "/":
            body, sources = page()
            policy = content_policy(sources, (hosts[0], *self._access.origin_hosts))
            return http_response(HTTPStatus.OK, body, **{"Content-Security-Policy": policy})
        if path != "/live":
            return http_response(HTTPStatus.NOT_FOUND, "there is only one page here: /\n")
        refused = self._access.refused_origin(origins, hosts)
        if refused is not None:
            return http_response(HTTPStatus.FORBIDDEN, f"{refused}\n")
        return None

    async def _connected(self, connection: Any) -> None:
        """Let a viewer in, or close with the reason, and serve it."""
        self._make_room()
        self._strangers[connection] = _address(connection)
        try:
            refused = await self._stranger(connection)
        except (TimeoutError, asyncio.TimeoutError, websockets("exceptions").ConnectionClosed):
            return
        finally:
            self._strangers.pop(connection, None)
        if refused is not None:
            await connection.close(*refused)
            return
        viewer = Viewer(connection, self)
        self.viewers.add(viewer)
        try:
            viewer.post(self._welcome())
            viewer.post(self._notice)
            viewer.post(self._figures(viewer, _encode(self.live.stats.snapshot())))
            await viewer.serve()
        except ImageError as exc:  # no viewer's fault: none would see an image any more
            self._failure = self._failure or exc.__cause__
            self._ended.set()
        except Exception as exc:  # the end of this viewer only; reported when the run ends
            _LOG.warning("a viewer was let go", exc_info=True)
            self.live.stats.remember(f"a viewer of the web page was let go: {type(exc).__name__}: {exc}")
            await connection.close(protocol.CloseCode.FAILED, "This connection failed; the others go on")
        finally:
            self.viewers.discard(viewer)

    def _make_room(self) -> None:
        """Let the one go that has waited longest, of the address with most of them, where too many wait."""
        while len(self._strangers) >= _STRANGERS:
            crowded, _ = Counter(self._strangers.values()).most_common(1)[0]
            oldest = next(one for one, address in self._strangers.items() if address == crowded)
            del self._strangers[oldest]
            oldest.transport.abort()

    async def _stranger(self, connection: Any) -> tuple[int, str] | None:
        """Return code and reason to close a connection with; ``None`` if it may stay."""
        try:
            hello = protocol.decode_page_message(await asyncio.wait_for(connection.recv(), HELLO_S))
        except (msgspec.DecodeError, UnicodeDecodeError):
            hello = None
        if not isinstance(hello, protocol.Hello):
            return protocol.CloseCode.WRONG_REQUEST, "Expected a hello of this version's page"
        if not self._access.knows_token(hello.token):
            await asyncio.sleep(WRONG_TOKEN_S)
            return (
                protocol.CloseCode.WRONG_TOKEN,
                "This is not the token; open the address that hasn-edge printed",
            )
        if len(self.viewers) >= self._most:
            return protocol.CloseCode.TOO_MANY, f"{self._most} viewers watch already; close one of them"
        return None

    async def _tick(self) -> None:
        while True:
            snapshot = self.live.stats.snapshot()
            now = snapshot["now"]
            latency = now["latency_ms"]
            rates = now["fps_in"], now["fps_out"], now["fps_screen"]
            self._history.append((snapshot["seconds"], latency["p50"], latency["p95"], *rates))
            raw = _encode(snapshot)
            for viewer in self.viewers:
                viewer.post(self._figures(viewer, raw))
            await asyncio.sleep(TICK_S)

    def _figures(self, viewer: Viewer, snapshot: msgspec.Raw) -> protocol.RunFigures:
        return protocol.RunFigures(stats=snapshot, you=viewer.figures(), viewers=len(self.viewers))

    def _welcome(self) -> protocol.Welcome:
        run = self.live
        return protocol.Welcome(
            source=run.stats.source,
            engines=run.engines,
            scale=run.scale,
            history=list(self._history),
        )


def _address(connection: Any) -> str:
    """Return where a connection comes from, without the port."""
    remote = connection.remote_address
    return str(remote[0]) if remote else ""


def _encode(snapshot: Snapshot) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(snapshot))
