"""The ``eval`` verb."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hasn_edge.cli.common import (
    artifact_option,
    chosen_model,
    cuda_option,
    device_option,
    model_option,
    open_chosen,
    threads_option,
)
from hasn_edge.cli.terminal import console, progress, say
from hasn_edge.progress import Step

if TYPE_CHECKING:
    from hasn_edge.evaluation.evaluate import Scores
    from hasn_edge.progress import Progress
    from hasn_edge.runtime.upscaler import Upscaler


@click.command("eval")
@model_option
@artifact_option
@click.option(
    "--data",
    multiple=True,
    metavar="[NAME=]DIR",
    help="Set of images: DIR/HR with DIR/LRbicx4, or a plain folder of originals; repeatable.  "
    "[default: the images that ship]",
)
@click.option(
    "--self-ensemble", is_flag=True, help="Average over the eight flips and rotations (8x the time)."
)
@click.option("--per-image", is_flag=True, help="Print every image, not only the means.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write all figures to FILE.",
)
@device_option()
@cuda_option
@threads_option
def command(
    model: str | None,
    artifact: Path | None,
    data: tuple[str, ...],
    self_ensemble: bool,
    per_image: bool,
    json_path: Path | None,
    device: str | None,
    cuda: str | None,
    threads: int | None,
) -> None:
    """Measure PSNR-Y and SSIM as the super-resolution literature computes them.

    8-bit rounded output, Y of BT.601 studio range, a border of SCALE pixels cut, 11x11 Gaussian
    SSIM. Where a set has no low-resolution images they are made by MATLAB-compatible bicubic.

    \b
    Examples:
      hasn-edge eval --data Set5=datasets/Set5
      hasn-edge eval --model net.pth --data Set5=datasets/Set5 --self-ensemble
      hasn-edge eval --artifact engines/hasn-x4-int8-cpu.onnx --data photos/
    """
    from hasn_edge.data.pairs import bicubic_baseline, load_eval_set, shipped_eval_set
    from hasn_edge.evaluation.evaluate import score_images
    from hasn_edge.files import require_writable, writing
    from hasn_edge.runtime.upscaler import Upscaler

    if json_path is not None:
        require_writable(json_path)
    with open_chosen(model, artifact, threads=threads, device=device, cuda=cuda) as session:
        scale = session.spec.scale
        sets = [load_eval_set(item, scale) for item in data] or [shipped_eval_set(scale)]
        named = artifact.name if artifact else chosen_model(model)
        name = f"{named} ({session.backend} {session.precision.value})"
        upscaler = Upscaler(session)
        results: list[tuple[Scores, Scores]] = []
        tiled: dict[str, str] = {}
        number, total = itertools.count(1), 2 * sum(len(s) for s in sets)
        with progress("evaluating") as show:

            def advance(step: Step) -> None:
                show(Step(step.text, next(number), total))

            for eval_set in sets:
                ours = score_images(
                    upscaler.run,
                    eval_set,
                    self_ensemble=self_ensemble,
                    keep_outputs=False,
                    progress=note_tiled(upscaler, tiled, advance),
                )
                base = score_images(
                    bicubic_baseline(scale),
                    eval_set,
                    keep_outputs=False,
                    progress=advance,
                )
                results.append((ours, base))
    _print(name, results, per_image=per_image, scale=scale, self_ensemble=self_ensemble)
    for why in dict.fromkeys(tiled.values()):
        names = [image for image, reason in tiled.items() if reason == why]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        say(f"computed in tiles {why}, which changes the figures: {', '.join(names[:5])}{more}", err=True)
    if json_path is not None:
        content: dict[str, Any] = {
            "model": name,
            "self_ensemble": self_ensemble,
            "sets": {ours.name: ours.to_dict() for ours, _ in results},
            "bicubic": {base.name: base.to_dict() for _, base in results},
        }
        with writing(json_path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


WHY_TILES = {
    "memory": "because of memory",
    "static size": "because the file has one size",
    "engine size": "because the engine takes no larger ones",
}


def note_tiled(upscaler: Upscaler, tiled: dict[str, str], report: Progress) -> Progress:
    """Return ``report`` that also notes in ``tiled`` which images were computed in tiles, and why."""

    def step(measured: Step) -> None:
        last = upscaler.last_report
        if last is not None and last.tiles > 1:
            tiled[measured.text] = WHY_TILES[last.reason or "memory"]
        report(measured)

    return step


def _print(
    name: str, results: list[tuple[Scores, Scores]], *, per_image: bool, scale: int, self_ensemble: bool
) -> None:
    from rich.table import Table

    table = Table(title=name + (", x8 self-ensemble" if self_ensemble else ""), title_justify="left")
    for heading in ("set", "images", "PSNR-Y, dB", "SSIM-Y", "bicubic PSNR-Y", "bicubic SSIM-Y"):
        table.add_column(heading, justify="left" if heading == "set" else "right")
    for ours, base in results:
        if per_image:
            for mine, theirs in zip(ours.images, base.images, strict=True):
                table.add_row(
                    f"{ours.name}/{mine.name}",
                    "",
                    f"{mine.psnr_y:.3f}",
                    f"{mine.ssim_y:.4f}",
                    f"{theirs.psnr_y:.3f}",
                    f"{theirs.ssim_y:.4f}",
                )
        table.add_row(
            ours.name,
            str(len(ours.images)),
            f"{ours.psnr_y:.3f}",
            f"{ours.ssim_y:.4f}",
            f"{base.psnr_y:.3f}",
            f"{base.ssim_y:.4f}",
        )
    console().print(table)
    click.echo(f"8-bit output, Y of BT.601 studio range, border of {scale} pixels cut, mean over images")
