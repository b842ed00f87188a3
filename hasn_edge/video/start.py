"""Times that begin anywhere, as those of broadcasts do, are counted from where they begin."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from hasn_edge.video.container import Packet, Stream, exact

_ANYWHERE = 0x200  # AVFMT_TS_DISCONT: transport and program streams, Ogg
_NEAR_S = Fraction(1, 10)  # audio often begins a little before the images: not worth a word
_LATE_S = 60  # a file of another kind may say that nothing is shown in the first seconds, and mean it


def start_of(container: Any, streams: Iterable[Stream]) -> Fraction:
    """Return what to subtract from all times of an open file, in seconds; 0 where they begin near zero.

    Otherwise a player of the new file would show nothing for that long. It is a whole number of units of
    every stream's time base, so that each time stays exact beside the others.
    """
    bases = [base for stream in streams if (base := exact(stream.time_base)) is not None]
    starts = [
        stream.start_time * exact(stream.time_base)
        for stream in streams
        if stream.type in ("video", "audio") and stream.start_time is not None and stream.time_base
    ]
    first = min(starts, default=Fraction(0))
    if first < _NEAR_S or (first < _LATE_S and not int(container.format.flags) & _ANYWHERE):
        return Fraction(0)
    unit = Fraction(
        math.lcm(*(base.numerator for base in bases)), math.gcd(*(base.denominator for base in bases))
    )
    return first // unit * unit


def moved(packet: Packet, start: Fraction) -> Packet:
    """Return the packet with its times counted from ``start``."""
    base = exact(packet.time_base)
    if start and base:
        shift = int(start / base)
        packet.pts = None if packet.pts is None else packet.pts - shift
        packet.dts = None if packet.dts is None else packet.dts - shift
    return packet


def moved_chapters(chapters: list[Any], start: Fraction) -> list[Any]:
    """Return chapters, as PyAV gives and takes them, with their times counted from ``start``."""
    if not start:
        return chapters
    shifts = [round(start / (exact(chapter["time_base"]) or Fraction(1))) for chapter in chapters]
    return [
        {**chapter, "start": chapter["start"] - shift, "end": chapter["end"] - shift}
        for chapter, shift in zip(chapters, shifts, strict=True)
    ]
