"""Video files are upscaled image by image; decoding, the network and encoding overlap."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hasn_edge.data.resize import imresize
from hasn_edge.errors import InputError, OutputError, counted
from hasn_edge.images.arrays import Pixels
from hasn_edge.progress import Progress, Step, ignore
from hasn_edge.queues import BoundedQueue, take_ahead
from hasn_edge.runtime.upscaler import Upscaler
from hasn_edge.video.decode import DecodedStep, Decoder
from hasn_edge.video.encode import Encoder, Format, open_encoder
from hasn_edge.video.formats import MUXERS, PIPE, check_container
from hasn_edge.video.runner import Runner
from hasn_edge.video.tracks import TRAVELLING, Audio, first_packets, holds

_WAITING = 2  # images between two stages: enough to even them out, and few, because they are large
_LARGE = 1 << 23
"""Pixels of a result from which on it is large to a `Runner`."""


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


def upscale_video(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    upscaler: Upscaler,
    *,
    codec: str | None = None,
    quality: float | None = None,
    audio: Audio = "copy",
    start_s: float = 0.0,
    end_s: float | None = None,
    final: Callable[[int, int], tuple[int, int]] | None = None,
    progress: Progress = ignore,
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

    In the place of either file `hasn_edge.video.formats.PIPE` may stand: raw frames as YUV4MPEG2, which has
    one rate, no audio and no tags. They are written as 4:4:4.

    Args:
        path: The video.
        output: The new file; ends in .mp4, .mov, .mkv or .webm. Missing folders are made.
        upscaler: Over a session of any kind.
        codec: FFmpeg's name of an encoder or of a codec; ``None`` for H.264 (VP9 in .webm).
        quality: On the encoder's own scale (CRF, CQ, quantizer), less is better; ``None`` for a good one.
        audio: ``"none"`` leaves audio out.
        start_s: The first time that is upscaled, in seconds from the beginning; time 0 of the new file. Audio
            is cut between two packets of it; subtitles that begin earlier are left out.
        end_s: The time before which it ends; ``None`` for the video's end.
        final: Returns the (height, width) of results from that of the video's images; they are resampled by
            `hasn_edge.data.resize.imresize`, to even sides: an odd one loses a row or column. ``None`` for
            what the network gives.
        progress: Called after every image, with how many are done and how many the file says there are.

    Raises:
        InputError: no video, nothing in it that can be decoded or between the times, a size that changes, or
            images too large.
        UnsupportedError: this FFmpeg has no such encoder, or the container cannot hold what it makes.
        OutputError: ``output`` is the video itself, the encoder does not start, or a failure to write.
        MissingDependencyError: PyAV is not installed.
    """
    path, output = Path(path), Path(output)
    check_container(output)
    if output.exists() and path.exists() and output.samefile(path):
        raise OutputError(f"{output} is the video to upscale and would be overwritten; choose another name")
    scale = upscaler.session.spec.scale
    with Decoder(path, start_s=start_s, end_s=end_s) as decoder:
        size = decoder.size[0] * scale, decoder.size[1] * scale
        runner = Runner(upscaler, deep=decoder.colour.deep, large=size[0] * size[1] > _LARGE)
        asked = size if final is None else final(*decoder.size)
        if asked != size:
            size = max(2, asked[0] // 2 * 2), max(2, asked[1] // 2 * 2)
        begin_s = time.perf_counter()
        wanted = Format(
            size=size,
            time_base=decoder.time_base,
            rate=decoder.rate,
            colour=decoder.colour.without_name(size) if output == PIPE else decoder.colour,
            aspect=decoder.aspect,
            sample_rates=decoder.sample_rates,
            codec=codec,
            quality=quality,
        )
        with open_encoder(output, wanted) as encoder:
            notes, losses = _copy_streams(decoder, encoder, audio)
            how = transcode(decoder, runner, encoder, progress)
        seconds = time.perf_counter() - begin_s
    even = "the sides of videos are even: {1}x{0} in the place of {3}x{2}".format(*size, *asked)
    sides = [even] if size != asked else []
    rounded = upscaler.session.pixels and decoder.colour.deep
    deep = ["it has more than 8 bits, and the network's file takes 8-bit pixels"] if rounded else []
    raw = [f"raw frames have one rate, here {float(decoder.rate):g} a second"] if output == PIPE else []
    if encoder.refused:
        losses.append(f"{counted(encoder.refused, 'packet')} of audio or subtitles could not be copied")
    tally = decoder.tally
    return VideoReport(
        path=output,
        images=tally.images,
        size=size,
        codec=encoder.name,
        seconds=seconds,
        damaged=tally.damaged,
        lost=tally.lost,
        notes=(*decoder.notes, *encoder.notes, *notes, *how, *deep, *raw, *sides, *tally.sentences()),
        losses=tuple(losses),
        whole=tally.whole,
    )


def _copy_streams(decoder: Decoder, encoder: Encoder, audio: Audio) -> tuple[list[str], list[str]]:
    """Have audio, subtitles and attachments copied; say what never is, and what is lost."""
    encoder.describe(decoder.metadata, dict(decoder.stream.metadata), decoder.chapters)
    notes, losses = [], []
    samples = first_packets(decoder.path, [] if audio == "none" else decoder.others)
    for stream in decoder.others:
        if stream.type == "audio" and audio == "none":
            continue
        name = stream.codec_context.name if stream.codec_context is not None else "of unknown kind"
        what = f"stream {stream.index} ({stream.type}, {name}) is left out"
        sample = samples.get(stream.index)
        if stream.type not in TRAVELLING:
            notes.append(f"{what}: only audio, subtitles and attachments are copied")
        elif not encoder.copy_stream(stream, sample):
            cure = "; .mkv can" if holds(MUXERS[".mkv"], stream, sample) else ""
            losses.append(f"{what}: the new container cannot hold it{cure}")
    return notes, losses


def transcode(decoder: Decoder, runner: Runner, encoder: Encoder, progress: Progress = ignore) -> list[str]:
    """Decode, upscale and encode every image; copy what travels beside them.

    The session is used in the calling thread only. What goes wrong in any thread stops all of them, and is
    raised here.

    Returns:
        What a user should know, one sentence each.
    """
    decoded: BoundedQueue[tuple[DecodedStep, Any]] = BoundedQueue(_WAITING)
    computed: BoundedQueue[tuple[DecodedStep, Any]] = BoundedQueue(_WAITING)

    def read() -> None:
        try:
            for step in decoder.steps():
                if not decoded.put((step, None if step.image is None else runner.prepare(step.image))):
                    return
        finally:
            decoded.finish()

    def write() -> None:
        try:
            for step, y in computed:
                for packet in step.packets:
                    encoder.copy(packet)
                if step.image is not None:
                    result = runner.finish(y)
                    if result.shape[:2] != encoder.size:
                        result = imresize(result, size=encoder.size)
                    encoder.write(result, step.pts, step.duration)
        finally:
            computed.close()

    with ThreadPoolExecutor(2, thread_name_prefix="hasn-edge-video") as threads:
        reading, writing = threads.submit(read), threads.submit(write)
        try:
            first: Pixels | None = None
            results = _compute(decoded, runner)
            for count, (step, y) in enumerate(results, start=1):
                if not computed.put((step, y)):
                    break  # the writer failed; its error comes below
                first = step.image if first is None else first
                if step.image is not None:
                    progress(Step(decoder.path.name, count, decoder.expected))
            decoded.close()
            reading.result()
            notes = [] if first is None else _describe_tiles(runner.upscaler, first)
            computed.finish()
            writing.result()
        finally:
            decoded.close()
            computed.close()
    return notes


def _compute(steps: Iterable[tuple[DecodedStep, Any]], runner: Runner) -> Iterator[tuple[DecodedStep, Any]]:
    """Yield every step with its result, in order; as many are under way as the session computes at a time."""
    begun = ((step, None if x is None else runner.submit(x)) for step, x in steps)
    try:
        for step, pending in take_ahead(begun, runner.in_flight - 1):
            yield step, None if pending is None else pending.result()
    except MemoryError as exc:
        raise InputError("not enough memory for images of this size; make the video smaller first") from exc


def _describe_tiles(upscaler: Upscaler, image: Pixels) -> list[str]:
    """Say how images like this one were cut, and what that cost."""
    report = upscaler.last_report
    if report is None or report.tiles == 1:
        return []
    causes = {"memory": " because of memory", "static size": " because the model's file has one size"}
    why = causes.get(report.reason or "", "")
    drift = upscaler.tile_drift(image)
    return [
        f"each image was computed in {report.tiles} tiles of {report.tile}{why}; drift of the first "
        f"from the whole frame: {drift}"
    ]
