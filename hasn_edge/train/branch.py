"""Decays that leave the run they come from as it is, and new ends for a run whose past must not change.

A ``wsd`` run has no end while its rate is constant: any of its states is the beginning of a decay, which
takes a tenth of the steps and gives weights to publish, and the run itself goes on from its own state.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hasn_edge.errors import CheckpointError, ConfigError, call
from hasn_edge.train.recipe import Phase, Recipe, Schedule
from hasn_edge.train.run import RunFile, kept_state, parse_state, read_run_file, write_run_file
from hasn_edge.train.state import load_state, save_state, saved_iterations, state_path


def branch(start: str, folder: Path, *, iterations: int | None = None) -> RunFile:
    """Begin a run in ``folder`` with the full state of another one: weights, optimizer, average and batches.

    Args:
        start: ``RUN``, which means the newest state of its constant part, or ``RUN@N``. ``RUN`` is only read,
            and may be training.
        folder: Where the new run will live; must not hold a run.
        iterations: Where it ends, counted from the very beginning. By default it decays at once, over the
            part of all its steps that the recipe's ``optimizer.decay`` says; an earlier end makes the decay
            shorter, a later one lets the constant part go on first.

    Raises:
        ConfigError: ``RUN`` is no run, has another schedule than ``wsd`` or is decaying by then; ``folder``
            holds a run; or the end has passed.
        CheckpointError: no such state, or a damaged one.
    """
    run_folder, iteration = parse_state(start) or (Path(start), None)
    run = read_run_file(run_folder)
    recipe = run.recipe
    if recipe.optimizer.schedule is not Schedule.WSD:
        raise ConfigError(
            f"{run_folder}: its schedule is {recipe.optimizer.schedule.value!r}, whose rate has no constant "
            'part to branch from; that needs optimizer.schedule = "wsd"'
        )
    if saved_iterations(folder) or folder.resolve() == run_folder.resolve():
        raise ConfigError(f"{folder} holds a run already; give a new folder with -o")
    begin = recipe.optimizer.decay_begin(recipe.iterations)
    if parse_state(start) is None:
        iteration = next((n for n in saved_iterations(run_folder) if n <= begin), None)
        if iteration is None:
            raise CheckpointError(f"{run_folder}: it has no state of its constant part yet")
    state = load_state(kept_state(run_folder, iteration, named=start))
    assert iteration is not None
    end = iterations or _end_of_decay(recipe, iteration)
    if end <= iteration:
        raise ConfigError(f"{start}: {iteration} iterations are done; it cannot end at {end}")
    if iteration > begin:
        raise _decayed(run_folder, begin, iteration)
    plan = _with_end(recipe, end)
    if plan.optimizer.decay_begin(end) < iteration:
        plan = replace(plan, optimizer=replace(plan.optimizer, decay=(end - iteration) / end))
    new = replace(run, recipe=plan, branched_at=iteration)
    write_run_file(folder, new)
    save_state(state_path(folder, iteration), state)
    return new


def replanned(recipe: Recipe, iterations: int, done: int, *, folder: Path) -> Recipe:
    """Return a ``wsd`` recipe with another end and the same past.

    Args:
        recipe: As it was planned.
        iterations: The new end.
        done: Iterations that are done.
        folder: The run's, for messages.

    Raises:
        ConfigError: the rate decays already, or would have had to.
    """
    begin, new = (recipe.optimizer.decay_begin(n) for n in (recipe.iterations, iterations))
    if done > begin:
        raise _decayed(folder, begin, done)
    if done > new:
        raise ConfigError(
            f"{folder}: to end at {iterations} its rate would have had to decay from iteration {new} on, and "
            f"{done} are done at the constant one; for a decay now",
            call("train", branch=str(folder), output="DIR"),
        )
    return _with_end(recipe, iterations)


def _decayed(folder: Path, begin: int, iteration: int) -> ConfigError:
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


def _with_end(recipe: Recipe, iterations: int) -> Recipe:
    """Return ``recipe`` with another end, its phases changing at the iterations at which they did."""
    phases: list[Phase] = []
    for phase in recipe.phases:
        end = round(phase.until * recipe.iterations)
        if phase is recipe.phases[-1] or end >= iterations:
            phases.append(replace(phase, until=1.0))
            break
        phases.append(replace(phase, until=end / iterations))
    return replace(recipe, iterations=iterations, phases=tuple(phases))
