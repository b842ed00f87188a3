"""RFDN (Liu, Tang, Wu: Residual Feature Distillation Network, ECCV Workshops 2020), as it won AIM 2020."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hasn_edge.model.comparators.comparator import JoinedBlocks, Publication


class SpatialAttention(nn.Module):
    """Enhanced spatial attention with three convolutions between pooling and resizing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = width // 4
        self.reduce = nn.Conv2d(width, inner, 1)
        self.keep = nn.Conv2d(inner, inner, 1)
        self.stride = nn.Conv2d(inner, inner, 3, stride=2)
        self.wide = nn.ModuleList(nn.Conv2d(inner, inner, 3, padding=1) for _ in range(3))
        self.expand = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` scaled; sides of at least 15 pixels."""
        first = self.reduce(x)
        y = F.max_pool2d(self.stride(first), 7, stride=3)
        y = F.relu(self.wide[1](F.relu(self.wide[0](y))))
        y = F.interpolate(self.wide[2](y), size=x.shape[2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.expand(y + self.keep(first)))


class ResidualDistillation(nn.Module):
    """Distils by 1x1 convolutions beside 3x3 convolutions that add their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.distil = nn.ModuleList(nn.Conv2d(width, half, 1) for _ in range(3))
        self.refine = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.last = nn.Conv2d(width, half, 3, padding=1)
        self.fuse = nn.Conv2d(4 * half, width, 1)
        self.attention = SpatialAttention(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        kept = []
        for distil, refine in zip(self.distil, self.refine, strict=True):
            kept.append(F.leaky_relu(distil(x), 0.05))
            x = F.leaky_relu(refine(x) + x, 0.05)
        kept.append(F.leaky_relu(self.last(x), 0.05))
        y: Tensor = self.attention(self.fuse(torch.cat(kept, 1)))
        return y


class RFDN(JoinedBlocks):
    """Four blocks of 50 channels: the winner of AIM 2020 and the baseline of NTIRE 2022."""

    published = Publication(paper="RFDN (AIM 2020), ECCV Workshops 2020", set5_db=None)

    def __init__(self, width: int = 50, blocks: int = 4) -> None:
        super().__init__(ResidualDistillation, width, blocks)


make = RFDN
