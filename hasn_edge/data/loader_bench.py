"""How many patches a second the loader delivers, beside how many a network consumes."""

from __future__ import annotations

import time
from dataclasses import dataclass

from hasn_edge.data.patches import PatchSource


@dataclass(frozen=True, kw_only=True)
class LoaderRate:
    """Speed of cutting patches out of shards in one thread."""

    patches_per_second: float
    batches: int
    seconds: float


def loader_rate(source: PatchSource, *, batch_size: int, patch: int, seconds: float = 3.0) -> LoaderRate:
    """Cut batches for about ``seconds`` and return the rate.

    Args:
        source: Prepared data.
        batch_size: Patches in a batch.
        patch: Side of the LR patch in pixels.
        seconds: For how long.
    """
    source.batch(0, batch_size, patch)
    start, batches = time.perf_counter(), 0
    while True:
        batches += 1
        source.batch(batches, batch_size, patch)
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return LoaderRate(
                patches_per_second=batches * batch_size / elapsed, batches=batches, seconds=elapsed
            )
