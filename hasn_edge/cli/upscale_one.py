"""One file is upscaled, and what became of it is printed; as JSON values it is returned."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hasn_edge.cli.common import WHY_TILES
from hasn_edge.cli.terminal import is_quiet, note, progress, say
from hasn_edge.cli.upscale_files import ResultSize, is_video, say_result
from hasn_edge.errors import HasnEdgeError, InputError, counted, listed
from hasn_edge.progress import Step

if TYPE_CHECKING:
    from hasn_edge.runtime.upscaler import Upscaler


@dataclass(frozen=True, kw_only=True)
class ResultOptions:
    """What was asked for of every result."""

    size: ResultSize
    several: bool
    """Whether there is more than one."""
    srgb: bool
    codec: str | None
    quality: float | None
    audio: Any
    start_s: float
    end_s: float | None


def upscale_file(upscaler: Upscaler, path: Path, target: Path, wanted: ResultOptions) -> dict[str, Any]:
    """Upscale an image or a video.

    Returns:
        What became of it, as JSON values; of a video ``whole`` states whether all of it could be read.

    Raises:
        HasnEdgeError, MemoryError: it could not be read, computed or written.
    """
    upscale = _upscale_video if is_video(path) else _upscale_image
    return {"source": str(path), "result": str(target), **upscale(upscaler, path, target, wanted)}


def _upscale_image(upscaler: Upscaler, path: Path, target: Path, wanted: ResultOptions) -> dict[str, Any]:
    from hasn_edge.files import require_writable
    from hasn_edge.images.codec import check_size, conversions, read_image, write_image
    from hasn_edge.images.metadata import keep_colours, read_metadata

    require_writable(target)  # computing what cannot be written takes minutes
    image, metadata, colours = keep_colours(read_image(path), read_metadata(path), target, srgb=wanted.srgb)
    height, width = image.shape[:2]
    final = wanted.size.final(height, width, upscaler.session.spec.scale)
    check_size(target, *final)
    try:
        result = upscaler.upscale(image)
    except MemoryError as exc:
        raise InputError(f"{path}: {width}x{height} pixels: not enough memory; cut the image") from exc
    if result.shape[:2] != final:
        from hasn_edge.data.resize import imresize

        result = imresize(result, size=final)
    write_image(target, result, convert=True, metadata=metadata)
    say_result(path, target, wanted.size.label(upscaler.session.spec.scale), several=wanted.several)
    rounded = upscaler.session.pixels and image.dtype.itemsize > 1
    reads = ["the network's file takes 8-bit pixels: the image's 16 bits were rounded"] if rounded else []
    for text in (*conversions(target, result), *reads, *filter(None, [colours])):
        note(f"  {text}")
    if metadata.further:
        what = "page" if path.suffix.lower() in (".tif", ".tiff") else "frame"
        many = f"{metadata.further} further {what}s are" if metadata.further > 1 else f"1 further {what} is"
        say(f"Warning: {path}: {many} left out: the result is the first one", err=True)
    report = upscaler.last_report
    if report is not None and report.tiles > 1 and not is_quiet():  # the drift takes a second computation
        why = WHY_TILES.get(report.reason or "", "")
        drift = upscaler.tile_drift(image)
        note(
            f"  {report.tiles} tiles of {report.tile}{why and f' {why}'}; drift from the whole frame: {drift}"
        )
    return {"size": list(final)}


def describe_failure(path: Path, exc: BaseException) -> str:
    """Return what went wrong with a file, with its name: what fails deep inside does not know it."""
    from hasn_edge.cli.cures import message_of

    if isinstance(exc, HasnEdgeError):
        text = message_of(exc, click.get_current_context().command)
    else:
        text = "not enough memory"
    text += _of_video(path)
    return text if str(path) in text else f"{path}: {text}"


def is_padded(upscaler: Upscaler) -> bool:
    """Say whether the last image was padded to what the file takes, beyond what its network needs."""
    report = upscaler.last_report
    return report is not None and report.padded != upscaler.session.spec.size.padding(*report.size)


def say_padded(padded: list[Path], upscaler: Upscaler) -> None:
    """Say once for all of them that the file's size made the results others than those of any size."""
    were = "were" if len(padded) > 1 else "was"
    session = upscaler.session
    one = session.size is not None
    size, build = ("size", "without --size") if one else ("smallest size", "with a smaller --dynamic")
    sees = "channel attention" if session.spec.channel_attention else "what is near the border"
    height, width = session.smallest
    say(
        f"{listed(padded, 1)} {were} padded to {width}x{height}, the {size} this --artifact takes; {sees} "
        "sees the padding, which changes the result; a file of any size gives that of the whole frame: leave "
        f"out --artifact, or build {build}",
        err=True,
    )


def _of_video(image: Path) -> str:
    """Return what else to say of a file that is no image, where it may be a video by another name."""
    from hasn_edge.images.listing import SUFFIXES, USUAL_VIDEOS

    if is_video(image) or image.suffix.lower() in SUFFIXES or not image.is_file():
        return ""
    return f"; a video is known by its ending: {USUAL_VIDEOS}"


def _upscale_video(upscaler: Upscaler, path: Path, target: Path, wanted: ResultOptions) -> dict[str, Any]:
    from hasn_edge.video.formats import PIPE
    from hasn_edge.video.transcode import upscale_video

    upscaler.last_report = None  # frames that the session takes as they are leave none
    scale = upscaler.session.spec.scale
    with progress(path.name) as show:
        begin_s = time.perf_counter()

        def count(step: Step) -> None:
            rate = (step.done or 0) / (time.perf_counter() - begin_s)
            show(replace(step, text=f"{rate:.1f} fps"))

        report = upscale_video(
            path,
            target,
            upscaler,
            codec=wanted.codec,
            quality=wanted.quality,
            audio=wanted.audio,
            start_s=wanted.start_s,
            end_s=wanted.end_s,
            final=(lambda height, width: wanted.size.final(height, width, scale))
            if wanted.size.any
            else None,
            progress=count,
        )
    say_result(path, target, wanted.size.label(scale), several=wanted.several)
    height, width = report.size
    encoder = "" if target == PIPE else f" by {report.codec}"  # raw frames have none that users know
    note(
        f"  {counted(report.images, 'frame')} of {width}x{height}{encoder} in "
        f"{report.seconds:.1f} s ({report.fps:.1f} fps)"
    )
    for text in report.notes:
        note(f"  {text}")
    for loss in report.losses:
        say(f"Warning: {path}: {loss}", err=True)
    if not report.whole:
        say(f"Damaged: {path}: what could be read of it is in {target}", err=True)
    return {
        "size": list(report.size),
        "frames": report.images,
        "codec": report.codec,
        "seconds": report.seconds,
        "damaged": report.damaged,
        "lost": report.lost,
        "whole": report.whole,
        "notes": list(report.notes),
        "losses": list(report.losses),
    }
