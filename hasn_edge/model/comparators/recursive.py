"""Networks that run the same weights many times, on a bicubically enlarged image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hasn_edge.model.comparators.comparator import Comparator, Enlarge


class DRCN(Comparator):
    """DRCN (Kim, Lee, Lee, CVPR 2016): one convolution sixteen times, the image rebuilt after each time."""

    channels = 1

    def __init__(self, width: int = 256, recursions: int = 16) -> None:
        super().__init__()
        self.recursions = recursions
        self.enlarge = Enlarge()
        self.embed = nn.ModuleList([nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)])
        self.recur = nn.Conv2d(width, width, 3, padding=1)
        self.rebuild = nn.ModuleList(
            [nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)]
        )
        self.shares = nn.Parameter(torch.full((recursions,), 1 / recursions))

    def forward(self, x: Tensor) -> Tensor:
        """Return luma ``(N, 1, 4H, 4W)`` of luma ``(N, 1, H, W)``, as the others here."""
        large: Tensor = self.enlarge(x)
        y = F.relu(self.embed[1](F.relu(self.embed[0](large))))
        details: list[Tensor] = []
        for share in self.shares / self.shares.sum():
            y = F.relu(self.recur(y))
            details.append(share * self.rebuild[1](F.relu(self.rebuild[0](y))))
        return sum(details, large)


class DRRN(Comparator):
    """DRRN_B1U25 (Tai, Yang, Liu, CVPR 2017): two convolutions, with a skip connection, 25 times.

    Without its batch normalization, which the published counts leave out.
    """

    channels = 1

    def __init__(self, width: int = 128, units: int = 25) -> None:
        super().__init__()
        self.units = units
        self.enlarge = Enlarge()
        self.head = nn.Conv2d(1, width, 3, padding=1)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.tail = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`DRCN.forward`."""
        large: Tensor = self.enlarge(x)
        y = head = self.head(large)
        for _ in range(self.units):
            y = head + self.second(F.relu(self.first(F.relu(y))))
        out: Tensor = large + self.tail(F.relu(y))
        return out


class MemoryBlock(nn.Module):
    """Six passes of one residual unit, and a gate over them and all blocks before."""

    def __init__(self, width: int, passes: int, before: int) -> None:
        super().__init__()
        self.passes = passes
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.gate = nn.Conv2d(width * (passes + before), width, 1)

    def forward(self, x: Tensor, earlier: list[Tensor]) -> Tensor:
        """Return the block's memory; ``earlier`` are those of the blocks before, its input included."""
        kept = []
        for _ in range(self.passes):
            x = x + self.second(F.relu(self.first(F.relu(x))))
            kept.append(x)
        y: Tensor = self.gate(F.relu(torch.cat(kept + earlier, 1)))
        return y


class MemNet(Comparator):
    """MemNet_M6R6 (Tai et al., ICCV 2017): six memory blocks.

    Without its batch normalization, which the published counts leave out, and with the last image alone.
    """

    channels = 1

    def __init__(self, width: int = 64, blocks: int = 6, passes: int = 6) -> None:
        super().__init__()
        self.enlarge = Enlarge()
        self.head = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.ModuleList(MemoryBlock(width, passes, before + 1) for before in range(blocks))
        self.tail = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`DRCN.forward`."""
        large: Tensor = self.enlarge(x)
        y = self.head(F.relu(large))
        memories = [y]
        for block in self.blocks:
            y = block(y, memories)
            memories.append(y)
        out: Tensor = large + self.tail(F.relu(y))
        return out
