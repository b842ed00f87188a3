"""From what the user named to a running trainer: begin a run, or continue one."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import torch

from hasn_edge.data.pairs import load_eval_set
from hasn_edge.data.patches import PatchSource
from hasn_edge.data.shards import Shards, combined_fingerprint
from hasn_edge.errors import CheckpointError, ConfigError, InputError, call, say
from hasn_edge.files import file_sha256
from hasn_edge.model.checkpoint import Checkpoint, load_checkpoint
from hasn_edge.optional import installed_version
from hasn_edge.train.branch import replanned
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.loop import train
from hasn_edge.train.memory import keep_freed_memory
from hasn_edge.train.recipe import MemoryFormat, Recipe, Schedule
from hasn_edge.train.recorder import TrainingProgress
from hasn_edge.train.run import RunFile, kept_state, parse_state, read_run_file, write_run_file
from hasn_edge.train.speed import faster_memory_format
from hasn_edge.train.state import load_newest, load_state, saved_iterations
from hasn_edge.train.trainer import Trainer


def begin(
    recipe: Recipe,
    folder: Path,
    *,
    data: Sequence[Path],
    sets: Iterable[str],
    start: str | None,
    device: torch.device | None = None,
) -> RunFile:
    """Check what a new run needs and write its ``run.json``.

    Args:
        recipe: The run.
        folder: Where it will live; must not hold another run.
        data: Prepared folders.
        sets: Validation sets as ``NAME=DIR``.
        start: Weights to begin with: see :func:`starting_weights`.
        device: Where the run will be, which decides an ``auto`` memory format; the CPU by default.

    Raises:
        ConfigError: the folder holds a run already, or the recipe does not fit the data.
        InputError: data that is missing, of another scale or too small.
        CheckpointError: starting weights that do not exist or fit.
    """
    if saved_iterations(folder):
        raise ConfigError(
            f"{folder} holds a run already", call("train", resume=str(folder)), say("choose another folder")
        )
    shards = [Shards(path) for path in data]
    if len({each.fingerprint for each in shards}) < len(shards):
        raise InputError(f"the same prepared data is named twice: {', '.join(str(path) for path in data)}")
    source = PatchSource(shards, seed=recipe.seed)
    if source.scale != recipe.model.scale:
        raise InputError(
            f"the data was prepared for x{source.scale}, the recipe trains x{recipe.model.scale}; prepare it "
            "again",
            call("data prepare", photos="PHOTOS", output="DIR", scale=recipe.model.scale),
        )
    largest = max(phase.patch for phase in recipe.phases) // recipe.model.scale
    if largest > source.smallest_side():
        raise InputError(
            f"the recipe's LR patch of {largest} pixels does not fit into the smallest image "
            f"({source.smallest_side()})",
            call("data prepare", photos="PHOTOS", output="DIR", min_side=largest * recipe.model.scale),
            say("choose a smaller phases.patch"),
        )
    named = tuple(str(text) for text in sets)
    for text in named:
        load_eval_set(text, recipe.model.scale)
    weights = starting_weights(start, recipe) if start else None
    if recipe.memory_format is MemoryFormat.AUTO:
        recipe = replace(recipe, memory_format=faster_memory_format(recipe, source, device))
    run = RunFile(
        recipe=recipe,
        data=tuple(str(path.resolve()) for path in data),
        fingerprint=combined_fingerprint(shards),
        sets=named,
        start=_absolute(start) if start else None,
        start_sha256=weights.sha256 if weights else None,
        versions=_versions(),
    )
    write_run_file(folder, run)
    return run


def starting_weights(start: str, recipe: Recipe) -> Checkpoint:
    """Return the weights called ``RUN@ITERATION`` (also ``RUN@100k``), or those of a weights file.

    From a run's state, the plain (not averaged) weights are taken, as the published warm start does.

    Raises:
        CheckpointError: no such state or file, or another network than the recipe's.
    """
    named = parse_state(start)
    if named is not None:
        path = kept_state(*named, named=start)
        state, run = load_state(path), read_run_file(named[0])
        found = Checkpoint(spec=run.recipe.model, weights=state["model"], sha256=file_sha256(path))
    else:
        found = load_checkpoint(Path(start))
    if found.spec != recipe.model:
        wanted, came = recipe.model.to_dict(), found.spec.to_dict()
        different = ", ".join(f"{k} {came[k]} instead of {wanted[k]}" for k in wanted if came[k] != wanted[k])
        raise CheckpointError(f"{start}: another network than the recipe's: {different}")
    return found


def execute(
    folder: Path,
    run: RunFile,
    world: DistributedContext,
    *,
    compiled: bool = False,
    report: Callable[[TrainingProgress], None] = lambda _: None,
    warn: Callable[[str], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train ``run`` to its end, from its newest whole state if it has one.

    Raises:
        ConfigError: the data is not what the run began with.
        HasnEdgeError: see :func:`hasn_edge.train.loop.train`.
    """
    keep_freed_memory()
    recipe = run.recipe
    shards = [Shards(Path(path)) for path in run.data]
    if combined_fingerprint(shards) != run.fingerprint:
        raise ConfigError(
            f"{folder}: the prepared data changed since the run began ({', '.join(run.data)}); prepare it "
            "again from the same images, or begin a new run"
        )
    source = PatchSource(shards, seed=recipe.seed)
    state = load_newest(folder, warn=warn)
    if state is None and run.branched_at is not None:
        raise ConfigError(f"{folder}: the state that it was branched with is gone; branch it again")
    weights = starting_weights(run.start, recipe) if run.start and state is None else None
    if weights is not None and weights.sha256 != run.start_sha256:
        raise CheckpointError(
            f"{run.start}: these are not the weights that the run was begun with; begin a new run"
        )
    trainer = Trainer(recipe, source, world, start=weights, compiled=compiled)
    if state is not None:
        trainer.restore(state)
    provenance = {
        "recipe": recipe.name,
        "settings": msgspec.to_builtins(recipe),
        "data": {"fingerprint": run.fingerprint, "images": sum(len(each) for each in shards)},
        "start": run.start_sha256,
        "branched_at": run.branched_at,
        "versions": dict(run.versions),
    }
    sets = [load_eval_set(text, recipe.model.scale) for text in run.sets]
    train(trainer, source, folder, sets=sets, provenance=provenance, report=report, stop=stop)


def resumed(folder: Path, *, iterations: int | None = None) -> RunFile:
    """Return the run in ``folder``, replanned to end at ``iterations`` where that is given.

    A ``wsd`` run may be replanned as long as it has not begun to decay and would not have to have begun: what
    is done is then what the new plan would have done too.

    Raises:
        ConfigError: no run there, the new end has passed already, or a decay is in the way.
    """
    run = read_run_file(folder)
    if iterations is None or iterations == run.recipe.iterations:
        return run
    done = saved_iterations(folder)
    if done and iterations < done[0]:
        raise ConfigError(f"{folder} has done {done[0]} iterations already; it cannot end at {iterations}")
    if run.recipe.optimizer.schedule is Schedule.WSD:
        recipe = replanned(run.recipe, iterations, done[0] if done else 0, folder=folder)
    else:
        recipe = replace(run.recipe, iterations=iterations)
    run = replace(run, recipe=recipe)
    write_run_file(folder, run)
    return run


def _absolute(start: str) -> str:
    """Return what :func:`starting_weights` takes, independent of the current folder."""
    head, _, tail = start.rpartition("@")
    return f"{Path(head).resolve()}@{tail}" if parse_state(start) else str(Path(start).resolve())


def _versions() -> dict[str, str]:
    names = ("hasn-edge", "torch", "numpy")
    found = {name: installed_version(name) or "unknown" for name in names}
    return {**found, "python": platform.python_version(), "machine": platform.machine()}
