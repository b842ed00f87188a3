"""The ``upscale`` verb."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hasn_edge.cli.common import (
    artifact_option,
    cuda_option,
    device_option,
    model_option,
    open_chosen,
    progress,
    say,
    threads_option,
)
from hasn_edge.cli.interruption import Interruption
from hasn_edge.errors import InputError, OutputError

if TYPE_CHECKING:
    from hasn_edge.runtime.upscaler import Upscaler


@click.command("upscale")
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("out"),
    show_default=True,
    help="Folder for the results; for one video also a file: .mp4, .mov, .mkv or .webm.",
)
@click.option(
    "--format",
    "suffix",
    type=click.Choice(["png", "jpg", "webp", "bmp", "tiff"]),
    default="png",
    show_default=True,
    help="Format of pictures; jpg, webp and bmp keep 8 bits, jpg and bmp no transparency.",
)
@click.option(
    "--tile",
    type=click.IntRange(32, 4096),
    default=None,
    help="Work in tiles of N pixels.  [default: whole pictures while memory suffices]",
)
@click.option(
    "--overlap",
    type=click.IntRange(0, 1024),
    default=16,
    show_default=True,
    help="Pixels that neighbouring tiles share.",
)
@click.option(
    "--self-ensemble", is_flag=True, help="Average over the eight flips and rotations (8x the time)."
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
    help="Sound of videos: copied as it is, or left out.",
)
@model_option
@artifact_option
@device_option
@cuda_option
@threads_option
def command(
    inputs: tuple[Path, ...],
    output: Path,
    suffix: str,
    tile: int | None,
    overlap: int,
    self_ensemble: bool,
    codec: str | None,
    quality: float | None,
    audio: Any,
    model: str | None,
    artifact: Path | None,
    device: str | None,
    cuda: str | None,
    threads: int | None,
) -> None:
    """Upscale pictures, videos and folders of them; NAME.jpg becomes NAME_x4.png.

    PNG, JPEG, WebP, BMP and TIFF; 8 and 16 bit; gray and colour; transparency is kept; EXIF
    orientation is applied. A file that cannot be read is named, the rest go on, and the exit
    code is 1.

    Videos keep every frame at its time, sound, subtitles and colour tags; clip.mp4 becomes
    clip_x4.mp4, and clip.avi as well, or clip_x4.mkv where only that holds its sound. Frames
    that cannot be decoded are counted, the rest go on, and the exit code is 1. A video takes its
    name when it is whole: interrupted (exit code 130), nothing is left of it, and the next run
    starts it afresh.

    \b
    Examples:
      hasn-edge upscale photo.jpg -o out/
      hasn-edge upscale holiday/ scan.tif -o out/ --tile 256
      hasn-edge upscale clip.mp4 -o clip_x4.mp4 --codec libx265 --quality 20
      hasn-edge upscale photo.jpg --artifact engines/hasn-x4-fp16-rtx.engine
    """
    from hasn_edge.image import find_images
    from hasn_edge.runtime.upscaler import Upscaler
    from hasn_edge.video.container import SUFFIXES
    from hasn_edge.video.files import is_video

    files = find_images(inputs, also=SUFFIXES)
    _check_output(files, output)
    failures = []
    slots = 2 if any(map(is_video, files)) else 1  # copies to and from the device beside the network
    with (
        Interruption() as interruption,
        open_chosen(model, artifact, threads=threads, device=device, cuda=cuda, slots=slots) as session,
    ):
        upscaler = Upscaler(session, tile=tile, overlap=overlap, self_ensemble=self_ensemble)
        targets = _targets(files, output, session.spec.scale, suffix, audio)
        work = list(zip(files, targets, strict=True))
        videos = [(file, target) for file, target in work if is_video(file)]
        pictures = [(file, target) for file, target in work if not is_video(file)]
        with progress("upscaling", len(pictures), show=len(pictures) > 1) as advance:
            for picture, target in pictures:
                try:
                    _upscale(upscaler, picture, target)
                except InputError as exc:
                    failures.append(str(exc))
                    say(f"Skipped: {exc}{_of_video(picture)}", err=True)
                advance(picture.name)
        for video, target in videos:
            try:
                interruption.sentence = (
                    f"Interrupted: nothing of {target} was kept; the next run starts it afresh"
                )
                whole = _upscale_video(upscaler, video, target, codec=codec, quality=quality, audio=audio)
                interruption.sentence = "Interrupted"
                failures += [] if whole else [str(video)]
            except InputError as exc:
                failures.append(str(exc))
                say(f"Skipped: {exc}", err=True)
    if failures:
        if len(files) > 1:
            what = "files could not be upscaled whole" if videos else "pictures could not be upscaled"
            say(f"{len(failures)} of {len(files)} {what}", err=True)
        sys.exit(1)


def _upscale(upscaler: Upscaler, picture: Path, target: Path) -> None:
    from hasn_edge.image import read_image, write_image

    image = read_image(picture)
    try:
        result = upscaler.upscale(image)
    except MemoryError as exc:
        height, width = image.shape[:2]
        raise InputError(f"{picture}: {width}x{height} pixels: not enough memory; cut the picture") from exc
    write_image(target, result, convert=True)
    say(str(target))
    report = upscaler.last_report
    if report is not None and report.tiles > 1:
        why = {"memory": " because of memory", "static size": " because the file has one size"}
        why["engine size"] = " because the engine takes no larger ones"
        say(
            f"  {report.tiles} tiles of {report.tile}{why.get(report.reason or '', '')}; drift from the "
            f"whole frame: {upscaler.tile_drift(image)}",
            err=True,
        )


def _of_video(picture: Path) -> str:
    """Return what else to say of a file that is no picture, where it may be a video by another name."""
    from hasn_edge.image import SUFFIXES
    from hasn_edge.video import container

    if picture.suffix.lower() in SUFFIXES or not picture.is_file():
        return ""
    return f"; a video is told by its ending: {', '.join(container.SUFFIXES)}"


def _upscale_video(
    upscaler: Upscaler, video: Path, target: Path, *, codec: str | None, quality: float | None, audio: Any
) -> bool:
    """Upscale one video, say how it went, and return whether all of it could be read."""
    from hasn_edge.video.files import upscale_video

    with progress(video.name, None) as advance:
        begin_s = time.perf_counter()

        def show(done: int, total: int | None) -> None:
            advance(f"{done / (time.perf_counter() - begin_s):.1f} fps", total)

        report = upscale_video(
            video, target, upscaler, codec=codec, quality=quality, audio=audio, progress=show
        )
    say(str(target))
    height, width = report.size
    say(
        f"  {report.pictures} frames of {width}x{height} by {report.codec} in {report.seconds:.1f} s "
        f"({report.fps:.1f} fps)",
        err=True,
    )
    for note in report.notes:
        say(f"  {note}", err=True)
    for loss in report.losses:
        say(f"Warning: {video}: {loss}", err=True)
    if not report.whole:
        say(f"Damaged: {video}: what could be read of it is in {target}", err=True)
    return report.whole


def _check_output(files: list[Path], output: Path) -> None:
    """Refuse a file's name for several results, and a video's that cannot be written, before any work."""
    from hasn_edge.video.container import SUFFIXES
    from hasn_edge.video.encoders import check_container
    from hasn_edge.video.files import is_video

    if output.is_dir() or output.suffix.lower() not in SUFFIXES:
        return
    if len(files) != 1 or not is_video(files[0]):
        raise click.UsageError(
            f"-o {output} is the name of a video file, which one video can become; name a folder"
        )
    check_container(output)


def _targets(files: list[Path], output: Path, scale: int, suffix: str, audio: Any) -> list[Path]:
    """Name every result; files of the same name in different folders get a number.

    Raises:
        OutputError: a result would overwrite one of the files.
    """
    from hasn_edge.video.container import SUFFIXES
    from hasn_edge.video.files import is_video, output_suffix

    targets: list[Path] = []
    taken: set[str] = set()
    sources = {file.resolve() for file in files}
    # _check_output has seen to it that a file's name stands for one video.
    named = output.suffix.lower() in SUFFIXES and not output.is_dir()
    for file in files:
        ending = output_suffix(file, audio) if is_video(file) and not named else f".{suffix}"
        name = f"{file.stem}_x{scale}{ending}"
        count = 2
        while name.lower() in taken:
            name = f"{file.stem}_x{scale}_{count}{ending}"
            count += 1
        taken.add(name.lower())
        target = output if named else output / name
        if target.resolve() in sources:
            raise OutputError(
                f"{target} is one of the {'videos' if is_video(file) else 'pictures'} to upscale and would "
                "be overwritten; choose another folder with -o"
            )
        targets.append(target)
    return targets
