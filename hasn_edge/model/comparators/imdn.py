"""IMDN (Hui et al.: Lightweight Image Super-Resolution with Information Multi-distillation Network, 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hasn_edge.model.comparators.comparator import JoinedBlocks, Publication


class ContrastAttention(nn.Module):
    """Scales channels by what deviation and mean over the frame give."""

    def __init__(self, width: int, reduction: int = 16) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, width // reduction, 1)
        self.expand = nn.Conv2d(width // reduction, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` scaled."""
        contrast = x.std((2, 3), unbiased=False, keepdim=True) + x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.expand(F.relu(self.squeeze(contrast))))


class Distillation(nn.Module):
    """Keeps a quarter of the channels after each convolution, and fuses what was kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kept = width // 4
        rest = width - self.kept
        self.steps = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1)
            for before, after in ((width, width), (rest, width), (rest, width), (rest, self.kept))
        )
        self.attention = ContrastAttention(width)
        self.fuse = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        kept, rest = [], x
        for step in self.steps[:3]:
            y = F.leaky_relu(step(rest), 0.05)
            kept.append(y[:, : self.kept])
            rest = y[:, self.kept :]
        kept.append(self.steps[3](rest))
        fused: Tensor = self.fuse(self.attention(torch.cat(kept, 1)))
        return fused + x


class IMDN(JoinedBlocks):
    """Six distillation blocks of 64 channels, all of them joined by a 1x1 convolution."""

    published = Publication(paper="IMDN, ACM MM 2019", set5_db=32.21)

    def __init__(self, width: int = 64, blocks: int = 6) -> None:
        super().__init__(Distillation, width, blocks)


make = IMDN
