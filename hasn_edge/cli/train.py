"""The ``train`` verb."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hasn_edge import interrupt
from hasn_edge.cli.common import (
    EXISTING_FOLDER,
    NamesOption,
    ResultFolder,
    refuse_idle_options,
    threads_option,
    train_recipe_names,
)
from hasn_edge.cli.terminal import interruption, is_quiet, messages, note, progress, say, write_results
from hasn_edge.errors import InputError, call, counted
from hasn_edge.errors import say as advise
from hasn_edge.optional import require
from hasn_edge.progress import Progress, Step, ignore

if TYPE_CHECKING:
    from hasn_edge.train.distributed import DistributedContext
    from hasn_edge.train.recipe import Recipe
    from hasn_edge.train.run_folder import RunFile

SET = "--set"


@click.command("train")
@click.option(
    "--recipe",
    cls=NamesOption,
    names=train_recipe_names,
    default=None,
    metavar="NAME|FILE",
    help="Recipe that ships ({names}), or a .toml file.",
)
@click.option(
    "--data",
    type=EXISTING_FOLDER,
    multiple=True,
    help="Folder made by 'hasn-edge data prepare', or photographs, which are prepared first; repeatable.",
)
@click.option(
    "--val",
    "sets",
    multiple=True,
    metavar="NAME=DIR",
    help="Validation set; repeatable. The first one chooses the best weights.",
)
@click.option(
    "-o",
    "--output",
    type=ResultFolder(),
    default=None,
    help="Folder of the run.  [default: runs/RECIPE]",
)
@click.option(
    "--resume", type=EXISTING_FOLDER, default=None, metavar="RUN", help="Continue from the newest state."
)
@click.option(
    "--branch",
    "branched",
    default=None,
    metavar="RUN[@N]",
    help="Begin a run of its own with the full state of a wsd run, its newest or that of iteration N, and "
    "let the rate decay from there; RUN stays as it is, and may be training. Needs -o. Choose the decay with "
    "--set optimizer.decay=0.1 (its part of all iterations) or --iterations.",
)
@click.option(
    "--init",
    "start",
    default=None,
    metavar="RUN@N|NAME|FILE",
    help="Begin with the weights of a run's iteration N (100k), of a bundled model (hasn-x4), or of a "
    ".safetensors or .pth file. Weights of another scale give the body; the upsampler is fitted to it.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the recipe (optimizer.lr=1e-3, phases.0.batch_size=4); repeatable. With --branch only what "
    "the steps before it do not depend on: optimizer.decay, .final and .schedule, name, about, keep, "
    "keep_at, validate_every, checkpoint_every. Not with --resume.",
)
@click.option(
    "--iterations",
    type=click.IntRange(1),
    default=None,
    help="End here instead of where the recipe says, warm-up and milestones in proportion; with --resume, "
    "replan the rest and leave what is done as it was (not of a cosine that has begun to fall); with "
    "--branch, end the decay here (by default it takes optimizer.decay of all iterations).",
)
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Where.")
@click.option("--compile", "compiled", is_flag=True, help="Run the network through torch.compile.")
@click.option(
    "--show",
    is_flag=True,
    help="Print the recipe, every value explained, and train nothing.",
)
@threads_option
def command(
    recipe: str | None,
    data: tuple[Path, ...],
    sets: tuple[str, ...],
    output: Path | None,
    resume: Path | None,
    branched: str | None,
    start: str | None,
    overrides: tuple[str, ...],
    iterations: int | None,
    device: str,
    compiled: bool,
    show: bool,
    threads: int | None,
) -> None:
    """Train a network from photographs to weights, and watch it.

    The run's folder gets best.safetensors (highest PSNR-Y on the first validation set), last.safetensors,
    last.pth, log.csv, curve.png and TensorBoard events. Ctrl-C saves everything and says how to go on.

    \b
    Examples:
      hasn-edge train --recipe hasn-x4-small --data data/train --val S5=sets/Set5
      hasn-edge train --resume runs/hasn-x4-small
      hasn-edge train --branch runs/hasn-x4 -o runs/end --set optimizer.decay=0.1
      hasn-edge train --recipe hasn-x4-small --show > my.toml
      hasn-edge train --recipe hasn-x4-stage2 --data data/df2k \\
        --init runs/hasn-x4-stage1@100k
      torchrun --nproc-per-node 4 -m hasn_edge train --recipe hasn-x4-stage1 \\
        --data data/div2k
    """
    if show:
        used = ("show", "recipe", "overrides", "iterations", "json")
        refuse_idle_options(click.get_current_context(), "--show trains nothing", used=used)
        _show(recipe, overrides, iterations)
        return
    _check_usage(recipe, data, output, resume, branched, bool(sets or start), overrides)
    torch = require("torch", extra="train", needed_for="Training")
    require("safetensors", extra="train", needed_for="Training")
    if threads is not None:
        torch.set_num_threads(threads)
    from hasn_edge.train.distributed import join_processes
    from hasn_edge.train.loop import Interrupted, train_run
    from hasn_edge.train.recipe import load_recipe
    from hasn_edge.train.run_folder import read_run_file, trained_here

    asked: list[int] = []

    def stop(number: int) -> None:
        asked.append(number)
        if here.is_main:
            note("Stopping at the end of this step, to save everything; Ctrl-C again leaves at once")

    with join_processes(device) as here, _display(here) as report, ExitStack() as claims:
        folder = resume or output
        if here.is_main:
            with interruption() as last:  # until there is something to save
                last.sentence = "Interrupted before the first step; nothing half-written was kept"
                # From here on: two that begin would also prepare their data into one place.
                if folder is not None and (resume is not None or branched is not None):
                    claims.enter_context(trained_here(folder))
                    run = _go_on(folder, branched, iterations, overrides)
                else:
                    assert recipe is not None
                    plan = load_recipe(recipe, overrides, iterations=iterations, label=SET)
                    folder = output or Path("runs") / plan.name
                    claims.enter_context(trained_here(folder))
                    run = _begin_run(plan, folder, data, sets, start, here)
            many = counted(run.recipe.iterations, "iteration")
            say(f"{folder}: {run.recipe.name}, {many} on {here.device}")
        here.barrier()
        if folder is None:  # only the main process made the plan; the others find its folder by the same rule
            folder = Path("runs") / load_recipe(recipe or "", overrides).name
        if not here.is_main:
            run = read_run_file(folder)
        try:
            with interrupt.catching(stop, once=True):  # the second one ends it as it usually does
                train_run(folder, run, here, compiled=compiled, progress=report, stop=lambda: bool(asked))
        except Interrupted as exc:
            if here.is_main:
                say(f"{exc}; continue with: hasn-edge train --resume {shlex.quote(str(folder))}", err=True)
            sys.exit(128 + asked[0] if asked else 1)
        if here.is_main:
            weights, log = folder / "best.safetensors", folder / "log.csv"
            done = {"folder": folder, "weights": weights, "log": log}
            write_results(
                lambda: {
                    **{name: str(path) for name, path in done.items()},
                    "recipe": run.recipe.name,
                    "iterations": run.recipe.iterations,
                },
                lambda: say(f"finished; weights: {weights}, log: {log}"),
            )


def _check_usage(
    recipe: str | None,
    data: tuple[Path, ...],
    output: Path | None,
    resume: Path | None,
    branched: str | None,
    others: bool,
    overrides: tuple[str, ...],
) -> None:
    """Refuse options that contradict each other; ``others`` are those that only a new run takes."""
    if resume is not None and (recipe or data or output or branched or others or overrides):
        raise click.UsageError(
            "--resume continues a run as it began; only --iterations, --device, --compile, --threads fit; "
            "for another decay use --branch, for other settings --recipe with --init RUN@N"
        )
    if branched is not None and (recipe or data or others):
        raise click.UsageError(
            "--branch goes on from a run as it began; only -o, --set, --iterations, --device, --compile and "
            "--threads fit"
        )
    if branched is not None and output is None:
        raise click.UsageError("--branch begins a run of its own: give its folder with -o")
    if resume is None and branched is None and (recipe is None or not data):
        raise click.UsageError("a new run needs --recipe and --data; an old one --resume RUN")


def _show(recipe: str | None, overrides: tuple[str, ...], iterations: int | None) -> None:
    import msgspec

    from hasn_edge.config import dump_config
    from hasn_edge.train.recipe import load_recipe

    if recipe is None:
        raise click.UsageError("--show prints a recipe: name it with --recipe")
    plan = load_recipe(recipe, overrides, iterations=iterations, label=SET)
    text = dump_config(plan).removesuffix("\n")
    write_results(lambda: msgspec.to_builtins(plan), lambda: say(text))


def _go_on(folder: Path, branched: str | None, iterations: int | None, overrides: tuple[str, ...]) -> RunFile:
    """Return the run in a folder, which is a new one where it is branched from another."""
    from hasn_edge.train.runs import branch_run, resume_run

    if branched is not None:
        return branch_run(branched, folder, iterations=iterations, overrides=overrides, label=SET)
    return resume_run(folder, iterations=iterations)


def _begin_run(
    plan: Recipe,
    folder: Path,
    data: tuple[Path, ...],
    sets: tuple[str, ...],
    start: str | None,
    here: DistributedContext,
) -> RunFile:
    """Begin a run in a folder, preparing first what was not prepared."""
    from hasn_edge.cli.cures import cure_text
    from hasn_edge.data.prepare import prepare
    from hasn_edge.data.shards import is_prepared
    from hasn_edge.train.runs import begin_run, require_no_run

    require_no_run(folder)  # preparing would replace the data that its run goes on with
    prepared = []
    for number, path in enumerate(data):
        if not is_prepared(path):
            note(f"{path}: not prepared yet; preparing it into {folder / 'data' / str(number)}")
            side = max(phase.patch for phase in plan.phases)
            others = sorted(folder.parent.glob("*/data/*"))
            target, scale = folder / "data" / str(number), plan.model.scale
            try:
                prepare([path], target, scale=scale, min_side=side, known=others)
            except InputError as exc:
                asked = {"photos": str(path), "output": "DIR", "scale": scale, "min_side": side}
                first = cure_text(call("data prepare", **asked, skip_bad=True))
                instead = advise(f"{first}, and train with --data DIR")
                cures = (instead if "skip_bad" in cure.arguments else cure for cure in exc.cures)
                raise InputError(exc.message, *cures) from exc
            path = target
        prepared.append(path)
    return begin_run(plan, folder, data=prepared, sets=sets, start=start, device=here.device)


@contextmanager
def _display(here: DistributedContext) -> Iterator[Progress]:
    """Yield what shows the steps: a live bar on a terminal, lines elsewhere, in the main process."""
    if is_quiet() or not here.is_main:
        yield ignore
        return
    drawn = messages().is_terminal
    with progress("") as advance:

        def show(step: Step) -> None:
            advance(step)
            if step.keep or not drawn:
                say(f"{step.done}/{step.total}  {step.text}")

        yield show
