"""What the page and the server say to each other over the WebSocket.

Text messages are JSON objects with a ``type``. The page sends the classes of :data:`Request`; the server
sends ``hello``, ``stats``, ``message``, and ``refused``, which says ``about`` which type of request. Images
are binary: four bytes, big-endian, with the length of a JSON header, the header, and then the files whose
lengths it tells.
"""

from __future__ import annotations

import struct
from typing import Any, Literal

import msgspec

from hasn_edge.live.frame import UpscaledFrame

LARGEST_REQUEST = 4096
"""Bytes; what is longer ends the connection."""

WRONG_REQUEST, WRONG_TOKEN, TOO_MANY, ENDED, FAILED = 4400, 4401, 4429, 1001, 1011
"""Codes that a connection is closed with."""

ImageQuality = Literal["best", "good", "light", "lossless"]


class Hello(msgspec.Struct, tag="hello", forbid_unknown_fields=True):
    """Comes first: may I watch?"""

    token: str | None = None


class Want(msgspec.Struct, tag="want", forbid_unknown_fields=True):
    """Which images to send from now on."""

    watch: bool
    """Whether any at all: not while paused, or in a hidden tab."""
    compare: bool = False
    """Bicubic, too."""
    quality: Literal["best", "good", "light"] = "good"


class Drawn(msgspec.Struct, tag="drawn", forbid_unknown_fields=True):
    """The frame of this number is on the screen; there is room for another one."""

    frame: int


class Still(msgspec.Struct, tag="still", forbid_unknown_fields=True):
    """The frame of this number, the one that is on the screen, without loss, and bicubic."""

    frame: int


class Select(msgspec.Struct, tag="select", forbid_unknown_fields=True):
    """Change the engine, for everybody."""

    engine: str


Request = Hello | Want | Drawn | Still | Select

_DECODER = msgspec.json.Decoder(Request)


def request(text: str | bytes) -> Any:
    """Read what the page sent.

    Returns:
        One of :data:`Request`.

    Raises:
        msgspec.DecodeError: it is none of these.
    """
    return _DECODER.decode(text)


def note(kind: str, **content: Any) -> str:
    """Return a text message of the server."""
    return msgspec.json.encode({"type": kind, **content}).decode()


def image(
    number: int, shown: UpscaledFrame, kind: Literal["frame", "still"], media: str, files: list[bytes]
) -> bytes:
    """Return a binary message: the network's image, and bicubic's if there is a second file.

    Args:
        number: Of the frame, for :class:`Drawn` and :class:`Still`.
        shown: Where the files were made of.
        kind: Whether it is the next frame, or an answer to :class:`Still`.
        media: MIME type of the files.
        files: One or two.
    """
    height, width = shown.upscaled.shape[:2]
    header = {
        "kind": kind,
        "frame": number,
        "index": shown.frame.index,
        "time_s": shown.frame.time_s,
        "engine": shown.engine,
        "width": width,
        "height": height,
        "scale": shown.scale,
        "media": media,
        "lengths": [len(file) for file in files],
    }
    text = msgspec.json.encode(header)
    return b"".join((struct.pack(">I", len(text)), text, *files))


def unpacked(message: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Return header and files of :func:`image`, as the page does."""
    (length,) = struct.unpack_from(">I", message)
    header: dict[str, Any] = msgspec.json.decode(message[4 : 4 + length])
    files, start = [], 4 + length
    for size in header["lengths"]:
        files.append(message[start : start + size])
        start += size
    return header, files
