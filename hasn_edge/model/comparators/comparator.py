"""What the compared networks share: their published figures, and what they cost by our conventions.

It stands alone because each network is a file that knows only this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hasn_edge.model.complexity import NetworkCounts


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What a paper, or a challenge's report, states of its network."""

    paper: str
    set5_db: float | None
    """PSNR-Y in dB on Set5 at x4, as the paper cites it; not measured here."""


class Comparator(nn.Module):
    """A super-resolution network of another paper, whose output is ``scale`` times as high and wide."""

    published: ClassVar[Publication]
    scale: ClassVar[int] = 4
    channels: ClassVar[int] = 3
    """1 where it computes luma alone."""

    def convolutions(self) -> list[nn.Module]:
        """Return its convolutions, transposed ones included."""
        return [one for one in self.modules() if isinstance(one, nn.Conv2d | nn.ConvTranspose2d)]

    def counts(self, height: int, width: int) -> NetworkCounts:
        """Return its counts for one image: a transposed convolution at the size of its output.

        Of convolutions alone; biases, activations and what pools, sums and resizes are not counted.
        """
        macs, written = 0, 0

        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal macs, written
            assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
            taps = module.kernel_size[0] * module.kernel_size[1]
            macs += output.numel() * module.in_channels // module.groups * taps
            written += output.numel()

        hooks = [one.register_forward_hook(add) for one in self.convolutions()]
        try:
            with torch.no_grad():
                self(torch.zeros(1, self.channels, height, width))
        finally:
            for hook in hooks:
                hook.remove()
        parameters = sum(one.numel() for one in self.parameters())
        return NetworkCounts(parameters=parameters, macs=macs, activations=written)


class JoinedBlocks(Comparator):
    """Blocks one after the other, all of whose outputs a 1x1 convolution joins; x4 by a pixel shuffle."""

    def __init__(self, block: Callable[[int], nn.Module], width: int, blocks: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(block(width) for _ in range(blocks))
        self.join = nn.Conv2d(width * blocks, width, 1)
        self.tail = nn.Conv2d(width, width, 3, padding=1)
        self.upsampler = nn.Conv2d(width, 48, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, 3, 4H, 4W)``."""
        first = y = self.head(x)
        outputs = []
        for block in self.blocks:
            y = block(y)
            outputs.append(y)
        y = self.tail(F.leaky_relu(self.join(torch.cat(outputs, 1)), 0.05)) + first
        return F.pixel_shuffle(self.upsampler(y), 4)
