"""The ``upscale`` verb."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hasn_edge.cli.common import (
    artifact_option,
    cuda_option,
    device_option,
    model_option,
    open_chosen,
    progress,
    threads_option,
)
from hasn_edge.errors import InputError, OutputError

if TYPE_CHECKING:
    from hasn_edge.runtime.upscaler import Upscaler


@click.command("upscale")
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out"),
    show_default=True,
    help="Folder for the results.",
)
@click.option(
    "--format",
    "suffix",
    type=click.Choice(["png", "jpg", "webp", "bmp", "tiff"]),
    default="png",
    show_default=True,
    help="Format of the results; jpg, webp and bmp keep 8 bits, jpg and bmp no transparency.",
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
    model: str | None,
    artifact: Path | None,
    device: str | None,
    cuda: str | None,
    threads: int | None,
) -> None:
    """Upscale pictures and folders of pictures; NAME.jpg becomes NAME_x4.png.

    PNG, JPEG, WebP, BMP and TIFF; 8 and 16 bit; gray and colour; transparency is kept; EXIF
    orientation is applied. A picture that cannot be read is named, the rest go on, and the exit
    code is 1.

    \b
    Examples:
      hasn-edge upscale photo.jpg -o out/
      hasn-edge upscale holiday/ scan.tif -o out/ --tile 256
      hasn-edge upscale photo.jpg --artifact engines/hasn-x4-small-fp16-rtx.engine
    """
    from hasn_edge.image import find_images
    from hasn_edge.runtime.upscaler import Upscaler

    pictures = find_images(inputs)
    failures = []
    with open_chosen(model, artifact, threads=threads, device=device, cuda=cuda) as session:
        upscaler = Upscaler(session, tile=tile, overlap=overlap, self_ensemble=self_ensemble)
        targets = _targets(pictures, output, session.spec.scale, suffix)
        with progress("upscaling", len(pictures), show=len(pictures) > 1) as advance:
            for picture, target in zip(pictures, targets, strict=True):
                try:
                    _upscale(upscaler, picture, target)
                except InputError as exc:
                    failures.append(str(exc))
                    click.echo(f"Skipped: {exc}", err=True)
                advance(picture.name)
    if failures:
        if len(pictures) > 1:
            click.echo(f"{len(failures)} of {len(pictures)} pictures could not be upscaled", err=True)
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
    click.echo(str(target))
    report = upscaler.last_report
    if report is not None and report.tiles > 1:
        why = {"memory": " because of memory", "static size": " because the file has one size"}
        click.echo(
            f"  {report.tiles} tiles of {report.tile}{why.get(report.reason or '', '')}; drift from the "
            f"whole frame: {upscaler.tile_drift(image)}",
            err=True,
        )


def _targets(pictures: list[Path], folder: Path, scale: int, suffix: str) -> list[Path]:
    """Name every result; pictures of the same name in different folders get a number.

    Raises:
        OutputError: a result would overwrite one of the pictures.
    """
    targets: list[Path] = []
    taken: set[str] = set()
    sources = {picture.resolve() for picture in pictures}
    for picture in pictures:
        name = f"{picture.stem}_x{scale}.{suffix}"
        count = 2
        while name.lower() in taken:
            name = f"{picture.stem}_x{scale}_{count}.{suffix}"
            count += 1
        taken.add(name.lower())
        if (folder / name).resolve() in sources:
            raise OutputError(
                f"{folder / name} is one of the pictures to upscale and would be overwritten; choose another "
                "folder with -o"
            )
        targets.append(folder / name)
    return targets
