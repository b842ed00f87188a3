"""From what a user writes to what delivers frames: a camera, a stream, a file or the test pattern."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from hasn_edge.errors import Cure, HasnEdgeError, InputError, SourceError, say
from hasn_edge.live.sources.cameras import camera_device, giving, open_camera, open_csi, possible_cameras
from hasn_edge.live.sources.capture import CaptureSource, open_file, open_stream
from hasn_edge.live.sources.frame_source import DEFAULT_SIZE, FrameSource, PatternSource
from hasn_edge.live.sources.remote import OPEN_S, STALL_S, Remote

STREAMS = ("rtsp", "rtsps", "http", "https")
"""Schemes of addresses that are streams."""

PROBE_S = 6.0
"""How long a device that was not asked for by name may take to give an image."""

_CHECK = say("check its cable and that no other program uses it")
_KINDS = "a camera (0, /dev/video0, csi:0), an address (rtsp://, http://), a video file or 'pattern'"


def open_source(
    text: str,
    size: tuple[int, int] | None = None,
    *,
    open_s: float = OPEN_S,
    stall_s: float = STALL_S,
) -> FrameSource:
    """Open a source by what a user calls it.

    Args:
        text: ``0``, ``/dev/video0``, ``csi:0``, ``csi:0?flip=2``, ``rtsp://...``, ``http://...``, a path, or
            ``pattern``.
        size: (height, width) to ask a camera for, and of the test pattern; others deliver their own.
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
        return PatternSource(size or DEFAULT_SIZE)
    if separator:
        if scheme.lower() not in STREAMS or not urlsplit(text).hostname:
            raise InputError(f"{display_name(text)}: no such kind of source; expected {_KINDS}")
        name = display_name(text)
        return remote(lambda: open_stream(text, name, open_s=open_s, read_s=stall_s), name)
    if _is_camera(text):
        name, opened = _camera(text, size)
        return remote(opened, name, cure=_CHECK)
    if not text:
        raise InputError(f"the source is empty; expected {_KINDS}")
    return open_file(Path(text))


def takes_size(text: str | None) -> bool:
    """Return whether a source by that name can be asked for a size; files and streams bring their own."""
    return text is None or text == "pattern" or _is_camera(text)


def _is_camera(text: str) -> bool:
    device = re.fullmatch(r"/dev/(video\d+|v4l/.+)", text)
    return text.startswith("csi:") or text.isdecimal() or device is not None


def first_camera(
    size: tuple[int, int] | None = None,
    *,
    probe_s: float = PROBE_S,
    stall_s: float = STALL_S,
) -> FrameSource | None:
    """Open the first device that gives images; ``None`` where there is no camera.

    Args:
        size: (height, width) to ask for.
        probe_s: How long each device may take to give an image.
        stall_s: Without a frame for so long, the camera counts as lost.

    Raises:
        SourceError: there are devices, and none of them gives images; says why of each.
    """
    reasons: list[str] = []
    cures: list[Cure] = []
    known = possible_cameras()
    for device in known:
        name, first = _camera(device, size)

        def opened(device: str = device, first: Callable[[], FrameSource] = first) -> FrameSource:
            try:
                return first()
            except HasnEdgeError:
                # Plugged in again, it may have come back under another number.
                for other in possible_cameras():
                    if other not in known:
                        return _camera(other, size)[1]()
                raise

        try:
            return Remote(opened, name, open_s=probe_s, stall_s=stall_s, cure=_CHECK)
        except HasnEdgeError as exc:
            reasons.append(exc.message)
            cures += [cure for cure in exc.cures if cure not in cures]
    if reasons:
        raise SourceError("; ".join(reasons), *cures)
    return None


def _camera(text: str, size: tuple[int, int] | None) -> tuple[str, Callable[[], CaptureSource]]:
    """Return a camera's name and what opens it, and waits for its first image."""
    if text.startswith("csi:"):
        csi = re.fullmatch(r"csi:([0-9])(?:\?flip=([0-7]))?", text)
        if csi is None:
            raise InputError(
                f"{text}: no CSI camera; expected the sensor's number, as in csi:0, or csi:0?flip=2 for one "
                "that is mounted upside down; flip is 0 to 7, nvvidconv's flip-method"
            )
        sensor, flip = int(csi[1]), int(csi[2] or 0)
        opens = partial(open_csi, sensor, size or (720, 1280), flip=flip)
        return f"csi:{sensor}", partial(giving, opens)
    device = camera_device(text)
    name = f"camera {device}" if device.isdecimal() else device
    return name, partial(giving, partial(open_camera, device, size))


def display_name(url: str) -> str:
    """Return an address without user, password and query, which may be secret."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return url.split("@")[-1]
    hidden = "?..." if parts.query else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}{hidden}"
