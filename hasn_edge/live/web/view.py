"""Live images in the browser: a view that serves one page to a few viewers, in a thread of its own."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from hasn_edge.errors import Cure, InputError, say, use
from hasn_edge.live.frame import UpscaledFrame
from hasn_edge.live.notices import Notice, Tell
from hasn_edge.live.views.live_view import LiveRun, View
from hasn_edge.live.views.window_check import has_display
from hasn_edge.live.web.access import AccessPolicy, is_loopback
from hasn_edge.live.web.document import websockets

if TYPE_CHECKING:
    from hasn_edge.live.web.server import Server

VIEWERS = 8
"""How many may watch at once by default."""

_STOP_S = 2.0


class WebView(View):
    """Serves a page that shows the run and steers it.

    Every viewer has one place for the newest frame and gets it when the last one is drawn, so that a slow
    viewer sees fewer frames and slows neither the run nor other viewers down. A frame is encoded once per
    quality that is watched, and not at all while there is no viewer. Latency is measured until the first
    viewer's browser reports that it has drawn the frame.

    Behind a reverse proxy it works under any path that the proxy takes off before it passes requests on.

    Args:
        host: Address to serve on. Any other than this machine's own (loopback) needs a token.
        port: TCP port; 0 for one that is free.
        token: What viewers must know, at least 8 characters; ``None`` to have one made up where it is needed.
        tell: Receives where to look; for the user only, since the address may contain the token.
        allow_hosts: Further names under which browsers may reach it, such as a reverse proxy's.
        allow_origins: Further origins whose pages may watch, such as ``https://demo.example.com``.
        viewers: How many may watch at once.

    Raises:
        MissingDependencyError: the WebSocket library is not installed.
        InputError: the token is too short, or an allowed host or origin is not written as one.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 8765,
        token: str | None = None,
        tell: Tell | None = None,
        viewers: int = VIEWERS,
        allow_hosts: Iterable[str] = (),
        allow_origins: Iterable[str] = (),
    ) -> None:
        websockets("asyncio.server")
        self.access = AccessPolicy(host, token, allow_hosts=allow_hosts, allow_origins=allow_origins)
        self.watched: threading.Event = threading.Event()
        self.addresses: list[str] = []
        """What to open in a browser, once it is started."""
        self._host, self._port = host, port
        self._tell = tell
        self._viewers = viewers
        self._listener: socket.socket | None = None
        self.server: Server | None = None
        """What serves, once it is started."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._newest: UpscaledFrame | None = None
        self._due = False
        self._lock = threading.Lock()

    def bind(self) -> socket.socket:
        """Claim the port before anything else is opened; who comes early waits.

        Raises:
            InputError: the port is taken or not allowed, or the address is not of this machine.
        """
        if self._listener is None:
            self._listener = _bound(self._host, self._port)
        return self._listener

    def close(self) -> None:
        """Give back a port on which nothing was served."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def start(self, run: LiveRun) -> None:
        """Begin to serve, and report where.

        Raises:
            InputError: as :meth:`bind`.
        """
        from hasn_edge.live.web.server import Server

        listener, self._listener = self.bind(), None
        port = listener.getsockname()[1]
        self.addresses = self.access.addresses(port)
        started = threading.Event()

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self.server = Server(run, self.access, viewers=self._viewers, watched=self.watched)
            started.set()
            await self.server.run(listener)

        self._thread = threading.Thread(
            target=self._run, args=(serve, started), name="hasn-edge web", daemon=True
        )
        self._thread.start()
        started.wait()
        if self._tell is not None:
            text, cures = self._hint(port)
            self._tell(f"watch at {' or '.join(self.addresses)}{text}", *cures)

    def show(self, shown: UpscaledFrame) -> None:
        """Put the frame where the server finds it; raises what ended the server."""
        if self._failure is not None:
            raise RuntimeError("the web server ended") from self._failure
        with self._lock:
            self._newest = shown
            if self._due:
                return  # the server was called already and will find this one instead
            self._due = True
        self._call(self._publish)

    def notify(self, notice: Notice | None) -> None:
        """Show it over every viewer's image."""
        if self.server is not None:
            self._call(partial(self.server.notify, notice))

    def stop(self) -> None:
        """Close every viewer's connection, and free the port."""
        if self._thread is None:
            return
        if self.server is not None:
            self._call(self.server.end)
        self._thread.join(_STOP_S)

    def _hint(self, port: int) -> tuple[str, tuple[Cure, ...]]:
        """Return what whoever reads the address should know besides."""
        if not self.access.local:
            proxy = "; a proxy's address needs the same token behind it" if is_loopback(self._host) else ""
            return f" (whoever has this address can watch and change the engine{proxy})", ()
        if has_display():
            return "", ()
        tunnel = f"first run 'ssh -L {port}:localhost:{port} USER@THIS-MACHINE' on the machine with a screen"
        return " from this machine only, which has no display", (say(tunnel), use(host="0.0.0.0"))

    def _publish(self) -> None:
        with self._lock:
            shown, self._newest, self._due = self._newest, None, False
        if shown is not None and self.server is not None:
            self.server.publish(shown)

    def _call(self, function: Callable[[], Any]) -> None:
        """Have the server's thread call a function soon; after its end, do nothing."""
        try:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            if self._loop is not None and not self._loop.is_closed():
                raise

    def _run(self, serve: Callable[[], Coroutine[Any, Any, None]], started: threading.Event) -> None:
        try:
            asyncio.run(serve())
        except BaseException as exc:
            self._failure = exc
        finally:
            started.set()


def _bound(host: str, port: int) -> socket.socket:
    """Return a listening socket."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server((address[0], port), family=family, backlog=32)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            reason, cure = f"port {port} is in use", use(port=0)
        elif exc.errno == errno.EACCES:
            reason, cure = f"port {port} needs rights that this user lacks", use(port=8765)
        else:
            reason, cure = (
                f"{exc.strerror or exc}; it must be an address of this machine",
                use(host="0.0.0.0"),
            )
        raise InputError(f"cannot serve the web page on {host}: {reason}", cure) from exc
