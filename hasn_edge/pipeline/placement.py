"""A build that finds its own placement of INT8, and what it leaves on disk: a recipe and a curve."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hasn_edge.config import dump_config
from hasn_edge.errors import VerificationError
from hasn_edge.files import writing
from hasn_edge.optional import installed_version, require
from hasn_edge.pipeline.context import CACHE, BuildOptions, load_context
from hasn_edge.pipeline.variants import Variants
from hasn_edge.progress import Progress
from hasn_edge.quantize.recipe import WORST

if TYPE_CHECKING:
    from hasn_edge.quantize.search import Group, Meter, Placement

T = TypeVar("T")

SPENDS = (0.9, 0.7, 0.5)
"""Parts of the budget that a search may spend, one attempt after the other."""

CONVENTIONS = (
    "exact Q/DQ arithmetic against FP32; PSNR-Y of outputs that are not rounded, on crops of the held-out "
    "images; below zero: better than FP32",
)
"""How the figures were measured."""

COLUMNS = ("in INT8 alone", "MACs", "PSNR-Y lost by the mean of", "by the worst image of")


def measure_sensitivity(
    variants: Variants, cache: Path, progress: Progress
) -> tuple[tuple[Group, ...], Meter]:
    """Quantize each group of convolutions alone, on the held-out images of a build.

    Args:
        variants: Of a build in INT8.
        cache: Folder in which measurements are kept: what was interrupted goes on from there.
        progress: Receives what is under way.

    Returns:
        The groups in the graph's order, and what measured them.
    """
    from hasn_edge.quantize.search import Meter, measure_groups

    context, (exporter, ranges) = variants.context, variants.int8
    assert context.recipe is not None
    meter = Meter(exporter.fp32(), ranges, context.recipe, context.held_out, cache)
    return measure_groups(exporter.fp32(), meter, context.recipe, progress=progress), meter


def measure_costs(options: BuildOptions, progress: Progress) -> tuple[tuple[Group, ...], tuple[str, ...]]:
    """Quantize each group of convolutions of a model alone.

    Args:
        options: Model, recipe, images and the folder whose cache keeps the measurements; nothing else counts.
        progress: Receives what is under way.

    Returns:
        The groups in the graph's order, and what the user should know of the images.
    """
    require("torch", extra="export", needed_for="Measuring what INT8 costs")
    from hasn_edge.fuse.apply import DEFAULT_RULES

    context = load_context(
        options.model,
        rules=DEFAULT_RULES["onnxruntime"],
        recipe=options.int8_recipe,
        calibration=options.calibration,
        evaluation=options.evaluation,
        progress=progress,
    )
    variants = Variants(context, progress)
    groups, _ = measure_sensitivity(variants, Path(options.output) / CACHE, progress)
    return groups, variants.notes


def spend_less(attempt: Callable[[float], T]) -> T:
    """Call ``attempt`` with ever smaller parts of a budget to spend, until what it builds keeps the budget.

    A search looks at crops, the check of a build at whole images and at each form of the graph.

    Raises:
        VerificationError: the last attempt's.
    """
    for part in SPENDS[:-1]:
        with suppress(VerificationError):
            return attempt(part)
    return attempt(SPENDS[-1])


def search_build(
    variants: Variants, max_drop: float, cache: Path, progress: Progress, finish: Callable[[Variants], T]
) -> tuple[T, Placement]:
    """Finish a build with the cheapest placement of INT8 that loses at most ``max_drop``, by MACs.

    Args:
        variants: Of a build in INT8 whose recipe selects what may become INT8.
        max_drop: Largest accepted loss of mean PSNR-Y of each part of the held-out images, in dB. An image
            may lose what the recipe states, else five times that.
        cache: As of :func:`measure_sensitivity`.
        progress: Receives what is under way.
        finish: Makes the files of a placement and checks them; called again with a smaller one where they
            miss the budget.

    Raises:
        BuildError: no placement keeps it.
        VerificationError: none does on whole images and in each form of the graph.
    """
    from hasn_edge.quantize.search import search_placement

    recipe = variants.context.recipe
    assert recipe is not None
    worst = recipe.max_drop_worst if recipe.max_drop_worst is not None else WORST * max_drop
    groups, meter = measure_sensitivity(variants, cache, progress)

    def attempt(spend: float) -> tuple[T, Placement]:
        placement = search_placement(
            groups, meter, recipe, budget=(max_drop, worst), spend=spend, progress=progress
        )
        return finish(variants.with_recipe(placement.recipe)), placement

    return spend_less(attempt)


def describe(placement: Placement) -> tuple[str, ...]:
    """Return what was chosen, and what each group in float saves, a sentence each."""
    chosen = placement.chosen
    lost = ", ".join(f"{name} {-mean:+.4f} dB" for name, mean, _ in chosen.loss.parts)
    out = [group for group in placement.groups if group.name not in chosen.groups]
    notes = [
        f"search: INT8 for {chosen.gain:.1%} of the MACs, {lost} on crops of the held-out "
        f"images; {len(placement.points)} placements measured"
    ]
    if out:
        listed = ", ".join(f"{g.name} ({g.loss.mean:.4f} dB alone, {g.gain:.1%})" for g in out)
        notes.append(f"search: in float: {listed}")
    return tuple(notes)


def write_placement(placement: Placement, folder: Path, name: str) -> tuple[Path, ...]:
    """Write the recipe that reproduces a placement without searching, and where matplotlib is the curve.

    Args:
        placement: What was found.
        folder: Where the build's files are.
        name: The start of their names.
    """
    recipe = folder / f"{name}-int8-search.toml"
    lines = [f"# {note}" for note in describe(placement)]
    text = "\n".join([*lines, "inherit = false", dump_config(placement.recipe, comments=False)])
    with writing(recipe) as path:
        path.write_text(text, encoding="utf-8")
    if installed_version("matplotlib") is None:
        return (recipe,)
    curve = recipe.with_suffix(".png")
    with writing(curve) as path:
        path.write_bytes(draw_curve(placement))
    return recipe, curve


def draw_curve(placement: Placement) -> bytes:
    """Return the measured placements as a PNG image: what is lost over what INT8 gains."""
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for points, style, label in (
        (placement.points, "o", "measured"),
        (placement.frontier, "-", "best of them"),
        ((placement.chosen,), "D", "chosen"),
    ):
        gains, losses = [100 * point.gain for point in points], [point.loss.mean for point in points]
        axes.plot(gains, losses, style, label=label)
    axes.axhline(placement.recipe.budget_db, color="gray", linestyle="--", label="budget")
    axes.set_xlabel("MACs in INT8 [%]")
    axes.set_ylabel("PSNR-Y lost, largest mean of a part [dB]")
    axes.grid(alpha=0.3)
    axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def sensitivity_rows(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    """Return a table of what each group loses alone, the costliest first, with its heading."""
    parts = [name for name, _, _ in groups[0].loss.parts]
    heading = (
        *COLUMNS[:2],
        *(f"{COLUMNS[2]} {n}, dB" for n in parts),
        *(f"{COLUMNS[3]} {n}, dB" for n in parts),
    )
    rows = [heading]
    for group in sorted(groups, key=lambda each: (-each.loss.mean, each.name)):
        means = [f"{mean:.4f}" for _, mean, _ in group.loss.parts]
        worst = [f"{each:.4f}" for _, _, each in group.loss.parts]
        rows.append((group.name, f"{group.gain:.1%}", *means, *worst))
    return rows


def sensitivity_page(groups: Sequence[Group], title: str, placement: Placement | None = None) -> str:
    """Return the table, and the curve of a search, as one HTML page that needs nothing else."""
    first, *rows = sensitivity_rows(groups)
    cells = ["".join(f"<td>{html.escape(text)}</td>" for text in row) for row in rows]
    curve = ""
    if placement is not None and installed_version("matplotlib") is not None:
        data = base64.b64encode(draw_curve(placement)).decode()
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in describe(placement))
        curve = f'{notes}<img alt="dB lost over MACs in INT8" src="data:image/png;base64,{data}">'
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        "<style>body{font:14px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:right}"
        "td:first-child{text-align:left;font-family:monospace}tr:nth-child(even){background:#f3f3f3}</style>"
        f"<h1>{html.escape(title)}</h1>{curve}<table><tr>"
        + "".join(f"<th>{html.escape(text)}</th>" for text in first)
        + "</tr>"
        + "".join(f"<tr>{row}</tr>" for row in cells)
        + "</table></html>\n"
    )
