"""Video files are upscaled image by image; nothing else about them changes."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hasn_edge.errors import InputError, MissingDependencyError, OutputError
from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.video.container import SUFFIXES, Stream, first_packets, open_container
from hasn_edge.video.decode import Decoder
from hasn_edge.video.encode import Encoder, Format, encoding
from hasn_edge.video.encoders import CONTAINERS, MUXERS, check_container
from hasn_edge.video.tracks import holds
from hasn_edge.video.transcode import FrameProgress, Network, transcode

Audio = Literal["copy", "none"]

_TRAVEL = ("audio", "subtitle", "attachment")
"""Types of streams that are copied."""


@dataclass(frozen=True, kw_only=True)
class VideoReport:
    """How one video was upscaled."""

    path: Path
    """The new file."""
    images: int
    """How many were written."""
    size: tuple[int, int]
    """Their height and width."""
    codec: str
    """FFmpeg's name of the encoder."""
    seconds: float
    """How long it took, from the first image decoded to the file closed."""
    damaged: int
    """Images that were decoded with errors and written all the same."""
    lost: int
    """Images that could not be decoded; in the result the one before is shown for longer."""
    notes: tuple[str, ...]
    """What a user should know, one sentence each."""
    losses: tuple[str, ...]
    """What the video has and the new file has not, one sentence each."""
    whole: bool
    """Whether every image of the file was read without an error."""

    @property
    def fps(self) -> float:
        """Images a second, decoding and encoding included."""
        return self.images / self.seconds if self.seconds else 0.0


def is_video(path: str | os.PathLike[str]) -> bool:
    """Say whether a file's name is that of a video."""
    return Path(path).suffix.lower() in SUFFIXES


def output_suffix(path: str | os.PathLike[str], audio: Audio = "copy") -> str:
    """Return the ending for the result of a video: its own where that can be written, else ``.mp4``.

    Instead of either it is ``.mkv`` where that holds audio or subtitles of the video that the other does not.
    """
    path = Path(path)
    suffix = path.suffix.lower() if path.suffix.lower() in CONTAINERS else ".mp4"
    # What is wrong with a file is said when it is read.
    with suppress(InputError, MissingDependencyError), open_container(path) as container:
        tracks = [s for s in container.streams if s.type in _TRAVEL and (s.type, audio) != ("audio", "none")]
        samples = _samples(path, tracks)
        for track in tracks:
            sample = samples.get(track.index)
            if not holds(MUXERS[suffix], track, sample) and holds(MUXERS[".mkv"], track, sample):
                return ".mkv"
    return suffix


def upscale_video(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    upscaler: Upscaler,
    *,
    codec: str | None = None,
    quality: float | None = None,
    audio: Audio = "copy",
    progress: FrameProgress | None = None,
) -> VideoReport:
    """Upscale a video file: every image, at its own time.

    Times and time base, variable rates, colour tags, pixel aspect, metadata and chapters are kept. Audio and
    subtitles are copied as they are where the new container can hold them; subtitles of text are converted
    where it holds another kind. Rotation is done to the pixels. Times that begin anywhere, as those of
    broadcasts do, begin at zero.
    Videos of more than 8 bits are computed from 16-bit RGB and written with 10 where the encoder can (a
    session of 8-bit pixels computes in 8). Chroma is written as 4:2:0.

    Decoding, the network and encoding overlap, each in its own thread; the network's is the caller's. The
    new file takes its name when it is whole: after an interruption nothing is left, and the next run starts
    afresh. What cannot be decoded is counted and left out, and decoding goes on.

    Args:
        path: The video.
        output: The new file; ends in .mp4, .mov, .mkv or .webm. Missing folders are made.
        upscaler: Over a session of any kind.
        codec: FFmpeg's name of an encoder or of a codec; ``None`` for H.264 (VP9 in .webm).
        quality: On the encoder's own scale (CRF, CQ, quantizer), less is better; ``None`` for a good one.
        audio: ``"none"`` leaves audio out.
        progress: Called after every image.

    Raises:
        InputError: no video, nothing in it that can be decoded, a size that changes, or images too large.
        UnsupportedError: this FFmpeg has no such encoder, or the container cannot hold what it makes.
        OutputError: ``output`` is the video itself, the encoder does not start, or a failure to write.
        MissingDependencyError: PyAV is not installed.
    """
    path, output = Path(path), Path(output)
    check_container(output)
    if output.exists() and path.exists() and output.samefile(path):
        raise OutputError(
            f"{output} is the video to upscale and would be overwritten; choose another name with -o"
        )
    scale = upscaler.session.spec.scale
    with Decoder(path) as decoder:
        size = decoder.size[0] * scale, decoder.size[1] * scale
        network = Network(upscaler, size, deep=decoder.colour.deep)
        begin_s = time.perf_counter()
        wanted = Format(
            size=size,
            time_base=decoder.time_base,
            rate=decoder.rate,
            colour=decoder.colour,
            aspect=decoder.aspect,
            sample_rates=decoder.sample_rates,
            codec=codec,
            quality=quality,
        )
        with encoding(output, wanted) as encoder:
            notes, losses = _copy_streams(decoder, encoder, audio)
            how = transcode(decoder, network, encoder, progress)
        seconds = time.perf_counter() - begin_s
    if encoder.refused:
        losses.append(f"{encoder.refused} packets of audio or subtitles could not be copied")
    tally = decoder.tally
    return VideoReport(
        path=output,
        images=tally.images,
        size=size,
        codec=encoder.name,
        seconds=seconds,
        damaged=tally.damaged,
        lost=tally.lost,
        notes=(*decoder.notes, *encoder.notes, *notes, *how, *tally.sentences()),
        losses=tuple(losses),
        whole=tally.whole,
    )


def _copy_streams(decoder: Decoder, encoder: Encoder, audio: Audio) -> tuple[list[str], list[str]]:
    """Have audio, subtitles and attachments copied; say what never is, and what is lost."""
    encoder.describe(decoder.metadata, dict(decoder.stream.metadata), decoder.chapters)
    notes, losses = [], []
    samples = _samples(decoder.path, [] if audio == "none" else decoder.others)
    for stream in decoder.others:
        if stream.type == "audio" and audio == "none":
            continue
        name = stream.codec_context.name if stream.codec_context is not None else "of unknown kind"
        what = f"stream {stream.index} ({stream.type}, {name}) is left out"
        sample = samples.get(stream.index)
        if stream.type not in _TRAVEL:
            notes.append(f"{what}: only audio, subtitles and attachments are copied")
        elif not encoder.copy_stream(stream, sample):
            cure = "; .mkv can" if holds(MUXERS[".mkv"], stream, sample) else ""
            losses.append(f"{what}: the new container cannot hold it{cure}")
    return notes, losses


def _samples(path: Path, streams: list[Stream]) -> dict[int, bytes]:
    """Return a packet of each track of audio: some containers look at one before they refuse the track."""
    return first_packets(path, {stream.index for stream in streams if stream.type == "audio"})
