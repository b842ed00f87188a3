"""The ``bench`` verb."""

from __future__ import annotations

import functools
import itertools
import shlex
import sys
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hasn_edge.cli.common import (
    SIZE,
    ExistingPath,
    NamesOption,
    board_names,
    chosen_model,
    cuda_option,
    data_option,
    model_option,
    network_names,
    quant_recipe_option,
    refuse_idle_options,
    threads_option,
)
from hasn_edge.cli.cures import cure_text
from hasn_edge.cli.tables import print_table
from hasn_edge.cli.terminal import console, note, say, status, write_results

if TYPE_CHECKING:
    from hasn_edge.bench.report import BenchReport
    from hasn_edge.errors import Cure


markdown_option = click.option(
    "--markdown",
    "markdown_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write the table as Markdown to FILE.",
)


@click.group("bench", invoke_without_command=True, subcommand_metavar="[diff OLD NEW]")
@model_option
@click.option(
    "--artifact",
    "artifacts",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Bench this built file (.onnx, .ts, .pt2, .engine) as well; repeatable. Without --precision, only "
    "these and the FP32 network that they were made from.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "rtx", "jetson"]),
    default=None,
    help="Where to run. cuda: TensorRT and PyTorch on an NVIDIA GPU; rtx: TensorRT for RTX; jetson: as cuda, "
    "with the module's power rails.  [default: cpu; an engine's GPU]",
)
@cuda_option
@click.option(
    "--backend",
    "graph_backends",
    type=click.Choice(["onnxruntime", "openvino", "openvino-bf16"]),
    multiple=True,
    default=["onnxruntime"],
    show_default=True,
    help="What runs each .onnx graph on a CPU; repeatable, a row each.",
)
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Also bench PyTorch's network through torch.compile, which takes minutes and needs a C++ compiler.",
)
@click.option(
    "--estimate",
    "board",
    cls=NamesOption,
    names=board_names,
    metavar="BOARD",
    default=None,
    help="Measure nothing: estimate what a board that is not here could do: {names}, or a target file.",
)
@click.option(
    "--precision",
    "precisions",
    default=None,
    metavar="LIST",
    help="Comma-separated precisions to build and bench.  [default: fp32,fp16,int8]",
)
@click.option(
    "--compare",
    cls=NamesOption,
    names=network_names,
    default="",
    metavar="LIST",
    help="Comma-separated networks of other papers to time beside the model, with random weights, or also to "
    "score, with their authors' as NAME=FILE: {names}.",
)
@data_option
@click.option(
    "--size",
    type=SIZE,
    default=None,
    help="Input size of the latency figures.  [default: that of a file of one size, else 320x180]",
)
@click.option(
    "--runs",
    type=click.IntRange(2, 10000),
    default=None,
    help="Timed calls a case, at least.  [default: 20 on a CPU; on a device 200 and 10 seconds]",
)
@click.option(
    "--sustained",
    "sustained_minutes",
    type=click.FloatRange(min=0, max=600, min_open=True),
    default=None,
    metavar="MIN",
    help="Then run each case for MIN minutes without a pause, to see whether the device throttles.",
)
@click.option(
    "--set-clocks",
    is_flag=True,
    help="Jetson, as root: clocks at the power mode's maximum while measuring, then as they were. Nothing is "
    "changed without it.",
)
@quant_recipe_option()
@click.option(
    "--tile", type=click.IntRange(32, 4096), default=None, help="Also report the drift of tiles of N pixels."
)
@markdown_option
@click.option(
    "--html",
    "html_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write a page for browsers to FILE, which needs no other file: plots, the worst crops of each case, "
    "the drift of INT8's layers.",
)
@click.option(
    "--columns",
    metavar="LIST",
    default="",
    help="Comma-separated figures of the table, or all; --json and --markdown have all.  [default: the seven "
    "most important]",
)
@threads_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str | None,
    artifacts: tuple[Path, ...],
    board: str | None,
    precisions: str | None,
    compare: str,
    columns: str,
    markdown_path: Path | None,
    html_path: Path | None,
    **options: Any,
) -> None:
    """Measure latency, memory, quality and drift, and print one table.

    Every case is a row, and runs in a process of its own; all are timed in rounds, against the unfused
    FP32 network in PyTorch, in the same run. What could not be measured is '-' with its reason.
    On a device also: GPU time, enqueue, transfers, power, energy a frame, throttling. Where its
    memory would not hold all cases they run one after the other, and the report says so. Engines of
    earlier builds in ./engines are taken as they are; those that have to be built are kept there.

    \b
    Examples:
      hasn-edge bench
      hasn-edge bench --precision fp32,int8 --data sets/Set5 --markdown bench.md
      hasn-edge bench --artifact engines/hasn-x4-int8-cpu.onnx --html bench.html
      hasn-edge bench --precision fp32 --compare span,rfdn,imdn,fsrcnn
      hasn-edge bench --device jetson --precision fp16,int8 --sustained 5
      hasn-edge bench --estimate orin-nano
    """
    if ctx.invoked_subcommand is not None:
        refuse_idle_options(ctx, f"bench {ctx.invoked_subcommand} has options of its own, behind its name")
        return
    if board is not None:
        refuse_idle_options(ctx, "--estimate measures nothing", used=_OF_AN_ESTIMATE)
    from hasn_edge.bench import table
    from hasn_edge.bench.benchmark import run_benchmark
    from hasn_edge.bench.html_page import html_page
    from hasn_edge.bench.options import DEFAULT_SIZE, BenchOptions
    from hasn_edge.files import require_writable

    wanted = table.KEYS if columns == "all" else tuple(filter(None, columns.split(",")))
    for key in wanted:
        if key not in table.KEYS:
            raise click.UsageError(f"--columns has no figure {key!r}; choose from: {', '.join(table.KEYS)}")
    for path in filter(None, (markdown_path, html_path)):
        require_writable(path)
    typed = shlex.join(["hasn-edge", *sys.argv[1:]])
    if board is not None:
        size, recipe = options["size"] or DEFAULT_SIZE, options["recipe"]
        _estimate(model, board, precisions or PRECISIONS, size, recipe, markdown_path, typed)
        return
    if precisions is None:
        precisions = "" if artifacts else PRECISIONS
    asked = BenchOptions(
        model=chosen_model(model) if model or precisions or not artifacts else None,
        artifacts=artifacts,
        precisions=[p for p in precisions.split(",") if p],
        compare=[part for part in compare.split(",") if part],
        evidence=html_path is not None,
        command=typed,
        **options,
    )
    with status("preparing") as update:
        report = run_benchmark(asked, progress=update)
    words = functools.partial(cure_text, command=ctx.command)
    write_results(
        report.to_dict,
        lambda: _print_report(report, wanted, words),
        [(markdown_path, lambda: table.markdown(report, words)), (html_path, lambda: html_page(report))],
    )


PRECISIONS = "fp32,fp16,int8"

_OF_AN_ESTIMATE = ("board", "model", "precisions", "size", "recipe", "markdown_path", "json")
"""Parameters of ``bench`` that change an estimate."""


def _print_report(report: BenchReport, wanted: Sequence[str], words: Callable[[Cure], str]) -> None:
    from hasn_edge.bench import table

    found = table.columns(report)
    chosen = table.choose(found, wanted)
    names = ["", *(one.heading for one in chosen)]
    rows = [list(row) for row in zip(table.labels(report), *(one.cells for one in chosen), strict=True)]
    print_table(console(), table.caption(report), names, rows)
    for text in table.notes(report, words):
        say(f"- {text}")
    say(f"- machine: {table.machine_line(report)}")
    absent = [key for key in wanted if key not in {one.key for one in found}]
    if absent and tuple(wanted) != table.KEYS:
        note(f"No case has these figures: {', '.join(absent)}")
    hidden = dict.fromkeys(one.key for one in found if one not in chosen)
    if hidden:
        note(f"More figures, by --columns: {', '.join(hidden)}, or all")


REPORT = ExistingPath(dir_okay=False)


@command.command("diff")
@click.argument("old", type=REPORT)
@click.argument("new", type=REPORT)
@click.option(
    "--fail-on",
    default=None,
    metavar="LIMITS",
    help='Exit with 3 where a case changed by more, for example "psnr<-0.02,latency>5%". Figures: psnr, '
    "ssim, worst (drift of the worst image), latency, memory, file, energy. Noise breaks no limit; a case "
    "that failed or is gone breaks all, and a limit that finds nothing to compare is an error.",
)
@markdown_option
def diff_command(old: Path, new: Path, fail_on: str | None, markdown_path: Path | None) -> None:
    """Print what changed between two files that bench --json wrote.

    Medians of times are compared by a bootstrap of rounds and samples, so that noise is no change.

    \b
    Example:
      hasn-edge bench diff main.json branch.json --markdown summary.md \\
        --fail-on "psnr<-0.02,latency>5%"
    """
    from hasn_edge.bench.diff import HEADINGS, FigureLimit, diff_reports
    from hasn_edge.errors import VerificationError
    from hasn_edge.files import require_writable

    limits = FigureLimit.parse(fail_on) if fail_on is not None else ()
    if markdown_path is not None:
        require_writable(markdown_path)
    found = diff_reports(old, new)
    broken = found.broken(limits)
    rows = found.rows()
    lines: list[list[str]] = []
    for case, figures in itertools.groupby(rows, key=itemgetter(0)):
        # A case has a line of its own: names beside all six columns are wider than a terminal.
        lines += [[case, "", "", "", ""], *([f"  {name}", *cells] for _, name, *cells in figures)]

    def show() -> None:
        if lines:
            print_table(console(), [f"{old.name} -> {new.name}"], ["", *HEADINGS[2:]], lines)
        for text in found.sentences():
            say(f"- {text}")

    keys = ("case", *HEADINGS[1:])
    changes = [dict(zip(keys, row, strict=True)) for row in rows]
    write_results(
        lambda: {"changes": changes, "notes": found.sentences(), "broken": list(broken)},
        show,
        [(markdown_path, lambda: found.markdown(broken, limits))],
    )
    if broken:
        raise VerificationError("; ".join(broken))


def _estimate(
    model: str | None,
    board: str,
    precisions: str,
    size: tuple[int, int],
    recipe: str,
    markdown_path: Path | None,
    typed: str,
) -> None:
    from hasn_edge.bench.estimate import estimate_model, grids, markdown

    report = estimate_model(
        chosen_model(model),
        board,
        precisions=[p for p in precisions.split(",") if p],
        size=size,
        recipe=recipe,
        command=typed,
    )

    def show() -> None:
        for title, names, rows in grids(report):
            print_table(console(), [title], names, rows)
        for text in report.notes:
            say(f"- {text}")

    write_results(report.to_dict, show, [(markdown_path, lambda: markdown(report))])
