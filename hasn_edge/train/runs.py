"""Begin, branch and resume runs: check what the user named, and write the ``run.json`` that training follows.

A ``wsd`` run has no end while its rate is constant: any of its states is the beginning of a decay, which
takes a tenth of the steps and gives weights to publish, and the run itself goes on from its own state.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from hasn_edge.config import config_from_mapping
from hasn_edge.data.pairs import absolute_source, load_eval_sets
from hasn_edge.data.shards import Shards, combined_fingerprint
from hasn_edge.errors import CheckpointError, ConfigError, InputError, call, counted, say, use
from hasn_edge.files import file_sha256
from hasn_edge.model.checkpoint import Checkpoint
from hasn_edge.model.zoo import bundled_models, load_model_checkpoint
from hasn_edge.optional import installed_version
from hasn_edge.quantize.recipe import load_quant_recipe, recipe_path, shipped_recipes
from hasn_edge.train.recipe import MemoryFormat, Phase, Recipe, Schedule
from hasn_edge.train.run_folder import (
    RunFile,
    find_state,
    load_state,
    parse_state,
    read_run_file,
    save_state,
    saved_iterations,
    state_path,
    trained_here,
    write_run_file,
)
from hasn_edge.train.speed import faster_memory_format

CHANGEABLE = frozenset(
    {
        *("optimizer.schedule", "optimizer.decay", "optimizer.final"),  # what comes after the constant part
        *("name", "about", "validate_every", "checkpoint_every", "keep", "keep_at"),  # what is written
    }
)
"""Keys of a recipe that a branch may change: no weight of its run depends on them."""


def begin_run(
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
        start: Weights to begin with: see :func:`load_start`.
        device: Where the run will be, which decides an ``auto`` memory format; the CPU by default.

    Raises:
        ConfigError: the folder holds a run already, another process trains there, or the recipe does not fit
            the data.
        InputError: data that is missing, of another scale or too small; or two validation sets of one name.
        CheckpointError: starting weights that do not exist or fit.
    """
    require_no_run(folder)
    shards = [Shards(path) for path in data]
    if len({each.fingerprint for each in shards}) < len(shards):
        raise InputError(f"the same prepared data is named twice: {', '.join(str(path) for path in data)}")
    source = recipe.patches(shards)
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
    load_eval_sets(named, recipe.model.scale)
    weights = load_start(start, recipe) if start else None
    if recipe.quantize.recipe and weights is None:
        raise ConfigError(
            f"{recipe.name} rounds a trained network to INT8, so it needs weights to begin with",
            use(start="FILE"),
        )
    if recipe.init.revive and weights is None:
        raise ConfigError(
            f"{recipe.name} has init.revive, which needs weights to begin with", use(start="FILE")
        )
    recipe, quantize_sha256 = _resolve_quantize(recipe)
    if recipe.memory_format is MemoryFormat.AUTO:
        recipe = replace(recipe, memory_format=faster_memory_format(recipe, source, device))
    run = RunFile(
        recipe=recipe,
        data=tuple(str(path.resolve()) for path in data),
        fingerprint=combined_fingerprint(shards),
        sets=tuple(map(absolute_source, named)),
        start=_resolve_start(start) if start else None,
        start_sha256=weights.sha256 if weights else None,
        quantize_sha256=quantize_sha256,
        versions=_versions(),
    )
    # Another process may train there that has saved no state yet: its run file is not to be replaced.
    with trained_here(folder):
        write_run_file(folder, run)
    return run


def require_no_run(folder: Path) -> None:
    """Refuse a folder that a run lives in; for before the work whose result is to lie there.

    Raises:
        ConfigError: it holds a run, or another process trains there.
    """
    if saved_iterations(folder):
        raise ConfigError(
            f"{folder} holds a run already", call("train", resume=str(folder)), say("choose another folder")
        )
    if folder.is_dir():
        with trained_here(folder):
            pass


def load_start(start: str, recipe: Recipe) -> Checkpoint:
    """Return the weights called ``RUN@ITERATION`` (also ``RUN@100k``), of a bundled model, or of a file.

    From a run's state, the plain (not averaged) weights are taken, as the published warm start does. Weights
    of another scale are accepted: their body begins the new network.

    Raises:
        CheckpointError: no such state or file, or another network than the recipe's.
    """
    named = parse_state(start)
    if named is not None:
        path = find_state(*named, named=start)
        state, run = load_state(path), read_run_file(named[0])
        if run.recipe.quantize.recipe:
            raise CheckpointError(
                f"{start}: the state of a network that rounds to INT8, and not weights to begin with",
                use(start=str(named[0] / "best.safetensors")),
            )
        found = Checkpoint(spec=run.recipe.model, weights=state["model"], sha256=file_sha256(path))
    else:
        found = load_model_checkpoint(start)
    if replace(found.spec, scale=recipe.model.scale) != recipe.model:
        wanted, came = recipe.model.to_dict(), found.spec.to_dict()
        different = ", ".join(f"{k} {came[k]} instead of {wanted[k]}" for k in wanted if came[k] != wanted[k])
        raise CheckpointError(f"{start}: another network than the recipe's: {different}")
    return found


def branch_run(
    start: str,
    folder: Path,
    *,
    iterations: int | None = None,
    overrides: Iterable[str] = (),
    label: str = "override",
) -> RunFile:
    """Begin a run in ``folder`` with the full state of another one: weights, optimizer, average and batches.

    A branch is the run that was planned to end there: what may be changed is :data:`CHANGEABLE`, on which no
    step that is done depends.

    Args:
        start: ``RUN``, which means the newest state of its constant part, or ``RUN@N``. ``RUN`` is only read,
            and may be training.
        folder: Where the new run will live; must not hold a run.
        iterations: Where it ends, counted from the very beginning. By default it decays at once, over the
            part of all its steps that is ``optimizer.decay``; an earlier end makes the decay shorter (unless
            ``overrides`` state its part), a later one lets the constant part go on first.
        overrides: ``"key=value"`` settings that win over the run's own.
        label: What messages call an override.

    Raises:
        ConfigError: ``RUN`` is no run, is decaying by then, or had other rates until then than a ``wsd`` has;
            ``folder`` holds a run; the end has passed; or ``overrides`` change what the steps that are done
            depend on, or state a decay that would have begun before.
        CheckpointError: no such state, or a damaged one.
    """
    run_folder, iteration = parse_state(start) or (Path(start), None)
    run = read_run_file(run_folder)
    old = run.recipe
    if saved_iterations(folder) or folder.resolve() == run_folder.resolve():
        raise ConfigError(f"{folder} holds a run already", say("give a new folder"))
    begin = old.optimizer.decay_begin(old.iterations)
    if parse_state(start) is None:
        iteration = next((n for n in saved_iterations(run_folder) if n <= begin), None)
        if iteration is None:
            raise CheckpointError(f"{run_folder}: it has no state of its constant part yet")
    state = load_state(find_state(run_folder, iteration, named=start))
    assert iteration is not None
    recipe = _change(run_folder, iteration, old, tuple(overrides), label)
    end = iterations or _end_of_decay(recipe, iteration)
    if end <= iteration:
        raise ConfigError(
            f"{start}: it has done {counted(iteration, 'iteration')} already; it cannot end at {end}"
        )
    if iteration > begin:
        raise _decay_error(run_folder, begin, iteration)
    planned = run.planned or old
    plan = _move_end(recipe, end, planned)
    if (late := plan.optimizer.decay_begin(end)) < iteration:
        if recipe.optimizer.decay != old.optimizer.decay:
            raise ConfigError(
                f"{start}: it has done {counted(iteration, 'iteration')}, and a decay over "
                f"{recipe.optimizer.decay:g} of {end} would have begun after {late}; state its end or "
                f"optimizer.decay, not both, or an end from {_end_of_decay(recipe, iteration)} on"
            )
        plan = replace(plan, optimizer=replace(plan.optimizer, decay=(end - iteration) / end))
    new = replace(run, recipe=plan, planned=planned, branched_at=iteration)
    with trained_here(folder):
        write_run_file(folder, new)
        save_state(state_path(folder, iteration), state)
    return new


def _change(folder: Path, iteration: int, old: Recipe, overrides: tuple[str, ...], label: str) -> Recipe:
    """Return the recipe of a branch: that of the run in ``folder``, with ``overrides``."""
    recipe = config_from_mapping(
        msgspec.to_builtins(old), Recipe, source=str(folder), overrides=overrides, label=label
    )
    changed = sorted(_changed(msgspec.to_builtins(old), msgspec.to_builtins(recipe)))
    if "iterations" in changed:
        raise ConfigError(f"{folder}: the end of a branch is no override", use(iterations=recipe.iterations))
    if refused := [key for key in changed if key not in CHANGEABLE]:
        raise ConfigError(
            f"{folder}: its {iteration} iterations depend on {', '.join(refused)}; a branch may change "
            f"{', '.join(sorted(CHANGEABLE))}; for a run of its own that begins with these weights",
            call("train", recipe="RECIPE", data="DIR", start=f"{folder}@{iteration}", output="DIR"),
        )
    # The last step speaks for all: a rate that has begun to fall does not come back.
    past = iteration - 1
    same = iteration == 0 or old.learning_rate(past) == recipe.optimizer.learning_rate(past, 2 * iteration)
    if recipe.optimizer.schedule is not Schedule.WSD or (
        old.optimizer.schedule is not Schedule.WSD and not same
    ):
        raise ConfigError(
            f"{folder}: its schedule is {old.optimizer.schedule.value!r}, and a branch needs a constant rate "
            'to decay from; that is optimizer.schedule "wsd", which a branch may set for a "constant" one'
        )
    return recipe


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Yield the dotted keys whose values are not the same."""
    for key, value in new.items():
        if isinstance(value, dict):
            yield from _changed(old[key], value, f"{before}{key}.")
        elif value != old[key]:
            yield before + key


def resume_run(folder: Path, *, iterations: int | None = None) -> RunFile:
    """Return the run in ``folder``, replanned to end at ``iterations`` where that is given.

    What is done stays what the plan says: phases keep changing at the iterations at which they did, warm-up
    and milestones stay where they are. A ``wsd`` run may be replanned as long as it has not begun to decay
    and would not have to have begun, a ``cosine`` one only until its rate begins to fall.

    Raises:
        ConfigError: no run there, the new end has passed already, the rates of what is done would have been
            others, or another process trains the run.
    """
    run = read_run_file(folder)
    if iterations is None or iterations == run.recipe.iterations:
        return run
    recipe, done = run.recipe, next(iter(saved_iterations(folder)), 0)
    if iterations < done:
        raise ConfigError(
            f"{folder} has done {counted(done, 'iteration')} already; it cannot end at {iterations}"
        )
    planned = run.planned or recipe
    plan = _move_end(recipe, iterations, planned)
    if recipe.optimizer.schedule is Schedule.WSD:
        begin, new = (each.optimizer.decay_begin(each.iterations) for each in (recipe, plan))
        if done > begin:
            raise _decay_error(folder, begin, done)
        if done > new:
            raise ConfigError(
                f"{folder}: to end at {iterations} its rate would have had to decay from iteration {new} on, "
                f"and {done} are done at the constant one; for a decay now",
                call("train", branch=str(folder), output="DIR"),
            )
    # The last step speaks for all: a schedule that depends on the end departs from another's and stays apart.
    elif done and recipe.learning_rate(done - 1) != plan.learning_rate(done - 1):
        raise ConfigError(
            f"{folder}: it has done {counted(done, 'iteration')} on a {recipe.optimizer.schedule.value} that "
            f"ends at {recipe.iterations}; with its end at {iterations} their rates would have been others, "
            "and the rate would jump",
            call("train", recipe="RECIPE", data="DIR", start=f"{folder}@{done}", output="DIR"),
            say('choose optimizer.schedule "wsd" for runs whose end may move'),
        )
    run = replace(run, recipe=plan, planned=planned)
    with trained_here(folder):
        write_run_file(folder, run)
    return run


def _decay_error(folder: Path, begin: int, iteration: int) -> ConfigError:
    return ConfigError(
        f"{folder}: its rate decays from iteration {begin} on, so its state of iteration {iteration} is no "
        "part of a longer run; go on from before the decay",
        call("train", branch=f"{folder}@{begin}", iterations="END", output="DIR"),
    )


def _end_of_decay(recipe: Recipe, iteration: int) -> int:
    """Return the smallest end whose decay, as long as the recipe has it, begins at ``iteration`` or later."""
    end = max(iteration + 1, round(iteration / (1 - recipe.optimizer.decay)))
    while recipe.optimizer.decay_begin(end) < iteration:
        end += 1
    return end


def _move_end(recipe: Recipe, iterations: int, planned: Recipe) -> Recipe:
    """Return ``recipe`` with another end, and the phases of ``planned`` with their iterations kept."""
    phases: list[Phase] = []
    before = 0
    for phase in planned.phases:
        end = round(phase.until * planned.iterations)
        if phase is planned.phases[-1] or end >= iterations:
            phases.append(replace(phase, until=1.0))
            break
        if end > before:  # a phase may be so short a share that it has no iteration
            phases.append(replace(phase, until=end / iterations))
        before = end
    return replace(recipe, iterations=iterations, phases=tuple(phases))


def _resolve_start(start: str) -> str:
    """Return what :func:`load_start` takes, independent of the current folder."""
    if start in bundled_models():
        return start
    head, _, tail = start.rpartition("@")
    return f"{Path(head).resolve()}@{tail}" if parse_state(start) else str(Path(start).resolve())


def _resolve_quantize(recipe: Recipe) -> tuple[Recipe, str | None]:
    """Return a recipe whose INT8 recipe is independent of the current folder, and that one's hash."""
    name = recipe.quantize.recipe
    if not name:
        return recipe, None
    load_quant_recipe(name)  # which says what is wrong with it
    path = recipe_path(name)
    if name not in shipped_recipes():
        recipe = replace(recipe, quantize=replace(recipe.quantize, recipe=str(path.resolve())))
    return recipe, file_sha256(path)


def _versions() -> dict[str, str]:
    names = ("hasn-edge", "torch", "numpy")
    found = {name: installed_version(name) or "unknown" for name in names}
    return {**found, "python": platform.python_version(), "machine": platform.machine()}
