"""A build that finds its own placement of INT8, and what it leaves on disk: a recipe and a curve."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hasn_edge.config import dump_config
from hasn_edge.engine.capabilities import Capabilities, ask_capabilities, check_target
from hasn_edge.engine.target import EngineRuntime, EngineTarget
from hasn_edge.errors import VerificationError
from hasn_edge.files import writing
from hasn_edge.hardware.gpu import GpuFacts, gpu_facts
from hasn_edge.optional import installed_version, require
from hasn_edge.pipeline.context import CACHE, BuildOptions, load_target_context
from hasn_edge.pipeline.costs import TargetCost, choose_saving
from hasn_edge.pipeline.variants import Variants
from hasn_edge.progress import Progress
from hasn_edge.quantize.recipe import Saving

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

COLUMNS = ("in INT8 alone", "PSNR-Y lost by the mean of", "by the worst image of")


def target_cost(
    variants: Variants,
    options: BuildOptions,
    target: EngineTarget,
    capabilities: Capabilities | None,
    gpu: GpuFacts | None,
    cache: Path,
    progress: Progress,
) -> TargetCost | None:
    """Return what measures the graphs of a build on its target; ``None`` where arithmetic counts."""
    saving = choose_saving(target, gpu) if options.cost is None else Saving(options.cost)
    if saving is Saving.MACS:
        return None
    return TargetCost(variants, target, capabilities, saving, memory=cache, progress=progress)


def measure_sensitivity(
    variants: Variants, cost: TargetCost | None, cache: Path, progress: Progress, *, refuse: bool = False
) -> tuple[tuple[Group, ...], Meter]:
    """Quantize each group of convolutions alone, on the held-out images of a build.

    Args:
        variants: Of a build in INT8.
        cost: What INT8 shall save; arithmetic where ``None``.
        cache: Folder in which measurements are kept: what was interrupted goes on from there.
        progress: Receives what is under way.
        refuse: Do not measure any loss where no group saves anything.

    Returns:
        The groups in the graph's order, and what measured them.

    Raises:
        BuildError: with ``refuse``, no group saves anything.
    """
    from hasn_edge.quantize.graph import conv_macs
    from hasn_edge.quantize.search import Meter, group_convolutions, measure_groups

    context, (exporter, ranges) = variants.context, variants.int8
    assert context.recipe is not None
    plain, gains = exporter.fp32(), None
    # A frozen gate saves no arithmetic to speak of: it is listed, and chosen only where bytes or time count.
    wanted = context.recipe.can_freeze and not (cost is None and refuse)
    gates = variants.steady_gates if wanted else {}
    if cost is not None:
        groups = {**group_convolutions(plain, context.recipe), **{name: (name,) for name in gates}}
        gains = cost.gains(groups, conv_macs(plain))
        if refuse:
            cost.require_gain(gains)
    began = variants.acceptance
    reference = None
    if began.checkpoint is not context.checkpoint:  # these weights were adapted, and that may cost too
        reference = began.checkpoint.sha256, began.reference.run
    ranges = replace(ranges, gates=gates)
    meter = Meter(plain, ranges, context.recipe, context.held_out, cache, reference=reference)
    found = measure_groups(plain, meter, context.recipe, gates=gates, gains=gains, progress=progress)
    return found, meter


def measure_costs(
    options: BuildOptions, progress: Progress
) -> tuple[tuple[Group, ...], Saving, tuple[str, ...]]:
    """Quantize each group of convolutions of a model alone.

    Args:
        options: Of a build in INT8; what is about its search and its files beside the cache does not count.
        progress: Receives what is under way.

    Returns:
        The groups in the graph's order, what their gains are shares of, and what the user should know of the
        images and the target.
    """
    require("torch", extra="export", needed_for="Measuring what INT8 costs")
    target, gpu = options.resolve_target(EngineRuntime.CPU.value), gpu_facts()
    target.require_gpu(gpu)
    capabilities = ask_capabilities(target.runtime) if target.runtime.compiles else None
    if capabilities is not None:
        check_target(capabilities, target)
    variants = Variants(load_target_context(options, target, progress), progress)
    cache = Path(options.output) / CACHE
    cost = target_cost(variants, options, target, capabilities, gpu, cache, progress)
    groups, _ = measure_sensitivity(variants, cost, cache, progress)
    if cost is None:
        return groups, Saving.MACS, variants.notes
    note = f"{target.name}: without INT8 {cost.words(cost.base)} ({cost.float_name})"
    return groups, cost.saving, (*variants.notes, note)


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
    variants: Variants,
    max_drop: float,
    cost: TargetCost | None,
    cache: Path,
    progress: Progress,
    finish: Callable[[Variants], T],
) -> tuple[T, Placement]:
    """Finish a build with the cheapest placement of INT8 that loses at most ``max_drop``.

    Args:
        variants: Of a build in INT8 whose recipe selects what may become INT8.
        max_drop: Largest accepted loss of mean PSNR-Y of each part of the held-out images, in dB. An image
            may lose what the recipe states, else five times that.
        cost: As of :func:`measure_sensitivity`.
        cache: As of :func:`measure_sensitivity`.
        progress: Receives what is under way.
        finish: Makes the files of a placement and checks them; called again with a smaller one where they
            miss the budget.

    Raises:
        BuildError: no placement keeps it, or none that does saves anything on the target.
        VerificationError: none does on whole images and in each form of the graph.
    """
    from hasn_edge.quantize.search import search_placement

    recipe = variants.context.recipe
    assert recipe is not None
    budget = replace(recipe, budget_db=max_drop).budget
    groups, meter = measure_sensitivity(variants, cost, cache, progress, refuse=True)
    saving = Saving.MACS if cost is None else cost.saving

    def attempt(spend: float) -> tuple[T, Placement]:
        placement = search_placement(
            groups,
            meter,
            recipe,
            budget=budget,
            spend=spend,
            saving=saving,
            progress=progress,
        )
        if cost is not None:
            chosen = [g.convolutions for g in groups if g.name in placement.chosen.groups]
            confirmed = cost.confirm(tuple(name for names in chosen for name in names))
            placement = replace(placement, confirmed=confirmed)
        return finish(variants.with_recipe(placement.recipe)), placement

    return spend_less(attempt)


def describe(placement: Placement) -> tuple[str, ...]:
    """Return what was chosen, why not more, and what each group in float saves, a sentence each."""
    chosen, nearest = placement.chosen, placement.nearest
    lost = ", ".join(f"{part.name} {-part.mean:+.4f} dB" for part in chosen.loss.parts)
    out = [group for group in placement.groups if group.name not in chosen.groups]
    frozen = placement.recipe.freeze
    notes = [
        f"search: {chosen.gain:.1%} {placement.saving.words}, {lost} on crops of the held-out "
        f"images (worst: {chosen.loss.worst_image} {-chosen.loss.worst:+.4f}); {len(placement.points)} "
        "placements measured"
    ]
    if nearest is not None:
        mean, worst = (f"{limit:.4f}" for limit in placement.limits)
        notes.append(
            f"search: {nearest.gain:.1%} {placement.saving.words} would lose {nearest.loss.mean:.4f} dB "
            f"on average (limit {mean}) and {nearest.loss.worst:.4f} on one image, "
            f"{nearest.loss.worst_image} (limit {worst})"
        )
    if placement.confirmed:
        notes.append(f"search: {placement.confirmed}")
    if frozen:
        notes.append(f"search: channel attention frozen: {', '.join(frozen)}")
    if out:
        listed = ", ".join(f"{g.name} ({g.loss.mean:.4f} dB alone, {g.gain:.1%})" for g in out)
        notes.append(f"search: in float: {listed}")
    return tuple(notes)


def recipe_name(name: str) -> str:
    """Return what the file of a search's recipe is called, by the start of the build's names."""
    return f"{name}-int8-search.toml"


def write_placement(placement: Placement, folder: Path, name: str) -> tuple[Path, ...]:
    """Write the recipe that reproduces a placement, a page of what was measured, and the curve.

    The curve, alone and in the page, needs matplotlib.

    Args:
        placement: What was found.
        folder: Where the build's files are.
        name: The start of their names.
    """
    recipe = folder / recipe_name(name)
    lines = [f"# {note}" for note in describe(placement)]
    text = "\n".join([*lines, "inherit = false", dump_config(placement.recipe, comments=False)])
    with writing(recipe) as path:
        path.write_text(text, encoding="utf-8")
    page, title = recipe.with_suffix(".html"), f"INT8 of {name}: what was chosen, and each group alone"
    with writing(page) as path:
        path.write_text(sensitivity_page(placement.groups, title, placement.saving, placement), "utf-8")
    if installed_version("matplotlib") is None:
        return recipe, page
    curve = recipe.with_suffix(".png")
    with writing(curve) as path:
        path.write_bytes(draw_curve(placement))
    return recipe, page, curve


def draw_curve(placement: Placement) -> bytes:
    """Return the measured placements as a PNG image: what is lost over what INT8 gains."""
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    mean, worst = placement.limits
    kept = [point for point in placement.points if point.loss.worst <= worst]
    for points, style, label in (
        (kept, "o", "measured"),
        ([p for p in placement.points if p not in kept], "x", f"one image loses more than {worst:.3g} dB"),
        (placement.frontier, "-", "least mean loss"),
        ((placement.chosen,), "D", "chosen"),
    ):
        gains, losses = [100 * point.gain for point in points], [point.loss.mean for point in points]
        axes.plot(gains, losses, style, label=label)
    axes.axhline(mean, color="gray", linestyle="--", label=f"{placement.spend:.0%} of the budget")
    axes.set_xlabel(f"[%] {placement.saving.words}")
    axes.set_ylabel("PSNR-Y lost, largest mean of a part [dB]")
    axes.grid(alpha=0.3)
    axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def sensitivity_rows(groups: Sequence[Group], saving: Saving = Saving.MACS) -> list[tuple[str, ...]]:
    """Return a table of what each group saves and loses alone, the costliest first, with its heading."""
    parts = [part.name for part in groups[0].loss.parts]
    heading = (
        COLUMNS[0],
        saving.words.removeprefix("of the "),
        *(f"{COLUMNS[1]} {n}, dB" for n in parts),
        *(f"{COLUMNS[2]} {n}, dB" for n in parts),
    )
    rows = [heading]
    for group in sorted(groups, key=lambda each: (-each.loss.mean, each.name)):
        means = [f"{part.mean:.4f}" for part in group.loss.parts]
        worst = [f"{part.worst:.4f}" for part in group.loss.parts]
        rows.append((group.name, f"{group.gain:.1%}", *means, *worst))
    return rows


def sensitivity_page(
    groups: Sequence[Group], title: str, saving: Saving = Saving.MACS, placement: Placement | None = None
) -> str:
    """Return the table, and the curve of a search, as one HTML page that needs nothing else."""
    first, *rows = sensitivity_rows(groups, saving)
    cells = ["".join(f"<td>{html.escape(text)}</td>" for text in row) for row in rows]
    conventions = "".join(f"<p>{html.escape(text)}</p>" for text in CONVENTIONS)
    curve = ""
    if placement is not None:
        curve = "".join(f"<p>{html.escape(note)}</p>" for note in describe(placement))
        if installed_version("matplotlib") is not None:
            data = base64.b64encode(draw_curve(placement)).decode()
            curve += f'<img alt="dB lost over what INT8 saves" src="data:image/png;base64,{data}">'
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        "<meta name=viewport content='width=device-width'><style>:root{color-scheme:light dark}"
        "body{font:14px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:right}img{max-width:100%}"
        "th:first-child,td:first-child{text-align:left}td:first-child{font-family:monospace}"
        "tr:nth-child(even){background:#8882}table{border-collapse:collapse}</style>"
        f"<h1>{html.escape(title)}</h1>{conventions}{curve}<table><tr>"
        + "".join(f"<th>{html.escape(text)}</th>" for text in first)
        + "</tr>"
        + "".join(f"<tr>{row}</tr>" for row in cells)
        + "</table></html>\n"
    )
