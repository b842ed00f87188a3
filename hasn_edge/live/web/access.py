"""Who may watch through the web: Host and Origin headers, and tokens."""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Iterable
from urllib.parse import quote

from hasn_edge.errors import InputError, counted, omit

SHORTEST_TOKEN = 8

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?")


class AccessPolicy:
    """Decides about requests to a server on one address.

    A page elsewhere can make a browser send requests here, even by a name of its own that points here (DNS
    rebinding). So a request must name this machine, or a host that the user allows, in its Host header, and
    a WebSocket must come from a page of this very server, or of an origin that the user allows. A reverse
    proxy passes on the name that its visitors use, or replaces it by this server's address: the first needs
    an allowed host, the second an allowed origin. Whoever comes from another machine, also through such a
    proxy, must know the token, too.

    Args:
        host: Address or name that the server is bound to.
        token: What viewers must know; ``None`` to need none on this machine, and to make one up for others.
        allow_hosts: Further names under which browsers may reach it, such as ``demo.example.com``.
        allow_origins: Further origins whose pages may watch, such as ``https://demo.example.com``; their
            hosts are allowed, too.

    Raises:
        InputError: the token is too short to be one, or a host or an origin is not written as one.
    """

    def __init__(
        self,
        host: str,
        token: str | None,
        *,
        allow_hosts: Iterable[str] = (),
        allow_origins: Iterable[str] = (),
    ) -> None:
        self.host = host
        if token is not None and len(token) < SHORTEST_TOKEN:
            raise InputError(
                f"the token has {counted(len(token), 'character')}, expected at least {SHORTEST_TOKEN}; "
                "without one, it is made up where it is needed",
                omit("token"),
            )
        self._origins = {_checked_origin(origin) for origin in allow_origins}
        self.origin_hosts = tuple(sorted(origin.partition("://")[2] for origin in self._origins))
        """Names and ports of the allowed origins."""
        named = {_checked_host(name) for name in (*allow_hosts, *self.origin_hosts)}
        own = {"localhost", "127.0.0.1", "::1", host.lower()}
        self._loopback = is_loopback(host)
        self.local = self._loopback and named <= own
        """Whether viewers are on this machine only."""
        self._token = secrets.token_urlsafe(18) if token is None and not self.local else token
        if not self._loopback:
            mine = socket.gethostname().lower()
            own |= {mine, f"{mine.split('.')[0]}.local"}
        self._names = own | named

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
        name = _bare(match["name"])
        # An address is never an attacker's name for this machine; on loopback only its own ones are used.
        if name in self._names or (not self._loopback and _is_address(name)):
            return None
        cure = "localhost" if self._loopback else "the address of this machine"
        return f"this server does not answer to '{name}'; use {cure}, or start it with that host allowed"

    def refused_origin(self, origins: list[str], hosts: list[str]) -> str | None:
        """Return why a WebSocket of a page with these Origin headers is refused; ``None`` if it is not."""
        own = {f"{scheme}://{hosts[0].lower()}" for scheme in ("http", "https")} if hosts else set()
        if len(origins) == 1 and origins[0].lower() in own | self._origins:
            return None
        return (
            "pages of other places may not watch; open the page of this server, or start it with that "
            "origin allowed"
        )

    def addresses(self, port: int) -> list[str]:
        """Return what to open in a browser, the likeliest first; the token is behind the ``#``."""
        hosts = [self.host]
        if _is_address(self.host) and ipaddress.ip_address(self.host).is_unspecified:
            hosts = [*filter(None, [_outward_address()]), f"{socket.gethostname().split('.')[0]}.local"]
        secret = "" if self._token is None else f"#token={quote(self._token, safe='')}"
        return [f"http://{f'[{host}]' if ':' in host else host}:{port}/{secret}" for host in hosts]


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    return host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _checked_host(text: str) -> str:
    match = _HOST.fullmatch(text.lower())
    if match is None:
        raise InputError(f"{text!r} is no host; expected a name or an address, such as demo.example.com")
    return _bare(match["name"])


def _checked_origin(text: str) -> str:
    if re.fullmatch(rf"https?://{_HOST.pattern}", text.lower()) is None:
        raise InputError(
            f"{text!r} is no origin; expected a scheme, a name and a port where it is not the usual one, "
            "without a path, such as https://demo.example.com"
        )
    return text.lower()


def _bare(name: str) -> str:
    return name.strip("[]").rstrip(".")


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
