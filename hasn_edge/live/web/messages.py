"""What the page and the server send each other over the WebSocket, and its codec.

Text messages are JSON objects whose ``type`` names one of the classes here: :data:`PageMessage` from the
page, :data:`ServerMessage` to it. Images are binary: four bytes, big-endian, with the length of a JSON
:class:`ImageMessage`, the header, and then the files whose lengths it gives. What either side does depends on
types, states, codes and numbers; ``text`` is for people only.
"""

from __future__ import annotations

import struct
from enum import Enum, IntEnum
from typing import Literal

import msgspec

from hasn_edge.live.notices import RunState

LARGEST_REQUEST = 4096
"""Bytes; what is longer ends the connection."""

ImageQuality = Literal["best", "good", "light", "lossless"]


class CloseCode(IntEnum):
    """Why the server ends a connection."""

    ENDED = 1001
    """The run has ended."""
    FAILED = 1011
    WRONG_REQUEST = 4400
    WRONG_TOKEN = 4401
    TOO_MANY = 4429
    """As many viewers watch as may."""


class ImageKind(str, Enum):
    """Why an image is sent."""

    FRAME = "frame"
    """It is the next frame."""
    STILL = "still"
    """It answers :class:`Still`."""


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
    """Change the engine, for every viewer."""

    engine: str


PageMessage = Hello | Want | Drawn | Still | Select


class Welcome(msgspec.Struct, tag="welcome"):
    """Comes first: this viewer is let in."""

    source: str
    engines: tuple[str, ...]
    scale: int
    history: list[tuple[float | None, ...]]
    """Seconds, p50, p95, and frames a second captured, shown and on a screen, of the last ticks."""


class OwnFigures(msgspec.Struct):
    """How one viewer sees the run: frames a second, and the latency until it drew them in milliseconds."""

    fps: float | None
    p50: float | None
    p95: float | None
    max: float | None


class RunFigures(msgspec.Struct, tag="stats"):
    """Comes at every tick."""

    stats: msgspec.Raw
    """A :class:`~hasn_edge.live.snapshot.Snapshot`, encoded once for every viewer."""
    you: OwnFigures
    viewers: int


class Note(msgspec.Struct, tag="notice"):
    """A :class:`~hasn_edge.live.notices.Notice`, or that there is none any more."""

    state: RunState = RunState.RUNNING
    text: str | None = None
    opening: str | None = None
    """The engine that is being opened."""


class Refused(msgspec.Struct, tag="refused"):
    """A request of this type is not fulfilled."""

    about: Literal["still", "select"]
    text: str


ServerMessage = Welcome | RunFigures | Note | Refused


class ImageMessage(msgspec.Struct):
    """What belongs to an image."""

    kind: ImageKind
    frame: int
    """Number of the frame, for :class:`Drawn` and :class:`Still`."""
    index: int
    """Number of the frame in its source."""
    time_s: float | None
    engine: str
    """The one that computed it."""
    width: int
    height: int
    scale: int
    media: str
    """MIME type of the files."""
    lengths: list[int]
    """Bytes of the network's image, and of bicubic's where it is there."""


_PAGE: msgspec.json.Decoder[PageMessage] = msgspec.json.Decoder(PageMessage)


def decode_page_message(text: str | bytes) -> PageMessage:
    """Read what the page sent.

    Raises:
        msgspec.DecodeError: it is no message.
    """
    return _PAGE.decode(text)


def encode_message(message: ServerMessage) -> str:
    """Return a text message of the server."""
    return msgspec.json.encode(message).decode()


def encode_image(header: ImageMessage, files: list[bytes]) -> bytes:
    """Return a binary message with the files whose lengths the header gives."""
    text = msgspec.json.encode(header)
    return b"".join((struct.pack(">I", len(text)), text, *files))
