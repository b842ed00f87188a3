"""Who may watch through the web: Host and Origin headers, tokens, and the headers of every answer."""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from urllib.parse import quote

from hasn_edge.errors import InputError

SHORTEST_TOKEN = 8

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?")

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer: nothing is kept, embedded, or told to other places."""


class AccessPolicy:
    """Decides about requests to a server on one address.

    A page elsewhere can make a browser send requests here, even by a name of its own that points here (DNS
    rebinding). So a request must name this machine in its Host header, and a WebSocket must come from a page
    of this very server. From another machine than this one a viewer must know the token, too.

    Args:
        host: Address or name that the server is bound to.
        token: What viewers must know; ``None`` to need none on this machine, and to make one up for others.

    Raises:
        InputError: the token is too short to be one.
    """

    def __init__(self, host: str, token: str | None) -> None:
        self.host = host
        self.local = is_loopback(host)
        if token is not None and len(token) < SHORTEST_TOKEN:
            raise InputError(
                f"--token has {len(token)} characters, expected at least {SHORTEST_TOKEN}; "
                "leave it out to have one made up where it is needed"
            )
        self._token = secrets.token_urlsafe(18) if token is None and not self.local else token
        names = {"localhost", "127.0.0.1", "::1", host.lower()}
        if not self.local:
            mine = socket.gethostname().lower()
            names |= {mine, f"{mine.split('.')[0]}.local"}
        self._names = names

    @property
    def needs_token(self) -> bool:
        """Whether viewers must know a token."""
        return self._token is not None

    def knows_token(self, token: str | None) -> bool:
        """Return whether a viewer may watch; takes equally long for every wrong token."""
        if self._token is None:
            return True
        return hmac.compare_digest((token or "").encode(), self._token.encode())

    def refused_host(self, hosts: list[str]) -> str | None:
        """Return why a request with these Host headers is refused; ``None`` if it is not."""
        match = _HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        if match is None:
            return "expected one Host header with a name and a port"
        name = match["name"].strip("[]").rstrip(".")
        # An address is never an attacker's name for this machine; on loopback only its own ones are used.
        if name in self._names or (not self.local and _is_address(name)):
            return None
        cure = "localhost" if self.local else "the address of this machine"
        return f"this server does not answer to '{name}'; use {cure}, or name it with --host"

    def refused_origin(self, origins: list[str], hosts: list[str]) -> str | None:
        """Return why a WebSocket of a page with these Origin headers is refused; ``None`` if it is not."""
        allowed = {f"{scheme}://{hosts[0].lower()}" for scheme in ("http", "https")} if hosts else set()
        if len(origins) == 1 and origins[0].lower() in allowed:
            return None
        return "pages of other places may not watch; open the page of this server"

    def addresses(self, port: int) -> list[str]:
        """Return what to open in a browser, the likeliest first; the token is behind the ``#``."""
        hosts = [self.host]
        if _is_address(self.host) and ipaddress.ip_address(self.host).is_unspecified:
            hosts = [*filter(None, [_outward_address()]), f"{socket.gethostname().split('.')[0]}.local"]
        secret = "" if self._token is None else f"#token={quote(self._token, safe='')}"
        return [f"http://{f'[{host}]' if ':' in host else host}:{port}/{secret}" for host in hosts]


def content_policy(sources: str, host: str) -> str:
    """Return the Content-Security-Policy of the page: its own code, images made by it, this server.

    Args:
        sources: ``script-src`` and ``style-src`` with the hashes of what the page contains.
        host: The request's Host header, checked before.
    """
    # Not every browser takes 'self' for a WebSocket, hence the host by name.
    return (
        f"default-src 'none'; {sources}; img-src 'self' blob: data:; "
        f"connect-src 'self' ws://{host} wss://{host}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    return host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _outward_address() -> str | None:
    """Return the address of this machine in its network; sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket only asks the routing table.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])
