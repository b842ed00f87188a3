"""The ``upscale`` verb."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hasn_edge.cli.common import (
    SIZE,
    TIME,
    artifact_option,
    backend_option,
    cuda_option,
    device_option,
    engines_option,
    model_of_source,
    open_chosen,
    options_given,
    source_model_option,
    threads_option,
)
from hasn_edge.cli.terminal import Interruption, interruption, note, progress, say, status, write_results
from hasn_edge.cli.upscale_files import (
    ResultSize,
    check_existing,
    check_files,
    check_output,
    check_pipes,
    find_files,
    frame_of,
    is_lossy,
    is_video,
    name_results,
)
from hasn_edge.cli.upscale_one import ResultOptions, describe_failure, is_padded, say_padded, upscale_file
from hasn_edge.errors import HasnEdgeError, listed
from hasn_edge.progress import Step

if TYPE_CHECKING:
    from hasn_edge.runtime.upscaler import Upscaler


@click.command("upscale")
@click.argument("inputs", nargs=-1, required=True, type=click.Path())
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(),
    default="out",
    show_default=True,
    help="Folder for the results; for one image also a file: .png, .jpg, .jpeg, .webp, .bmp, .tif or "
    ".tiff; for one video: .mp4, .mov, .mkv or .webm; with a slash at its end always a folder.",
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
    help="Results N times as large as what they were made of: the network's, resampled (MATLAB bicubic).",
)
@click.option(
    "--size",
    type=SIZE,
    default=None,
    help="Results as large as fits into WxH, resampled likewise; they keep their aspect ratio, and videos "
    "have even sides.",
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
    "--start",
    "start_s",
    type=TIME,
    default=None,
    help="Begin videos here: seconds, or H:MM:SS, from the beginning.  [default: the beginning]",
)
@click.option("--end", "end_s", type=TIME, default=None, help="End videos before this.  [default: the end]")
@click.option(
    "--skip-existing",
    is_flag=True,
    help="Leave results alone that are there already, unless files of one name make it unclear whose they "
    "are, and go on with the rest.  [default: replace them]",
)
@source_model_option
@artifact_option
@engines_option
@backend_option
@device_option()
@cuda_option
@threads_option
@click.pass_context
def command(
    context: click.Context,
    inputs: tuple[str, ...],
    target: str,
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
    start_s: float | None,
    end_s: float | None,
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

    - as the only input, and for -o, is a pipe of raw frames: YUV4MPEG2, written as 4:4:4.

    \b
    Examples:
      hasn-edge upscale photo.jpg -o out/
      hasn-edge upscale photo.jpg -o large.webp
      hasn-edge upscale holiday/ scan.tif -o out/ --tile 256
      hasn-edge upscale clip.mp4 -o clip_x4.mp4 --codec libx265 --quality 20
      hasn-edge upscale clip.mp4 --start 1:30 --end 1:40 --size 1920x1080
      ffmpeg -i clip.avi -f yuv4mpegpipe - | hasn-edge upscale - -o - | \\
        ffmpeg -i - -pix_fmt yuv420p out.mp4
      hasn-edge upscale photo.jpg --artifact engines/hasn-x4-fp16-rtx.engine
    """
    from hasn_edge.runtime.upscaler import Upscaler

    if outscale is not None and size is not None:
        raise click.UsageError("--outscale and --size exclude each other")
    wanted = ResultSize(outscale=outscale, size=size)
    output = Path(target)
    check_pipes(inputs, output)
    files, folders = find_files(inputs, output, recursive=recursive)
    videos = any(map(is_video, files))
    _refuse_idle_options(context, files)
    named = check_output(inputs, files, target, suffix)
    check_files(files)
    hint = None
    if artifact is None:
        model, hint = model_of_source(model, listed(files, 1), lossy=all(map(is_lossy, files)))
    in_flight = 2 if videos else 1  # copies to and from the device beside the network
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
            frame=None if self_ensemble or tile is not None else frame_of(files),
        ) as session,
    ):
        upscaler = Upscaler(session, tile=tile, overlap=overlap, self_ensemble=self_ensemble)
        options = ResultOptions(
            size=wanted,
            several=len(files) > 1,
            srgb=srgb,
            codec=codec,
            quality=quality,
            audio=audio,
            start_s=start_s or 0.0,
            end_s=end_s,
        )
        label = wanted.label(session.spec.scale)
        what = artifact.name if artifact is not None else str(model)
        then = f", then resampled to {label} (MATLAB bicubic)" if wanted.any else ""
        runs = f"{session.number_format} by {session.backend} on {session.device}"
        if hint is not None:
            note(hint)
        note(f"{what}, {runs}: x{session.spec.scale}{then}")
        results = name_results(files, output, label, suffix, audio, folders, named=named)
        work = check_existing(results, skip=skip_existing)
        done = _upscale_all(upscaler, work, options, interrupted)
        ran = {
            "model": what,
            "precision": session.number_format,
            "backend": session.backend,
            "device": session.device,
            "scale": session.spec.scale,
        }
    bad = len(done.failures) + sum(not result.get("whole", True) for result in done.results)

    def show() -> None:
        if done.padded:
            say_padded(done.padded, upscaler)
        if bad and options.several:
            kind = "files could not be upscaled whole" if videos else "images could not be upscaled"
            say(f"{bad} of {len(files)} {kind}", err=True)

    write_results(lambda: {**ran, "results": done.results, "failures": done.failures}, show)
    if bad:
        sys.exit(1)


def _refuse_idle_options(context: click.Context, files: Sequence[Path]) -> None:
    """Refuse options for images where there are none, and so for videos."""
    for kind, names, there in (
        ("videos", ("codec", "quality", "audio", "start_s", "end_s"), any(map(is_video, files))),
        ("images", ("suffix", "srgb"), not all(map(is_video, files))),
    ):
        given = options_given(context, names)
        if given and not there:
            raise click.UsageError(f"{given[0]} is for {kind}, and none is among the files")


@dataclass
class _Outcome:
    """What became of the files."""

    results: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    padded: list[Path] = field(default_factory=list)


def _upscale_all(
    upscaler: Upscaler, work: list[tuple[Path, Path]], options: ResultOptions, interrupted: Interruption
) -> _Outcome:
    """Upscale images, then videos; those that fail are named, and the rest go on."""
    done = _Outcome()
    videos = [(file, target) for file, target in work if is_video(file)]
    images = [(file, target) for file, target in work if not is_video(file)]

    def take(path: Path, target: Path) -> None:
        try:
            done.results.append(upscale_file(upscaler, path, target, options))
            done.padded.extend([path] if is_padded(upscaler) else [])
        except (HasnEdgeError, MemoryError) as exc:
            text = describe_failure(path, exc)
            done.failures.append({"source": str(path), "error": text})
            say(f"Skipped: {text}", err=True)

    bar = status("upscaling") if len(images) == 1 else progress("upscaling", show=bool(images))
    with bar as show:
        for number, (path, target) in enumerate(images, 1):
            take(path, target)
            show(Step(path.name, number, len(images)))
            if len(work) > 1:
                so_far = f"Interrupted after {number} of {len(work)} files"
                interrupted.sentence = f"{so_far}; the same command with --skip-existing goes on"
    usual = interrupted.sentence
    for video, target in videos:
        interrupted.sentence = f"Interrupted: nothing of {target} was kept; the next run starts it afresh"
        take(video, target)
        interrupted.sentence = usual
    return done
