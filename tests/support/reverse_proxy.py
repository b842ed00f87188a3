"""A small reverse proxy that shows the live page under a path, for the tests of the web view."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator


class _Proxy(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = False
    block_on_close = True


@contextlib.contextmanager
def reverse_proxy(target: int, prefix: str, *, keep_host: bool, number: int = 0) -> Iterator[int]:
    """Pass ``http://localhost:PORT/prefix/...`` on to ``http://127.0.0.1:target/...``; yields the port.

    Args:
        target: The server's port.
        prefix: The path that is taken off, such as ``/boards/one``; every other path is 404.
        keep_host: Pass on the name that the visitor used (nginx: ``proxy_set_header Host $http_host``),
            instead of the server's own address (nginx's default).
        number: The proxy's port; 0 for one that is free.
    """
    open_sockets: list[socket.socket] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            head = b""
            while b"\r\n\r\n" not in head:
                data = self.request.recv(4096)
                if not data:
                    return
                head += data
            lines, _, rest = head.partition(b"\r\n\r\n")
            request, *headers = lines.decode().split("\r\n")
            method, path, version = request.split(" ")
            if not path.startswith(f"{prefix}/"):
                self.request.sendall(
                    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
                return
            if not keep_host:
                own = f"Host: 127.0.0.1:{target}"
                headers = [own if line.lower().startswith("host:") else line for line in headers]
            lines = "\r\n".join([f"{method} {path.removeprefix(prefix)} {version}", *headers]).encode()
            with socket.create_connection(("127.0.0.1", target)) as below:
                open_sockets.extend((self.request, below))
                below.sendall(lines + b"\r\n\r\n" + rest)
                up = threading.Thread(target=copy, args=(self.request, below))
                up.start()
                copy(below, self.request)
                up.join()

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    with _Proxy(("127.0.0.1", number), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="reverse proxy")
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
            for one in open_sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
