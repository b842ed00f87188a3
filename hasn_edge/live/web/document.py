"""The web page as one document: its parts put together, with the hashes that let them run."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from dataclasses import dataclass
from importlib import resources

_STYLE = re.compile(r'<link rel="stylesheet" href="([a-z]+\.css)">')
_SCRIPT = re.compile(r'<script src="([a-z_]+\.js)"></script>')


@dataclass(frozen=True)
class Page:
    """What the server sends."""

    body: bytes
    """HTML in UTF-8 that loads nothing else."""
    sources: str
    """``script-src`` and ``style-src`` of its Content-Security-Policy: the parts it contains, no others."""


@functools.cache
def page() -> Page:
    """Return the page, put together at the first call."""
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
    return Page(html.encode(), sources)
