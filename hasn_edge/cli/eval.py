"""The ``eval`` verb."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hasn_edge.cli.common import (
    WHY_TILES,
    NamesOption,
    backend_option,
    chosen_model,
    cuda_option,
    data_option,
    device_option,
    engines_option,
    model_names,
    open_chosen,
    threads_option,
)
from hasn_edge.cli.tables import print_table
from hasn_edge.cli.terminal import console, progress, say, write_results
from hasn_edge.errors import InputError, counted, listed
from hasn_edge.progress import Step

if TYPE_CHECKING:
    from hasn_edge.data.pairs import EvalSet
    from hasn_edge.evaluation.evaluate import ImageScore, Scores

BICUBIC = "bicubic"


@click.command("eval")
@click.option(
    "--model",
    "models",
    cls=NamesOption,
    names=model_names,
    metavar="NAME|FILE",
    multiple=True,
    help="Bundled name ({names}), a .safetensors or .pth file, or any super-resolution network's .onnx; "
    "repeatable.  [default: the bundled model]",
)
@click.option(
    "--artifact",
    "artifacts",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A file that export or build made (.onnx, .ts, .pt2, .engine); repeatable.",
)
@data_option
@click.option(
    "--self-ensemble", is_flag=True, help="Average over the eight flips and rotations (8x the time)."
)
@click.option("--per-image", is_flag=True, help="Print every image, not only the means.")
@engines_option
@backend_option
@device_option()
@cuda_option
@threads_option
def command(
    models: tuple[str, ...],
    artifacts: tuple[Path, ...],
    data: tuple[str, ...],
    self_ensemble: bool,
    per_image: bool,
    engines: bool,
    backend: str | None,
    device: str | None,
    cuda: str | None,
    threads: int | None,
) -> None:
    """Measure PSNR-Y and SSIM as the super-resolution literature computes them.

    8-bit rounded output, Y of BT.601 studio range, a border of SCALE pixels cut, 11x11 Gaussian
    SSIM. Where a set has no low-resolution images they are made by MATLAB-compatible bicubic.
    Each model and file is a row, bicubic interpolation the first.

    \b
    Examples:
      hasn-edge eval --data Set5=datasets/Set5
      hasn-edge eval --model net.pth --model hasn-x4 --self-ensemble \\
        --data Set5=datasets/Set5
      hasn-edge eval --model hasn-x4 --data photos/ \\
        --artifact engines/hasn-x4-int8-cpu.onnx
    """
    from hasn_edge.bench.scores import eval_sets
    from hasn_edge.data.pairs import bicubic_baseline
    from hasn_edge.evaluation.evaluate import score_images, score_session
    from hasn_edge.files import distinct_names

    asked = list(models or (() if artifacts else (chosen_model(None),)))
    named = distinct_names([*map(Path, asked), *artifacts])
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise InputError(f"{twice} is named twice; expected each model and file once: figures go by names")
    wanted = [*((model, None) for model in asked), *((None, path) for path in artifacts)]
    scores: dict[str, list[Scores]] = {}
    sets: list[EvalSet] = []
    numbers = itertools.count(1)
    kinds = {path.suffix for path in artifacts}
    with progress("evaluating") as show:

        def advance(step: Step) -> None:
            show(Step(step.text, next(numbers), (len(wanted) + 1) * sum(map(len, sets))))

        for name, (model, artifact) in zip(named, wanted, strict=True):
            # Where there are files that it is for, it is for them; alone, the others refuse it.
            kind = None if artifact is None else artifact.suffix
            with open_chosen(
                model,
                artifact,
                threads=threads,
                device=device,
                cuda=cuda if kind == ".engine" or ".engine" not in kinds else None,
                backend=backend if kind == ".onnx" or ".onnx" not in kinds else None,
                engines=engines,
            ) as session:
                scale = session.spec.scale
                if not sets:
                    sets += eval_sets(data, scale)
                    run = bicubic_baseline(scale)
                    scores[BICUBIC] = [
                        score_images(run, each, keep_outputs=False, progress=advance) for each in sets
                    ]
                elif scale != sets[0].scale:
                    raise InputError(f"{name} is for x{scale}, and {named[0]} for x{sets[0].scale}")
                scores[f"{name} ({session.backend} {session.number_format})"] = [
                    score_session(
                        session, each, self_ensemble=self_ensemble, keep_outputs=False, progress=advance
                    )
                    for each in sets
                ]
    by_set = {name: {one.name: one.to_dict() for one in found} for name, found in scores.items()}
    bicubic = by_set.pop(BICUBIC)
    write_results(
        lambda: {"self_ensemble": self_ensemble, "models": by_set, "bicubic": bicubic},
        lambda: _print(scores, per_image=per_image, scale=scale, self_ensemble=self_ensemble),
    )


def _print(scores: dict[str, list[Scores]], *, per_image: bool, scale: int, self_ensemble: bool) -> None:
    def show(
        caption: str, names: Iterable[str], rows: Iterable[tuple[str, Sequence[Scores | ImageScore]]]
    ) -> None:
        headings = [f"{name}: {figure}" for name in names for figure in ("PSNR-Y, dB", "SSIM-Y")]
        cells = [
            [name, *(text for one in scored for text in (f"{one.psnr_y:.3f}", f"{one.ssim_y:.4f}"))]
            for name, scored in rows
        ]
        print_table(console(), [caption], ["", *headings], cells)

    sets = scores[BICUBIC]
    counts = ", ".join(f"{one.name} ({counted(len(one.images), 'image')})" for one in sets)
    more = ", self-ensemble of 8 but for bicubic" if self_ensemble else ""
    show(f"{counts}, x{scale}{more}", [one.name for one in sets], scores.items())
    for index, one in enumerate(sets if per_image else ()):
        # Without what runs them, which is in the table above: figures beside each other have little room.
        names = [name.rpartition(" (")[0] or name for name in scores]
        images = zip(*(found[index].images for found in scores.values()), strict=True)
        show(one.name, names, ((row[0].name, row) for row in images))
    say(f"8-bit output, Y of BT.601 studio range, border of {scale} pixels cut, mean over images")
    every = [one for found in scores.values() for one in found]
    tiled = {name: WHY_TILES[last.reason or "memory"] for one in every for name, last in one.tiled.items()}
    for why in dict.fromkeys(tiled.values()):
        in_tiles = [image for image, reason in tiled.items() if reason == why]
        say(f"computed in tiles {why}, which changes the figures: {listed(in_tiles, 5)}", err=True)
