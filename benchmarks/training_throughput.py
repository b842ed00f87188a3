"""Training throughput: our loop against a plain loop that decodes PNG crops in worker processes, in one run.

    python benchmarks/training_throughput.py --data data/train --recipe hasn-x4-small

Both train the same network on batches of the same size, in rounds, in this process, with the same number of
threads. The plain loop is what most training code does: crops of 480 x 480 stored as PNG, two workers that
decode a pair for every patch, NCHW tensors, Adam, L1; it keeps no average of the weights. Ours does.
Printed: iterations a second by round and their medians, loader patches a second beside the network's, and the
resident memory over ``--memory`` iterations.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from hasn_edge.data.patches import PatchSource, Prefetcher
from hasn_edge.data.shards import Shards
from hasn_edge.model.hasn import HASN
from hasn_edge.train.distributed import DistributedContext
from hasn_edge.train.recipe import load_recipe
from hasn_edge.train.speed import keep_freed_memory, loader_rate
from hasn_edge.train.trainer import Trainer

CROP = 480


class PngCrops(Dataset):
    """Decodes a pair of PNG files for every patch."""

    def __init__(self, folder, scale, patch, length):
        self.pairs = sorted(folder.glob("*_hr.png"))
        self.scale, self.patch, self.length = scale, patch, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        random = np.random.default_rng(index)
        path = self.pairs[random.integers(len(self.pairs))]
        hr = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        lr = cv2.cvtColor(cv2.imread(str(path).replace("_hr", "_lr")), cv2.COLOR_BGR2RGB)
        small = self.patch // self.scale
        y, x = random.integers(lr.shape[0] - small + 1), random.integers(lr.shape[1] - small + 1)
        lr = lr[y : y + small, x : x + small]
        y, x = y * self.scale, x * self.scale
        hr = hr[y : y + self.patch, x : x + self.patch]
        if random.random() < 0.5:
            lr, hr = lr[:, ::-1], hr[:, ::-1]
        if random.random() < 0.5:
            lr, hr = lr.transpose(1, 0, 2), hr.transpose(1, 0, 2)
        return tuple(torch.from_numpy(a.transpose(2, 0, 1).astype(np.float32) / 255) for a in (lr, hr))


def write_crops(shards, folder, count):
    """Cut ``count`` pairs of PNG crops from the prepared images."""
    small = CROP // shards.scale
    random = np.random.default_rng(0)
    usable = [i for i, e in enumerate(shards.entries) if min(e.height, e.width) >= small]
    for number in range(count):
        index = usable[random.integers(len(usable))]
        entry = shards.entries[index]
        y, x = random.integers(entry.height - small + 1), random.integers(entry.width - small + 1)
        lr = shards.lr(index)[y : y + small, x : x + small]
        y, x = y * shards.scale, x * shards.scale
        hr = shards.hr(index)[y : y + CROP, x : x + CROP]
        for kind, pixels in (("hr", hr), ("lr", lr)):
            cv2.imwrite(str(folder / f"{number:04d}_{kind}.png"), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))


def resident_mb():
    """Resident memory of this process without the file pages that the shards map."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def plain_steps(model, optimizer, batches, count):
    """Take ``count`` steps as everybody writes them."""
    for _ in range(count):
        x, y = next(batches)
        loss = F.l1_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()


def main():
    """Run both loops in rounds and print what they reached."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", default="hasn-x4-small")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10, help="iterations a round")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", type=int, default=2000, help="iterations of the memory measurement")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plan = load_recipe(arguments.recipe)
    phase, scale = plan.phase(0), plan.model.scale
    shards = Shards(arguments.data)
    source = PatchSource([shards], seed=plan.seed)
    keep_freed_memory()

    torch.manual_seed(0)
    plain = HASN(plan.model)
    optimizer = torch.optim.Adam(plain.parameters(), lr=2e-4)
    world = DistributedContext(rank=0, size=1, device=torch.device("cpu"))
    ours = Trainer(plan, source, world)
    total = (arguments.rounds + 1) * arguments.steps
    rates = {"plain": [], "ours": []}
    with tempfile.TemporaryDirectory() as name:
        write_crops(shards, Path(name), 200)
        dataset = PngCrops(Path(name), scale, phase.patch, total * phase.batch_size)
        loader = iter(DataLoader(dataset, phase.batch_size, num_workers=arguments.workers))
        patch = phase.patch // scale
        prefetcher = Prefetcher(source.batch(n, phase.batch_size, patch) for n in range(10**9))
        batches = iter(prefetcher)
        for number in range(arguments.rounds + 1):
            for kind in ("plain", "ours") if number % 2 else ("ours", "plain"):
                start = time.perf_counter()
                if kind == "plain":
                    plain_steps(plain, optimizer, loader, arguments.steps)
                else:
                    for _ in range(arguments.steps):
                        ours.step([next(batches)]).item()
                if number:  # the first one warms up
                    rates[kind].append(arguments.steps / (time.perf_counter() - start))
        del loader
    for kind, values in rates.items():
        rounds = ", ".join(f"{v:.2f}" for v in values)
        print(f"{kind:5} {statistics.median(values):.2f} it/s (median of rounds {rounds})")
    ratios = [a / b for a, b in zip(rates["ours"], rates["plain"], strict=True)]
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"ours / plain by round: median {middle:.2f}, {low:.2f} to {high:.2f}")
    fed = loader_rate(plan, source)
    consumed = max(rates["ours"]) * phase.batch_size
    print(f"loader {fed:.0f} patches/s, network at most {consumed:.0f}: {fed / consumed:.0f} times")
    marks = {}
    for number in range(arguments.memory):
        ours.step([next(batches)]).item()
        if number + 1 in (arguments.memory // 10, arguments.memory // 2, arguments.memory):
            marks[number + 1] = resident_mb()
    prefetcher.close()
    if marks:
        shown = ", ".join(f"{mb:.1f} MB after {n}" for n, mb in marks.items())
        print(f"anonymous memory: {shown} iterations")
    print(f"recipe {plan.name}, batch {phase.batch_size}, patch {phase.patch}, "
          f"threads {torch.get_num_threads()}, "
          f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")  # fmt: skip


if __name__ == "__main__":
    main()
