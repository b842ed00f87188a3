"""What the server answers over HTTP: the page as one document, its policy, and refusals."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Iterable
from http import HTTPStatus
from importlib import resources
from typing import Any

from hasn_edge.optional import require

_STYLE = re.compile(r'<link rel="stylesheet" href="([a-z]+\.css)">')
_SCRIPT = re.compile(r'<script src="([a-z_]+\.js)"></script>')

_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer: nothing is kept, embedded, or reported to other places."""


@functools.cache
def page() -> tuple[bytes, str]:
    """Return the page, put together at the first call.

    Returns:
        HTML in UTF-8 that loads nothing else, and ``script-src`` and ``style-src`` of its
        Content-Security-Policy: the parts it contains, no others.
    """
    folder = resources.files("hasn_edge.live.web").joinpath("page")
    hashes: dict[str, list[str]] = {"style": [], "script": []}

    def part(kind: str, name: str) -> str:
        text = folder.joinpath(name).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
        return f"<{kind}>{text}</{kind}>"

    html = folder.joinpath("page.html").read_text(encoding="utf-8")
    html = _STYLE.sub(lambda match: part("style", match[1]), html)
    html = _SCRIPT.sub(lambda match: part("script", match[1]), html)
    sources = "; ".join(f"{kind}-src {' '.join(found)}" for kind, found in hashes.items())
    return html.encode(), sources


def content_policy(sources: str, hosts: Iterable[str]) -> str:
    """Return the Content-Security-Policy of the page: its own code, images made by it, this server.

    Args:
        sources: ``script-src`` and ``style-src`` with the hashes of what the page contains.
        hosts: Names, with their ports, under which a browser may reach this server; checked before.
    """
    # Not every browser takes 'self' for a WebSocket, hence the hosts by name.
    sockets = " ".join(f"ws://{host} wss://{host}" for host in dict.fromkeys(hosts))
    return (
        f"default-src 'none'; {sources}; img-src 'self' blob: data:; connect-src 'self' {sockets}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def http_response(status: HTTPStatus, body: str | bytes, **headers: str) -> Any:
    """Return an answer of the library ``websockets``: text, or bytes of HTML."""
    data = body.encode() if isinstance(body, str) else body
    kind = "text/plain" if isinstance(body, str) else "text/html"
    fields = websockets("datastructures").Headers(
        {
            **_HEADERS,
            **headers,
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(data)),
            "Connection": "close",
        }
    )
    return websockets("http11").Response(status.value, status.phrase, fields, data)


def websockets(module: str) -> Any:
    """Return a module of the package ``websockets``, e.g. ``"exceptions"``.

    Raises:
        MissingDependencyError: it is not installed.
    """
    return require(f"websockets.{module}", extra="demo", needed_for="The web view")
