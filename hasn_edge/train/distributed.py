"""The processes of one training run: one by default, several under torchrun."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from hasn_edge.errors import ConfigError, UnsupportedError, counted, say, use


@dataclass(frozen=True, kw_only=True)
class DistributedContext:
    """This process among those of the run; by default it is alone."""

    rank: int = 0
    size: int = 1
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process logs, validates and writes."""
        return self.rank == 0

    def part(self, batch_size: int, accumulate: int, index: int) -> slice:
        """Return which patches of the global batch this process takes in accumulation pass ``index``.

        Raises:
            ConfigError: the batch cannot be divided evenly.
        """
        if batch_size % (self.size * accumulate):
            raise ConfigError(
                f"a batch of {batch_size} cannot be shared by "
                f"{counted(self.size, 'process', 'processes')} in {counted(accumulate, 'pass', 'passes')}",
                say("choose a batch_size that is a multiple of both together"),
            )
        each = batch_size // (self.size * accumulate)
        first = (index * self.size + self.rank) * each
        return slice(first, first + each)

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is set in any process: all of them stop together or none does."""
        if self.size == 1:
            return flag
        tensor = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return bool(tensor.item() > 0)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join_processes(device: str = "auto") -> Iterator[DistributedContext]:
    """Join the process group that torchrun describes in the environment, or stand alone.

    Args:
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UnsupportedError: CUDA was asked for and is not there, there is no device of that number, or the name
            is none of these.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", "0")) if size > 1 else None)
    if size == 1:
        yield DistributedContext(device=chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield DistributedContext(rank=rank, size=size, device=chosen)
    finally:
        dist.destroy_process_group()


def _device(name: str, local_rank: int | None) -> torch.device:
    available, cure = torch.cuda.is_available(), use(device="cuda")
    if name == "auto":
        name = "cuda" if available else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UnsupportedError(f"device {name!r}: expected auto, cpu, cuda or cuda:N")
    if name.startswith("cuda") and not available:
        raise UnsupportedError(
            f"device {name!r}: PyTorch {torch.__version__} sees no CUDA device here",
            use(device="cpu"),
            say("install a CUDA build of PyTorch and check nvidia-smi"),
        )
    if name == "cuda" and local_rank is not None:
        name, cure = f"cuda:{local_rank}", say("start no more processes than there are devices")
    device = torch.device(name)
    if device.index is not None and device.index >= (count := torch.cuda.device_count()):
        raise UnsupportedError(f"device {name!r}: PyTorch sees {count} here, numbered from 0", cure)
    return device
