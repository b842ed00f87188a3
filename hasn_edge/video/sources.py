"""From what a user writes to what delivers frames: a camera, a stream, a file or the test pattern."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from hasn_edge.errors import InputError, SourceError
from hasn_edge.video.cameras import cameras, open_camera, open_csi
from hasn_edge.video.capture import CaptureSource, open_file, open_stream
from hasn_edge.video.remote import OPEN_S, STALL_S, Remote
from hasn_edge.video.source import DEFAULT_SIZE, PatternSource, Source

STREAMS = ("rtsp", "rtsps", "http", "https")
"""Schemes of addresses that are streams."""

_KINDS = "a camera (0, /dev/video0, csi:0), an address (rtsp://, http://), a video file or 'pattern'"


def open_source(
    text: str,
    size: tuple[int, int] | None = None,
    *,
    fps: float | None = None,
    open_s: float = OPEN_S,
    stall_s: float = STALL_S,
) -> Source:
    """Open a source by what a user calls it.

    Args:
        text: ``0``, ``/dev/video0``, ``csi:0``, ``rtsp://...``, ``http://...``, a path, or ``pattern``.
        size: (height, width) to ask a camera for, and of the test pattern; others deliver their own.
        fps: Frames a second to ask for, likewise.
        open_s: How long a camera or stream may take to open.
        stall_s: Without a frame for so long, a camera or stream counts as lost.

    Returns:
        The source; cameras and streams come back by themselves when they were lost.

    Raises:
        InputError: nothing that can be a source.
        SourceError: it cannot be opened.
        UnsupportedError: OpenCV was built without what it needs.
    """
    remote = partial(Remote, open_s=open_s, stall_s=stall_s)
    scheme, separator, _ = text.partition("://")
    if text == "pattern":
        return PatternSource(size or DEFAULT_SIZE, fps=fps or 30.0)
    if separator:
        if scheme.lower() not in STREAMS or not urlsplit(text).hostname:
            raise InputError(f"{display_name(text)}: no such kind of source; expected {_KINDS}")
        name = display_name(text)
        return remote(lambda: open_stream(text, name, open_s=open_s, read_s=stall_s), name)
    csi = re.fullmatch(r"csi:(\d)", text)
    if csi is not None:
        sensor = int(csi[1])
        return remote(lambda: open_csi(sensor, size or (720, 1280), fps or 30.0), text)
    if text.isdecimal() or re.fullmatch(r"/dev/(video\d+|v4l/.+)", text):
        device = f"/dev/video{text}" if text.isdecimal() else text
        return remote(lambda: open_camera(device, size, fps), device)
    if not text:
        raise InputError(f"the source is empty; expected {_KINDS}")
    return open_file(Path(text))


def first_camera(
    size: tuple[int, int] | None = None, *, fps: float | None = None, stall_s: float = STALL_S
) -> Source | None:
    """Open the first device that gives pictures; ``None`` where there is no camera.

    Raises:
        SourceError: there are devices, and none of them gives pictures; says why of each.
    """
    found = cameras()
    if not found:
        return None

    def open_any() -> CaptureSource:
        reasons = []
        for device in cameras() or found:
            try:
                return open_camera(device, size, fps)
            except SourceError as exc:
                reasons.append(str(exc))
        raise SourceError("; ".join(reasons))

    return Remote(open_any, "camera", stall_s=stall_s)


def display_name(url: str) -> str:
    """Return an address without user, password and query, which may be secret."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return url.split("@")[-1]
    hidden = "?..." if parts.query else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}{hidden}"
