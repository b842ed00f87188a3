"""What a live run measured, as JSON values: for the page, the table at the end and files."""

from __future__ import annotations

from enum import Enum
from typing import TypedDict

from hasn_edge.live.notices import RunState


class EndReason(str, Enum):
    """Why a run ended."""

    SOURCE = "end of source"
    STOPPED = "stopped"
    TIME = "time"
    ERROR = "error"


class Times(TypedDict):
    """Durations in milliseconds, ``None`` where there is none."""

    p50: float | None
    p95: float | None
    max: float | None
    count: int
    """Of how many frames."""


class FrameCounts(TypedDict):
    """What became of the frames."""

    captured: int
    """Those included that the source knows to have lost."""
    shown: int
    """Handed to the views."""
    displayed: int | None
    """Came on a screen; ``None`` where no view reports it."""
    dropped: int
    in_flight: int
    """Captured, and neither shown nor dropped."""
    drops: dict[str, int]
    """Dropped frames by reason."""


class Figures(TypedDict):
    """Rates and times over the last five seconds, or over the run."""

    fps_in: float | None
    """Frames a second that were captured."""
    fps_out: float | None
    """... that were shown."""
    fps_screen: float | None
    """... that came on a screen."""
    latency_ms: Times
    stages_ms: dict[str, Times]
    """By stage, see :data:`hasn_edge.live.stats.STAGES`."""
    busy: dict[str, float]
    """Fraction of the time, 0 to 1, by stage that works."""


class Limit(TypedDict):
    """What limits the run."""

    stage: str
    text: str
    """In words, with what helps."""


class QualityFigures(TypedDict):
    """A self-test's PSNR-Y in dB; ``None`` for identical images."""

    hasn_db: float | None
    """Of the last frame."""
    bicubic_db: float | None
    hasn_mean_db: float | None
    """Over the run."""
    bicubic_mean_db: float | None
    frames: int


class Snapshot(TypedDict):
    """A run at one moment. Sizes are ``[height, width]``, or ``None`` before the first frame."""

    source: str
    live: bool
    engine: str
    """The one that computes."""
    engines: list[str]
    engines_used: dict[str, int]
    """Frames shown by engine, in the order of their first ones."""
    input: list[int] | None
    output: list[int] | None
    source_size: list[int] | None
    """As captured."""
    part: list[int] | None
    """Of it, around the middle, what is used."""
    fitted: list[int] | None
    """To which the part is resized: the network's input, or a self-test's truth."""
    pixel_aspect: float
    """Width by height of a captured pixel as it is shown."""
    seconds: float
    """Since the start."""
    ended: EndReason | None
    state: RunState
    opening: str | None
    """The engine that is being opened."""
    notice: str | None
    """What the user should know at the moment."""
    notices: list[str]
    """The first hundred different ones, in order."""
    frames: FrameCounts
    latency_begins: str
    """``"capture"``; ``"prepare"`` of a recording, which is read ahead."""
    latency_ends: str
    """``"view"`` (handed over) or ``"screen"`` (a view reported it)."""
    now: Figures
    """Of the last five seconds."""
    run: Figures
    """Since the start."""
    limit: Limit | None
    """``None`` before there are frames."""
    quality: QualityFigures | None
    """``None`` without a self-test."""
