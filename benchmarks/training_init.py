"""How early the body of the network learns, by starting weights or recipe: short runs, one after the other.

    python benchmarks/training_init.py --data data/train --val Set5=datasets/Set5 --iterations 400
    python benchmarks/training_init.py --data data/train --val V=held Set5=datasets/Set5 --recipe hasn-x4 \\
        --change "lr 3e-3:optimizer.lr=3e-3" "small:phases=[{patch=96,batch_size=4}]" --set autocast=bf16

Without ``--change`` every run sees the same batches and the same learning rates; with it each recipe has its
whole schedule over the same number of LR pixels, which is the same time where all networks cost the same.
Printed: the image-dependent signal after each block at the start (root mean square around the channel means,
relative to the stem's), and PSNR-Y of the averaged weights, at the start and later.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from hasn_edge.data.pairs import load_eval_set
from hasn_edge.data.patches import PatchSource
from hasn_edge.data.shards import Shards
from hasn_edge.model.checkpoint import load_checkpoint
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.init import size
from hasn_edge.train.recipe import InitConfig, InitKind, load_recipe
from hasn_edge.train.recorder import validate
from hasn_edge.train.silence import added, describe, silent_units
from hasn_edge.train.speed import keep_freed_memory
from hasn_edge.train.trainer import Trainer

VARIANTS = {
    "default": (InitKind.DEFAULT, False),
    "variance": (InitKind.VARIANCE, False),
    "delta": (InitKind.DELTA, False),
    "default+residual": (InitKind.DEFAULT, True),
    "delta+residual": (InitKind.DELTA, True),
}


def signals(model, x):
    """Signal after each block relative to the stem's, and what each block adds relative to its input."""
    with torch.no_grad():
        y = model.conv_1(x)
        stem, after, adds = size(y), [], []
        for block in model.blocks:
            adds.append(added(block, y))
            y = block(y)
            after.append(size(y) / stem)
    return after, adds


def named_starts(arguments, plan):
    """The paper's network and the residual one at different starting weights, all else equal."""
    plan = replace(plan, iterations=arguments.iterations, phases=(replace(plan.phases[0], until=1.0),))
    for name in arguments.variants:
        kind, residual = VARIANTS[name]
        init = InitConfig(kind=kind, gate_bias=plan.init.gate_bias)
        yield name, replace(plan, init=init, model=replace(plan.model, residual=residual))


def changed_recipes(arguments):
    """The recipe with changes, each with its own whole schedule and as many LR pixels as the others."""
    for text in arguments.change:
        name, _, changes = text.partition(":")
        plan = load_recipe(arguments.recipe, [*arguments.set, *changes.split()])
        pixels = sum(
            (phase.until - before) * phase.batch_size * (phase.patch // plan.model.scale) ** 2
            for phase, before in zip(plan.phases, (0.0, *(p.until for p in plan.phases)), strict=False)
        )
        yield name, replace(plan, iterations=round(arguments.megapixels * 1e6 / pixels))


def score(trainer, sets):
    """PSNR-Y of the average on each set, as table cells."""
    found = validate(trainer.averaged, sets, torch.device("cpu"))
    return " / ".join(f"{psnr:.3f}" for psnr, _ in found.values())


def row(name, plan, source, sets, points):
    """Train ``plan`` and return its row of the table."""
    trainer = Trainer(plan, source, DistributedContext(rank=0, size=1, device=torch.device("cpu")))
    after, _ = signals(trainer.model, trainer.watched)
    cells = [name, ", ".join(f"{value:.3g}" for value in after), score(trainer, sets)]
    cpu = 0.0
    for number in range(plan.iterations):
        phase = plan.phase(number)
        batch = source.batch(number, phase.batch_size, phase.patch // plan.model.scale)
        start = time.process_time()
        trainer.step([batch])
        cpu += time.process_time() - start
        if number + 1 in points(plan.iterations):
            cells.append(score(trainer, sets))
    return [*cells, str(plan.iterations), f"{cpu / plan.iterations:.3f}"]


def main():
    """Run the variants and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--val", nargs="+", default=[], help="NAME=DIR")
    parser.add_argument(
        "--weights",
        nargs="+",
        type=Path,
        help="only print of these checkpoints: the signal after each block, what each adds, what is silent",
    )
    parser.add_argument("--recipe", default="hasn-x4-small")
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument(
        "--change", nargs="+", default=[], help="'NAME:KEY=VALUE KEY=VALUE': compare these recipes instead"
    )
    parser.add_argument("--set", nargs="+", default=[], help="KEY=VALUE for all recipes of --change")
    parser.add_argument(
        "--megapixels", type=float, default=5.53, help="LR pixels that each of them trains on"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    plan = load_recipe(arguments.recipe)
    source = PatchSource([Shards(arguments.data)], seed=plan.seed)
    if arguments.weights:
        patches = (
            torch.from_numpy(source.batch(0, 16, plan.phase(0).patch // plan.model.scale).lr).float() / 255
        )
        for path in arguments.weights:
            model = load_checkpoint(path).model()
            shown = (", ".join(f"{value:.3g}" for value in values) for values in signals(model, patches))
            print(f"| {path.stem} | {' | '.join(shown)} | {describe(silent_units(model, patches))} |")
        return
    if not arguments.val:
        parser.error("--val is needed to score")
    sets = [load_eval_set(text, plan.model.scale) for text in arguments.val]
    runs = list(changed_recipes(arguments) if arguments.change else named_starts(arguments, plan))
    if arguments.change:
        titles, points = ["end"], lambda iterations: (iterations,)
    else:
        every = range(arguments.every, arguments.iterations + 1, arguments.every)
        titles, points = list(map(str, every)), lambda _: every
    head = ["run", "signal after each block / stem", "start", *titles, "iterations", "CPU s an iteration"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name, recipe in runs:
        print("| " + " | ".join(row(name, recipe, source, sets, points)) + " |", flush=True)


if __name__ == "__main__":
    main()
