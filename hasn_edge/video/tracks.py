"""Audio, subtitles and attachments travel into a new file: as they are, or as other text subtitles."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from hasn_edge.errors import InputError, MissingDependencyError
from hasn_edge.optional import require
from hasn_edge.video.container import Packet, Stream, open_container
from hasn_edge.video.formats import CONTAINERS, MUXERS

Audio = Literal["copy", "none"]

TRAVELLING = ("audio", "subtitle", "attachment")
"""Types of streams that are copied."""

_SEARCHED = 1000  # packets: audio begins about where the images do
_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""FFmpeg's usual layout of so many channels."""
_TEXT = ("srt", "subrip", "mov_text", "webvtt", "ass", "ssa", "text")
"""Decoders of subtitles that are text."""
_TEXT_OF = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}
"""The encoder of such subtitles for each kind of container."""


class CopiedTrack:
    """A track whose packets stay as they are.

    Args:
        container: PyAV's, before its header is written.
        source: The track of another file.

    Raises:
        ValueError: the container does not take this codec.
    """

    into: str | None = None
    """What its packets are converted to; ``None`` where they stay."""

    def __init__(self, container: Any, source: Stream) -> None:
        self._stream = container.add_stream_from_template(source)
        context = self._stream.codec_context
        # AVI says how many channels PCM has and not which. The MP4 muxer refuses that, and only at the end.
        if source.type == "audio" and context is not None:
            count = context.layout.nb_channels
            if context.layout.name == f"{count} channels" and count in _LAYOUTS:
                context.layout = _LAYOUTS[count]
        _describe(self._stream, source)

    def __call__(self, packet: Packet) -> Packet | None:
        """Return the packet of the new file; ``None`` for none."""
        packet.stream = self._stream
        return packet


class ConvertedTrack:
    """A track of text subtitles that is encoded again, because the container holds another kind.

    Args:
        container: PyAV's, before its header is written.
        source: The track of another file.

    Raises:
        ValueError: no text, or no encoder for it.
    """

    def __init__(self, container: Any, source: Stream) -> None:
        self._decoder = source.codec_context
        self.into = _TEXT_OF.get(container.format.name, "")
        if self._decoder is None or self._decoder.name not in _TEXT or not self.into:
            raise ValueError("no subtitles of text")
        self._decoder.open(strict=False)
        self._stream = container.add_stream(self.into)
        self._encoder = self._stream.codec_context
        self._encoder.subtitle_header = self._decoder.subtitle_header
        self._encoder.time_base = self._stream.time_base = source.time_base
        subtitles = require("av.subtitles.subtitle", extra="video", needed_for="Converting subtitles")
        self._events = subtitles.SubtitleSet
        _describe(self._stream, source)

    def __call__(self, packet: Packet) -> Packet | None:
        """Return the packet of the new file; ``None`` for one that says nothing: MP4 has them in between."""
        events = [rectangle.ass for rectangle in self._decoder.decode(packet)]
        if not events:
            return None
        new = self._encoder.encode_subtitle(self._events.create(b"\n".join(events), 0, 0))
        new.pts, new.dts, new.duration = packet.pts, packet.dts, packet.duration
        new.time_base, new.stream, new.is_keyframe = packet.time_base, self._stream, True
        return new


Track = CopiedTrack | ConvertedTrack


def add_track(container: Any, source: Stream, sample: bytes | None = None) -> Track | None:
    """Add a track of another file to a new one; ``None`` where it cannot hold it.

    Args:
        container: PyAV's, before its header is written.
        source: The track.
        sample: One of its packets, for :func:`holds`.
    """
    kind = _choose_kind(container.format.name, source, sample)
    return None if kind is None else kind(container, source)


def holds(muxer: str, source: Stream, sample: bytes | None = None) -> bool:
    """Say whether a kind of container can hold a track, as it is or converted.

    Args:
        muxer: FFmpeg's name of the kind.
        source: The track.
        sample: One of its packets: some tracks are refused only when the end of the file is written.
    """
    return _choose_kind(muxer, source, sample) is not None


def output_suffix(path: str | os.PathLike[str], audio: Audio = "copy") -> str:
    """Return the ending for the result of a video: its own where that can be written, else ``.mp4``.

    Instead of either it is ``.mkv`` where that holds audio or subtitles of the video that the other does not.
    """
    path = Path(path)
    suffix = path.suffix.lower() if path.suffix.lower() in CONTAINERS else ".mp4"
    # What is wrong with a file is said when it is read.
    with suppress(InputError, MissingDependencyError), open_container(path) as container:
        tracks = [
            s for s in container.streams if s.type in TRAVELLING and (s.type, audio) != ("audio", "none")
        ]
        samples = first_packets(path, tracks)
        for track in tracks:
            sample = samples.get(track.index)
            if not holds(MUXERS[suffix], track, sample) and holds(MUXERS[".mkv"], track, sample):
                return ".mkv"
    return suffix


def first_packets(path: Path, streams: Iterable[Stream]) -> dict[int, bytes]:
    """Return the first packet of each track of audio: some containers refuse the track for it.

    Read from the file anew; not of those that do not come within `_SEARCHED` packets, or after damage.
    """
    av: Any = require("av", extra="video", needed_for="Reading video files")
    indexes = {stream.index for stream in streams if stream.type == "audio"}
    found: dict[int, bytes] = {}
    if not indexes:
        return found
    with suppress(av.error.FFmpegError, OSError), open_container(path) as container:
        for packet in islice(container.demux(), _SEARCHED):
            if packet.stream.index in indexes and packet.size:
                found.setdefault(packet.stream.index, bytes(packet))
                if len(found) == len(indexes):
                    break
    return found


def _choose_kind(muxer: str, source: Stream, sample: bytes | None) -> Callable[[Any, Stream], Track] | None:
    kinds: tuple[Callable[[Any, Stream], Track], ...] = (CopiedTrack, ConvertedTrack)
    return next((kind for kind in kinds if _accepts(kind, muxer, source, sample)), None)


def _accepts(kind: Callable[[Any, Stream], Track], muxer: str, source: Stream, sample: bytes | None) -> bool:
    """Try a file with this track alone, header and end."""
    av: Any = require("av", extra="video", needed_for="Writing video files")
    try:
        with av.open(io.BytesIO(), "w", format=muxer) as trial:
            track = kind(trial, source)
            trial.start_encoding()
            if sample is not None:
                packet = av.Packet(sample)
                packet.pts = packet.dts = 0
                packet.time_base, packet.is_keyframe = source.time_base, True
                # A damaged packet says nothing of the track.
                with suppress(ValueError, av.error.FFmpegError):
                    made = track(packet)
                    if made is not None:
                        trial.mux_one(made)
    except (ValueError, TypeError, OSError, av.error.FFmpegError):
        return False
    return True


def _describe(stream: Stream, source: Stream) -> None:
    stream.metadata.update(source.metadata)
    stream.disposition = source.disposition
