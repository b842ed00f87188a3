"""The ``data`` verb: draw and prepare training images, and see whether they are delivered fast enough."""

from __future__ import annotations

from pathlib import Path

import click

from hasn_edge.cli.common import (
    EXISTING_FOLDER,
    NamesOption,
    ResultFolder,
    threads_option,
    train_recipe_names,
)
from hasn_edge.cli.terminal import progress, say, status, write_results
from hasn_edge.errors import counted


@click.group("data")
def command() -> None:
    """Prepare, draw and degrade images for training.

    \b
    Example:
      hasn-edge data prepare photos -o data/train
    """


@command.command("prepare", short_help="Check images and write them with their LR, for training.")
@click.argument("photos", type=EXISTING_FOLDER, nargs=-1, required=True)
@click.option("-o", "--output", type=ResultFolder(), required=True, help="Folder to write.")
@click.option("--scale", type=click.IntRange(2, 4), default=4, show_default=True, help="Upscaling factor.")
@click.option(
    "--downscale",
    type=click.IntRange(1, 8),
    default=1,
    show_default=True,
    help="Reduce the images by this first; 2 sharpens the pixels of ordinary photographs.",
)
@click.option(
    "--min-side",
    type=click.IntRange(16),
    default=192,
    show_default=True,
    help="Shortest accepted side of an HR image, in pixels.",
)
@click.option("--skip-bad", is_flag=True, help="Leave out images that cannot be used, and name them.")
@threads_option
def prepare_command(
    photos: tuple[Path, ...],
    output: Path,
    scale: int,
    downscale: int,
    min_side: int,
    skip_bad: bool,
    threads: int | None,
) -> None:
    """Check images and write them, with their MATLAB-bicubic LR, as memory-mapped training data.

    PHOTOS are folders of any images, or DIV2K and Flickr2K as they are unpacked: LR images that are
    there are used, others made. One unusable image refuses all, unless --skip-bad.

    \b
    Examples:
      hasn-edge data prepare photos -o data/train --downscale 2
      hasn-edge data prepare DIV2K Flickr2K -o data/df2k
    """
    from hasn_edge.data.prepare import prepare

    with progress("preparing") as show:
        report = prepare(
            photos,
            output,
            scale=scale,
            downscale=downscale,
            min_side=min_side,
            skip_bad=skip_bad,
            workers=threads,
            progress=show,
        )

    def show_report() -> None:
        for problem in report.skipped:
            say(f"left out: {problem}", err=True)
        say(
            f"{output}: {counted(report.images, 'image')}, {report.hr_megapixels:.1f} megapixels HR, "
            f"x{scale}; LR made for {report.made_lr}, read for {report.images - report.made_lr}; "
            f"{len(report.skipped)} left out"
            + (f"; {report.reused} taken from what was prepared before" if report.reused else "")
        )
        say(f"fingerprint {report.shards.fingerprint}")

    write_results(
        lambda: {
            "folder": str(output),
            "scale": scale,
            "images": report.images,
            "hr_megapixels": report.hr_megapixels,
            "made_lr": report.made_lr,
            "reused": report.reused,
            "left_out": list(map(str, report.skipped)),
            "fingerprint": report.shards.fingerprint,
        },
        show_report,
    )


@command.command("synthesize", short_help="Draw text, line art, patterns and charts.")
@click.option("-o", "--output", type=ResultFolder(), required=True, help="Folder to write.")
@click.option("--images", type=click.IntRange(1, 100_000), default=42, show_default=True, help="How many.")
@click.option(
    "--side",
    type=click.IntRange(64, 4096),
    default=1024,
    show_default=True,
    help="Height and width of each, in pixels.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Decides what is drawn.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    metavar="NAME",
    help="text, strokes, pattern, facade, halftone, chart or page; repeatable.  [default: all]",
)
@click.option(
    "--fonts",
    type=EXISTING_FOLDER,
    multiple=True,
    help="Folder of fonts; repeatable.  [default: the system's]",
)
def synthesize_command(
    output: Path, images: int, side: int, seed: int, kinds: tuple[str, ...], fonts: tuple[Path, ...]
) -> None:
    """Draw text, line art, patterns, facades, halftones, charts and comic pages.

    Photographs hold little of these, and a network that never saw them blurs them. Mix some 15 % into
    training; judge on a set with another seed and other fonts. They need no licence.

    \b
    Example:
      hasn-edge data synthesize -o lineart
      hasn-edge data prepare photos -o data/photos --downscale 2
      hasn-edge data prepare lineart -o data/lineart
      hasn-edge train --recipe hasn-x4 --data data/photos --data data/lineart
    """
    from hasn_edge.data.synthesize import KINDS, synthesize

    with status("drawing") as show:
        files = synthesize(
            output,
            images=images,
            side=side,
            seed=seed,
            kinds=kinds or tuple(KINDS),
            fonts=fonts,
            progress=show,
        )
    write_results(
        lambda: {"folder": str(output), "files": list(map(str, files)), "side": side, "seed": seed},
        lambda: say(f"{output}: {counted(len(files), 'image')} of {side} x {side} pixels, seed {seed}"),
    )


@command.command("degrade", short_help="Write a set with blur, noise and JPEG in its LR.")
@click.argument("source", metavar="SET")
@click.option("-o", "--output", type=ResultFolder(), required=True, help="Folder to write.")
@click.option(
    "--recipe",
    cls=NamesOption,
    names=train_recipe_names,
    default="hasn-x4-camera",
    show_default=True,
    metavar="NAME|FILE",
    help="Training recipe ({names}, or a .toml file) whose [degradation] and scale are used.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Decides what is done.")
def degrade_command(source: str, output: Path, recipe: str, seed: int) -> None:
    """Write a set whose low resolution has blur, noise and JPEG, to measure networks for cameras on.

    SET is a folder of HR images, with or without LR, or NAME=DIR.

    \b
    Example:
      hasn-edge data degrade datasets/Set5 -o datasets/Set5-camera
      hasn-edge eval --data datasets/Set5-camera --model hasn-x4-camera
    """
    from hasn_edge.data.degrade import degrade_set
    from hasn_edge.train.recipe import load_recipe

    plan = load_recipe(recipe)
    with status("degrading") as show:
        names = degrade_set(
            source, output, plan.degradation, scale=plan.model.scale, seed=seed, progress=show
        )
    write_results(
        lambda: {"folder": str(output), "images": list(names), "recipe": plan.name, "seed": seed},
        lambda: say(f"{output}: {counted(len(names), 'image')}, degraded as {plan.name} has it, seed {seed}"),
    )


@command.command("bench", short_help="Compare the loader's rate with what training takes.")
@click.argument("folder", type=EXISTING_FOLDER)
@click.option(
    "--recipe",
    cls=NamesOption,
    names=train_recipe_names,
    default="hasn-x4-small",
    show_default=True,
    metavar="NAME|FILE",
    help="Recipe whose batches and network are used: {names}, or a .toml file.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 600),
    default=5.0,
    show_default=True,
    help="How long to measure each.",
)
@click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Where the network runs."
)
@threads_option
def bench_command(folder: Path, recipe: str, seconds: float, device: str, threads: int | None) -> None:
    """Compare what the loader delivers with what training consumes, in patches a second.

    \b
    Example:
      hasn-edge data bench data/train --recipe hasn-x4-small
    """
    from hasn_edge.data.shards import Shards
    from hasn_edge.optional import require

    torch = require("torch", extra="train", needed_for="Measuring the training speed")
    from hasn_edge.train.distributed import join_processes
    from hasn_edge.train.recipe import load_recipe
    from hasn_edge.train.speed import loader_rate, training_rate

    if threads is not None:
        torch.set_num_threads(threads)
    plan = load_recipe(recipe)
    source = plan.patches([Shards(folder)])
    phase = plan.phase(0)
    delivered = loader_rate(plan, source, seconds=seconds)
    with join_processes(device) as here:
        consumed = training_rate(plan, source, here, seconds=seconds)
    text = (
        f"HR patches of {phase.patch}, batch {phase.batch_size}, {plan.name} on {here.device} with "
        f"{counted(torch.get_num_threads(), 'thread')}:\n"
        f"loader  {delivered:10.1f} patches/s (one thread)\n"
        f"network {consumed:10.1f} patches/s (forward, backward, step)\n"
        f"ratio   {delivered / consumed:10.1f}"
    )
    write_results(
        lambda: {
            "recipe": plan.name,
            "device": str(here.device),
            "threads": torch.get_num_threads(),
            "patch": phase.patch,
            "batch_size": phase.batch_size,
            "loader_patches_per_s": delivered,
            "network_patches_per_s": consumed,
        },
        lambda: say(text),
    )
