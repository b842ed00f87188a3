"""Live images in the browser: a view that serves one page to a few viewers, in a thread of its own."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from hasn_edge.errors import InputError
from hasn_edge.live.frame import UpscaledFrame
from hasn_edge.live.views.base import LiveRun, View
from hasn_edge.live.views.window_check import has_display
from hasn_edge.live.web.access import AccessPolicy
from hasn_edge.live.web.library import websockets

if TYPE_CHECKING:
    from hasn_edge.live.web.server import Server

VIEWERS = 8
"""How many may watch at once, unless told otherwise."""

_STOP_S = 2.0


class WebView(View):
    """Serves a page that shows the run and steers it.

    Every viewer has one place for the newest frame and gets it when the last one is drawn, so that a slow
    viewer sees fewer frames and slows nobody down. A frame is encoded once per quality that somebody watches
    in, and not at all when nobody does. Latency is measured until the first viewer's browser says that it
    has drawn the frame.

    Args:
        host: Address to serve on. Any other than this machine's own (loopback) needs a token.
        port: TCP port; 0 for one that is free.
        token: What viewers must know, at least 8 characters; ``None`` to have one made up where it is needed.
        tell: Told where to look; for the user only, since the address may contain the token.
        viewers: How many may watch at once.

    Raises:
        MissingDependencyError: the WebSocket library is not installed.
        InputError: the token is too short.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 8765,
        token: str | None = None,
        tell: Callable[[str], None] | None = None,
        viewers: int = VIEWERS,
    ) -> None:
        websockets("asyncio.server")
        self.gate = AccessPolicy(host, token)
        self.addresses: list[str] = []
        """What to open in a browser, once it is started."""
        self._host, self._port = host, port
        self._tell = tell
        self._viewers = viewers
        self._listener: socket.socket | None = None
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._newest: UpscaledFrame | None = None
        self._due = False
        self._lock = threading.Lock()

    @property
    def server(self) -> Server | None:
        """What serves, between start and stop."""
        return self._server

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
        """Begin to serve, and say where.

        Raises:
            InputError: as :meth:`bind`.
        """
        from hasn_edge.live.web.server import Server

        listener, self._listener = self.bind(), None
        port = listener.getsockname()[1]
        self.addresses = self.gate.addresses(port)
        started = threading.Event()

        async def serve() -> None:
            self._server = Server(run, self.gate, viewers=self._viewers)
            started.set()
            await self._server.run(listener)

        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run, args=(serve, started), name="hasn-edge web", daemon=True
        )
        self._thread.start()
        started.wait()
        if self._tell is not None:
            self._tell(f"watch at {' or '.join(self.addresses)}{self._hint(port)}")

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

    def message(self, text: str | None) -> None:
        """Show ``text`` over every viewer's image."""
        if self._server is not None:
            self._call(partial(self._server.say, text))

    def stop(self) -> None:
        """Tell the viewers that it is over, and free the port."""
        if self._thread is None:
            return
        if self._server is not None:
            self._call(self._server.end)
        self._thread.join(_STOP_S)

    def _hint(self, port: int) -> str:
        """Return what whoever reads the address should know besides."""
        if not self.gate.local:
            return " (whoever has this address can watch and change the engine)"
        if has_display():
            return ""
        return (
            f" (from this machine only, which has no display: from another one first 'ssh -L "
            f"{port}:localhost:{port} USER@THIS-MACHINE', or start with --host 0.0.0.0)"
        )

    def _publish(self) -> None:
        with self._lock:
            shown, self._newest, self._due = self._newest, None, False
        if shown is not None and self._server is not None:
            self._server.publish(shown)

    def _call(self, function: Callable[[], Any]) -> None:
        """Have the server's thread call a function soon; after its end, nobody does."""
        try:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            if self._loop is not None and not self._loop.is_closed():
                raise

    def _run(self, serve: Callable[[], Any], started: threading.Event) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(serve())
        except BaseException as exc:
            self._failure = exc
        finally:
            started.set()
            self._finish(self._loop)

    @staticmethod
    def _finish(loop: asyncio.AbstractEventLoop) -> None:
        """Cut whatever connection is left, and close the loop."""
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()


def _bound(host: str, port: int) -> socket.socket:
    """Return a listening socket."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server((address[0], port), family=family, backlog=32)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            reason = f"port {port} is in use; choose another by --port, or a free one by --port 0"
        elif exc.errno == errno.EACCES:
            reason = f"port {port} needs rights that this user lacks; choose one above 1023 by --port"
        else:
            reason = f"{exc.strerror or exc}; give an address of this machine to --host, 0.0.0.0 for all"
        raise InputError(f"cannot serve the web page on {host}: {reason}") from exc
