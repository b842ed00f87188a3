"""The ``upscale`` verb."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hasn_edge.cli.common import (
    SIZE,
    artifact_option,
    backend_option,
    chosen_model,
    cuda_option,
    device_option,
    engines_option,
    model_option,
    open_chosen,
    threads_option,
)
from hasn_edge.cli.terminal import interruption, is_quiet, note, progress, say
from hasn_edge.cli.upscale_files import (
    ResultSize,
    check_existing,
    check_output,
    find_files,
    is_video,
    name_results,
    say_result,
)
from hasn_edge.errors import HasnEdgeError, InputError
from hasn_edge.progress import Step

if TYPE_CHECKING:
    from hasn_edge.runtime.upscaler import Upscaler


@click.command("upscale")
@click.argument("inputs", nargs=-1, required=True, type=click.Path())
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("out"),
    show_default=True,
    help="Folder for the results; for one image also a file: .png, .jpg, .jpeg, .webp, .bmp, .tif or "
    ".tiff; for one video: .mp4, .mov, .mkv or .webm.",
)
@click.option(
    "--format",
    "suffix",
    type=click.Choice(["png", "jpg", "webp", "bmp", "tiff"]),
    default=None,
    help="Format of images; jpg, webp and bmp keep 8 bits, jpg and bmp no transparency.  [default: that of "
    "a file named by -o, else png]",
)
@click.option(
    "--tile",
    type=click.IntRange(32, 4096),
    default=None,
    help="Work in tiles of N pixels.  [default: whole images while memory suffices]",
)
@click.option(
    "--overlap",
    type=click.IntRange(0, 1024),
    default=16,
    show_default=True,
    help="Pixels that neighbouring tiles share.",
)
@click.option(
    "-r", "--recursive", is_flag=True, help="Enter folders inside folders; -o gets the same folders."
)
@click.option(
    "--outscale",
    type=click.FloatRange(0.1, 16),
    default=None,
    metavar="N",
    help="Images N times as large as they were: the network's result, resampled (MATLAB bicubic).",
)
@click.option(
    "--size",
    type=SIZE,
    default=None,
    help="Images as large as fits into WxH, resampled likewise; they keep their aspect ratio.",
)
@click.option(
    "--self-ensemble", is_flag=True, help="Average over the eight flips and rotations (8x the time)."
)
@click.option(
    "--srgb",
    is_flag=True,
    help="Convert the colours of images to sRGB.  [default: their colour profiles go into the results]",
)
@click.option(
    "--codec",
    metavar="NAME",
    default=None,
    help="Encoder of videos by FFmpeg's name.  [default: libx264; libvpx-vp9 in .webm]",
)
@click.option(
    "--quality",
    "--crf",
    "quality",
    type=float,
    default=None,
    metavar="N",
    help="Quality of videos on the encoder's own scale, less is better.  [default: 17 for libx264]",
)
@click.option(
    "--audio",
    type=click.Choice(["copy", "none"]),
    default="copy",
    show_default=True,
    help="Audio of videos: copied as it is, or left out.",
)
@click.option(
    "--skip-existing",
    is_flag=True,
    help="Leave results alone that are there already, and go on with the rest.  [default: replace them]",
)
@model_option
@artifact_option
@engines_option
@backend_option
@device_option()
@cuda_option
@threads_option
def command(
    inputs: tuple[str, ...],
    output: Path,
    suffix: str | None,
    tile: int | None,
    overlap: int,
    recursive: bool,
    outscale: float | None,
    size: tuple[int, int] | None,
    self_ensemble: bool,
    srgb: bool,
    codec: str | None,
    quality: float | None,
    audio: Any,
    skip_existing: bool,
    model: str | None,
    artifact: Path | None,
    engines: bool,
    backend: str | None,
    device: str | None,
    cuda: str | None,
    threads: int | None,
) -> None:
    """Upscale images, videos and folders of them; NAME.jpg becomes NAME_x4.png.

    PNG, JPEG, WebP, BMP, TIFF and still GIF; 8 and 16 bit; gray and colour; transparency, colour profile,
    resolution, dates and copyright are kept; EXIF orientation is applied. A file that cannot be
    read is named, the rest go on, and the exit code is 1. Folders inside folders are entered with
    --recursive.

    Videos keep every frame at its time, audio, subtitles and colour tags; clip.mp4 becomes
    clip_x4.mp4, and clip.avi as well, or clip_x4.mkv where only that holds its audio. Frames
    that cannot be decoded are counted, the rest go on, and the exit code is 1. A video takes its
    name when it is whole: interrupted (exit code 130), nothing is left of it, and the next run
    starts it afresh; --skip-existing goes on with those that are missing.

    \b
    Examples:
      hasn-edge upscale photo.jpg -o out/
      hasn-edge upscale photo.jpg -o large.webp
      hasn-edge upscale holiday/ scan.tif -o out/ --tile 256
      hasn-edge upscale clip.mp4 -o clip_x4.mp4 --codec libx265 --quality 20
      hasn-edge upscale photo.jpg --artifact engines/hasn-x4-fp16-rtx.engine
    """
    from hasn_edge.runtime.upscaler import Upscaler

    if outscale is not None and size is not None:
        raise click.UsageError("--outscale and --size exclude each other")
    wanted = ResultSize(outscale=outscale, size=size)
    files, folders = find_files(inputs, output, recursive=recursive)
    if wanted.any and any(map(is_video, files)):
        raise click.UsageError("--outscale and --size are for images; a video has the network's scale")
    check_output(files, output, suffix)
    failures: list[str] = []
    padded: list[Path] = []
    in_flight = 2 if any(map(is_video, files)) else 1  # copies to and from the device beside the network
    with (
        interruption() as interrupted,
        open_chosen(
            model,
            artifact,
            threads=threads,
            device=device,
            cuda=cuda,
            in_flight=in_flight,
            backend=backend,
            engines=engines,
        ) as session,
    ):
        upscaler = Upscaler(session, tile=tile, overlap=overlap, self_ensemble=self_ensemble)
        several = len(files) > 1
        label = wanted.label(session.spec.scale)
        what = chosen_model(model) if artifact is None else artifact.name
        then = f", then resampled to {label} (MATLAB bicubic)" if wanted.any else ""
        runs = f"{session.number_format} by {session.backend} on {session.device}"
        note(f"{what}, {runs}: x{session.spec.scale}{then}")
        work = check_existing(name_results(files, output, label, suffix, audio, folders), skip=skip_existing)
        videos = [(file, target) for file, target in work if is_video(file)]
        images = [(file, target) for file, target in work if not is_video(file)]
        with progress("upscaling", show=len(images) > 1) as show:
            for number, (path, target) in enumerate(images, 1):
                try:
                    _upscale(upscaler, path, target, wanted, several=several, srgb=srgb)
                    padded += [path] if _is_padded(upscaler) else []
                except (HasnEdgeError, MemoryError) as exc:
                    failures.append(str(path))
                    say(f"Skipped: {_named(path, exc)}{_of_video(path)}", err=True)
                show(Step(path.name, number, len(images)))
        for video, target in videos:
            try:
                interrupted.sentence = (
                    f"Interrupted: nothing of {target} was kept; the next run starts it afresh"
                )
                whole = _upscale_video(
                    upscaler, video, target, codec=codec, quality=quality, audio=audio, several=several
                )
                padded += [video] if _is_padded(upscaler) else []
                interrupted.sentence = "Interrupted"
                failures += [] if whole else [str(video)]
            except (HasnEdgeError, MemoryError) as exc:
                failures.append(str(video))
                say(f"Skipped: {_named(video, exc)}", err=True)
    if padded:
        _say_padded(padded, upscaler)
    if failures:
        if several:
            what = "files could not be upscaled whole" if videos else "images could not be upscaled"
            say(f"{len(failures)} of {len(files)} {what}", err=True)
        sys.exit(1)


def _upscale(
    upscaler: Upscaler, path: Path, target: Path, wanted: ResultSize, *, several: bool, srgb: bool
) -> None:
    from hasn_edge.files import require_writable
    from hasn_edge.images.codec import check_size, read_image, write_image
    from hasn_edge.images.metadata import keep_colours, read_metadata

    require_writable(target)  # computing what cannot be written takes minutes
    image, metadata, colours = keep_colours(read_image(path), read_metadata(path), target, srgb=srgb)
    height, width = image.shape[:2]
    final = wanted.final(height, width, upscaler.session.spec.scale)
    check_size(target, *final)
    try:
        result = upscaler.upscale(image)
    except MemoryError as exc:
        raise InputError(f"{path}: {width}x{height} pixels: not enough memory; cut the image") from exc
    if result.shape[:2] != final:
        from hasn_edge.data.resize import imresize

        result = imresize(result, size=final)
    write_image(target, result, convert=True, metadata=metadata)
    say_result(path, target, wanted.label(upscaler.session.spec.scale), several=several)
    if colours:
        note(f"  {colours}")
    if metadata.further:
        what = "page" if path.suffix.lower() in (".tif", ".tiff") else "frame"
        many = f"{metadata.further} further {what}s are" if metadata.further > 1 else f"1 further {what} is"
        say(f"Warning: {path}: {many} left out: the result is the first one", err=True)
    report = upscaler.last_report
    if report is not None and report.tiles > 1 and not is_quiet():  # the drift takes a second computation
        why = {"memory": " because of memory", "static size": " because the file has one size"}
        why["engine size"] = " because the engine takes no larger ones"
        note(
            f"  {report.tiles} tiles of {report.tile}{why.get(report.reason or '', '')}; drift from the "
            f"whole frame: {upscaler.tile_drift(image)}"
        )


def _named(path: Path, exc: BaseException) -> str:
    """Return what went wrong with a file, with its name: what fails deep inside does not know it."""
    from hasn_edge.cli.cures import message_of

    if isinstance(exc, HasnEdgeError):
        text = message_of(exc, click.get_current_context().command)
    else:
        text = "not enough memory"
    return text if str(path) in text else f"{path}: {text}"


def _is_padded(upscaler: Upscaler) -> bool:
    """Say whether the last image was padded to what the file takes, beyond what its network needs."""
    report = upscaler.last_report
    return report is not None and report.padded != upscaler.session.spec.size.padding(*report.size)


def _say_padded(padded: list[Path], upscaler: Upscaler) -> None:
    """Say once for all of them that the file's size made the results others than those of any size."""
    names = f"{padded[0]} and {len(padded) - 1} more were" if len(padded) > 1 else f"{padded[0]} was"
    session = upscaler.session
    one = session.size is not None
    size, build = ("size", "without --size") if one else ("smallest size", "with a smaller --dynamic")
    sees = "channel attention" if session.spec.cab else "what is near the border"
    height, width = session.smallest
    say(
        f"{names} padded to {width}x{height}, the {size} this --artifact takes; {sees} sees the padding, "
        "which changes the result; a file of any size gives that of the whole frame: leave out --artifact, "
        f"or build {build}",
        err=True,
    )


def _of_video(image: Path) -> str:
    """Return what else to say of a file that is no image, where it may be a video by another name."""
    from hasn_edge.images.listing import SUFFIXES, USUAL_VIDEOS

    if image.suffix.lower() in SUFFIXES or not image.is_file():
        return ""
    return f"; a video is known by its ending: {USUAL_VIDEOS}"


def _upscale_video(
    upscaler: Upscaler,
    video: Path,
    target: Path,
    *,
    codec: str | None,
    quality: float | None,
    audio: Any,
    several: bool,
) -> bool:
    """Upscale one video, say how it went, and return whether all of it could be read."""
    from hasn_edge.video.transcode import upscale_video

    upscaler.last_report = None  # frames that the session takes as they are leave none
    with progress(video.name) as show:
        begin_s = time.perf_counter()

        def count(step: Step) -> None:
            rate = (step.done or 0) / (time.perf_counter() - begin_s)
            show(replace(step, text=f"{rate:.1f} fps"))

        report = upscale_video(
            video, target, upscaler, codec=codec, quality=quality, audio=audio, progress=count
        )
    say_result(video, target, f"x{upscaler.session.spec.scale}", several=several)
    height, width = report.size
    note(
        f"  {report.images} frames of {width}x{height} by {report.codec} in {report.seconds:.1f} s "
        f"({report.fps:.1f} fps)"
    )
    for text in report.notes:
        note(f"  {text}")
    for loss in report.losses:
        say(f"Warning: {video}: {loss}", err=True)
    if not report.whole:
        say(f"Damaged: {video}: what could be read of it is in {target}", err=True)
    return report.whole
