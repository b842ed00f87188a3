"""How early the body of the network learns, by its starting weights: short runs, one after the other.

    python benchmarks/training_init.py --data data/train --val Set5=datasets/Set5 --iterations 400

Every run sees the same batches and the same learning rates. Printed: the image-dependent signal after each
block at the start (root mean square around the channel means, relative to the stem's), and PSNR-Y of the
averaged weights.
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
from hasn_edge.train.memory import keep_freed_memory
from hasn_edge.train.recipe import InitConfig, InitKind, load_recipe
from hasn_edge.train.trainer import Trainer
from hasn_edge.train.validate import validate
from hasn_edge.train.world import World

VARIANTS = {
    "default": (InitKind.DEFAULT, False),
    "variance": (InitKind.VARIANCE, False),
    "delta": (InitKind.DELTA, False),
    "default+residual": (InitKind.DEFAULT, True),
    "delta+residual": (InitKind.DELTA, True),
}


def signals(model, x):
    """Signal after each block relative to the stem's."""
    seen = {}
    names = ["conv_1", *(f"block_{i + 1}" for i in range(model.spec.blocks))]
    handles = [
        model.get_submodule(n).register_forward_hook(lambda _m, _i, y, n=n: seen.__setitem__(n, y))
        for n in names
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    rms = [float((seen[n] - seen[n].mean((0, 2, 3), keepdim=True)).square().mean().sqrt()) for n in names]
    return [value / rms[0] for value in rms[1:]]


def main():
    """Run the variants and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--val", help="NAME=DIR")
    parser.add_argument(
        "--weights", nargs="+", type=Path, help="only print the signal after each block of these checkpoints"
    )
    parser.add_argument("--recipe", default="hasn-x4-small")
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    plan = load_recipe(arguments.recipe)
    plan = replace(plan, iterations=arguments.iterations, phases=(replace(plan.phases[0], until=1.0),))
    source = PatchSource([Shards(arguments.data)], seed=plan.seed)
    if arguments.weights:
        patches = (
            torch.from_numpy(source.batch(0, 16, plan.phase(0).patch // plan.model.scale).lr).float() / 255
        )
        for path in arguments.weights:
            shown = ", ".join(f"{value:.3g}" for value in signals(load_checkpoint(path).model(), patches))
            print(f"| {path.stem} | {shown} |")
        return
    if arguments.val is None:
        parser.error("--val is needed to score")
    sets = [load_eval_set(arguments.val, plan.model.scale)]
    world = World(rank=0, size=1, device=torch.device("cpu"))
    points = range(arguments.every, arguments.iterations + 1, arguments.every)
    print(
        "| start | signal after each block / stem | "
        + " | ".join(map(str, points))
        + " | CPU s an iteration |"
    )
    print("|---|---|" + "---|" * (len(points) + 1))
    for name in arguments.variants:
        kind, residual = VARIANTS[name]
        init = InitConfig(kind=kind, gate_bias=plan.init.gate_bias)
        trainer = Trainer(
            replace(plan, init=init, model=replace(plan.model, residual=residual)), source, world
        )
        phase = plan.phase(0)
        first = torch.from_numpy(source.batch(0, 16, phase.patch // plan.model.scale).lr).float() / 255
        shown = ", ".join(f"{value:.3g}" for value in signals(trainer.model, first))
        scores, cpu = [], 0.0
        for number in range(arguments.iterations):
            batch = source.batch(number, phase.batch_size, phase.patch // plan.model.scale)
            start = time.process_time()
            trainer.step([batch])
            cpu += time.process_time() - start
            if (number + 1) % arguments.every == 0:
                scores.append(f"{next(iter(validate(trainer.averaged, sets, world.device).values()))[0]:.2f}")
        print(
            f"| {name} | {shown} | " + " | ".join(scores) + f" | {cpu / arguments.iterations:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
