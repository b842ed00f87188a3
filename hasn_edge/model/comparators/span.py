"""SPAN (Wan et al.: Swift Parameter-free Attention Network, CVPR Workshops 2024), its convolutions merged."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hasn_edge.model.comparators.comparator import Comparator, Publication


class ParameterFreeAttention(nn.Module):
    """Three convolutions; their result, shifted by a half after a sigmoid, scales the sum with the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block's output, and the result of its first convolution."""
        first = self.steps[0](x)
        y = self.steps[2](F.silu(self.steps[1](F.silu(first))))
        return (y + x) * (torch.sigmoid(y) - 0.5), first


class SPAN(Comparator):
    """Six blocks of 28 channels: the winner of the NTIRE 2024 challenge on efficient super-resolution."""

    published = Publication(paper="SPAN (NTIRE 2024), CVPR Workshops 2024", set5_db=None)

    def __init__(self, width: int = 28, blocks: int = 6) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(ParameterFreeAttention(width) for _ in range(blocks))
        self.tail = nn.Conv2d(width, width, 3, padding=1)
        self.join = nn.Conv2d(4 * width, width, 1)
        self.upsampler = nn.Conv2d(width, 48, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, 3, 4H, 4W)``."""
        head = y = self.head(x)
        for index, block in enumerate(self.blocks):
            y, inner = block(y)
            if index == 0:
                first = y
        y = self.join(torch.cat([head, self.tail(y), first, inner], 1))
        return F.pixel_shuffle(self.upsampler(y), 4)


make = SPAN
